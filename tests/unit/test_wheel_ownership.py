"""Whose a path is that two packages bring, and wheels without what is another's."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest

from imagebuild.errors import BuildError
from imagebuild.wheel.ownership import find_owner, find_yielded, write_reduced_wheel
from tests.layer_parts import make_wheel


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


def make_two(tmp_path: Path) -> dict[str, Path]:
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"1\n", "ns/same.py": b"s\n", "ns/one.py": b"", "tests/test_a.py": b"1"})
    two = make_wheel(tmp_path, "two", files={"two-1.0.data/purelib/ns/__init__.py": b"2\n", "ns/same.py": b"s\n", "tests/test_a.py": b"2"})
    return {"one": one, "two": two}


def test_a_collision_says_what_to_write(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"one and two both bring ns/__init__\.py, with different content") as caught:
        find_yielded(make_two(tmp_path), {})
    assert '[files] "ns/__init__.py" = "one"' in caught.value.hint
    assert caught.value.details == ("one and two both bring tests/test_a.py, with different content",)


def test_the_loser_yields_and_what_slim_leaves_out_cannot_collide(tmp_path: Path) -> None:
    wheels = make_two(tmp_path)
    assert find_yielded(wheels, {"ns/*": "two"}, ("tests",)) == {"one": {"ns/__init__.py"}}
    assert find_yielded(wheels, {"ns/*": "one", "tests/*": "two"}) == {"two": {"ns/__init__.py"}, "one": {"tests/test_a.py"}}
    with pytest.raises(BuildError, match="tests/test_a"):
        find_yielded(wheels, {"ns/*": "one"})


def test_a_reduced_wheel_has_neither_file_nor_row_and_is_the_same_each_time(tmp_path: Path) -> None:
    wheels = make_two(tmp_path)
    for name in ("a", "b"):
        write_reduced_wheel(wheels["two"], tmp_path / name / wheels["two"].name, frozenset({"ns/__init__.py"}))
    made = tmp_path / "a" / wheels["two"].name
    assert made.read_bytes() == (tmp_path / "b" / made.name).read_bytes()
    with zipfile.ZipFile(made) as archive, zipfile.ZipFile(wheels["two"]) as whole:
        gone = {"two-1.0.data/purelib/ns/__init__.py"}
        assert set(archive.namelist()) == set(whole.namelist()) - gone
        rows = [row[0] for row in csv.reader(archive.read("two-1.0.dist-info/RECORD").decode().splitlines())]
        assert set(rows) == set(archive.namelist())
