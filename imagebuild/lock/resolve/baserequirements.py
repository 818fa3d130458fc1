"""What the base's own distributions need: of what the base lacks, or may have replaced, it becomes constraints on the lock.

A locked package can so never break one of the base's. A requirement that the base itself does not meet is listed, and is not a constraint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from imagebuild.base.model import Distribution
from imagebuild.lock.resolve.stubs import holds, parse_line, parse_version

BaseRequirement = tuple[str, str]  # (who needs, the requirement as ``name<2``), both normalised


class BrokenRequirements(msgspec.Struct, frozen=True):
    """Requirements of the base's distributions that the base itself does not meet."""

    lines: tuple[str, ...]  # for people, sorted
    ignored: frozenset[BaseRequirement]  # those that must not constrain anything


def _list_requirements(
    distributions: Iterable[Distribution], environment: Mapping[str, str]
) -> Iterator[tuple[Distribution, str, Requirement]]:
    """(who needs, the normalised name that is needed, the requirement), without those of extras and those by URL."""
    for distribution in distributions:
        for line in distribution.requires:
            requirement = parse_line(line)
            if requirement is not None and not requirement.url and holds(requirement, environment):
                yield distribution, canonicalize_name(requirement.name), requirement


def find_broken_requirements(distributions: Sequence[Distribution], environment: Mapping[str, str]) -> BrokenRequirements:
    """Needs among a base's distributions that are not met: another version is there, or none, and for none what contradicts itself.

    A need of something absent that nothing contradicts still constrains: a package that adds it repairs the base.
    """
    present: dict[str, Distribution] = {}
    for item in distributions:
        present.setdefault(item.name, item)
    lines: set[str] = set()
    ignored: set[BaseRequirement] = set()
    absent: dict[str, list[tuple[Distribution, Requirement]]] = {}
    for who, name, requirement in _list_requirements(distributions, environment):
        need = f"{name}{requirement.specifier}"
        held = present.get(name)
        if held is None:
            absent.setdefault(name, []).append((who, requirement))
            lines.add(f"{who.name} {who.version} needs {need}, and there is none")
            continue
        version = parse_version(held.version)
        if version is not None and not requirement.specifier.contains(version, prereleases=True):
            lines.add(f"{who.name} {who.version} needs {need}, and there is {held.name} {held.version}")
            ignored.add((who.name, need))
    for name, needs in absent.items():
        together = SpecifierSet()
        for _who, requirement in needs:
            together &= requirement.specifier
        if together.is_unsatisfiable():
            ignored |= {(who.name, f"{name}{requirement.specifier}") for who, requirement in needs}
    return BrokenRequirements(tuple(sorted(lines)), frozenset(ignored))


def list_base_constraints(
    distributions: Iterable[Distribution],
    environment: Mapping[str, str],
    present: Collection[str],
    ignored: Collection[BaseRequirement] = (),
) -> tuple[str, ...]:
    """``name specifier`` for what the base's distributions need and is not among ``present``. Sorted."""
    lines: set[str] = set()
    for who, name, requirement in _list_requirements(distributions, environment):
        need = f"{name}{requirement.specifier}"
        if str(requirement.specifier) and name not in present and (who.name, need) not in ignored:
            lines.add(need)
    return tuple(sorted(lines))


def list_requiring(
    distributions: Iterable[Distribution], environment: Mapping[str, str], ignored: Collection[BaseRequirement] = ()
) -> dict[str, tuple[str, ...]]:
    """Needed name -> the base's distributions that need it, each as ``name version (needs name<2)``."""
    owners: dict[str, set[str]] = {}
    for who, name, requirement in _list_requirements(distributions, environment):
        need = f"{name}{requirement.specifier}"
        if str(requirement.specifier) and (who.name, need) not in ignored:
            owners.setdefault(name, set()).add(f"{who.name} {who.version} (needs {need})")
    return {name: tuple(sorted(lines)) for name, lines in owners.items()}
