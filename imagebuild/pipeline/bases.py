"""Bases, opened: pinned, read, or built here."""

from __future__ import annotations

from collections.abc import Callable

from imagebuild.base.model import Base
from imagebuild.base.pins import load_catalogue, require_pinned
from imagebuild.base.reading import BaseNames, read_base
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Digest, Platform
from imagebuild.oci.store import Store
from imagebuild.starter.place import find_starter, is_current
from imagebuild.workspace import Workspace


def do_nothing() -> None:
    """The usual ``meanwhile``."""


def open_base(workspace: Workspace, name: str, platform: Platform, *, meanwhile: Callable[[], object] = do_nothing) -> Base:
    """The catalogue's base ``name``, read (from the cache after the first time); an unpinned one is refused.

    ``meanwhile`` is called where the base has to be built first, while that waits for Debian's packages.
    """
    catalogue = load_catalogue(workspace.images / "catalogue.toml")
    entry = catalogue.get(name)
    workspace.prepare()
    if entry.build:
        given = workspace.bundled_base
        pinned = given[1] if given and given[0] == name else _open_starter(workspace, platform, meanwhile)
        store: Store = workspace.layout
    else:
        pin = require_pinned(entry)
        assert pin is not None  # only a base that is built here has none
        pinned = pin
    located = entry.located(catalogue.mirrors if workspace.mirrors is None else workspace.mirrors)
    if not entry.build:
        store = workspace.registry_store(located.registry)
    names = BaseNames(name, entry.kind, entry.annotation_name, located.registry)
    places = workspace.base_places
    shared = None
    if places is not None:
        from imagebuild.base.sharing import SharedBases

        shared = SharedBases(workspace.cache, *places, workspace.report)
    return read_base(store, located.repository, pinned, platform, names, cache=workspace.cache, report=workspace.report, shared=shared)


def open_base_store(workspace: Workspace, base: Base) -> Store:
    """Where the base's layers are: its registry, or the layout folder for one that is built here or came with a bundle."""
    given = workspace.bundled_base
    return workspace.registry_store(base.registry) if base.registry and (not given or given[0] != base.name) else workspace.layout


def _open_starter(workspace: Workspace, platform: Platform, meanwhile: Callable[[], object]) -> Digest:
    """The starter base that the layout has, built where there is none or an upgrade brought another lock of it."""
    found = find_starter(workspace.layout)
    if found is not None and (workspace.offline or is_current(workspace.layout, found)):
        return found
    if workspace.offline:
        raise ConfigurationError(
            "the starter base is not built here yet, and --offline", "build it where there is a network, or bring a bundle"
        )
    from imagebuild.starter.build import build_starter

    return build_starter(workspace.layout, workspace.cache, platform, workspace.report, workspace.jobs, meanwhile=meanwhile)
