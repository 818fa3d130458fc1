"""Archives of add-ons on this disk: kept by their hash, compared with it whenever one is taken."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from imagebuild.addons.model import Addon
from imagebuild.errors import ImagebuildError, IntegrityError, LockError, RemoteError
from imagebuild.files import hash_file, replacing, scratch_folder
from imagebuild.lock.index.bodies import Bodies
from imagebuild.lock.index.client import IndexClient
from imagebuild.lock.index.pages import ProjectFile


def archive_path(cache: Path, sha256: str, filename: str) -> Path:
    """Where a verified archive is kept."""
    return cache / "addons" / sha256 / filename


class KeptArchive(msgspec.Struct, frozen=True):
    """An archive in the cache, whose bytes were compared with its hash."""

    path: Path
    sha256: str  # 64 hex digits

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size


def recall_archive(sha256: str, filename: str, cache: Path) -> KeptArchive | None:
    """The archive that is kept; None where there is none, or one that was damaged."""
    path = archive_path(cache, sha256, filename)
    return KeptArchive(path, sha256) if path.is_file() and hash_file(path) == sha256 else None


def keep_archive(source: Path, cache: Path, filename: str) -> KeptArchive:
    """A copy in the cache, by the hash of its bytes."""
    sha256 = hash_file(source)
    kept = recall_archive(sha256, filename, cache)
    if kept is not None:
        return kept
    target, digest = archive_path(cache, sha256, filename), hashlib.sha256()
    with source.open("rb") as stream, replacing(target) as copy:
        while piece := stream.read(1 << 20):
            digest.update(piece)
            copy.write(piece)
    if digest.hexdigest() != sha256:
        target.unlink()
        raise IntegrityError(f"{source} was changed while it was read", "run it again")
    return KeptArchive(target, sha256)


def require_locked(archive: KeptArchive, addon: Addon, error: str, hint: str) -> KeptArchive:
    """``archive``, where its hash is the lock's; else IntegrityError with both hashes."""
    if archive.sha256 != addon.sha256:
        raise IntegrityError(error, hint, (f"expected sha256 {addon.sha256}", f"got      sha256 {archive.sha256}"))
    return archive


def find_team_archive(addon: Addon, files: Iterable[Path], cache: Path) -> KeptArchive:
    """The archive of an add-on that lies in the team's folder; LockError when it is gone, IntegrityError when it is another."""
    path = next((file for file in files if file.name == addon.filename), None)
    if path is None:
        raise LockError(f"{addon.filename} is no longer in the team's folder", "lock again, or bring the file back")
    kept = keep_archive(path, cache, addon.filename)
    return require_locked(
        kept, addon, f"{addon.filename} in the team's folder is not the file that was locked", "lock again if the new one is meant"
    )


def download_archive(client: IndexClient, url: str, filename: str, cache: Path, *, sha256: str, name: str) -> KeptArchive:
    """The archive at ``url``, in the cache, compared with its hash while it streams. ``name``: of the add-on, for messages.

    IntegrityError for other bytes, LockError for a file that is gone, RemoteError for an index that fails.
    """
    kept = recall_archive(sha256, filename, cache)
    if kept is not None:
        return kept
    target = archive_path(cache, sha256, filename)
    Bodies(client).download(ProjectFile(filename, url, sha256=sha256), target, package=name)
    return KeptArchive(target, sha256)


def download_unhashed(client: IndexClient, url: str, filename: str, cache: Path) -> KeptArchive:
    """The archive at ``url``, whose hash nobody has said yet, in the cache by the hash of its bytes.

    Errors as of :func:`download_archive`, and RemoteError where the index redirects to where it may not.
    """
    with scratch_folder(cache) as folder:
        sha256 = Bodies(client).download_unhashed(ProjectFile(filename, url), folder / filename)
        target = archive_path(cache, sha256, filename)
        target.parent.mkdir(parents=True, exist_ok=True)
        (folder / filename).replace(target)
    return KeptArchive(target, sha256)


def refuse_offline(addon: Addon) -> ImagebuildError:
    """The error for an archive that is not here when no index may be asked."""
    return RemoteError(f"{addon.filename} is not on this machine, and --offline asks no index", "fetch it online first")
