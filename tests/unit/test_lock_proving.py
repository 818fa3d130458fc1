"""Proving a lock without resolving: against a fake index that changes under it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from imagebuild.errors import IntegrityError, LockError
from imagebuild.lock.file.model import BuildWheel, Lock, LockedPackage, SourceArchive
from imagebuild.lock.index.routing import PackageIndex, UnroutedError
from imagebuild.lock.proving import Listing, check_listing, check_routes
from tests.support.servers.index import FakeIndex, make_index

EMPTY = Lock("t", "b", "sha256:" + "0" * 64, "sha256:" + "0" * 64, "3.11.2", "linux/amd64", {}, "r", "2026-10-01T00:00:00Z", ())


@pytest.fixture
def fake() -> FakeIndex:
    fake = FakeIndex()
    for name in ("one", "two"):
        fake.add(name, "1.0", extra=name.encode())
    return fake


@pytest.fixture
def index(fake: FakeIndex) -> Iterator[PackageIndex]:
    with fake.serve() as url:
        yield make_index(url)


def lock_of(fake: FakeIndex) -> Lock:
    packages = [
        LockedPackage(name, "1.0", filename, hashlib.sha256(fake.bodies[filename]).hexdigest(), len(fake.bodies[filename]), 1, "default")
        for name, files in sorted(fake.files.items())
        for filename in files
    ]
    tree = LockedPackage("own", "1.0", "own-1.0-py3-none-any.whl", "0" * 64, 1, 1, "local", tree="0" * 64)
    return msgspec.structs.replace(EMPTY, packages=(*packages, tree))


@pytest.mark.parametrize("form", ["json", "html"])
def test_all_is_listed_and_the_second_time_costs_no_page(fake: FakeIndex, index: PackageIndex, tmp_path: Path, form: str) -> None:
    fake.form = form
    lock = lock_of(fake)
    assert check_listing(lock, [index], tmp_path) == Listing({"default": 2})
    assert check_listing(lock, [index], tmp_path) == Listing({"default": 2})
    assert sorted(path for path, _ in fake.requests) == ["/simple/one/", "/simple/one/", "/simple/two/", "/simple/two/"]
    assert fake.unchanged == 2


def test_a_file_that_is_gone_and_one_that_is_another(fake: FakeIndex, index: PackageIndex, tmp_path: Path) -> None:
    lock = lock_of(fake)
    check_listing(lock, [index], tmp_path)
    fake.add("one", "1.0", extra=b"changed after locking")
    del fake.files["two"]
    with pytest.raises(IntegrityError, match="the lock of t can no longer be fetched: 2 of 2 files") as caught:
        check_listing(lock, [index], tmp_path)
    assert caught.value.exit_code == 8
    changed, gone = caught.value.details
    assert changed.startswith(f"one-1.0-py3-none-any.whl (default) is another file: locked sha256 {lock.packages[0].sha256}, now ")
    assert gone == "two-1.0-py3-none-any.whl (default) is gone"


def test_yanked_files_are_told_and_no_error(fake: FakeIndex, index: PackageIndex, tmp_path: Path) -> None:
    lock = lock_of(fake)
    fake.add("one", "1.0", extra=b"one", yanked="leaks")
    fake.add("two", "1.0", extra=b"two", yanked=True)
    found = check_listing(lock, [index], tmp_path)
    assert found.yanked == (
        "one-1.0-py3-none-any.whl (default) was yanked: leaks",
        "two-1.0-py3-none-any.whl (default) was yanked: no reason given",
    )
    assert found.listed == {"default": 2}


def test_an_index_without_hashes_proves_nothing(
    fake: FakeIndex, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = lock_of(fake)
    page = fake.page("one")[1].replace(lock.packages[0].sha256.encode(), b"")
    original = fake.page
    monkeypatch.setattr(fake, "page", lambda name: (original(name)[0], page if name == "one" else original(name)[1]))
    found = check_listing(lock, [index], tmp_path)
    assert found.listed == {"default": 1}
    (line,) = found.unproved
    assert "gives no sha256" in line


def test_wheels_by_address_are_looked_for(fake: FakeIndex, index: PackageIndex, tmp_path: Path) -> None:
    filename = fake.add("direct", "1.0")
    address = index.address.replace("/simple/", f"/files/{filename}")
    whole = lock_of(fake)
    direct = msgspec.structs.replace(whole.packages[0], index="url", url=address)
    lock = msgspec.structs.replace(whole, packages=(direct,))
    (line,) = check_listing(lock, [index], tmp_path).unproved
    assert line.startswith(f"{filename} (url) is there")
    fake.bodies[filename] += b"more"
    with pytest.raises(IntegrityError, match="1 of 1 files"):
        check_listing(lock, [index], tmp_path)
    del fake.bodies[filename]
    with pytest.raises(IntegrityError, match="1 of 1 files"):
        check_listing(lock, [index], tmp_path)


def test_of_a_source_build_the_archive_and_what_the_build_needs_are_asked_for(fake: FakeIndex, index: PackageIndex, tmp_path: Path) -> None:
    whole = lock_of(fake)
    archive = fake.add_file("old", "old-1.0.tar.gz", b"source")
    needed = whole.packages[0]
    source = SourceArchive(
        archive,
        hashlib.sha256(b"source").hexdigest(),
        6,
        (BuildWheel(needed.name, needed.version, needed.filename, needed.sha256, needed.size, "default"),),
    )
    made = LockedPackage("old", "1.0", "old-1.0-py3-none-any.whl", "1" * 64, 5, 1, "default", source=source)
    lock = msgspec.structs.replace(whole, packages=(made,))
    assert check_listing(lock, [index], tmp_path) == Listing({"default": 2})
    fake.add_file("old", "old-1.0.tar.gz", b"another")
    with pytest.raises(IntegrityError, match="1 of 2 files"):
        check_listing(lock, [index], tmp_path)


def test_names_must_be_routed_as_locked(fake: FakeIndex, index: PackageIndex) -> None:
    lock = lock_of(fake)
    check_routes(lock, [index])
    private = PackageIndex("corp", "https://pypi.corp.example/simple/", ("on*",))
    with pytest.raises(LockError, match="one is locked from package index 'default', and today it may only come from 'corp'"):
        check_routes(lock, [index, private])
    with pytest.raises(UnroutedError, match="no package index may serve two"):
        check_routes(msgspec.structs.replace(lock, packages=lock.packages[1:2]), [private])
