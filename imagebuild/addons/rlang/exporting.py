"""A lock of R packages as ``renv.lock``, for ``renv::restore()`` on a machine without the image. It holds URLs and is never committed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from imagebuild.addons.model import AddonLock
from imagebuild.addons.rlang.facts import VERSION
from imagebuild.addons.rlang.repository import INDEX_KIND, find_snapshot
from imagebuild.addons.routing import find_index
from imagebuild.lock.index.routing import PackageIndex


def export_renv(lock: AddonLock, indexes: Sequence[PackageIndex]) -> str:
    """The lock with R's version, versions and needs; each repository as of the lock's date, where it has snapshots.

    renv.lock has no SHA-256: what ``renv::restore`` installs is of the same version, and not proved to be the same file.
    """
    used = {item.index: find_index(item.name, item.index, indexes, INDEX_KIND) for item in lock.addons}
    packages: dict[str, Any] = {
        item.name: {
            "Package": item.name,
            "Version": item.version,
            "Source": "Repository",
            "Repository": item.index,
            **({"Requirements": list(item.needs)} if item.needs else {}),
        }
        for item in lock.addons
    }
    repositories = [{"Name": name, "URL": find_snapshot(used[name], lock.cutoff).rstrip("/")} for name in sorted(used)]
    return json.dumps({"R": {"Version": lock.against[VERSION], "Repositories": repositories}, "Packages": packages}, indent=2) + "\n"
