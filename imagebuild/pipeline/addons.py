"""A team's add-ons in use: locked, read, proved, and their archives on this disk. One row a kind."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from imagebuild.addons.lockfile import read_addon_lock, write_addon_lock
from imagebuild.addons.model import ADDON_KINDS, AddonKind, AddonLock, AddonRequest, AddonRules, FetchRequest, find_changes, name_addon
from imagebuild.addons.routing import find_index
from imagebuild.base.model import Base
from imagebuild.config import Team
from imagebuild.engine.options import DEFAULT_DOCKER, DockerOptions
from imagebuild.errors import LockError, UsageError
from imagebuild.files import exclusive, explain_os_error, hash_file
from imagebuild.lock.index.routing import LOCAL_NAME
from imagebuild.pipeline.lockoptions import LockOptions
from imagebuild.pipeline.sdists import make_r_builder
from imagebuild.text import count_things
from imagebuild.workspace import Workspace


def find_rules(kind: AddonKind) -> AddonRules:
    """The rules of a kind."""
    if kind == "vscode":
        from imagebuild.addons.vscode.fetching import RULES as VSCODE

        return VSCODE
    from imagebuild.addons.rlang.fetching import RULES as R

    return R


# --- locks


def lock_addons(workspace: Workspace, team: Team, base: Base, options: LockOptions) -> tuple[AddonLock, ...]:
    """Lock the add-ons of every kind that the team has; the lock of a kind that it has no more is removed."""
    for kind in ADDON_KINDS:
        path = workspace.addon_lockfile(kind, team.name)
        if kind not in team.addon_kinds and path.is_file():
            path.unlink()
            workspace.report(f"{team.name}: removed {path.name}: the team asks for nothing of that kind")
    return tuple(_lock_kind(workspace, team, base, kind, options) for kind in team.addon_kinds)


def _lock_kind(workspace: Workspace, team: Team, base: Base, kind: AddonKind, options: LockOptions) -> AddonLock:
    path = workspace.addon_lockfile(kind, team.name)
    before = find_addon_lock(workspace, team, kind)
    with exclusive(workspace.cache / f"lock-{kind}-{team.name}.lock"):
        lock = resolve_addons(workspace, team, base, kind, before, options)
        if before is not None and not options.explicit_cutoff and msgspec.structs.replace(lock, cutoff=before.cutoff) == before:
            workspace.report(f"{team.name}: {path.name} is up to date ({count_things(len(before.addons), find_rules(kind).title)})")
            return before
        try:
            write_addon_lock(path, lock)
        except OSError as error:
            raise explain_os_error(error, f"writing {path.name}") from None
    counted = count_things(len(lock.addons), find_rules(kind).title)
    workspace.report(f"{team.name}: wrote {path.relative_to(workspace.root)} ({counted})")
    return lock


def resolve_addons(
    workspace: Workspace, team: Team, base: Base, kind: AddonKind, before: AddonLock | None, options: LockOptions
) -> AddonLock:
    """Compile the lock of one kind and write nothing; versions of ``before`` stay unless ``options`` say otherwise."""
    rules = find_rules(kind)
    existing = None if options.upgrade else before
    if existing is not None:
        stay = tuple(item for item in existing.addons if name_addon(kind, item.name) not in options.upgrade_addons)
        existing = msgspec.structs.replace(existing, addons=stay)
    return rules.compile_lock(
        AddonRequest(
            team=team.name,
            base=base,
            wishes=team.list_wishes(kind),
            files=team.list_archives(kind),
            indexes=team.list_indexes(rules.index_kind),
            cutoff=options.find_cutoff(team.cooldown),
            explicit_cutoff=options.explicit_cutoff or team.cooldown > 0,
            inputs=hash_addon_inputs(team, kind),
            cache=workspace.cache,
            report=workspace.report,
            existing=existing,
            replace=team.list_replaced(kind),
            system=team.table.system.packages,
            build=make_r_builder(workspace, team, base, options.docker) if kind == "r" else None,
        )
    )


def check_upgrades(team: Team, locks: Sequence[AddonLock | None], options: LockOptions) -> None:
    """UsageError for an add-on that is to be upgraded and is in no lock."""
    known = {name_addon(lock.kind, item.name) for lock in locks if lock is not None for item in lock.addons}
    unknown = options.upgrade_addons - known
    if unknown:
        raise UsageError(
            f"the locks of {team.name} have no {', '.join(sorted(unknown))} to upgrade", "--upgrade-package takes names that are locked"
        )


def hash_addon_inputs(team: Team, kind: AddonKind) -> dict[str, str]:
    """Path relative to the root -> SHA-256 in hex: of what the team asks for, and of the archives in its folder."""
    folder = team.requirements.parent
    asked = [[wish.text for wish in team.list_wishes(kind)], sorted(team.list_replaced(kind))]
    found = {f"images/{team.name}/team.toml [{kind}]": hashlib.sha256(msgspec.json.encode(asked)).hexdigest()}
    for path in filter(Path.is_file, team.list_archives(kind)):
        found[f"images/{team.name}/{path.relative_to(folder).as_posix()}"] = hash_file(path)
    return found


def find_addon_lock(workspace: Workspace, team: Team, kind: AddonKind) -> AddonLock | None:
    """The team's lock as it is; None when there is none that can be read."""
    path = workspace.addon_lockfile(kind, team.name)
    try:
        return read_addon_lock(path) if path.is_file() else None
    except LockError as error:  # locking anew is what repairs it
        workspace.report(f"{team.name}: {error.message}; locking without it")
        return None


