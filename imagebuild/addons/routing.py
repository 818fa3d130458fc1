"""Which index an add-on may come from: the rule of Python packages (lock/index/routing), over the indexes of the add-on's kind."""

from __future__ import annotations

from collections.abc import Sequence

from imagebuild.errors import LockError
from imagebuild.lock.index.routing import PackageIndex, UnroutedError, normalize_pattern, route_name


def route_addon(name: str, indexes: Sequence[PackageIndex], kind: str) -> PackageIndex:
    """The one index that may serve ``name``; LockError where there is none. ``kind``: of index, for the message."""
    try:
        return route_name(normalize_pattern(name), indexes)
    except UnroutedError:
        raise LockError(
            f"no package index of kind {kind!r} may serve {name}",
            f'name it in the names of an [[index]] with kind = "{kind}", or let one of them be the default = true',
        ) from None


def find_index(name: str, index: str, indexes: Sequence[PackageIndex], kind: str) -> PackageIndex:
    """The index that a lock has ``name`` from; LockError when the name would come from elsewhere now."""
    found = route_addon(name, indexes, kind)
    if found.name != index:
        raise LockError(
            f"{name} is locked from package index {index!r}, and comes from {found.name!r} now", "lock again: imagebuild lock TEAM"
        )
    return found
