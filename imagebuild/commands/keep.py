"""``imagebuild keep``: a name for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.catalogue import everything_option
from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, print_data, read_entries_of

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("ref", metavar="TAG|DIGEST|TEAM[@QUARTER]", shell_complete=complete_teams)
@click.argument("name")
@everything_option
@common_options
def keep(workspace: Workspace, ref: str, name: str, everything: bool) -> None:
    """Give an image a permanent NAME: the tag keep-NAME beside its own. The tag never moves, and such an image is never retired."""
    from imagebuild.catalogue.pinnedtags import keep_image
    from imagebuild.catalogue.selection import find_entry
    from imagebuild.tagforms import kept_tag

    kept_tag(name)  # before the registry is asked for anything
    listing = read_entries_of(workspace, everything=everything)
    entry = find_entry(listing, ref)
    made = keep_image(workspace.target, listing, entry, name)
    print_data(f"{entry.image}:{kept_tag(name)}@{entry.digest}")
    workspace.report(f"{name} is {entry.team}:{entry.tag}{'' if made else ', and was before'}")
