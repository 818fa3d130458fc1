"""From what the command line names to a report: a team's lock, or an image."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from imagebuild import annotations as names
from imagebuild.base.runtime import runs_here
from imagebuild.catalogue.lookup import FoundImage, find_named_image
from imagebuild.config import Team, load_team
from imagebuild.errors import BudgetError, LockError, RemoteError
from imagebuild.lock.file.lockfile import lock_digest, read_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import LOCAL_NAME, PackageIndex
from imagebuild.lock.inputs.freshness import list_changed_inputs
from imagebuild.lock.wheels.shapes import find_shapes
from imagebuild.oci.model import Platform
from imagebuild.pipeline.addons import find_addon_lock
from imagebuild.size.budget import LastImage, compute_limits, list_absent
from imagebuild.size.image import measure_image
from imagebuild.size.model import Comparison, SizeReport
from imagebuild.size.prediction import find_unknown, predict_report
from imagebuild.supply.referrers import read_image_lock
from imagebuild.wheel.sizes import WheelShape, keep_shape, recall_shape
from imagebuild.workspace import Workspace


def predict_team(workspace: Workspace, name: str) -> SizeReport:
    """The report of a team's lock; the team's image of the same lock is named beside it, if there is one.

    Nothing of the base is read. Wheels that were never looked into here cost a range request each.
    """
    team = load_team(workspace.images, name)
    lock = read_lock(workspace.lockfile(name))
    if lock.team != name:
        raise LockError(f"{workspace.lockfile(name).name} is the lock of team {lock.team}", f"run: imagebuild lock {name}")
    unknown = find_unknown(lock)
    if unknown:
        raise BudgetError(f"the lock does not give the size of {', '.join(unknown)}", f"lock again: imagebuild lock {name}")
    shapes = {
        **find_shapes(lock.packages, workspace.cache, lambda: list_team_indexes(team), workspace.report),
        **_read_local(workspace, team, lock),
    }
    addons = [found for kind in team.addon_kinds if (found := find_addon_lock(workspace, team, kind)) is not None]
    bytecode = runs_here(team.platform) or team.table.engine == "docker" or bool(team.table.system.packages)
    report = predict_report(name, lock, shapes, team.table.layer.codec, bytecode=bytecode, slim=team.table.left_out, addons=addons)
    changed = list_changed_inputs(lock, team.requirements, team.local_packages, workspace.root)
    lacking = [kind for kind in team.addon_kinds if not workspace.addon_lockfile(kind, name).is_file()]
    notes = [*report.notes, *(f"its add-ons of kind {kind} are not locked yet: imagebuild lock {name}" for kind in lacking)]
    notes += [*([f"the lock is stale ({', '.join(changed)} changed): imagebuild lock {name}"] if changed else [])]
    if team.table.system.packages:
        notes.append(f"{len(team.table.system.packages)} system packages come on top: their size is known when the layer is built")
    rules = team.table.budget.rules
    built, last = None, None
    try:
        built, last = _find_images(workspace, team, lock)
    except RemoteError as error:
        if rules.growth is not None:
            raise
        notes.append(f"whether it was built is not known: {error.message}")
    sizes = {item.name: item.installed for item in report.packages}
    limits = compute_limits(rules, compressed=report.compressed, installed=report.installed, packages=sizes, last=last)
    notes += list_absent(rules, sizes)
    return msgspec.structs.replace(report, built=built, limits=limits, notes=tuple(notes))


def list_team_indexes(team: Team) -> tuple[PackageIndex, ...]:
    """The team's indexes; asked for when a wheel has to be looked into."""
    return team.indexes


def _read_local(workspace: Workspace, team: Team, lock: Lock) -> dict[str, WheelShape]:
    """Shapes of the team's own packages, from the wheels that were built of them here."""
    from imagebuild.lock.wheels.fetching import is_cached
    from imagebuild.pipeline.lockuse import build_local_wheels

    local = (item for item in lock.packages if item.index == LOCAL_NAME)
    wanted = {item.name: item for item in local if recall_shape(workspace.cache, item.sha256) is None}
    found = {}
    for name, path in (build_local_wheels(workspace, team, lock) if wanted else {}).items():
        package = wanted.get(name)
        if package is not None and is_cached(path, package.sha256):  # sources that changed since give another one
            with path.open("rb") as stream:
                found[name] = keep_shape(workspace.cache, package.sha256, stream, package.filename)
    return found


def _list_images(workspace: Workspace, team: str) -> Iterator[tuple[str, dict[str, str]]]:
    from imagebuild.catalogue.entries import read_catalogue

    repository = workspace.repository(team)
    for entry in read_catalogue(workspace.target, teams=[repository]).entries:
        raw = workspace.target.get_manifest(repository, str(entry.digest))
        if raw is not None:
            yield entry.tag, raw.parse().annotations


def _find_images(workspace: Workspace, team: Team, lock: Lock) -> tuple[Comparison | None, LastImage | None]:
    """The team's image of this lock, and its newest of another one; the catalogue is read newest first and no further than needed."""
    wanted, built, last = lock_digest(lock), None, None
    for tag, noted in _list_images(workspace, team.name):
        stored, unpacked = noted.get(names.DELTA_COMPRESSED, ""), noted.get(names.DELTA_INSTALLED, "")
        known = stored.isdecimal() and unpacked.isdecimal()
        if noted.get(names.LOCK) == wanted:
            if built is None and known:
                built = Comparison(f"{team.name}:{tag}", int(stored), int(unpacked))
        elif last is None:
            last = LastImage(tag, int(stored) if known else None, int(unpacked) if known else None)
        if built and last:
            break
    return built, last


def measure_named(workspace: Workspace, text: str, *, base: str = "", platform: Platform) -> SizeReport:
    """The account of the image that ``text`` names."""
    return measure_found(workspace, find_named_image(workspace, text, platform), base=base)


def measure_found(workspace: Workspace, image: FoundImage, *, base: str = "") -> SizeReport:
    """The account of one image; of a team's image against that team's budget."""
    report = measure_image(workspace, image, base=base, lock=find_image_lock(workspace, image), report=workspace.report)
    if not image.team:
        return report
    rules = load_team(workspace.images, image.team).table.budget.rules
    sizes = {item.name: item.installed for item in report.packages}
    limits = compute_limits(rules, compressed=report.compressed, installed=report.installed, packages=sizes)
    return msgspec.structs.replace(report, limits=limits)


def find_image_lock(workspace: Workspace, image: FoundImage) -> Lock | None:
    """The lock an image was built from: this checkout's when it is the one, else what travels with the image."""
    wanted = image.annotations.get(names.LOCK, "")
    team = image.annotations.get(names.TEAM, "")
    if not wanted or not team or "/" in team:
        return None
    path = workspace.lockfile(team)
    if path.is_file():
        lock = read_lock(path)
        if lock_digest(lock) == wanted:
            return lock
    return read_image_lock(image.store, image.repository, image.digest)
