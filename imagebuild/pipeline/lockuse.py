"""A team's lock in use: made, read, proved, exported, and the wheels of its source trees."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from imagebuild.base.inventory import encode_inventory, require_python
from imagebuild.base.model import Base
from imagebuild.config import Team
from imagebuild.errors import ImagebuildError, LockError, UsageError
from imagebuild.files import exclusive, explain_os_error, sweep_writes, write_atomic
from imagebuild.lock.file.model import Lock
from imagebuild.pipeline.addons import check_team_addons, export_addons
from imagebuild.pipeline.bases import open_base
from imagebuild.pipeline.lockoptions import LockOptions
from imagebuild.pipeline.sdists import make_source_builder
from imagebuild.workspace import Workspace


def find_team_lock(workspace: Workspace, team: Team) -> Lock | None:
    """The team's lock as it is, None when there is none that can be read: half a merge, a cut file."""
    from imagebuild.lock.file.lockfile import read_lock

    path = workspace.lockfile(team.name)
    try:
        return read_lock(path) if path.is_file() else None
    except LockError as error:  # locking anew is what repairs it
        workspace.report(f"{team.name}: {error.message}; locking without it")
        return None


def prefetch_wheels(workspace: Workspace, team: Team) -> None:
    """Get the wheels that the team's lock has from indexes, before it is known whether the lock still fits.

    A failure is left to the build.
    """
    from imagebuild.lock.file.lockfile import read_lock
    from imagebuild.lock.index.routing import LOCAL_NAME
    from imagebuild.lock.wheels.fetching import fetch_wheels

    with contextlib.suppress(ImagebuildError):
        lock = read_lock(workspace.lockfile(team.name))
        plain = tuple(item for item in lock.packages if item.index != LOCAL_NAME and item.source is None)
        fetch_wheels(msgspec.structs.replace(lock, packages=plain), lambda: team.indexes, workspace.cache, {}, workspace.report)


def resolve_team(workspace: Workspace, team: Team, base: Base, before: Lock | None, options: LockOptions) -> Lock:
    """Compile the team's lock and write nothing; versions of ``before`` stay unless ``options`` say otherwise."""
    from imagebuild.lock.compiling import compile_lock
    from imagebuild.lock.request import LockRequest

    require_python(base)
    cutoff = options.find_cutoff(team.cooldown)
    existing = None if options.upgrade else before
    if existing is not None and options.upgrade_packages:
        unknown = options.upgrade_packages - {item.name for item in existing.packages}
        if unknown:
            raise UsageError(
                f"the lock of {team.name} has no {', '.join(sorted(unknown))} to upgrade",
                "--upgrade-package takes names that are locked; what is new comes from requirements.in by itself",
            )
        stay = tuple(item for item in existing.packages if item.name not in options.upgrade_packages)
        existing = msgspec.structs.replace(existing, packages=stay)
    workspace.report(
        f"{team.name}: resolving against {base.name} (Python {base.interpreter.version}, {len(base.inventory.distributions)} packages)"
    )
    request = LockRequest(
        team=team.name,
        base=base,
        requirements=team.requirements,
        local_packages=team.local_packages,
        indexes=team.indexes,
        cutoff=cutoff,
        explicit_cutoff=options.explicit_cutoff or team.cooldown > 0,
        root=workspace.root,
        cache=workspace.cache,
        report=workspace.report,
        existing=existing,
        resolver=options.resolver,
        source=team.source,
        replace=team.replace,
        protect=team.protect,
        build_source=make_source_builder(workspace, team, base, options.docker),
        rules=team.rules,
        seconds=options.seconds,
    )
    return compile_lock(request)


def lock_team(workspace: Workspace, team: Team, base: Base, options: LockOptions) -> Lock:
    """Compile and write the team's lock. When nothing it decides has changed, the file (and its cutoff) stays."""
    from imagebuild.lock.file.lockfile import write_lock

    path = workspace.lockfile(team.name)
    before = find_team_lock(workspace, team)
    with exclusive(workspace.cache / f"lock-{team.name}.lock"):
        lock = resolve_team(workspace, team, base, before, options)
        # The base's inventory beside the lock: a review sees what a new base changes.
        inventory = workspace.root / "lockfiles" / "bases" / f"{base.name}.json"
        text = encode_inventory(base.inventory)
        if not inventory.is_file() or inventory.read_bytes() != text:
            sweep_writes(inventory.parent)
            write_atomic(inventory, text)
        if before is not None and not options.explicit_cutoff and msgspec.structs.replace(lock, cutoff=before.cutoff) == before:
            workspace.report(f"{team.name}: {path.name} is up to date ({len(before.packages)} packages)")
            return before
        try:
            write_lock(path, lock)
        except OSError as error:
            raise explain_os_error(error, f"writing {path.name}") from None
    workspace.report(f"{team.name}: wrote {path.relative_to(workspace.root)} ({len(lock.packages)} packages)")
    return lock


