"""``imagebuild image``: the whole pipeline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import (
    TeamRun,
    builder_option,
    choose_teams,
    common_options,
    engine_option,
    every_team_option,
    json_option,
    network_option,
    print_data,
    read_clock,
)
from imagebuild.errors import ImagebuildError, UsageError

if TYPE_CHECKING:
    from imagebuild.pipeline.buildoptions import BuildOptions
    from imagebuild.workspace import Workspace

# What every build loads, which takes a quarter of a second.
BUILD_MODULES = (
    "cyclonedx.output.json",
    "imagebuild.size.measurement",
    "imagebuild.supply.components",
    "imagebuild.pipeline.teamimage",
    "imagebuild.oci.registry",
    "imagebuild.layer.assembly",
    "imagebuild.layer.invariants",
    "imagebuild.lock.file.lockfile",
    "imagebuild.lock.inputs.freshness",
    "imagebuild.lock.wheels.buildtools",
    "imagebuild.lock.wheels.fetching",
    "imagebuild.pipeline.pushing",
    "imagebuild.supply.referrers",
    "packaging.pylock",
)


@click.command()
@click.argument("teams", nargs=-1, shell_complete=complete_teams)
@every_team_option
@click.option("--copy-base", is_flag=True, help="Copy base layers the target lacks and cannot mount.")
@click.option("--locked", is_flag=True, help="Refuse to make a missing lock (for CI).")
@click.option("--offline", is_flag=True, help="Ask no package index and no registry but the one to push to.")
@click.option("--bundle", type=click.Path(path_type=Path), help="With --offline: build what `imagebuild bundle` put into this folder.")
@click.option("--bundle-digest", metavar="sha256:...", default="", help="What `imagebuild bundle` said: any other bundle is refused.")
@click.option("--load", is_flag=True, help="Also put the image into the local Docker, ready for `docker run TEAM:TAG`.")
@engine_option
@builder_option
@network_option
@click.option("--push", is_flag=True, help="BuildKit pushes to --registry by itself (docker engine; a builder not of type docker).")
@click.option(
    "--attest",
    multiple=True,
    type=click.Choice(["provenance", "sbom"]),
    help="Docker's own attestations, in an index under TAG-attested (docker engine; may be repeated).",
)
@click.option(
    "--no-companions", is_flag=True, help="Do not push lock, recipe, SBOM and provenance with the image (registries without OCI artifacts)."
)
@click.option("--cache-from", "sources", metavar="HOST/REPOSITORY", multiple=True, help="Take members from this repository; repeatable.")
@click.option("--cache-to", "target", metavar="HOST/REPOSITORY", default="", help="Push the members of this build to this repository.")
@click.option(
    "--cache-bases", "bases", is_flag=True, help="Take what was read of bases too; their interpreter then runs here (docs/security.md)."
)
@click.option("--no-cache", "no_sharing", is_flag=True, help="Use no cache, whatever images/cache.toml says.")
@json_option()
@common_options
def image(
    workspace: Workspace,
    teams: tuple[str, ...],
    everyone: bool,
    copy_base: bool,
    locked: bool,
    offline: bool,
    bundle: Path | None,
    bundle_digest: str,
    load: bool,
    engine: str | None,
    builder: str | None,
    network: str | None,
    push: bool,
    attest: tuple[str, ...],
    no_companions: bool,
    sources: tuple[str, ...],
    target: str,
    bases: bool,
    no_sharing: bool,
    as_json: bool,
) -> None:
    """Build, check and push the image of TEAMS: the whole pipeline."""
    from imagebuild.pipeline.buildoptions import BuildOptions
    from imagebuild.pipeline.cacheplaces import choose_cache

    workspace.offline = offline
    if bundle is not None:
        teams, engine = use_bundle(workspace, bundle, bundle_digest, teams, engine, offline=offline)
    elif bundle_digest:
        raise UsageError("--bundle-digest goes with --bundle", "add --bundle DIR")
    chosen = choose_teams(workspace, teams, everyone)
    if load:
        from imagebuild.engine.dockerd import connect_engine

        connect_engine().close()  # before anything is built, not after
    options = BuildOptions(
        copy_base=copy_base,
        builder=builder,
        network=network,
        push=push,
        attest=tuple(sorted(set(attest))),
        cache=choose_cache(workspace, sources, target, off=no_sharing, bases=bases),
        companions=not no_companions,
    )

    def build(team: str) -> dict[str, Any]:
        return build_team(workspace, team, options, locked=locked, engine=engine or "", load=load)

    print_results(workspace, TeamRun(chosen), build, as_json)


def print_results(workspace: Workspace, run: TeamRun, build: Callable[[str], dict[str, Any]], as_json: bool) -> None:
    """Build the teams and say what was done, each when it is, as JSON together at the end: of those that failed, why."""
    results: list[dict[str, Any]] = []
    try:
        for _, result in run.side_by_side(workspace, build, BUILD_MODULES):
            results.append(result)
            if not as_json:
                print_data(describe_result(result))
    except ImagebuildError as error:  # of a single team
        if as_json:
            print_data(json.dumps([describe_failure(run.teams[0], error)], indent=2))
        raise
    if as_json:
        results += [describe_failure(team, error) for team, error in run.failures.items()]
        print_data(json.dumps(results, indent=2))
    run.finish()


def describe_failure(team: str, error: ImagebuildError) -> dict[str, Any]:
    """What --json says of a team that was not built."""
    return {"team": team, "error": error.message, "hint": error.hint, "exit_code": error.exit_code}


def build_team(workspace: Workspace, team: str, options: BuildOptions, *, locked: bool, engine: str, load: bool) -> dict[str, Any]:
    """Build one team's image: what was done. A second run of the same team waits, then finds the tag."""
    from imagebuild.pipeline.cacheplaces import share_bases
    from imagebuild.pipeline.planning import plan_image
    from imagebuild.pipeline.teamimage import run_plan

    started = time.monotonic()
    workspace.prepare()
    share_bases(workspace, options.cache)
    with workspace.building(team):
        prefetch = not options.cache.sources
        plan = plan_image(workspace, team, cutoff=read_clock(), locked=locked, engine=engine, prefetch=prefetch)
        result = run_plan(workspace, plan, options)
        if load:
            from imagebuild.engine.dockerd import load_image

            loaded = load_image(workspace, plan.repository, result["digest"], f"{team}:{result['tag']}")
            result = {**result, "loaded": loaded.name, "loaded_bytes": loaded.size}
    return {**result, "seconds": round(time.monotonic() - started, 2)}


