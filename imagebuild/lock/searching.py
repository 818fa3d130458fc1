"""Running a resolver: its inputs, what goes on beside it, and what is said when it finds nothing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import Requirement

from imagebuild import progress
from imagebuild.base.model import Base
from imagebuild.errors import ConfigurationError, LockError, RemoteError
from imagebuild.files import explain_os_error
from imagebuild.lock.file.model import BuildWheel, SourceArchive
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies
from imagebuild.lock.request import RESOLVERS, LockInputs, LockRequest
from imagebuild.lock.resolve.baserequirements import list_base_constraints, list_requiring
from imagebuild.lock.resolve.blocking import Block, find_blocks
from imagebuild.lock.resolve.candidates import Choice
from imagebuild.lock.resolve.explaining import ResolutionFacts, explain_blocks, explain_unresolved
from imagebuild.lock.resolve.piptools import find_tools, run_pip_tools
from imagebuild.lock.resolve.resolution import (
    RESOLVE_SECONDS,
    Outcome,
    Pin,
    SearchTimeoutError,
    make_scratch,
    parse_pins,
    write_inputs,
)
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.stubs import parse_version
from imagebuild.lock.resolve.uv import find_uv, run_uv
from imagebuild.lock.wheels.fetching import fetch_build_wheels
from imagebuild.lock.wheels.sdist import SourceWheels

_PROGRESS_SECONDS = 1.0  # between looks at how far it is; who shows it decides when to
_SHOWN_BLOCKS = 5


def search(
    request: LockRequest, inputs: LockInputs, index: RoutedIndex, kept: Mapping[str, str], stack: contextlib.ExitStack
) -> tuple[Outcome, str]:
    """The resolver's answer. What of the base stands in the way of the newest versions is searched for meanwhile, and reported at once."""
    base, environment = request.base, request.environment
    constraints = [f"{name}=={stub}" for name, stub in sorted(_list_stub_versions(inputs).items())]
    standing = list_base_constraints(inputs.standing, environment, inputs.held, inputs.ignored)
    constraints += [str(item) for line in standing for item in request.rules.rewrite(Requirement(line))]
    constraints += [str(item.requirement) for item in inputs.limits]
    try:
        scratch = Path(stack.enter_context(make_scratch(request.cache))).resolve()
        write_inputs(scratch, inputs.direct, {name: wheel.version for name, wheel in inputs.local.items()}, constraints, kept)
    except OSError as error:
        raise explain_os_error(error, "preparing the resolution") from None
    index.read_ahead(item.requirement for item in inputs.direct)
    seconds = max(request.seconds, RESOLVE_SECONDS) if request.source.packages else request.seconds
    with _Watch(request, inputs, index) as watch:
        try:
            outcome, label = _run_resolver(request.resolver, base, scratch, index.url, request.report, seconds)
        except SearchTimeoutError:
            outcome, label = None, ""
        if outcome is None or not outcome.succeeded:
            watch.wait()
    index.raise_failure()
    if outcome is not None and outcome.succeeded:
        return outcome, label
    if outcome is not None and not index.reached and any(applies(item.requirement, environment) for item in inputs.direct):
        raise RemoteError(
            "the resolver cannot reach imagebuild on this machine's own loopback interface (127.0.0.1)",
            "bring the interface up (ip link set lo up) and allow local connections, then run it again",
        )
    owners = list_requiring(inputs.standing, environment, inputs.ignored)
    known = ResolutionFacts(base, inputs.held, owners, inputs.direct, index, inputs.limits, request.protect, watch.blocks)
    if outcome is not None:
        raise explain_unresolved(outcome, known)
    if watch.blocks:
        raise explain_blocks(known, seconds)
    raise LockError(
        f"the resolver found no answer within {seconds:g} s",
        f"narrow the versions in {REQUIREMENTS}, give it longer (--timeout), or try the other one (--resolver uv)",
    )


class _Watch:
    """Beside a running resolver: a step of progress, and the search for what of the base blocks the newest versions."""

    def __init__(self, request: LockRequest, inputs: LockInputs, index: RoutedIndex) -> None:
        self.blocks: tuple[Block, ...] = ()
        self._request = request
        self._inputs = inputs
        self._index = index
        self._ended = threading.Event()
        self._step = contextlib.ExitStack()
        self._telling = threading.Thread(target=self._tell, daemon=True)
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._shown = self._step.enter_context(progress.step(f"{self._request.team}: resolving", unit="packages"))
        self._telling.start()
        self._looking.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._telling.join()
        self._looking.join()
        self._step.close()

    def wait(self) -> None:
        """Let the search for what blocks come to its end: there is something to explain."""
        self._looking.join()

    def _tell(self) -> None:
        while not self._ended.wait(_PROGRESS_SECONDS):
            self._shown.line = f"{self._request.team}: still resolving, {self._index.count_projects()} projects looked at"

    def _look(self) -> None:
        request, inputs = self._request, self._inputs
        self.blocks = find_blocks(inputs.direct, self._index, inputs.held, request.environment, stopped=self._ended.is_set)
        for block in self.blocks[:_SHOWN_BLOCKS]:
            request.report(f"{request.team}: {block.describe(request.base.name)}")


