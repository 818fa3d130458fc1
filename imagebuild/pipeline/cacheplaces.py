"""Which repositories a run takes members and bases from and gives them to: ``--cache-from``, ``--cache-to``, ``images/cache.toml``."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from imagebuild.errors import ConfigurationError, ImagebuildError, UsageError
from imagebuild.oci.model import Reference
from imagebuild.oci.place import Place
from imagebuild.toml import decode_toml
from imagebuild.workspace import Workspace

FILE_NAME = "cache.toml"


class CacheTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[cache]`` of images/cache.toml, or what the command line says instead: repositories, ``HOST/REPOSITORY``."""

    sources: tuple[str, ...] = msgspec.field(name="from", default=())
    target: str = msgspec.field(name="to", default="")
    bases: bool = False  # also what was read of bases: an interpreter that runs here

    def __bool__(self) -> bool:
        return bool(self.sources or self.target)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cache: CacheTable = CacheTable()


NO_CACHE = CacheTable()


def choose_cache(
    workspace: Workspace, sources: Sequence[str] = (), target: str = "", *, off: bool = False, bases: bool = False
) -> CacheTable:
    """What the command line says, else the file; nothing with ``off``. ConfigurationError or UsageError for what is not a repository."""
    if off:
        if sources or target or bases:
            raise UsageError("--no-cache goes without --cache-from, --cache-to and --cache-bases", "leave one of them out")
        return NO_CACHE
    path = workspace.images / FILE_NAME
    table = decode_toml(path, _File).cache if path.is_file() else NO_CACHE
    for text in (*table.sources, *([table.target] if table.target else [])):
        if _parse_place(text) is None:
            raise ConfigurationError(f"{path}: not a repository for members: {text!r}", _HINT)
    for option, texts in (("--cache-from", sources), ("--cache-to", [target] if target else [])):
        for text in texts:
            if _parse_place(text) is None:
                raise UsageError(f"{option}: not a repository for members: {text!r}", _HINT)
    return CacheTable(tuple(sources) or table.sources, target or table.target, bases or table.bases)


_HINT = "write HOST/REPOSITORY without a tag, as in registry.example.com/ml/members"


def _parse_place(text: str) -> Reference | None:
    try:
        found = Reference.parse(text)
    except ImagebuildError:
        return None
    return found if not found.tag and not found.digest and text == found.name else None


def share_bases(workspace: Workspace, table: CacheTable) -> None:
    """Have this run take what other machines read of bases, and give what it reads, if that is asked for."""
    if table.bases and table:
        workspace.base_places = open_places(workspace, table)


def open_places(workspace: Workspace, table: CacheTable) -> tuple[list[Place], Place | None]:
    """The places to take from, without those that cannot be opened, and the one to give to, if any."""
    places = {text: _open_place(workspace, text) for text in (*table.sources, *([table.target] if table.target else []))}
    sources = [place for text in table.sources if (place := places[text]) is not None]
    return sources, places[table.target] if table.target else None


def _open_place(workspace: Workspace, text: str) -> Place | None:
    found = _parse_place(text)
    assert found is not None  # it was checked when it was read
    if workspace.offline and found.registry != workspace.host:
        return None
    return Place(workspace.registry_store(found.registry), found.repository)
