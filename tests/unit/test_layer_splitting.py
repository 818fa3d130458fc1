"""Which packages share a layer: by size and upload time, the same from any order, and never more layers than an image may have."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.annotations import LAYERS, count_team_layers
from imagebuild.errors import IntegrityError
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.invariants import TarEntries, check_layers
from imagebuild.layer.model import Codec, ExtraFile, TeamLayers
from imagebuild.layer.removal import Removal
from imagebuild.layer.splitting import LARGE_ARCHIVE, MOST_LAYERS, Share, divide_packages
from tests.support.builders import lock_wheel, make_host_base, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree, file, folder
from tests.unit.test_layer_assembly import read

MIB = 1 << 20


def package(name: str, uploaded: str = "", mib: float = 1) -> Share:
    return Share(name, int(mib * MIB), uploaded)


def test_large_wheels_lie_alone_and_small_ones_by_the_quarter_of_their_upload() -> None:
    packages = [
        package("own"),  # a local package has no upload time
        package("torch", "2025-05-01T00:00:00Z", 800),
        package("exactly", "2025-06-30T23:59:59Z", 16),
        package("numpy", "2025-04-02T00:00:00.123456Z", 20),
        package("six", "2024-12-05T00:00:00Z"),
        package("click", "2025-04-01T01:00:00+02:00"),  # in UTC it is still March
        package("pytz", "2025-04-01T00:00:00Z"),
        package("scipy", "2025-07-01T00:00:00Z", 35),
    ]
    expected = (("six",), ("click",), ("numpy",), ("torch",), ("exactly", "pytz"), ("scipy",), ("own",))
    assert divide_packages(packages, below=20) == expected
    random.Random(1).shuffle(packages)
    assert divide_packages(packages, below=20) == expected


def test_what_is_deleted_and_what_is_the_team_s_own_has_a_layer_of_its_own() -> None:
    packages = [package("six", "2024-12-05T00:00:00Z")]
    assert divide_packages(packages, below=1, deletes=True, extra=True) == ((), ("six",), ())
    assert divide_packages([], below=1) == ()
    assert divide_packages([], below=1, extra=True) == ((),)
    assert divide_packages([package("six", "0001-01-01T00:00:00+14:00"), package("click", "soon")], below=1) == (("click", "six"),)


def test_one_new_release_changes_no_other_group() -> None:
    packages = [package(f"part{number}", f"20{10 + number // 8}-{1 + 3 * (number // 2 % 4):02}-01T00:00:00Z") for number in range(40)]
    before = divide_packages(packages, below=20, extra=True)
    packages[7] = package("part7", "2026-11-01T00:00:00Z")
    after = divide_packages(packages, below=20, extra=True)
    assert set(before) - set(after) == {("part6", "part7")}
    assert [group for group in before if group in after] == [group for group in after if group in before]
    assert (after[3], after[-2:]) == (("part6",), (("part7",), ()))


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from(["", "2024-01-01T00:00:00Z", "2025-08-09T00:00:00Z", "no time"]), st.integers(0, 40)), max_size=300),
    st.integers(0, 200),
    st.booleans(),
    st.booleans(),
)
def test_each_package_has_one_layer_and_an_image_never_too_many(
    facts: list[tuple[str, int]], below: int, deletes: bool, extra: bool
) -> None:
    packages = [package(f"p{number}", uploaded, mib) for number, (uploaded, mib) in enumerate(facts)]
    groups = divide_packages(packages, below=below, deletes=deletes, extra=extra)
    assert sorted(name for group in groups for name in group) == sorted(item.name for item in packages)
    assert len(groups) <= max(1, MOST_LAYERS - below)
    if below + len(packages) + 6 <= MOST_LAYERS:
        alone = [group for group in groups if any(item.size > LARGE_ARCHIVE for item in packages if item.name in group)]
        assert all(len(group) == 1 for group in alone)
    assert divide_packages(packages[::-1], below=below, deletes=deletes, extra=extra) == groups


@pytest.mark.parametrize(("noted", "count"), [("", 1), ("3", 3), ("0", 1), ("9", 5), ("-1", 1), ("x", 1), ("٣", 1), ("1" * 4000, 1)])
def test_a_noted_count_is_anybody_s_text(noted: str, count: int) -> None:
    assert count_team_layers({LAYERS: noted} if noted else {}, 5) == count


WHEELS = {
    "one": {"one/__init__.py": b"x = 1\n", "space/one.py": b"a = 1\n"},
    "two": {"two.py": b"y = 2\n", "space/two.py": b"b = 2\n"},
    "three": {"three.py": b"z = 3\n", "old/a.py": b"new\n"},
}
OLD = (folder(f"{SITE}/old"), file(f"{SITE}/old/a.py"), file(f"{SITE}/old/b.py"), folder(f"{SITE}/gone"), file(f"{SITE}/gone/c.py"))
TREE = MemoryTree((*USUAL, *OLD))
REMOVAL = Removal({f"{SITE}/old/a.py": "old", f"{SITE}/old/b.py": "old", f"{SITE}/gone/c.py": "old"}, (f"{SITE}/gone", f"{SITE}/old"))
EXTRA = (ExtraFile("/etc/team.txt", b"hello"),)


def build(tmp_path: Path, groups: tuple[tuple[str, ...], ...], **changes: Any) -> TeamLayers:
    wheels = [make_wheel(tmp_path, name, files=files) for name, files in WHEELS.items()]
    out = Path(tempfile.mkdtemp(dir=tmp_path)) / "layer"
    base = make_host_base(TREE, runtime=HostRuntime())
    audit = TarEntries(base, EXTRA, frozenset(REMOVAL.owners))
    options: dict[str, Any] = {"codec": Codec(), "extra": EXTRA, "removal": REMOVAL, "inspector": audit, **changes}
    made = build_layers(
        [(wheel, lock_wheel(wheel)) for wheel in wheels], base=base, groups=groups, cache=tmp_path / "cache", out=out, **options
    )
    if options["inspector"] is not None:
        audit.finish()
    check_layers(made, base=base, extra=EXTRA, whiteouts=frozenset(REMOVAL.owners))
    return made


@pytest.mark.parametrize("codec", [Codec(), Codec("gzip", 1, single=True)])
def test_several_layers_have_together_what_one_has(tmp_path: Path, codec: Codec) -> None:
    changes: dict[str, Any] = {"codec": codec} | ({"inspector": None} if codec.single else {})
    one, several = build(tmp_path, (), **changes), build(tmp_path, ((), ("three",), ("one", "two"), ()), **changes)
    assert (len(one.layers), len(several.layers)) == (1, 4)
    whole = read(one.layers[0])
    parts = [read(layer) for layer in several.layers]
    union: dict[str, Any] = {}
    for part in parts:
        for path, entry in part.items():
            known = union.setdefault(path, entry)
            assert entry is known or (entry.isdir() and known.isdir())
            assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (known.mode, known.uid, known.gid, known.mtime)
    assert union.keys() == whole.keys()
    assert all(union[path].mode == whole[path].mode and union[path].size == whole[path].size for path in whole)
    # The lowest deletes, and does nothing else; the topmost has the team's own files, and no other has them.
    assert {path for path, entry in parts[0].items() if not entry.isdir()} == {f"{SITE}/.wh.gone", f"{SITE}/old/.wh.b.py"}
    assert [path for path, entry in parts[3].items() if not entry.isdir()] == ["/etc/team.txt"]
    assert {path.rpartition("/")[2] for path in parts[2] if path.endswith(".py")} == {"__init__.py", "one.py", "two.py"}
    assert several.installed == one.installed
    assert codec.single or several.packages == one.packages  # of one stream each package has its share
    assert {item.path: item for item in several.files} == {item.path: item for item in one.files}
    assert several.size == sum(layer.file.stat().st_size for layer in several.layers)


@pytest.mark.slow
def test_a_layer_does_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    first = build(tmp_path, ((), ("three",), ("one", "two"), ()))
    second = build(tmp_path, ((), ("three", "two"), ("one",), ()))
    third = build(tmp_path, ((), ("one", "two"), ("three",), ()))
    assert first.layers[1].digest != second.layers[1].digest
    assert {layer.digest for layer in first.layers} == {layer.digest for layer in third.layers}


def test_a_member_that_no_group_names_lies_on_top(tmp_path: Path) -> None:
    made = build(tmp_path, ((), ("one",), ("two",)))
    assert {item.package for item in made.layers[2].packages} == {"two", "three"}


def test_a_file_in_two_layers_is_a_finding(tmp_path: Path) -> None:
    base = make_host_base(TREE, runtime=HostRuntime())
    made = build(tmp_path, ((), ("three",), ("one", "two"), ()))
    twice = TeamLayers((*made.layers, made.layers[1]))
    with pytest.raises(IntegrityError, match=r"three.*: in a layer below as well"):
        check_layers(twice, base=base, extra=EXTRA, whiteouts=frozenset(REMOVAL.owners))
    late = TeamLayers((*made.layers[1:], made.layers[0]))  # deleting on top is the same tree, as long as nothing below is meant
    check_layers(late, base=base, extra=EXTRA, whiteouts=frozenset(REMOVAL.owners))
    with pytest.raises(IntegrityError, match=r"breaks 2 rules: .*/gone/c\.py: of a package that is replaced, and still there"):
        check_layers(TeamLayers(made.layers[1:]), base=base, extra=EXTRA, whiteouts=frozenset(REMOVAL.owners))
