"""The starter's lock, which ships with this program: where it is, and what a starter base is known by. Standard library only."""

from __future__ import annotations

import re
from pathlib import Path

LOCKFILE = Path(__file__).parent / "pylock.toml"


def read_cutoff() -> str:
    """The cutoff of the starter's lock, which is what a starter base is known by."""
    # By its line: to parse the whole lock takes a tenth of a second, and every run asks.
    found = re.search(r'^cutoff = "([^"]+)"$', LOCKFILE.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else ""
