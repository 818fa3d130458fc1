"""What is kept of a base: the cache's folder of a digest, whole and checked or not there, and which manifest an index gave.

``cache/bases/<manifest hex>/`` holds ``manifest.json`` and ``config.json`` (bytes as received), ``inventory.json``,
``tree.sqlite``, ``facts.json`` and, where the base has a Python, ``rootfs/``. The folder is written aside and renamed when it is
whole. ``cache/bases/pins/`` remembers which manifest an index gave for a platform.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from imagebuild.base import runtime
from imagebuild.base.inventory import decode_inventory, encode_inventory
from imagebuild.base.model import Inventory
from imagebuild.base.runtime import Launch
from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.files import exclusive, fsync_directory, fsync_tree, hash_file, write_atomic
from imagebuild.oci.model import Digest, Manifest, Platform, RawManifest
from imagebuild.sealed import SealedCache

CACHE_FORMAT = 5  # of the folder; raise it when what is kept changes


class _Facts(msgspec.Struct, frozen=True):
    """What else the cache keeps: the folder's format, SHA-256 of what was derived, and how to start the interpreter."""

    format: int
    inventory: str
    tree: str
    launch: Launch | None = None
    check: str = ""


_FACTS = SealedCache(_Facts)


def write_documents(folder: Path, raw: RawManifest, config_data: bytes, inventory: Inventory, launch: Launch | None) -> None:
    """Beside ``tree.sqlite``, which is there: the documents, and last the facts that make the folder count."""
    (folder / "manifest.json").write_bytes(raw.data)
    (folder / "config.json").write_bytes(config_data)
    (folder / "inventory.json").write_bytes(encode_inventory(inventory))
    facts = _Facts(CACHE_FORMAT, hash_file(folder / "inventory.json"), hash_file(folder / "tree.sqlite"), launch)
    (folder / "facts.json").write_bytes(_FACTS.encode(facts))


def pin_path(bases: Path, pinned: Digest, platform: Platform) -> Path:
    """Where the cache remembers which manifest ``pinned`` (an index, or that manifest) gave for a platform."""
    return bases / "pins" / f"{pinned.hex}-{str(platform).replace('/', '-')}"


class CachedBase(msgspec.Struct, frozen=True):
    """The checked contents of one folder."""

    raw: RawManifest
    config_data: bytes
    inventory: Inventory
    launch: Launch | None
    folder: Path


def load_base(bases: Path, digest: Digest, media_type: str) -> CachedBase | None:
    """The finished folder of ``digest``, or None: not there, of an older format, or damaged (then it is read again)."""
    folder = bases / digest.hex
    try:
        facts = _FACTS.read(folder / "facts.json")
        if facts is None or facts.format != CACHE_FORMAT or hash_file(folder / "tree.sqlite") != facts.tree:
            return None
        if facts.launch is not None and not (folder / "rootfs" / facts.launch.executable).is_file():
            return None
        raw = RawManifest((folder / "manifest.json").read_bytes(), media_type)
        if raw.digest != digest:
            return None
        manifest = raw.parse()
        config_data = (folder / "config.json").read_bytes()
        if not isinstance(manifest, Manifest) or Digest.of(config_data) != manifest.config.digest:
            return None
        if hash_file(folder / "inventory.json") != facts.inventory:
            return None
        inventory = decode_inventory((folder / "inventory.json").read_bytes())
        if inventory.interpreter is not None and facts.launch is None and runtime.runs_here(inventory.platform):
            return None  # described from its files on a machine that could not run it; this one can
        return CachedBase(raw, config_data, inventory, facts.launch, folder)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, msgspec.DecodeError, ConfigurationError, IntegrityError):
        return None


def read_pin(bases: Path, pinned: Digest, platform: Platform) -> tuple[Digest, str] | None:
    """Digest and media type of the manifest that ``pinned`` gave; None where that is not known."""
    try:
        digest, _, media_type = pin_path(bases, pinned, platform).read_text(encoding="ascii").strip().partition(" ")
        return Digest(digest), media_type
    except (FileNotFoundError, UnicodeDecodeError, IntegrityError):
        return None


def write_pin(bases: Path, pinned: Digest, platform: Platform, raw: RawManifest) -> None:
    """Remember that ``pinned`` gave ``raw``."""
    write_atomic(pin_path(bases, pinned, platform), f"{raw.digest} {raw.media_type}\n".encode())


def hold_base(bases: Path, digest: Digest) -> AbstractContextManager[bool]:
    """Held by whoever fills the folder of ``digest``: one at a time."""
    return exclusive(bases / f"{digest.hex}.lock")


def store_folder(bases: Path, digest: Digest, fill: Callable[[Path], None]) -> None:
    """Have ``fill`` make the folder aside and rename it; the caller holds the lock, so what lies aside is stale."""
    final, aside = bases / digest.hex, bases / f".tmp-{digest.hex}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        fill(aside)
        fsync_tree(aside)  # before the rename makes it count; not os.sync(), which waits for everybody else's writes too
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        fsync_directory(bases)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
