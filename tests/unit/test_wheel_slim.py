"""What slim leaves out, in both engines, and that RECORD says so."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from imagebuild.layer.members import build_members
from imagebuild.layer.memberstore import MemberRequest
from imagebuild.layer.model import Codec, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.wheel.slim import SLIM_KINDS, TESTS_BYTECODE, choose_dropped, find_slim_kind, slim_installed
from tests.support.builders import make_host_interpreter, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree

STUBBED = b"import lazy_loader\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)\n"
FILES = {
    "demo/__init__.py": b"x = 1\n",
    "demo/__init__.pyi": b"x: int\n",
    "demo/lazy/__init__.py": STUBBED,
    "demo/lazy/__init__.pyi": b"from .a import b\n",
    "demo/lazy/a.py": b"b = 1\n",
    "demo/tests/__init__.py": b"",
    "demo/tests/deep/data.bin": b"d" * 100,
    "demo/include/demo.h": b"int x;",
    "demo/libdemo.a": b"!<arch>",
}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("demo/tests/a.py", "tests"),
        ("tests/a.py", "tests"),
        ("demo/tests.py", ""),
        ("demo/test/a.py", ""),  # django.test and others are no tests
        ("demo/x.pyi", "pyi"),
        ("demo/py.typed", ""),
        ("demo/x.pxd", "headers"),
        ("../../../include/python3.11/demo/x.h", "headers"),
        ("../../../share/tests/x.json", ""),
        ("demo/libx.a", "static-libs"),
        ("demo/libx.so", ""),
        ("demo-1.0.dist-info/licenses/tests/x.h", ""),
    ],
)
def test_a_file_is_of_one_kind_or_stays(row: str, kind: str) -> None:
    assert find_slim_kind(row) == kind


def test_a_stub_that_is_read_at_run_time_stays() -> None:
    dropped = choose_dropped(FILES, ["pyi"], FILES.__getitem__)
    assert dropped == {"demo/__init__.pyi"}
    assert "demo/lazy/__init__.pyi" not in choose_dropped(FILES, SLIM_KINDS, FILES.__getitem__)


def build(wheel: Path, cache: Path, slim: tuple[str, ...]) -> Member:
    request = MemberRequest(wheel, "demo", "1.0", slim=slim)
    (member,) = build_members(
        [request],
        interpreter=make_host_interpreter(),
        folders=FolderResolver(MemoryTree(USUAL)),
        codec=Codec(),
        runtime=HostRuntime(),
        cache=cache,
        home="/home/jovyan",
    )
    return member


def test_a_member_holds_neither_the_files_nor_their_bytecode_and_is_another_one(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files=FILES)
    whole, slim = (build(wheel, tmp_path / "cache", kinds) for kinds in ((), SLIM_KINDS))
    assert whole.blob != slim.blob
    gone = {fact.path for fact in whole.files} - {fact.path for fact in slim.files}
    bytecode = {path for path in gone if path.endswith(".pyc")}
    assert {path.removeprefix(f"{SITE}/") for path in gone - bytecode} == {
        "demo/__init__.pyi",
        "demo/tests/__init__.py",
        "demo/tests/deep/data.bin",
        "demo/include/demo.h",
        "demo/libdemo.a",
    }
    assert [path.removeprefix(f"{SITE}/demo/tests/__pycache__/").split(".")[0] for path in bytecode] == ["__init__"]
    assert build(wheel, tmp_path / "cache", ()).sha256 == whole.sha256


def test_bytecode_of_tests_is_left_out_and_the_tests_stay(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={**FILES, "demo/tests/deep/b.py": b"y = 1\n"})
    whole, less = (build(wheel, tmp_path / "cache", kinds) for kinds in ((), (TESTS_BYTECODE,)))
    gone = {fact.path for fact in whole.files} - {fact.path for fact in less.files}
    assert {path.removeprefix(f"{SITE}/").partition(".")[0] for path in gone} == {
        "demo/tests/__pycache__/__init__",
        "demo/tests/deep/__pycache__/b",
    }
    assert [fact for fact in less.files if fact.path.endswith("demo/tests/deep/b.py")]
    assert build(wheel, tmp_path / "cache", (TESTS_BYTECODE, "tests")).uncompressed < less.uncompressed


def test_what_pip_compiled_of_tests_goes_and_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    compiled = {"demo/tests/__pycache__/__init__.cpython-311.pyc": b"x", "demo/__pycache__/__init__.cpython-311.pyc": b"x"}
    install(tmp_path, {**FILES, **compiled})
    slim_installed([str(tmp_path)], set(), [TESTS_BYTECODE])
    assert not (tmp_path / "demo/tests/__pycache__").exists()
    assert (tmp_path / "demo/tests/__init__.py").is_file()
    assert (tmp_path / "demo/__pycache__/__init__.cpython-311.pyc").is_file()
    record = (tmp_path / "demo-1.0.dist-info/RECORD").read_text()
    assert "tests/__init__.py" in record
    assert "tests/__pycache__" not in record


def install(site: Path, files: dict[str, bytes], name: str = "demo-1.0") -> None:
    """As pip leaves it."""
    rows = [*files, f"{name}.dist-info/RECORD"]
    for path, data in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_bytes(data)
    info = site / f"{name}.dist-info"
    info.mkdir()
    with (info / "RECORD").open("w", newline="") as stream:
        csv.writer(stream).writerows([row, "", ""] for row in rows)


def list_all(folder: Path) -> set[str]:
    return {str(path) for path in (folder, *folder.rglob("*"))}


def test_what_a_package_carries_inside_itself_is_not_slimmed_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """setuptools 80.9.0 brings wheel 0.45.1 in setuptools/_vendor, with its RECORD; setuptools' own lists every file of it."""
    vendor = tmp_path / "setuptools/_vendor"
    vendor.mkdir(parents=True)
    install(vendor, {"wheel/__init__.py": b"", "wheel/__init__.pyi": b""}, "wheel-0.45.1")
    monkeypatch.syspath_prepend(str(tmp_path))
    slim_installed([str(tmp_path)], set(), SLIM_KINDS)
    assert (vendor / "wheel/__init__.pyi").is_file()
    monkeypatch.syspath_prepend(str(vendor))
    slim_installed([str(tmp_path)], set(), SLIM_KINDS)
    assert not (vendor / "wheel/__init__.pyi").exists()


