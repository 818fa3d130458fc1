"""What a wheel's METADATA says it needs (core metadata, Requires-Dist)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable
from email.parser import BytesParser
from email.policy import compat32

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

_FOLD = re.compile(rb"\s*\r?\n[ \t]+")
_NEED = re.compile(rb"(?im)^Requires-Dist:[ \t]*([^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*)")


def read_requires(metadata: bytes) -> list[Requirement]:
    """Every Requires-Dist that is one."""
    message = BytesParser(policy=compat32).parsebytes(metadata, headersonly=True)
    return parse_requires(str(line) for line in message.get_all("Requires-Dist", []))


def read_extras(metadata: bytes) -> frozenset[str]:
    """The normalised names of the extras that a wheel has (Provides-Extra)."""
    message = BytesParser(policy=compat32).parsebytes(metadata, headersonly=True)
    return frozenset(canonicalize_name(str(name)) for name in message.get_all("Provides-Extra", []))


def parse_requires(lines: Iterable[str]) -> list[Requirement]:
    """The lines that are requirements; a resolver has taken or refused the others already."""
    found = []
    for line in lines:
        with contextlib.suppress(InvalidRequirement):
            found.append(Requirement(line))
    return found


def strip_addresses(metadata: bytes) -> bytes:
    """The same METADATA, with ``name @ URL`` written as ``name``: a resolver would fetch a URL itself and bypass the indexes."""

    def replace(match: re.Match[bytes]) -> bytes:
        if b"@" not in match[1] and b"://" not in match[1]:
            return match[0]
        try:
            requirement = Requirement(_FOLD.sub(b" ", match[1]).decode("utf-8", "replace").strip())
        except InvalidRequirement:
            return b"X-Left-Out: an address" if b"://" in match[1] else match[0]
        if not requirement.url:
            return match[0]
        requirement.url = None
        return f"Requires-Dist: {requirement}".encode()

    return _NEED.sub(replace, metadata)
