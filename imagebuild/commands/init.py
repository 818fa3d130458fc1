"""``imagebuild init``: a new team, or a whole repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, print_data, say
from imagebuild.errors import UsageError
from imagebuild.table import format_table

if TYPE_CHECKING:
    from imagebuild.scaffold.repository import Written
    from imagebuild.workspace import Workspace

_TOLD = {
    "made": "made",
    "kept": "was there, and is kept",
    "same": "is up to date",
    "updated": "updated",
    "merged": "updated; your changes are kept",
    "conflict": "left as it is: both you and the newer version changed the same lines. The newer one is beside it, as .new",
    "removed": "was removed, and is not written again",
}


@click.command()
@click.argument("team", required=False, default="")
@click.option("--base", default="", metavar="NAME", help="A base of the catalogue (default: its first).")
@click.option("--display-name", "title", default="", help="What the spawner form shows (default: the team's name).")
@click.option("--upgrade", is_flag=True, help="Bring this version's workflows, Makefile and script into a repository; your edits stay.")
@common_options
def init(workspace: Workspace, team: str, base: str, title: str, upgrade: bool) -> None:
    """Make a TEAM's folder, or a whole repository.

    With TEAM: its folder, and the catalogue of bases where there is none. Without TEAM, in an empty folder: all that a new repository
    needs (images/, lockfiles/, catalogue, pools, workflows, Makefile, .gitignore).
    """
    if team:
        if upgrade:
            raise UsageError("--upgrade is for the whole repository", "run: imagebuild init --upgrade")
        from imagebuild.scaffold.team import create_team

        for path in create_team(workspace.root, team, base=base, title=title):
            print_data(str(path.relative_to(workspace.root)))
        workspace.report(f"next: write images/{team}/requirements.in, then imagebuild image {team}")
        return
    if base or title:
        raise UsageError("--base and --display-name are a team's", "name it: imagebuild init TEAM --base NAME")
    from imagebuild.scaffold.repository import create_repository, upgrade_repository

    if upgrade:
        _print_written(upgrade_repository(workspace.root))
        return
    _print_written(create_repository(workspace.root))
    workspace.report("next: imagebuild init TEAM, then make image TEAM=...")


def _print_written(written: Sequence[Written]) -> None:
    for line in format_table([(item.path, _TOLD[item.outcome]) for item in written]):
        print_data(line)
    if any(item.outcome == "kept" and item.path == ".gitignore" for item in written):
        say("warning: .gitignore should have the lines .imagebuild/ and .venv/")
