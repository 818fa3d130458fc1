"""Wheels that requirements.in names by URL: fetched, verified by the hash in the line, and then the only wheel of their name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from imagebuild.base.model import Interpreter
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.pages import ProjectFile
from imagebuild.lock.index.routing import ADDRESSES
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.localpackage import LocalWheel
from imagebuild.lock.inputs.requirements import DirectRequirement, applies, split_address
from imagebuild.lock.resolve.candidates import describe_tags


def fetch_addressed(
    requirements: Sequence[DirectRequirement],
    environment: Mapping[str, str],
    interpreter: Interpreter,
    cache: Path,
    report: Callable[[str], None],
) -> dict[str, LocalWheel]:
    """Name -> the wheel of each line by URL that applies to the base, in the wheel cache.

    LockError: not for this base; IntegrityError: other bytes than the line's hash; ConfigurationError: two for one name.
    """
    wheels: dict[str, LocalWheel] = {}
    with Upstream(ADDRESSES, cache) as upstream:
        for item in requirements:
            if not item.requirement.url or not applies(item.requirement, environment):
                continue
            address, filename, sha256 = split_address(item.requirement)
            known = wheels.get(item.name)
            if known is not None and known.sha256 != sha256:
                raise ConfigurationError(f"{item.where}: {item.name} has another URL on an earlier line", "remove one of the lines")
            _name, version, _build, tags = parse_wheel_filename(filename)
            if not any(str(tag) in interpreter.tags for tag in tags):
                raise LockError(
                    f"{item.where}: {filename} is for {describe_tags([str(tag) for tag in tags])}; the base is {interpreter.tags[0]}",
                    "name the wheel of this base's Python and platform",
                )
            path = wheel_cache_path(cache, sha256, filename)
            if not path.is_file():
                report(f"fetching {filename} from the URL in {item.where}")
                upstream.download(ProjectFile(filename, address, sha256=sha256), path, package=item.name)
            wheels[item.name] = LocalWheel(path, filename, sha256, path.stat().st_size, item.name, str(version), "", address)
    return wheels


def pin_addressed(requirements: Sequence[DirectRequirement], wheels: Mapping[str, LocalWheel]) -> tuple[DirectRequirement, ...]:
    """The same lines for a resolver: an address is the version that is there, with the line's extras and marker."""
    return tuple(_pin(item, wheels) if item.requirement.url else item for item in requirements)


def _pin(item: DirectRequirement, wheels: Mapping[str, LocalWheel]) -> DirectRequirement:
    wheel = wheels.get(item.name)
    version = wheel.version if wheel is not None else str(parse_wheel_filename(split_address(item.requirement)[1])[1])
    extras = f"[{','.join(sorted(item.requirement.extras))}]" if item.requirement.extras else ""
    marker = f"; {item.requirement.marker}" if item.requirement.marker is not None else ""
    return msgspec.structs.replace(item, requirement=Requirement(f"{item.requirement.name}{extras}=={version}{marker}"))
