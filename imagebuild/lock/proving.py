"""Proving a lock without resolving: every name routed where the lock says, every file still listed by that index with that hash."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from imagebuild.errors import IntegrityError, LockError
from imagebuild.lock.file.model import BuildWheel, Lock, LockedPackage, SourceArchive
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.routing import ADDRESSES, LOCAL_NAME, PackageIndex, route_name
from imagebuild.lock.index.upstream import Upstream

_PARALLEL = 8  # more only wait for each other


class _Wanted(msgspec.Struct, frozen=True):
    """One file that a build needs from outside."""

    name: str
    index: str
    file: LockedPackage | SourceArchive | BuildWheel
    url: str | None = None


class Listing(msgspec.Struct, frozen=True):
    """What the indexes say of a lock's files. Lines are for people."""

    listed: dict[str, int]  # index -> files it still lists with the locked hash
    yanked: tuple[str, ...] = ()
    unproved: tuple[str, ...] = ()  # files that could not be compared, and why


def _list_files(lock: Lock) -> list[_Wanted]:
    """The wheels, or, of what is built from source, the archive and what its build needs; not the team's own trees."""
    wanted = []
    for package in lock.packages:
        if package.source is not None:
            wanted.append(_Wanted(package.name, package.index, package.source))
            wanted += [_Wanted(item.name, item.index, item) for item in package.source.requires]
        elif package.index != LOCAL_NAME:
            wanted.append(_Wanted(package.name, package.index, package, package.url))
    return list({(item.index, item.file.filename): item for item in wanted}.values())


def check_routes(lock: Lock, indexes: Sequence[PackageIndex]) -> None:
    """LockError when a name would come from another index today than the lock says."""
    for package in _list_files(lock):
        if package.url:
            continue
        index = route_name(package.name, indexes)
        if index.name != package.index:
            raise LockError(
                f"{package.name} is locked from package index {package.index!r}, and today it may only come from {index.name!r}",
                f"give {package.index!r} the name back (names in its [[index]]), or run: imagebuild lock {lock.team}",
            )


def check_listing(lock: Lock, indexes: Sequence[PackageIndex], cache: Path) -> Listing:
    """Ask every index for its pages, side by side; those that did not change since the last time cost a few bytes each.

    IntegrityError names every file that is gone or has another hash. Wheels of source trees are proved by the inputs' hashes; a wheel by
    URL is only looked for, because its hash is known after the download, which a build does.
    """
    by_name = {index.name: index for index in indexes}
    asked = _list_files(lock)
    with contextlib.ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(by_name[name], cache)) for name in {item.index for item in asked} & set(by_name)}
        direct = stack.enter_context(Upstream(ADDRESSES, cache))
        pool = stack.enter_context(ThreadPoolExecutor(_PARALLEL, "listing"))
        try:
            answers = list(pool.map(lambda item: _find_file(item, upstreams.get(item.index, direct)), asked))
        except BaseException:
            for upstream in (*upstreams.values(), direct):
                upstream.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    listed: dict[str, int] = {}
    yanked, unproved, wrong = [], [], []
    for item, file in zip(asked, answers, strict=True):
        locked, where = item.file, f"{item.file.filename} ({item.index})"
        if file is None:
            target = upstreams[item.index].find_redirect(item.name) if item.index in upstreams else ""
            wrong.append(f"{where} is gone" + (f": its page redirects to {target}, which is not followed" if target else ""))
        elif item.url:
            unproved.append(f"{where} is there; its bytes are compared when it is fetched")
        elif not file.sha256:
            unproved.append(f"{where}: this index gives no sha256; its bytes are compared when it is fetched")
        elif file.sha256 != locked.sha256 or (file.size and file.size != locked.size):
            wrong.append(f"{where} is another file: locked sha256 {locked.sha256}, now {file.sha256}")
        else:
            listed[item.index] = listed.get(item.index, 0) + 1
        if file is not None and file.yanked:
            yanked.append(f"{locked.filename} ({item.index}) was yanked: {file.yanked_reason or 'no reason given'}")
    if wrong:
        raise IntegrityError(
            f"the lock of {lock.team} can no longer be fetched: {len(wrong)} of {len(asked)} files are not what their index lists",
            "find out who changed a published file before you lock again; images that were built stay as they are",
            tuple(wrong),
        )
    return Listing(listed, tuple(yanked), tuple(unproved))


def _find_file(wanted: _Wanted, upstream: Upstream) -> ProjectFile | None:
    locked = wanted.file
    if not wanted.url:
        return upstream.find_file(wanted.name, locked.filename)
    file = ProjectFile(locked.filename, wanted.url, size=locked.size)
    return file if upstream.is_there(file) else None
