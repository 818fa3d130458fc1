"""What indexes say of whole projects (PEP 792: archived, quarantined, deprecated), as their pages said when they were last read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from imagebuild.lock.index.pagecache import PageCache
from imagebuild.lock.index.routing import PackageIndex


class ProjectStatus(msgspec.Struct, frozen=True):
    """A project that is not simply active (PEP 792)."""

    name: str
    version: str  # that is locked
    status: str  # archived, quarantined, deprecated
    reason: str = ""

    def describe(self) -> str:
        """``six is archived (moved elsewhere)``."""
        return f"{self.name} is {self.status}" + (f" ({self.reason})" if self.reason else "")


class Placed(Protocol):
    """A package of an index, as a lock has it."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def index(self) -> str: ...


def recall_statuses(cache: Path, indexes: Sequence[PackageIndex], packages: Iterable[Placed]) -> tuple[ProjectStatus, ...]:
    """Of the packages whose pages are kept in ``cache``; asks no index."""
    kept = {index.name: PageCache(cache, index.address) for index in indexes if index.address}
    found = []
    for package in packages:
        page = kept[package.index].recall(package.name) if package.index in kept else None
        if page is not None and page.status:
            found.append(ProjectStatus(package.name, package.version, page.status, page.status_reason))
    return tuple(found)
