"""What needs attention in a fleet: teams behind, budgets nearly full, images that may go, permanent names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from imagebuild.catalogue.entries import CatalogueListing
from imagebuild.catalogue.retention import OLDER_THAN, list_candidates
from imagebuild.config import BudgetRules
from imagebuild.tagforms import count_quarters

NEARLY_FULL = 0.9  # of a limit: one more quarter at the growth of the last ones may be refused


class BudgetUse(msgspec.Struct, frozen=True):
    """What a team's current image takes of one limit, in bytes."""

    team: str
    digest: str
    what: str  # stored or unpacked
    size: int
    limit: int


class FleetOverview(msgspec.Struct, frozen=True):
    """``quarter`` is the one it is about (2026q4). Images are named by their manifests' digests."""

    quarter: str
    behind: tuple[str, ...]  # teams without an image of that quarter, sorted; also those that never had one
    nearly_full: tuple[BudgetUse, ...]  # the fullest first, over the limit included
    may_go: tuple[str, ...]  # what `imagebuild retire` would plan if no cluster used it, oldest first
    kept: dict[str, str]  # name for good -> digest, sorted


def survey_fleet(
    listing: CatalogueListing, *, quarter: str = "", teams: Iterable[str] = (), budgets: Mapping[str, BudgetRules] | None = None
) -> FleetOverview:
    """The overview of one moment. Without ``quarter`` the newest that an image is of; ``teams`` are known beside those of the listing."""
    quarter = quarter or max((entry.quarter for entry in listing.entries if count_quarters(entry.quarter) is not None), default="")
    now = count_quarters(quarter) or 0
    up_to_date = {entry.team for entry in listing.entries if (count_quarters(entry.quarter) or -1) >= now}
    everybody = {*teams, *(entry.team for entry in listing.entries)}
    uses = [
        BudgetUse(entry.team, entry.digest, what, size, limit)
        for entry in listing.entries
        if entry.current and (rules := (budgets or {}).get(entry.team)) is not None
        for what, size, limit in (
            ("stored", entry.delta_compressed, rules.compressed),
            ("unpacked", entry.delta_installed, rules.installed),
        )
        if size >= NEARLY_FULL * limit
    ]
    old = sorted(list_candidates(listing, quarter, OLDER_THAN), key=lambda entry: (entry.moment, entry.team))
    kept = {name: str(entry.digest) for entry in listing.entries for name in entry.kept}
    return FleetOverview(
        quarter,
        tuple(sorted(everybody - up_to_date)),
        tuple(sorted(uses, key=lambda use: (-use.size / max(use.limit, 1), use.team, use.what))),
        tuple(str(entry.digest) for entry in old),
        dict(sorted(kept.items())),
    )
