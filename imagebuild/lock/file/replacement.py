"""What a team's lock may change about its base: ``replace`` names what it replaces, ``protect`` what stays as it is, and alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from packaging.utils import canonicalize_name

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import LockError
from imagebuild.lock.file.model import Lock

# A second framework, or a second set of CUDA libraries, is gigabytes, and mostly an accident.
PROTECTED = ("torch", "tensorflow", "jax", "jaxlib", "triton", "nvidia-*", "cuda-*")
_MEANT = "to allow it for this team, set protect in team.toml (protect = [] protects nothing)"
_FOREIGN = {"conda": "conda", "dpkg": "Debian's dpkg", "rpm": "rpm"}  # installers that keep their own account of a package's files


def explain_fixed(distribution: Distribution) -> str:
    """Why pip's rules give no way to replace it; empty where they do."""
    if distribution.installer in _FOREIGN:
        return f"it was installed by {_FOREIGN[distribution.installer]}"
    return "" if distribution.has_record else "it has no RECORD, so its files are not known"


def match_protected(name: str, patterns: Iterable[str]) -> bool:
    """Whether a normalised name is one of ``patterns``, which are normalised too (``*`` stays)."""
    return any(fnmatchcase(name, canonicalize_name(pattern)) for pattern in patterns)


def find_stack(base: Base, patterns: Sequence[str]) -> tuple[Distribution, ...]:
    """The base's distributions that ``patterns`` protect."""
    return tuple(item for item in base.inventory.distributions if match_protected(item.name, patterns))


def suggest_replacement(base: Base, name: str, patterns: Sequence[str]) -> str:
    """A clause for a hint, such as ``or let it be replaced: replace = ["pandas"] in team.toml``; empty where that is not a way."""
    held = base.inventory.distribution(name)
    if held is None or explain_fixed(held) or match_protected(name, patterns):
        return ""
    return f'or let it be replaced: replace = ["{name}"] in team.toml'


def check_replace(base: Base, names: Iterable[str], patterns: Sequence[str]) -> frozenset[str]:
    """The normalised names of ``replace``; LockError for the first that the base lacks, cannot give up, or is protected."""
    found = frozenset(canonicalize_name(name) for name in names)
    for name in sorted(found):
        held = base.inventory.distribution(name)
        if held is None:
            raise LockError(f"replace names {name}, which the base {base.name} does not have", f"leave {name} out of replace in team.toml")
        if reason := explain_fixed(held):
            raise LockError(
                f"{name} {held.version} of the base {base.name} cannot be replaced: {reason}",
                f"ask for what the base has ({name}=={held.version}), or choose another base",
            )
        if match_protected(name, patterns):
            raise LockError(
                f"{name} {held.version} of the base {base.name} is protected, and replace names it",
                f"choose a base with the version you need; {_MEANT}",
            )
    return found


def check_stack(
    base: Base, added: Mapping[str, str], via: Mapping[str, Sequence[str]], patterns: Sequence[str], replaced: Collection[str] = ()
) -> None:
    """LockError when the base has a protected stack and ``added`` (name -> version) would put more of the kind beside it.

    ``via``: name -> who asked for it, which the message follows back to a line of requirements.in.
    """
    stack = find_stack(base, patterns)
    more = sorted(name for name in added if match_protected(name, patterns) and name not in replaced)
    if not stack or not more:
        return
    chains = tuple(" <- ".join(find_asking_chain(name, via)) for name in more)
    rest = f" and {len(more) - 1} more" if len(more) > 1 else ""
    root = _find_root(find_asking_chain(more[0], via), added)
    raise LockError(
        f"{root} would add {more[0]} {added[more[0]]}{rest} to the base {base.name}, which has {_describe(stack)}",
        f"ask for a version that works with what the base has, or choose another base; {_MEANT}",
        chains if len(chains) > 1 or chains[0].count("<-") > 1 else (),
    )


def _describe(stack: Sequence[Distribution]) -> str:
    """A framework says more than the first of thirty libraries."""
    ordered = sorted(stack, key=lambda item: (item.name.startswith(("nvidia-", "cuda-")), item.name))
    more = f" and {len(stack) - 1} more of the kind" if len(stack) > 1 else ""
    return f"{ordered[0].name} {ordered[0].version}{more}"


def _find_root(chain: Sequence[str], added: Mapping[str, str]) -> str:
    """The package that somebody asked for by name."""
    named = [item for item in chain if item in added]
    return f"{named[-1]} {added[named[-1]]}" if named[-1] != chain[0] else chain[-1]


def find_asking_chain(name: str, via: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The shortest way from ``name`` over those who asked for it to one that no other package asked for."""
    ways: list[tuple[str, ...]] = [(name,)]
    seen = {name}
    while ways:
        way = ways.pop(0)
        askers = via.get(way[-1], ())
        if not askers:
            return way
        for asker in askers:
            if asker not in seen:
                seen.add(asker)
                ways.append((*way, asker))
    return (name,)


def find_replaced(base: Base, lock: Lock) -> tuple[str, ...]:
    """The names that base and lock both have: no lock brings what the base has unless ``replace`` allows it. Sorted."""
    present = {item.name for item in base.inventory.distributions}
    return tuple(item.name for item in lock.packages if item.name in present)


def check_replaced(base: Base, lock: Lock, names: Iterable[str], patterns: Sequence[str]) -> None:
    """LockError when a lock was made under another ``replace`` or ``protect`` than the team now has."""
    wanted = check_replace(base, names, patterns)
    found = frozenset(find_replaced(base, lock))
    if wanted != found:
        changed = ", ".join(sorted(wanted ^ found))
        raise LockError(f"the lock of {lock.team} is stale: replace changed ({changed})", f"run: imagebuild lock {lock.team}")
    check_stack(base, {item.name: item.version for item in lock.packages}, {item.name: item.via for item in lock.packages}, patterns, found)
