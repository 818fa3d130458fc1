"""Locked extensions on this disk: from the cache, the team's folder, or the gallery that they were locked from."""

from __future__ import annotations

from pathlib import Path

from imagebuild.addons.archives import KeptArchive, find_team_archive, recall_archive, refuse_offline, require_locked
from imagebuild.addons.model import Addon, AddonRules, FetchRequest
from imagebuild.addons.routing import find_index
from imagebuild.addons.vscode.compiling import INDEX_KIND, compile_vscode_lock
from imagebuild.addons.vscode.facts import describe_vscode
from imagebuild.addons.vscode.gallery import Gallery
from imagebuild.addons.vscode.manifest import UNIVERSAL
from imagebuild.errors import IntegrityError, LockError
from imagebuild.lock.index.routing import LOCAL_NAME


def fetch_extensions(request: FetchRequest) -> dict[str, Path]:
    """The .vsix of each extension of the lock, by name, its hash compared with the lock's.

    LockError when a gallery has one no more, IntegrityError when it has another.
    """
    return {item.name: _fetch(item, request).path for item in request.lock.addons}


def _fetch(addon: Addon, request: FetchRequest) -> KeptArchive:
    kept = recall_archive(addon.sha256, addon.filename, request.cache)
    if kept is not None:
        return kept
    if addon.index == LOCAL_NAME:
        return find_team_archive(addon, request.files, request.cache)
    if request.offline:
        raise refuse_offline(addon)
    gallery = Gallery(find_index(addon.name, addon.index, request.indexes, INDEX_KIND), request.cache)
    try:
        build = gallery.find_build(addon.name, (addon.platform or UNIVERSAL,), addon.version)
        if build is None:
            raise LockError(f"package index {addon.index!r} has {addon.name} {addon.version} no more", "lock again: imagebuild lock TEAM")
        if build.sha256 and build.sha256 != addon.sha256:
            raise IntegrityError(
                f"package index {addon.index!r} has another file as {addon.name} {addon.version} than the one that was locked",
                "somebody replaced it: do not use that index until you know why",
                (f"expected sha256 {addon.sha256}", f"listed   sha256 {build.sha256}"),
            )
        kept = gallery.download(build)
    finally:
        gallery.close()
    return require_locked(
        kept,
        addon,
        f"{addon.filename} from package index {addon.index!r} is not the file that was locked",
        "somebody replaced it: do not use that index until you know why",
    )


RULES = AddonRules("VS Code extension", INDEX_KIND, describe_vscode, compile_vscode_lock, fetch_extensions)
