"""``imagebuild prewarm``: images kept on the nodes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, json_option, print_data, pull_option, read_entries_of, say
from imagebuild.errors import BudgetError, ImagebuildError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagebuild.catalogue.entries import CatalogueEntry
    from imagebuild.emit.prewarm.capacity import NodeImage, PoolPlan
    from imagebuild.emit.prewarm.daemonsets import NamedDocument
    from imagebuild.emit.prewarm.pools import Pool, PoolFile
    from imagebuild.workspace import Workspace

MODES = ("image-volume", "hold", "pinned-image-set", "image-pull-job")  # imagebuild.emit.prewarm.pools.Mode, without importing it


@click.command()
@click.option("--pool", "only", multiple=True, help="Only this pool (may be given again).")
@click.option("--namespace", default="imagebuild-prewarm", show_default=True)
@click.option(
    "--mode",
    type=click.Choice([*MODES, "list"]),
    help="How images are held, instead of pools.toml's mode; list: digests and sizes, for node images.",
)
@click.option("--split", is_flag=True, help="One DaemonSet per image.")
@click.option("--kustomize", type=click.Path(path_type=Path, file_okay=False), help="Write a folder for kubectl apply -k instead.")
@click.option("--plan", "only_plan", is_flag=True, help="Print disk and time per pool, and no manifests.")
@click.option("--prune", "only_prune", is_flag=True, help="Print the commands that delete what earlier runs wrote and this one does not.")
@json_option("The plan, or the list, as JSON (with --plan, with --mode list).")
@pull_option
@common_options
def prewarm(
    workspace: Workspace,
    only: tuple[str, ...],
    namespace: str,
    mode: str | None,
    split: bool,
    kustomize: Path | None,
    only_plan: bool,
    only_prune: bool,
    as_json: bool,
    pull_from: str,
) -> None:
    """Write the manifests that keep the teams' current images on the nodes of each GPU pool: a DaemonSet, or what --mode names."""
    import msgspec

    from imagebuild.config import parse_size
    from imagebuild.emit.prewarm.capacity import format_plan
    from imagebuild.emit.prewarm.daemonsets import describe_prewarm, render_kustomization, render_prewarm
    from imagebuild.emit.prewarm.guests import warn_of_guests
    from imagebuild.emit.prewarm.pools import load_pools
    from imagebuild.emit.prewarm.pullsecrets import warn_of_references, warn_of_secrets

    only_list = mode == "list"
    _check_options(only_plan, only_prune, only_list, as_json, kustomize, only)
    file = load_pools(workspace.images / "pools.toml")
    changes = {**({"mode": mode} if mode and not only_list else {}), **({"split": True} if split else {})}
    settings = msgspec.structs.replace(file.settings, **changes)
    pools = choose_pools(file, only)
    prefix = pull_from or settings.pull_from
    entries = read_entries_of(workspace).entries
    if only_prune:
        objects = describe_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=prefix)
        print_prune_commands(objects, namespace)
        return
    chosen = msgspec.structs.replace(file, pools=tuple(pools), settings=settings)
    images = read_node_images(workspace, chosen, entries)
    plans = plan_pools(chosen, entries, images)
    rate = parse_size(settings.rate)
    lines = [line for plan in plans for line in format_plan(plan, rate)]
    if only_plan:
        print_data(msgspec.json.format(msgspec.json.encode(plans), indent=2).decode() if as_json else "\n".join(lines))
    elif not workspace.quiet:
        say(*lines)
    require_room(plans)
    if only_plan:
        return
    framed = find_framed_teams(workspace.images, entries)
    say(*(f"warning: {warning}" for warning in (*warn_of_guests(pools, framed), *warn_of_references(settings, pull_from))))
    if only_list:
        print_list(pools, entries, images, prefix, as_json)
        return
    say(*(f"warning: {warning}" for warning in warn_of_secrets(settings, pools)))
    if kustomize is None:
        print_data(render_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=prefix), nl=False)
        return
    documents = describe_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=prefix)
    write_folder(kustomize, render_kustomization(documents, settings))
    print_data(f"{kustomize}: {len(documents)} objects; kubectl apply -k {kustomize}")


def _check_options(plan: bool, prune: bool, listed: bool, as_json: bool, kustomize: Path | None, only: tuple[str, ...]) -> None:
    """UsageError for options that would be ignored, or that together would delete too much."""
    if as_json and not (plan or listed):
        raise UsageError("--json is for the plan and the list; manifests are YAML", "add --plan or --mode list, or leave --json out")
    if prune and only:
        raise UsageError("--prune needs the whole set: with --pool it would delete the other pools'", "leave --pool out")
    outputs = {"--plan": plan, "--prune": prune, "--mode list": listed, "--kustomize": kustomize is not None}
    given = [name for name, value in outputs.items() if value]
    if len(given) > 1 and given != ["--plan", "--mode list"]:
        raise UsageError(f"{given[0]} and {given[1]} are two outputs", "leave one of them out")


def choose_pools(file: PoolFile, only: tuple[str, ...]) -> list[Pool]:
    """All of them, or those that are named; UsageError for one that pools.toml does not have."""
    from imagebuild.text import suggest

    known = [pool.name for pool in file.pools]
    for name in only:
        if name not in known:
            raise UsageError(f"there is no pool {name!r}", suggest(name, known))
    return [pool for pool in file.pools if not only or pool.name in only]


