"""From requirements.in to a lock: resolve against the base, leave out what it has, choose a wheel for the rest."""

from __future__ import annotations

import contextlib
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import ConfigurationError, LockError, RemoteError
from imagebuild.files import explain_os_error
from imagebuild.lock.file.model import BuildWheel, Lock, LockedPackage, SourceArchive, SourceRules
from imagebuild.lock.file.replacement import PROTECTED, check_replace, check_stack
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.ranges import read_wheel_file
from imagebuild.lock.index.routing import PackageIndex, validate_indexes
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.freshness import hash_inputs
from imagebuild.lock.inputs.localpackage import BuildTools, LocalWheel, build_local_wheel
from imagebuild.lock.inputs.metadata import parse_requires, read_extras, read_requires
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies, read_requirements
from imagebuild.lock.inputs.resolverules import NO_RULES, ResolveRules
from imagebuild.lock.resolve.baserequirements import Edge, find_broken_edges, list_edge_constraints, list_edge_owners
from imagebuild.lock.resolve.blocking import Block, find_blocks
from imagebuild.lock.resolve.candidates import Candidates, Choice, allows_python, candidates_of_local
from imagebuild.lock.resolve.explaining import ResolutionFacts, explain_blocks, explain_unresolved
from imagebuild.lock.resolve.judging import JudgedChoice, describe_held_back, judge_choice, list_askers
from imagebuild.lock.resolve.kernelmarkers import depends_on_kernel, refuse_kernel
from imagebuild.lock.resolve.piptools import find_tools, run_pip_tools
from imagebuild.lock.resolve.resolution import (
    RESOLVE_SECONDS,
    Outcome,
    Pin,
    SearchTimeoutError,
    check_against_base,
    find_pins,
    make_scratch,
    parse_pins,
    rewrite_lines,
    write_inputs,
)
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.stubs import build_stubs, holds, parse_version
from imagebuild.lock.resolve.uv import find_uv, run_uv
from imagebuild.lock.wheels.buildtools import make_build_tools
from imagebuild.lock.wheels.directurls import fetch_addressed, pin_addressed
from imagebuild.lock.wheels.fetching import fetch_build_wheels
from imagebuild.lock.wheels.sdist import BuildSource, SourceWheels

NO_SOURCES = SourceRules()
RESOLVERS = ("pip-tools", "uv")
SEARCH_SECONDS = 120.0  # how long a resolver may look, unless packages are built from source on the way
_PROGRESS_SECONDS = 10.0
_WORKERS = 8
_SHOWN_BLOCKS = 5


class LockRequest(msgspec.Struct, frozen=True):
    """What a lock is made of.

    ``cutoff``: RFC 3339 UTC with whole seconds; nothing uploaded later is used. ``existing``: a lock whose versions are kept where they
    still fit. ``replace``: names that the base has and the lock brings anew; ``protect``: frameworks that it may neither bring a second
    time nor replace. ``source``: what ``build_source`` may build where no index has a wheel. ``rules``: what is left out and overridden.
    """

    team: str
    base: Base
    requirements: Path
    local_packages: Sequence[Path]
    indexes: Sequence[PackageIndex]
    cutoff: str
    explicit_cutoff: bool
    root: Path
    cache: Path
    report: Callable[[str], None]
    existing: Lock | None = None
    resolver: str = "pip-tools"
    replace: Sequence[str] = ()
    protect: Sequence[str] = PROTECTED
    source: SourceRules = NO_SOURCES
    build_source: BuildSource | None = None
    rules: ResolveRules = NO_RULES
    seconds: float = SEARCH_SECONDS

    @property
    def environment(self) -> Mapping[str, str]:
        """The base's markers (PEP 508)."""
        return self.base.interpreter.markers


class _Inputs(msgspec.Struct, frozen=True):
    """What the request's files say, beside what the base has."""

    direct: tuple[DirectRequirement, ...]  # as a resolver is shown them: without URLs, rewritten
    limits: tuple[DirectRequirement, ...]
    replaced: frozenset[str]
    standing: tuple[Distribution, ...]  # of the base: those that are not replaced
    held: dict[str, Distribution]  # the first of each name
    ignored: frozenset[Edge]  # needs that the base itself does not meet
    addressed: dict[str, LocalWheel]
    local: dict[str, LocalWheel]

    @property
    def given(self) -> dict[str, LocalWheel]:
        """Wheels that come from no index."""
        return {**self.addressed, **self.local}


