"""``imagebuild catalogue``: the pushed images as a table, data, a page or a form; one image; and whether all are complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild.commands.cataloguepages import render_page, write_pages
from imagebuild.commands.formoptions import FormChoices, form_options, print_form
from imagebuild.commands.options import common_options, json_option, print_data, pull_option, read_entries_of
from imagebuild.emit.forms.formats import FORMS
from imagebuild.errors import IntegrityError, UsageError, make_printable
from imagebuild.text import count_things

if TYPE_CHECKING:
    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.workspace import Workspace

everything_option = click.option(
    "--everything", is_flag=True, help="Include teams without a folder here: every repository that the registry lists."
)


@click.group(invoke_without_command=True)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "html", *FORMS]),
    default="table",
    show_default=True,
    help="For people, as data, as a page, or as a form that spawns notebooks.",
)
@form_options
@click.option("--as-of", metavar="DATE", default="", help="As it was at the end of that day (2026-03-31, or RFC 3339).")
@click.option(
    "--pages",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --format html: write the page there, with pages of the size of each team's current image and of what it changed.",
)
@everything_option
@pull_option
@common_options
@click.pass_context
def catalogue(
    ctx: click.Context,
    workspace: Workspace,
    form: str,
    as_of: str,
    everything: bool,
    pull_from: str,
    choices: FormChoices,
    pages: Path | None,
) -> None:
    """List the images that can be spawned, from what was pushed."""
    if ctx.invoked_subcommand is not None:
        given = [name for name in ctx.params if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
        if given:
            raise UsageError("an option stands before the subcommand", f"write it after: imagebuild catalogue {ctx.invoked_subcommand} ...")
        return
    choices.check(form)
    if pages is not None and form != "html":
        raise UsageError("--pages needs the format html", "add --format html")
    listing = read_entries_of(workspace, as_of=as_of, everything=everything)
    if form == "json":
        from imagebuild.catalogue.entries import encode_entries

        print_data(encode_entries(listing).decode(), nl=False)
    elif pages is not None:
        print_data(str(write_pages(workspace, listing, pages, pull_from=pull_from, as_of=as_of)))
    elif form == "html":
        print_data(render_page(workspace, listing, pull_from=pull_from, as_of=as_of), nl=False)
    elif form in FORMS:
        print_form(workspace, form, listing, pull_from, choices)
    else:
        print_table(listing)


def print_table(listing: CatalogueListing) -> None:
    """One line an image; the current one of each team is marked."""
    from imagebuild.text import format_size

    for entry in listing.entries:
        mark = "*" if entry.current else " "
        size = format_size(entry.delta_compressed)
        names = f"  kept as {', '.join(entry.kept)}" if entry.kept else ""
        line = (
            f"{mark} {entry.team:<16} {entry.tag:<22} {entry.status:<8}  {entry.created[:10]}  {size:>10}  on {entry.base}  {entry.title}"
        )
        print_data(make_printable(line.rstrip() + names))
    click.echo(f"{len(listing.entries)} images, {listing.foreign} foreign tags left out", err=True)


@catalogue.command("show")
@click.argument("what", metavar="NAME|TAG|DIGEST|TEAM[@QUARTER]")
@click.option("--lock", "lock_alone", is_flag=True, help="Only the lock it was built from, as lockfiles/pylock.<team>.toml has it.")
@json_option()
@everything_option
@pull_option
@common_options
def show(workspace: Workspace, what: str, lock_alone: bool, as_json: bool, everything: bool, pull_from: str) -> None:
    """Show how to start one image, and how to build it again."""
    from imagebuild.catalogue.description import describe_entry, render_description
    from imagebuild.catalogue.selection import find_entry
    from imagebuild.emit.snippets import list_snippets, pin_reference

    entry = find_entry(read_entries_of(workspace, everything=everything), what)
    if lock_alone:
        from imagebuild.lock.file.lockfile import format_lock
        from imagebuild.supply.referrers import read_image_lock

        lock = read_image_lock(workspace.target, entry.repository, entry.digest)
        if lock is None:
            raise IntegrityError(
                f"{entry.team}:{entry.tag} has no attached lock that matches its annotation",
                "look for it in the history of lockfiles/, by its cutoff: " + entry.created,
            )
        print_data(format_lock(lock), nl=False)
        return
    reference, snippets = pin_reference(entry, pull_from), list_snippets(entry, pull_from)
    found = describe_entry(workspace.target, entry, reference=reference, snippets=snippets, what=what)
    print_data(json.dumps(found, indent=2) if as_json else render_description(found))


@catalogue.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME|TAG|DIGEST|TEAM[@QUARTER]]...")
@json_option()
@everything_option
@common_options
def verify(workspace: Workspace, names: tuple[str, ...], as_json: bool, everything: bool) -> None:
    """Ask for every manifest, config and layer of the catalogue, or of some images; exit 8 names what is gone."""
    import msgspec

    from imagebuild.catalogue.presence import check_presence
    from imagebuild.catalogue.selection import find_entry

    listing = read_entries_of(workspace, everything=everything)
    report = check_presence(workspace.target, [find_entry(listing, name) for name in names] if names else listing.entries)
    if as_json:
        print_data(json.dumps(msgspec.to_builtins(report), indent=2))
    else:
        print_data(f"{count_things(report.images, 'image')}, {count_things(report.parts, 'part')} asked for, {len(report.missing)} missing")
        if report.elsewhere:
            print_data(
                f"{report.elsewhere} base layers are not in this folder: the base's registry has them (imagebuild image --copy-base)"
            )
    if report.missing:
        lines = tuple(f"  {item.repository}:{item.tag}  {item.part}  {item.digest}" for item in report.missing)
        count = len({(item.repository, item.tag) for item in report.missing})
        raise IntegrityError(
            f"{count} of {report.images} images cannot be pulled any more",
            "build them again from their locks (imagebuild catalogue show NAME), or restore the registry's storage",
            lines,
        )
