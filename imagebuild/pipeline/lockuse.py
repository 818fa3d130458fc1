"""What is done with a team's lock that exists: prove it, and write it in other programs' forms."""

from __future__ import annotations

from imagebuild.config import Team
from imagebuild.pipeline import build_local_wheels, open_base, read_team_lock
from imagebuild.workspace import Workspace


def check_team_lock(workspace: Workspace, team: Team, *, offline: bool = False) -> list[str]:
    """Prove the team's lock by its inputs, base and routes and, unless ``offline``, by what its indexes list today; lines for people.

    LockError: stale, or a name would come from elsewhere; IntegrityError: a file is gone or another; RemoteError: an index fails.
    """
    from concurrent.futures import ThreadPoolExecutor

    from imagebuild.lock.proving import check_listing, check_routes

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: team.indexes)  # pip is asked in a process of its own: meanwhile the base is opened
        lock = read_team_lock(workspace, team, open_base(workspace, team.table.base, team.platform))
        indexes = asking.result()
    check_routes(lock, indexes)
    name = workspace.lockfile(team.name).name
    if offline:
        count = sum(item.index != "local" for item in lock.packages)
        return [
            f"{name} is fresh: inputs, base and routes are as locked",
            f"not checked (--offline): whether the indexes still list the {count} files with these hashes, and whether one was yanked",
        ]
    found = check_listing(lock, indexes, workspace.cache)
    shares = ", ".join(f"{count} by {index}" for index, count in sorted(found.listed.items()))
    lines = [f"{name} is fresh: inputs, base and routes are as locked; hashes are listed as locked: {shares or 'none to ask for'}"]
    return [*lines, *(f"warning: {line}" for line in found.yanked), *(f"not proved: {line}" for line in found.unproved)]


def export_team_lock(workspace: Workspace, team: Team, form: str) -> str:
    """The team's fresh lock as text for pip or uv; ``form``: requirements or pylock."""
    from imagebuild.lock.exporting import export_pylock, export_requirements

    lock = read_team_lock(workspace, team, open_base(workspace, team.table.base, team.platform))
    export = export_pylock if form == "pylock" else export_requirements
    return export(lock, team.indexes, workspace.cache, build_local_wheels(workspace, team, lock))
