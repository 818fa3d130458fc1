"""[resolve] exclude and override, as uv means them: on requirements and on METADATA."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement

from imagebuild.lock.inputs.metadata import read_requires
from imagebuild.lock.inputs.resolverules import NO_RULES, make_rules

RULES = make_rules(["OpenCV_Python"], ["numpy>=2,<3", "pillow; python_version >= '3.10'"])


@pytest.mark.parametrize(
    ("need", "instead"),
    [
        ("opencv-python>=4", []),
        ("opencv.python", []),
        ("numpy<2", ["numpy<3,>=2"]),
        ("NumPy<2; python_version < '3.8'", ["numpy<3,>=2"]),  # as uv: the marker goes with what is overridden
        ("numpy<2; extra == 'fast'", ['numpy<3,>=2; extra == "fast"']),  # but for the extra
        ("pillow==9; python_version < '3.12' and extra == 'images'", ['pillow; python_version >= "3.10" and extra == "images"']),
        ("scipy>1", ["scipy>1"]),
    ],
)
def test_what_stands_for_a_requirement(need: str, instead: list[str]) -> None:
    assert [str(item) for item in RULES.rewrite(Requirement(need))] == [str(Requirement(item)) for item in instead]


def test_metadata_is_rewritten_line_by_line() -> None:
    metadata = (
        b"Metadata-Version: 2.1\nName: a\nVersion: 1.0\nRequires-Dist: opencv-python\nRequires-Dist: numpy\n <2\nRequires-Dist: broken >=\n"
        b"Requires-Dist: scipy>1\n\nRequires-Dist: numpy is prose here\n"
    )
    found = RULES.rewrite_metadata(metadata)
    assert [str(item) for item in read_requires(found)] == ["numpy<3,>=2", "scipy>1"]
    assert b"Requires-Dist: broken >=\n" in found
    assert found.endswith(b"\n\nRequires-Dist: numpy is prose here\n")
    assert NO_RULES.rewrite_metadata(metadata) == metadata


@given(st.binary(max_size=400))
def test_no_metadata_is_too_odd(data: bytes) -> None:
    assert isinstance(RULES.rewrite_metadata(b"Requires-Dist: " + data), bytes)


def test_what_the_lock_says_of_it() -> None:
    assert RULES.excluded == ("opencv-python",)
    assert RULES.overriding == ("numpy<3,>=2", 'pillow; python_version >= "3.10"')
    lines = RULES.describe("a 1.0", [Requirement("numpy<2"), Requirement("opencv-python"), Requirement("scipy")])
    assert lines == ["a 1.0 needs numpy<2: numpy<3,>=2", "a 1.0 needs opencv-python: left out"]


def test_what_is_no_rule() -> None:
    with pytest.raises(InvalidRequirement):
        make_rules([], ["numpy >"])
    with pytest.raises(ValueError, match="is a URL"):
        make_rules([], ["numpy @ https://files.example/numpy-1.0-py3-none-any.whl"])
    with pytest.raises(ValueError, match="numpy is excluded and overridden"):
        make_rules(["numpy"], ["NumPy>=2"])
