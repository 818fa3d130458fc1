"""``imagebuild bundle``: a team's build for a site without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import builder_option, common_options, engine_option, network_option, print_data, read_clock

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("team", shell_complete=complete_teams)
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The folder to write; new, or empty.")
@click.option("--with-base", is_flag=True, help="Include the base's layers (always so for a base that is built here).")
@engine_option
@builder_option
@network_option
@common_options
def bundle(
    workspace: Workspace, team: str, output: Path, with_base: bool, engine: str | None, builder: str | None, network: str | None
) -> None:
    """Write all that TEAM's build needs into one folder, for image --offline --bundle DIR."""
    from imagebuild.bundle.packing import BundleContents, pack_bundle
    from imagebuild.engine.options import DockerOptions
    from imagebuild.pipeline.bases import open_base_store
    from imagebuild.pipeline.building import prepare_context
    from imagebuild.pipeline.planning import plan_image
    from imagebuild.text import format_size

    workspace.prepare()
    with workspace.building(team):
        plan = plan_image(workspace, team, cutoff=read_clock(), locked=True, engine=engine or "")
        folder, wheels = prepare_context(workspace, plan, DockerOptions(builder, network))
        contents = BundleContents(
            team=plan.team,
            base=plan.base,
            recipe=plan.recipe,
            root=workspace.root,
            images=workspace.images,
            lockfiles=[workspace.lockfile(team), *(workspace.addon_lockfile(lock.kind, team) for lock in plan.addons)],
            built=folder,
            wheels=wheels,
            cache=workspace.cache,
            layers=open_base_store(workspace, plan.base) if with_base or not plan.base.registry else None,
        )
        digest, manifest = pack_bundle(output, contents, workspace.report)
    size = sum(file.size for file in manifest.files.values())
    lines = [
        f"{output}: {team} {manifest.tag}, {len(manifest.files)} files, {format_size(size)}",
        f"  bundle    {digest}",
        f"  base      {manifest.base.name} {manifest.base.pinned}, {'with' if manifest.base.layers else 'without'} its layers",
        f"  use it    imagebuild image --offline --bundle {output} --bundle-digest {digest}",
    ]
    print_data("\n".join(lines))
