"""What a base's own constraints for pip do not allow of a lock is said; everything else in such a file is passed over."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.base.model import Base
from imagebuild.lock.baseconstraints import find_disallowed
from tests.support.builders import make_base
from tests.support.trees import MemoryTree, file, link

PLACE = "/etc/pip/constraint.txt"
TEXT = b"""# ours
-i https://index.invalid/simple
torch==2.13.0a0+nv26.1
DuckDB<1.4  # tested
numpy>=1 ; python_version < "3.0"
six @ https://files.invalid/six.whl
"""


def constrained(text: bytes = TEXT, setting: str = PLACE) -> Base:
    tree = MemoryTree([file("/opt/pins.txt"), link(PLACE, "/opt/pins.txt")], {"/opt/pins.txt": text})
    return msgspec.structs.replace(make_base(env=(f"PIP_CONSTRAINT={setting}",)), tree=tree)


def test_a_version_that_is_not_allowed_is_named_with_the_way_out() -> None:
    (line,) = find_disallowed(constrained(), {"duckdb": "1.5.0", "pandas": "2.0"})
    assert line.startswith(f"the base scipy has constraints for pip ({PLACE}) that do not allow duckdb 1.5.0: ")
    assert line.endswith("Put into requirements.in: DuckDB<1.4")


@pytest.mark.parametrize(
    ("base", "packages"),
    [
        (constrained(), {"duckdb": "1.3.2", "torch": "2.13.0a0+nv26.1"}),
        (constrained(), {"numpy": "0.1", "six": "0.1"}),  # a marker that does not hold; a URL
        (constrained(setting="/nowhere.txt relative.txt"), {"duckdb": "1.5.0"}),
        (make_base(), {"duckdb": "1.5.0"}),
    ],
    ids=["kept", "passed-over", "not-there", "none"],
)
def test_nothing_else_is(base: Base, packages: dict[str, str]) -> None:
    assert find_disallowed(base, packages) == []


def test_both_files_count() -> None:
    base = constrained(setting=f"{PLACE} /opt/pins.txt")
    assert len(find_disallowed(base, {"duckdb": "1.5.0"})) == 2
