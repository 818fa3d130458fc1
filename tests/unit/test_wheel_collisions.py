"""Whose a path is that several packages bring, and wheels without what is another's."""

from __future__ import annotations

import csv
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import BuildError
from imagebuild.wheel.collisions import (
    Collision,
    SiteLayout,
    divide_wheels,
    explain_collisions,
    find_owner,
    settle_path,
    write_adapted_wheel,
)
from imagebuild.wheel.faults import count_record_faults
from tests.support.builders import make_host_interpreter, make_wheel

PYTHON = make_host_interpreter()
LAYOUT = SiteLayout(PYTHON.paths, PYTHON.version)


@pytest.mark.parametrize(
    ("files", "row", "owner"),
    [
        ({"databricks/__init__.py": "databricks-sdk"}, "databricks/__init__.py", "databricks-sdk"),
        ({"databricks/*": "databricks-sdk"}, "databricks/__init__.py", "databricks-sdk"),
        ({"databricks/*": "a", "databricks/__init__.py": "b"}, "databricks/__init__.py", "b"),  # the path itself counts first
        ({"*/x.py": "a", "databricks/*": "b"}, "databricks/x.py", "a"),  # else the first pattern
        ({"cv2/*": "opencv-python"}, "cv2/data/haar.xml", "opencv-python"),
        ({"cv2": "opencv-python"}, "cv2/__init__.py", ""),
        ({}, "x.py", ""),
    ],
)
def test_the_owner_of_a_row(files: dict[str, str], row: str, owner: str) -> None:
    assert find_owner(files, row) == owner


@given(st.dictionaries(st.sampled_from("abcde"), st.integers(0, 2), min_size=1), st.sampled_from(["a", "b", "c", "z", ""]))
def test_a_path_has_one_owner_and_whoever_brings_other_content_yields(claims: dict[str, int], wanted: str) -> None:
    settled = settle_path("x", claims, {"x": wanted} if wanted else {})
    if len(set(claims.values())) == 1:
        assert settled == settle_path("x", claims, {})
    elif wanted not in claims:
        assert isinstance(settled, Collision)
        assert claims[settled.first] != claims[settled.second]
        assert settled.stranger == wanted
    else:
        assert not isinstance(settled, Collision)
        assert settled.owner == wanted
        assert settled.yielding == {name for name in claims if claims[name] != claims[wanted]}


@pytest.mark.parametrize(
    ("rows", "pattern"),
    [
        (["cv2/cv2.abi3.so"], "cv2/cv2.abi3.so"),
        (["cv2/__init__.py", "cv2/data/haar.xml"], "cv2/*"),
        (["cv2/__init__.py", "tests/test_a.py"], "cv2/__init__.py"),
        (["x.py", "y.py"], "x.py"),
        (["../../../bin/run", "../../../bin/walk"], "../../../bin/run"),
    ],
)
def test_the_hint_settles_all_of_one_folder(rows: list[str], pattern: str) -> None:
    error = explain_collisions([Collision(row, "one", "two") for row in rows])
    assert f'[files] "{pattern}" = "one"' in (error.hint or "")
    if pattern.endswith("*"):
        assert all(find_owner({pattern: "one"}, row) == "one" for row in rows)


def make_two(tmp_path: Path) -> dict[str, Path]:
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"1\n", "ns/same.py": b"s\n", "ns/one.py": b"", "tests/test_a.py": b"1"})
    two = make_wheel(tmp_path, "two", files={"two-1.0.data/purelib/ns/__init__.py": b"2\n", "ns/same.py": b"s\n", "tests/test_a.py": b"2"})
    return {"one": one, "two": two}


def test_a_collision_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"one and two both bring ns/__init__\.py, with different content") as caught:
        divide_wheels(make_two(tmp_path), {}, LAYOUT)
    assert '[files] "ns/__init__.py" = "one"' in caught.value.hint
    assert caught.value.details == ("one and two both bring tests/test_a.py, with different content",)


