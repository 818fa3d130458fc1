"""``imagebuild smoke``: an image run as a notebook."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, json_option, print_data, read_clock
from imagebuild.errors import ImagebuildError
from imagebuild.servers import KINDS, Kind

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


def find_planned_tag(workspace: Workspace, team: str) -> str:
    """The tag that ``image TEAM`` would build now, if the target has it; else empty (also for what is not a team)."""
    from imagebuild.config import list_teams
    from imagebuild.pipeline.planning import plan_image
    from imagebuild.pipeline.teamimage import find_image

    with contextlib.suppress(ImagebuildError):  # a stale lock, say: then the newest image pushed is what there is
        if team in list_teams(workspace.images):
            plan = plan_image(workspace, team, cutoff=read_clock(), locked=True)
            return plan.recipe.tag if find_image(workspace, plan) else ""
    return ""


@click.command()
@click.argument("image", metavar="TEAM|REF", shell_complete=complete_teams)
@click.option("--run", "only", multiple=True, metavar="NAME", help="Only own-user, large-shm, random-uid or read-only; may be repeated.")
@click.option("--read-only", is_flag=True, help="Also with a read-only root.")
@click.option("--timeout", type=click.FloatRange(1), default=120, show_default=True, help="Seconds that a server has to come up.")
@click.option("--kind", type=click.Choice(KINDS), help="The kind of server, if the image does not name it.")
@json_option()
@common_options
def smoke(
    workspace: Workspace,
    image: str,
    only: tuple[str, ...],
    read_only: bool,
    timeout: float,
    kind: Kind | None,
    as_json: bool,
) -> None:
    """Run an image as Kubernetes runs a notebook; exit 7 when something is wrong.

    TEAM is the team's image in the target (of its lock as it is, else the newest), REF an image of the local Docker or of a registry.
    """
    from imagebuild.check.smoke.checks import encode_smoke_report, format_smoke_report, smoke_image
    from imagebuild.check.smoke.pod import choose_runs
    from imagebuild.check.smoke.subject import find_subject
    from imagebuild.engine.dockerd import connect_engine

    runs = choose_runs(only, read_only=read_only)
    client = connect_engine()
    try:
        subject = find_subject(workspace, client, image, kind, find_planned_tag(workspace, image))
        report = smoke_image(client, subject, runs, timeout=timeout, report=workspace.report)
    finally:
        client.close()
    print_data(encode_smoke_report(report) if as_json else format_smoke_report(report), nl=False)
    report.raise_failures()
