"""Source archives: which may be built, what they say of themselves, and what is kept of a build."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.base.sourceorder import SourceOrder
from imagebuild.errors import BuildError, IntegrityError, LockError
from imagebuild.lock.file.lockfile import format_lock, lock_digest, parse_lock
from imagebuild.lock.file.model import BuildWheel, LockedPackage, SourceRules
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.hashes import AllowedHashes
from imagebuild.lock.resolve.candidates import Choice
from imagebuild.lock.wheels.sdist import (
    SourceWheels,
    find_archives,
    read_build_requires,
    read_member,
    read_static_metadata,
)
from tests.support.builders import encode_wheel
from tests.support.servers.index import FakeIndex
from tests.unit.test_lock_file_lockfile import LOCK

TOOL = BuildWheel("flit-core", "3.9.0", "flit_core-3.9.0-py3-none-any.whl", "a" * 64, 10, "default")


def pack(folder: Path, name: str, files: dict[str, bytes]) -> Path:
    path = folder / name
    if name.endswith(".zip"):
        with zipfile.ZipFile(path, "w") as archive:
            for member, data in files.items():
                archive.writestr(member, data)
        return path
    with tarfile.open(path, "w:gz") as packed:
        for member, data in files.items():
            info = tarfile.TarInfo(member)
            info.size = len(data)
            packed.addfile(info, io.BytesIO(data))
    return path


# --- which archives ---------------------------------------------------------------------------------------------------


def archive(filename: str, **facts: object) -> ProjectFile:
    return ProjectFile(filename, f"https://pypi.corp.example/{filename}", **facts)  # type: ignore[arg-type]


def test_archives_are_judged_as_wheels_are() -> None:
    page = ProjectPage(
        "tool",
        (
            archive("tool-1.0.zip", upload_time="2026-01-01T00:00:00Z"),
            archive("tool-1.0.tar.gz", upload_time="2026-01-01T00:00:00Z"),
            archive("tool-1.1.tar.gz", upload_time="2026-11-01T00:00:00Z"),
            archive("tool-1.2.tar.gz", upload_time="2026-01-02T00:00:00Z", yanked=True),
            archive("tool-1.3.tar.gz", upload_time="2026-01-02T00:00:00Z", requires_python=">=3.13"),
            archive("tool-1.4.tar.gz"),  # no time, on an index that tells times
            archive("other-1.0.tar.gz", upload_time="2026-01-01T00:00:00Z"),
            archive("tool-1.0-py3-none-any.whl", upload_time="2026-01-01T00:00:00Z"),
        ),
    )
    choice = Choice((), "3.11.2", "2026-10-01T00:00:00Z")
    assert {version: file.filename for version, file in find_archives(page, choice).items()} == {"1.0": "tool-1.0.tar.gz"}
    asked = Choice((), "3.11.2", "", pins={"tool": frozenset({"1.2"})})
    assert list(find_archives(page, asked)) == ["1.0", "1.1", "1.2", "1.4"]
    hashed = ProjectPage("tool", (archive("tool-1.0.tar.gz", sha256="b" * 64), archive("tool-1.0.zip", sha256="a" * 64)))
    allowed = Choice((), "3.11.2", hashes={"tool": AllowedHashes(frozenset({"a" * 64}), ("requirements.in line 1",))})
    assert [file.filename for file in find_archives(hashed, allowed).values()] == ["tool-1.0.zip"]


# --- what an archive says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tool-1.0.tar.gz", "tool-1.0.zip"])
def test_build_requirements_are_those_of_pyproject(tmp_path: Path, name: str) -> None:
    text = b'[build-system]\nrequires = ["flit_core<4"]\nbuild-backend = "flit_core.buildapi"\n'
    made = pack(tmp_path, name, {"tool-1.0/sub/pyproject.toml": b"no", "tool-1.0/pyproject.toml": text})
    assert read_member(made, "pyproject.toml") == text
    assert read_build_requires(made) == ("flit_core<4",)


def test_without_pyproject_it_is_setuptools(tmp_path: Path) -> None:
    assert read_build_requires(pack(tmp_path, "tool-1.0.tar.gz", {"tool-1.0/setup.py": b""})) == ("setuptools", "wheel")
    text = b'[build-system]\nrequires = ["setuptools>=61", "cython"]\n'
    made = pack(tmp_path, "tool-1.1.tar.gz", {"tool-1.1/pyproject.toml": text})
    assert read_build_requires(made) == ("setuptools>=61", "cython", "wheel")


@pytest.mark.parametrize("text", [b"\xff", b"[build-system", b"[build-system]\nrequires = 3\n"])
def test_a_broken_pyproject_is_named(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(LockError, match=r"tool-1\.0\.tar\.gz: its"):
        read_build_requires(pack(tmp_path, "tool-1.0.tar.gz", {"tool-1.0/pyproject.toml": text}))


@pytest.mark.parametrize(
    ("text", "final"),
    [
        (b"Metadata-Version: 2.2\nName: tool\nVersion: 1.0\n", True),
        (b"Metadata-Version: 2.4\nName: tool\nVersion: 1.0\nDynamic: License-File\nRequires-Dist: numpy\n", True),
        (b"Metadata-Version: 2.2\nName: tool\nVersion: 1.0\nDynamic: Requires-Dist\n", False),
        (b"Metadata-Version: 2.1\nName: tool\nVersion: 1.0\nRequires-Dist: numpy\n", False),
        (b"Metadata-Version: soon\nName: tool\n", False),
    ],
)
def test_only_final_metadata_is_believed(tmp_path: Path, text: bytes, final: bool) -> None:
    made = pack(tmp_path, "tool-1.0.tar.gz", {"tool-1.0/PKG-INFO": text})
    assert read_static_metadata(made) == (text if final else None)


@given(st.binary(max_size=300), st.sampled_from(["tool-1.0.tar.gz", "tool-1.0.zip"]))
def test_any_bytes_are_an_archive_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="not a readable source archive"):
        read_member(path, "pyproject.toml")


# --- what is kept of a build ------------------------------------------------------------------------------------------


class Workshop:
    """A builder that makes a real wheel without docker, and counts."""

    def __init__(self, cache: Path, url: str) -> None:
        self.cache = cache
        self.upstream = Upstream(PackageIndex("default", url, default=True), cache)
        self.orders: list[SourceOrder] = []
        self.extra = b"x = 1\n"
        self.resolved: list[tuple[str, ...]] = []

    def build(self, order: SourceOrder, folder: Path) -> Path:
        self.orders.append(order)
        name, data = encode_wheel(order.name, order.version, extra=self.extra)
        (folder / name).write_bytes(data)
        return folder / name

    def resolve(self, lines: Sequence[str]) -> tuple[BuildWheel, ...]:
        self.resolved.append(tuple(lines))
        return (TOOL,)

    def open(self, existing: dict[str, LockedPackage] | None = None) -> SourceWheels:
        return SourceWheels(
            SourceRules(frozenset({"tool"}), (), ("cython<3",)),
            base_digest="sha256:" + "b" * 64,
            cache=self.cache,
            build=self.build,
            resolve=self.resolve,
            fetch=lambda wheels: tuple(self.cache / item.filename for item in wheels),
            report=list[str]().append,
            existing=existing,
        )

    def lock(self, wheels: SourceWheels) -> LockedPackage:
        page = self.upstream.read_project("tool")
        assert page is not None
        made = wheels.make_wheel("tool", "1.0", page.files[0], self.upstream)
        return LockedPackage(
            "tool", "1.0", made.filename, made.sha256, made.size, 1, "default", upload_time=page.files[0].upload_time, source=made.source
        )


@pytest.fixture
def workshop(tmp_path: Path) -> object:
    index = FakeIndex()
    index.add_file("tool", "tool-1.0.tar.gz", pack(tmp_path, "tool-1.0.tar.gz", {"tool-1.0/setup.py": b"1"}).read_bytes())
    with index.serve() as url:
        made = Workshop(tmp_path / "cache", url)
        with made.upstream:
            yield made


def test_a_build_is_done_once_and_remembered(workshop: Workshop) -> None:
    first = workshop.lock(workshop.open())
    assert workshop.resolved == [("setuptools", "wheel", "cython<3")]
    assert first.source is not None
    assert first.source.requires == (TOOL,)
    assert workshop.orders[0].epoch == 1714557600  # the archive's upload, whenever it is built
    again = workshop.lock(workshop.open({"tool": first}))
    assert (again, len(workshop.orders), len(workshop.resolved)) == (first, 1, 1)


def test_a_wheel_that_rotted_in_the_cache_is_built_again(workshop: Workshop) -> None:
    first = workshop.lock(workshop.open())
    path = workshop.cache / "wheels" / first.sha256 / first.filename
    path.write_bytes(b"rotten")
    assert workshop.open().remake_wheel(first, workshop.upstream) == path
    assert len(workshop.orders) == 2
    assert path.read_bytes() != b"rotten"


def test_another_wheel_than_locked_is_refused(workshop: Workshop) -> None:
    first = workshop.lock(workshop.open())
    (workshop.cache / "wheels" / first.sha256 / first.filename).unlink()
    workshop.extra = b"x = 2\n"
    with pytest.raises(IntegrityError, match=r"tool: the wheel built from tool-1\.0\.tar\.gz is not the locked one"):
        workshop.open().remake_wheel(first, workshop.upstream)


def test_a_build_that_makes_another_package_is_refused(workshop: Workshop) -> None:
    def build(order: SourceOrder, folder: Path) -> Path:
        name, data = encode_wheel("numpy", order.version)
        (folder / name).write_bytes(data)
        return folder / name

    workshop.build = build  # type: ignore[method-assign]
    with pytest.raises(BuildError, match=r"tool 1\.0: the build made numpy-1\.0"):
        workshop.lock(workshop.open())


# --- in the lock ------------------------------------------------------------------------------------------------------


def test_the_lock_holds_archive_and_build_requirements(workshop: Workshop) -> None:
    package = workshop.lock(workshop.open())
    lock = msgspec.structs.replace(LOCK, packages=(package,))
    assert parse_lock(format_lock(lock)) == lock
    plain = msgspec.structs.replace(lock, packages=(msgspec.structs.replace(package, source=None),))
    assert lock_digest(lock) != lock_digest(plain)


def test_a_lock_without_them_keeps_the_digest_it_had() -> None:
    assert lock_digest(LOCK) == "sha256:3a4c27461690afb2982307706e3a913a9c83619165099393f08d50b803dd02ad"


def test_an_archive_s_name_in_a_lock_has_no_folders(workshop: Workshop) -> None:
    text = format_lock(msgspec.structs.replace(LOCK, packages=(workshop.lock(workshop.open()),)))
    for name, where in (("tool-1.0.tar.gz", "sdist"), (TOOL.filename, "build-requires.filename")):
        with pytest.raises(Exception, match=where):
            parse_lock(text.replace(f'"{name}"', f'"../{name}"'))
