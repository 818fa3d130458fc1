"""``imagebuild lock``: compile a lock, or check it."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option("--check", is_flag=True, help="Only say whether the lock is fresh; exit 4 when it is not.")
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping those of the lock.")
@click.option(
    "--resolver", type=click.Choice(["pip-tools", "uv"]), default="pip-tools", show_default=True, help="uv is faster; the lock says which."
)
@click.option("--as-of", metavar="DATE", help="Only files uploaded until this date (2026-10-01 or RFC 3339).")
@builder_option
@network_option
@common_options
def lock(
    workspace: Workspace,
    teams: tuple[str, ...],
    everyone: bool,
    check: bool,
    upgrade: bool,
    resolver: str,
    as_of: str | None,
    builder: str | None,
    network: str | None,
) -> None:
    """Compile the lock of TEAMS, or check it."""
    from imagebuild import pipeline
    from imagebuild.config import load_team

    cutoff = parse_date(as_of) if as_of else read_clock()
    chosen = choose_teams(workspace, teams, everyone)
    run = TeamRun(chosen)
    for name in chosen:
        with run.each(name):
            team = load_team(workspace.images, name)
            base = pipeline.open_base(workspace, team.table.base, team.platform)
            if check:
                pipeline.read_team_lock(workspace, team, base)
                print_data(f"{name}: {workspace.lockfile(name).name} is fresh")
                continue
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
                print_data(f"{item.name}=={item.version}  ({item.index}; asked for by {', '.join(item.via) or 'nothing'})")
    run.finish()