def warn_of_lock(workspace: Workspace, team: Team, base: Base, lock: Lock) -> None:
    """Warn of programs that locked packages need and nothing brings, and of versions that the base's constraints for pip do not allow."""
    from imagebuild.lock.baseconstraints import find_disallowed
    from imagebuild.lock.programs import find_missing_programs

    lines = find_missing_programs(base, [item.name for item in lock.packages], team.table.system.packages)
    if "PIP_CONSTRAINT" not in team.table.env:
        lines += find_disallowed(base, {item.name: item.version for item in lock.packages})
    for line in lines:
        workspace.report(f"warning: {team.name}: {line}")


def read_team_lock(workspace: Workspace, team: Team, base: Base) -> Lock:
    """The team's lock when it is there, whole, this team's, and fresh; else a LockError that says how to get a new one."""
    from imagebuild.lock.file.lockfile import read_lock
    from imagebuild.lock.file.replacement import check_replaced
    from imagebuild.lock.inputs.freshness import check_lock_fresh

    path = workspace.lockfile(team.name)
    hint = f"run: imagebuild lock {team.name}"
    if not path.is_file():
        raise LockError(f"{path.relative_to(workspace.root)} is missing", hint)
    lock = read_lock(path)
    if lock.team != team.name:
        raise LockError(f"{path.relative_to(workspace.root)} is the lock of team {lock.team}", hint)
    check_lock_fresh(lock, base, team.requirements, team.local_packages, workspace.root, team.rules)
    check_replaced(base, lock, team.replace, team.protect)
    return lock


def build_local_wheels(workspace: Workspace, team: Team, lock: Lock) -> dict[str, Path]:
    """The wheels of the team's source trees, by name: those a bundle brought, or built (again)."""
    from imagebuild.lock.inputs.localpackage import build_local_wheel
    from imagebuild.lock.wheels.buildtools import make_build_tools
    from imagebuild.lock.wheels.fetching import find_wheel

    if workspace.offline:
        brought = {item.name: find_wheel(item, workspace.cache) for item in lock.packages if item.tree}
        if all(brought.values()):
            return {name: path for name, path in brought.items() if path is not None}
    tools = make_build_tools(lambda: team.indexes, lock.cutoff, workspace.cache, workspace.report)
    wheels = (build_local_wheel(folder, workspace.cache, lock.cutoff, tools) for folder in team.local_packages)
    return {wheel.name: wheel.path for wheel in wheels}


def check_team_lock(workspace: Workspace, team: Team, *, offline: bool = False) -> list[str]:
    """Prove the team's lock by its inputs, base and routes and, unless ``offline``, by what its indexes list today; lines for people.

    LockError: stale, or a name would come from elsewhere; IntegrityError: a file is gone or another; RemoteError: an index fails.
    """
    from concurrent.futures import ThreadPoolExecutor

    from imagebuild.lock.proving import check_listing, check_routes

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: team.indexes)  # pip is asked in a process of its own: meanwhile the base is opened
        base = open_base(workspace, team.table.base, team.platform)
        lock = read_team_lock(workspace, team, base)
        indexes = asking.result()
    check_routes(lock, indexes)
    addons = check_team_addons(workspace, team, base, offline=offline)
    name = workspace.lockfile(team.name).name
    if offline:
        count = sum(item.index != "local" for item in lock.packages)
        return [
            f"{name} is fresh: inputs, base and routes are as locked",
            *addons,
            f"not checked (--offline): whether the indexes still list the {count} files with these hashes, and whether one was yanked",
        ]
    found = check_listing(lock, indexes, workspace.cache)
    shares = ", ".join(f"{count} by {index}" for index, count in sorted(found.listed.items()))
    lines = [f"{name} is fresh: inputs, base and routes are as locked; hashes are listed as locked: {shares or 'none to ask for'}"]
    return [*lines, *addons, *(f"warning: {line}" for line in found.yanked), *(f"not proved: {line}" for line in found.unproved)]


def export_team_lock(workspace: Workspace, team: Team, form: str) -> str:
    """The team's fresh lock as text; ``form``: requirements or pylock, renv, vscode-list."""
    from imagebuild.lock.exporting import FORMS, export_pylock, export_requirements

    base = open_base(workspace, team.table.base, team.platform)
    if form not in FORMS:
        return export_addons(workspace, team, base, form)
    lock = read_team_lock(workspace, team, base)
    export = export_pylock if form == "pylock" else export_requirements
    return export(lock, team.indexes, workspace.cache, build_local_wheels(workspace, team, lock))
