"""Wheels of metadata only that stand in for what the base already has, so that a resolver can reason about it.

A stub has the base's exact version (local versions such as ``2.5.1+cu121`` included), its extras, and of its
requirements only those that an extra asks for: the rest is the base's own affair (:mod:`imagebuild.lock.resolve.baserequirements`).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping

import msgspec
from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from imagebuild.base.model import Distribution
from imagebuild.lock.inputs.resolverules import NO_RULES, ResolveRules
from imagebuild.wheel.record import encode_hash

_TIMESTAMP = (1980, 1, 1, 0, 0, 0)


class Stub(msgspec.Struct, frozen=True):
    """A stand-in wheel, whole in memory."""

    name: str
    version: str
    filename: str
    data: bytes
    metadata: bytes
    sha256: str


def parse_version(text: str) -> Version | None:
    """A PEP 440 version, or None (Debian's own distributions have others)."""
    try:
        return Version(text)
    except InvalidVersion:
        return None


def build_stub(distribution: Distribution, environment: Mapping[str, str], rules: ResolveRules = NO_RULES) -> Stub:
    """The stub of one installed distribution; its version must be PEP 440. Same input, same bytes. ``rules`` rewrite what its extras
    need."""
    version = str(Version(distribution.version))
    lines = ["Metadata-Version: 2.1", f"Name: {distribution.name}", f"Version: {version}"]
    extras = sorted({canonicalize_name(extra) for extra in distribution.extras})
    lines += [f"Provides-Extra: {extra}" for extra in extras]
    lines += [f"Requires-Dist: {line}" for line in distribution.requires if _needs_extra(line, environment)]
    metadata = rules.rewrite_metadata(("\n".join(lines) + "\n").encode())
    stem = f"{distribution.name.replace('-', '_')}-{version}"
    folder = f"{stem}.dist-info"
    files = {
        f"{folder}/METADATA": metadata,
        f"{folder}/WHEEL": b"Wheel-Version: 1.0\nGenerator: imagebuild\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = (
        "".join(f"{path},{encode_hash(hashlib.sha256(data).hexdigest())},{len(data)}\n" for path, data in files.items())
        + f"{folder}/RECORD,,\n"
    )
    files[f"{folder}/RECORD"] = record.encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, data in files.items():
            archive.writestr(zipfile.ZipInfo(path, _TIMESTAMP), data)
    content = buffer.getvalue()
    return Stub(distribution.name, version, f"{stem}-py3-none-any.whl", content, metadata, hashlib.sha256(content).hexdigest())


def build_stubs(
    distributions: Iterable[Distribution], environment: Mapping[str, str], rules: ResolveRules = NO_RULES
) -> tuple[dict[str, Stub], dict[str, str]]:
    """(stubs by name, versions by name of those whose version is not PEP 440). The first of two equal names counts."""
    stubs: dict[str, Stub] = {}
    odd: dict[str, str] = {}
    for distribution in distributions:
        if distribution.name in stubs or distribution.name in odd:
            continue
        if parse_version(distribution.version) is None:
            odd[distribution.name] = distribution.version
        else:
            stubs[distribution.name] = build_stub(distribution, environment, rules)
    return stubs, odd


def _needs_extra(line: str, environment: Mapping[str, str]) -> bool:
    requirement = parse_line(line)
    if requirement is None or requirement.url or requirement.marker is None or "extra" not in str(requirement.marker):
        return False
    return not holds(requirement, environment, "")


def holds(requirement: Requirement, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether a requirement counts, under one extra or none."""
    if requirement.marker is None:
        return True
    try:
        return requirement.marker.evaluate({**environment, "extra": extra})
    except UndefinedEnvironmentName:
        return False


def parse_line(line: str) -> Requirement | None:
    """A Requires-Dist line, None for one that is not a requirement."""
    try:
        return Requirement(line)
    except InvalidRequirement:
        return None  # what pip itself tolerates in an installed distribution
