"""Add-ons beside Python packages in a comparison: a lock with both, which is compared and never written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from imagebuild.addons.lockfile import read_addon_lock
from imagebuild.addons.model import ADDON_KINDS, AddonLock, list_askers, list_needs, name_addon
from imagebuild.lock.file.changes import REQUIRED
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.supply.addons import is_direct, read_addon_licence


def join_addons(lock: Lock, addons: Sequence[AddonLock]) -> Lock:
    """``lock`` with the add-ons as further packages, by the names that accounts have (``r:data.table``)."""
    if not addons:
        return lock
    needs, askers = list_needs(addons), list_askers(addons)
    found = []
    for item in addons:
        for addon in item.addons:
            name = name_addon(item.kind, addon.name)
            found.append(
                LockedPackage(
                    name=name,
                    version=addon.version,
                    filename=addon.filename,
                    sha256=addon.sha256,
                    size=addon.size,
                    installed_size=addon.installed,
                    index=addon.index,
                    upload_time=addon.released,
                    dependencies=needs[name],
                    via=(REQUIRED,) if is_direct(item, addon) else askers[name],
                )
            )
    satisfied = [name_addon(item.kind, text) for item in addons for text in item.satisfied]
    return msgspec.structs.replace(
        lock,
        packages=tuple(sorted((*lock.packages, *found), key=lambda package: package.name)),
        satisfied=(*lock.satisfied, *satisfied),
        inputs={**lock.inputs, **{path: sha256 for item in addons for path, sha256 in item.inputs.items()}},
    )


def find_addon_licences(addons: Sequence[AddonLock]) -> dict[str, str]:
    """SHA-256 of an archive (hex) -> its licence."""
    licences = {addon.sha256: read_addon_licence(addon) for item in addons for addon in item.addons}
    return {sha256: text for sha256, licence in licences.items() if (text := licence.expression or licence.text)}


def read_sibling_locks(lockfile: Path, team: str) -> tuple[AddonLock, ...]:
    """The locks of the team's add-ons that lie beside its Python lock."""
    paths = [lockfile.with_name(f"{kind}.{team}.toml") for kind in ADDON_KINDS]
    return tuple(read_addon_lock(path) for path in paths if path.is_file())
