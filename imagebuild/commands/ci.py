"""``imagebuild ci``: what a CI run asks: which teams a change is about, and the summary of a job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, json_option, print_data

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace

_NO_COMMIT = "0" * 40  # what a forge names as the commit before the first


@click.group()
def ci() -> None:
    """For pipelines: the teams of a change, and the summary of a job."""


@ci.command("teams")
@click.option("--since", metavar="REF", default="", help="Only teams that changed since the merge base with this commit.")
@json_option("A JSON list on one line, for a job matrix.")
@common_options
def ci_teams(workspace: Workspace, since: str, as_json: bool) -> None:
    """List the teams, or those whose image a change may affect."""
    from imagebuild.ci.changes import choose_changed_teams
    from imagebuild.ci.history import list_changed_files, read_file
    from imagebuild.config import list_teams
    from imagebuild.toml import read_toml

    names = list_teams(workspace.images)
    if since and since != _NO_COMMIT:
        bases = {name: str(read_toml(workspace.images / name / "team.toml").get("base", "")) for name in names}
        file = workspace.images / "catalogue.toml"
        before, after = read_file(workspace.root, since, "images/catalogue.toml"), file.read_bytes() if file.is_file() else None
        names = choose_changed_teams(list_changed_files(workspace.root, since), bases, before, after)
    if as_json:
        print_data(json.dumps(list(names), separators=(",", ":")))
    else:
        for name in names:
            print_data(name)


@ci.command("summary")
@click.argument("teams", nargs=-1, shell_complete=complete_teams)
@click.option("--since", metavar="REF", default="", help="Include what changed in the locks since this commit.")
@click.option(
    "--result", "results", multiple=True, type=click.Path(path_type=Path), help="What `imagebuild image --json` printed (may be repeated)."
)
@click.option(
    "--lock-check",
    "proof",
    metavar="OUTCOME",
    default="",
    help="How `imagebuild lock --check` ended: success, or another outcome of a GitHub step (default: not run).",
)
@common_options
def ci_summary(workspace: Workspace, teams: tuple[str, ...], since: str, results: tuple[Path, ...], proof: str) -> None:
    """Markdown about TEAMS (default: those of --result, else all): predicted size against budget, changed packages, what was built.

    It says what was looked at: that a lock is proved with --lock-check success alone, that an image was built with its --result alone.
    """
    from imagebuild.ci.reports import make_report, read_results
    from imagebuild.ci.summary import render_summary
    from imagebuild.config import list_teams, load_team

    found = read_results(results)
    known = list_teams(workspace.images)
    wanted = teams or tuple(found) or known
    for name in wanted:
        if name not in known:
            load_team(workspace.images, name)  # says which was meant
    reports = [make_report(workspace, name, since=since, proof=proof, built=bool(results), result=found.get(name)) for name in wanted]
    print_data(render_summary(reports, since=since), nl=False)