class _Answer(msgspec.Struct, frozen=True):
    """What a resolver chose, with the files and their metadata."""

    resolver: str
    wanted: tuple[Pin, ...]
    satisfied: tuple[str, ...]
    files: dict[str, tuple[str, ProjectFile]]  # name -> (index's name, the wheel)
    built: dict[str, SourceArchive]
    metadata: dict[str, tuple[bytes, int]]  # name -> (METADATA, installed bytes)


def compile_lock(request: LockRequest) -> Lock:
    """Make the lock of a team on a base.

    Errors: ConfigurationError (inputs), LockError (unsatisfiable), RemoteError (an index fails), BuildError (a build from source).
    """
    validate_indexes(request.indexes)
    inputs = _read_inputs(request)
    answer = _resolve(request, inputs)
    needs = _find_dependencies(request, inputs, answer)
    python = request.base.interpreter.version
    locked = tuple(
        _lock_package(
            pin,
            answer.files[pin.name],
            inputs.given.get(pin.name),
            answer.metadata[pin.name][1],
            needs.get(pin.name, ()),
            python,
            answer.built.get(pin.name),
        )
        for pin in answer.wanted
    )
    return Lock(
        team=request.team,
        base=request.base.name,
        base_digest=request.base.inventory.digest,
        base_fingerprint=request.base.inventory.fingerprint,
        python=python,
        platform=str(request.base.inventory.platform),
        inputs=hash_inputs(request.requirements, request.local_packages, request.root),
        resolver=answer.resolver,
        cutoff=request.cutoff,
        packages=locked,
        satisfied=answer.satisfied,
        exclude=request.rules.excluded,
        override=request.rules.overriding,
        rewritten=_list_rewritten(request, inputs, answer),
    )


def _read_inputs(request: LockRequest) -> _Inputs:
    """Read and judge all that is known before any index is asked for a version."""
    base, environment, report = request.base, request.environment, request.report
    asked = read_requirements(request.requirements, request.root)
    for item in (*asked.direct, *asked.constraints):
        if depends_on_kernel(item.requirement.marker, environment):
            assert item.requirement.marker is not None
            raise refuse_kernel(item.where, item.requirement.marker)
    replaced = check_replace(base, request.replace, request.protect)
    standing = tuple(item for item in base.inventory.distributions if item.name not in replaced)
    held: dict[str, Distribution] = {}
    for distribution in standing:
        held.setdefault(distribution.name, distribution)
    broken = find_broken_edges(base.inventory.distributions, environment)
    for line in broken.lines:
        report(f"base {base.name} contradicts itself: {line}")
    tools = make_build_tools(lambda: request.indexes, request.cutoff, request.cache, report)
    local = _build_local(request.local_packages, request.cache, request.cutoff, held, base, tools)
    direct = rewrite_lines(asked.direct, request.rules)
    check_against_base(direct, held, environment, base, request.protect)
    addressed = fetch_addressed(direct, environment, base.interpreter, request.cache, report)
    for name, wheel in {**addressed, **local}.items():
        claiming = next((index for index in request.indexes if index.claims(name) and not index.local), None)
        if claiming is not None:
            what = "the URL of a wheel of" if wheel.url else "the source tree of"
            raise LockError(
                f"{what} {name} is in the team's folder, and package index {claiming.name!r} claims that name",
                f"take it from the index, or say that it may come from here too: local = true in the [[index]] {claiming.name!r}",
            )
    return _Inputs(
        pin_addressed(direct, addressed), asked.constraints, replaced, standing, held, frozenset(broken.ignored), addressed, local
    )


