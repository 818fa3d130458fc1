"""What a team asks for, as values: ``data.table``, ``xgboost>=1.7``, ``dplyr == 1.1.4``."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from imagebuild.addons.rlang.control import is_package_name
from imagebuild.addons.rlang.versions import OPERATORS, Bound, parse_version
from imagebuild.errors import ConfigurationError

_WISH = re.compile(r"\s*([A-Za-z0-9.]+)\s*([<>=!].*)?")
_BOUND = re.compile(rf"\s*({'|'.join(OPERATORS)})\s*(\S+)\s*")


class PackageWish(msgspec.Struct, frozen=True):
    """One package that a team asks for."""

    name: str
    bounds: tuple[Bound, ...]  # all of them hold
    where: str  # team.toml, packages.R.txt line 3

    @property
    def pin(self) -> str:
        """The one version that is asked for, else ""."""
        return next((bound.version for bound in self.bounds if bound.operator == "=="), "")


def parse_wish(text: str, where: str) -> PackageWish:
    """ConfigurationError, with the place, for what is not a name with versions."""
    match = _WISH.fullmatch(text)
    try:
        if match is None or not is_package_name(match[1]):
            raise ValueError(text)
        return PackageWish(match[1], tuple(_parse_bound(part) for part in match[2].split(",")) if match[2] else (), where)
    except ValueError:
        raise ConfigurationError(
            f"{where}: not an R package: {text!r}", 'write its name as CRAN does, with a version if need be: "data.table", "xgboost>=1.7"'
        ) from None


def _parse_bound(text: str) -> Bound:
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ValueError(text)
    parse_version(match[2])
    return Bound(match[1], match[2])


def join_wishes(wishes: Iterable[PackageWish]) -> tuple[PackageWish, ...]:
    """One for each name, with the bounds and places of all; in their order."""
    found: dict[str, PackageWish] = {}
    for wish in wishes:
        before = found.get(wish.name)
        if before is not None:
            wish = PackageWish(wish.name, (*before.bounds, *wish.bounds), f"{before.where}, {wish.where}")
        found[wish.name] = wish
    return tuple(found.values())
