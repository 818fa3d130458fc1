"""Which packages share a layer where ``[layer] split`` asks for several: decided by the locks alone, so that teams and quarters agree.

A node fetches the layers that it lacks, and unpacks again every layer above the lowest one that changed. So what changes seldom
lies below: layers are in the order of their archives' upload times, oldest first. A large archive has a layer of its own. Small ones
share one for each quarter that they were uploaded in: a new release then changes the layer that it leaves and the newest, and no
border between two others moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

LARGE_ARCHIVE = 16 << 20  # bytes of a wheel file, or of an add-on's archive: over that it has a layer of its own
MOST_LAYERS = 120  # of an image, with its base: overlay2 mounts 128 at most, and a container adds some of its own

_LATEST = (9999, 0)  # after every quarter


class Share(msgspec.Struct, frozen=True):
    """A package of the lock, or an add-on, as a layer has it."""

    name: str  # in accounts: numpy, r:data.table
    size: int  # bytes of its archive
    uploaded: str = ""  # RFC 3339; empty for what has no index


class _Group(msgspec.Struct, frozen=True):
    """Packages of one layer."""

    names: tuple[str, ...]
    size: int  # bytes of their archives


def divide_packages(packages: Iterable[Share], *, below: int, deletes: bool = False, extra: bool = False) -> tuple[tuple[str, ...], ...]:
    """The names in each layer, lowest first; ``below``: layers of the base.

    ``deletes``: something of the base is replaced, and the deletions get the lowest layer, so that the others are those of teams
    that replace nothing. What has no upload time, as the team's own packages, lies above all others, in one layer with its ``extra``
    files. Where an image would have more than :data:`MOST_LAYERS`, the two neighbours with the smallest archives become one, again
    and again.
    """
    large: list[tuple[tuple[int, int, int, str], _Group]] = []
    small: dict[tuple[int, int], list[Share]] = {}
    for package in packages:
        moment = _read_time(package.uploaded)
        quarter = (moment.year, (moment.month + 2) // 3) if moment is not None else _LATEST
        if package.size > LARGE_ARCHIVE:
            seconds = int(moment.timestamp()) if moment is not None else 0
            large.append(((*quarter, seconds, package.name), _Group((package.name,), package.size)))
        else:
            small.setdefault(quarter, []).append(package)
    if extra:
        small.setdefault(_LATEST, [])
    # A quarter's small archives lie above its large ones: a place that does not move when one of them is replaced.
    shared = [
        ((*quarter, 1 << 62, ""), _Group(tuple(sorted(item.name for item in items)), sum(item.size for item in items)))
        for quarter, items in small.items()
    ]
    groups = [group for _, group in sorted([*large, *shared], key=lambda item: item[0])]
    return tuple(group.names for group in _limit([_Group((), 0), *groups] if deletes else groups, max(1, MOST_LAYERS - below)))


def _limit(groups: Sequence[_Group], most: int) -> list[_Group]:
    left = list(groups)
    while len(left) > most:
        number = min(range(len(left) - 1), key=lambda index: (left[index].size + left[index + 1].size, index))
        one, other = left[number : number + 2]
        left[number : number + 2] = [_Group(tuple(sorted((*one.names, *other.names))), one.size + other.size)]
    return left


def _read_time(text: str) -> datetime | None:
    """An RFC 3339 time in UTC; None for none, or an invalid one."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # a moment of the year 1 in a zone may have none in UTC
        return None
