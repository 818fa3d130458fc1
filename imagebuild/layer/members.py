"""The members of a layer, side by side: from the cache, or built."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import msgspec

from imagebuild.base.model import Interpreter, Runtime
from imagebuild.jobs.slots import ONE, Jobs
from imagebuild.layer.bytecode import CompilerPool
from imagebuild.layer.member import make_member
from imagebuild.layer.membercache import SharedMembers
from imagebuild.layer.memberstore import MemberRequest, MemberRules, find_member
from imagebuild.layer.model import LAYER_MTIME, Codec, Member, check_codec
from imagebuild.layer.placement import FolderResolver
from imagebuild.progress import advance, step
from imagebuild.wheel.record import describe_repair

_PAUSE, _LONG_PAUSE = 0.1, 2.0  # seconds between looks at what other processes build


class MemberSources(msgspec.Struct, frozen=True):
    """Where members come from besides this machine's own cache."""

    shared: SharedMembers | None = None  # a registry's
    provide: Callable[[Sequence[str]], Mapping[str, Path]] | None = None  # the wheels of these packages, where they may not be there yet
    prepared: set[str] = msgspec.field(default_factory=set)  # packages that a build made anew: filled while it runs


def build_members(
    requests: Sequence[MemberRequest],
    *,
    interpreter: Interpreter,
    folders: FolderResolver,
    codec: Codec,
    runtime: Runtime | None,
    cache: Path,
    home: str,
    mtime: int = LAYER_MTIME,
    base: str = "",
    jobs: Jobs = ONE,
    sources: MemberSources | None = None,
    report: Callable[[str], object] = str,
) -> list[Member]:
    """Members in the order of ``requests``; largest wheels first, on as many threads as ``jobs`` has, each with its own interpreter.

    ``base``: a digest that stands for all that ``folders`` says; with it a wheel that was seen before is not opened again.
    """
    check_codec(codec)
    sources = sources or MemberSources()
    rules = MemberRules(interpreter, folders, codec, cache, home, mtime, runtime is not None, base)
    found = {request: (member, False) for request in requests if (member := find_member(request, rules)) is not None}
    if sources.shared is not None:
        taken = sources.shared.find([request for request in requests if request not in found], rules)
        found.update((request, (member, False)) for request, member in taken.items())
    missing = _provide([request for request in requests if request not in found], sources)
    with CompilerPool(runtime, interpreter) as compilers:
        make = partial(_make_one, rules=rules, compilers=compilers, jobs=jobs)
        with step("preparing packages", len(missing), "packages"):
            made = _make_all(sorted(missing.values(), key=_weigh, reverse=True), make, jobs.workers)
    results = [found.get(request) or made[missing[request]] for request in requests]
    built = sum(fresh for _, fresh in results)
    sources.prepared.update(member.package for member, fresh in results if fresh)
    if built:
        report(f"{built} of {len(results)} packages prepared, {len(results) - built} from the cache")
    if sources.shared is not None:
        for request, (member, _) in zip(requests, results, strict=True):
            sources.shared.add(request, rules, member)
    for member, _ in results:
        if member.repaired:  # of a cached one too: it is said of the image, not of this run's work
            report(f"note: {member.package} {member.version}: {describe_repair(member.repaired)}")
    return [member for member, _ in results]


def _provide(requests: Sequence[MemberRequest], sources: MemberSources) -> dict[MemberRequest, MemberRequest]:
    """Each request, and the same with its wheel on this disk."""
    if sources.provide is None or not requests:
        return {request: request for request in requests}
    wheels = sources.provide([request.package for request in requests])
    return {request: msgspec.structs.replace(request, wheel=wheels[request.package]) for request in requests}


def _make_one(request: MemberRequest, *, wait: bool, rules: MemberRules, compilers: CompilerPool, jobs: Jobs) -> tuple[Member, bool] | None:
    made = make_member(request, wait=wait, rules=rules, compiling=compilers.use, slot=jobs.slot)
    if made is not None:
        advance(1, "packages")
    return made


def _weigh(request: MemberRequest) -> int:
    return request.wheel.stat().st_size if request.wheel.exists() else 0


def _make_all(
    requests: Sequence[MemberRequest], make: Callable[..., tuple[Member, bool] | None], workers: int
) -> dict[MemberRequest, tuple[Member, bool]]:
    """Those that another process builds come last: meanwhile there is other work. The first error, in the order of ``requests``."""
    made: dict[MemberRequest, tuple[Member, bool]] = {}
    pause = _PAUSE
    if not requests:
        return made
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="member") as pool:
        while left := [request for request in requests if request not in made]:
            futures = {request: pool.submit(make, request, wait=False) for request in left}
            for request, future in _wait_for(futures, pool).items():
                if (result := future.result()) is not None:
                    made[request] = result
            if len(made) == len(requests) - len(left):  # all that is left is being built by other processes
                time.sleep(pause)
                pause = min(2 * pause, _LONG_PAUSE)
    return made


def _wait_for(
    futures: dict[MemberRequest, Future[tuple[Member, bool] | None]], pool: ThreadPoolExecutor
) -> dict[MemberRequest, Future[tuple[Member, bool] | None]]:
    """All of them, ended well; otherwise what has not begun is given up, and the first error raised."""
    try:
        _, unfinished = wait(futures.values(), return_when=FIRST_EXCEPTION)
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    for future in unfinished:
        future.cancel()
    wait(futures.values())
    for future in futures.values():
        if not future.cancelled() and (error := future.exception()) is not None:
            raise error
    return futures
