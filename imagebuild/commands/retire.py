"""``imagebuild retire``: old images, planned first, their tags taken away, and days later the rest."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.catalogue import everything_option
from imagebuild.commands.options import common_options, print_data, read_clock, read_entries_of, say
from imagebuild.errors import UsageError
from imagebuild.text import name_quarter

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.catalogue.retention import RetirementPlan
    from imagebuild.catalogue.usage import Usage
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--older-than", metavar="Nq", default="4q", show_default=True, help="More than N quarters before this one.")
@click.option(
    "--in-use",
    "dumps",
    multiple=True,
    type=click.Path(path_type=Path),
    help="What a cluster uses, as the command of --print-kubectl writes it. Repeat for each cluster that pulls from here; also the users "
    "of a JupyterHub (GET /hub/api/users), or a list of references.",
)
@click.option(
    "--without",
    metavar="KIND",
    multiple=True,
    help="With --in-use: the clusters have no such objects (CronJob, notebooks.kubeflow.org, or a group: tekton.dev); repeatable.",
)
@click.option("--max-age", metavar="Nd|Nh", default="1d", show_default=True, help="How old an --in-use file may be.")
@click.option("--print-kubectl", is_flag=True, help="Print the command that gathers what a cluster uses, and do nothing else.")
@click.option("--no-cluster", is_flag=True, help="No cluster pulls from here: --yes without a cluster's dump.")
@click.option("--grace", metavar="Nd", default="14d", show_default=True, help="How long a retired image can be brought back.")
@click.option("--undo", metavar="TAG", help="Bring a retired image back: TAG, or TEAM:TAG.")
@click.option("--yes", "confirmed", is_flag=True, help="Do what the plan says. Without it nothing is changed.")
@everything_option
@common_options
def retire(
    workspace: Workspace,
    older_than: str,
    dumps: tuple[Path, ...],
    without: tuple[str, ...],
    max_age: str,
    print_kubectl: bool,
    no_cluster: bool,
    grace: str,
    undo: str | None,
    confirmed: bool,
    everything: bool,
) -> None:
    """Plan which old images may go; with --yes take their tags away, and remove those retired more than --grace days ago.

    Images that are current, kept, or named in a cluster stay.
    """
    from datetime import datetime

    from imagebuild.catalogue.clusterkinds import parse_kinds, render_command
    from imagebuild.catalogue.usage import read_usage

    if print_kubectl:
        print_data(render_command(), nl=False)
        return
    if undo is not None:
        undo_named(workspace, undo, everything)
        return
    quarters = re.fullmatch(r"([1-9][0-9]?)q", older_than)
    if quarters is None:
        raise UsageError(f"not a number of quarters: {older_than!r}", "write --older-than 4q")
    age, wait = parse_age("--max-age", max_age), parse_age("--grace", grace)
    if confirmed and not dumps and not no_cluster:
        raise UsageError(
            "nothing says what the clusters use",
            "add --in-use FILE of every cluster that pulls from here, or --no-cluster where none does",
        )
    clock = read_clock()
    now = datetime.fromisoformat(clock)
    usage = read_usage(dumps, now, parse_kinds(without), max_age=age, alone=no_cluster)
    if no_cluster and usage.clusters:
        raise UsageError("--no-cluster and a cluster's dump contradict each other", "leave one out")
    if dumps:
        say("in use: " + ", ".join(f"{count} {kind}" for kind, count in usage.kinds.items()))
    say(*(f"warning: {warning}" for warning in usage.warnings))
    carry_out(workspace, usage, name_quarter(clock), int(quarters[1]), wait, now, confirmed, everything)


def parse_age(option: str, text: str) -> timedelta:
    """``12h``, ``14d``."""
    from datetime import timedelta

    match = re.fullmatch(r"([0-9]{1,4})([hd])", text)
    if match is None:
        raise UsageError(f"not a number of days: {text!r}", f"write {option} 14d, or in hours 12h")
    return timedelta(hours=int(match[1]) * (24 if match[2] == "d" else 1))


def carry_out(
    workspace: Workspace,
    usage: Usage,
    today: str,
    older_than: int,
    grace: timedelta,
    now: datetime,
    confirmed: bool,
    everything: bool,
) -> None:
    """Show the plan, and with ``confirmed`` do it."""
    from imagebuild.catalogue.retention import plan_retirement, sum_layers
    from imagebuild.catalogue.retirement import explain_wait, find_retired, remove_retired, retire_images
    from imagebuild.text import format_size

    target = workspace.target

    def plan_of(listing: CatalogueListing) -> RetirementPlan:
        return plan_retirement(target, listing, usage, today=today, older_than=older_than)

    with contextlib.ExitStack() as stack:
        if confirmed:
            hold_builds(workspace, stack)
        listing = read_entries_of(workspace, everything=everything)
        plan = plan_of(listing)
        waiting = find_retired(target, list_repositories(workspace, listing, everything), listing)
        for stay in plan.stays:
            print_data(f"stays   {stay.entry.team:<16} {stay.entry.tag:<22} {stay.reason}")
        for entry in plan.goes:
            print_data(f"goes    {entry.team:<16} {entry.tag:<22} {entry.created[:10]}  {format_size(entry.delta_compressed):>10}")
        for image in waiting:
            reason = explain_wait(image, usage, now=now, grace=grace)
            print_data(f"{'retired' if reason else 'removed'} {image.team:<16} {image.tag:<22} {reason or f'since {image.since:%Y-%m-%d}'}")
        summary = f"{len(plan.goes)} images, {format_size(sum_layers(plan))} in their own layers"
        if not confirmed:
            say(f"{summary}, may go; nothing was changed" + (": add --yes to retire them" if plan.goes else ""))
            return
        removed = remove_retired(target, waiting, usage, now=now, grace=grace, cache=workspace.cache, report=workspace.report)
        count = retire_images(target, plan, plan_of, now=now, cache=workspace.cache, report=workspace.report)
    bytes_ = f"{format_size(removed.freed)} freed" if not workspace.host else "the bytes go with the registry's next garbage collection"
    say(f"{count} of {len(plan.goes)} images are retired, and can be brought back for {grace.days} days: imagebuild retire --undo TEAM:TAG")
    say(f"{removed.images} images that were retired before are gone: {removed.manifests} manifests removed; {bytes_}")


def undo_named(workspace: Workspace, name: str, everything: bool) -> None:
    """``--undo``."""
    from imagebuild.catalogue.retirement import find_retired, undo_retirement

    target = workspace.target
    with contextlib.ExitStack() as stack:
        hold_builds(workspace, stack)
        listing = read_entries_of(workspace, everything=everything)
        retired = find_retired(target, list_repositories(workspace, listing, everything), listing)
        image = undo_retirement(target, retired, name)
    print_data(f"{target.image_name(image.repository)}:{image.tag}@{image.digest}")
    say(f"{image.team}:{image.tag} is back")


def hold_builds(workspace: Workspace, stack: contextlib.ExitStack) -> None:
    """One run of this command at a time; and of builds into the layout folder, none (image.py takes the same locks)."""
    from imagebuild.config import list_teams
    from imagebuild.files import exclusive

    workspace.prepare()
    stack.enter_context(exclusive(workspace.state / "retire.lock"))
    if not workspace.host:
        for team in list_teams(workspace.images):
            stack.enter_context(workspace.building(team))


def list_repositories(workspace: Workspace, listing: CatalogueListing, everything: bool) -> set[str]:
    """Those of the listing's images and of this checkout's teams, whose images may all be retired; with ``everything``, all there are."""
    from imagebuild.config import list_teams

    found = {entry.repository for entry in listing.entries} | {workspace.repository(team) for team in list_teams(workspace.images)}
    if everything:
        found |= set(workspace.target.list_repositories(workspace.namespace))
    return found
