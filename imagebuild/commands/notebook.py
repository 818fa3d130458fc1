"""``imagebuild notebook``: a Notebook of one team's image, to apply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, print_data, pull_option, read_entries_of, say
from imagebuild.errors import IntegrityError, UsageError

if TYPE_CHECKING:
    from imagebuild.catalogue.entries import CatalogueEntry
    from imagebuild.emit.prewarm.pools import Pool
    from imagebuild.oci.model import ContainerConfig
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("what", metavar="TEAM|NAME|TAG|DIGEST|TEAM@QUARTER", shell_complete=complete_teams)
@click.option("--name", default="", help="The notebook's name (default: the team's).")
@click.option("--namespace", default="", help="The Kubeflow profile, which is a namespace (default: kubectl's).")
@click.option("--pool", "pool_name", default="", help="A pool of images/pools.toml: its nodes, its tolerations, what it asks for there.")
@click.option("--cpu", default="", help="Default: the pool's, else 2.")
@click.option("--memory", default="", help="Default: the pool's, else 8Gi.")
@click.option("--gpu", type=click.IntRange(min=0), help="How many whole or time-sliced GPUs (default: the pool's, else none).")
@click.option("--mig", metavar="PROFILE", default="", help="A slice of a GPU instead, as in 1g.5gb.")
@click.option("--home", "home_claim", metavar="CLAIM", default="", help="The home's volume claim (default: NAME-workspace).")
@click.option("--home-size", metavar="SIZE", default="", help="Create that claim too, of this size, as in 50Gi.")
@click.option("--home-access", type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]), default="ReadWriteOnce", show_default=True)
@click.option("--storage-class", default="", help="Storage class of the claim that --home-size makes (default: the cluster's).")
@click.option("--home-path", default="", help="Where it is mounted (default: the image's HOME).")
@click.option("--dataset", "datasets", metavar="CLAIM:/PATH[:rw]", multiple=True, help="A shared volume, read-only (may be given again).")
@click.option("--service-account", default="", help="Service account; a Kubeflow profile has default-editor, which may use pipelines.")
@click.option("--pull-secret", default="", help="Pull secret, where the service account names none.")
@click.option("--everything", is_flag=True, help="Include teams without a folder here.")
@pull_option
@common_options
def notebook(
    workspace: Workspace,
    what: str,
    name: str,
    namespace: str,
    pool_name: str,
    cpu: str,
    memory: str,
    gpu: int | None,
    mig: str,
    home_claim: str,
    home_size: str,
    home_access: str,
    storage_class: str,
    home_path: str,
    datasets: tuple[str, ...],
    service_account: str,
    pull_secret: str,
    everything: bool,
    pull_from: str,
) -> None:
    """Kubeflow's Notebook for a team's image, by digest, with a home, /dev/shm, a GPU and shared data as asked."""
    from imagebuild.catalogue.entries import find_reference
    from imagebuild.catalogue.selection import find_entry
    from imagebuild.emit.forms.notebook import NotebookPlan, parse_dataset, render_notebook
    from imagebuild.emit.prewarm.pools import read_pools
    from imagebuild.emit.prewarm.pullsecrets import warn_of_notebook_secret, warn_of_references

    entry = find_entry(read_entries_of(workspace, everything=everything), what)
    pool = find_pool(workspace, pool_name) if pool_name else None
    settings = read_pools(workspace.images / "pools.toml").settings
    reference = find_reference(entry, pull_from or settings.pull_from)
    devices = choose_devices(pool, gpu, mig)
    pull_secret = pull_secret or (pool.notebook.pull_secret if pool is not None else "")
    warnings = (*warn_of_notebook_secret(settings, pull_secret), *warn_of_references(settings, pull_from))
    say(*(f"warning: {warning}" for warning in warnings))
    plan = NotebookPlan(
        name=name or entry.team,
        namespace=namespace,
        cpu=cpu or (str(pool.notebook.cpu) if pool is not None else "2"),
        memory=memory or (pool.notebook.memory if pool is not None else "8Gi"),
        devices=devices,
        home_claim=home_claim or f"{name or entry.team}-workspace",
        home_path=home_path,
        home_size=home_size,
        home_access=home_access,
        storage_class=storage_class,
        datasets=tuple(map(parse_dataset, datasets)),
        pool=pool,
        service_account=service_account,
        pull_secret=pull_secret,
        warnings=warnings,
    )
    print_data(render_notebook(entry, reference, read_config(workspace, entry), plan), nl=False)


def choose_devices(pool: Pool | None, gpu: int | None, mig: str) -> dict[str, int]:
    """Resource -> count. UsageError for two ways to ask, and for a device that the pool's nodes cannot have."""
    from imagebuild.emit.forms.notebook import GPU, name_mig
    from imagebuild.emit.prewarm.pools import find_strategy_problem

    if mig and gpu:
        raise UsageError("--gpu and --mig are two ways to ask for a GPU", "leave one of them out")
    devices: dict[str, int] = {}
    if mig:
        devices = {name_mig(mig): 1}
    elif gpu is not None:
        devices = {(pool.notebook.resource if pool is not None else GPU): gpu}
    elif pool is not None:
        devices = {pool.notebook.resource: pool.notebook.gpu}
    if pool is not None and (problem := find_strategy_problem(pool.labels, [name for name, count in devices.items() if count])):
        raise UsageError(f"pool {pool.name}: {problem[0]}", problem[1])
    return devices


def find_pool(workspace: Workspace, name: str) -> Pool:
    """UsageError for a pool that pools.toml does not have."""
    from imagebuild.emit.prewarm.pools import load_pools
    from imagebuild.text import suggest

    pools = {pool.name: pool for pool in load_pools(workspace.images / "pools.toml").pools}
    if name not in pools:
        raise UsageError(f"there is no pool {name!r}", suggest(name, list(pools)))
    return pools[name]


def read_config(workspace: Workspace, entry: CatalogueEntry) -> ContainerConfig:
    """What the image starts with."""
    from imagebuild.oci.model import ImageConfig, Index

    raw = workspace.target.get_manifest(entry.repository, entry.digest)
    manifest = raw.parse() if raw is not None else None
    if manifest is None or isinstance(manifest, Index):
        raise IntegrityError(f"{entry.image}@{entry.digest} is gone", "run it again; imagebuild catalogue verify says what else is")
    return ImageConfig.parse(workspace.target.read_blob(entry.repository, manifest.config)).container
