"""The comparison of two sides as one value; text, JSON, Markdown and the page are renderings of it. Sizes are in bytes."""

from __future__ import annotations

import msgspec

from imagebuild.difference.sides import Side, align_sides
from imagebuild.lock.file.changes import Fact, LockChanges, compare_locks

DIFFERENCE_FORMAT = 1


class SideFacts(msgspec.Struct, frozen=True):
    """What is said of each side. -1: not known."""

    name: str
    digest: str
    base: str
    base_digest: str
    packages: int
    compressed: int
    installed: int
    recorded: bool  # by the layers' RECORDs, without a lock
    fetched: int


class Difference(msgspec.Struct, frozen=True):
    """From ``before`` to ``after``."""

    before: SideFacts
    after: SideFacts
    base_changed: bool
    changes: LockChanges
    licences: dict[str, tuple[str, str]]  # packages whose licence is another one: before, after
    format: int = DIFFERENCE_FORMAT

    @property
    def is_empty(self) -> bool:
        """Whether both hold the same packages, in the same sizes, on the same base."""
        return self.changes.is_empty and not self.base_changed and self.before.compressed == self.after.compressed


def compare_sides(before: Side, after: Side) -> Difference:
    """What ``after`` changes."""
    one, other = align_sides(before, after)
    licences = {**one.licences, **other.licences}
    changes = compare_locks(one.lock, other.lock, licences)
    if before.recorded or after.recorded:  # what only a lock knows is not a difference of the images
        kept = tuple(fact for fact in changes.facts if fact.before and fact.after and fact.name in ("base", "platform", "Python"))
        changes = msgspec.structs.replace(changes, facts=kept)
    base_changed = before.base_digest != after.base_digest and bool(before.base_digest and after.base_digest)
    if base_changed and not any(fact.name in ("base", "base digest") for fact in changes.facts):
        facts = (Fact("base digest", before.base_digest, after.base_digest), *changes.facts)
        changes = msgspec.structs.replace(changes, facts=facts)
    changed = {
        item.name: (item.before.licence, item.after.licence)
        for item in changes.packages
        if item.licence_changed and item.before is not None and item.after is not None
    }
    return Difference(_describe(before), _describe(after), base_changed or before.base != after.base, changes, changed)


def _describe(side: Side) -> SideFacts:
    return SideFacts(
        name=side.name,
        digest=side.digest,
        base=side.base,
        base_digest=side.base_digest,
        packages=len(side.lock.packages),
        compressed=side.compressed,
        installed=side.installed,
        recorded=side.recorded,
        fetched=side.fetched,
    )


def encode_difference(difference: Difference) -> bytes:
    """JSON with sorted keys, indented, a line feed at the end."""
    return msgspec.json.format(msgspec.json.encode(difference, order="sorted"), indent=2) + b"\n"
