"""Which teams a set of changed files is about."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from imagebuild.addons.model import ADDON_KINDS

_EVERYBODY = ("images/indexes.toml",)
_CATALOGUE = "images/catalogue.toml"


def choose_changed_teams(paths: Iterable[str], teams: Mapping[str, str], before: bytes | None, after: bytes | None) -> tuple[str, ...]:
    """The teams (name -> base) whose image may be another one, sorted.

    A team's folder and locks are its own. A base's table in the catalogue (``before`` and ``after`` are the file's bytes) and its inventory
    are of the teams on that base; other tables of the catalogue, and the shared indexes, are everybody's.
    """
    chosen: set[str] = set()
    for path in paths:
        parts = path.split("/")
        if path in _EVERYBODY:
            chosen.update(teams)
        elif path == _CATALOGUE:
            bases = find_changed_bases(before, after)
            chosen.update(teams if bases is None else {team for team, base in teams.items() if base in bases})
        elif parts[:2] == ["lockfiles", "bases"] and path.endswith(".json"):
            chosen.update(team for team, base in teams.items() if base == parts[-1].removesuffix(".json"))
        elif parts[0] == "lockfiles" and len(parts) == 2:
            chosen.update(team for team in teams if parts[1] in _list_locks(team))
        elif parts[0] == "images" and len(parts) > 2:
            chosen.update({parts[1]} & teams.keys())
    return tuple(sorted(chosen))


def _list_locks(team: str) -> tuple[str, ...]:
    return (f"pylock.{team}.toml", *(f"{kind}.{team}.toml" for kind in ADDON_KINDS))


def find_changed_bases(before: bytes | None, after: bytes | None) -> frozenset[str] | None:
    """The bases whose table differs; None when something else of the catalogue does, or one of the two cannot be read."""
    old, new = _parse(before), _parse(after)
    if old is None or new is None:
        return None
    one, other = old.pop("base", {}), new.pop("base", {})
    if old != new or not isinstance(one, dict) or not isinstance(other, dict):
        return None
    return frozenset(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _parse(data: bytes | None) -> dict[str, Any] | None:
    try:
        return tomllib.loads(data.decode()) if data is not None else None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return None