def _resolve(request: LockRequest, inputs: _Inputs) -> _Answer:
    """Run the resolver against the routed index, and choose and read the wheels of what it answers."""
    environment, interpreter = request.environment, request.base.interpreter
    stubs, unusable = build_stubs(inputs.standing, environment, request.rules)
    kept = _keep_pins(request.existing, inputs.held, inputs.given)
    ahead = environment if request.resolver == "pip-tools" else {}  # uv reads ahead by itself
    choice = Choice(interpreter.tags, interpreter.version, request.cutoff, request.explicit_cutoff, find_pins(inputs.direct), ahead)
    with contextlib.ExitStack() as stack:
        upstreams = {index.name: stack.enter_context(Upstream(index, request.cache)) for index in request.indexes}
        sources = _make_sources(request, upstreams, choice)
        index = stack.enter_context(
            RoutedIndex(
                request.indexes, upstreams, choice, stubs, unusable, inputs.given, request.cache, request.report, sources, request.rules
            )
        )
        outcome, label = _search(request, inputs, index, kept, stack)
        index.raise_failure()
        pins = parse_pins(outcome.output)
        wanted = tuple(pin for pin in pins if pin.name not in inputs.held)
        _check_wanted(request.base, wanted, inputs.replaced, request.protect)
        _tell_yanked(wanted, index, kept, request.report)
        files, built = _choose_wheels(wanted, index, upstreams, inputs.given, sources)
        metadata = _read_metadata([pin.name for pin in wanted], files, upstreams, inputs.given)
        answer = _Answer(
            label,
            wanted,
            tuple(f"{pin.name}=={inputs.held[pin.name].version}" for pin in pins if pin.name in inputs.held),
            files,
            built,
            metadata,
        )
        _judge(request, inputs, answer, index)
    return answer


def _make_sources(request: LockRequest, upstreams: Mapping[str, Upstream], choice: Choice) -> SourceWheels | None:
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


def _search(
    request: LockRequest, inputs: _Inputs, index: RoutedIndex, kept: Mapping[str, str], stack: contextlib.ExitStack
) -> tuple[Outcome, str]:
    """The resolver's answer. What of the base stands in the way of the newest versions is looked for beside it, and told at once."""
    base, environment = request.base, request.environment
    constraints = [f"{name}=={stub}" for name, stub in sorted(_list_stub_versions(inputs).items())]
    edges = list_edge_constraints(inputs.standing, environment, inputs.held, inputs.ignored)
    constraints += [str(item) for line in edges for item in request.rules.rewrite(Requirement(line))]
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
    owners = list_edge_owners(inputs.standing, environment, inputs.ignored)
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
    """Beside a running resolver: a line of progress every few seconds, and the search for what of the base blocks the newest versions."""

    def __init__(self, request: LockRequest, inputs: _Inputs, index: RoutedIndex) -> None:
        self.blocks: tuple[Block, ...] = ()
        self._request = request
        self._inputs = inputs
        self._index = index
        self._ended = threading.Event()
        self._telling = threading.Thread(target=self._tell, daemon=True)
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._telling.start()
        self._looking.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._ended.set()
        self._telling.join()
        self._looking.join()

    def wait(self) -> None:
        """Let the search for what blocks come to its end: there is something to explain."""
        self._looking.join()

    def _tell(self) -> None:
        waited = 0.0
        while not self._ended.wait(_PROGRESS_SECONDS):
            waited += _PROGRESS_SECONDS
            self._request.report(f"{self._request.team}: still resolving: {self._index.count_projects()} projects looked at, {waited:g} s")

    def _look(self) -> None:
        request, inputs = self._request, self._inputs
        self.blocks = find_blocks(inputs.direct, self._index, inputs.held, request.environment, stopped=self._ended.is_set)
        for block in self.blocks[:_SHOWN_BLOCKS]:
            request.report(f"{request.team}: {block.describe(request.base.name)}")


def _list_stub_versions(inputs: _Inputs) -> dict[str, str]:
    return {name: str(version) for name, item in inputs.held.items() if (version := parse_version(item.version)) is not None}


def _tell_yanked(wanted: Sequence[Pin], index: RoutedIndex, kept: Mapping[str, str], report: Callable[[str], None]) -> None:
    for pin in wanted:
        candidates = index.find_candidates(pin.name)
        if candidates is not None and kept.get(pin.name, pin.version) in candidates.yanked:
            was = kept[pin.name]
            report(f"{pin.name} {was} was yanked from package index {candidates.index!r}: the lock takes {pin.version} instead")


