"""What differs between two locks: a pure comparison, and its Markdown for a pull request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec
from packaging.version import InvalidVersion, Version

from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.text import format_size

REQUIRED = "requirements.in"  # what `via` says of a package that the team itself asked for
Kind = Literal["added", "removed", "upgraded", "downgraded", "rebuilt"]
_ORDER: dict[Kind, int] = {"upgraded": 0, "downgraded": 1, "rebuilt": 2, "added": 3, "removed": 4}


class LockedSide(msgspec.Struct, frozen=True):
    """A package in one of the two locks. Sizes are in bytes."""

    version: str
    size: int  # of the wheel
    installed: int
    index: str
    licence: str = ""  # an SPDX expression, or what its metadata says; empty where it is not known


class PackageChange(msgspec.Struct, frozen=True):
    """One package that differs; ``before`` is None for one that is new, ``after`` for one that is gone."""

    name: str
    kind: Kind  # rebuilt: the same version from another file
    direct: bool  # the team's own requirement (in the newer lock that has it), not a dependency
    before: LockedSide | None
    after: LockedSide | None

    @property
    def licence_changed(self) -> bool:
        """Both licences are known and differ."""
        one, other = self.before, self.after
        return one is not None and other is not None and bool(one.licence and other.licence) and one.licence != other.licence

    @property
    def index_changed(self) -> bool:
        """It comes from another index now."""
        return self.before is not None and self.after is not None and self.before.index != self.after.index


class Fact(msgspec.Struct, frozen=True):
    """Something about the whole lock that changed."""

    name: str
    before: str
    after: str


class LockChanges(msgspec.Struct, frozen=True):
    """The comparison: facts about the whole, and packages, direct ones first, then by kind and name."""

    team: str
    facts: tuple[Fact, ...]
    packages: tuple[PackageChange, ...]
    size_before: int  # of all wheels
    size_after: int
    installed_before: int  # of all their files
    installed_after: int
    count_before: int
    count_after: int
    notes: tuple[str, ...] = ()  # what to know of the newer lock, changed or not

    @property
    def is_empty(self) -> bool:
        """Whether the locks hold the same packages on the same base."""
        return not self.facts and not self.packages


def compare_locks(before: Lock | None, after: Lock, licences: Mapping[str, str] = {}) -> LockChanges:
    """What ``after`` changes. ``before``: None for a first lock. ``licences``: SHA-256 of a wheel (hex) -> its licence."""
    old = {item.name: item for item in before.packages} if before is not None else {}
    new = {item.name: item for item in after.packages}
    changed = []
    for name in old.keys() | new.keys():
        one, other = old.get(name), new.get(name)
        kind = _judge(one, other)
        if kind is not None:
            latest = other or one
            assert latest is not None
            direct = REQUIRED in latest.via or latest.index == "local"
            changed.append(PackageChange(name, kind, direct, _describe(one, licences), _describe(other, licences)))
    return LockChanges(
        team=after.team,
        facts=_list_facts(before, after) if before is not None else (),
        packages=tuple(sorted(changed, key=lambda item: (not item.direct, _ORDER[item.kind], item.name))),
        size_before=sum(item.size for item in old.values()),
        size_after=sum(item.size for item in new.values()),
        installed_before=sum(item.installed_size for item in old.values()),
        installed_after=sum(item.installed_size for item in new.values()),
        count_before=len(old),
        count_after=len(new),
    )


def _judge(before: LockedPackage | None, after: LockedPackage | None) -> Kind | None:
    if before is None or after is None:
        return "added" if before is None else "removed"
    if before.version != after.version:
        try:
            return "downgraded" if Version(after.version) < Version(before.version) else "upgraded"
        except InvalidVersion:
            return "upgraded"
    return None if before.sha256 == after.sha256 and before.index == after.index else "rebuilt"


def _describe(package: LockedPackage | None, licences: Mapping[str, str]) -> LockedSide | None:
    if package is None:
        return None
    return LockedSide(package.version, package.size, package.installed_size, package.index, licences.get(package.sha256, ""))


def _list_facts(before: Lock, after: Lock) -> tuple[Fact, ...]:
    pairs = [
        ("base", before.base, after.base),
        ("base digest", before.base_digest, after.base_digest),
        ("platform", before.platform, after.platform),
        ("Python", before.python, after.python),
        ("resolver", before.resolver, after.resolver),
        ("quarter", before.quarter, after.quarter),
        *list_rules(before, after),
    ]
    facts = [Fact(name, str(one), str(other)) for name, one, other in pairs if one != other]
    have, had = (dict(text.partition("==")[::2] for text in lock.satisfied) for lock in (after, before))
    facts += [
        Fact(f"{name} of the base", had.get(name, "-"), have.get(name, "-"))
        for name in sorted(have.keys() & had.keys())
        if have[name] != had[name]
    ]
    return tuple(facts)


def list_rules(before: Lock, after: Lock) -> tuple[tuple[str, str, str], ...]:
    """``[resolve]`` of the two: (name, before, after)."""
    return (
        ("excluded", ", ".join(before.exclude) or "nothing", ", ".join(after.exclude) or "nothing"),
        ("overridden", ", ".join(before.override) or "nothing", ", ".join(after.override) or "nothing"),
    )


# -- Markdown


def render_markdown(changes: LockChanges) -> str:
    """The report as GitHub and GitLab show it: a summary line, one table for packages, then what needs a second look."""
    lines = [f"### Lock of {_escape(changes.team)}", ""]
    lines += ["Nothing changed." if changes.is_empty else _summarise(changes), ""]
    if changes.facts:
        lines += ["| | before | after |", "|---|---|---|"]
        lines += [f"| {_escape(item.name)} | `{_shorten(item.before)}` | `{_shorten(item.after)}` |" for item in changes.facts] + [""]
    if changes.packages:
        lines += ["| package | asked for | version | wheel | installed | licence |", "|---|---|---|---|---|---|"]
        lines += [_render_row(item) for item in changes.packages] + [""]
    notes = [f"- {_escape(item.name)}: the licence changes from {_show(item.before)} to {_show(item.after)}"
             for item in changes.packages if item.licence_changed]  # fmt: skip
    notes += [f"- {_escape(item.name)} comes from index {_escape(item.after.index)}, not {_escape(item.before.index)}"
              for item in changes.packages if item.index_changed and item.before and item.after]  # fmt: skip
    notes += [f"- {_escape(item.name)} goes back to an older version" for item in changes.packages if item.kind == "downgraded"]
    notes += [f"- {_escape(item.name)} {_escape(item.after.version)} is another file than before under the same version"
              for item in changes.packages if item.kind == "rebuilt" and item.after and item.after.index != "local"]  # fmt: skip
    notes += [f"- {_escape(text)}" for text in changes.notes]
    if notes:
        lines += ["Look twice:", "", *notes, ""]
    return "\n".join(lines)


def _summarise(changes: LockChanges) -> str:
    counts = {kind: sum(item.kind == kind for item in changes.packages) for kind in _ORDER}
    parts = [f"{count} {kind}" for kind, count in counts.items() if count]
    sizes = f"wheels {format_size(changes.size_before)} to {format_size(changes.size_after)}"
    unpacked = f"installed {format_size(changes.installed_before)} to {format_size(changes.installed_after)}"
    number = f"{changes.count_before} to {changes.count_after} packages"
    return f"{', '.join(parts) or 'no package changes'}; {number}; {sizes}; {unpacked}."


def _render_row(item: PackageChange) -> str:
    one, other = item.before, item.after
    if one is None or other is None:
        version = f"new: {other.version}" if other is not None else f"gone: {one.version}" if one is not None else ""
    else:
        version = other.version if one.version == other.version else f"{one.version} to {other.version}"
    cells = [
        _escape(item.name),
        "directly" if item.direct else "by others",
        _escape(version),
        _change(one.size if one else None, other.size if other else None),
        _change(one.installed if one else None, other.installed if other else None),
        f"**{_show(one)} to {_show(other)}**" if item.licence_changed else _show(other or one),
    ]
    return "| " + " | ".join(cells) + " |"


def _show(side: LockedSide | None) -> str:
    return _escape(side.licence) if side is not None and side.licence else "unknown"


def _change(before: int | None, after: int | None) -> str:
    """``1.2 MiB to 1.3 MiB``; one value where the other side has none, or the same."""
    if before is None or after is None:
        return f"{'+' if before is None else '-'}{format_size(after if after is not None else before or 0)}"
    return format_size(after) if format_size(before) == format_size(after) else f"{format_size(before)} to {format_size(after)}"


def _shorten(text: str) -> str:
    """Digests by their first twelve digits."""
    algorithm, _, value = text.partition(":")
    return f"{algorithm}:{value[:12]}" if algorithm == "sha256" and len(value) == 64 else text.replace("`", "'")


def _escape(text: str) -> str:
    """Text that a table cell shows as it is."""
    for mark in ("\\", "|", "*", "_", "<", ">", "`", "[", "]"):
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
