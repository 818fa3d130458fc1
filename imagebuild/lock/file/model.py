"""The lock as a value. Its file form is :mod:`imagebuild.lock.file.lockfile` (PEP 751)."""

from __future__ import annotations

import msgspec

from imagebuild.text import name_quarter

LOCK_FORMAT = 1


class BuildWheel(msgspec.Struct, frozen=True):
    """A wheel that a build from source needs, and the image does not."""

    name: str  # normalised
    version: str
    filename: str
    sha256: str
    size: int
    index: str


class SourceArchive(msgspec.Struct, frozen=True):
    """The archive (PEP 625) that a wheel was built from, inside the base, and what that took."""

    filename: str
    sha256: str
    size: int
    requires: tuple[BuildWheel, ...] = ()  # sorted by name


class SourceRules(msgspec.Struct, frozen=True):
    """``[source]`` of team.toml: what may be built inside the base where no index has a wheel, and with what."""

    packages: frozenset[str] = frozenset()  # normalised names
    system: tuple[str, ...] = ()  # Debian packages for the build; none of them reaches the image
    requires: tuple[str, ...] = ()  # requirements that join those of each archive's own pyproject.toml


class LockedPackage(msgspec.Struct, frozen=True):
    """One wheel. Sizes are in bytes."""

    name: str  # normalised (PEP 503)
    version: str
    filename: str  # the wheel's file name; `path` in the lock file
    sha256: str  # 64 hex digits
    size: int  # of the wheel file
    installed_size: int  # of its files, unpacked, without bytecode
    index: str  # the index's name, or "local" for a source tree of the team
    upload_time: str = ""  # RFC 3339, where the index gives it
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()  # normalised names of locked packages it needs
    via: tuple[str, ...] = ()  # who asked: "requirements.in" or names
    tree: str = ""  # local packages: sha256 of the source tree
    source: SourceArchive | None = None  # built from it: no index has the wheel
    url: str | None = None  # index "url": the address that requirements.in names
    yanked: str | None = None  # why its index had withdrawn the file when it was locked; such a file is only taken when pinned


class Lock(msgspec.Struct, frozen=True):
    """``lockfiles/pylock.<team>.toml``."""

    team: str
    base: str  # catalogue name
    base_digest: str  # the base it was made against (may move while the fingerprint stays)
    base_fingerprint: str
    python: str  # full version of the base's interpreter
    platform: str  # linux/amd64
    inputs: dict[str, str]  # relative path -> sha256 hex: requirements.in, each local source tree
    resolver: str  # "pip-tools 7.6.2"
    cutoff: str  # RFC 3339 in UTC, seconds: 2026-10-01T00:00:00Z
    packages: tuple[LockedPackage, ...]  # sorted by name
    satisfied: tuple[str, ...] = ()  # name==version that the base already has and the resolution used
    exclude: tuple[str, ...] = ()  # [resolve] of team.toml: names that nobody got
    override: tuple[str, ...] = ()  # and requirements that stood instead of what anybody asked
    rewritten: tuple[str, ...] = ()  # whose needs that changed: ``a 1.0 needs b>=2: left out``
    format: int = LOCK_FORMAT

    @property
    def quarter(self) -> str:
        """``2026q4``, of the cutoff."""
        return name_quarter(self.cutoff)