def _judge(request: LockRequest, inputs: _Inputs, answer: _Answer, index: RoutedIndex) -> None:
    """Warn of, or refuse, what nobody can have meant: source-only successors, pre-releases, what is held back, quarantined projects."""
    needs = {name: request.rules.rewrite_all(read_requires(data)) for name, (data, _) in answer.metadata.items()}
    askers = list_askers(answer.wanted, inputs.direct, needs)
    lines = {item.name: item for item in inputs.direct if applies(item.requirement, request.environment)}
    blocks: dict[str, Block] | None = None
    for pin in answer.wanted:
        candidates = index.find_candidates(pin.name)
        if candidates is None or pin.name in inputs.given or pin.name in answer.built:
            continue
        if candidates.status == "quarantined":
            raise LockError(
                f"{pin.name} is quarantined on package index {candidates.index!r}{_show_reason(candidates)}",
                "do not install it: ask its index",
            )
        if candidates.status:
            request.report(f"warning: {pin.name} is {candidates.status}{_show_reason(candidates)}")
        warning = judge_choice(JudgedChoice(pin, candidates, askers[pin.name]))
        line = lines.get(pin.name)
        if not warning and line is not None and describe_held_back(pin, candidates, line.requirement.specifier, None, request.base.name):
            if blocks is None:
                found = find_blocks(inputs.direct, index, inputs.held, request.environment)
                blocks = {block.name: block for block in found}
            warning = describe_held_back(pin, candidates, line.requirement.specifier, blocks.get(pin.name), request.base.name)
        if warning:
            request.report(f"warning: {warning}")


def _show_reason(candidates: Candidates) -> str:
    return f" ({candidates.status_reason})" if candidates.status_reason else ""


def _list_rewritten(request: LockRequest, inputs: _Inputs, answer: _Answer) -> tuple[str, ...]:
    """Whose needs [resolve] changed: the team's lines, locked packages, and what the base's own need."""
    if request.rules.is_empty:
        return ()
    lines: list[str] = []
    for item in read_requirements(request.requirements, request.root).direct:
        lines += request.rules.describe(item.where, [item.requirement])
    for pin in answer.wanted:
        lines += request.rules.describe(f"{pin.name} {pin.version}", read_requires(answer.metadata[pin.name][0]))
    for distribution in inputs.held.values():
        needs = [item for item in parse_requires(distribution.requires) if holds(item, request.environment)]
        lines += request.rules.describe(f"{distribution.name} {distribution.version} of the base", needs)
    return tuple(dict.fromkeys(lines))


def _check_wanted(base: Base, wanted: Sequence[Pin], replaced: frozenset[str], protect: Sequence[str]) -> None:
    """LockError for a second framework, and for a name in ``replace`` that the lock does not bring."""
    versions = {pin.name: pin.version for pin in wanted}
    check_stack(base, versions, {pin.name: pin.via for pin in wanted}, protect, replaced)
    for name in sorted(replaced - versions.keys()):
        raise LockError(
            f"replace names {name}, and nothing that is locked asks for it", f"name {name} in {REQUIREMENTS}, or leave it out of replace"
        )


def _build_local(
    folders: Sequence[Path], cache: Path, cutoff: str, held: Mapping[str, Distribution], base: Base, tools: BuildTools
) -> dict[str, LocalWheel]:
    local: dict[str, LocalWheel] = {}
    for folder in folders:
        wheel = build_local_wheel(folder, cache, cutoff, tools)
        if wheel.name in local:
            raise ConfigurationError(f"two source trees make {wheel.name}", "remove one of them")
        if wheel.name in held:
            raise LockError(
                f"{folder.name} makes {wheel.name}, which the base {base.name} already has", "rename the package, or choose another base"
            )
        local[wheel.name] = wheel
    return local


def _keep_pins(existing: Lock | None, held: Mapping[str, Distribution], local: Mapping[str, LocalWheel]) -> dict[str, str]:
    if existing is None:
        return {}
    return {item.name: item.version for item in existing.packages if item.name not in held and item.name not in local and not item.tree}


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
            request.indexes, upstreams, msgspec.structs.replace(choice, pins={}), {}, {}, {}, request.cache, request.report
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
        chosen, _ = _choose_wheels(pins, policy, upstreams, {}, None)
    found = []
    for pin in pins:
        index, file = chosen[pin.name]
        found.append(BuildWheel(pin.name, pin.version, file.filename, file.sha256, file.size, index))
    return tuple(found)


