"""``imagebuild size``: every byte an image adds to its base."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, json_option, platform_option, print_data

if TYPE_CHECKING:
    from imagebuild.size.model import SizeReport
    from imagebuild.workspace import Workspace


def report_size(workspace: Workspace, subject: str, base: str, platform: str) -> SizeReport:
    """A team's prediction from its lock, or the account of an image."""
    from imagebuild.config import list_teams
    from imagebuild.errors import ConfigurationError, UsageError
    from imagebuild.oci.model import Platform
    from imagebuild.pipeline import sizesubject as subjects

    try:
        teams = list_teams(workspace.images)
    except ConfigurationError:  # outside a checkout an image of any registry can still be looked at
        teams = ()
    if subject in teams:
        if base:
            raise UsageError("--base is for images, and the base of a team is its lock's", "leave it out, or name an image")
        return subjects.predict_team(workspace, subject)
    return subjects.measure_named(workspace, subject, base=base, platform=Platform.parse(platform))


@click.command()
@click.argument("subject", metavar="TEAM|REF", shell_complete=complete_teams)
@click.option("--base", default="", metavar="REF", help="The base, for an image that does not name one.")
@platform_option
@click.option("--all", "everything", is_flag=True, help="Every package, not the largest alone.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Also write one self-contained page.")
@json_option()
@common_options
def size(workspace: Workspace, subject: str, base: str, platform: str, everything: bool, html: Path | None, as_json: bool) -> None:
    """Bytes by package and kind against the budget; exit 5 when over.

    TEAM is predicted from its lock, before any download; REF is TEAM:TAG, TEAM@2026q3, HOST/REPOSITORY:TAG or a digest, and is measured
    by reading the layers above its base.
    """
    from imagebuild.size.budget import require_budget
    from imagebuild.size.model import encode_size_report
    from imagebuild.size.terminal import format_size_report

    report = report_size(workspace, subject, base, platform)
    if html is not None:
        from imagebuild.files import write_atomic
        from imagebuild.size.page import render_size_page

        write_atomic(html, render_size_page(report))
        workspace.report(f"wrote {html}")
    if as_json:
        print_data(encode_size_report(report), nl=False)
    else:
        terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if terminal else 100
        print_data(format_size_report(report, bars=terminal, width=width, everything=everything), nl=False)
    require_budget(report, "predicted from the lock" if report.source == "predicted" else "measured")
