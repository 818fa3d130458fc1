"""What of the base stands in the way of the newest versions, found by reading metadata and before a resolver backtracks.

From each line of requirements.in the newest fitting version is followed, and the newest of its requirements, until one requires another
version of a package than the base has. A resolver would try every older version first, which takes minutes, or silently gives releases
of six years ago.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import ImagebuildError
from imagebuild.lock.file.replacement import suggest_replacement
from imagebuild.lock.inputs.requirements import DirectRequirement, applies
from imagebuild.lock.resolve.candidates import Candidates
from imagebuild.lock.resolve.resolution import join_ways
from imagebuild.lock.resolve.stubs import holds, parse_version

_PROJECTS = 500  # looked at for one line of requirements.in
_SECONDS = 45.0  # for all lines


class Reader(Protocol):
    """What the routed index knows."""

    def ask_candidates(self, name: str) -> Candidates:
        """The candidates of a normalised name."""

    def read_needs(self, name: str, version: str) -> list[Requirement]:
        """What a candidate needs, as a resolver is shown it."""


class Block(msgspec.Struct, frozen=True):
    """A need that the base does not meet. ``chain``: the line's own package first, then who needs whom, each ``name version``."""

    where: str  # requirements.in line 1
    name: str  # of the line's package
    chain: tuple[str, ...]
    need: str  # python-dateutil<3
    held: str  # python-dateutil
    version: str  # 4.0.0
    source: str = ""  # instead of what the base has: the project of the need, of which there is no wheel that fits
    given: bool = False  # the line's package is a source tree or a wheel by address: there is no other version of it

    def describe(self, base: str) -> str:
        """One sentence."""
        first, *others = self.chain
        way = f" (through {' and '.join(others[:-1])})" if len(others) > 1 else ""
        first = first if self.given else f"the newest {first}"
        who = first if not others else f"{first} needs {others[-1]}{way}, which"
        if self.source:
            return f"{who} needs {self.need}, which is source only: there is no wheel"
        return f"{who} needs {self.need}; the base {base} has {self.held} {self.version}"

    def is_through(self, name: str) -> bool:
        """Whether the package of that name is what has the need, or on the way to it."""
        return any(canonicalize_name(item.partition(" ")[0]) == name for item in self.chain)

    def advise(self, base: Base, protect: Sequence[str]) -> str:
        """What to do."""
        return join_ways(
            f'have {self.source} built inside the base: [source] packages = ["{self.source}"] in team.toml'
            if self.source
            else suggest_replacement(base, self.held, protect).removeprefix("or "),
            "" if self.given else f"ask for an older {self.name} ({self.where})",
            "" if self.source else "choose another base",
        )


def find_blocks(
    requirements: Sequence[DirectRequirement],
    reader: Reader,
    held: Mapping[str, Distribution],
    environment: Mapping[str, str],
    *,
    seconds: float = _SECONDS,
    stopped: Callable[[], bool] | None = None,
) -> tuple[Block, ...]:
    """At most one block for each line that applies, in their order. What cannot be read is passed over: the resolver will say it.

    ``stopped`` is asked between projects: when it says so, nobody waits for more.
    """
    end = time.monotonic() + seconds
    found: dict[str, Block] = {}
    for item in requirements:
        if item.name in held or item.name in found or item.requirement.url or not applies(item.requirement, environment):
            continue
        block = _follow(item, reader, held, environment, lambda: time.monotonic() >= end or (stopped is not None and stopped()))
        if block is not None:
            found[item.name] = block
    return tuple(found.values())


def _follow(
    item: DirectRequirement,
    reader: Reader,
    held: Mapping[str, Distribution],
    environment: Mapping[str, str],
    ended: Callable[[], bool],
) -> Block | None:
    todo: deque[tuple[Requirement, tuple[str, ...]]] = deque([(item.requirement, ())])
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo and len(seen) < _PROJECTS and not ended():
        requirement, chain = todo.popleft()
        name = canonicalize_name(requirement.name)
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        with contextlib.suppress(ImagebuildError):
            candidates = reader.ask_candidates(name)
            version = choose_newest(candidates.wheels, requirement.specifier)
            if chain and not version and any(requirement.specifier.contains(text) for text in candidates.sdist_only):
                if any(requirement.specifier.contains(text) for text in candidates.sources):
                    continue  # it will be built
                return Block(item.where, item.name, chain, f"{name}{requirement.specifier}", "", "", name)
            needs = reader.read_needs(name, version) if version else []
            way = (*chain, f"{name} {version}")
            for need in needs:
                if not any(holds(need, environment, extra) for extra in ("", *requirement.extras)):
                    continue
                target = canonicalize_name(need.name)
                there = held.get(target)
                if there is None:
                    todo.append((need, way))
                    continue
                own = parse_version(there.version)
                if own is not None and not need.specifier.contains(own, prereleases=True):
                    given = reader.ask_candidates(item.name).given
                    return Block(item.where, item.name, way, f"{target}{need.specifier}", there.name, there.version, given=given)
    return None


def choose_newest(versions: Mapping[str, object], specifier: SpecifierSet) -> str:
    """The version that a resolver tries first: the newest final one that fits, else the newest pre-release; "" for none."""
    fitting = [(Version(text), text) for text in versions if specifier.contains(text, prereleases=True)]
    final = [item for item in fitting if not item[0].is_prerelease] or fitting
    return max(final, default=(Version("0"), ""))[1]
