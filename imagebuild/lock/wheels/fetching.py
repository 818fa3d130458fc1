"""The wheels of a lock on this machine: from the cache, or from their own index by name, file name and hash."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Protocol

from imagebuild.errors import IntegrityError, LockError, RemoteError
from imagebuild.files import exclusive, explain_os_error, hash_file, sweep_temporaries
from imagebuild.lock.file.model import BuildWheel, Lock, LockedPackage
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.routing import ADDRESSES, LOCAL_NAME, PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.progress import step
from imagebuild.text import format_size

_PAUSE = 0.2  # seconds between looks at what other processes fetch

Remake = Callable[[LockedPackage, Mapping[str, Upstream]], Path]  # builds a wheel that was locked from a source archive


def fetch_wheels(
    lock: Lock,
    indexes: Callable[[], Sequence[PackageIndex]],
    cache: Path,
    local_wheels: Mapping[str, Path],
    report: Callable[[str], None],
    parallel: int = 8,
    remake: Remake | None = None,
    offline: bool = False,
) -> dict[str, Path]:
    """Every locked wheel by package name, with its size and sha256 checked on this call.

    ``indexes`` is called when one has to be asked; ``local_wheels`` are the built wheels of the lock's source trees, by name;
    ``remake`` builds those locked from a source archive, where they are not in the cache. IntegrityError: other bytes than
    locked; LockError: gone from its index, or an index the lock names is not configured; RemoteError: an index that fails, or
    ``offline`` and something is missing.
    """
    found: dict[str, Path] = {}
    missing: list[LockedPackage] = []

    def find(package: LockedPackage) -> Path | None:
        return _check_local(package, local_wheels) if package.index == LOCAL_NAME else find_wheel(package, cache)

    with ThreadPoolExecutor(max(1, parallel), "find") as pool:  # hashing releases the interpreter's lock
        for package, path in zip(lock.packages, pool.map(find, lock.packages), strict=True):
            if path is not None:
                found[package.name] = path
            else:
                missing.append(package)
    if missing and offline:
        raise RemoteError(
            f"--offline: {len(missing)} of {len(lock.packages)} wheels of {lock.team} are not on this machine",
            f"bring them along: imagebuild bundle {lock.team} -o DIR where there is a network, then image --offline --bundle DIR",
            tuple(item.filename for item in missing),
        )
    if missing:
        total = sum(package.size for package in missing)
        with step(f"fetching {len(missing)} of {len(lock.packages)} wheels, {format_size(total)}", total, report=report):
            found.update(_fetch(missing, indexes(), cache, parallel, lock.team, remake))
    return {package.name: found[package.name] for package in lock.packages}


def find_wheel(package: LockedPackage, cache: Path) -> Path | None:
    """The wheel in the cache, hashed again; one that has rotted is removed."""
    path = wheel_cache_path(cache, package.sha256, package.filename)
    try:
        if not path.is_file():
            return None
        if path.stat().st_size == package.size and hash_file(path) == package.sha256:
            return path
        path.unlink()
    except OSError as error:
        raise explain_os_error(error, "reading the wheel cache") from None
    return None


def _check_local(package: LockedPackage, local_wheels: Mapping[str, Path]) -> Path:
    path = local_wheels.get(package.name)
    if path is None:
        raise LockError(f"{package.name} is locked as a package of the team, and its source tree is missing", "lock again")
    found = hash_file(path)
    if found != package.sha256 or path.name != package.filename:
        raise IntegrityError(
            f"{package.name}: the wheel built from its source tree is not the locked one",
            "its sources or the build backend changed since: lock again",
            (f"expected sha256 {package.sha256}", f"got      sha256 {found}"),
        )
    return path


def is_cached(path: Path, sha256: str) -> bool:
    """Whether a file of the cache is there and what it was: hashed again, since disks rot."""
    return path.is_file() and hash_file(path) == sha256


def _fetch(
    missing: Sequence[LockedPackage], indexes: Sequence[PackageIndex], cache: Path, parallel: int, team: str, remake: Remake | None
) -> dict[str, Path]:
    by_name = {index.name: index for index in (*indexes, ADDRESSES)}
    wanted = [(item.name, item.index) for item in missing]
    wanted += [(wheel.name, wheel.index) for item in missing if item.source for wheel in item.source.requires]
    with contextlib.ExitStack() as stack:
        upstreams: dict[str, Upstream] = {}
        for name, index in wanted:
            if index not in by_name:
                raise LockError(
                    f"{name} is locked from package index {index!r}, which is not configured here",
                    f"configure {index!r} in team.toml, or lock again",
                )
            if index not in upstreams:
                upstreams[index] = stack.enter_context(Upstream(by_name[index], cache))
        pool = stack.enter_context(ThreadPoolExecutor(max(1, parallel), "fetch"))
        # Largest first: the last worker is not left alone with the largest file.
        order = sorted(missing, key=lambda package: -package.size)

        def fetch(item: LockedPackage) -> Path | None:
            if item.source is None:
                return _fetch_one(item, upstreams[item.index], cache, team)
            if remake is None:
                raise LockError(f"{item.filename} is built from source, and not built yet", f"run: imagebuild lock {team}")
            return remake(item, upstreams)

        found: dict[str, Path] = {}
        try:
            while left := [item for item in order if item.name not in found]:
                work = {pool.submit(fetch, item): item.name for item in left}
                for future in as_completed(work):  # the first failure, not that of the largest file
                    if (path := future.result()) is not None:
                        found[work[future]] = path
                if len(found) == len(order) - len(left):  # all that is left is being fetched by other processes
                    time.sleep(_PAUSE)
            return found
        except BaseException:
            for upstream in upstreams.values():
                upstream.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


class LockedFile(Protocol):
    """A file as a lock knows it: a wheel, an archive, a wheel that a build needs."""

    @property
    def filename(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def size(self) -> int: ...


def find_locked_file(name: str, file: LockedFile, upstream: Upstream, relock: str) -> ProjectFile:
    """Where the index of ``upstream`` has a locked file of project ``name``, to be downloaded as it was locked.

    LockError when it is gone (``relock``: the command that chooses another), IntegrityError when there is another in its place.
    """
    offered = upstream.find_file(name, file.filename)
    index = upstream.index.name
    if offered is None:
        raise LockError(
            f"{file.filename} is no longer on package index {index!r}",
            f"get it back onto the index, or choose another version with: {relock}",
        )
    if offered.sha256 and offered.sha256 != file.sha256:
        raise IntegrityError(
            f"{name}: package index {index!r} now has another file {file.filename} than the locked one",
            "nothing was kept; somebody replaced a published file, or edited the lock: find out before you lock again",
            (f"expected sha256 {file.sha256}", f"got      sha256 {offered.sha256}"),
        )
    return ProjectFile(file.filename, offered.url, sha256=file.sha256, size=file.size)


def fetch_build_wheels(wheels: Sequence[BuildWheel], upstreams: Mapping[str, Upstream], cache: Path) -> tuple[Path, ...]:
    """The wheels a build needs, verified, from the cache or from their indexes."""
    paths = []
    for wheel in wheels:
        path = wheel_cache_path(cache, wheel.sha256, wheel.filename)
        if not is_cached(path, wheel.sha256):
            wanted = find_locked_file(wheel.name, wheel, upstreams[wheel.index], "imagebuild lock TEAM --upgrade")
            upstreams[wheel.index].download(wanted, path)
        paths.append(path)
    return tuple(paths)


def _fetch_one(package: LockedPackage, upstream: Upstream, cache: Path, team: str) -> Path | None:
    """None where another process is fetching it."""
    path = wheel_cache_path(cache, package.sha256, package.filename)
    try:
        with exclusive(cache / "fetching" / package.sha256, wait=False) as mine:
            if not mine:
                return None
            if find_wheel(package, cache) is not None:  # another process was faster
                return path
            if package.url:
                wanted = ProjectFile(package.filename, package.url, sha256=package.sha256, size=package.size)
            else:
                wanted = find_locked_file(package.name, package, upstream, f"imagebuild lock {team} --upgrade")
            sweep_temporaries(path.parent)
            upstream.download(wanted, path, package=f"{package.name} {package.version}")
    except OSError as error:
        raise explain_os_error(error, f"keeping {package.filename}") from None
    return path
