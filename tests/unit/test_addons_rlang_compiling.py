"""R packages locked from a CRAN-like repository on loopback, and fetched again; what a bad repository or archive is told."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import random
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.addons.archives import archive_path
from imagebuild.addons.model import Addon, AddonLock, AddonRequest, FetchRequest, SourceOf, Wish
from imagebuild.addons.rlang.compiling import compile_r_lock
from imagebuild.addons.rlang.exporting import export_renv
from imagebuild.addons.rlang.fetching import fetch_r
from imagebuild.addons.rlang.licence import read_r_licence
from imagebuild.addons.rlang.sourcepackage import repack_archive
from imagebuild.addons.unpacking import hash_tree
from imagebuild.base.elf import read_elf, read_needed_versions
from imagebuild.base.model import Base, OperatingSystem, RPackage, SystemInventory
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, IntegrityError, LockError, RemoteError
from imagebuild.files import hash_file
from imagebuild.lock.index.routing import PackageIndex
from tests.support.builders import make_base
from tests.support.rpackages import (
    BUILT_ANYWHERE,
    OWN,
    SITE,
    make_binary,
    make_facts,
    make_shared_object,
    make_source,
    pack,
    render_description,
)
from tests.support.servers.cran import FakeCran
from tests.support.tools import ignore
from tests.support.trees import MemoryTree, file, folder

FACTS = make_facts(
    RPackage("Rcpp", "1.0.9", OWN, "4.2.2"), RPackage("base", "4.2.2", OWN, "4.2.2", "base"), RPackage("old", "1.0", SITE, "4.2.2")
)
LIBC = "/lib/x86_64-linux-gnu/libc.so.6"


def make_r_base(**changes: Any) -> Base:
    """A Debian 12 with R, libc, zlib, and R's own library."""
    tree = MemoryTree(
        [file(LIBC), file("/usr/lib/R/lib/libR.so"), file("/etc/ld.so.conf"), folder("/etc/ld.so.conf.d")],
        {"/etc/ld.so.conf": b"/lib/x86_64-linux-gnu\n"},
    )
    plain = make_base()
    inventory = msgspec.structs.replace(
        plain.inventory, r=msgspec.structs.replace(FACTS, **changes), system=SystemInventory(OperatingSystem("debian", "12"))
    )
    return msgspec.structs.replace(plain, inventory=inventory, tree=tree)


