"""What the page says first: teams behind, budgets nearly full, what may go, names for good."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, read_catalogue
from imagebuild.catalogue.overview import survey_fleet
from imagebuild.catalogue.retention import plan_retirement
from imagebuild.catalogue.usage import Usage
from imagebuild.config import BudgetRules
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from tests.support.fleet import make_fleet, push_fleet


def make_entry(team: str, quarter: str, **changes: object) -> CatalogueEntry:
    year, number = quarter.split("q")
    entry = CatalogueEntry(
        team=team, quarter=quarter, tag=f"{quarter}-0123456789ab", digest=Digest.of(f"{team} {quarter}".encode()),
        created=f"{year}-{3 * int(number) - 2:02}-01T00:00:00Z", kind="jupyter", image=f"registry.example.com/ml/{team}",
        repository=f"ml/{team}", current=False,
    )  # fmt: skip
    return msgspec.structs.replace(entry, tags=(entry.tag,), **changes)


def test_a_team_is_behind_until_it_has_an_image_of_the_quarter() -> None:
    listing = CatalogueListing((make_entry("blue", "2026q4"), make_entry("green", "2026q3"), make_entry("red", "2027q1")), 0)
    assert survey_fleet(listing, quarter="2026q4", teams=["blue", "grey"]).behind == ("green", "grey")
    assert survey_fleet(listing, quarter="2027q2").behind == ("blue", "green", "red")
    assert survey_fleet(listing).quarter == "2027q1"
    odd = CatalogueListing((*listing.entries, msgspec.structs.replace(make_entry("odd", "2026q4"), quarter="zz<b>")), 0)
    assert "odd" in survey_fleet(odd).behind
    assert survey_fleet(odd).quarter == "2027q1"  # what is no quarter is never the newest


@pytest.mark.parametrize(("stored", "unpacked", "expected"), [(89, 0, ()), (90, 0, ("stored",)), (101, 950, ("stored", "unpacked"))])
def test_a_budget_is_nearly_full_from_nine_tenths(stored: int, unpacked: int, expected: tuple[str, ...]) -> None:
    full = {"delta_compressed": stored, "delta_installed": unpacked}
    listing = CatalogueListing((make_entry("blue", "2026q4", current=True, **full), make_entry("blue", "2026q3", **full)), 0)
    found = survey_fleet(listing, budgets={"blue": BudgetRules(100, 1000)}).nearly_full
    assert tuple(use.what for use in found) == expected  # of the current image alone
    assert survey_fleet(listing, budgets={"other": BudgetRules(1, 1)}).nearly_full == ()
    assert survey_fleet(listing).nearly_full == ()


def test_the_fullest_budget_is_first() -> None:
    blue = make_entry("blue", "2026q4", current=True, delta_compressed=95)
    green = make_entry("green", "2026q4", current=True, delta_compressed=120)
    rules = BudgetRules(100, 1000)
    found = survey_fleet(CatalogueListing((blue, green), 0), budgets={"blue": rules, "green": rules}).nearly_full
    assert [(use.team, use.digest, use.size, use.limit) for use in found] == [
        ("green", green.digest, 120, 100),
        ("blue", blue.digest, 95, 100),
    ]


def test_what_may_go_is_what_retire_would_plan(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    push_fleet(store, make_fleet(3))
    listing = read_catalogue(store)
    kept = msgspec.structs.replace(listing.entries[-1], kept=("q1",))
    listing = msgspec.structs.replace(listing, entries=(*listing.entries[:-1], kept))
    overview = survey_fleet(listing, quarter="2026q4")
    plan = plan_retirement(store, listing, Usage(), today="2026q4", older_than=4)
    assert sorted(overview.may_go) == sorted(entry.digest for entry in plan.goes)
    assert len(overview.may_go) == 8
    assert kept.digest not in overview.may_go
    assert overview.kept == {"q1": kept.digest}
