"""Which R packages a team gets: what it asks for and what that needs, over what the base has.

A repository has one version of each name, and older ones in its archive. So this is no search: from the team's wishes along Depends,
Imports and LinkingTo, each name is met once by the base, by the version that is locked, or by the repository's, and every bound that
anybody sets is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

import msgspec

from imagebuild.addons.rlang.control import Description, Need
from imagebuild.addons.rlang.versions import Bound
from imagebuild.addons.rlang.wishes import PackageWish
from imagebuild.base.model import RFacts, RPackage
from imagebuild.errors import LockError
from imagebuild.text import name_some


class Repositories(Protocol):
    """Where packages come from: each name from one repository."""

    def find_current(self, name: str) -> Description | None:
        """The version that the repository offers; None where it has none of that name."""

    def find_version(self, name: str, version: str) -> Description | None:
        """That version, the current one or an older one; None where there is none."""

    def name_source(self, name: str) -> str:
        """The repository of a name, for messages."""


class Chosen(msgspec.Struct, frozen=True):
    """A package that the team gets."""

    description: Description
    needs: tuple[str, ...]  # chosen packages it needs, sorted
    via: tuple[str, ...]  # files of the team and chosen packages that ask for it, sorted


class Closure(msgspec.Struct, frozen=True):
    """What the team gets, each after what it needs; and what the base has of what was asked for, by name."""

    chosen: tuple[Chosen, ...]
    satisfied: tuple[RPackage, ...]


class _Ask(msgspec.Struct, frozen=True):
    """Who asks for a name, and what for."""

    who: str  # a file of the team, or name and version of a package
    bound: Bound
    package: str = ""  # the name of the package that asks

    def __str__(self) -> str:
        return f"{self.who} {'needs' if self.package else 'asks for'}"


class _StaleError(Exception):
    """A version that was kept does not fit any more; ``name``: of the package."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def compute_closure(
    wishes: Iterable[PackageWish], repositories: Repositories, facts: RFacts, base: str, *, kept: Mapping[str, str], replace: frozenset[str]
) -> Closure:
    """LockError, as one sentence with both versions, where something does not fit.

    ``base``: its name, for messages. ``kept``: name -> version that stays where it still fits. ``replace``: names that the base has and
    the team brings anew.
    """
    staying = dict(kept)
    while True:
        try:
            return _Walk(repositories, facts, base, staying, replace).run(tuple(wishes))
        except _StaleError as error:
            del staying[error.name]


class _Walk:
    """One pass from the wishes to everything they need."""

    def __init__(self, repositories: Repositories, facts: RFacts, base: str, kept: Mapping[str, str], replace: frozenset[str]) -> None:
        self._repositories, self._facts, self._base = repositories, facts, base
        self._kept, self._replace = kept, replace
        self._asks: dict[str, list[_Ask]] = {}
        self._pins: dict[str, str] = {}
        self._chosen: dict[str, Description] = {}
        self._satisfied: dict[str, RPackage] = {}

    def run(self, wishes: tuple[PackageWish, ...]) -> Closure:
        waiting: list[str] = []
        for wish in wishes:
            self._asks.setdefault(wish.name, []).extend(_Ask(wish.where, bound) for bound in (wish.bounds or (Bound(),)))
            if wish.pin:
                self._pins[wish.name] = wish.pin
            waiting.append(wish.name)
        while waiting:
            name = waiting.pop(0)
            if name in self._chosen or name in self._satisfied:
                continue
            held = self._facts.package(name)
            if held is not None and name not in self._replace:
                self._satisfied[name] = held
                continue
            found = self._chosen[name] = self._find(name)
            for need in found.needs:
                if need.name == "R":
                    self._check_r(found, need)
                    continue
                self._asks.setdefault(need.name, []).append(_Ask(f"{found.name} {found.version}", need.bound, found.name))
                waiting.append(need.name)
        self._check_bounds()
        return self._sort(wishes)

    def _find(self, name: str) -> Description:
        wanted = self._pins.get(name) or self._kept.get(name)
        found = self._repositories.find_version(name, wanted) if wanted else self._repositories.find_current(name)
        if found is None and name not in self._pins and name in self._kept:
            raise _StaleError(name)
        if found is None:
            raise LockError(
                f"{self._asks[name][0]} {name}{f' {wanted}' if wanted else ''}, which {self._repositories.name_source(name)} does not have",
                "correct the name (upper and lower case count), or let the names of another [[index]] of kind cran match it",
            )
        return found

    def _check_r(self, found: Description, need: Need) -> None:
        if need.bound.allows(self._facts.version):
            return
        if self._stays(found.name):
            raise _StaleError(found.name)
        raise LockError(
            f"{found.name} {found.version} needs {need}, and base {self._base} has R {self._facts.version}",
            f'pin an older version, which the archive may have: "{found.name}==VERSION"; or choose a base with a newer R',
        )

    def _check_bounds(self) -> None:
        for name in sorted(self._asks):
            held = self._satisfied.get(name)
            version = held.version if held is not None else self._chosen[name].version
            for ask in self._asks[name]:
                if ask.bound.allows(version):
                    continue
                for kept in (name, ask.package):  # another version of the one may do, or ask for less
                    if kept in self._chosen and self._stays(kept):
                        raise _StaleError(kept)
                raise self._explain_conflict(name, ask, version, held)

    def _stays(self, name: str) -> bool:
        """Whether a package has the version it had, and nobody pinned it."""
        return name not in self._pins and self._kept.get(name) == self._chosen[name].version

    def _explain_conflict(self, name: str, ask: _Ask, version: str, held: RPackage | None) -> LockError:
        if held is None:
            return LockError(
                f"{ask} {name}{ask.bound}, and {self._name_choice(name)} {version}",
                f'pin versions that fit each other, which the archive may have: "{name}==VERSION"',
            )
        hint = (
            "R brings it and nothing else can: choose a base with another R"
            if held.priority == "base"
            else f'let the team bring its own: replace = ["r:{name}"]; or ask for versions that fit the base\'s'
        )
        return LockError(f"{ask} {name}{ask.bound}, and base {self._base} has {name} {version}", hint)

    def _name_choice(self, name: str) -> str:
        if name in self._pins:
            return f"{next(str(ask) for ask in self._asks[name] if ask.bound.operator == '==')} {name}"
        return f"{self._repositories.name_source(name)} has {name}"

    def _sort(self, wishes: tuple[PackageWish, ...]) -> Closure:
        """Depth first, so that everything comes after what it needs; packages that need each other are an error."""
        order: dict[str, Chosen] = {}
        names = {name: self._list_needs(name) for name in self._chosen}
        via: dict[str, set[str]] = {name: set() for name in self._chosen}
        for wish in wishes:
            if wish.name in via:
                via[wish.name].update(place.partition(" line ")[0] for place in wish.where.split(", "))
        for name, needs in names.items():
            for need in needs:
                via[need].add(name)
        waiting = sorted(names)
        while waiting:
            ready = [name for name in waiting if all(need in order for need in names[name])]
            if not ready:
                raise LockError(f"R packages need each other in a circle: {name_some(waiting)}", "report it to the repository's operators")
            for name in ready:
                order[name] = Chosen(self._chosen[name], names[name], tuple(sorted(via[name])))
            waiting = [name for name in waiting if name not in order]
        return Closure(tuple(order.values()), tuple(self._satisfied[name] for name in sorted(self._satisfied)))

    def _list_needs(self, name: str) -> tuple[str, ...]:
        return tuple(sorted({need.name for need in self._chosen[name].needs if need.name in self._chosen}))
