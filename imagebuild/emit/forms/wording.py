"""What changed between two images of a team, in words: the packages the team asked for, Python, and the base."""

from __future__ import annotations

from typing import Literal

import msgspec
from packaging.version import InvalidVersion, Version

from imagebuild.catalogue.entries import CatalogueEntry

Level = Literal["Info", "Warning", "Danger"]


class Change(msgspec.Struct, frozen=True):
    """``Warning``: code may have to change (a package gone, a first or leading version number, Python)."""

    level: Level
    text: str


def describe_change(before: CatalogueEntry, after: CatalogueEntry, limit: int = 1024) -> Change:
    """Sentences of at most ``limit`` characters, the most important first; what does not fit is counted."""
    removed = [f"{name} is gone" for name in before.packages if name not in after.packages]
    added = [f"{name} {version} is new" for name, version in after.packages.items() if name not in before.packages]
    breaking: list[str] = []
    minor: list[str] = []
    for name, version in after.packages.items():
        old = before.packages.get(name, version)
        if old != version:
            (breaking if is_breaking(old, version) else minor).append(f"{name} {old} to {version}")
    grave = bool(removed or breaking)
    parts = [*removed, *breaking, *minor, *added]
    if before.python != after.python and before.python and after.python:
        parts.insert(0, f"Python {before.python} to {after.python}")
        grave = grave or before.python.split(".")[:2] != after.python.split(".")[:2]
    if before.base != after.base:
        parts.insert(0, f"base {before.base} to {after.base}")
        grave = True
    elif before.base_digest != after.base_digest:
        parts.append(f"a newer {after.base or 'base'}")
    start = f"{after.quarter} replaces {before.quarter}: "
    if not parts:
        return Change("Info", f"{start}the same versions of what the team asked for."[:limit])
    return Change("Warning" if grave else "Info", join_parts(start, parts, limit))


def is_breaking(before: str, after: str) -> bool:
    """Whether the first version number that is not zero differs, or the version goes back."""
    try:
        old, new = Version(before), Version(after)
    except InvalidVersion:
        return True
    if new < old:
        return True
    places = max(len(old.release), len(new.release))
    one, other = (list(version.release) + [0] * (places - len(version.release)) for version in (old, new))
    leading = next((place for place in range(places) if one[place] or other[place]), 0)
    return old.epoch != new.epoch or one[: leading + 1] != other[: leading + 1]


def join_parts(start: str, parts: list[str], limit: int) -> str:
    """``start`` and the parts with commas, as many as fit, and how many did not."""
    for count in range(len(parts), 0, -1):
        more = f" and {len(parts) - count} more" if count < len(parts) else ""
        text = f"{start}{', '.join(parts[:count])}{more}."
        if len(text) <= limit:
            return text
    return clip(f"{start}{len(parts)} changes.", limit)


def clip(text: str, limit: int) -> str:
    """One line of printable text, cut to ``limit`` characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."