def use_addon_locks(workspace: Workspace, team: Team, base: Base, options: LockOptions, *, locked: bool) -> tuple[AddonLock, ...]:
    """The locks of an image's plan: read, or made where they are missing and may be."""
    found = []
    for kind in team.addon_kinds:
        if locked or workspace.offline or workspace.addon_lockfile(kind, team.name).is_file():
            found.append(read_team_addons(workspace, team, base, kind))
        else:
            found.append(_lock_kind(workspace, team, base, kind, options))
    return tuple(found)


def read_team_addons(workspace: Workspace, team: Team, base: Base, kind: AddonKind) -> AddonLock:
    """The team's lock of one kind when it is there, whole, this team's and fresh; else a LockError that says how to get a new one."""
    path = workspace.addon_lockfile(kind, team.name)
    hint = f"run: imagebuild lock {team.name}"
    if not path.is_file():
        raise LockError(f"{path.relative_to(workspace.root)} is missing", hint)
    lock = read_addon_lock(path)
    if (lock.team, lock.kind) != (team.name, kind):
        raise LockError(f"{path.relative_to(workspace.root)} is the lock of team {lock.team}, kind {lock.kind}", hint)
    if lock.base != base.name:
        raise LockError(f"{path.name} is for base {lock.base}, and the team now uses {base.name}", hint)
    changes = find_changes(lock, find_rules(kind).describe_base(base), hash_addon_inputs(team, kind))
    if changes:
        raise LockError(f"{path.name} is stale: {'; '.join(changes)}", hint)
    return lock


def check_team_addons(workspace: Workspace, team: Team, base: Base, *, offline: bool) -> list[str]:
    """Prove the locks by inputs, base and routes and, unless ``offline``, that their files are to be had with the locked hashes."""
    lines = []
    for kind in team.addon_kinds:
        lock = read_team_addons(workspace, team, base, kind)
        rules = find_rules(kind)
        for item in lock.addons:
            if item.index != LOCAL_NAME:
                find_index(item.name, item.index, team.list_indexes(rules.index_kind), rules.index_kind)
        name = workspace.addon_lockfile(kind, team.name).name
        if offline:
            lines.append(f"{name} is fresh: inputs, base and routes are as locked")
            continue
        fetch_addons(workspace, team, base, (lock,))
        lines.append(f"{name} is fresh: inputs, base and routes are as locked; the hashes of {count_things(len(lock.addons), 'file')} are")
    return lines


def export_addons(workspace: Workspace, team: Team, base: Base, form: str) -> str:
    """A fresh lock as text for other programs: ``renv`` (renv.lock), or ``vscode-list`` (for ``code --install-extension``)."""
    from imagebuild.addons.rlang.exporting import export_renv

    kind: AddonKind = "r" if form == "renv" else "vscode"
    if kind not in team.addon_kinds:
        raise UsageError(f"team {team.name} asks for no {find_rules(kind).title}", f"--export {form} writes the lock of these")
    lock = read_team_addons(workspace, team, base, kind)
    if form == "renv":
        return export_renv(lock, team.list_indexes(find_rules(kind).index_kind))
    return "".join(f"{item.name}@{item.version}\n" for item in lock.addons)


# --- archives


def fetch_addons(
    workspace: Workspace,
    team: Team,
    base: Base,
    locks: Sequence[AddonLock],
    docker: DockerOptions = DEFAULT_DOCKER,
) -> dict[str, Path]:
    """Every archive of the locks on this disk, verified; by the name that accounts have for it (``vscode:ms-python.python``).

    ``docker``: how, where a package of R has to be built again.
    """
    found = {}
    for lock in locks:
        rules = find_rules(lock.kind)
        request = FetchRequest(
            lock,
            base,
            team.list_indexes(rules.index_kind),
            workspace.cache,
            team.list_archives(lock.kind),
            workspace.report,
            workspace.offline,
            make_r_builder(workspace, team, base, docker) if lock.kind == "r" else None,
        )
        found.update({name_addon(lock.kind, name): path for name, path in rules.fetch(request).items()})
    return found
