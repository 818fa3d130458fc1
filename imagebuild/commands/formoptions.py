"""The options of ``imagebuild catalogue`` that belong to its spawner forms."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imagebuild.commands.options import Command, print_data, say
from imagebuild.emit.forms.formats import FORMS, Choice, FormRequest, describe_choice, list_takers, render_form
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.workspace import Workspace


class FormChoices(NamedTuple):
    """What they were given."""

    teams: tuple[str, ...]
    merge: Path | None
    in_place: bool
    namespace: str
    team_label: str

    def check(self, form: str) -> None:
        """UsageError for an option that would be ignored."""
        given = {"--team": self.teams, "--merge": self.merge, "--in-place": self.in_place}
        if form not in FORMS and any(given.values()):
            name = next(name for name, value in given.items() if value)
            raise UsageError(f"{name} belongs to a spawner form", f"add --format {'|'.join(FORMS)}")
        if self.in_place and self.merge is None:
            raise UsageError("--in-place needs a file to merge into", "add --merge FILE")
        rules: tuple[tuple[str, Choice, str, str], ...] = (
            ("--namespace", "namespace", self.namespace, "have no namespace"),
            ("--team-label", "team_label", self.team_label, "cannot tell namespaces apart"),
        )
        for option, choice, value, others in rules:
            takers = list_takers(choice)
            if value and form not in takers:
                raise UsageError(f"{option} belongs to --format {' and '.join(takers)}", f"the other forms {others}")


def form_options(function: Command) -> Command:
    """Adds the options; the command gets them as one ``choices``."""

    @click.option("--team", "teams", multiple=True, help="Spawner forms: only this team (may be given again).")
    @click.option(
        "--merge",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE",
        help="Spawner forms: merge into this file; comments, and what imagebuild did not write, stay.",
    )
    @click.option("--in-place", is_flag=True, help="Write the result to FILE instead of printing it.")
    @click.option("--namespace", default="", help=describe_choice("namespace"))
    @click.option(
        "--team-label",
        metavar="KEY",
        default="",
        help=describe_choice("team_label"),
    )
    @functools.wraps(function)
    def wrapped(
        *arguments: Any, teams: tuple[str, ...], merge: Path | None, in_place: bool, namespace: str, team_label: str, **others: Any
    ) -> None:
        function(*arguments, choices=FormChoices(teams, merge, in_place, namespace, team_label), **others)

    return wrapped


def print_form(workspace: Workspace, form: str, listing: CatalogueListing, pull_from: str, choices: FormChoices) -> None:
    """The form on stdout, or in the file it was merged into; warnings on stderr."""
    from imagebuild.emit.manifest.merging import EditedFile
    from imagebuild.emit.prewarm.pools import read_pools
    from imagebuild.emit.prewarm.pullsecrets import warn_of_references

    file = read_pools(workspace.images / "pools.toml")
    say(*(f"warning: {warning}" for warning in warn_of_references(file.settings, pull_from)))
    prefix = pull_from or file.settings.pull_from
    merge = EditedFile.read(choices.merge) if choices.merge is not None else None
    request = FormRequest(listing.entries, file.pools, prefix, choices.teams, choices.namespace, choices.team_label, merge)
    rendered = render_form(form, request)
    say(*(f"warning: {warning}" for warning in rendered.warnings))
    if choices.merge is None or not choices.in_place:
        print_data(rendered.text, nl=False)
        return
    from imagebuild.files import explain_os_error, sweep_writes, write_atomic

    sweep_writes(choices.merge.parent)
    try:
        changed = choices.merge.read_bytes() != rendered.text.encode()
        if changed:
            write_atomic(choices.merge, rendered.text.encode())
    except OSError as error:
        raise explain_os_error(error, f"writing {choices.merge}") from None
    print_data(f"{choices.merge}: {'written' if changed else 'nothing to change'}")
