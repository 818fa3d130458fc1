"""Add-ons and their lock as values: R packages (kind ``r``) and VS Code extensions (kind ``vscode``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from imagebuild.base.model import Base
from imagebuild.base.sourceorder import BuildSource
from imagebuild.lock.index.routing import LOCAL_NAME, PackageIndex

ADDON_LOCK_FORMAT = 1

AddonKind = Literal["r", "vscode"]
ADDON_KINDS: tuple[AddonKind, ...] = ("r", "vscode")
Form = Literal["binary", "source", "extension"]


class SourceOf(msgspec.Struct, frozen=True):
    """The source archive that an add-on was built from, inside the base; it comes from the add-on's index."""

    filename: str
    sha256: str  # 64 hex digits
    size: int  # bytes


class Addon(msgspec.Struct, frozen=True, omit_defaults=True, rename="kebab"):
    """One locked add-on: an archive, and the folder it is unpacked into."""

    name: str  # as its users write it: data.table; extensions in lower case: ms-python.python
    version: str
    filename: str  # of the archive that is unpacked
    sha256: str  # of that archive, 64 hex digits
    size: int  # bytes of that archive
    installed: int  # bytes of the files it becomes
    folder: str  # the add-on's own folder in the image, absolute, links of the base followed
    form: Form
    index: str = LOCAL_NAME  # [[index]] by name; local: a file in the team's folder
    needs: tuple[str, ...] = ()  # locked add-ons of the same kind that it asks for
    via: tuple[str, ...] = ()  # who asks for it: a file of the team, or add-ons
    platform: str = ""  # linux-x64, x86_64-pc-linux-gnu; empty for one that fits every platform
    licence: str = ""  # as its metadata says
    released: str = ""  # RFC 3339; empty where its index does not say
    tree: str = ""  # SHA-256 of its files' paths and hashes (addons/unpacking.hash_tree): what verify compares
    source: SourceOf | None = None


class AddonLock(msgspec.Struct, frozen=True, rename="kebab"):
    """The add-ons of one kind that a team adds to its base."""

    kind: AddonKind
    team: str
    base: str  # of the catalogue
    cutoff: str  # RFC 3339, UTC
    against: dict[str, str]  # what of the base the lock relies on; see AddonRules.describe_base
    inputs: dict[str, str]  # what it was made from, by path relative to the root -> sha256 in hex
    addons: tuple[Addon, ...] = msgspec.field(name="addon", default=())  # sorted by name; the file has [[addon]]
    satisfied: tuple[str, ...] = ()  # name==version that is asked for and in the base already
    format: int = ADDON_LOCK_FORMAT


class Wish(msgspec.Struct, frozen=True):
    """What a team asks for, as written, and where."""

    text: str  # data.table, xgboost>=1.7, ms-python.python==2026.2.0
    where: str  # team.toml, packages.R.txt line 3


class AddonRequest(msgspec.Struct, frozen=True):
    """What the lock of one kind is made of."""

    team: str
    base: Base
    wishes: Sequence[Wish]
    files: Sequence[Path]  # archives in the team's folder
    indexes: Sequence[PackageIndex]  # those of the kind only
    cutoff: str
    explicit_cutoff: bool
    inputs: dict[str, str]  # for the lock, as they are
    cache: Path
    report: Callable[[str], object]
    existing: AddonLock | None = None  # its versions stay where they still fit
    replace: frozenset[str] = frozenset()  # names of the kind that may take the place of the base's
    system: tuple[str, ...] = ()  # Debian packages that the team adds to its image
    build: BuildSource | None = None  # kind r


class FetchRequest(msgspec.Struct, frozen=True):
    """What is needed to get the archives of a lock onto this disk."""

    lock: AddonLock
    base: Base
    indexes: Sequence[PackageIndex]
    cache: Path
    files: Sequence[Path] = ()  # archives in the team's folder
    report: Callable[[str], object] = str
    offline: bool = False
    build: BuildSource | None = None  # kind r


class AddonRules(msgspec.Struct, frozen=True):
    """What one kind of add-ons can do; the pipeline has one of them for each kind."""

    title: str  # R package, VS Code extension
    index_kind: str  # of the [[index]] tables it comes from
    describe_base: Callable[[Base], dict[str, str]]  # all that a lock may rely on; ConfigurationError where the kind cannot be used
    compile_lock: Callable[[AddonRequest], AddonLock]  # writes nothing but the cache
    fetch: Callable[[FetchRequest], dict[str, Path]]  # each add-on's archive on this disk, by name, its hash compared with the lock's


class PlacedArchive(msgspec.Struct, frozen=True):
    """An add-on as an image's recipe has it: all that decides its bytes."""

    kind: AddonKind
    name: str
    version: str
    filename: str
    sha256: str
    folder: str
    tree: str = ""

    @property
    def package(self) -> str:
        """What accounts call it."""
        return name_addon(self.kind, self.name)

    @property
    def strip(self) -> str:
        """The folder in the archive whose contents are the add-on."""
        return "extension/" if self.kind == "vscode" else f"{self.name}/"


def index_folders(addons: Sequence[PlacedArchive]) -> dict[str, tuple[str, str]]:
    """Folder -> name in accounts, and version."""
    return {item.folder: (item.package, item.version) for item in addons}


def place_addons(locks: Sequence[AddonLock]) -> tuple[PlacedArchive, ...]:
    """What the add-ons of some locks are in a recipe, sorted."""
    found = [
        PlacedArchive(lock.kind, item.name, item.version, item.filename, item.sha256, item.folder, item.tree)
        for lock in locks
        for item in lock.addons
    ]
    return tuple(sorted(found, key=lambda item: item.package))


def name_addon(kind: str, name: str) -> str:
    """``r:data.table``, ``vscode:ms-python.python``: no name of a Python package has a colon."""
    return f"{kind}:{name}"


def list_needs(locks: Sequence[AddonLock]) -> dict[str, tuple[str, ...]]:
    """What each add-on needs of the others, all by the name that accounts have."""
    return {
        name_addon(lock.kind, item.name): tuple(name_addon(lock.kind, name) for name in item.needs)
        for lock in locks
        for item in lock.addons
    }


def list_askers(locks: Sequence[AddonLock]) -> dict[str, tuple[str, ...]]:
    """Who asks for each add-on, add-ons by the name that accounts have."""
    found = {}
    for lock in locks:
        names = {item.name for item in lock.addons}
        for item in lock.addons:
            found[name_addon(lock.kind, item.name)] = tuple(name_addon(lock.kind, name) if name in names else name for name in item.via)
    return found


def find_changes(lock: AddonLock, facts: dict[str, str], inputs: dict[str, str]) -> list[str]:
    """Why the lock no longer fits: what of the base and of the team's files is another, as clauses; empty for one that is fresh."""
    found = [
        f"{key} of the base was {value} and is {facts.get(key) or 'gone'}" for key, value in lock.against.items() if facts.get(key) != value
    ]
    found += [f"{key} {_tell_change(lock.inputs.get(key), inputs.get(key))}" for key in sorted({*lock.inputs, *inputs})
              if lock.inputs.get(key) != inputs.get(key)]  # fmt: skip
    return found


def _tell_change(before: Any, now: Any) -> str:
    return "is new" if before is None else "is gone" if now is None else "changed"
