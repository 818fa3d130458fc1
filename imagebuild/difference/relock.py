"""Locks beside locks: what locking again changes, written for a review, and what the two resolvers make of one team."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from imagebuild.addons.model import AddonLock
from imagebuild.config import Team
from imagebuild.difference.addons import find_addon_licences, join_addons
from imagebuild.errors import ImagebuildError, LockError
from imagebuild.lock.file.changes import LockChanges, compare_locks
from imagebuild.lock.file.model import Lock
from imagebuild.pipeline.bases import open_base
from imagebuild.pipeline.lockoptions import LockOptions
from imagebuild.pipeline.lockuse import resolve_team
from imagebuild.table import format_table
from imagebuild.workspace import Workspace


def tell_changes(
    workspace: Workspace, team: Team, before: Lock | None, after: Lock, old: Sequence[AddonLock] = (), new: Sequence[AddonLock] = ()
) -> LockChanges:
    """The comparison of two locks of a team, and of its add-ons' locks ``old`` and ``new``, with what this machine's cache knows of the
    packages: licences, states, wrong RECORDs.
    """
    from imagebuild.difference.sides import find_kept_licences

    licences = find_kept_licences(workspace, before) if before is not None else {}
    licences |= {**find_kept_licences(workspace, after), **find_addon_licences(old), **find_addon_licences(new)}
    changes = compare_locks(join_addons(before, old) if before is not None else None, join_addons(after, new), licences)
    return msgspec.structs.replace(changes, notes=tuple(_list_notes(workspace, team, after)))


def _list_notes(workspace: Workspace, team: Team, lock: Lock) -> Iterator[str]:
    """What a review should know of a lock, whether it changed or not: a line each."""
    from imagebuild.lock.index.bodies import wheel_cache_path
    from imagebuild.lock.index.statuses import recall_statuses
    from imagebuild.wheel.faults import find_record_faults
    from imagebuild.wheel.record import describe_repair

    yield from (f"[resolve] changed this: {line}" for line in lock.rewritten)
    yield from (item.describe() for item in recall_statuses(workspace.cache, team.indexes, lock.packages))
    for package in lock.packages:
        wheel = wheel_cache_path(workspace.cache, package.sha256, package.filename)
        if wheel.is_file() and (count := find_record_faults(wheel, package.sha256, workspace.cache, python=lock.python)):
            yield f"{package.name} {package.version}: {describe_repair(count)}"


def render_failure(team: str, error: ImagebuildError) -> str:
    """A team's section of the report when it could not be locked: Markdown."""
    lines = [f"### Lock of {team}", "", f"**Does not lock**: {error.message}", ""]
    if error.details:
        lines += [*(f"- {line}" for line in error.details), ""]
    return "\n".join([*lines, *([f"Next: {error.hint}", ""] if error.hint else [])])


def compare_resolvers(workspace: Workspace, team: Team, options: LockOptions, before: Lock | None) -> dict[str, Lock | LockError]:
    """What each resolver makes of the team, from the same start and cutoff: a lock, or why there is none. Nothing is written."""
    from imagebuild.lock.request import RESOLVERS

    base = open_base(workspace, team.table.base, team.platform)
    found: dict[str, Lock | LockError] = {}
    for name in RESOLVERS:
        try:
            found[name] = resolve_team(workspace, team, base, before, msgspec.structs.replace(options, resolver=name))
        except LockError as error:
            found[name] = error
    if all(isinstance(item, LockError) for item in found.values()):
        raise next(item for item in found.values() if isinstance(item, LockError))
    return found


def render_resolvers(team: str, found: dict[str, Lock | LockError]) -> str:
    """:func:`compare_resolvers` for people: a line, and one for each package that differs."""
    locks = [item for item in found.values() if isinstance(item, Lock)]
    failed = [f"{name} finds no lock: {item.message}" for name, item in found.items() if isinstance(item, LockError)]
    if failed:
        return "\n".join([f"{team}: {lock.resolver} locks {len(lock.packages)} packages" for lock in locks] + failed)
    one, other = locks
    changes = compare_locks(one, other).packages
    if not changes:
        return f"{team}: {one.resolver} and {other.resolver} lock the same {len(one.packages)} packages"
    count = len({item.name for item in (*one.packages, *other.packages)})
    lines = [f"{team}: {one.resolver} and {other.resolver} differ in {len(changes)} of {count} packages"]
    rows = []
    for item in changes:
        pins = [side.version if side is not None else "-" for side in (item.before, item.after)]
        rows.append((f"  {item.name}", *(f"{name} {pin}" for name, pin in zip(found, pins, strict=True))))
    return "\n".join([*lines, *format_table(rows)])
