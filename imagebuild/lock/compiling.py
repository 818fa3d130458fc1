"""From requirements.in to a lock: resolve against the base, leave out what it has, choose a wheel for the rest."""

from __future__ import annotations

import contextlib
import importlib.metadata
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
from imagebuild.lock.inputs.metadata import parse_requires, read_requires
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies, read_requirements
from imagebuild.lock.resolve.baserequirements import find_broken_edges, list_edge_constraints, list_edge_owners
from imagebuild.lock.resolve.candidates import Choice, allows_python, candidates_of_local
from imagebuild.lock.resolve.explaining import ResolutionFacts, explain_unresolved
from imagebuild.lock.resolve.piptools import find_tools, run_pip_tools
from imagebuild.lock.resolve.resolution import Outcome, Pin, check_against_base, find_pins, make_scratch, parse_pins, write_inputs
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.stubs import build_stubs
from imagebuild.lock.resolve.uv import find_uv, run_uv
from imagebuild.lock.wheels.buildtools import make_build_tools
from imagebuild.lock.wheels.directurls import fetch_addressed, pin_addressed
from imagebuild.lock.wheels.fetching import fetch_build_wheels
from imagebuild.lock.wheels.sdist import BuildSource, SourceWheels

NO_SOURCES = SourceRules()
RESOLVERS = ("pip-tools", "uv")
_WORKERS = 8


def compile_lock(
    *,
    team: str,
    base: Base,
    requirements: Path,
    local_packages: Sequence[Path],
    indexes: Sequence[PackageIndex],
    cutoff: str,
    explicit_cutoff: bool,
    root: Path,
    cache: Path,
    report: Callable[[str], None],
    existing: Lock | None = None,
    resolver: str = "pip-tools",
    replace: Sequence[str] = (),
    protect: Sequence[str] = PROTECTED,
    source: SourceRules = NO_SOURCES,
    build_source: BuildSource | None = None,
) -> Lock:
    """Make the lock of a team on a base.

    ``cutoff``: RFC 3339 UTC with whole seconds; nothing uploaded later is used. ``existing``: a lock whose versions are
    kept where they still fit. ``replace``: names that the base has and the lock brings anew; ``protect``: frameworks that it
    may neither bring a second time nor replace. ``source``: what ``build_source`` may build where no index has a wheel.
    Errors: ConfigurationError (inputs), LockError (unsatisfiable), RemoteError (an index fails), BuildError (a build from source).
    """
    validate_indexes(indexes)
    interpreter = base.interpreter
    environment = interpreter.markers
    asked = read_requirements(requirements, root)
    direct, limits = asked.direct, asked.constraints
    replaced = check_replace(base, replace, protect)
    standing = [item for item in base.inventory.distributions if item.name not in replaced]
    held: dict[str, Distribution] = {}
    for item in standing:
        held.setdefault(item.name, item)
    broken = find_broken_edges(base.inventory.distributions, environment)
    for line in broken.lines:
        report(f"base {base.name} contradicts itself: {line}")
    check_against_base(direct, held, environment, base, protect)
    stubs, unusable = build_stubs(standing, environment)
    local = _build_local(local_packages, cache, cutoff, held, base, make_build_tools(lambda: indexes, cutoff, cache, report))
    addressed = fetch_addressed(direct, environment, interpreter, cache, report)
    direct = pin_addressed(direct, addressed)
    given = {**addressed, **local}
    kept = _keep_pins(existing, held, given)
    ahead = environment if resolver == "pip-tools" else {}  # uv reads ahead by itself
    choice = Choice(interpreter.tags, interpreter.version, cutoff, explicit_cutoff, find_pins(direct), ahead)
    constraints = [f"{stub.name}=={stub.version}" for _name, stub in sorted(stubs.items())]
    constraints += list_edge_constraints(standing, environment, held, broken.ignored)
    constraints += [str(item.requirement) for item in limits]
    with contextlib.ExitStack() as stack:
        upstreams = {index.name: stack.enter_context(Upstream(index, cache)) for index in indexes}
        sources = None
        if source.packages and build_source is not None:
            sources = SourceWheels(
                source,
                base_digest=str(base.inventory.digest),
                cache=cache,
                build=build_source,
                resolve=lambda lines: _resolve_build_requires(lines, resolver, base, indexes, upstreams, choice, cache, report),
                fetch=lambda wheels: fetch_build_wheels(wheels, upstreams, cache),
                report=report,
                existing={item.name: item for item in existing.packages} if existing is not None else None,
            )
        policy = stack.enter_context(RoutedIndex(indexes, upstreams, choice, stubs, unusable, given, cache, report, sources))
        try:
            scratch = Path(stack.enter_context(make_scratch(cache))).resolve()
            write_inputs(scratch, direct, {name: wheel.version for name, wheel in local.items()}, constraints, kept)
        except OSError as error:
            raise explain_os_error(error, "preparing the resolution") from None
        policy.read_ahead(item.requirement for item in direct)
        outcome, label = _run_resolver(resolver, base, scratch, policy.url, report)
        policy.raise_failure()
        if not outcome.succeeded and not policy.reached and any(applies(item.requirement, environment) for item in direct):
            raise RemoteError(
                "the resolver cannot reach imagebuild on this machine's own loopback interface (127.0.0.1)",
                "bring the interface up (ip link set lo up) and allow local connections, then run it again",
            )
        if not outcome.succeeded:
            edges = list_edge_owners(standing, environment, broken.ignored)
            known = ResolutionFacts(base, held, edges, direct, policy, limits, protect)
            raise explain_unresolved(outcome, known)
        pins = parse_pins(outcome.output)
        satisfied = tuple(f"{pin.name}=={held[pin.name].version}" for pin in pins if pin.name in held)
        wanted = [pin for pin in pins if pin.name not in held]
        _check_wanted(base, wanted, replaced, protect)
        for pin in wanted:
            candidates = policy.find_candidates(pin.name)
            if candidates is not None and kept.get(pin.name, pin.version) in candidates.yanked:
                report(
                    f"{pin.name} {kept[pin.name]} was yanked from package index {candidates.index!r}: the lock takes {pin.version} instead"
                )
        packages, built = _choose_wheels(wanted, policy, upstreams, given, sources)
        metadata = _read_metadata([pin.name for pin in wanted], packages, upstreams, given)
    needs = _find_dependencies(direct, local, metadata, held, environment, addressed)
    locked = tuple(
        _lock_package(
            pin,
            packages[pin.name],
            given.get(pin.name),
            metadata[pin.name][1],
            needs.get(pin.name, ()),
            interpreter.version,
            built.get(pin.name),
        )
        for pin in wanted
    )
    return Lock(
        team=team,
        base=base.name,
        base_digest=base.inventory.digest,
        base_fingerprint=base.inventory.fingerprint,
        python=interpreter.version,
        platform=str(base.inventory.platform),
        inputs=hash_inputs(requirements, local_packages, root),
        resolver=label,
        cutoff=cutoff,
        packages=locked,
        satisfied=satisfied,
    )


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


