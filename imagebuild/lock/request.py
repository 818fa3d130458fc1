"""What a lock is made of, as one value, and what its files say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.model import Base, Distribution
from imagebuild.base.sourceorder import BuildSource
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.file.model import Lock, SourceRules
from imagebuild.lock.file.replacement import PROTECTED, check_replace
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.hashes import AllowedHashes, join_hashes
from imagebuild.lock.inputs.localpackage import BuildTools, LocalWheel, build_local_wheel
from imagebuild.lock.inputs.requirements import DirectRequirement, read_requirements
from imagebuild.lock.inputs.resolverules import NO_RULES, ResolveRules
from imagebuild.lock.resolve.baserequirements import BaseRequirement, find_broken_requirements
from imagebuild.lock.resolve.kernelmarkers import depends_on_kernel, refuse_kernel
from imagebuild.lock.resolve.resolution import (
    check_against_base,
    rewrite_lines,
)
from imagebuild.lock.wheels.buildtools import make_build_tools
from imagebuild.lock.wheels.directurls import fetch_addressed, pin_addressed

NO_SOURCES = SourceRules()
RESOLVERS = ("pip-tools", "uv")
SEARCH_SECONDS = 120.0  # how long a resolver may look, unless packages are built from source on the way


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


class LockInputs(msgspec.Struct, frozen=True):
    """What the request's files say, beside what the base has."""

    direct: tuple[DirectRequirement, ...]  # as a resolver is shown them: without URLs, rewritten
    limits: tuple[DirectRequirement, ...]
    replaced: frozenset[str]
    standing: tuple[Distribution, ...]  # of the base: those that are not replaced
    held: dict[str, Distribution]  # the first of each name
    ignored: frozenset[BaseRequirement]  # needs that the base itself does not meet
    addressed: dict[str, LocalWheel]
    local: dict[str, LocalWheel]
    hashes: dict[str, AllowedHashes]

    @property
    def given(self) -> dict[str, LocalWheel]:
        """Wheels that come from no index."""
        return {**self.addressed, **self.local}


def read_inputs(request: LockRequest) -> LockInputs:
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
    broken = find_broken_requirements(base.inventory.distributions, environment)
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
    hashes = join_hashes((*direct, *asked.constraints), environment)
    pinned = pin_addressed(direct, addressed)
    return LockInputs(pinned, asked.constraints, replaced, standing, held, frozenset(broken.ignored), addressed, local, hashes)


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