class Shop:
    """A repository that is served, a cache, and a base."""

    def __init__(self, cran: FakeCran, index: PackageIndex, cache: Path) -> None:
        self.cran, self.index, self.cache, self.base = cran, index, cache, make_r_base()
        self.said: list[str] = []
        self.orders: list[SourceOrder] = []

    def build(self, order: SourceOrder, folder: Path) -> Path:
        """As R CMD INSTALL --build: dates, order and compression are its own."""
        self.orders.append(order)
        path = folder / f"{order.name}_{order.version}_R_x86_64-pc-linux-gnu.tar.gz"
        path.write_bytes(make_binary(order.name, order.version, objects={"libs/made.so": make_shared_object("libR.so", "libc.so.6")}))
        return path

    def lock(self, *wishes: str, **changes: Any) -> AddonLock:
        values: dict[str, Any] = {
            "team": "rlang",
            "base": self.base,
            "wishes": [Wish(text, "team.toml") for text in wishes],
            "files": (),
            "indexes": (self.index,),
            "cutoff": "2026-10-01T00:00:00Z",
            "explicit_cutoff": False,
            "inputs": {},
            "cache": self.cache,
            "report": self.said.append,
            "build": self.build,
            **changes,
        }
        return compile_r_lock(AddonRequest(**values))

    def fetch(self, lock: AddonLock, name: str, **changes: Any) -> Path:
        values: dict[str, Any] = {"cache": self.cache, "report": ignore, "build": self.build, **changes}
        return fetch_r(FetchRequest(lock, self.base, (self.index,), **values))[name]

    def forget(self) -> None:
        """Nothing is in the cache any more."""
        for path in sorted(self.cache.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()


def serve(tmp_path: Path, root: str = "") -> Iterator[Shop]:
    cran = FakeCran(root)
    with cran.serve() as index:
        yield Shop(cran, index, tmp_path / "cache")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    yield from serve(tmp_path)


@pytest.fixture
def dated(tmp_path: Path) -> Iterator[Shop]:
    """Laid out as Posit Package Manager lays it out, for Debian 12."""
    yield from serve(tmp_path, "cran/__linux__/bookworm/latest/")


def test_a_shared_object_made_here_is_one() -> None:
    elf = read_elf(io.BytesIO(make_shared_object("libc.so.6", "libz.so.1", runpath="$ORIGIN/../lib")))
    assert elf is not None
    assert (elf.machine, elf.needed, elf.folders) == ((64, "EM_X86_64"), ("libc.so.6", "libz.so.1"), ("$ORIGIN/../lib",))


def test_binaries_are_locked_by_hash_with_what_they_need(shop: Shop) -> None:
    data = make_binary("data.table", "1.15.4", Depends="R (>= 3.1.0)", Imports="Rcpp (>= 1.0), R6", published="2024-03-27 13:40:02 UTC")
    shop.cran.add("data.table", "1.15.4", data)
    shop.cran.add("R6", "2.5.1", make_binary("R6", "2.5.1", built=BUILT_ANYWHERE))
    lock = shop.lock("data.table")
    assert [item.name for item in lock.addons] == ["R6", "data.table"]
    found = lock.addons[1]
    assert (found.filename, found.sha256, found.size) == ("data.table_1.15.4.tar.gz", hashlib.sha256(data).hexdigest(), len(data))
    assert (found.folder, found.form, found.index) == (f"{SITE}/data.table", "binary", "cran")
    assert (found.needs, found.via, found.platform) == (("R6",), ("team.toml",), "x86_64-pc-linux-gnu")
    assert (found.licence, found.released, lock.addons[0].platform) == ("GPL-3.0-only", "2024-03-27T13:40:02Z", "")
    assert lock.satisfied == ("Rcpp==1.0.9",)
    assert lock.against == {
        "R": "4.2.2",
        "R platform": "x86_64-pc-linux-gnu",
        "R libraries": f"{SITE}:{OWN}",
        "R package Rcpp": "1.0.9",
    }
    assert {agent for _path, agent in shop.cran.requests} == {"R/4.2.2 R (4.2.2 x86_64-pc-linux-gnu x86_64 linux-gnu)"}


@pytest.mark.parametrize(
    ("text", "expression"),
    [
        ("GPL-2 | GPL-3", "GPL-2.0-only OR GPL-3.0-only"),
        ("MIT + file LICENSE", "MIT"),
        ("MPL-2.0 | file LICENSE", "MPL-2.0"),
        ("GPL (>= 2)", "GPL-2.0-or-later"),
        ("Apache License  (>= 2)", "Apache-2.0"),
        ("file LICENSE", "file LICENSE"),
        ("GPL-2 | Something own", "GPL-2 | Something own"),
        ("", ""),
    ],
)
def test_rs_words_for_licences_are_spdx_expressions(text: str, expression: str) -> None:
    assert read_r_licence(text) == expression


def test_the_lock_has_the_hash_of_the_files(shop: Shop) -> None:
    data = make_binary("ab", "1.0")
    shop.cran.add("ab", "1.0", data)
    (found,) = shop.lock("ab").addons
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        hashes = {item.name.removeprefix("ab/"): hashlib.sha256(archive.extractfile(item).read()).hexdigest() for item in archive}  # type: ignore[union-attr]
    assert found.tree == hash_tree(hashes)


def test_a_binary_with_its_libraries_in_the_base_in_r_or_beside_it_fits(shop: Shop) -> None:
    objects = {
        "libs/zip.so": make_shared_object("libR.so", "libc.so.6", "libown.so", "libhere.so.2", runpath="$ORIGIN/../lib"),
        "lib/libhere.so.2": make_shared_object("libc.so.6"),
        "libs/libown.so": make_shared_object(),
    }
    shop.cran.add("zip", "2.3", make_binary("zip", "2.3", objects=objects))
    assert [item.name for item in shop.lock("zip").addons] == ["zip"]


def test_a_library_that_nobody_has_is_named(shop: Shop) -> None:
    objects = {"libs/xml2.so": make_shared_object("libxml2.so.2", "libc.so.6", "libicuuc.so.72")}
    shop.cran.add("xml2", "1.3", make_binary("xml2", "1.3", objects=objects))
    with pytest.raises(LockError, match=r"xml2 1\.3: libs/xml2\.so needs libxml2\.so\.2, which base scipy lacks") as caught:
        shop.lock("xml2")
    assert caught.value.details == ("libs/xml2.so needs libicuuc.so.72",)
    shop.lock("xml2", system=("libxml2",))
    assert shop.said[-1].startswith("warning: xml2 1.3: libs/xml2.so needs libxml2.so.2")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"built": "R 4.3.1; x86_64-pc-linux-gnu; 2024-05-01 10:00:00 UTC; unix"}, r"is built for R 4\.3, and base scipy has R 4\.2\.2"),
        (
            {"built": "R 4.2.0; aarch64-unknown-linux-gnu; 2024-05-01; unix"},
            "is built for aarch64-unknown-linux-gnu, and R of base",
        ),
        ({"objects": {"libs/fit.so": make_shared_object(machine=183)}}, r"libs/fit\.so is for another machine than base scipy"),
    ],
)
def test_a_binary_for_another_r_or_machine_is_refused_in_one_sentence(shop: Shop, options: dict[str, Any], message: str) -> None:
    shop.cran.add("fit", "1.0", make_binary("fit", "1.0", **options))
    with pytest.raises(LockError, match=rf"fit 1\.0 of package index 'cran'.*{message}"):
        shop.lock("fit")


