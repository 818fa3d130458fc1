"""The options of ``imagebuild catalogue`` that belong to its spawner forms."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from imagebuild.commands.options import Command, print_data, say
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.workspace import Workspace

SPAWNER_FORMS = ("kubeflow", "workspacekind", "kubespawner", "imagestream")  # imagebuild.emit.forms.formats.FORMS, without importing it


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
        if form not in SPAWNER_FORMS and any(given.values()):
            name = next(name for name, value in given.items() if value)
            raise UsageError(f"{name} belongs to a spawner form", f"add --format {'|'.join(SPAWNER_FORMS)}")
        if self.in_place and self.merge is None:
            raise UsageError("--in-place needs a file to merge into", "add --merge FILE")
        if self.namespace and form not in ("workspacekind", "imagestream"):
            raise UsageError("--namespace belongs to --format workspacekind and imagestream", "the other forms have no namespace")
        if self.team_label and form != "workspacekind":
            raise UsageError("--team-label belongs to --format workspacekind", "the other forms cannot tell namespaces apart")


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
    @click.option("--namespace", default="", help="workspacekind: the namespace of its icons; imagestream: that of the streams.")
    @click.option(
        "--team-label",
        metavar="KEY",
        default="",
        help="workspacekind: a namespace with this label sees the images of the team it names, and no others.",
    )
    @functools.wraps(function)
    def wrapped(
        *arguments: Any, teams: tuple[str, ...], merge: Path | None, in_place: bool, namespace: str, team_label: str, **others: Any
    ) -> None:
        function(*arguments, choices=FormChoices(teams, merge, in_place, namespace, team_label), **others)

    return wrapped


def print_form(workspace: Workspace, form: str, listing: CatalogueListing, pull_from: str, choices: FormChoices) -> None:
    """The form on stdout, or in the file it was merged into; warnings on stderr."""
    from imagebuild.emit.forms.formats import FORMS, FormOptions, read_pools, render_form

    name = next(one for one in FORMS if one == form)
    options = FormOptions(pull_from, choices.teams, choices.namespace, choices.team_label, choices.merge)
    rendered = render_form(name, listing.entries, read_pools(workspace.images / "pools.toml"), options)
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
