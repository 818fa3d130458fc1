"""What goes when the base's distributions are replaced, and the whiteouts that say so."""

from __future__ import annotations

import posixpath
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.base.model import Base, Distribution, Entry
from imagebuild.errors import BuildError
from imagebuild.layer.removal import NOTHING, ReducedTree, Removal, find_removal, find_whiteouts, is_emptied, render_removal
from tests.support.builders import make_base
from tests.support.trees import SITE, MemoryTree


def tree_of(paths: Sequence[str]) -> MemoryTree:
    """Files, with their folders."""
    folders = {str(parent) for path in paths for parent in Path(path).parents}
    entries = [Entry(path, "file", 0o644, 0, 0) for path in paths]
    return MemoryTree([*entries, *(Entry(path, "dir", 0o755, 0, 0) for path in folders - set(paths))])


def base_of(files: Mapping[str, Mapping[str, Sequence[str]]], others: Sequence[str] = (), **changes: str) -> Base:
    """A base with distributions: name -> {"record": rows, "more": files that no RECORD lists}."""
    paths, records, held = list(others), {}, []
    for name, parts in files.items():
        info = f"{SITE}/{name}-1.0.dist-info"
        rows = [*parts.get("record", ()), f"{name}-1.0.dist-info/METADATA", f"{name}-1.0.dist-info/RECORD"]
        records[f"{info}/RECORD"] = "".join(f"{row},,\n" for row in rows).encode()
        paths += [posixpath.normpath(posixpath.join(SITE, row.strip('"'))) for row in rows] + list(parts.get("more", ()))
        held.append(Distribution(name, "1.0", SITE, f"{name}-1.0.dist-info", "pip", True))
    base = make_base(*held)
    tree = tree_of(sorted(set(paths)))
    tree.texts.update(records)
    inventory = base.inventory
    if changes:
        inventory = msgspec.structs.replace(
            inventory, distributions=tuple(msgspec.structs.replace(item, **changes) for item in inventory.distributions)
        )
    return msgspec.structs.replace(base, tree=tree, inventory=inventory)


OLD: dict[str, Sequence[str]] = {
    "record": ["old/__init__.py", "old/data.txt", '"old/a,b.txt"', "../../../bin/old"],
    "more": [
        f"{SITE}/old/__pycache__/__init__.cpython-311.pyc",
        f"{SITE}/old/__pycache__/__init__.cpython-311.opt-2.pyc",
        f"{SITE}/old/__pycache__/foreign.cpython-311.pyc",
        f"{SITE}/old-1.0.dist-info/direct_url.json",
    ],
}


def test_a_distributions_files_and_their_bytecode() -> None:
    removal = find_removal(base_of({"old": OLD, "other": {"record": ["other.py"]}}), ["old"])
    assert removal.owners == dict.fromkeys(
        (
            f"{SITE}/old/__init__.py",
            f"{SITE}/old/data.txt",
            f"{SITE}/old/a,b.txt",
            "/usr/local/bin/old",
            f"{SITE}/old/__pycache__/__init__.cpython-311.pyc",
            f"{SITE}/old/__pycache__/__init__.cpython-311.opt-2.pyc",
            f"{SITE}/old-1.0.dist-info/METADATA",
            f"{SITE}/old-1.0.dist-info/RECORD",
            f"{SITE}/old-1.0.dist-info/direct_url.json",
        ),
        "old",
    )
    assert removal.folders == (f"{SITE}/old/__pycache__", f"{SITE}/old", f"{SITE}/old-1.0.dist-info")


def test_what_another_one_lists_stays() -> None:
    base = base_of({"old": {"record": ["shared/__init__.py", "shared/old.py"]}, "other": {"record": ["shared/__init__.py"]}})
    removal = find_removal(base, ["old"])
    assert f"{SITE}/shared/old.py" in removal.owners
    assert f"{SITE}/shared/__init__.py" not in removal.owners
    assert f"{SITE}/shared/__init__.py" in find_removal(base, ["old", "other"]).owners


def test_nothing_outside_the_interpreters_folders() -> None:
    removal = find_removal(base_of({"old": {"record": ["../../../../../etc/old.conf", "/srv/old"]}}), ["old"])
    assert {posixpath.dirname(path) for path in removal.owners} == {f"{SITE}/old-1.0.dist-info"}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"installer": "conda"}, "conda"),
        ({"installer": "dpkg"}, "dpkg"),
        ({"installer": "rpm"}, "rpm"),
        ({"has_record": False}, "no RECORD"),
    ],
)
def test_what_cannot_be_replaced(changes: dict[str, str], reason: str) -> None:
    with pytest.raises(BuildError, match=rf"old 1\.0 of the base scipy cannot be replaced: .*{reason}"):
        find_removal(base_of({"old": OLD}, **changes), ["old"])
    with pytest.raises(BuildError, match="has no new to replace"):
        find_removal(base_of({"old": OLD}), ["new"])


def test_no_replacement_asks_nothing() -> None:
    assert find_removal(make_base(), []) is NOTHING
    assert find_whiteouts(NOTHING, ["relative", "/a"], MemoryTree()) == {}


