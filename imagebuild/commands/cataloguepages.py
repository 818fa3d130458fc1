"""The catalogue as a folder of pages: the page itself, and of each team's current image its size and what it changed."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuild.commands.options import read_clock, say
from imagebuild.errors import ImagebuildError
from imagebuild.text import name_quarter

if TYPE_CHECKING:
    from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
    from imagebuild.catalogue.lookup import FoundImage
    from imagebuild.catalogue.overview import FleetOverview
    from imagebuild.config import BudgetRules
    from imagebuild.emit.page import LinkedPages
    from imagebuild.workspace import Workspace

_INDEX = "index.html"


def render_page(workspace: Workspace, listing: CatalogueListing, *, pull_from: str, as_of: str, pages: LinkedPages | None = None) -> str:
    """The catalogue's page."""
    from imagebuild.emit.page import render_catalogue_page

    overview = survey(workspace, listing, as_of)
    return render_catalogue_page(listing, registry_prefix=pull_from, as_of=as_of, overview=overview, pages=pages)


def survey(workspace: Workspace, listing: CatalogueListing, as_of: str) -> FleetOverview:
    """The overview of today's quarter, or of ``as_of``'s, with the budgets of the teams' folders."""
    from imagebuild.catalogue.overview import survey_fleet
    from imagebuild.commands.options import parse_date
    from imagebuild.config import list_teams

    day = parse_date(as_of) if as_of else read_clock()
    teams = list_teams(workspace.images)
    budgets = {team: rules for team in teams if (rules := _read_budget(workspace, team)) is not None}
    return survey_fleet(listing, quarter=name_quarter(day), teams=teams, budgets=budgets)


def _read_budget(workspace: Workspace, team: str) -> BudgetRules | None:
    """None, with a warning, where the team's folder cannot be read: the images are there all the same."""
    from imagebuild.config import load_team

    try:
        return load_team(workspace.images, team).table.budget.rules
    except ImagebuildError as error:
        say(f"warning: the budget of {team} is left out: {error.message}")
        return None


def write_pages(workspace: Workspace, listing: CatalogueListing, folder: Path, *, pull_from: str, as_of: str) -> Path:
    """Write the pages, the one that leads to the others last; its path.

    What is there of an image's size or of a difference stays: a digest names the same bytes for ever.
    """
    from imagebuild.emit.page import LinkedPages
    from imagebuild.files import explain_os_error, write_atomic

    teams: dict[str, list[CatalogueEntry]] = defaultdict(list)
    for entry in listing.entries:
        teams[entry.team].append(entry)
    size, diff = {}, {}
    try:
        for newest, *others in teams.values():
            size[str(newest.digest)] = _write_size(workspace, folder, newest)
            before = next((entry for entry in others if entry.digest != newest.digest), None)
            if before is not None:
                diff[f"{before.digest} {newest.digest}"] = _write_difference(workspace, folder, before, newest)
        page = render_page(workspace, listing, pull_from=pull_from, as_of=as_of, pages=LinkedPages(size, diff))
        write_atomic(folder / _INDEX, page.encode())
    except OSError as error:
        raise explain_os_error(error, f"writing {folder}") from None
    return folder / _INDEX


def _name(entry: CatalogueEntry) -> str:
    return entry.digest.rpartition(":")[2][:16]  # as the catalogue's page names an image in its address


def _find(workspace: Workspace, entry: CatalogueEntry) -> FoundImage:
    from imagebuild.catalogue.lookup import read_image
    from imagebuild.config import list_teams
    from imagebuild.oci.model import Platform

    team = entry.team if entry.team in list_teams(workspace.images) else ""
    name = f"{entry.team}:{entry.tag}"
    return read_image(workspace.target, entry.repository, str(entry.digest), name, Platform.parse("linux/amd64"), team)


def _write_size(workspace: Workspace, folder: Path, entry: CatalogueEntry) -> str:
    from imagebuild.files import write_atomic
    from imagebuild.pipeline.sizesubject import measure_found
    from imagebuild.size.page import render_size_page

    name = f"size/{_name(entry)}.html"
    if not (folder / name).is_file():
        workspace.report(f"{entry.team}: measuring {entry.tag}")
        report = measure_found(workspace, _find(workspace, entry))
        write_atomic(folder / name, render_size_page(report, back=f"../{_INDEX}#{_name(entry)}"))
    return name


def _write_difference(workspace: Workspace, folder: Path, before: CatalogueEntry, after: CatalogueEntry) -> str:
    from imagebuild.difference.comparison import compare_sides
    from imagebuild.difference.rendering import render_difference_page
    from imagebuild.difference.sides import read_image_side
    from imagebuild.files import write_atomic

    name = f"diff/{_name(before)}-{_name(after)}.html"
    if not (folder / name).is_file():
        workspace.report(f"{after.team}: comparing {before.tag} and {after.tag}")
        found = compare_sides(*(read_image_side(workspace, _find(workspace, entry)) for entry in (before, after)))
        write_atomic(folder / name, render_difference_page(found, back=f"../{_INDEX}#{_name(after)}..{_name(before)}"))
    return name