def _choose_wheels(
    pins: Sequence[Pin],
    policy: RoutedIndex,
    upstreams: Mapping[str, Upstream],
    local: Mapping[str, LocalWheel],
    sources: SourceWheels | None,
) -> tuple[dict[str, tuple[str, ProjectFile]], dict[str, SourceArchive]]:
    """(name -> (index's name, the wheel), with hash and size known; name -> the archive, of those that had to be built)."""
    chosen: dict[str, tuple[str, ProjectFile]] = {}
    built: dict[str, SourceArchive] = {}
    for pin in pins:
        candidates = candidates_of_local(local[pin.name]) if pin.name in local else policy.ask_candidates(pin.name)
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
    """The file with its hash and size: from a download where the index tells neither."""
    if upstream is None or (file.sha256 and file.size):
        return file
    return upstream.complete(file)


def _read_metadata(
    names: Sequence[str],
    packages: Mapping[str, tuple[str, ProjectFile]],
    upstreams: Mapping[str, Upstream],
    local: Mapping[str, LocalWheel],
) -> dict[str, tuple[bytes, int]]:
    """name -> (METADATA, installed bytes), in parallel: one or two small ranges each."""

    def read(name: str) -> tuple[bytes, int]:
        index, file = packages[name]
        if name in local:
            with local[name].path.open("rb") as stream:
                found = read_wheel_file(stream, file.filename)
        else:
            found = upstreams[index].read_wheel_metadata(file)
        return found.metadata, found.installed_size

    with ThreadPoolExecutor(_WORKERS, "metadata") as pool:
        return dict(zip(names, pool.map(read, names), strict=True))


def _lock_package(
    pin: Pin,
    choice: tuple[str, ProjectFile],
    local: LocalWheel | None,
    installed: int,
    needs: Sequence[str],
    python: str,
    source: SourceArchive | None,
) -> LockedPackage:
    index, file = choice
    if not allows_python(file.requires_python, python):
        raise LockError(f"{pin.name} {pin.version} needs Python {file.requires_python}; the base has {python}", "ask for another version")
    return LockedPackage(
        name=pin.name,
        version=pin.version,
        filename=file.filename,
        sha256=file.sha256,
        size=file.size,
        installed_size=installed,
        index=index,
        upload_time=file.upload_time,
        requires_python=file.requires_python,
        dependencies=tuple(needs),
        via=pin.via,
        tree=local.tree if local else "",
        url=(local.url or None) if local else None,
        source=source,
        yanked=(file.yanked_reason.strip() or "no reason given") if file.yanked else None,
    )


def _find_dependencies(request: LockRequest, inputs: _Inputs, answer: _Answer) -> dict[str, tuple[str, ...]]:
    """name -> locked names it needs, with the extras that anybody in the set asks of it."""
    environment, metadata = request.environment, answer.metadata
    requires = {name: request.rules.rewrite_all(read_requires(data)) for name, (data, _size) in metadata.items()}
    requires.update({name: request.rules.rewrite_all(parse_requires(item.requires)) for name, item in inputs.held.items()})
    extras = {name: read_extras(data) for name, (data, _size) in metadata.items()}
    extras.update({name: frozenset(map(canonicalize_name, item.extras)) for name, item in inputs.held.items()})
    found: dict[str, set[str]] = {name: set() for name in metadata}
    todo: list[tuple[str, str, str]] = [(name, "", "") for name in inputs.local]  # name, extra, who asks for it
    for item in inputs.direct:
        if applies(item.requirement, environment):
            todo += [(item.name, extra, item.where) for extra in ("", *item.requirement.extras)]
    done: set[tuple[str, str]] = set()
    while todo:
        name, extra, asker = todo.pop()
        if (name, extra) in done or name not in requires:
            continue
        done.add((name, extra))
        if extra and canonicalize_name(extra) not in extras[name]:
            request.report(f"warning: {name} has no extra {extra!r}, which {asker} asks for")
        if name in inputs.held and not extra:
            continue  # what the base's own distributions need is the base's affair
        for requirement in requires[name]:
            if depends_on_kernel(requirement.marker, environment, extra):
                assert requirement.marker is not None
                raise refuse_kernel(f"{name} needs {requirement.name}", requirement.marker)
            if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            target = canonicalize_name(requirement.name)
            if requirement.url and target in metadata and target not in inputs.addressed:
                raise LockError(
                    f"{name} needs {target} by its address, which would go past the indexes",
                    f"publish {target} on an index, or name it in requirements.in yourself: {target} @ ADDRESS#sha256=...",
                )
            if name in found and target in metadata and target != name:
                found[name].add(target)
            todo += [(target, wanted, name) for wanted in ("", *requirement.extras)]
    return {name: tuple(sorted(targets)) for name, targets in found.items()}
