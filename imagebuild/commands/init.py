"""``imagebuild init``: a new team."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, print_data

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("team")
@click.option("--base", default="", metavar="NAME", help="A base of the catalogue (default: its first).")
@click.option("--display-name", "title", default="", help="What the spawner form shows (default: the team's name).")
@common_options
def init(workspace: Workspace, team: str, base: str, title: str) -> None:
    """Make the folder of a new TEAM; in an empty place the catalogue of bases too."""
    from imagebuild.scaffold import create_team

    for path in create_team(workspace.root, team, base=base, title=title):
        print_data(str(path.relative_to(workspace.root)))
    workspace.report(f"next: write images/{team}/requirements.in, then imagebuild image {team}")
