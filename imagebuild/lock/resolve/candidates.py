"""What a resolver may be shown of a project: for each version at most one wheel, the best by the base's own tags.

What is left out, and why, is kept for the message when a resolver gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, parse_tag
from packaging.utils import BuildTag, InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from imagebuild.errors import LockError
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.routing import LOCAL_NAME, URL_NAME
from imagebuild.lock.inputs.hashes import AllowedHashes
from imagebuild.lock.inputs.localpackage import LocalWheel
from imagebuild.text import name_some


class Candidates(msgspec.Struct, frozen=True):
    """What the resolver is shown of one project, and what was left out (versions, or tags by version)."""

    name: str
    index: str
    wheels: dict[str, ProjectFile] = {}  # version -> the best wheel
    absent: bool = False  # 404, or a page that redirects to where it may not
    elsewhere: str = ""  # that place: scheme, host and port
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
    status: str = ""  # PEP 792: archived, quarantined, deprecated; "" for active, or where the index does not say
    status_reason: str = ""

    @property
    def given(self) -> bool:
        """Whether it is a source tree of the team's or a wheel by URL, which no index offers and of which there is one version."""
        return self.index in (LOCAL_NAME, URL_NAME)


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
        """Whether a file may be taken by its hash; where the index gives none, that is known after the download."""
        allowed = self.hashes.get(name)
        return allowed is None or not file.sha256 or file.sha256 in allowed.digests


def select_wheels(page: ProjectPage, index: str, choice: Choice) -> Candidates:
    """Judge every file of a project page. An explicit cutoff on an index without upload times raises LockError."""
    judgement = _Judgement(page, choice)
    for file in page.files:
        judgement.judge(file)
    if judgement.undated and not judgement.dated and choice.explicit_cutoff:
        raise LockError(
            f"package index {index!r} gives no upload times, so the cutoff {choice.cutoff} cannot be applied to {page.name}",
            "lock without --as-of, or use an index that serves upload times (PEP 700)",
        )
    return judgement.summarise(index)


class _Judgement:
    """What becomes of each file of a page: the best wheel of its version, or the reason why it is not shown."""

    def __init__(self, page: ProjectPage, choice: Choice) -> None:
        self.page, self.choice = page, choice
        self.dated = any(file.upload_time for file in page.files)
        self.undated: list[ProjectFile] = []
        self._ranks = {tag: rank for rank, tag in enumerate(choice.tags)}
        self._pins = choice.pins.get(page.name, frozenset())
        self._best: dict[Version, tuple[int, BuildTag, ProjectFile]] = {}
        self._sdists: set[Version] = set()
        self._other_tags: dict[Version, set[str]] = {}
        self._other_python: dict[Version, str] = {}
        self._other_hashes: set[Version] = set()
        self._too_new: set[Version] = set()
        self._yanked: set[Version] = set()
        self._times: dict[Version, str] = {}

    def judge(self, file: ProjectFile) -> None:
        """Take one file into account; what is neither a wheel nor a source archive of this project is passed over."""
        sdist = _parse_sdist(file.filename)
        if sdist is not None and sdist[0] == self.page.name and not file.yanked and not _is_late(file, self.choice.cutoff, self.dated):
            self._sdists.add(sdist[1])
            _note_time(self._times, sdist[1], file)
        try:
            name, version, build, tags = parse_wheel_filename(file.filename)
        except InvalidWheelFilename:
            return
        if name == self.page.name and self._passes_cutoff(file, version):
            self._judge_wheel(file, version, build, tags)

    def _passes_cutoff(self, file: ProjectFile, version: Version) -> bool:
        if self.choice.cutoff and not file.upload_time:
            self.undated.append(file)
            return not self.dated  # this index gives times, but not for this file: its age is unknown
        if self.choice.cutoff and file.upload_time > self.choice.cutoff:
            self._too_new.add(version)
            return False
        return True

    def _judge_wheel(self, file: ProjectFile, version: Version, build: BuildTag, tags: frozenset[Tag]) -> None:
        rank = min((self._ranks[str(tag)] for tag in tags if str(tag) in self._ranks), default=-1)
        if not file.yanked:
            _note_time(self._times, version, file)
        if file.yanked and str(version) not in self._pins:
            self._yanked.add(version)
        elif rank < 0:
            self._other_tags.setdefault(version, set()).update(str(tag) for tag in tags)
        elif not allows_python(file.requires_python, self.choice.python):
            self._other_python[version] = file.requires_python
        elif not self.choice.allows_hash(self.page.name, file):
            self._other_hashes.add(version)
        elif version not in self._best or (-rank, build) > (-self._best[version][0], self._best[version][1]):
            self._best[version] = (rank, build, file)

    def summarise(self, index: str) -> Candidates:
        """One wheel a version, and the versions that have none, each by its reason."""
        best, tags, pythons = self._best, self._other_tags, self._other_python
        judged = set(best) | set(tags) | set(pythons) | self._other_hashes | self._too_new | self._yanked
        return Candidates(
            self.page.name,
            index,
            wheels={str(version): best[version][2] for version in sorted(best)},
            sdist_only=_write(self._sdists - judged - {_parse_version(file) for file in self.undated}),
            other_tags={str(v): tuple(sorted(tags[v])) for v in sorted(tags) if v not in best},
            other_python={str(v): pythons[v] for v in sorted(pythons) if v not in best},
            other_hashes=_write(self._other_hashes - set(best)),
            too_new=_write(self._too_new - set(best)),
            yanked=_write(self._yanked - set(best)),
            undated=len(self.undated),
            archives=_write(self._sdists),
            times={str(version): self._times[version] for version in sorted(self._times)},
            status=self.page.status,
            status_reason=self.page.status_reason,
        )


def _is_late(file: ProjectFile, cutoff: str, dated: bool) -> bool:
    """Whether a cutoff leaves a file out: it is newer, or has no time on an index that gives times."""
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
    return f"{', '.join(pythons)} on {name_some(platforms)}"


def stand_in_name(name: str, version: str) -> str:
    """The file name a resolver is shown for a wheel that is yet to be built."""
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def candidates_of_local(wheel: LocalWheel) -> Candidates:
    """A wheel that no index offers, as candidates, for code that treats both alike."""
    return Candidates(
        wheel.name,
        URL_NAME if wheel.url else LOCAL_NAME,
        wheels={wheel.version: ProjectFile(wheel.filename, wheel.url or wheel.path.as_uri(), sha256=wheel.sha256, size=wheel.size)},
    )
