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
    builder: str | None,
    network: str | None,
) -> None:
    """Compile the lock of TEAMS, or check it."""
    from imagebuild import pipeline
    from imagebuild.config import load_team

    if offline and not check:
        raise UsageError("--offline goes with --check: without an index there is nothing to resolve from", "add --check")
    cutoff = parse_date(as_of) if as_of else read_clock()
    chosen = choose_teams(workspace, teams, everyone)
    run = TeamRun(chosen)
    for name in chosen:
        with run.each(name):
            team = load_team(workspace.images, name)
            if check:
                print_data("\n".join(f"{name}: {line}" for line in pipeline.check_team_lock(workspace, team, offline=offline)))
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