def test_whiteouts_are_for_what_the_layer_lacks() -> None:
    base = base_of({"old": OLD})
    removal = find_removal(base, ["old"])
    brought = [f"{SITE}/old/__init__.py", f"{SITE}/old-2.0.dist-info/RECORD", "/usr/local/bin/old"]
    assert list(find_whiteouts(removal, brought, base.tree)) == [
        f"{SITE}/old-1.0.dist-info",  # nothing else in it: as a whole
        f"{SITE}/old/__pycache__/__init__.cpython-311.opt-2.pyc",
        f"{SITE}/old/__pycache__/__init__.cpython-311.pyc",
        f"{SITE}/old/a,b.txt",
        f"{SITE}/old/data.txt",
    ]


def test_a_folder_that_becomes_a_file_and_a_file_that_becomes_a_folder() -> None:
    base = base_of({"old": {"record": ["old/part/__init__.py", "old/other"]}})
    whiteouts = find_whiteouts(find_removal(base, ["old"]), [f"{SITE}/old/part", f"{SITE}/old/other/x.py"], base.tree)
    assert list(whiteouts) == [f"{SITE}/old-1.0.dist-info"]


def test_the_reduced_tree_has_what_stays() -> None:
    base = base_of({"old": OLD})
    reduced = ReducedTree(base.tree, find_removal(base, ["old"]).owners)
    assert reduced.get(f"{SITE}/old/data.txt") is None
    assert reduced.read_text(f"{SITE}/old-1.0.dist-info/RECORD") is None
    assert [item.path for item in reduced.under(f"{SITE}/old") if item.type == "file"] == [
        f"{SITE}/old/__pycache__/foreign.cpython-311.pyc"
    ]


PATHS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=3).map(lambda parts: "/s/" + "/".join(parts))


def plain(paths: list[str]) -> list[str]:
    """Without paths that another needs as a folder."""
    return sorted({path for path in paths if not any(other.startswith(f"{path}/") for other in paths)})


def apply_layer(files: set[str], whiteouts: Sequence[str], brought: Sequence[str]) -> set[str]:
    """What a runtime makes of it."""
    left = {path for path in files if not any(path == gone or path.startswith(f"{gone}/") for gone in whiteouts)}
    left = {path for path in left if not any(path == new or path.startswith(f"{new}/") or new.startswith(f"{path}/") for new in brought)}
    return left | set(brought)


@given(st.lists(PATHS, max_size=8).map(plain), st.lists(PATHS, max_size=6).map(plain), st.data())
def test_any_layer_leaves_what_a_deletion_and_an_installation_leave(below: list[str], brought: list[str], data: st.DataObject) -> None:
    removed = set(data.draw(st.lists(st.sampled_from(below), unique=True))) if below else set()
    tree = tree_of(below)
    folders = {str(parent) for path in removed for parent in Path(path).parents if str(parent) not in ("/", "/s")}
    removal = Removal(dict.fromkeys(sorted(removed), "old"), tuple(sorted(folders, key=lambda path: (-path.count("/"), path))))
    whiteouts = find_whiteouts(removal, brought, tree)
    kept = {
        path
        for path in set(below) - removed
        if not any(path == new or path.startswith(f"{new}/") or new.startswith(f"{path}/") for new in brought)
    }
    assert apply_layer(set(below), list(whiteouts), brought) == kept | set(brought)
    needed = {*brought, *(str(parent) for path in brought for parent in Path(path).parents)}
    assert not needed & whiteouts.keys()
    assert not any(one != other and one.startswith(f"{other}/") for one in whiteouts for other in whiteouts)
    assert all(path in removed or is_emptied(tree, path, removed) for path in whiteouts)


# Only what comes before pip and after it: pip itself is another program's test.
_INSTALL = """
import runpy, sys, types
pip = types.ModuleType("pip")
source = open(sys.argv[1]).read()
path, written = sys.argv[2:]
sys.argv = ["install.py", "--removal=" + path, ROOT, "--", "install"]
real = runpy.run_module
def run(name, **options):
    for item in WRITTEN:
        item = __import__("pathlib").Path(item)
        item.parent.mkdir(parents=True, exist_ok=True)
        item.write_text("new")
runpy.run_module = run
exec(compile(source, "install.py", "exec"), {"__name__": "__main__", "__file__": written + "install.py"})
"""


def test_the_program_of_a_container_build_does_the_same(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name in ("old/__init__.py", "old/gone/x.py", "kept/__init__.py", "old-1.0.dist-info/RECORD", "mixed/old.py", "mixed/theirs.py"):
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text("old")
    (site / "old").chmod(0o2775)
    files = [str(site / name) for name in ("old/__init__.py", "old/gone/x.py", "old-1.0.dist-info/RECORD", "mixed/old.py")]
    folders = [str(site / name) for name in ("old/gone", "mixed", "old", "old-1.0.dist-info")]
    (tmp_path / "removal.json").write_text(render_removal(Removal(dict.fromkeys(files, "old"), tuple(folders))))
    code = _INSTALL.replace("ROOT", repr(str(site))).replace(
        "WRITTEN", repr([str(site / "old/__init__.py"), str(site / "old-2.0.dist-info/RECORD")])
    )
    program = Path(__file__).parents[2] / "imagebuild" / "payload" / "pip_run.py"
    command = [sys.executable, "-c", code, str(program), str(tmp_path / "removal.json"), ""]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    left = sorted(str(path.relative_to(site)) for path in site.rglob("*") if path.is_file())
    assert left == ["kept/__init__.py", "mixed/theirs.py", "old-2.0.dist-info/RECORD", "old/__init__.py"]
    assert not (site / "old/gone").exists()
    assert (site / "old").stat().st_mode & 0o7777 == 0o2775