def print_prune_commands(objects: Sequence[NamedDocument], namespace: str) -> None:
    """Commands on stdout, for a shell."""
    from imagebuild.emit.manifest.merging import strip_types
    from imagebuild.emit.prewarm.pruning import list_prune_commands

    print_data("\n".join(list_prune_commands([strip_types(item.document.value) for item in objects], namespace)))


def find_framed_teams(images: Path, entries: Sequence[CatalogueEntry]) -> set[str]:
    """The teams with an image whose team.toml asks for no single stream; a team whose file cannot be read here is one of them."""
    from imagebuild.config import load_team

    found = {entry.team for entry in entries}
    for team in tuple(found):
        with contextlib.suppress(ImagebuildError):
            if load_team(images, team).table.layer.single_stream:
                found.discard(team)
    return found


def print_list(pools: Sequence[Pool], entries: Sequence[CatalogueEntry], images: dict[str, NodeImage], prefix: str, as_json: bool) -> None:
    """The pools' images by digest, with their sizes."""
    import msgspec

    from imagebuild.catalogue.entries import find_reference
    from imagebuild.emit.prewarm.baking import format_baked_images, list_baked_images
    from imagebuild.emit.prewarm.daemonsets import choose_images

    baked = []
    for pool in pools:
        own = choose_images(pool, entries)
        baked += list_baked_images(pool.name, [(images[str(entry.digest)], find_reference(entry, prefix)) for entry in own])
    text = msgspec.json.format(msgspec.json.encode(baked), indent=2).decode() if as_json else "\n".join(format_baked_images(baked))
    print_data(text)


def read_node_images(workspace: Workspace, file: PoolFile, entries: Sequence[CatalogueEntry]) -> dict[str, NodeImage]:
    """Digest -> image, of what the pools hold and of the quarter before: from their manifests."""
    from imagebuild.catalogue.layers import list_unpacked_sizes, read_layers, read_unpacked_sizes
    from imagebuild.emit.prewarm.capacity import NodeImage, NodeLayer

    sizes = read_unpacked_sizes(workspace.root / "lockfiles" / "bases")
    current, before = find_quarters(file, entries)
    found = [*current.values(), *before.values()]
    layers = read_layers(workspace.target, found)

    def describe(entry: CatalogueEntry) -> NodeImage:
        own = layers[str(entry.digest)]
        unpacked = {**{item.digest: -1 for item in own}, **sizes, **list_unpacked_sizes(entry, own)}
        return NodeImage(entry.team, entry.tag, tuple(NodeLayer(item.digest, item.size, unpacked[item.digest]) for item in own))

    return {str(entry.digest): describe(entry) for entry in found}


def find_quarters(file: PoolFile, entries: Sequence[CatalogueEntry]) -> tuple[dict[str, CatalogueEntry], dict[str, CatalogueEntry]]:
    """Team -> its current image and team -> that of the quarter before, of the pools' teams."""
    from imagebuild.catalogue.layers import find_predecessors
    from imagebuild.emit.prewarm.daemonsets import choose_images

    current = {entry.team: entry for pool in file.pools for entry in choose_images(pool, entries)}
    return current, find_predecessors(entries, current)


def plan_pools(file: PoolFile, entries: Sequence[CatalogueEntry], images: dict[str, NodeImage]) -> list[PoolPlan]:
    """Disk and time of every pool."""
    from imagebuild.config import parse_size
    from imagebuild.emit.prewarm.capacity import plan_pool
    from imagebuild.emit.prewarm.daemonsets import choose_images

    _, before = find_quarters(file, entries)
    chosen = {pool.name: choose_images(pool, entries) for pool in file.pools}
    return [
        plan_pool(
            pool,
            [images[str(entry.digest)] for entry in chosen[pool.name]],
            [images[str(before[entry.team].digest)] for entry in chosen[pool.name] if entry.team in before],
            rate=parse_size(file.settings.rate),
            threshold=file.settings.disk_threshold,
        )
        for pool in file.pools
    ]


def require_room(plans: Sequence[PoolPlan]) -> None:
    """BudgetError when a pool's images do not fit on its nodes, with what to drop."""
    from imagebuild.text import format_size

    full = [plan for plan in plans if not plan.fits]
    if not full:
        return
    details = tuple(f"pool {plan.pool}: drop {team}: {format_size(freed)} less" for plan in full for team, freed in plan.drop)
    plan = full[0]
    assert plan.limit is not None
    raise BudgetError(
        f"pool {plan.pool}: its images take {format_size(plan.peak)} of a node's disk, and from {format_size(plan.limit)} on the kubelet "
        "removes images",
        "leave teams out of the pool, give its nodes more disk, or let old images go first: max-unavailable instead of max-surge",
        details,
    )


def write_folder(folder: Path, files: dict[str, str]) -> None:
    """Write the files, each in one step, and remove those of ours that are no longer among them."""
    from imagebuild.emit.prewarm.daemonsets import HEADER
    from imagebuild.files import explain_os_error, sweep_writes, write_atomic

    sweep_writes(folder)
    try:
        for name, text in files.items():
            path = folder / name
            if path.is_file() and path.read_text(encoding="utf-8", errors="replace") == text:
                continue
            write_atomic(path, text.encode())
        for path in folder.glob("*.yaml"):
            if path.name not in files and path.read_text(encoding="utf-8", errors="replace").startswith(f"# {HEADER}"):
                path.unlink()
    except OSError as error:
        raise explain_os_error(error, f"writing {folder}") from None