def test_a_binary_for_a_newer_glibc_is_refused(shop: Shop) -> None:
    """A real shared object of this machine: its symbols' versions decide."""
    core = Path(str(importlib.util.find_spec("msgspec._core").origin))  # type: ignore[union-attr]
    with core.open("rb") as stream:
        versions = [item for item in read_needed_versions(stream) if re.fullmatch(r"GLIBC_2\.[0-9.]+", item)]
    assert versions
    objects = {"libs/fit.so": core.read_bytes()}
    shop.cran.add("fit", "1.0", make_binary("fit", "1.0", objects=objects))
    inventory = shop.base.inventory
    for libc, message in (("glibc 2.1", r"libs/fit\.so needs glibc 2\.[0-9.]+, and base scipy has glibc 2\.1"), ("glibc 2.99", "")):
        interpreter = msgspec.structs.replace(shop.base.interpreter, libc=libc)
        base = msgspec.structs.replace(shop.base, inventory=msgspec.structs.replace(inventory, interpreter=interpreter))
        if message:
            with pytest.raises(LockError, match=message):
                shop.lock("fit", base=base)
        else:
            shop.lock("fit", base=base, system=("libpthread",))  # what else it needs is not of this test


@pytest.mark.slow
def test_source_is_built_with_what_it_needs_and_locked_as_what_came_out(shop: Shop) -> None:
    source = make_source("top", "1.0", Imports="mid", published="2024-03-27 13:40:02 UTC")
    shop.cran.add("top", "1.0", source)
    shop.cran.add("mid", "1.0", make_binary("mid", "1.0", Imports="leaf"))
    shop.cran.add("leaf", "1.0", make_source("leaf", "1.0"))
    lock = shop.lock("top")
    leaf, mid, top = lock.addons
    assert [item.form for item in lock.addons] == ["source", "binary", "source"]
    assert top.source == SourceOf("top_1.0.tar.gz", hashlib.sha256(source).hexdigest(), len(source))
    assert top.sha256 != top.source.sha256
    assert [(order.name, [path.name for path in order.requires]) for order in shop.orders] == [
        ("leaf", []),
        ("top", ["leaf_1.0.tar.gz", "mid_1.0.tar.gz"]),
    ]
    assert (shop.orders[0].epoch, shop.orders[1].epoch) == (315532800, 1711546802)
    assert shop.lock("top") == lock
    assert len(shop.orders) == 2  # built once
    shop.forget()
    assert hashlib.sha256(shop.fetch(lock, "top").read_bytes()).hexdigest() == top.sha256
    assert [order.name for order in shop.orders[2:]] == ["leaf", "top"]
    other = msgspec.structs.replace(lock, addons=(leaf, mid, msgspec.structs.replace(top, sha256="0" * 64)))
    with pytest.raises(IntegrityError, match=r"top: the package built from top_1\.0\.tar\.gz is not the locked one"):
        shop.fetch(other, "top")


