"""``imagebuild render``: the Dockerfile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, print_data, read_clock

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("team", shell_complete=complete_teams)
@common_options
def render(workspace: Workspace, team: str) -> None:
    """Print TEAM's Dockerfile."""
    from imagebuild.dockerfile import render_dockerfile
    from imagebuild.pipeline.planning import plan_image

    plan = plan_image(workspace, team, cutoff=read_clock(), locked=True)
    print_data(render_dockerfile(plan.recipe, plan.base), nl=False)
