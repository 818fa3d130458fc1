"""``imagebuild prewarm``: images kept on the nodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, json_option, print_data, pull_option, read_entries_of, say
from imagebuild.errors import BudgetError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from imagebuild.catalogue.entries import CatalogueEntry
    from imagebuild.emit.prewarm.capacity import NodeImage, PoolPlan
    from imagebuild.emit.prewarm.pools import PoolFile
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--pool", "only", multiple=True, help="Only this pool (may be given again).")
@click.option("--namespace", default="imagebuild-prewarm", show_default=True)
@click.option(
    "--mode",
    type=click.Choice(["image-volume", "hold", "pinned-image-set", "image-pull-job"]),
    help="How images are held, instead of pools.toml's mode.",
)
@click.option("--split", is_flag=True, help="One DaemonSet per image.")
@click.option("--kustomize", type=click.Path(path_type=Path, file_okay=False), help="Write a folder for kubectl apply -k instead.")
@click.option("--plan", "only_plan", is_flag=True, help="Print disk and time per pool, and no manifests.")
@json_option("The plan as JSON (with --plan).")
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
    as_json: bool,
    pull_from: str,
) -> None:
    """What keeps the teams' current images on the nodes of each GPU pool: a DaemonSet, or what --mode says."""
    import msgspec

    from imagebuild.config import parse_size
    from imagebuild.emit.prewarm.capacity import format_plan
    from imagebuild.emit.prewarm.daemonsets import describe_prewarm, render_kustomization, render_prewarm
    from imagebuild.emit.prewarm.pools import load_pools
    from imagebuild.text import suggest

    if as_json and not only_plan:
        raise UsageError("--json is for the plan; manifests are YAML", "add --plan, or leave --json out")
    file = load_pools(workspace.images / "pools.toml")
    known = [pool.name for pool in file.pools]
    for name in only:
        if name not in known:
            raise UsageError(f"there is no pool {name!r}", suggest(name, known))
    changes = {**({"mode": mode} if mode else {}), **({"split": True} if split else {})}
    settings = msgspec.structs.replace(file.settings, **changes)
    pools = [pool for pool in file.pools if not only or pool.name in only]
    entries = read_entries_of(workspace).entries
    plans = plan_pools(workspace, msgspec.structs.replace(file, pools=tuple(pools), settings=settings), entries)
    rate = parse_size(settings.rate)
    lines = [line for plan in plans for line in format_plan(plan, rate)]
    if only_plan:
        print_data(msgspec.json.format(msgspec.json.encode(plans), indent=2).decode() if as_json else "\n".join(lines))
    elif not workspace.quiet:
        say(*lines)
    require_room(plans)
    if only_plan:
        return
    if kustomize is None:
        print_data(render_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=pull_from), nl=False)
        return
    documents = describe_prewarm(pools, entries, settings, namespace=namespace, registry_prefix=pull_from)
    write_folder(kustomize, render_kustomization(documents, settings))
    print_data(f"{kustomize}: {len(documents)} objects; kubectl apply -k {kustomize}")


def plan_pools(workspace: Workspace, file: PoolFile, entries: Sequence[CatalogueEntry]) -> list[PoolPlan]:
    """Disk and time of every pool, from the manifests of its images and of those a quarter before."""
    from imagebuild.catalogue.layers import find_predecessors, read_layers, read_unpacked_sizes
    from imagebuild.config import parse_size
    from imagebuild.emit.prewarm.capacity import NodeImage, NodeLayer, plan_pool
    from imagebuild.emit.prewarm.daemonsets import choose_images

    sizes = read_unpacked_sizes(workspace.root / "lockfiles" / "bases")
    chosen = {pool.name: choose_images(pool, entries) for pool in file.pools}
    current = {entry.team: entry for images in chosen.values() for entry in images}
    before = find_predecessors(entries, current)
    layers = read_layers(workspace.target, [*current.values(), *before.values()])

    def describe(entry: CatalogueEntry) -> NodeImage:
        own = layers[str(entry.digest)]
        unpacked = {item.digest: sizes.get(item.digest, -1) for item in own}
        if own and entry.delta_installed:
            unpacked[own[-1].digest] = entry.delta_installed
        return NodeImage(entry.team, entry.tag, tuple(NodeLayer(item.digest, item.size, unpacked[item.digest]) for item in own))

    return [
        plan_pool(
            pool,
            [describe(entry) for entry in chosen[pool.name]],
            [describe(before[entry.team]) for entry in chosen[pool.name] if entry.team in before],
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
