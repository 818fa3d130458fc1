"""A lock in the forms that pip and uv install from as they are. They hold URLs for one machine and are never committed."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from imagebuild.errors import LockError
from imagebuild.lock.file.lockfile import CREATED_BY, LOCK_VERSION
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.routing import DEFAULT_NAME, LOCAL_NAME, PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.wheels.fetching import find_locked_file, is_cached
from imagebuild.toml import quote_text

FORMS = ("requirements", "pylock")
_PARALLEL = 8


def export_requirements(lock: Lock, indexes: Sequence[PackageIndex], cache: Path, local: Mapping[str, Path]) -> str:
    """For ``pip install --require-hashes -r FILE``. ``local``: the wheels of the team's source trees, by name.

    The indexes are named in the file, so that a private package is found. What else they offer does not matter: the hash decides.
    """
    used = {package.index for package in lock.packages}
    lines = _head(lock, "pip install --require-hashes -r FILE")
    for index in indexes:
        if index.name in used and index.name != DEFAULT_NAME:
            lines.append(f"--{'' if index.default else 'extra-'}index-url {index.address}")
    for package in lock.packages:
        address = package.url or _find_here(package, cache, local)
        if address:
            lines.append(f"{package.name} @ {address}#sha256={package.sha256}")
        else:
            lines += [f"{package.name}=={package.version} \\", f"    --hash=sha256:{package.sha256}"]
    return "\n".join(lines) + "\n"


def export_pylock(lock: Lock, indexes: Sequence[PackageIndex], cache: Path, local: Mapping[str, Path]) -> str:
    """PEP 751 with the URL of every wheel, as its index lists it now; IntegrityError or LockError when it lists another file or none."""
    major, minor = lock.python.split(".")[:2]
    lines = [
        *_head(lock, "pip install -r FILE, uv pip install -r FILE or uv pip sync FILE"),
        f"lock-version = {quote_text(LOCK_VERSION)}",
        f"created-by = {quote_text(CREATED_BY)}",
        f"requires-python = {quote_text(f'=={major}.{minor}.*')}",
    ]
    if not lock.packages:
        lines.append("packages = []")
    by_name = {index.name: index for index in indexes}
    for package, address in zip(lock.packages, _find_addresses(lock, by_name, cache, local), strict=True):
        lines += ["", "[[packages]]", f"name = {quote_text(package.name)}", f"version = {quote_text(package.version)}"]
        if package.requires_python:
            lines.append(f"requires-python = {quote_text(package.requires_python)}")
        if package.index in by_name and package.source is None:
            lines.append(f"index = {quote_text(by_name[package.index].address)}")
        lines += ["[[packages.wheels]]", f"name = {quote_text(package.filename)}", f"url = {quote_text(address)}"]
        if package.upload_time:
            lines.append(f"upload-time = {package.upload_time}")
        lines += [f"size = {package.size}", f"hashes = {{ sha256 = {quote_text(package.sha256)} }}"]
    return "\n".join(lines) + "\n"


def _head(lock: Lock, command: str) -> list[str]:
    lines = [
        f"# What {lock.team} adds to base {lock.base}, for Python {lock.python} on {lock.platform}.",
        "# Exported from its lock by imagebuild, for this machine: do not commit it.",
        f"# {command}",
    ]
    if lock.satisfied:
        lines.append(f"# The base has these already, and they are not in here: {', '.join(lock.satisfied)}")
    return lines


def _find_here(package: LockedPackage, cache: Path, local: Mapping[str, Path]) -> str:
    """The file URL of a wheel that no index has; "" for one from an index."""
    if package.index == LOCAL_NAME:
        path = local.get(package.name)
    elif package.source is not None:
        path = wheel_cache_path(cache, package.sha256, package.filename)
    else:
        return ""
    if path is None or not is_cached(path, package.sha256):
        raise LockError(
            f"{package.filename} is on no index, and the wheel built here is not the locked one",
            "build the team's image here first, or lock again",
        )
    return path.as_uri()


def _find_addresses(lock: Lock, indexes: Mapping[str, PackageIndex], cache: Path, local: Mapping[str, Path]) -> list[str]:
    with contextlib.ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(index, cache)) for name, index in indexes.items()}

        def find(package: LockedPackage) -> str:
            address = package.url or _find_here(package, cache, local)
            if address:
                return address
            upstream = upstreams.get(package.index)
            if upstream is None:
                raise LockError(
                    f"{package.name} is locked from package index {package.index!r}, which is not configured here",
                    f"configure {package.index!r}, or lock again",
                )
            return find_locked_file(package.name, package, upstream, f"imagebuild lock {lock.team} --upgrade").url

        with ThreadPoolExecutor(_PARALLEL, "addresses") as pool:
            return list(pool.map(find, lock.packages))
