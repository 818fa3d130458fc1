"""Who asked for a package, and what goes when it goes: the lock's dependency graph. Pure functions on names."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping

from imagebuild.size.model import PackageRemoval, PackageSize

SOURCE = "requirements.in"


def find_needing_chain(name: str, via: Mapping[str, Collection[str]], root: str = SOURCE) -> tuple[str, ...]:
    """The shortest way from ``root`` to ``name`` through who asked for whom; ends at the last name that is known."""
    todo: deque[tuple[str, ...]] = deque([(name,)])
    seen = {name}
    longest: tuple[str, ...] = (name,)
    while todo:
        path = todo.popleft()
        for asker in sorted(via.get(path[0], ()), key=lambda item: (item != root, item)):
            if asker == root:
                return (root, *path)
            if asker not in seen:
                seen.add(asker)
                todo.append((asker, *path))
                longest = (asker, *path)
    return longest


def find_reachable(roots: Iterable[str], needs: Mapping[str, Collection[str]]) -> set[str]:
    """``roots`` and everything they need."""
    todo, found = list(roots), set[str]()
    while todo:
        name = todo.pop()
        if name not in found and name in needs:
            found.add(name)
            todo += needs[name]
    return found


def measure_removals(packages: Iterable[PackageSize], needs: Mapping[str, Collection[str]]) -> tuple[PackageRemoval, ...]:
    """For every package that no other needs: what is freed when it is left out, most first.

    What a line of requirements.in asks for itself stays, whoever else needs it.
    """
    sizes = {item.name: item for item in packages}
    graph = {name: set(needs.get(name, ())) & set(sizes) - {name} for name in sizes}
    needed = {target for targets in graph.values() for target in targets}
    roots = [name for name in sizes if name not in needed]
    # A circle that nobody outside needs has no root of its own; its first name stands for it.
    reached = find_reachable(roots, graph)
    for name in sorted(sizes):
        if name not in reached:
            roots.append(name)
            reached |= find_reachable([name], graph)
    asked = {item.name for item in sizes.values() if len(item.chain) == 2 and item.chain[0] == SOURCE}
    found = []
    for root in roots:
        freed = set(sizes) - find_reachable([name for name in {*roots, *asked} if name != root], graph)
        gone = [sizes[name] for name in sorted(freed)]
        found.append(
            PackageRemoval(
                root,
                sum(item.compressed for item in gone),
                sum(item.installed for item in gone),
                tuple(item.name for item in gone if item.name != root),
            )
        )
    return tuple(sorted(found, key=lambda item: (-item.installed, item.name)))
