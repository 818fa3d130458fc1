"""Layers applied to the tree: against a model in memory, and each rule by name; links resolved inside the base."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.base.archive import Header
from imagebuild.base.tree import SqliteTree, TreeWriter
from imagebuild.errors import BuildError, IntegrityError

Operation = tuple[str, str, str]  # what, path, link


class Node:
    """A file, folder or link of the model."""

    def __init__(self, kind: str, layer: int, mark: int, link: str = "") -> None:
        self.kind, self.layer, self.mark, self.link = kind, layer, mark, link
        self.children: dict[str, Node] = {}


class Model:
    """The same rules on nested nodes: written for clearness, all in memory."""

    def __init__(self) -> None:
        self.root = Node("dir", -1, 0o755)
        self.layer = -1

    def enter(self, folder: str) -> Node:
        """The folder itself, through links, made where it is missing."""
        trail, left, hops = [self.root], folder.split("/"), 0
        while left:
            part = left.pop(0)
            if part in ("", "."):
                continue
            if part == "..":
                trail = trail[:-1] or [self.root]
                continue
            child = trail[-1].children.setdefault(part, Node("dir", self.layer, 0o755))
            if child.kind == "dir":
                trail.append(child)
            elif child.kind == "symlink":
                hops += 1
                if hops > 40:
                    raise IntegrityError("loop")
                left = child.link.split("/") + left
                if child.link.startswith("/"):
                    trail = [self.root]
            else:
                raise IntegrityError("not a folder")
        return trail[-1]

    def prune(self, folder: Node, name: str) -> None:
        """Remove what lower layers brought at ``name``; this layer's own entries stay."""
        node = folder.children.get(name)
        if node is None:
            return
        for child in list(node.children):
            self.prune(node, child)
        if node.layer < self.layer:
            if node.children:
                node.layer, node.mark = self.layer, 0o755
            else:
                del folder.children[name]

    def apply(self, operation: Operation, mark: int) -> None:
        what, path, link = operation
        folder, _, name = path.rpartition("/")
        if what == "opaque":
            node = self.enter(path)
            for child in list(node.children):
                self.prune(node, child)
            return
        parent = self.enter(folder)
        if what == "whiteout":
            self.prune(parent, name)
            return
        old = parent.children.get(name)
        new = Node(what, self.layer, mark, link)
        if old is not None and old.kind == what == "dir":
            new.children = old.children
        parent.children[name] = new

    def listing(self) -> dict[str, tuple[str, int, str]]:
        found: dict[str, tuple[str, int, str]] = {}

        def visit(node: Node, path: str) -> None:
            for name, child in node.children.items():
                found[f"{path}/{name}"] = (child.kind, child.mark, child.link)
                visit(child, f"{path}/{name}")

        visit(self.root, "")
        return found


def apply_layers(database: Path, layers: list[list[Operation]]) -> SqliteTree:
    writer = TreeWriter(database)
    mark = 0
    for layer in layers:
        writer.start_layer()
        for what, path, link in layer:
            mark += 1
            if what == "opaque":
                writer.remove_below(path.encode())
            elif what == "whiteout":
                writer.remove(path.encode())
            elif what == "hardlink":
                writer.add_hard_link(Header(path.encode(), "hardlink", 0, 0, 0, 0, link.encode()))
            else:
                writer.add(Header(path.encode(), what, mark, 0, 0, 0, link.encode()))
    writer.finish()
    return SqliteTree(database)


_PATH = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(lambda parts: "/" + "/".join(parts))
_LINK = st.sampled_from(["a", "b/c", "../b", "/c", "/a/b", "../../../a", "."])
_OPERATION = st.one_of(
    st.tuples(st.sampled_from(["file", "dir", "dir"]), _PATH, st.just("")),
    st.tuples(st.just("symlink"), _PATH, _LINK),
    st.tuples(st.sampled_from(["whiteout", "opaque"]), _PATH, st.just("")),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(_OPERATION, max_size=7), min_size=1, max_size=4))
def test_layers_give_the_models_tree(layers: list[list[Operation]]) -> None:
    model, failed, mark = Model(), False, 0
    try:
        for layer in layers:
            model.layer += 1
            for operation in layer:
                mark += 1
                model.apply(operation, mark)
    except IntegrityError:
        failed = True
    with tempfile.TemporaryDirectory() as folder:
        try:
            tree = apply_layers(Path(folder) / "tree.sqlite", layers)
        except IntegrityError:
            assert failed
            return
        assert not failed
        found = list(tree.under("/"))
        tree.close()
    assert {item.path: (item.type, item.mode, item.link) for item in found} == model.listing()
    assert [item.path for item in found] == sorted(item.path for item in found)


def paths(tree: SqliteTree) -> list[str]:
    return [item.path for item in tree.under("/")]


