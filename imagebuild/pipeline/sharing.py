"""A direct build that takes members from a registry and gives some to it: ``--cache-from``, ``--cache-to``, ``images/cache.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuild.pipeline.building import build_direct_layers, fetch_team_wheels, link_files
from imagebuild.pipeline.cacheplaces import CacheTable, open_places
from imagebuild.pipeline.planning import Plan
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.layer.membercache import SharedMembers
    from imagebuild.layer.model import TeamLayers
    from imagebuild.pipeline.buildoptions import BuildOptions
    from imagebuild.pipeline.mounting import LayerMounts


def open_members(workspace: Workspace, table: CacheTable) -> SharedMembers:
    """The places that may be asked: with --offline only those in the registry that is pushed to."""
    from imagebuild.layer.membercache import SharedMembers

    return SharedMembers(workspace.cache, *open_places(workspace, table), workspace.report)


def build_shared_layers(
    workspace: Workspace, plan: Plan, folder: Path, out: Path, members: SharedMembers, mounts: LayerMounts, options: BuildOptions
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
        found = fetch_team_wheels(workspace, plan, options.source_docker, wanted=wanted)
        link_files(found, folder / "wheels")
        present.update(found)
        return found

    expected = {item.name: wheel_cache_path(workspace.cache, item.sha256, item.filename) for item in plan.lock.packages}
    sources = MemberSources(members, provide)
    made = build_direct_layers(workspace, plan, expected, out, options.source_docker, sources, mounts)
    documents = {name: path for name, blob in made.members.items() if (path := blob.with_name(DOCUMENTS)).is_file()}
    lacking = [item.name for item in plan.lock.packages if item.name not in present and item.name not in documents]
    if lacking:
        provide(lacking)
    return made, {**documents, **present}, len(sources.prepared)
