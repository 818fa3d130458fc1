"""What a resolver may be shown of a project: for each version at most one wheel, the best by the base's own tags.

What is left out, and why, is kept for the message when a resolver gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import parse_tag
from packaging.utils import BuildTag, InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from imagebuild.errors import LockError
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.routing import LOCAL_NAME, URL_NAME
from imagebuild.lock.inputs.hashes import AllowedHashes
from imagebuild.lock.inputs.localpackage import LocalWheel


class Candidates(msgspec.Struct, frozen=True):
    """What the resolver is shown of one project, and what was left out (versions, or tags by version)."""

    name: str
    index: str
    wheels: dict[str, ProjectFile] = {}  # version -> the best wheel
    absent: bool = False  # 404, or a page that redirects to another host
    elsewhere: str = ""  # that host
    sdist_only: tuple[str, ...] = ()
    other_tags: dict[str, tuple[str, ...]] = {}  # versions with wheels, none of which fits the base: their tags
    other_python: dict[str, str] = {}  # version -> its Requires-Python
    other_hashes: tuple[str, ...] = ()  # versions with wheels for the base, none of which has a hash that requirements.in allows
    too_new: tuple[str, ...] = ()
    yanked: tuple[str, ...] = ()
    undated: int = 0  # wheels without an upload time that a cutoff could not judge
    sources: dict[str, ProjectFile] = {}  # version -> the archive, where there is no wheel and one may be built
    archives: tuple[str, ...] = ()  # versions that have a source archive, wheels or not
    times: dict[str, str] = {}  # version -> when its first file was uploaded, of those that are neither yanked nor after the cutoff
    status: str = ""  # PEP 792: archived, quarantined, deprecated; "" for active, or where the index does not tell
    status_reason: str = ""


class Choice(msgspec.Struct, frozen=True):
    """Limits on what may be offered."""

    tags: tuple[str, ...]  # best first
    python: str  # full version
    cutoff: str = ""  # RFC 3339 UTC; "" for none
    explicit_cutoff: bool = False
    pins: Mapping[str, frozenset[str]] = {}  # name -> versions asked for with ==: yanked ones are allowed
    hashes: Mapping[str, AllowedHashes] = {}  # by --hash in requirements.in
    markers: Mapping[str, str] = {}  # of the base; with them, what a served package needs is read before it is asked for

    def allows_hash(self, name: str, file: ProjectFile) -> bool:
        """Whether a file may be taken by its hash; where the index tells none, that is known when it has been fetched."""
        allowed = self.hashes.get(name)
        return allowed is None or not file.sha256 or file.sha256 in allowed.digests


def select_wheels(page: ProjectPage, index: str, choice: Choice) -> Candidates:
    """Judge every file of a project page. An explicit cutoff on an index without upload times raises LockError."""
    ranks = {tag: rank for rank, tag in enumerate(choice.tags)}
    best: dict[Version, tuple[int, BuildTag, ProjectFile]] = {}
    sdists: set[Version] = set()
    other_tags: dict[Version, set[str]] = {}
    other_python: dict[Version, str] = {}
    other_hashes: set[Version] = set()
    too_new: set[Version] = set()
    yanked: set[Version] = set()
    undated: list[ProjectFile] = []
    times: dict[Version, str] = {}
    dated = any(file.upload_time for file in page.files)
    pins = choice.pins.get(page.name, frozenset())
    for file in page.files:
        sdist = _parse_sdist(file.filename)
        if sdist is not None and sdist[0] == page.name and not file.yanked and not _is_late(file, choice.cutoff, dated):
            sdists.add(sdist[1])
            _note_time(times, sdist[1], file)
        try:
            name, version, build, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            continue
        if name != page.name:
            continue
        rank = min((ranks[str(tag)] for tag in tags if str(tag) in ranks), default=-1)
        if choice.cutoff:
            if not file.upload_time:
                undated.append(file)
                if dated:
                    continue  # this index tells times, and not this one: it can't be shown to be old enough
            elif file.upload_time > choice.cutoff:
                too_new.add(version)
                continue
        if not file.yanked:
            _note_time(times, version, file)
        if file.yanked and str(version) not in pins:
            yanked.add(version)
        elif rank < 0:
            other_tags.setdefault(version, set()).update(str(tag) for tag in tags)
        elif not allows_python(file.requires_python, choice.python):
            other_python[version] = file.requires_python
        elif not choice.allows_hash(name, file):
            other_hashes.add(version)
        elif version not in best or (-rank, build) > (-best[version][0], best[version][1]):
            best[version] = (rank, build, file)
    if undated and not dated and choice.explicit_cutoff:
        raise LockError(
            f"package index {index!r} tells no upload times, so the cutoff {choice.cutoff} cannot be applied to {page.name}",
            "lock without --as-of, or use an index that serves upload times (PEP 700)",
        )
    judged = set(best) | set(other_tags) | set(other_python) | other_hashes | too_new | yanked
    return Candidates(
        page.name,
        index,
        wheels={str(version): best[version][2] for version in sorted(best)},
        sdist_only=_write(sdists - judged - {_parse_version(file) for file in undated}),
        other_tags={str(v): tuple(sorted(other_tags[v])) for v in sorted(other_tags) if v not in best},
        other_python={str(v): other_python[v] for v in sorted(other_python) if v not in best},
        other_hashes=_write(other_hashes - set(best)),
        too_new=_write(too_new - set(best)),
        yanked=_write(yanked - set(best)),
        undated=len(undated),
        archives=_write(sdists),
        times={str(version): times[version] for version in sorted(times)},
        status=page.status,
        status_reason=page.status_reason,
    )


def _is_late(file: ProjectFile, cutoff: str, dated: bool) -> bool:
    """Whether a cutoff leaves a file out: it is newer, or has no time where its index tells times."""
    return bool(cutoff) and (file.upload_time > cutoff if file.upload_time else dated)


def _note_time(times: dict[Version, str], version: Version, file: ProjectFile) -> None:
    if file.upload_time:
        times[version] = min(times.get(version, file.upload_time), file.upload_time)


def _write(versions: set[Version]) -> tuple[str, ...]:
    return tuple(str(version) for version in sorted(versions))


def _parse_version(file: ProjectFile) -> Version:
    return parse_wheel_filename(file.filename)[1]


def _parse_sdist(filename: str) -> tuple[str, Version] | None:
    try:
        return parse_sdist_filename(filename)
    except InvalidSdistFilename:
        return None


def allows_python(requires_python: str, python: str) -> bool:
    """Whether a Requires-Python admits a full Python version; one that cannot be parsed admits all, as pip has it."""
    try:
        return SpecifierSet(requires_python).contains(python, prereleases=True)
    except InvalidSpecifier:
        return True


def describe_tags(tags: Sequence[str]) -> str:
    """The Pythons and platforms of some wheel tags, for people: ``cp312, cp313 on macosx_11_0_arm64``."""
    parsed = [tag for text in tags for tag in parse_tag(text)]
    pythons = sorted({tag.interpreter for tag in parsed}, key=lambda text: (len(text), text))
    platforms = sorted({tag.platform for tag in parsed})
    shown = ", ".join(platforms[:4]) + (f" and {len(platforms) - 4} more" if len(platforms) > 4 else "")
    return f"{', '.join(pythons)} on {shown}"


def stand_in_name(name: str, version: str) -> str:
    """The file name a resolver is shown for a wheel that is yet to be built."""
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def candidates_of_local(wheel: LocalWheel) -> Candidates:
    """A wheel that no index offers, as an candidates, for code that treats both alike."""
    return Candidates(
        wheel.name,
        URL_NAME if wheel.url else LOCAL_NAME,
        wheels={wheel.version: ProjectFile(wheel.filename, wheel.url or wheel.path.as_uri(), sha256=wheel.sha256, size=wheel.size)},
    )
