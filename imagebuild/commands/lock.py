"""``imagebuild lock``: compile a lock, or check it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import (
    TeamRun,
    builder_option,
    choose_teams,
    common_options,
    network_option,
    parse_date,
    print_data,
    read_clock,
)
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option("--check", is_flag=True, help="Prove the lock without resolving: exit 4 when it is stale, 8 when a file is gone or another.")
@click.option("--offline", is_flag=True, help="With --check: without asking the indexes.")
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping those of the lock.")
@click.option(
    "--resolver", type=click.Choice(["pip-tools", "uv"]), default="pip-tools", show_default=True, help="uv is faster; the lock says which."
)
@click.option("--as-of", metavar="DATE", help="Only files uploaded until this date (2026-10-01 or RFC 3339).")
@click.option(
    "--export", type=click.Choice(["requirements", "pylock"]), help="Write the lock with addresses, for pip or uv on this machine."
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
    resolver: str,
    as_of: str | None,
    export: str | None,
    output: Path | None,
    builder: str | None,
    network: str | None,
) -> None:
    """Compile the lock of TEAMS, prove it (--check), or write it for pip and uv (--export)."""
    from imagebuild import pipeline
    from imagebuild.config import load_team
    from imagebuild.locksteps import check_team_lock, export_team_lock

    if offline and not check:
        raise UsageError("--offline goes with --check: without an index there is nothing to resolve from", "add --check")
    cutoff = parse_date(as_of) if as_of else read_clock()
    chosen = choose_teams(workspace, teams, everyone)
    if output is not None:
        check_output(workspace, output, export, chosen)
    run = TeamRun(chosen)
    for name in chosen:
        with run.each(name):
            team = load_team(workspace.images, name)
            if check:
                print_data("\n".join(f"{name}: {line}" for line in check_team_lock(workspace, team, offline=offline)))
                continue
            if export:
                write_export(export_team_lock(workspace, team, export), output)
                continue
            base = pipeline.open_base(workspace, team.table.base, team.platform)
            made = pipeline.lock_team(
                workspace,
                team,
                base,
                cutoff=cutoff,
                explicit_cutoff=as_of is not None,
                upgrade=upgrade,
                resolver=resolver,
                builder=builder,
                network=network,
            )
            for item in made.packages:
                withdrawn = f"; YANKED: {item.yanked}" if item.yanked else ""
                print_data(f"{item.name}=={item.version}  ({item.index}; asked for by {', '.join(item.via) or 'nothing'}{withdrawn})")
    run.finish()


def check_output(workspace: Workspace, output: Path, export: str | None, teams: tuple[str, ...]) -> None:
    """An export is one team's and is never committed: it has addresses."""
    if not export:
        raise UsageError("-o goes with --export", "add --export requirements or --export pylock")
    if len(teams) > 1:
        raise UsageError("-o takes the export of one team", "name one team")
    if output.resolve().is_relative_to(workspace.root / "lockfiles"):
        raise UsageError("an export has addresses of this machine and does not belong into lockfiles/", "write it elsewhere")


def write_export(text: str, output: Path | None) -> None:
    """To stdout, or to the file in one step."""
    from imagebuild.files import explain_os_error, write_atomic

    if output is None:
        print_data(text, nl=False)
        return
    try:
        write_atomic(output, text.encode())
    except OSError as error:
        raise explain_os_error(error, "writing the export") from None