def test_an_archive_is_hashed_once_however_many_packages_are_built_with_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.cran.add("leaf", "1.0", make_binary("leaf", "1.0"))
    for name in ("one", "other", "third"):
        shop.cran.add(name, "1.0", make_source(name, "1.0", Imports="leaf"))
    lock = shop.lock("one", "other", "third")
    hashed: Counter[str] = Counter()

    def count(path: Path) -> str:
        hashed[path.name] += 1
        return hash_file(path)

    monkeypatch.setattr("imagebuild.addons.archives.hash_file", count)
    shop.fetch(lock, "one")
    assert hashed == Counter(f"{item.name}_1.0.tar.gz" for item in lock.addons)
    for item in lock.addons[1:]:
        archive_path(shop.cache, item.sha256, item.filename).unlink()
    hashed.clear()
    shop.fetch(lock, "one")  # the three are built again, each from the source that is kept
    assert hashed == Counter(f"{item.name}_1.0.tar.gz" for item in lock.addons)
    asked = [path for path, _agent in shop.cran.requests]
    assert asked.count("src/contrib/PACKAGES.gz") == 1


def test_source_without_a_builder_is_refused(shop: Shop) -> None:
    shop.cran.add("top", "1.0", make_source("top", "1.0"))
    with pytest.raises(BuildError, match=r"top 1\.0 is source only"):
        shop.lock("top", build=None)


def test_a_built_archive_has_the_same_bytes_whatever_dates_and_order_it_had(tmp_path: Path) -> None:
    files = {"ab/DESCRIPTION": render_description("ab", "1.0"), "ab/exec/run": "#!/bin/sh\n", "ab/R/ab": "x"}
    one, other = tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"
    one.write_bytes(pack(files, executable=["ab/exec/run"]))
    other.write_bytes(gzip.compress(gzip.decompress(pack(dict(reversed(files.items())), executable=["ab/exec/run"])), mtime=99))
    assert repack_archive(one, "ab") == repack_archive(other, "ab")
    assert one.read_bytes() != other.read_bytes()


def test_locked_files_are_found_again_wherever_the_repository_put_them(dated: Shop) -> None:
    old = make_binary("ab", "1.0")
    path = dated.cran.add("ab", "1.0", old)
    lock = dated.lock("ab")
    dated.cran.copy("cran/__linux__/bookworm/2026-10-01/")
    dated.cran.add("ab", "1.0", make_binary("ab", "1.0", built="R 4.2.3; x86_64-pc-linux-gnu; 2026-11-01 10:00:00 UTC; unix"))
    dated.forget()
    assert dated.fetch(lock, "ab").read_bytes() == old  # the current one was built anew: the one of the lock's date
    del dated.cran.files["cran/__linux__/bookworm/2026-10-01/src/contrib/ab_1.0.tar.gz"]
    dated.forget()
    with pytest.raises(IntegrityError, match=r"ab: ab_1\.0\.tar\.gz from index 'cran' is not the expected file"):
        dated.fetch(lock, "ab")
    dated.cran.add("ab", "1.0", old, older=True)
    assert dated.fetch(lock, "ab").read_bytes() == old
    dated.forget()
    for place in list(dated.cran.files):
        del dated.cran.files[place]
    assert path not in dated.cran.files
    with pytest.raises(LockError, match=r"ab_1\.0\.tar\.gz is no longer on package index 'cran'"):
        dated.fetch(lock, "ab")
    with pytest.raises(RemoteError, match="--offline"):
        dated.fetch(lock, "ab", offline=True)


