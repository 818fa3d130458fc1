"""Where the starter base is in the layout folder."""

from __future__ import annotations

from imagebuild import annotations as names
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.starter.lockfile import read_cutoff

REPOSITORY = "bases/starter"
TAG = "latest"


def find_starter(layout: LayoutStore) -> Digest | None:
    """The digest of the starter base that the layout holds, or None."""
    descriptor = layout.head_manifest(REPOSITORY, TAG)
    return descriptor.id if descriptor is not None else None


def is_current(layout: LayoutStore, starter: Digest) -> bool:
    """Whether ``starter`` was built from the lock that this program ships: an upgrade may bring another one."""
    raw = layout.get_manifest(REPOSITORY, starter)
    return raw is not None and raw.parse().annotations.get(names.CREATED) == read_cutoff()
