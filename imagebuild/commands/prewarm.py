"""``imagebuild prewarm``: images kept on the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, print_data, pull_option, read_entries_of
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--pool", "only", multiple=True, help="Only this pool (may be given again).")
@click.option("--namespace", default="imagebuild-prewarm", show_default=True)
@pull_option
@common_options
def prewarm(workspace: Workspace, only: tuple[str, ...], namespace: str, pull_from: str) -> None:
    """One DaemonSet per GPU node pool that keeps the teams' current images on its nodes."""
    from imagebuild.emit.pools import load_pools
    from imagebuild.emit.prewarm import render_prewarm
    from imagebuild.toml import suggest

    file = load_pools(workspace.images / "pools.toml")
    known = [pool.name for pool in file.pools]
    for name in only:
        if name not in known:
            raise UsageError(f"there is no pool {name!r}", suggest(name, known))
    text = render_prewarm(
        [pool for pool in file.pools if not only or pool.name in only],
        read_entries_of(workspace).entries,
        namespace=namespace,
        pause_image=file.pause_image,
        pull_secret=file.pull_secret,
        registry_prefix=pull_from,
    )
    print_data(text, nl=False)
