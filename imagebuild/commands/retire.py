"""``imagebuild retire``: old images, planned first."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.catalogue import everything_option
from imagebuild.commands.options import common_options, print_data, read_clock, read_entries_of, say
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--older-than", metavar="Nq", default="4q", show_default=True, help="More than N quarters before this one.")
@click.option(
    "--in-use",
    "dumps",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What a cluster uses: kubectl get notebooks,pods,daemonsets -A -o json. Repeat for each cluster that pulls from here.",
)
@click.option("--no-cluster", is_flag=True, help="No cluster pulls from here: --yes without --in-use.")
@click.option("--yes", "confirmed", is_flag=True, help="Remove what the plan says. Without it nothing is changed.")
@everything_option
@common_options
def retire(workspace: Workspace, older_than: str, dumps: tuple[Path, ...], no_cluster: bool, confirmed: bool, everything: bool) -> None:
    """Plan which old images may go, and with --yes remove them. Never what is current, kept, or named in a cluster."""
    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.catalogue.retention import RetirementPlan, plan_retirement, retire_images, sum_layers
    from imagebuild.catalogue.usage import read_usage
    from imagebuild.config import format_size, list_teams
    from imagebuild.files import exclusive

    match = re.fullmatch(r"([1-9][0-9]?)q", older_than)
    if match is None:
        raise UsageError(f"not a number of quarters: {older_than!r}", "write --older-than 4q")
    if no_cluster and dumps:
        raise UsageError("--no-cluster and --in-use contradict each other", "leave one out")
    if confirmed and not dumps and not no_cluster:
        raise UsageError(
            "nothing says what the clusters use",
            "add --in-use FILE of every cluster that pulls from here, or --no-cluster where none does",
        )
    usage = read_usage(dumps)
    if dumps:
        say("in use: " + ", ".join(f"{count} {kind}" for kind, count in usage.kinds.items()))
        for kind in ("Notebook", "DaemonSet"):
            if kind not in usage.kinds:
                say(f"warning: no {kind} in {', '.join(map(str, dumps))}: a stopped notebook has no pod, and would not be seen")
    clock = read_clock()
    today = f"{clock[:4]}q{(int(clock[5:7]) + 2) // 3}"
    target = workspace.target

    def plan_of(listing: CatalogueListing) -> RetirementPlan:
        return plan_retirement(target, listing, usage, today=today, older_than=int(match[1]))

    plan = plan_of(read_entries_of(workspace, everything=everything))
    for stay in plan.stays:
        print_data(f"stays   {stay.entry.team:<16} {stay.entry.tag:<22} {stay.reason}")
    for entry in plan.goes:
        print_data(f"goes    {entry.team:<16} {entry.tag:<22} {entry.created[:10]}  {format_size(entry.delta_compressed):>10}")
    summary = f"{len(plan.goes)} images, {format_size(sum_layers(plan))} in their own layers"
    if not confirmed:
        say(f"{summary}, may go; nothing was changed" + (": add --yes to remove them" if plan.goes else ""))
        return
    with contextlib.ExitStack() as stack:
        if not workspace.host:  # builds write into the folder: none may run (image.py takes the same locks)
            workspace.prepare()
            for team in list_teams(workspace.images):
                stack.enter_context(exclusive(workspace.state / f"image-{team}.lock"))
        done = retire_images(target, plan, plan_of, cache=workspace.cache, report=workspace.report)
    bytes_ = f"{format_size(done.freed)} freed" if not workspace.host else "the bytes go with the registry's next garbage collection"
    say(f"{done.images} of {len(plan.goes)} images are gone: {done.manifests} manifests removed; {bytes_}")