@pytest.mark.slow
def test_what_is_locked_and_kept_is_not_fetched_again(shop: Shop) -> None:
    path = shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))
    shop.cran.add("cd", "1.0", make_source("cd", "1.0"))
    lock = shop.lock("ab", "cd")
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0", License="MIT"))  # built anew
    shop.cran.requests.clear()
    assert shop.lock("ab", "cd", existing=lock) == lock
    assert [where for where, _agent in shop.cran.requests] == ["src/contrib/PACKAGES.gz"]
    changed = msgspec.structs.replace(lock, against={**lock.against, "R": "4.2.1"})
    for other in (shop.lock("ab", "cd"), shop.lock("ab", "cd", existing=changed)):  # --upgrade, and a base with another R
        assert other.addons[0].sha256 == hashlib.sha256(shop.cran.files[path]).hexdigest() != lock.addons[0].sha256


def test_an_older_version_comes_from_the_archive_and_says_itself_what_it_needs(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0", Imports="cd"), older=True)
    shop.cran.add("ab", "2.0", make_binary("ab", "2.0"))
    shop.cran.add("cd", "0.1", make_binary("cd", "0.1"))
    lock = shop.lock("ab==1.0")
    assert [f"{item.name} {item.version}" for item in lock.addons] == ["ab 1.0", "cd 0.1"]
    assert [item.version for item in shop.lock("ab", existing=lock).addons] == ["1.0", "0.1"]
    assert [item.version for item in shop.lock("ab").addons] == ["2.0"]


def test_a_date_picks_the_repositorys_snapshot(dated: Shop) -> None:
    dated.cran.add("ab", "1.0", make_binary("ab", "1.0"))
    dated.cran.copy("cran/__linux__/bookworm/2026-06-30/")
    dated.cran.add("ab", "2.0", make_binary("ab", "2.0"))
    dated.cran.files |= {"cran/__linux__/bookworm/2026-06-30/src/contrib/ab_1.0.tar.gz": make_binary("ab", "1.0")}
    assert dated.lock("ab").addons[0].version == "2.0"
    old = dated.lock("ab", cutoff="2026-06-30T12:00:00Z", explicit_cutoff=True)
    assert (old.addons[0].version, old.cutoff) == ("1.0", "2026-06-30T12:00:00Z")
    with pytest.raises(RemoteError, match="has no src/contrib/PACKAGES"):
        dated.lock("ab", cutoff="1999-01-01T00:00:00Z", explicit_cutoff=True)


def test_a_repository_without_dates_says_that_it_cannot_go_back(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))
    with pytest.raises(LockError, match="package index 'cran' has no snapshots by date"):
        shop.lock("ab", explicit_cutoff=True)


def test_binaries_of_another_distribution_are_refused(tmp_path: Path) -> None:
    for shop in serve(tmp_path, "cran/__linux__/jammy/latest/"):
        with pytest.raises(LockError, match=r"has binaries for jammy, and base scipy is bookworm \(debian 12\)"):
            shop.lock("ab")


@pytest.mark.parametrize(
    ("name", "library", "message"),
    [
        ("old", SITE, r"has old 1\.0 in /usr/lib/R/site-library; R looks no earlier"),
        ("base", OWN, "replace names r:base, which is R itself"),
        ("nothing", "", "replace names r:nothing, which base scipy does not have"),
    ],
)
def test_what_cannot_take_the_place_of_the_bases_is_refused(shop: Shop, name: str, library: str, message: str) -> None:
    shop.cran.add(name, "9.0", make_binary(name, "9.0"))
    assert library == (FACTS.package(name).library if FACTS.package(name) else "")  # type: ignore[union-attr]
    with pytest.raises(LockError, match=message):
        shop.lock(name, replace=frozenset({name}))


