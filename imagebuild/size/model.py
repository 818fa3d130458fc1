"""The report of a size as one value; text, JSON and the page are renderings of it. Sizes are in bytes."""

from __future__ import annotations

from typing import Literal

import msgspec

from imagebuild.layer.model import LayerFile

REPORT_FORMAT = 1


class PackageSize(msgspec.Struct, frozen=True):
    """What one package adds."""

    name: str
    version: str
    compressed: int
    installed: int
    kinds: dict[str, int] = {}  # installed bytes by kind (imagebuild.wheel.sizes.KINDS)
    files: int = 0
    chain: tuple[str, ...] = ()  # who asked: requirements.in first, the package last
    coarse: bool = False  # predicted from the wheel's size alone: its directory could not be read


class Copy(msgspec.Struct, frozen=True):
    """A file that the base has too, under ``of``, with the same content."""

    path: str
    size: int
    package: str
    of: str


class PackageRemoval(msgspec.Struct, frozen=True):
    """A package that nothing else needs, and what leaving it out would free, with what only it needs."""

    name: str
    compressed: int
    installed: int
    along: tuple[str, ...] = ()


class Limit(msgspec.Struct, frozen=True):
    """One line of the budget. ``size`` is None when it is not known, and that counts as over."""

    what: str  # "stored", "unpacked", "growth stored", "growth unpacked", or "NAME unpacked"
    size: int | None
    limit: int
    package: str = ""

    @property
    def over(self) -> bool:
        """Whether this line is broken."""
        return self.size is None or self.size > self.limit


class Comparison(msgspec.Struct, frozen=True):
    """What was built from the same lock, beside the prediction."""

    image: str
    compressed: int
    installed: int


class SizeReport(msgspec.Struct, frozen=True):
    """What a layer (or, of a foreign image, all layers above its base) adds."""

    subject: str
    source: Literal["predicted", "measured"]
    base: str  # what is below, in words
    base_found: str  # how that is known: "lock", "annotation", "--base", "common layers", "nothing"
    compressed: int
    installed: int
    packages: tuple[PackageSize, ...]  # largest first, by installed size
    kinds: dict[str, int]
    files: int = 0
    largest: tuple[LayerFile, ...] = ()
    copies: tuple[Copy, ...] = ()  # the largest files the base has with the same content
    copies_count: int = -1  # of all such files; -1: the base's contents are not known
    copies_size: int = 0
    hidden: int = 0  # bytes of files that a higher layer replaces or deletes
    removals: tuple[PackageRemoval, ...] = ()
    limits: tuple[Limit, ...] = ()
    built: Comparison | None = None
    notes: tuple[str, ...] = ()
    digest: str = ""
    layers: int = 1
    fetched: int = 0  # bytes of layers read
    format: int = REPORT_FORMAT


def encode_size_report(report: SizeReport) -> bytes:
    """JSON with sorted keys, indented, a line feed at the end; ``limits`` carry ``over``."""
    document = msgspec.to_builtins(report)
    for item, limit in zip(document["limits"], report.limits, strict=True):
        item["over"] = limit.over
    return msgspec.json.format(msgspec.json.encode(document, order="sorted"), indent=2) + b"\n"


def sum_kinds(packages: tuple[PackageSize, ...]) -> dict[str, int]:
    """Installed bytes by kind, largest first."""
    total: dict[str, int] = {}
    for package in packages:
        for kind, size in package.kinds.items():
            total[kind] = total.get(kind, 0) + size
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
