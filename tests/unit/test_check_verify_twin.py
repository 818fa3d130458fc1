"""The comparison of two layers: what it must see, and what it must not mind."""

from __future__ import annotations

import importlib.util
import io
import marshal
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from imagebuild.check.verify.twin import SHOWN, TwinReport, compare_layers, require_twins
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.layer.model import Layer, TeamLayers
from tests.support.builders import make_host_base
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, MemoryTree, folder

PYC = f"{SITE}/__pycache__/x.cpython-311.pyc"
RECORD = f"{SITE}/x-1.dist-info/RECORD"
SOURCE = "x = (1, 'a', -0.0)\ny = 'z' in {'p', 'q'}\ndef f(a, *, b=2):\n    return [a + b for _ in range(3)]\n"


@dataclass
class Item:
    """One entry of a tar."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    type: bytes = tarfile.REGTYPE
    link: str = ""
    mtime: int = 0
    headers: dict[str, str] = field(default_factory=dict)


def directory(mode: int = 0o755, gid: int = 0) -> Item:
    return Item(mode=mode, gid=gid, type=tarfile.DIRTYPE)


def pyc(source: str = SOURCE, *, flags: int = 1, filename: str = f"{SITE}/x.py", salt: bytes = b"12345678") -> bytes:
    code = compile(source, filename, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + flags.to_bytes(4, "little") + salt + marshal.dumps(code)


def usual() -> dict[str, Item]:
    return {
        "/usr": directory(),
        "/usr/local": directory(),
        "/usr/local/bin": directory(),
        "/usr/local/bin/tool": Item(b"#!/bin/sh\n", 0o755),
        "/usr/local/lib": directory(),
        f"{SITE}/x.py": Item(SOURCE.encode()),
        f"{SITE}/new": directory(),
        PYC: Item(pyc()),
        RECORD: Item(b"x.py,sha256=abc,3\r\n__pycache__/x.cpython-311.pyc,,\r\nx-1.dist-info/RECORD,,\r\n"),
    }


def pack(path: Path, items: dict[str, Item]) -> Layer:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, item in items.items():
            entry = tarfile.TarInfo(name.strip("/"))
            entry.size, entry.mode, entry.uid, entry.gid = len(item.content), item.mode, item.uid, item.gid
            entry.type, entry.linkname, entry.mtime, entry.pax_headers = item.type, item.link, item.mtime, item.headers
            archive.addfile(entry, io.BytesIO(item.content))
    return Layer(path, "", 0, "", 0, 0, "application/vnd.oci.image.layer.v1.tar", ())


Change = Callable[[dict[str, Item]], object]


def compare(tmp_path: Path, change: Change, *, first: Change = lambda items: items) -> TwinReport:
    """The report on the usual layer and one with ``change``; ``first`` applies to both."""
    sides = [usual(), usual()]
    for side in sides:
        first(side)
    change(sides[1])
    layers = [pack(tmp_path / f"{number}.tar", side) for number, side in enumerate(sides)]
    (tmp_path / "kept").mkdir()
    usual_tree = [folder("/usr"), folder("/usr/local"), folder("/usr/local/bin"), folder("/usr/local/lib"), folder("/opt", 0o2775, 0, 50)]
    base = make_host_base(MemoryTree(usual_tree), runtime=HostRuntime())
    return compare_layers(TeamLayers((layers[0],)), layers[1], base=base, scratch=tmp_path / "kept")


def put(path: str, **changes: object) -> Change:
    def change(items: dict[str, Item]) -> None:
        item = items[path]
        for name, value in changes.items():
            assert getattr(item, name) != value
            setattr(item, name, value)

    return change


def add(path: str, item: Item) -> Change:
    return lambda items: items.update({path: item})


def drop(path: str) -> Change:
    return lambda items: items.pop(path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda items: items, id="nothing"),
        pytest.param(put(f"{SITE}/x.py", mtime=77), id="time"),
        pytest.param(lambda items: items.update(dict(reversed(items.items()))), id="order"),
        pytest.param(drop("/usr/local/bin"), id="folder-as-in-the-base"),
        pytest.param(add("/opt", directory(0o2775, 50)), id="folder-repeated-from-the-base"),
        pytest.param(
            put(RECORD, content=b'"x.py",sha256=abc,3\nx-1.dist-info/RECORD,,\n__pycache__/x.cpython-311.pyc,,\n'), id="record-order"
        ),
        pytest.param(put(PYC, content=pyc(flags=3)), id="checked-hash"),
        pytest.param(put(PYC, content=pyc(filename=f"{SITE}/../dist-packages/x.py")), id="way-to-the-source"),
    ],
)
def test_the_same_tree_is_found_the_same(tmp_path: Path, change: Change) -> None:
    report = compare(tmp_path, change)
    assert report.differences == ()
    require_twins(report, "team")
    assert (report.files, report.folders, report.bytecode, report.records) == (4, 5, 1, 1)
    assert report.bytes == sum(len(item.content) for item in usual().values())


def other_source(old: str, new: str) -> Change:
    assert old in SOURCE
    return put(PYC, content=pyc(SOURCE.replace(old, new)))


@pytest.mark.parametrize(
    ("change", "path", "what", "values"),
    [
        (put("/usr/local/bin/tool", mode=0o775), "/usr/local/bin/tool", "mode", ("0755", "0775")),
        (put("/usr/local/bin/tool", gid=50), "/usr/local/bin/tool", "owner", ("0:0", "0:50")),
        (put("/usr/local/bin/tool", content=b"#!/bin/zz\n"), "/usr/local/bin/tool", "content", None),
        (put("/usr/local/bin/tool", content=b"#!/bin/sh\n\n"), "/usr/local/bin/tool", "size", ("10", "11")),
        (put("/usr/local/bin/tool", type=tarfile.SYMTYPE, content=b"", link="x"), "/usr/local/bin/tool", "type", ("file", "symlink")),
        (
            put("/usr/local/bin/tool", headers={"SCHILY.xattr.security.capability": "a"}),
            "/usr/local/bin/tool",
            "extended attributes",
            ("{}", "{'security.capability': 'a'}"),
        ),
        (drop("/usr/local/bin/tool"), "/usr/local/bin/tool", "presence", ("file", "-")),
        (add("/usr/local/bin/.wh.old", Item()), "/usr/local/bin/.wh.old", "presence", ("-", "whiteout")),
        (put("/usr/local/bin", mode=0o700), "/usr/local/bin", "mode", ("0755", "0700")),
        (put(f"{SITE}/new", mode=0o2755, gid=50), f"{SITE}/new", "owner", ("0:0", "0:50")),
        (drop(f"{SITE}/new"), f"{SITE}/new", "presence", ("folder", "-")),
        (add("/opt", directory(0o755)), "/opt", "mode", ("2775", "0755")),
        (add("/root", directory(0o700)), "/root", "presence", ("-", "folder")),
        (put(RECORD, content=b"x.py,sha256=abc,3\r\n__pycache__/x.cpython-311.pyc,,\r\n"), RECORD, "row", ("x-1.dist-info/RECORD,,", "-")),
        (put(PYC, content=pyc(flags=0)), PYC, "bytecode header", None),
        (put(PYC, content=pyc(salt=b"87654321")), PYC, "bytecode header", None),
        (put(PYC, content=b"\0\0\0\0" + pyc()[4:]), PYC, "bytecode magic", None),
        (put(PYC, content=pyc()[:-7]), PYC, "bytecode module", None),
        (other_source("a + b", "a - b"), PYC, "bytecode module.co_", None),
        (other_source("(1, 'a'", "(True, 'a'"), PYC, "bytecode module.co_", ("int", "bool")),
        (other_source("-0.0", "0.0"), PYC, "bytecode module.co_", ("-0.0", "0.0")),
        (other_source("'p', 'q'", "'p', 'r'"), PYC, "bytecode module.co_", None),
        (other_source("def f", "def g"), PYC, "bytecode module.co_", None),
        (other_source("\n    return", "\n\n    return"), PYC, "bytecode module.co_", None),
        (put(PYC, content=pyc(filename="/build/x.py")), PYC, "bytecode module.co_", (f"'{SITE}/x.py'", "'/build/x.py'")),
    ],
)
def test_a_difference_is_found_and_named(tmp_path: Path, change: Change, path: str, what: str, values: tuple[str, str] | None) -> None:
    report = compare(tmp_path, change)
    named = [item for item in report.differences if item.path == path and item.what.startswith(what)]
    assert named, report.differences
    if values is not None:
        assert [(item.direct, item.docker) for item in named] == [values]
    assert {item.path for item in report.differences} == {path}
    with pytest.raises(IntegrityError, match=r"layers of team differ in \d+ place") as caught:
        require_twins(report, "team")
    assert caught.value.exit_code == 8
    assert any(line.startswith(f"{path}: ") for line in caught.value.details)


def test_symlinks_are_compared_by_their_target(tmp_path: Path) -> None:
    def link(items: dict[str, Item]) -> None:
        items["/usr/local/l"] = Item(type=tarfile.SYMTYPE, link="a", mode=0o777)

    report = compare(tmp_path, put("/usr/local/l", link="b"), first=link)
    assert [(item.what, item.direct, item.docker) for item in report.differences] == [("target", "'a'", "'b'")]


def test_all_are_counted_and_the_first_are_listed(tmp_path: Path) -> None:
    def many(items: dict[str, Item]) -> None:
        items.update({f"/usr/local/{number:03}": Item() for number in range(SHOWN + 7)})

    report = compare(tmp_path, many)
    assert report.count == SHOWN + 7
    assert [item.path for item in report.differences] == [f"/usr/local/{number:03}" for number in range(SHOWN)]
    with pytest.raises(IntegrityError) as caught:
        require_twins(report, "team")
    assert caught.value.details[-1] == "and 7 more"


def test_a_path_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    layers = [pack(tmp_path / f"{number}.tar", usual()) for number in range(2)]
    with tarfile.open(layers[1].blob, "a") as archive:
        archive.addfile(tarfile.TarInfo("usr/local/bin/tool"))
    with pytest.raises(IntegrityError, match="/usr/local/bin/tool is twice"):
        compare_layers(TeamLayers((layers[0],)), layers[1], base=make_host_base(), scratch=tmp_path)


def test_without_the_base_s_python_nothing_is_said_to_be_the_same(tmp_path: Path) -> None:
    sides = [usual(), usual()]
    sides[1][PYC].content = pyc(flags=3, filename=f"{SITE}/./x.py")
    layers = [pack(tmp_path / f"{number}.tar", side) for number, side in enumerate(sides)]
    with pytest.raises(BuildError, match="cannot be compared"):
        compare_layers(TeamLayers((layers[0],)), layers[1], base=make_host_base(runtime=None), scratch=tmp_path)
