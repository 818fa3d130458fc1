"""``imagebuild completion``: what a shell needs to complete commands, options, teams and bases; and where the names come from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import print_data
from imagebuild.errors import ImagebuildError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

PROGRAM = "imagebuild"
VARIABLE = "_IMAGEBUILD_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


def _find_images(ctx: click.Context) -> Path:
    return Path(ctx.params.get("root") or ".") / "images"


def complete_teams(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001 - click calls it so
    """The teams of the folder that ``--root`` names; a shell gets no error."""
    from click.shell_completion import CompletionItem

    from imagebuild.config import list_teams

    try:
        return [CompletionItem(name) for name in list_teams(_find_images(ctx)) if name.startswith(incomplete)]
    except (ImagebuildError, OSError):
        return []


def complete_bases(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """The bases of the catalogue, each with what it is."""
    from click.shell_completion import CompletionItem

    from imagebuild.base.pins import load_catalogue

    try:
        bases = load_catalogue(_find_images(ctx) / "catalogue.toml").bases
    except (ImagebuildError, OSError):
        return []
    return [CompletionItem(name, help=base.description or None) for name, base in bases.items() if name.startswith(incomplete)]


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands, options, teams and bases."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    print_data(kind(click.get_current_context().find_root().command, {}, PROGRAM, VARIABLE).source())