def test_a_package_in_rs_own_library_is_covered_by_a_newer_one(shop: Shop) -> None:
    shop.cran.add("Rcpp", "1.0.13", make_binary("Rcpp", "1.0.13"))
    lock = shop.lock("Rcpp>=1.0.12", replace=frozenset({"Rcpp"}))
    assert [(item.name, item.folder) for item in lock.addons] == [("Rcpp", f"{SITE}/Rcpp")]


def test_a_base_without_r_is_said_so(shop: Shop) -> None:
    with pytest.raises(ConfigurationError, match="the base 'scipy' has no R"):
        shop.lock("ab", base=make_base())


# --- a repository that breaks or lies -------------------------------------------------------------------------------


def break_md5(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0"), md5="0" * 32)


def break_redirect(shop: Shop) -> None:
    shop.cran.moved[shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))] = "http://127.0.0.2:9/ab_1.0.tar.gz"


def break_page(shop: Shop) -> None:
    shop.cran.moved["src/contrib/PACKAGES.gz"] = "https://elsewhere.example/PACKAGES.gz"


def break_cut(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))
    shop.cran.cut = 99


def break_missing(shop: Shop) -> None:
    del shop.cran.files[shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))]


def break_packages(shop: Shop) -> None:
    shop.cran.packages = gzip.compress(b"Package: ab\nno field\n")


def break_entry(shop: Shop) -> None:
    shop.cran.packages = b"Package: ab\nVersion: one\n"


def break_bomb(shop: Shop) -> None:
    shop.cran.packages = gzip.compress(bytes(129 << 20))


def break_other(shop: Shop) -> None:
    shop.cran.files[shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))] = b""
    shop.cran.listed["ab"] = "Package: ab\nVersion: 1.0\n"
    shop.cran.files["src/contrib/ab_1.0.tar.gz"] = make_binary("ab", "2.0")


def break_paths(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", pack({"ab/DESCRIPTION": render_description("ab", "1.0"), "ab/../../etc/passwd": "x"}))


def break_description(shop: Shop) -> None:
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0"))
    shop.cran.listed["ab"] = "Package: ab\nVersion: 1.0\n"
    shop.cran.files["src/contrib/ab_1.0.tar.gz"] = pack({"ab/NAMESPACE": ""})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "kind", "message"),
    [
        (break_md5, IntegrityError, r"ab_1\.0\.tar\.gz from package index 'cran' does not have the MD5 that its PACKAGES gives"),
        (break_redirect, RemoteError, r"redirects ab_1\.0\.tar\.gz to http://127\.0\.0\.2:9, which is not followed"),
        (break_page, RemoteError, r"redirects PACKAGES\.gz to https://elsewhere\.example, which is not followed"),
        (break_cut, RemoteError, r"cut ab_1\.0\.tar\.gz short"),
        (break_missing, LockError, r"lists ab_1\.0\.tar\.gz and does not have it"),
        (break_packages, RemoteError, "PACKAGES of package index 'cran' cannot be read: line 2 is not a field"),
        (break_entry, RemoteError, "the entry of ab in PACKAGES cannot be read"),
        (break_bomb, RemoteError, "cannot be read: has more than 128 MiB"),
        (break_other, IntegrityError, r"ab_1\.0\.tar\.gz holds ab 2\.0"),
        (break_paths, BuildError, r"climbs with '\.\.'"),
        (break_description, IntegrityError, r"ab_1\.0\.tar\.gz has no DESCRIPTION"),
    ],
)
def test_a_bad_repository_is_one_error(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, damage: Any, kind: type[ImagebuildError], message: str
) -> None:
    monkeypatch.setattr("imagebuild.lock.index.bodies.compute_pause", lambda _attempt, _after: 0)
    damage(shop)
    with pytest.raises(kind, match=message):
        shop.lock("ab")
    assert not list(shop.cache.rglob(".tmp-*"))


