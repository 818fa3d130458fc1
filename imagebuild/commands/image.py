"""``imagebuild image``: the whole pipeline."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import (
    builder_option,
    choose_teams,
    common_options,
    engine_option,
    naming_team,
    network_option,
    print_data,
    read_clock,
)

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option("--copy-base", is_flag=True, help="Copy base layers the target lacks and cannot mount.")
@click.option("--locked", is_flag=True, help="Refuse to make a missing lock (for CI).")
@click.option("--load", is_flag=True, help="Also put the image into the local Docker, ready for `docker run TEAM:TAG`.")
@engine_option
@builder_option
@network_option
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@common_options
def image(
    workspace: Workspace,
    teams: tuple[str, ...],
    everyone: bool,
    copy_base: bool,
    locked: bool,
    load: bool,
    engine: str | None,
    builder: str | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Build, check and push the image of TEAMS: the whole pipeline."""
    from imagebuild import pipeline
    from imagebuild.config import format_size
    from imagebuild.files import exclusive

    results = []
    chosen = choose_teams(workspace, teams, everyone)
    if load:
        from imagebuild.engine.local import connect_engine, load_image

        connect_engine().close()  # before anything is built, not after
    for team in chosen:
        started = time.monotonic()
        workspace.prepare()
        # A second run of the same team waits, then finds the tag.
        with naming_team(team, chosen), exclusive(workspace.state / f"image-{team}.lock"):
            plan = pipeline.plan_image(workspace, team, cutoff=read_clock(), locked=locked, engine=engine or "")
            result = pipeline.run_plan(workspace, plan, copy_base=copy_base, builder=builder, network=network)
            if load:
                loaded = load_image(workspace, plan.repository, result["digest"], f"{team}:{result['tag']}")
                result = {**result, "loaded": loaded.name, "loaded_bytes": loaded.size}
        seconds = time.monotonic() - started
        results.append({**result, "seconds": round(seconds, 2)})
        if not as_json:
            print_data(f"{result['image']}:{result['tag']}")
            print_data(f"  digest    {result['digest']}")
            print_data(f"  base      {result['base']}")
            if result["built"]:
                size = f"{format_size(result['compressed'])} stored, {format_size(result['installed'])} unpacked"
                print_data(f"  layer     {size}, {result['packages']} packages; budget {result['budget']}")
                if result["sparse"]:
                    print_data("  sparse    the base's layers are not in this folder; add --copy-base for a complete copy")
            if load:
                how = f"{format_size(result['loaded_bytes'])} handed over" if result["loaded_bytes"] else "it was there"
                print_data(f"  loaded    docker run {result['loaded']}  ({how})")
            print_data(f"  {'built in' if result['built'] else 'there already,'} {seconds:.1f} s")
    if as_json:
        print_data(json.dumps(results, indent=2))
