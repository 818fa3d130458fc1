"""Which packages share a layer where ``[layer] split`` asks for several: decided by the lock alone, so that teams and quarters agree.

A node fetches the layers that it lacks, and unpacks again every layer above the lowest one that changed. So what changes seldom
lies below: layers are in the order of their wheels' upload times, oldest first. A large wheel has a layer of its own. Small ones
share one for each quarter that they were uploaded in: a new release then changes the layer that it leaves and the newest, and no
border between two others moves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import msgspec

from imagebuild.lock.file.model import LockedPackage

LARGE_WHEEL = 16 << 20  # bytes of the wheel file: over that a wheel has a layer of its own
MOST_LAYERS = 120  # of an image, with its base: overlay2 mounts 128 at most, and a container adds some of its own

_LATEST = (9999, 0)  # after every quarter


class _Group(msgspec.Struct, frozen=True):
    """Packages of one layer."""

    names: tuple[str, ...]
    size: int  # bytes of their wheels


def divide_packages(
    packages: Iterable[LockedPackage], *, below: int, deletes: bool = False, extra: bool = False
) -> tuple[tuple[str, ...], ...]:
    """The names in each layer, lowest first; ``below``: layers of the base.

    ``deletes``: something of the base is replaced, and the deletions get the lowest layer, so that the others are those of teams
    that replace nothing. Wheels without an upload time, as the team's own, lie above all others, in one layer with its ``extra``
    files. Where an image would have more than :data:`MOST_LAYERS`, the two neighbours with the smallest wheels become one, again
    and again.
    """
    large: list[tuple[tuple[int, int, int, str], _Group]] = []
    small: dict[tuple[int, int], list[LockedPackage]] = {}
    for package in packages:
        moment = _read_time(package.upload_time)
        quarter = (moment.year, (moment.month + 2) // 3) if moment is not None else _LATEST
        if package.size > LARGE_WHEEL:
            seconds = int(moment.timestamp()) if moment is not None else 0
            large.append(((*quarter, seconds, package.name), _Group((package.name,), package.size)))
        else:
            small.setdefault(quarter, []).append(package)
    if extra:
        small.setdefault(_LATEST, [])
    # A quarter's small wheels lie above its large ones: a place that does not move when one of them is replaced.
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
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