def _list_stub_versions(inputs: LockInputs) -> dict[str, str]:
    return {name: str(version) for name, item in inputs.held.items() if (version := parse_version(item.version)) is not None}


def _run_resolver(
    resolver: str, base: Base, scratch: Path, url: str, report: Callable[[str], None], seconds: float = RESOLVE_SECONDS
) -> tuple[Outcome, str]:
    if resolver not in RESOLVERS:
        raise ConfigurationError(f"there is no resolver {resolver!r}", f"choose one of: {', '.join(RESOLVERS)}")
    if resolver == "pip-tools":
        tools = find_tools(base.interpreter)
        if base.runtime is not None and tools is not None:
            return run_pip_tools(base.runtime, tools, scratch, url, seconds), f"pip-tools {tools['pip-tools'].version}"
        why = (
            "this machine cannot run its Python"
            if base.runtime is None
            else f"pip-tools does not run on its Python {base.interpreter.version}"
        )
        report(f"resolving for {base.name} with uv: {why}")
    program = find_uv()
    if program is None:
        raise LockError("uv is not installed beside imagebuild", "pip install uv")
    machine = base.inventory.platform.architecture
    return run_uv(program, base.interpreter, machine, scratch, url, seconds), f"uv {importlib.metadata.version('uv')}"


def _resolve_build_requires(
    lines: Sequence[str], request: LockRequest, upstreams: Mapping[str, Upstream], choice: Choice
) -> tuple[BuildWheel, ...]:
    """The wheels of a build's own environment: what the base has plays no part in it."""
    direct = tuple(DirectRequirement(number, line, Requirement(line)) for number, line in enumerate(lines, 1))
    with (
        RoutedIndex(
            request.indexes, upstreams, msgspec.structs.replace(choice, pins={}, hashes={}), {}, {}, {}, request.cache, request.report
        ) as policy,
        make_scratch(request.cache) as name,
    ):
        scratch = Path(name).resolve()
        write_inputs(scratch, direct, {}, (), {})
        outcome, _ = _run_resolver(request.resolver, request.base, scratch, policy.url, request.report)
        policy.raise_failure()
        if not outcome.succeeded:
            error = explain_unresolved(outcome, ResolutionFacts(request.base, {}, {}, direct, policy))
            raise LockError(
                f"what a build from source needs cannot be resolved: {error.message.replace(REQUIREMENTS, '[build-system]')}",
                "narrow or add a requirement: [source] requires in team.toml",
                error.details,
            )
        pins = parse_pins(outcome.output)
        chosen, _ = choose_wheels(pins, policy, upstreams, None)
    found = []
    for pin in pins:
        index, file = chosen[pin.name]
        found.append(BuildWheel(pin.name, pin.version, file.filename, file.sha256, file.size, index))
    return tuple(found)


def make_sources(request: LockRequest, upstreams: Mapping[str, Upstream], choice: Choice) -> SourceWheels | None:
    """The wheels of source archives that ``[source]`` of team.toml allows; None where it names none or nothing can build them."""
    if not request.source.packages or request.build_source is None:
        return None
    existing = request.existing
    return SourceWheels(
        request.source,
        base_digest=str(request.base.inventory.digest),
        cache=request.cache,
        build=request.build_source,
        resolve=lambda lines: _resolve_build_requires(lines, request, upstreams, choice),
        fetch=lambda wheels: fetch_build_wheels(wheels, upstreams, request.cache),
        report=request.report,
        existing={item.name: item for item in existing.packages} if existing is not None else None,
    )


def choose_wheels(
    pins: Sequence[Pin],
    policy: RoutedIndex,
    upstreams: Mapping[str, Upstream],
    sources: SourceWheels | None,
) -> tuple[dict[str, tuple[str, ProjectFile]], dict[str, SourceArchive]]:
    """(name -> (index's name, the wheel), with hash and size known; name -> the archive, of those that had to be built)."""
    chosen: dict[str, tuple[str, ProjectFile]] = {}
    built: dict[str, SourceArchive] = {}
    for pin in pins:
        candidates = policy.ask_candidates(pin.name)
        file = candidates.wheels.get(pin.version)
        archive = candidates.sources.get(pin.version)
        if file is None and archive is not None and sources is not None:
            wheel = sources.make_wheel(pin.name, pin.version, archive, upstreams[candidates.index])
            built[pin.name] = wheel.source
            file = msgspec.structs.replace(
                archive, filename=wheel.filename, url=wheel.path.as_uri(), sha256=wheel.sha256, size=wheel.size, has_metadata=False
            )
        if file is None:
            raise LockError(
                f"the resolver chose {pin.name} {pin.version}, which no index offered", "this is a defect: report it with requirements.in"
            )
        chosen[pin.name] = (candidates.index, _complete(file, upstreams.get(candidates.index)))
    return chosen, built


def _complete(file: ProjectFile, upstream: Upstream | None) -> ProjectFile:
    """The file with its hash and size: from a download where the index gives neither."""
    if upstream is None or (file.sha256 and file.size):
        return file
    return upstream.complete(file)
