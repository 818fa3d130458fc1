"""``imagebuild catalogue``: what was pushed, and the spawner forms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, print_data, pull_option, read_entries_of

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--format", "form", type=click.Choice(["table", "json", "kubeflow"]), default="table", show_default=True)
@pull_option
@common_options
def catalogue(workspace: Workspace, form: str, pull_from: str) -> None:
    """What can be spawned, read from what was pushed."""
    from imagebuild.catalogue.entries import encode_entries
    from imagebuild.config import format_size
    from imagebuild.emit.kubeflow import render_spawner_form

    listing = read_entries_of(workspace)
    if form == "json":
        print_data(encode_entries(listing).decode(), nl=False)
    elif form == "kubeflow":
        rendered = render_spawner_form(listing.entries, registry_prefix=pull_from)
        for warning in rendered.warnings:
            click.echo(f"warning: {warning}", err=True)
        print_data(rendered.text, nl=False)
    else:
        for entry in listing.entries:
            mark = "*" if entry.current else " "
            size = format_size(entry.delta_compressed)
            print_data(f"{mark} {entry.team:<16} {entry.tag:<22} {entry.created[:10]}  {size:>10}  on {entry.base}  {entry.title}")
        click.echo(f"{len(listing.entries)} images, {listing.foreign} foreign tags left out", err=True)
