"""Why a resolver gave up: one sentence out of its report and of what the routed index left out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from imagebuild.base.model import Base, Distribution
from imagebuild.decoding import make_decoder
from imagebuild.errors import ImagebuildError, LockError
from imagebuild.lock.file.replacement import PROTECTED, suggest_replacement
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies
from imagebuild.lock.resolve.blocking import Block
from imagebuild.lock.resolve.candidates import Candidates, describe_tags
from imagebuild.lock.resolve.resolution import Outcome, join_ways
from imagebuild.lock.resolve.stubs import parse_version

_CAUSE = make_decoder(tuple[str, str, str])


_SHOWN = 20  # lines of explanation
_LONGEST = 300


class KnownCandidates(Protocol):
    """What the routed index remembers."""

    def find_candidates(self, name: str) -> Candidates | None:
        """What was offered of a project, None if nobody asked."""


class ResolutionFacts(msgspec.Struct, frozen=True):
    """All that is known when a resolver has given up."""

    base: Base
    held: Mapping[str, Distribution]  # the base's distributions that stand
    limits: Mapping[str, tuple[str, ...]]  # names that the base's own distributions limit, and who does
    requirements: Sequence[DirectRequirement]
    candidates: KnownCandidates
    constraints: Sequence[DirectRequirement] = ()  # lines of -c files
    protect: Sequence[str] = PROTECTED
    blocks: Sequence[Block] = ()  # what of the base stands in the way of the newest versions


def explain_unresolved(outcome: Outcome, known: ResolutionFacts) -> ImagebuildError:
    """One sentence and a hint out of pip's (or uv's) report and of what the routed index left out."""
    causes = find_causes(outcome.log)
    needs = tuple(dict.fromkeys(_describe_cause(cause, known) for cause in causes))
    details = needs[:_SHOWN] if len(needs) > 1 else ()  # a single one is in the message already
    blocking = {canonicalize_name(block.held) for block in known.blocks if block.held}
    for cause in causes:
        error = _explain_base(cause, known, details)
        if error is not None and known.blocks and cause.name not in blocking:
            # A report names what was looked at last, often a need of an old version; what blocks the newest ones is known better.
            return explain_blocks(known)
        error = (
            error
            or _explain_held_limit(cause, known, details)
            or _explain_limit(cause, known, details)
            or _explain_missing(cause, known, details)
        )
        if error is not None:
            return error
    if known.blocks:
        return explain_blocks(known)
    for cause in causes:
        if cause.name in known.limits:
            return LockError(
                f"{_describe_cause(cause, known)}; the base {known.base.name} has {' and '.join(known.limits[cause.name][:3])}",
                f"ask for another version in {REQUIREMENTS}, or choose another base",
                details,
            )
    if details:
        return LockError(
            f"the requirements contradict each other: {' and '.join(details[:3])}", f"loosen one line of {REQUIREMENTS}", details
        )
    tail = tuple(line[:_LONGEST] for line in (_clean(raw) for raw in outcome.log.splitlines()) if line)[-12:]
    last = next(
        (line for line in reversed(tail) if re.match(r"(imagebuild-)?error|ERROR|\S*cause:", line)), tail[-1] if tail else "no word"
    )
    return LockError(f"the resolver gave up: {last[:400]}", f"look at {REQUIREMENTS} and at the resolver's last lines", tail)


def explain_blocks(known: ResolutionFacts, seconds: float = 0) -> LockError:
    """The first of what of the base stands in the way, and the others as details. ``seconds``: after that long no way around was found."""
    first, *others = known.blocks
    waited = f"; no way around it was found within {seconds:g} s (--timeout)" if seconds else ""
    lines = tuple(block.describe(known.base.name) for block in others[:_SHOWN])
    return LockError(
        f"{first.where} asks for {first.name}: {first.describe(known.base.name)}{waited}", first.advise(known.base, known.protect), lines
    )


class Cause(msgspec.Struct, frozen=True):
    """One need that a resolver could not meet: ``parent`` is "" for a line of requirements.in or a constraint."""

    parent: str  # "pandas 2.2.3", or a name alone
    name: str  # what is needed, normalised
    specifier: SpecifierSet


def find_causes(log: str) -> tuple[Cause, ...]:
    """Needs out of what our pip-compile driver prints, pip's own complaints, or uv's sentences; in that order of trust."""
    found: list[Cause] = []

    def add(parent: str, text: str) -> None:
        try:
            requirement = Requirement(text.strip().rstrip(".,"))
        except InvalidRequirement:
            return
        found.append(Cause(parent.strip(), canonicalize_name(requirement.name), requirement.specifier))

    for match in re.finditer(r"^imagebuild-cause: (\[.*\])$", log, re.MULTILINE):
        with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
            parent, version, text = _CAUSE.decode(match[1])
            add(f"{parent} {version}", text)
    if not found:
        for match in re.finditer(
            r"Could not find a version that satisfies the requirement (\S+)(?: \(from ([A-Za-z0-9._-]+)[^)]*\))?", log
        ):
            add("" if (match[2] or "").startswith(("-", "versions")) else match[2] or "", match[1])
        for match in re.finditer(r"No matching distribution found for (\S+)", log):
            add("", match[1])
    if not found:
        text = " ".join(log.split())
        for match in re.finditer(
            r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:[=<>!~]=?\S+)? depends? on "
            r"([A-Za-z0-9][A-Za-z0-9._-]*(?:\[[^\]]*\])?(?:[=<>!~]=?[^\s,]+(?:,[=<>!~]=?[^\s,]+)*)?)",
            text,
        ):
            add(match[1], match[2])
        for match in re.finditer(r"you require ([A-Za-z0-9][^\s]*)(?: and ([A-Za-z0-9][^\s]*))?", text):
            add("", match[1])
            add("", match[2] or "")
        for match in re.finditer(r"Because ([A-Za-z0-9._-]+) was not found in the package registry", text):
            add("", match[1])
    return tuple(found)


def _describe_cause(cause: Cause, known: ResolutionFacts) -> str:
    wanted = f"{cause.name}{cause.specifier}"
    if cause.parent and canonicalize_name(cause.parent) not in ("your-project", "project"):
        return f"{cause.parent} needs {wanted}"
    lines = [item for item in known.requirements if item.name == cause.name]
    for item in [item for item in lines if item.requirement.specifier == cause.specifier] or lines:
        return f"{item.where} asks for {_show(item.requirement)}"
    return f"{wanted} is needed"


def _show(requirement: Requirement) -> str:
    return str(requirement).partition(";")[0].strip()


def _explain_base(cause: Cause, known: ResolutionFacts, details: tuple[str, ...]) -> ImagebuildError | None:
    held = known.held.get(cause.name)
    version = parse_version(held.version) if held is not None else None
    if held is None or version is None or cause.specifier.contains(version, prereleases=True):
        return None
    who = cause.parent.partition(" ")[0]
    lines = [item.where for item in known.requirements if item.name == (canonicalize_name(who) if who else cause.name)]
    where = lines[0] if lines else REQUIREMENTS
    return LockError(
        f"{_describe_cause(cause, known)}; the base {known.base.name} has {held.name} {held.version}",
        join_ways(
            f"ask for another version of {who} ({where})" if who else f"change {where}",
            suggest_replacement(known.base, held.name, known.protect),
            "choose another base",
        ),
        details,
    )


def _explain_held_limit(cause: Cause, known: ResolutionFacts, details: tuple[str, ...]) -> ImagebuildError | None:
    """A line of a constraints file that does not allow what the base has; None when there is none."""
    held = known.held.get(cause.name)
    version = parse_version(held.version) if held is not None else None
    if held is None or version is None:
        return None
    for item in known.constraints:
        if item.name != cause.name or not applies(item.requirement, known.base.interpreter.markers):
            continue
        if not item.requirement.specifier.contains(version, prereleases=True):
            need = Cause(cause.parent, cause.name, SpecifierSet())  # uv tells a need and its limits as one
            return LockError(
                f"{_describe_cause(need, known)}; {item.where} allows {_show(item.requirement)} only, and the base {known.base.name} has "
                f"{held.name} {held.version}",
                join_ways(f"loosen {item.where}", suggest_replacement(known.base, held.name, known.protect), "choose another base"),
                details,
            )
    return None


def _explain_limit(cause: Cause, known: ResolutionFacts, details: tuple[str, ...]) -> ImagebuildError | None:
    """A line of a constraints file that leaves nothing of what is needed; None when there is none."""
    candidates = known.candidates.find_candidates(cause.name)
    for item in known.constraints:
        limit = item.requirement.specifier
        if candidates is None or item.name != cause.name or not applies(item.requirement, known.base.interpreter.markers):
            continue
        merged = limit == cause.specifier  # uv tells a need and its limit as one
        fitting = [text for text in candidates.wheels if merged or cause.specifier.contains(text, prereleases=True)]
        if fitting and not any(limit.contains(text, prereleases=True) for text in fitting):
            need = Cause(cause.parent, cause.name, SpecifierSet()) if merged else cause
            return LockError(
                f"{_describe_cause(need, known)}; {item.where} allows {_show(item.requirement)} only",
                f"loosen that line, or ask for another version in {REQUIREMENTS}",
                details,
            )
    return None


def _explain_missing(cause: Cause, known: ResolutionFacts, details: tuple[str, ...]) -> ImagebuildError | None:
    """Why an index has nothing for one requirement; None when it has something."""
    candidates = known.candidates.find_candidates(cause.name)
    if candidates is None or cause.name in known.held:
        return None
    name, index = cause.name, f"package index {candidates.index!r}"
    asker = _describe_cause(cause, known)
    base, interpreter = known.base.name, known.base.interpreter
    if candidates.elsewhere:
        return LockError(
            f"{asker}; {index} redirects {name} to {candidates.elsewhere}: the redirect is not followed, and "
            f"{name} counts as missing there",
            f"publish {name} there, narrow the names of that [[index]], or, if that host belongs to the index, list it in the "
            "index's redirects",
            details,
        )
    if candidates.absent:
        hint = "check the spelling, or which index serves that name (names in team.toml)"
        return LockError(f"{asker}; there is no project {name} on {index}", hint, details)

    def fitting(versions: Iterable[str]) -> list[str]:
        return [text for text in versions if cause.specifier.contains(text, prereleases=True)]

    if fitting(candidates.wheels):
        return None
    another = "ask for another version"
    if python := fitting(candidates.other_python):
        needed = candidates.other_python[python[-1]]
        text, hint = (
            f"{name} {python[-1]} needs Python {needed}; the base {base} has {interpreter.version}",
            f"{another}, or choose another base",
        )
    elif others := fitting(candidates.other_hashes):
        lines = [item.where for item in (*known.requirements, *known.constraints) if item.name == name and item.hashes]
        text = f"no wheel of {name} {others[-1]} for this base on {index} has a hash that {' and '.join(lines)} allows"
        hint = "add the hash of the intended wheel, or ask for another version"
    elif tags := fitting(candidates.other_tags):
        fits = describe_tags(candidates.other_tags[tags[-1]])
        built = f'have it built inside the base: [source] packages = ["{name}"] in team.toml, or '
        another = (built if tags[-1] in candidates.archives else "") + another
        own = f"{interpreter.tags[0]} ({interpreter.libc})" if interpreter.tags else interpreter.version
        text, hint = f"the wheels of {name} {tags[-1]} are for {fits}; the base {base} is {own}", f"{another}, or choose another base"
    elif sdists := fitting(candidates.sdist_only):
        text = f"{name} {sdists[-1]} on {index} is source only: there is no wheel"
        hint = f'publish a wheel of it on an index, or have one built inside the base: [source] packages = ["{name}"] in team.toml'
    elif late := fitting(candidates.too_new):
        text, hint = f"{name} {late[-1]} is newer than the lock's cutoff", "ask for an older version, or move the cutoff with --as-of"
    elif yanked := fitting(candidates.yanked):
        text, hint = f"{name} {yanked[-1]} was yanked by its authors", f"{another}, or pin it on purpose: {name}=={yanked[-1]}"
    elif local := next((item.version for item in cause.specifier if item.operator == "==" and "+" in item.version), ""):
        text = f"{index} has no {name} {local}: a version with + is a local version (PEP 440), which only the index of its builder has"
        hint = f'name that index: [[index]] with its url and names = ["{name}"], or ask for {name}=={local.partition("+")[0]}'
    elif candidates.wheels:
        text, hint = f"the newest {name} for this base on {index} is {list(candidates.wheels)[-1]}", "change the line"
    else:
        text, hint = f"{index} has no usable file of {name}", "publish a wheel of it"
    return LockError(f"{asker}; {text}", hint, details)


def _clean(line: str) -> str:
    """A line without colours and without the routed index's URL."""
    return re.sub(r"\x1b\[[0-9;]*m|https?://127\.0\.0\.1:\d+/\S*", "", line).strip()
