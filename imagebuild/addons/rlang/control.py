"""Debian-control files as R writes them: a repository's PACKAGES, a package's DESCRIPTION ("Writing R Extensions", 1.1.1).

Fields are ``Name: value``, lines that begin with white space continue a value, empty lines divide the packages.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from datetime import datetime

import msgspec

from imagebuild.addons.rlang.versions import OPERATORS, Bound, parse_version

TEXT_LIMIT = 128 << 20  # bytes of a PACKAGES, unpacked; CRAN's has 8 MB
_VALUE_LIMIT = 64 << 10  # characters of one field
_FIELD = re.compile(r"([!-9;-~]+)[ \t]*:[ \t]*(.*)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]")
_PUBLISHED = re.compile(r"(\d{4}-\d\d-\d\d)(?: (\d\d:\d\d:\d\d))?")
_NEED = re.compile(rf"\s*([A-Za-z][A-Za-z0-9.]*)\s*(?:\(\s*({'|'.join(OPERATORS)})\s*([^\s()]+)\s*\))?\s*")


class Need(msgspec.Struct, frozen=True):
    """One entry of Depends, Imports or LinkingTo; ``R`` is R itself."""

    name: str
    bound: Bound = Bound()

    def __str__(self) -> str:
        return f"{self.name}{self.bound}"


class Description(msgspec.Struct, frozen=True):
    """What a DESCRIPTION, or a repository's copy of it, says of a package."""

    name: str
    version: str
    needs: tuple[Need, ...] = ()  # Depends, Imports and LinkingTo
    built: tuple[str, ...] = ()  # of a binary: "R 4.5.3", platform or "", time, type of system
    path: str = ""  # PACKAGES: a folder below src/contrib
    licence: str = ""
    published: str = ""  # Date/Publication

    @property
    def published_at(self) -> datetime | None:
        """When the repository published it, in UTC; None where it does not say."""
        match = _PUBLISHED.match(self.published)
        if match is None:
            return None
        try:
            return datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00:00'}+00:00")
        except ValueError:
            return None

    @property
    def built_minor(self) -> str:
        """``4.5``: the R that a binary is for; "" for source."""
        return ".".join(self.built[0].removeprefix("R").strip().split(".")[:2]) if self.built else ""

    @property
    def built_platform(self) -> str:
        """``x86_64-pc-linux-gnu``; "" for source, and for a binary without compiled code."""
        return self.built[1] if len(self.built) > 1 else ""


def is_package_name(text: str) -> bool:
    """Letters, digits and dots, a letter first, no dot last, two characters at least."""
    return _NAME.fullmatch(text) is not None


def read_stanzas(text: str) -> Iterator[dict[str, str]]:
    """The fields of each stanza. ValueError, with the line, for what is not a field, is repeated, or has a value that is too long."""
    fields: dict[str, str] = {}
    last = ""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip():
            if fields:
                yield fields
            fields, last = {}, ""
            continue
        if line[0] in " \t":
            if not last:
                raise ValueError(f"line {number} continues nothing")
            fields[last] += "\n" + line.strip()
        else:
            match = _FIELD.fullmatch(line)
            if match is None or match[1] in fields:
                raise ValueError(f"line {number} is not a field" if match is None else f"line {number} has the field {match[1]} again")
            last = match[1]
            fields[last] = match[2].strip()
        if len(fields[last]) > _VALUE_LIMIT:
            raise ValueError(f"line {number}: the field {last} has more than {_VALUE_LIMIT >> 10} Ki characters")
    if fields:
        yield fields


def read_description(fields: dict[str, str]) -> Description:
    """One stanza as a value. ValueError for an invalid name or version, and for needs that cannot be read."""
    name, version = fields.get("Package", ""), fields.get("Version", "")
    if not is_package_name(name):
        raise ValueError(f"not a name of an R package: {name[:80]!r}")
    parse_version(version)
    needs = [need for field in ("Depends", "Imports", "LinkingTo") for need in parse_needs(fields.get(field, ""))]
    built = tuple(part.strip() for part in fields["Built"].split(";")) if fields.get("Built") else ()
    return Description(
        name,
        version,
        tuple(dict.fromkeys(needs)),
        built,
        fields.get("Path", ""),
        " ".join(fields.get("License", "").split()),
        fields.get("Date/Publication", ""),
    )


def parse_needs(text: str) -> Iterator[Need]:
    """``R (>= 3.5.0), methods, Rcpp (>= 1.0.4)``."""
    for part in text.replace("\n", " ").split(","):
        if not part.strip():
            continue
        match = _NEED.fullmatch(part)
        if match is None:
            raise ValueError(f"cannot be read as a dependency: {part.strip()[:80]!r}")
        if match[2] and not (match[1] == "R" and re.fullmatch("r[0-9]+", match[3])):  # R of a Subversion revision: R-devel's own
            parse_version(match[3])
            yield Need(match[1], Bound(match[2], match[3]))
        else:
            yield Need(match[1])


def unpack_text(data: bytes, limit: int = TEXT_LIMIT) -> str:
    """The text of a PACKAGES.gz, or of a PACKAGES as it is; ValueError for more than ``limit`` bytes and for gzip that is malformed."""
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        try:
            data = unpacker.decompress(data, limit + 1)
        except zlib.error as error:
            raise ValueError(f"cannot be decompressed: {error}") from None
        if not unpacker.eof and len(data) <= limit:
            raise ValueError("ends in the middle")
    if len(data) > limit:
        raise ValueError(f"has more than {limit >> 20} MiB")
    return data.decode("utf-8", "replace")
