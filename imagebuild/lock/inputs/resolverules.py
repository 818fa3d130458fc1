"""``[resolve]`` of team.toml: names that are never installed, and requirements that replace what any package asks for.

The meaning is that of uv's ``exclude-dependencies`` and ``override-dependencies``, for either resolver: both see rewritten METADATA.
Constraints (``-c``) are not rewritten.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import msgspec
from packaging.markers import Marker
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_FOLD = re.compile(rb"\s*\r?\n[ \t]+")
_NEED = re.compile(rb"(?im)^Requires-Dist:[ \t]*([^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*)")
_EXTRA = re.compile(r"""\bextra\s*==\s*(?:"[^"]*"|'[^']*')""")


class ResolveRules(msgspec.Struct, frozen=True):
    """The table, with normalised names. ``override``: name -> the requirements that stand for it."""

    exclude: frozenset[str] = frozenset()
    override: Mapping[str, tuple[Requirement, ...]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is rewritten."""
        return not self.exclude and not self.override

    @property
    def excluded(self) -> tuple[str, ...]:
        """For the lock: sorted names."""
        return tuple(sorted(self.exclude))

    @property
    def overriding(self) -> tuple[str, ...]:
        """For the lock: the requirements as packaging writes them, sorted."""
        return tuple(sorted(str(item) for items in self.override.values() for item in items))

    def rewrite(self, requirement: Requirement) -> tuple[Requirement, ...]:
        """What stands for a requirement: nothing, the overriding ones (under its extra, if it is an extra's), or itself."""
        name = canonicalize_name(requirement.name)
        if name in self.exclude:
            return ()
        if name not in self.override:
            return (requirement,)
        extra = _EXTRA.search(str(requirement.marker or ""))
        return tuple(_add_extra(item, extra[0] if extra else "") for item in self.override[name])

    def rewrite_all(self, requirements: Iterable[Requirement]) -> list[Requirement]:
        """:meth:`rewrite` of each."""
        return [item for requirement in requirements for item in self.rewrite(requirement)]

    def describe(self, who: str, requirements: Iterable[Requirement]) -> list[str]:
        """What is rewritten of the needs of ``who``, a line each."""
        lines = []
        for requirement in requirements:
            instead = self.rewrite(requirement)
            if instead != (requirement,):
                lines.append(f"{who} needs {requirement}: {' and '.join(map(str, instead)) or 'left out'}")
        return lines

    def rewrite_metadata(self, metadata: bytes) -> bytes:
        """METADATA whose Requires-Dist are rewritten; lines that are not requirements stay."""
        if self.is_empty:
            return metadata

        def replace(match: re.Match[bytes]) -> bytes:
            try:
                requirement = Requirement(_FOLD.sub(b" ", match[1]).decode("utf-8", "replace").strip())
            except InvalidRequirement:
                return match[0]
            instead = self.rewrite(requirement)
            if instead == (requirement,):
                return match[0]
            return b"\n".join(f"Requires-Dist: {item}".encode() for item in instead) or b"X-Left-Out: excluded"

        return _NEED.sub(replace, metadata)


NO_RULES = ResolveRules()


def make_rules(exclude: Sequence[str], override: Sequence[str]) -> ResolveRules:
    """From team.toml; InvalidRequirement for an invalid override, ValueError for one by URL or a name in both lists."""
    excluded = frozenset(canonicalize_name(name) for name in exclude)
    overrides: dict[str, tuple[Requirement, ...]] = {}
    for line in override:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if requirement.url:
            raise ValueError(f"{line!r} is a URL: name its wheel in requirements.in instead")
        if name in excluded:
            raise ValueError(f"{name} is excluded and overridden")
        overrides[name] = (*overrides.get(name, ()), requirement)
    return ResolveRules(excluded, overrides)


def _add_extra(requirement: Requirement, extra: str) -> Requirement:
    if not extra:
        return requirement
    found = Requirement(str(requirement))
    found.marker = Marker(f"({requirement.marker}) and {extra}" if requirement.marker is not None else extra)
    return found
