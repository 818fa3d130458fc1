"""``imagebuild diff``: what differs between two images, teams, quarters or locks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, platform_option, print_data
from imagebuild.commands.smoke import find_planned_tag

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("before", metavar="A", shell_complete=complete_teams)
@click.argument("after", metavar="B", shell_complete=complete_teams)
@click.option("--format", "form", type=click.Choice(["text", "json", "markdown", "html"]), default="text", show_default=True)
@click.option("--base", default="", metavar="REF", help="The base, for an image that does not name one.")
@platform_option
@common_options
def diff(workspace: Workspace, before: str, after: str, form: str, base: str, platform: str) -> None:
    """Packages, base, bytes and licences of A and B.

    Each is TEAM (its newest image), TEAM@2026q3, TEAM:TAG, TEAM@sha256:..., HOST/REPOSITORY:TAG, oci:FOLDER:REPOSITORY:TAG, or a lock file.
    """
    from imagebuild.difference.comparison import compare_sides, encode_difference
    from imagebuild.difference.rendering import format_markdown, format_text, render_difference_page
    from imagebuild.difference.sides import read_side
    from imagebuild.oci.model import Platform

    wanted = Platform.parse(platform)

    def prefer(team: str) -> str:
        return find_planned_tag(workspace, team)

    found = compare_sides(*(read_side(workspace, text, base=base, platform=wanted, prefer=prefer) for text in (before, after)))
    if form == "json":
        print_data(encode_difference(found), nl=False)
    elif form == "html":
        print_data(render_difference_page(found), nl=False)
    else:
        print_data(format_markdown(found) if form == "markdown" else format_text(found), nl=False)
