"""The shapes of a lock's wheels: remembered, or read out of the wheel cache or of the wheels' own indexes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from imagebuild.errors import ImagebuildError
from imagebuild.lock.file.model import LockedPackage
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.wheel.sizes import WheelShape, keep_shape, recall_shape

_WORKERS = 16


def find_shapes(
    packages: Iterable[LockedPackage],
    cache: Path,
    indexes: Callable[[], Iterable[PackageIndex]],
    report: Callable[[str], object] = str,
) -> Mapping[str, WheelShape]:
    """Shapes by package: remembered, else from the wheel cache, else by range requests to the wheel's own index.

    ``indexes`` is called when one has to be asked. A package whose shape cannot be had is left out, and ``report`` says why.
    """
    found: dict[str, WheelShape] = {}
    missing: list[LockedPackage] = []
    for package in packages:
        shape = recall_shape(cache, package.sha256)
        path = wheel_cache_path(cache, package.sha256, package.filename)
        if shape is None and path.is_file():
            with path.open("rb") as stream:
                shape = keep_shape(cache, package.sha256, stream, package.filename)
        if shape is not None:
            found[package.name] = shape
        else:
            missing.append(package)
    if missing:
        found.update(_ask_indexes(missing, cache, indexes, report))
    return found


def _ask_indexes(
    missing: list[LockedPackage], cache: Path, indexes: Callable[[], Iterable[PackageIndex]], report: Callable[[str], object]
) -> dict[str, WheelShape]:
    by_name = {index.name: index for index in indexes()}
    wanted = [package for package in missing if package.index in by_name]
    if not wanted:
        return {}
    report(f"reading the directories of {len(wanted)} wheels")
    with contextlib.ExitStack() as stack:
        upstreams = {name: stack.enter_context(Upstream(by_name[name], cache)) for name in sorted({item.index for item in wanted})}

        def read(package: LockedPackage) -> WheelShape | str:
            try:
                upstream = upstreams[package.index]
                page = upstream.read_project(package.name)
                file = next((item for item in page.files if item.filename == package.filename), None) if page else None
                if file is None or (file.sha256 and file.sha256 != package.sha256):
                    return f"{package.filename} is not on package index {package.index!r}"
                return upstream.read_shape(msgspec.structs.replace(file, sha256=package.sha256, size=package.size))
            except ImagebuildError as error:
                return error.message

        with ThreadPoolExecutor(_WORKERS, "shape") as pool:
            answers = dict(zip((item.name for item in wanted), pool.map(read, wanted), strict=True))
    problems = [answer for answer in answers.values() if isinstance(answer, str)]
    if problems:
        report(f"{len(problems)} of {len(wanted)} wheels could not be looked into: {problems[0]}")
    return {name: answer for name, answer in answers.items() if isinstance(answer, WheelShape)}
