"""What the summary says of a team: its lock before and now, the predicted size, and the result of the build if there was one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.ci.history import read_file
from imagebuild.ci.summary import TeamReport
from imagebuild.config import load_team
from imagebuild.decoding import load_json
from imagebuild.errors import ConfigurationError, ImagebuildError
from imagebuild.lock.file.lockfile import decode_lock, read_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.inputs.freshness import list_changed_inputs
from imagebuild.text import name_some
from imagebuild.workspace import Workspace


def make_report(
    workspace: Workspace, team: str, *, since: str = "", proof: str = "", built: bool = False, result: Mapping[str, Any] | None = None
) -> TeamReport:
    """One team's report. What keeps it from being made is said in it: a summary is wanted most when something failed.

    ``proof``: how ``lock --check`` ended, "success" or another word; "" when it was not run. ``built``: a build was run, of which
    ``result`` is what it said, if it came to say anything.
    """
    from imagebuild.pipeline.sizesubject import predict_team

    before = _read_before(workspace.root, team, since) if since else None
    silent = "no image: the build ended without a result" if built and result is None else ""
    try:
        lock = read_lock(workspace.lockfile(team))
        lost = silent or _find_staleness(workspace, team, lock, proof)
    except ImagebuildError as error:
        return TeamReport(team, problem=silent or error.message, result=result)
    report = TeamReport(
        team,
        packages=compare_packages(before, lock) if since else None,
        cutoff=(before.cutoff if before else "", lock.cutoff),
        base=(f"{before.base} {before.base_digest[:19]}" if before else "", f"{lock.base} {lock.base_digest[:19]}"),
        result=result,
    )
    try:
        size = predict_team(workspace, team)
    except ImagebuildError as error:
        return msgspec.structs.replace(report, problem=lost or error.message)
    limits = tuple((limit.what, limit.size or 0, limit.limit) for limit in size.limits if not limit.package)
    over = ", ".join(f"{limit.package} {limit.what}".strip() for limit in size.limits if limit.over)
    return msgspec.structs.replace(
        report,
        problem=lost or (f"over budget: {over}" if over else ""),
        checks=("lock proved" if proof else "inputs as locked", "predicted within budget"),
        compressed=size.compressed,
        installed=size.installed,
        limits=limits,
    )


def _find_staleness(workspace: Workspace, team: str, lock: Lock, proof: str) -> str:
    """Why the lock cannot be relied on; "" when nothing is known against it."""
    if proof not in ("", "success"):
        return f"the lock is not proved (lock --check: {proof})"
    found = load_team(workspace.images, team)
    changed = list_changed_inputs(lock, found.requirements, found.local_packages, workspace.root)
    return f"the lock is stale: {name_some(changed)} changed" if changed else ""


def compare_packages(before: Lock | None, after: Lock) -> dict[str, tuple[str, str]]:
    """Name -> (version before, version now) of the packages that differ."""
    old = {item.name: item.version for item in before.packages} if before else {}
    new = {item.name: item.version for item in after.packages}
    return {name: (old.get(name, ""), new.get(name, "")) for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)}


def read_results(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Team -> result, of files that ``imagebuild image --json`` wrote. An empty one is from a run that was stopped, and is left out."""
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            data = path.read_bytes()
            items = load_json(data) if data.strip() else []
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}", "give the file of imagebuild image --json") from None
        except ValueError:
            raise ConfigurationError(f"{path} is not JSON", "give the file of imagebuild image --json") from None
        if not isinstance(items, list) or not all(isinstance(item, dict) and isinstance(item.get("team"), str) for item in items):
            raise ConfigurationError(f"{path} is not the result of a build", "give the file of imagebuild image --json")
        found |= {item["team"]: item for item in items}
    return found


def _read_before(root: Path, team: str, since: str) -> Lock | None:
    data = read_file(root, since, f"lockfiles/pylock.{team}.toml")
    try:
        return decode_lock(data, f"the lock of {team} at {since}") if data is not None else None
    except ImagebuildError:
        return None  # of another version: all of it counts as new
