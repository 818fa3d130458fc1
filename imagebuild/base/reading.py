"""Reading a base: once per digest, every layer once, in bounded memory; afterwards from the cache, with no request."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imagebuild.base import runtime
from imagebuild.base.cache import load_base, read_pin, write_pin
from imagebuild.base.inventory import require_platform
from imagebuild.base.model import Base
from imagebuild.base.runtime import CutRuntime
from imagebuild.base.tree import SqliteTree
from imagebuild.errors import ConfigurationError
from imagebuild.files import explain_os_error
from imagebuild.oci.model import Digest, ImageConfig, Manifest, Platform
from imagebuild.oci.store import Store

if TYPE_CHECKING:
    from imagebuild.base.sharing import SharedBases


class BaseNames(msgspec.Struct, frozen=True):
    """What a base is called; goes into :class:`imagebuild.base.model.Base` as it is."""

    name: str  # of the catalogue
    kind: str
    reference: str
    registry: str


def read_base(
    store: Store,
    repository: str,
    pinned: Digest,
    platform: Platform,
    names: BaseNames,
    *,
    cache: Path,
    report: Callable[[str], None],
    shared: SharedBases | None = None,
) -> Base:
    """All about the base that ``pinned`` (an index or a manifest) is for ``platform``.

    The first read of a digest streams every layer from ``store``; later ones make no request at all. ``report`` gets lines
    of progress. ``shared``: what other machines read is taken, and what is read here is given.
    """
    bases = cache / "bases"
    try:
        known = read_pin(bases, pinned, platform)
        cached = load_base(bases, *known) if known else None
        if cached is None and shared is not None:
            cached = shared.recall(pinned, platform)
        if cached is None:
            from imagebuild.base.streaming import read_through

            cached = read_through(store, repository, pinned, platform, bases, report, shared)
            if cached.folder.parent == bases:
                write_pin(bases, pinned, platform, cached.raw)
        if shared is not None:
            shared.give(cached)
    except OSError as error:
        raise explain_os_error(error, f"reading the base {names.name}") from error
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"cannot keep what was read of the base {names.name} in {bases}: {error}", "free some disk, or point --cache-dir elsewhere"
        ) from error
    config = ImageConfig.parse(cached.config_data)
    require_platform(config, platform, f"{repository}@{pinned}")
    manifest = cached.raw.parse()
    assert isinstance(manifest, Manifest)
    return Base(
        name=names.name,
        kind=names.kind,
        reference=names.reference,
        registry=names.registry,
        repository=repository,
        pinned=pinned,
        manifest=manifest,
        config=config,
        config_data=cached.config_data,
        inventory=cached.inventory,
        tree=SqliteTree(cached.folder / "tree.sqlite"),
        runtime=CutRuntime(cached.folder, cached.launch) if cached.launch and runtime.runs_here(config.platform) else None,
    )
