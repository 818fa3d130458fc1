"""Whether what a resolver chose is what anybody meant: very old, or a pre-release, because all that is newer is source only; or held
back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from imagebuild.errors import LockError
from imagebuild.lock.inputs.requirements import DirectRequirement
from imagebuild.lock.resolve.blocking import Block
from imagebuild.lock.resolve.candidates import Candidates
from imagebuild.lock.resolve.resolution import Pin, join_ways

_OLD = timedelta(days=365)


class JudgedChoice(msgspec.Struct, frozen=True):
    """A pin with all that is known of why it is this version."""

    pin: Pin
    candidates: Candidates
    asked: tuple[Requirement, ...]  # by the team's lines and by other packages

    @property
    def specifier(self) -> SpecifierSet:
        """What all who ask for it admit together."""
        together = SpecifierSet()
        for item in self.asked:
            together &= item.specifier
        return together


def list_askers(
    pins: Sequence[Pin], direct: Sequence[DirectRequirement], needs: Mapping[str, Sequence[Requirement]]
) -> dict[str, tuple[Requirement, ...]]:
    """Name -> every requirement on it, of the lines and of the locked packages (``needs``: by package)."""
    found: dict[str, list[Requirement]] = {pin.name: [] for pin in pins}
    for item in direct:
        if item.name in found:
            found[item.name].append(item.requirement)
    for requirements in needs.values():
        for requirement in requirements:
            if (name := canonicalize_name(requirement.name)) in found:
                found[name].append(requirement)
    return {name: tuple(items) for name, items in found.items()}


class Holder(msgspec.Struct, frozen=True):
    """What keeps newer wheels out: a sentence, and what to do."""

    why: str
    advice: str


def judge_choice(choice: JudgedChoice, find_holder: Callable[[], Holder | None] = lambda: None) -> str:
    """A warning for people, or ""; LockError for what nobody can have meant.

    ``find_holder`` is asked where newer releases have wheels and were not taken: then wheels are not what is missing.
    """
    version = Version(choice.pin.version)
    newer = _list_newer_sources(choice, version)
    unasked = version.is_prerelease and not _names_prerelease(choice, version)
    pin, times = choice.pin, choice.candidates.times
    when = f"{pin.name} {pin.version}{_show_date(times.get(pin.version, ''))}"
    if not newer:
        return _judge_prerelease(choice, when, find_holder) if unasked else ""
    newest = f"{newer[-1]}{_show_date(times.get(newer[-1], ''))}"
    lag = _measure(times.get(pin.version, ""), times.get(newer[-1], ""))
    wheel = _find_newer_wheel(choice, version)
    if unasked or (lag is not None and lag > _OLD):
        what = f"{when} would be locked, because it is the newest with a wheel for this base; {newest} is source only"
        advice = ""
        if wheel:
            holder = find_holder()
            why = holder.why if holder is not None else f"{wheel} has a wheel, and another requirement does not allow it"
            what = f"{when} would be locked: {why}; of those that may fit, {newest} is source only"
            advice = f"{holder.advice}; or " if holder is not None else ""
        raise LockError(
            what + (", and the older one is a pre-release that nobody asked for" if unasked else ""),
            f'{advice}have {newer[-1]} built inside the base: [source] packages = ["{pin.name}"] in team.toml; or say that you mean the '
            f"old one: {pin.name}=={pin.version} in requirements.in",
        )
    if wheel:
        return ""  # it is held back, and not by what has no wheel: describe_held_back
    return f"{when} is locked, the newest with a wheel for this base; {newest} is source only ([source] packages in team.toml has it built)"


def _judge_prerelease(choice: JudgedChoice, when: str, find_holder: Callable[[], Holder | None]) -> str:
    """A pre-release that is newer than all final releases: an error where one of these would do, but for what it needs in turn."""
    specifier, times, pin = choice.specifier, choice.candidates.times, choice.pin
    finals = [Version(text) for text in (*choice.candidates.wheels, *choice.candidates.sdist_only) if not Version(text).is_prerelease]
    fitting = [version for version in finals if specifier.contains(version)]
    if not fitting:
        final = any(not Version(text).is_prerelease for text in times)
        return f"{when} is a pre-release that nobody asked for{'' if final else ', and there is no final release'}"
    holder = find_holder()
    newest = str(max(fitting))
    source = newest in choice.candidates.sdist_only
    why = holder.why if holder is not None else f"{pin.name} {newest} is source only" if source else ""
    advice = holder.advice if holder is not None else f'[source] packages = ["{pin.name}"] in team.toml' if source else ""
    raise LockError(
        f"{when} would be locked, a pre-release that nobody asked for; the newest final release is {newest}"
        f"{_show_date(times.get(newest, ''))}{': ' if why else ''}{why}",
        join_ways(advice, f"say that you mean the pre-release: {pin.name}=={pin.version} in requirements.in"),
    )


def _list_newer_sources(choice: JudgedChoice, version: Version) -> list[str]:
    """Final releases that all who ask would take, newer than what is locked, without any wheel; oldest first."""
    specifier = choice.specifier
    found = []
    for text in choice.candidates.sdist_only:
        other = Version(text)
        if other > version and not other.is_prerelease and specifier.contains(other):
            found.append((other, text))
    return [text for _, text in sorted(found)]


def _find_newer_wheel(choice: JudgedChoice, version: Version) -> str:
    """The newest final release with a wheel for the base that all who ask would take, if it is newer than what is locked; else ""."""
    specifier = choice.specifier
    found = [(other, text) for text in choice.candidates.wheels if (other := Version(text)) > version and not other.is_prerelease]
    return max(((other, text) for other, text in found if specifier.contains(other)), default=(version, ""))[1]


def _names_prerelease(choice: JudgedChoice, version: Version) -> bool:
    """Whether anybody who asks names a pre-release (PEP 440, Handling of pre-releases)."""
    for item in choice.asked:
        for specifier in item.specifier:
            try:
                if Version(specifier.version.removesuffix(".*")).is_prerelease and specifier.contains(version, prereleases=True):
                    return True
            except InvalidVersion:
                continue
    return False


def describe_held_back(pin: Pin, candidates: Candidates, specifier: SpecifierSet, block: Block | None, base: str) -> str:
    """A warning for a package that the team asks for and gets in a version over a year older than its newest release; "" otherwise."""
    times = candidates.times
    newest = max(
        (item for text in times if not (item := Version(text)).is_prerelease and specifier.contains(item)), default=Version(pin.version)
    )
    lag = _measure(times.get(pin.version, ""), times.get(str(newest), ""))
    if lag is None or lag <= _OLD:
        return ""
    why = f": {block.describe(base)}" if block is not None else "; another requirement allows no newer one"
    return f"{pin.name} {pin.version}{_show_date(times[pin.version])} is locked, and {newest}{_show_date(times[str(newest)])} is out{why}"


def _measure(before: str, after: str) -> timedelta | None:
    return datetime.fromisoformat(after) - datetime.fromisoformat(before) if before and after else None


def _show_date(moment: str) -> str:
    return f" ({moment[:10]})" if moment else ""
