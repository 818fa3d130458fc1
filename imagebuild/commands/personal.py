"""``imagebuild personal``: a user's own packages on top of a team's image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, parse_date, print_data, read_clock, say

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("team", shell_complete=complete_teams)
@click.argument("requirements", type=click.Path(path_type=Path, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="The pinned file (default: stdout).")
@click.option("--as-of", metavar="DATE", help="Only files uploaded until this date (2026-10-01 or RFC 3339).")
@click.option("--resolver", type=click.Choice(["pip-tools", "uv"]), default="pip-tools", show_default=True)
@common_options
def personal(workspace: Workspace, team: str, requirements: Path, output: Path | None, as_of: str | None, resolver: str) -> None:
    """Check REQUIREMENTS against all that TEAM's image has, and pin what it adds, for pip install --user in a notebook."""
    from imagebuild.commands.lock import write_text
    from imagebuild.config import load_team
    from imagebuild.pipeline.personal import resolve_personal

    cutoff = parse_date(as_of) if as_of else read_clock()
    found = resolve_personal(workspace, load_team(workspace.images, team), requirements, cutoff=cutoff, resolver=resolver)
    if output is None:
        say(*found.describe())
    else:
        print_data("\n".join(found.describe()))
    write_text(found.render(), output, "the pinned file")