FILE, FOLDER, LINK, HARD, GONE, OPAQUE = "file", "dir", "symlink", "hardlink", "whiteout", "opaque"


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        pytest.param([[(FILE, "/a/x", ""), (FILE, "/a/y", "")], [(GONE, "/a/x", "")]], ["/a", "/a/y"], id="whiteout"),
        pytest.param([[(FILE, "/a/x", "")], [(GONE, "/a", "")]], [], id="whiteout-of-a-folder"),
        pytest.param([[(FILE, "/a/x", "")], [(FILE, "/a/n", ""), (OPAQUE, "/a", "")]], ["/a", "/a/n"], id="opaque-after-own-file"),
        pytest.param([[(FILE, "/a/x", "")], [(FILE, "/a/x", ""), (GONE, "/a/x", "")]], ["/a", "/a/x"], id="whiteout-spares-own-layer"),
        pytest.param([[(FILE, "/ab", ""), (FILE, "/a/x", ""), (FILE, "/a-b", "")], [(GONE, "/a", "")]], ["/a-b", "/ab"], id="similar"),
        pytest.param([[(FILE, "/a/x", "")], [(FILE, "/a", "")], [(FOLDER, "/a", "")]], ["/a"], id="file-in-between-hides-children"),
        pytest.param([[(FILE, "/u/x", ""), (LINK, "/l", "u")], [(FILE, "/l/y", "")]], ["/l", "/u", "/u/x", "/u/y"], id="through-link"),
        pytest.param([[(FILE, "/u/l/x", ""), (LINK, "/l", "u/l")], [(GONE, "/l/x", "")]], ["/l", "/u", "/u/l"], id="whiteout-through-link"),
        pytest.param([[(FILE, "/u", ""), (LINK, "/l", "u")], [(FOLDER, "/l", "")], [(FILE, "/l/y", "")]], ["/l", "/l/y", "/u"], id="cut"),
        pytest.param([[(FILE, "/a", "")], [(HARD, "/b", "/a"), (GONE, "/a", "")]], ["/b"], id="hard-link-outlives"),
    ],
)  # fmt: skip
def test_rules(tmp_path: Path, layers: list[list[Operation]], expected: list[str]) -> None:
    assert paths(apply_layers(tmp_path / "t", layers)) == expected


@pytest.mark.parametrize(
    "layer",
    [
        [(FILE, "/a", ""), (FILE, "/a/b", "")],
        [(LINK, "/a", "b"), (LINK, "/b", "a"), (FILE, "/a/x", "")],
        [(HARD, "/a", "/missing")],
        [(FOLDER, "/d", ""), (HARD, "/a", "/d")],
        [(FILE, "/", "")],
    ],
)
def test_impossible_layers_are_refused(tmp_path: Path, layer: list[Operation]) -> None:
    with pytest.raises(IntegrityError):
        apply_layers(tmp_path / "t", [layer])


def test_resolve_follows_links_inside_the_base_only(tmp_path: Path) -> None:
    tree = apply_layers(
        tmp_path / "tree",
        [
            [
                (FILE, "/usr/lib/x.so", ""),
                (LINK, "/lib", "usr/lib"),
                (LINK, "/usr/lib64", "/lib"),
                (LINK, "/usr/lib/y.so", "x.so"),
                (LINK, "/out", "../../../../usr"),
                (LINK, "/loop", "/loop"),
                (LINK, "/l1", "l2"),
                (LINK, "/l2", "l1"),
                (LINK, "/dangling", "nowhere/at/all"),
            ]
        ],
    )
    assert tree.resolve("/lib/x.so") == "/usr/lib/x.so"
    assert tree.resolve("/usr/lib64/new/file") == "/usr/lib/new/file"
    assert tree.resolve("/lib") == "/usr/lib"
    assert tree.resolve("/usr/lib64/") == "/usr/lib"
    assert tree.resolve("/lib/y.so") == "/usr/lib/y.so"  # a link to a file stays itself
    assert tree.resolve("/out/lib/../lib/x.so") == "/usr/lib/x.so"
    assert tree.resolve("/not/here") == "/not/here"
    assert tree.resolve("/dangling") == "/dangling"
    assert tree.resolve("/") == "/"
    end = tree.follow("/usr/lib64/y.so")
    assert end is not None
    assert end.path == "/usr/lib/x.so"
    assert tree.follow("/dangling") is None
    for looping in ("/loop", "/loop/x", "/l1", "/l2/deeper"):
        with pytest.raises(BuildError, match="loop"):
            tree.resolve(looping)


def test_root_folder_names_that_are_no_text_and_pickling(tmp_path: Path) -> None:
    writer = TreeWriter(tmp_path / "t")
    writer.start_layer()
    writer.add(Header(b"/", "dir", 0o711, 5, 6, 0))
    writer.add(Header(b"/caf\xe9", "file", 0o644, 0, 0, 3))
    writer.finish()
    tree = pickle.loads(pickle.dumps(SqliteTree(tmp_path / "t")))
    root = tree.get("/")
    assert (root.mode, root.uid, root.gid) == (0o711, 5, 6)
    (found,) = tree.under("/")
    assert found.path == "/caf\udce9"
    assert tree.get(found.path) == found
