"""``imagebuild audit``: known vulnerabilities and licences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, json_option, platform_option, print_data, read_clock
from imagebuild.errors import ConfigurationError, UsageError

if TYPE_CHECKING:
    from imagebuild.config import Team
    from imagebuild.lock.index.statuses import ProjectStatus
    from imagebuild.supply.osvdata import OsvDataset
    from imagebuild.supply.packages import Package
    from imagebuild.supply.policy import Policy
    from imagebuild.supply.systempackages import Ecosystem, ImageSystem
    from imagebuild.workspace import Workspace


class Audited(NamedTuple):
    """What is looked at."""

    name: str
    packages: tuple[Package, ...]
    system: ImageSystem
    unchecked: tuple[str, ...]  # known to be there, and not looked at
    projects: tuple[ProjectStatus, ...] = ()


@click.command()
@click.argument("image", metavar="TEAM|REF", shell_complete=complete_teams)
@click.option(
    "--osv", type=click.Path(path_type=Path), envvar="IMAGEBUILD_OSV", help="OSV data on disk: a folder with PyPI/all.zip, or a zip."
)
@click.option("--osv-url", envvar="IMAGEBUILD_OSV_URL", default="", help="An internal mirror: the folder that holds PyPI/all.zip.")
@click.option("--licences-only", is_flag=True, help="Check licences only; needs no OSV data.")
@click.option(
    "--fail-on",
    type=click.Choice(["low", "medium", "high", "critical"]),
    help="The lowest severity that fails (default: the policy's, else low).",
)
@click.option("--strict", is_flag=True, help="Fail for what cannot be checked.")
@click.option("--pushed", is_flag=True, help="Check TEAM's pushed image instead of its lock.")
@platform_option
@json_option()
@common_options
def audit(
    workspace: Workspace,
    image: str,
    osv: Path | None,
    osv_url: str,
    licences_only: bool,
    fail_on: str | None,
    strict: bool,
    pushed: bool,
    platform: str,
    as_json: bool,
) -> None:
    """Look up the packages of an image, base and added, in OSV data, and compare the licences of Python packages with the policy.

    TEAM is the team's lock on its base, before anything is pushed; REF a pushed image (TEAM:TAG, registry/repository:tag,
    oci:FOLDER:REPOSITORY:TAG). Exit 8 when a finding counts.
    """
    import datetime

    import msgspec

    from imagebuild.supply.audit import audit_packages, encode_audit, format_audit, list_wanted

    team = _find_team(workspace, image.partition(":")[0].partition("@")[0])
    policy = _join_policy(workspace, team)
    if fail_on is not None:
        policy = msgspec.structs.replace(policy, audit=msgspec.structs.replace(policy.audit, fail_on=fail_on))
    source = None if licences_only else _choose_source(workspace, policy, osv, osv_url)
    locked = team if team is not None and team.name == image and not pushed else None
    audited = _list_locked_packages(workspace, locked) if locked is not None else _list_image_packages(workspace, image, platform)
    dataset = _open_dataset(workspace, source, list_wanted(audited.packages, audited.system)) if source is not None else None
    today = datetime.date.fromisoformat(read_clock()[:10])
    report = audit_packages(
        audited.name,
        audited.packages,
        dataset,
        policy,
        today=today,
        unchecked=audited.unchecked,
        system=audited.system,
        projects=audited.projects,
    )
    print_data(encode_audit(report, strict=strict) if as_json else format_audit(report), nl=False)
    report.raise_findings(strict=strict)


def _find_team(workspace: Workspace, name: str) -> Team | None:
    """The team of that name; None where there is none, as for an image that is audited outside a checkout."""
    from imagebuild.config import list_teams, load_team

    try:
        images = workspace.images
    except ConfigurationError:
        return None
    return load_team(images, name) if name in list_teams(images) else None


def _join_policy(workspace: Workspace, team: Team | None) -> Policy:
    from imagebuild.supply.policy import Policy, join_policies, read_policy

    try:
        images = workspace.images
    except ConfigurationError:  # outside a checkout
        return Policy()
    policy = read_policy(images)
    return join_policies(policy, team.table.policy) if team is not None else policy


def _choose_source(workspace: Workspace, policy: Policy, osv: Path | None, osv_url: str) -> Path | str:
    """The folder or zip, or the mirror's address."""
    if osv is not None and osv_url:
        raise UsageError("--osv and --osv-url are two places", "give one of them")
    if osv is None and not osv_url and policy.audit.osv:
        osv = workspace.root / policy.audit.osv
    address = osv_url or policy.audit.osv_url
    if osv is not None:
        return osv
    if not address:
        raise ConfigurationError(
            "there is no OSV data to look packages up in",
            "give --osv FOLDER (with PyPI/all.zip in it), --osv-url MIRROR or --licences-only, or set [audit] osv in images/policy.toml",
        )
    return address


def _open_dataset(workspace: Workspace, source: Path | str, wanted: Mapping[Ecosystem, frozenset[str]]) -> OsvDataset:
    from imagebuild.supply.osvdata import fetch_dataset, read_dataset

    if isinstance(source, str):
        workspace.prepare()
        source = fetch_dataset(source, workspace.cache, workspace.report, {item.folder for item in wanted})
    return read_dataset(source, wanted)


def _list_locked_packages(workspace: Workspace, team: Team) -> Audited:
    """Of a team's lock on its base."""
    from imagebuild.lock.index.statuses import recall_statuses
    from imagebuild.pipeline.building import fetch_team_wheels
    from imagebuild.pipeline.planning import plan_image
    from imagebuild.supply.addons import list_addon_packages
    from imagebuild.supply.packages import list_packages
    from imagebuild.supply.systempackages import ImageSystem

    plan = plan_image(workspace, team.name, cutoff=read_clock(), locked=True)
    wheels = fetch_team_wheels(workspace, plan)
    unchecked = tuple(f"{name}: a Debian package, whose version is known when it is built" for name in plan.recipe.system)
    packages = (*list_packages(plan.base, plan.lock, wheels), *list_addon_packages(plan.addons))
    projects = recall_statuses(workspace.cache, team.indexes, plan.lock.packages)
    name = f"{team.name} ({workspace.lockfile(team.name).name})"
    return Audited(name, packages, ImageSystem(plan.base.inventory.system), unchecked, projects)


def _list_image_packages(workspace: Workspace, asked: str, platform: str) -> Audited:
    """Of an image."""
    from functools import partial

    from imagebuild.catalogue.lookup import find_named_image
    from imagebuild.check.verify.contents import list_image_packages
    from imagebuild.commands.smoke import find_planned_tag
    from imagebuild.oci.model import Platform

    image = find_named_image(workspace, asked, Platform.parse(platform), partial(find_planned_tag, workspace))
    return Audited(image.name, *list_image_packages(workspace, image))
