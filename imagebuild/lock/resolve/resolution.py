"""What a resolver is given and what it answers: files in a scratch folder, pins with who asked for them.

Either resolver (:mod:`~imagebuild.lock.resolve.piptools`, :mod:`~imagebuild.lock.resolve.uv`) sees one index, the base's pins as
constraints, and nothing of this machine's configuration.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.utils import canonicalize_name

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import LockError
from imagebuild.lock.file.replacement import PROTECTED, suggest_replacement
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies
from imagebuild.lock.inputs.resolverules import ResolveRules
from imagebuild.lock.resolve.stubs import parse_version

LOCAL = "local-packages.in"
VIA_LOCAL = "local package"  # who asked, for the team's own source trees
CONSTRAINTS = "constraints.txt"
OUTPUT = "requirements.txt"
RESOLVE_SECONDS = 1800  # a package that is built from source on the way counts too


class Pin(msgspec.Struct, frozen=True):
    """One line of a resolver's answer."""

    name: str
    version: str
    via: tuple[str, ...]


class SearchTimeoutError(Exception):
    """A resolver had no answer in the time it was given."""


class Outcome(msgspec.Struct, frozen=True):
    """What a resolver's process left behind."""

    succeeded: bool
    output: str
    log: str


def check_against_base(
    requirements: Sequence[DirectRequirement],
    distributions: Mapping[str, Distribution],
    environment: Mapping[str, str],
    base: Base,
    protect: Sequence[str] = PROTECTED,
) -> None:
    """LockError for the first line that what the base has cannot satisfy."""
    for item in requirements:
        held = distributions.get(item.name)
        if held is None or not applies(item.requirement, environment):
            continue
        version = parse_version(held.version)
        if item.requirement.url:
            raise LockError(
                f"{item.where} asks for {item.name} by URL; the base {base.name} has {held.name} {held.version}",
                f"remove the line, or choose another base than {base.name}",
            )
        if version is None or not item.requirement.specifier.contains(version, prereleases=True):
            shown = str(item.requirement).partition(";")[0].strip()
            raise LockError(
                f"{item.where} asks for {shown}; the base {base.name} has {held.name} {held.version}",
                join_ways(
                    f"change {item.where} to what the base has ({held.name}=={held.version})",
                    suggest_replacement(base, held.name, protect),
                    f"choose another base than {base.name}",
                ),
            )


def join_ways(*ways: str) -> str:
    """``a, or b, or c`` of those that are not empty."""
    return ", or ".join(way.removeprefix("or ") for way in ways if way)


def find_pins(requirements: Sequence[DirectRequirement]) -> dict[str, frozenset[str]]:
    """Versions that a line names with == or ===: these may be yanked ones (PEP 592)."""
    pins: dict[str, set[str]] = {}
    for item in requirements:
        for specifier in item.requirement.specifier:
            if specifier.operator in ("==", "===") and not specifier.version.endswith(".*"):
                version = parse_version(specifier.version)
                pins.setdefault(item.name, set()).add(str(version) if version is not None else specifier.version)
    return {name: frozenset(versions) for name, versions in pins.items()}


def rewrite_lines(requirements: Sequence[DirectRequirement], rules: ResolveRules) -> tuple[DirectRequirement, ...]:
    """The lines that a resolver is to see: without what is excluded, and what is overridden as it is overridden."""
    return tuple(
        msgspec.structs.replace(item, requirement=requirement) for item in requirements for requirement in rules.rewrite(item.requirement)
    )


def write_inputs(
    folder: Path,
    requirements: Sequence[DirectRequirement],
    local: Mapping[str, str],
    constraints: Sequence[str],
    existing: Mapping[str, str],
) -> None:
    """The resolver's files. Lines of the team's own file keep their numbers, so that its complaints can be used; others follow."""
    if addressed := next((item for item in requirements if item.requirement.url), None):
        raise LockError(
            f"{addressed.where}: a resolver would fetch {addressed.name} itself and bypass the indexes", "name it without its URL"
        )
    lines: dict[int, str] = {}
    included: list[str] = []
    for item in requirements:
        if item.file == REQUIREMENTS and item.line not in lines:
            lines[item.line] = str(item.requirement)
        else:
            included.append(str(item.requirement))
    numbered = [lines.get(number, "") for number in range(1, max(lines, default=0) + 1)]
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in (*numbered, *included)), "utf-8")
    (folder / LOCAL).write_text("".join(f"{name}=={local[name]}\n" for name in sorted(local)), "utf-8")
    (folder / CONSTRAINTS).write_text("".join(f"{line}\n" for line in constraints), "utf-8")
    if existing:
        (folder / OUTPUT).write_text("".join(f"{name}=={existing[name]}\n" for name in sorted(existing)), "utf-8")


def read_outcome(folder: Path, code: int, stdout: bytes, stderr: bytes) -> Outcome:
    """What a resolver's process left in ``folder``."""
    output = folder / OUTPUT
    text = output.read_text("utf-8") if code == 0 and output.is_file() else ""
    return Outcome(code == 0, text, (stdout + b"\n" + stderr).decode("utf-8", "replace"))


def parse_pins(text: str) -> tuple[Pin, ...]:
    """``name==version`` lines with split annotations -> pins sorted by name. ``via``: requirements.in, or names."""
    pins: list[Pin] = []
    name = version = ""
    via: list[str] = []

    def close() -> None:
        if name:
            pins.append(Pin(name, version, tuple(sorted(set(via)))))

    for line in text.splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?===?([^\s;\\=]+).*", line):
            close()
            parsed = parse_version(match[2])  # after === anything may stand (PEP 440, Arbitrary equality)
            name, version, via = canonicalize_name(match[1]), str(parsed) if parsed is not None else match[2], []
        elif match := re.fullmatch(r"\s+#(?:\s+via)?\s+(\S.*)", line):
            via.extend(_read_origin(match[1].strip()))
    close()
    return tuple(sorted(pins, key=lambda pin: pin.name))


def _read_origin(text: str) -> list[str]:
    if text == "via":
        return []
    if text.startswith("-c "):
        return []
    if text.startswith("-r "):
        return [VIA_LOCAL if text.endswith(LOCAL) else REQUIREMENTS]
    return [canonicalize_name(text.partition(" ")[0])]


def make_scratch(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for one resolution, removed afterwards."""
    folder = cache / "resolve"
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder)