def _run_resolver(resolver: str, base: Base, scratch: Path, url: str, report: Callable[[str], None]) -> tuple[Outcome, str]:
    if resolver not in RESOLVERS:
        raise ConfigurationError(f"there is no resolver {resolver!r}", f"choose one of: {', '.join(RESOLVERS)}")
    if resolver == "pip-tools":
        tools = find_tools(base.interpreter)
        if base.runtime is not None and tools is not None:
            return run_pip_tools(base.runtime, tools, scratch, url), f"pip-tools {tools['pip-tools'].version}"
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
    return run_uv(program, base.interpreter, machine, scratch, url), f"uv {importlib.metadata.version('uv')}"


def _resolve_build_requires(
    lines: Sequence[str],
    resolver: str,
    base: Base,
    indexes: Sequence[PackageIndex],
    upstreams: Mapping[str, Upstream],
    choice: Choice,
    cache: Path,
    report: Callable[[str], None],
) -> tuple[BuildWheel, ...]:
    """The wheels of a build's own environment: what the base has plays no part in it."""
    direct = tuple(DirectRequirement(number, line, Requirement(line)) for number, line in enumerate(lines, 1))
    with (
        RoutedIndex(indexes, upstreams, msgspec.structs.replace(choice, pins={}), {}, {}, {}, cache, report) as policy,
        make_scratch(cache) as name,
    ):
        scratch = Path(name).resolve()
        write_inputs(scratch, direct, {}, (), {})
        outcome, _ = _run_resolver(resolver, base, scratch, policy.url, report)
        policy.raise_failure()
        if not outcome.succeeded:
            error = explain_unresolved(outcome, ResolutionFacts(base, {}, {}, direct, policy))
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


def _find_dependencies(
    direct: Sequence[DirectRequirement],
    local: Mapping[str, LocalWheel],
    metadata: Mapping[str, tuple[bytes, int]],
    held: Mapping[str, Distribution],
    environment: Mapping[str, str],
    addressed: Mapping[str, LocalWheel],
) -> dict[str, tuple[str, ...]]:
    """name -> locked names it needs, with the extras that anybody in the set asks of it."""
    requires = {name: read_requires(data) for name, (data, _size) in metadata.items()}
    requires.update({name: parse_requires(item.requires) for name, item in held.items()})
    found: dict[str, set[str]] = {name: set() for name in metadata}
    todo: list[tuple[str, str]] = [(name, "") for name in local]
    for item in direct:
        if applies(item.requirement, environment):
            todo += [(item.name, extra) for extra in ("", *item.requirement.extras)]
    done: set[tuple[str, str]] = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done or name not in requires:
            continue
        done.add((name, extra))
        if name in held and not extra:
            continue  # what the base's own distributions need is the base's affair
        for requirement in requires[name]:
            if requirement.marker is not None and not requirement.marker.evaluate({**environment, "extra": extra}):
                continue
            target = canonicalize_name(requirement.name)
            if requirement.url and target in metadata and target not in addressed:
                raise LockError(
                    f"{name} needs {target} by its address, which would go past the indexes",
                    f"publish {target} on an index, or name it in requirements.in yourself: {target} @ ADDRESS#sha256=...",
                )
            if name in found and target in metadata and target != name:
                found[name].add(target)
            todo += [(target, wanted) for wanted in ("", *requirement.extras)]
    return {name: tuple(sorted(targets)) for name, targets in found.items()}
