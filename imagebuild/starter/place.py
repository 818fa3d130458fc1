"""Where the starter base is in the layout folder. Apart from what builds it, which is heavy to load and needed once."""

from __future__ import annotations

import re
from pathlib import Path

from imagebuild import annotations as names
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.oci.store import Presence

REPOSITORY = "bases/starter"
TAG = "latest"
LOCKFILE = Path(__file__).parent / "pylock.toml"


def find_starter(layout: LayoutStore) -> Digest | None:
    """The digest of the starter base that the layout holds, or None."""
    presence, descriptor = layout.head_manifest(REPOSITORY, TAG)
    return descriptor.id if presence is Presence.EXISTS and descriptor else None


def is_current(layout: LayoutStore, starter: Digest) -> bool:
    """Whether ``starter`` was built from the lock that this program ships: an upgrade may bring another one."""
    raw = layout.get_manifest(REPOSITORY, starter)
    return raw is not None and raw.parse().annotations.get(names.CREATED) == _read_cutoff()


def _read_cutoff() -> str:
    # By its line: to parse the whole lock takes a tenth of a second, and every run asks.
    found = re.search(r'^cutoff = "([^"]+)"$', LOCKFILE.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else ""
