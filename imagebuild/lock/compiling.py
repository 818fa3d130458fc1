"""From requirements.in to a lock: resolve against the base, leave out what it has, choose a wheel for the rest."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import LockError
from imagebuild.lock.file.model import Lock, LockedPackage, SourceArchive
from imagebuild.lock.file.replacement import check_stack
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.ranges import read_wheel_file
from imagebuild.lock.index.routing import validate_indexes
from imagebuild.lock.index.statuses import ProjectStatus
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.freshness import hash_inputs
from imagebuild.lock.inputs.hashes import check_hashes
from imagebuild.lock.inputs.localpackage import LocalWheel
from imagebuild.lock.inputs.metadata import parse_requires, read_extras, read_requires
from imagebuild.lock.inputs.requirements import REQUIREMENTS, applies, read_requirements
from imagebuild.lock.request import LockInputs, LockRequest, read_inputs
from imagebuild.lock.resolve.blocking import Block, find_blocks
from imagebuild.lock.resolve.candidates import Choice, allows_python
from imagebuild.lock.resolve.judging import Holder, JudgedChoice, describe_held_back, judge_choice, list_askers
from imagebuild.lock.resolve.kernelmarkers import depends_on_kernel, refuse_kernel
from imagebuild.lock.resolve.resolution import (
    Pin,
    find_pins,
    parse_pins,
)
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.stubs import build_stubs, holds
from imagebuild.lock.searching import choose_wheels, make_sources, search

_WORKERS = 8


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
    inputs = read_inputs(request)
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


def _resolve(request: LockRequest, inputs: LockInputs) -> _Answer:
    """Run the resolver against the routed index, and choose and read the wheels of what it answers."""
    environment, interpreter = request.environment, request.base.interpreter
    stubs, unusable = build_stubs(inputs.standing, environment, request.rules)
    kept = _keep_pins(request.existing, inputs.held, inputs.given)
    ahead = environment if request.resolver == "pip-tools" else {}  # uv reads ahead by itself
    pinned = find_pins(inputs.direct)
    choice = Choice(interpreter.tags, interpreter.version, request.cutoff, request.explicit_cutoff, pinned, inputs.hashes, ahead)
    with contextlib.ExitStack() as stack:
        upstreams = {index.name: stack.enter_context(Upstream(index, request.cache)) for index in request.indexes}
        sources = make_sources(request, upstreams, choice)
        index = stack.enter_context(
            RoutedIndex(
                request.indexes, upstreams, choice, stubs, unusable, inputs.given, request.cache, request.report, sources, request.rules
            )
        )
        outcome, label = search(request, inputs, index, kept, stack)
        index.raise_failure()
        pins = parse_pins(outcome.output)
        wanted = tuple(pin for pin in pins if pin.name not in inputs.held)
        _check_wanted(request.base, wanted, inputs.replaced, request.protect)
        _tell_yanked(wanted, index, kept, request.report)
        files, built = choose_wheels(wanted, index, upstreams, sources)
        chosen = {name: (file.filename, file.sha256) for name, (_, file) in files.items()}
        check_hashes({**chosen, **{name: (item.filename, item.sha256) for name, item in built.items()}}, inputs.hashes)
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


def _tell_yanked(wanted: Sequence[Pin], index: RoutedIndex, kept: Mapping[str, str], report: Callable[[str], None]) -> None:
    for pin in wanted:
        candidates = index.find_candidates(pin.name)
        if candidates is not None and kept.get(pin.name, pin.version) in candidates.yanked:
            was = kept[pin.name]
            report(f"{pin.name} {was} was yanked from package index {candidates.index!r}: the lock takes {pin.version} instead")


def _judge(request: LockRequest, inputs: LockInputs, answer: _Answer, index: RoutedIndex) -> None:
    """Warn of, or refuse, what nobody can have meant: source-only successors, pre-releases, what is held back, quarantined projects."""
    needs = {name: request.rules.rewrite_all(read_requires(data)) for name, (data, _) in answer.metadata.items()}
    askers = list_askers(answer.wanted, inputs.direct, needs)
    lines = {item.name: item for item in inputs.direct if applies(item.requirement, request.environment)}

    @functools.cache
    def find_holders() -> dict[str, Block]:
        return {block.name: block for block in find_blocks(inputs.direct, index, inputs.held, request.environment)}

    def find_holder(name: str) -> Holder | None:
        blocks = find_holders()
        block = blocks.get(name) or next((item for item in blocks.values() if item.is_through(name)), None)
        return Holder(block.describe(request.base.name), block.advise(request.base, request.protect)) if block is not None else None

    for pin in answer.wanted:
        candidates = index.find_candidates(pin.name)
        if candidates is None or pin.name in answer.built:
            continue
        status = ProjectStatus(pin.name, pin.version, candidates.status, candidates.status_reason)
        if status.status == "quarantined":
            raise LockError(f"{status.describe()}, says package index {candidates.index!r}", "do not install it: ask its index")
        if status.status:
            request.report(f"warning: package index {candidates.index!r} says that {status.describe()}")
        warning = judge_choice(JudgedChoice(pin, candidates, askers[pin.name]), functools.partial(find_holder, pin.name))
        line = lines.get(pin.name)
        if not warning and line is not None and describe_held_back(pin, candidates, line.requirement.specifier, None, request.base.name):
            warning = describe_held_back(pin, candidates, line.requirement.specifier, find_holders().get(pin.name), request.base.name)
        if warning:
            request.report(f"warning: {warning}")


def _list_rewritten(request: LockRequest, inputs: LockInputs, answer: _Answer) -> tuple[str, ...]:
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
            f"replace names {name}, but nothing in the lock requires it", f"name {name} in {REQUIREMENTS}, or leave it out of replace"
        )


def _keep_pins(existing: Lock | None, held: Mapping[str, Distribution], local: Mapping[str, LocalWheel]) -> dict[str, str]:
    if existing is None:
        return {}
    return {item.name: item.version for item in existing.packages if item.name not in held and item.name not in local and not item.tree}


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


def _find_dependencies(request: LockRequest, inputs: LockInputs, answer: _Answer) -> dict[str, tuple[str, ...]]:
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
                    f"{name} needs {target} by URL, which would bypass the indexes",
                    f"publish {target} on an index, or name it in requirements.in yourself: {target} @ URL#sha256=...",
                )
            if name in found and target in metadata and target != name:
                found[name].add(target)
            todo += [(target, wanted, name) for wanted in ("", *requirement.extras)]
    return {name: tuple(sorted(targets)) for name, targets in found.items()}
