"""``imagebuild bake``: the docker engine's builds as one file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import TeamRun, choose_teams, common_options, every_team_option, print_data, read_clock
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("teams", nargs=-1, shell_complete=complete_teams)
@every_team_option
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("docker-bake.json"), show_default=True, help="The file to write."
)
@click.option("--push", is_flag=True, help="BuildKit pushes to --registry by itself (a builder that is not of type docker).")
@common_options
def bake(workspace: Workspace, teams: tuple[str, ...], everyone: bool, output: Path, push: bool) -> None:
    """Write a docker-bake.json that `docker buildx bake` builds TEAMS from, on any builder."""
    from imagebuild.engine.bake import render_bake
    from imagebuild.files import write_atomic
    from imagebuild.pipeline.building import prepare_bake
    from imagebuild.pipeline.planning import plan_image

    if push and not workspace.host:
        raise UsageError("--push needs a registry", "add --registry HOST/NAMESPACE")
    targets = []
    chosen = choose_teams(workspace, teams, everyone)
    run = TeamRun(chosen)
    for team in chosen:
        with run.each(team):
            workspace.prepare()
            plan = plan_image(workspace, team, cutoff=read_clock(), locked=True, engine="docker")
            targets.append(prepare_bake(workspace, plan))
    run.finish()  # a file with a team left out is not what was asked for
    write_atomic(output, render_bake(targets, root=workspace.root, results=workspace.state / "bake", push=push).encode())
    print_data(f"{output}: {len(targets)} targets; in {workspace.root}: docker buildx bake -f {output.resolve()}")