def test_what_pip_installed_is_slimmed_in_place_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    install(tmp_path, {"old/tests/a.py": b"", "old/__init__.py": b"", "shared/tests/b.py": b"base"}, "old-1.0")
    before = list_all(tmp_path)
    install(tmp_path, {**FILES, "shared/tests/b.py": b"base", "shared/tests/c.py": b"new"})
    install(tmp_path, {"demo/tests/__init__.py": b"", "other/tests/x/y.py": b""}, "other-2.0")
    slim_installed([str(tmp_path)], before, SLIM_KINDS)
    left = {path.removeprefix(f"{tmp_path}/") for path in list_all(tmp_path) - before}
    assert left == {
        "demo",
        "demo/__init__.py",
        "demo/lazy",
        "demo/lazy/__init__.py",
        "demo/lazy/__init__.pyi",
        "demo/lazy/a.py",
        "demo-1.0.dist-info",
        "demo-1.0.dist-info/RECORD",
        "other-2.0.dist-info",
        "other-2.0.dist-info/RECORD",
    }
    assert before <= list_all(tmp_path)
    with (tmp_path / "demo-1.0.dist-info/RECORD").open(newline="") as stream:
        rows = {row[0] for row in csv.reader(stream)}
    assert rows == {"demo/__init__.py", "demo/lazy/__init__.py", "demo/lazy/__init__.pyi", "demo/lazy/a.py", "demo-1.0.dist-info/RECORD"}
