"""``imagebuild lock``: compile a lock, or check it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import (
    TeamRun,
    builder_option,
    choose_teams,
    common_options,
    every_team_option,
    network_option,
    parse_date,
    print_data,
    read_clock,
)
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.addons.model import Addon
    from imagebuild.config import Team
    from imagebuild.lock.file.model import LockedPackage
    from imagebuild.pipeline.lockoptions import LockOptions
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("teams", nargs=-1, shell_complete=complete_teams)
@every_team_option
@click.option(
    "--check", is_flag=True, help="Prove the lock without resolving: exit 4 when it is stale, 8 when a file is missing or changed."
)
@click.option("--offline", is_flag=True, help="With --check: without asking the indexes.")
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping those of the lock.")
@click.option("--upgrade-package", "upgrades", metavar="NAME", multiple=True, help="Take the newest version of this one; repeatable.")
@click.option(
    "--report", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), help="What changed, as Markdown: a file, or - for stdout."
)
@click.option("--compare", is_flag=True, help="Resolve with pip-tools and with uv and show where they differ; nothing is written.")
@click.option(
    "--resolver",
    type=click.Choice(["pip-tools", "uv"]),
    default="pip-tools",
    show_default=True,
    help="uv is faster; the lock records which was used.",
)
@click.option("--as-of", metavar="DATE", help="Only files uploaded until this date (2026-10-01 or RFC 3339), or so many days ago (7d).")
@click.option("--timeout", "seconds", type=click.IntRange(5, 86400), default=120, show_default=True, help="Seconds a resolver may take.")
@click.option(
    "--export",
    type=click.Choice(["requirements", "pylock", "renv", "vscode-list"]),
    help="Write the lock for other programs: pip, uv, renv, code --install-extension.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="With --export: the file to write (default: stdout).")
@builder_option
@network_option
@common_options
def lock(
    workspace: Workspace,
    teams: tuple[str, ...],
    everyone: bool,
    check: bool,
    offline: bool,
    upgrade: bool,
    upgrades: tuple[str, ...],
    report: Path | None,
    compare: bool,
    resolver: str,
    as_of: str | None,
    seconds: int,
    export: str | None,
    output: Path | None,
    builder: str | None,
    network: str | None,
) -> None:
    """Compile the locks of TEAMS, prove them (--check), or write it for pip and uv (--export)."""
    from packaging.utils import canonicalize_name

    from imagebuild.config import load_team
    from imagebuild.pipeline.cacheplaces import choose_cache, share_bases
    from imagebuild.pipeline.lockoptions import LockOptions
    from imagebuild.pipeline.lockuse import check_team_lock, export_team_lock

    if upgrade and upgrades:
        raise UsageError("--upgrade takes everything, --upgrade-package only what it names", "give one of them")
    if report is not None and (check or export or compare):
        raise UsageError("--report describes what locking changed, and this command locks nothing", "leave --report out")
    if offline and not check:
        raise UsageError("--offline goes with --check: without an index there is nothing to resolve from", "add --check")
    cutoff = parse_cutoff(as_of) if as_of else read_clock()
    chosen = choose_teams(workspace, teams, everyone)
    if output is not None:
        check_output(workspace, output, export, chosen)
    addons = frozenset(name for name in upgrades if ":" in name)
    names = frozenset(canonicalize_name(name) for name in upgrades if name not in addons)
    options = LockOptions(cutoff, as_of is not None, upgrade, names, resolver, builder, network, seconds, addons)

    share_bases(workspace, choose_cache(workspace))

    def work(name: str) -> str:
        team = load_team(workspace.images, name)
        if check:
            return "".join(f"{name}: {line}\n" for line in check_team_lock(workspace, team, offline=offline))
        if export:
            return export_team_lock(workspace, team, export)
        if compare:
            return show_comparison(workspace, team, options)
        return lock_one(workspace, team, options, listed=report is None)

    run_teams(workspace, chosen, work, report, output)


def run_teams(workspace: Workspace, chosen: tuple[str, ...], work: Callable[[str], str], report: Path | None, output: Path | None) -> None:
    """Write what ``work`` gives of each team, in their order: at once, or together as the ``report``, with what failed."""
    sections: list[str] = []
    run = TeamRun(chosen)
    for _, text in run.side_by_side(workspace, work, ("imagebuild.lock.compiling", "imagebuild.lock.request")):
        if report is None:
            write_text(text, output, "the export")
        else:
            sections.append(text)
    if report is not None:
        from imagebuild.difference.relock import render_failure

        failures = [render_failure(name, error) for name, error in run.failures.items()]
        write_text("\n".join([*sections, *failures]), None if str(report) == "-" else report, "the report")
    run.finish()


def parse_cutoff(text: str) -> str:
    """``--as-of``: a date, or so many days before now (a supply-chain cooldown), written as a time either way."""
    from imagebuild.config import parse_days
    from imagebuild.pipeline.lockoptions import subtract_days

    return subtract_days(read_clock(), parse_days(text)) if re.fullmatch(r"\s*\d+\s*d(ays?)?\s*", text) else parse_date(text)


def show_comparison(workspace: Workspace, team: Team, options: LockOptions) -> str:
    """Both resolvers, from the lock that is there."""
    from imagebuild.difference.relock import compare_resolvers, render_resolvers
    from imagebuild.pipeline.lockuse import find_team_lock

    return render_resolvers(team.name, compare_resolvers(workspace, team, options, find_team_lock(workspace, team))) + "\n"


def lock_one(workspace: Workspace, team: Team, options: LockOptions, *, listed: bool) -> str:
    """Lock one team: its section of the report, or, with ``listed``, a line for each package."""
    from imagebuild.difference.relock import tell_changes
    from imagebuild.lock.file.changes import render_markdown
    from imagebuild.pipeline.addons import check_upgrades, find_addon_lock, lock_addons
    from imagebuild.pipeline.bases import open_base
    from imagebuild.pipeline.lockuse import find_team_lock, lock_team, warn_of_lock

    before = find_team_lock(workspace, team)
    old = [find_addon_lock(workspace, team, kind) for kind in team.addon_kinds]
    check_upgrades(team, old, options)
    base = open_base(workspace, team.table.base, team.platform)
    made = lock_team(workspace, team, base, options)
    warn_of_lock(workspace, team, base, made)
    addons = lock_addons(workspace, team, base, options)
    if not listed:
        return render_markdown(tell_changes(workspace, team, before, made, [item for item in old if item is not None], addons))
    return "".join([*map(describe_package, made.packages), *(describe_addon(lock.kind, item) for lock in addons for item in lock.addons)])


def describe_package(item: LockedPackage) -> str:
    """A package of a lock that was made, in one line."""
    withdrawn = f"; YANKED: {item.yanked}" if item.yanked else ""
    return f"{item.name}=={item.version}  ({item.index}; asked for by {', '.join(item.via) or 'nothing'}{withdrawn})\n"


def describe_addon(kind: str, item: Addon) -> str:
    """An add-on of a lock that was made, in one line."""
    return f"{kind}:{item.name}=={item.version}  ({item.index}; asked for by {', '.join(item.via) or 'nothing'})\n"


def check_output(workspace: Workspace, output: Path, export: str | None, teams: tuple[str, ...]) -> None:
    """An export is one team's and is never committed: it has addresses."""
    if not export:
        raise UsageError("-o goes with --export", "add --export, with a form such as requirements")
    if len(teams) > 1:
        raise UsageError("-o takes the export of one team", "name one team")
    if output.resolve().is_relative_to(workspace.root / "lockfiles"):
        raise UsageError("an export holds URLs for this machine and does not belong in lockfiles/", "write it elsewhere")


def write_text(text: str, output: Path | None, what: str) -> None:
    """To stdout, or to the file in one step."""
    from imagebuild.files import explain_os_error, write_atomic

    if output is None:
        print_data(text, nl=False)
        return
    try:
        write_atomic(output, text.encode())
    except OSError as error:
        raise explain_os_error(error, f"writing {what}") from None