def test_the_loser_yields_and_what_slim_leaves_out_cannot_collide(tmp_path: Path) -> None:
    wheels = make_two(tmp_path)
    assert divide_wheels(wheels, {"ns/*": "two"}, LAYOUT, ("tests",)).yielded == {"one": {"ns/__init__.py"}}
    both = divide_wheels(wheels, {"ns/*": "one", "tests/*": "two", "other/*": "one", "ns/same.py": "two"}, LAYOUT)
    assert both.yielded == {"two": {"ns/__init__.py"}, "one": {"tests/test_a.py"}}
    assert both.idle == ("other/*", "ns/same.py")
    with pytest.raises(BuildError, match="tests/test_a"):
        divide_wheels(wheels, {"ns/*": "one"}, LAYOUT)


def test_the_same_checksum_and_size_are_not_the_same_content(tmp_path: Path) -> None:
    """A CRC is forged in no time; pip would let the last of the two win."""
    contents = [b"plumless", b"buckeroo"]  # one CRC-32, two words
    wheels = {name: make_wheel(tmp_path, name, files={"ns/x.py": data}) for name, data in zip(("one", "two"), contents, strict=True)}
    with pytest.raises(BuildError, match="both bring ns/x"):
        divide_wheels(wheels, {}, LAYOUT)


def test_scripts_of_either_kind_collide(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", entry_points="[console_scripts]\nrun = one:main\nalso = one:main\n")
    two = make_wheel(tmp_path, "two", files={"two-1.0.data/scripts/run": b"#!python\n"})
    row = "../../../bin/run"
    with pytest.raises(BuildError, match=r"one and two both bring \.\./\.\./\.\./bin/run"):
        divide_wheels({"one": one, "two": two}, {}, LAYOUT)
    assert divide_wheels({"one": one, "two": two}, {row: "two"}, LAYOUT).yielded == {"one": {row}}
    info, before = write_adapted_wheel(one, tmp_path / "a" / one.name, LAYOUT, frozenset({row}))
    assert (info, before) == ("one-1.0.dist-info", "[console_scripts]\nrun = one:main\nalso = one:main\n")
    with zipfile.ZipFile(tmp_path / "a" / one.name) as archive:
        assert archive.read(f"{info}/entry_points.txt") == b"[console_scripts]\nalso = one:main\n"
    assert write_adapted_wheel(two, tmp_path / "a" / two.name, LAYOUT, frozenset({row}))[1] == ""
    with zipfile.ZipFile(tmp_path / "a" / two.name) as archive:
        assert "two-1.0.data/scripts/run" not in archive.namelist()


def test_an_adapted_wheel_has_neither_file_nor_row_and_is_the_same_each_time(tmp_path: Path) -> None:
    wheels = make_two(tmp_path)
    for name in ("a", "b"):
        write_adapted_wheel(wheels["two"], tmp_path / name / wheels["two"].name, LAYOUT, frozenset({"ns/__init__.py"}))
    made = tmp_path / "a" / wheels["two"].name
    assert made.read_bytes() == (tmp_path / "b" / made.name).read_bytes()
    with zipfile.ZipFile(made) as archive, zipfile.ZipFile(wheels["two"]) as whole:
        gone = {"two-1.0.data/purelib/ns/__init__.py"}
        assert set(archive.namelist()) == set(whole.namelist()) - gone
        rows = [row[0] for row in csv.reader(archive.read("two-1.0.dist-info/RECORD").decode().splitlines())]
        assert set(rows) == set(archive.namelist())


@pytest.mark.slow
def test_pip_takes_a_wrong_record_over_and_an_adapted_wheel_has_a_true_one(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, modes={"demo/__init__.py": 0o100755}, record=b"demo/__init__.py,sha256=wrong,7\ndemo/ghost.c,,\n")
    write_adapted_wheel(wheel, tmp_path / "a" / wheel.name, LAYOUT)
    assert count_record_faults(wheel, python=PYTHON.version) > 0
    assert count_record_faults(tmp_path / "a" / wheel.name, python=PYTHON.version) == 0
    for path, right in ((wheel, False), (tmp_path / "a" / wheel.name, True)):
        folder = tmp_path / f"pip-{right}"
        options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, str(path)], check=True, timeout=300)
        record = (folder / "demo-1.0.dist-info" / "RECORD").read_text()
        assert ("sha256=wrong" not in record and "ghost" not in record) is right
        assert (folder / "demo" / "__init__.py").stat().st_mode & 0o111