def use_bundle(
    workspace: Workspace, folder: Path, digest: str, teams: tuple[str, ...], engine: str | None, *, offline: bool
) -> tuple[tuple[str, ...], str]:
    """Open the bundle until the command ends; its team, and the engine its tag was made with unless another is asked for."""
    from imagebuild.bundle.unpacking import open_bundle

    if not offline:
        raise UsageError("--bundle goes with --offline: all that is built comes from the bundle", "add --offline")
    manifest = click.get_current_context().with_resource(open_bundle(workspace, folder, digest))
    if teams not in ((), (manifest.team,)):
        raise UsageError(
            f"the bundle in {folder} is team {manifest.team}'s", f"imagebuild image {manifest.team} --offline --bundle {folder}"
        )
    return (manifest.team,), engine or manifest.engine


def describe_result(result: Mapping[str, Any]) -> str:
    """What was done for one team, in a few lines."""
    from imagebuild.text import count_things, format_size

    lines = [f"{result['image']}:{result['tag']}", f"  digest    {result['digest']}", f"  base      {result['base']}"]
    if result["built"]:
        size = f"{format_size(result['compressed'])} stored, {format_size(result['installed'])} unpacked"
        parts = f" in {result['layers']} layers" if "layers" in result else ""
        addons = f", {count_things(result['addons'], 'add-on')}" if "addons" in result else ""
        lines.append(f"  layer     {size}, {result['packages']} packages{addons}{parts}; budget {result['budget']}")
        if result["sparse"]:
            lines.append("  sparse    the base's layers are not in this folder; add --copy-base for a complete copy")
    if "attested" in result:
        lines.append(f"  attested  {result['image']}:{result['attested']}")
    if "loaded" in result:
        how = f"{format_size(result['loaded_bytes'])} handed over" if result["loaded_bytes"] else "it was there"
        lines.append(f"  loaded    docker run {result['loaded']}  ({how})")
    lines.append(f"  {'built in' if result['built'] else 'there already,'} {result['seconds']:.1f} s")
    return "\n".join(lines)
