"""A direct build that takes members from a registry and gives some to it: ``--cache-from``, ``--cache-to``, ``images/cache.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imagebuild.errors import ConfigurationError, ImagebuildError, UsageError
from imagebuild.oci.model import Reference
from imagebuild.oci.place import Place
from imagebuild.pipeline.building import build_direct_layers, fetch_team_wheels, link_files
from imagebuild.pipeline.planning import Plan
from imagebuild.toml import decode_toml
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.layer.membercache import SharedMembers
    from imagebuild.layer.model import TeamLayers

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


def open_members(workspace: Workspace, table: CacheTable) -> SharedMembers:
    """The places that may be asked: with --offline only those in the registry that is pushed to."""
    from imagebuild.layer.membercache import SharedMembers

    return SharedMembers(workspace.cache, *_open_places(workspace, table), workspace.report)


def share_bases(workspace: Workspace, table: CacheTable) -> None:
    """Have this run take what other machines read of bases, and give what it reads, if that is asked for."""
    if table.bases and table:
        workspace.base_places = _open_places(workspace, table)


def _open_places(workspace: Workspace, table: CacheTable) -> tuple[list[Place], Place | None]:
    places = {text: _open_place(workspace, text) for text in (*table.sources, *([table.target] if table.target else []))}
    sources = [place for text in table.sources if (place := places[text]) is not None]
    return sources, places[table.target] if table.target else None


def _open_place(workspace: Workspace, text: str) -> Place | None:
    found = _parse_place(text)
    assert found is not None  # it was checked when it was read
    if workspace.offline and found.registry != workspace.host:
        return None
    return Place(workspace.registry_store(found.registry), found.repository)


def build_shared_layers(
    workspace: Workspace, plan: Plan, folder: Path, out: Path, members: SharedMembers, *, builder: str | None, network: str | None
) -> tuple[TeamLayers, dict[str, Path], int]:
    """The layers by the direct engine; wheels are fetched, and linked into the context in ``folder``, for members that nobody has.

    Beside the layers, by package: the wheel, or where that was never needed its documents as a wheel (METADATA and SBOMs); and how many
    packages were made.
    """
    from imagebuild.layer.membercache import DOCUMENTS
    from imagebuild.layer.members import MemberSources
    from imagebuild.lock.index.bodies import wheel_cache_path

    present: dict[str, Path] = {}

    def provide(wanted: Sequence[str]) -> dict[str, Path]:
        found = fetch_team_wheels(workspace, plan, builder=builder, network=network, wanted=wanted)
        link_files(found, folder / "wheels")
        present.update(found)
        return found

    expected = {item.name: wheel_cache_path(workspace.cache, item.sha256, item.filename) for item in plan.lock.packages}
    sources = MemberSources(members, provide)
    made = build_direct_layers(workspace, plan, expected, out, sources)
    documents = {name: path for name, blob in made.members.items() if (path := blob.with_name(DOCUMENTS)).is_file()}
    lacking = [item.name for item in plan.lock.packages if item.name not in present and item.name not in documents]
    if lacking:
        provide(lacking)
    return made, {**documents, **present}, len(sources.prepared)