def test_an_archive_that_does_not_end_is_given_up(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagebuild.lock.index.bodies._LARGEST", 1000)
    shop.cran.add("ab", "1.0", make_binary("ab", "1.0", objects={"extdata": random.Random(1).randbytes(2000)}))
    with pytest.raises(RemoteError, match=r"sent more than 0 GiB for ab_1\.0\.tar\.gz"):
        shop.lock("ab")
    assert [path for path in shop.cache.rglob("*") if path.is_file()] == []


def test_an_archive_that_is_cut_short_once_is_fetched_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagebuild.lock.index.bodies.compute_pause", lambda _attempt, _after: 0)
    data = make_binary("ab", "1.0")
    shop.cran.add("ab", "1.0", data)
    shop.cran.cut = 1
    assert shop.lock("ab").addons[0].sha256 == hashlib.sha256(data).hexdigest()
    assert [path for path, _agent in shop.cran.requests].count("src/contrib/ab_1.0.tar.gz") == 2


def test_a_redirect_to_a_host_that_is_named_is_followed(shop: Shop) -> None:
    data = make_binary("ab", "1.0")
    path = shop.cran.add("ab", "1.0", data)
    shop.cran.files["elsewhere/ab"] = data
    port = shop.index.address.rpartition(":")[2].strip("/")
    shop.cran.moved[path] = f"http://localhost:{port}/elsewhere/ab"
    with pytest.raises(RemoteError, match="which is not followed"):
        shop.lock("ab")
    shop.index = msgspec.structs.replace(shop.index, redirects=(f"localhost:{port}",))
    assert shop.lock("ab").addons[0].sha256 == hashlib.sha256(data).hexdigest()


def test_a_folder_is_a_repository(shop: Shop, tmp_path: Path) -> None:
    data = make_binary("ab", "1.0")
    shop.cran.add("ab", "1.0", data)
    place = tmp_path / "mirror" / "src" / "contrib"
    place.mkdir(parents=True)
    (place / "PACKAGES").write_text(shop.cran.listed["ab"])
    (place / "ab_1.0.tar.gz").write_bytes(data)
    shop.index = PackageIndex("cran", (tmp_path / "mirror").as_uri(), default=True)
    lock = shop.lock("ab")
    shop.forget()
    assert shop.fetch(lock, "ab").read_bytes() == data
    (place / "ab_1.0.tar.gz").write_bytes(make_binary("ab", "1.0", License="MIT"))
    shop.forget()
    with pytest.raises(IntegrityError, match=r"ab: ab_1\.0\.tar\.gz from index 'cran' is not the expected file"):
        shop.fetch(lock, "ab")
    assert shop.cran.requests == []


def test_a_damaged_archive_in_the_cache_is_fetched_again(shop: Shop) -> None:
    data = make_binary("ab", "1.0")
    shop.cran.add("ab", "1.0", data)
    lock = shop.lock("ab")
    addon: Addon = lock.addons[0]
    archive_path(shop.cache, addon.sha256, addon.filename).write_bytes(b"damaged")
    assert shop.fetch(lock, "ab").read_bytes() == data


def test_renv_gets_versions_needs_and_the_snapshot_of_the_locks_date(dated: Shop) -> None:
    dated.cran.add("ab", "1.0", make_binary("ab", "1.0", Imports="cd"))
    dated.cran.add("cd", "0.1", make_binary("cd", "0.1"))
    document = json.loads(export_renv(dated.lock("ab"), (dated.index,)))
    assert document["R"] == {
        "Version": "4.2.2",
        "Repositories": [{"Name": "cran", "URL": dated.index.address.replace("latest/", "2026-10-01")}],
    }
    assert document["Packages"]["ab"] == {
        "Package": "ab",
        "Version": "1.0",
        "Source": "Repository",
        "Repository": "cran",
        "Requirements": ["cd"],
    }
    assert document["Packages"]["cd"].keys() == {"Package", "Version", "Source", "Repository"}
