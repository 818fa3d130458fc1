"""A CRAN-like repository: ``src/contrib/PACKAGES.gz``, archives beside it, and older ones below ``Archive/``.

R's own User-Agent is sent: Posit Package Manager answers it with binaries for the R and the distribution that the URL names. An archive has
no SHA-256 in PACKAGES; one that is fetched for the first time comes from the repository's own host (or one named in ``redirects``), and
has the MD5 that PACKAGES gives, where it does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebuild.addons.archives import KeptArchive, download_unhashed
from imagebuild.addons.rlang.archive import hash_md5, read_archive_description
from imagebuild.addons.rlang.control import Description, read_description, read_stanzas, unpack_text
from imagebuild.addons.rlang.versions import parse_version
from imagebuild.addons.routing import route_addon
from imagebuild.base.model import RFacts
from imagebuild.errors import IntegrityError, LockError, RemoteError
from imagebuild.files import read_regular
from imagebuild.lock.index.bodies import path_of
from imagebuild.lock.index.client import PAGE_LIMIT, Elsewhere, IndexClient
from imagebuild.lock.index.routing import PackageIndex

INDEX_KIND = "cran"
_FOLDER = "src/contrib"
_SNAPSHOT = re.compile(r"(.*/)(latest|[0-9]{4}-[0-9]{2}-[0-9]{2})/")
_OPERATORS = "report it to the repository's operators"


def choose_snapshot(index: PackageIndex, cutoff: str) -> str:
    """The repository's URL as of ``cutoff`` (RFC 3339), its last part being ``latest`` or a date; LockError where it has no dates."""
    match = _SNAPSHOT.fullmatch(index.address)
    if match is None:
        raise LockError(
            f"package index {index.name!r} has no snapshots by date: its url ends neither in /latest nor in a date",
            "lock without --as-of and [lock] cooldown, or use a repository that has them, such as Posit Package Manager",
        )
    return f"{match[1]}{cutoff[:10]}/"


def find_snapshot(index: PackageIndex, cutoff: str) -> str:
    """The same, or the repository's URL as it is where it has no dates."""
    return choose_snapshot(index, cutoff) if _SNAPSHOT.fullmatch(index.address) else index.address


def name_file(name: str, version: str) -> str:
    """What a repository calls an archive, of source as of a binary."""
    return f"{name}_{version}.tar.gz"


def locate_file(name: str, version: str) -> str:
    """Where the archive of a current version is, below a repository's URL, unless PACKAGES has another folder for it."""
    return f"{_FOLDER}/{name_file(name, version)}"


def locate_archived(name: str, version: str) -> str:
    """Where the archive of an older version is, below a repository's URL."""
    return f"{_FOLDER}/Archive/{name}/{name_file(name, version)}"


def _is_newer(one: dict[str, str], other: dict[str, str]) -> bool:
    with contextlib.suppress(ValueError):
        return parse_version(one.get("Version", "")) > parse_version(other.get("Version", ""))
    return False


def make_agent(facts: RFacts) -> str:
    """R's own User-Agent."""
    architecture, _, system = facts.platform.partition("-pc-")
    return f"R/{facts.version} R ({facts.version} {facts.platform} {architecture} {system or 'linux-gnu'})"


class Repository:
    """One repository. ``address`` ends in a slash."""

    def __init__(self, index: PackageIndex, address: str, facts: RFacts, cache: Path) -> None:
        self.index, self.address, self._cache = index, address, cache
        self.client = IndexClient(index, agent=make_agent(facts))
        self._stanzas: dict[str, dict[str, str]] | None = None
        self._archived: dict[tuple[str, str], Description | None] = {}

    def close(self) -> None:
        """Let go of connections."""
        self.client.close()

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"package index {self.index.name!r}"

    def find_current(self, name: str) -> Description | None:
        """The version that the repository offers."""
        fields = self._read_packages().get(name)
        return self._describe(fields, f"the entry of {name} in PACKAGES") if fields is not None else None

    def find_version(self, name: str, version: str) -> Description | None:
        """That version: the current one, or an older one, whose archive is fetched to read what it needs."""
        current = self.find_current(name)
        if current is not None and current.version == version:
            return current
        if (name, version) not in self._archived:
            fetched = self.fetch(locate_archived(name, version), name_file(name, version))
            self._archived[name, version] = read_archive_description(fetched.path, name) if fetched is not None else None
        return self._archived[name, version]

    def fetch_archive(self, description: Description) -> KeptArchive:
        """The archive of a version that was found here, in the cache."""
        file = name_file(description.name, description.version)
        name, version = description.name, description.version
        fields = self._read_packages().get(name, {})
        if fields.get("Version") == version:
            fetched = self.fetch(self.locate_current(name), file, fields.get("MD5sum", ""))
        else:
            fetched = self.fetch(locate_archived(name, version), file)
        if fetched is None:
            raise LockError(f"{self.label} lists {file} and does not have it", _OPERATORS)
        return fetched

    def locate_current(self, name: str) -> str:
        """Where the archive of the current version is, below the repository's URL; "" where there is none of that name."""
        fields = self._read_packages().get(name)
        if fields is None:
            return ""
        path = fields.get("Path", "").strip("/")
        folder = f"{_FOLDER}/{path}" if path and ".." not in path else _FOLDER
        return f"{folder}/{name_file(name, fields.get('Version', ''))}"

    def fetch(self, place: str, filename: str, md5: str = "") -> KeptArchive | None:
        """The file at ``place`` below the repository's URL, in the cache by its SHA-256; None where there is none."""
        try:
            kept = download_unhashed(self.client, self.address + place, filename, self._cache)
        except LockError:
            return None
        if md5 and hash_md5(kept.path) != md5.lower():
            raise IntegrityError(f"{filename} from {self.label} does not have the MD5 that its PACKAGES gives", _OPERATORS)
        return kept

    def _describe(self, fields: dict[str, str], what: str) -> Description:
        try:
            return read_description(fields)
        except ValueError as error:
            raise RemoteError(f"{self.label}: {what} cannot be read: {error}", _OPERATORS) from None

    def _read_packages(self) -> dict[str, dict[str, str]]:
        """The stanzas of PACKAGES by name, read once; of a name that is there twice the higher version."""
        if self._stanzas is None:
            try:
                text = unpack_text(self._read_text())
                found: dict[str, dict[str, str]] = {}
                for fields in read_stanzas(text):
                    name = fields.get("Package", "")
                    if name not in found or _is_newer(fields, found[name]):
                        found[name] = fields
            except ValueError as error:
                raise RemoteError(f"PACKAGES of {self.label} cannot be read: {error}", _OPERATORS) from None
            self._stanzas = found
        return self._stanzas

    def _read_text(self) -> bytes:
        for name in ("PACKAGES.gz", "PACKAGES"):
            url = f"{self.address}{_FOLDER}/{name}"
            if url.startswith("file:"):
                if path_of(url).is_file():
                    return read_regular(path_of(url), PAGE_LIMIT, f"{name} of {self.label}")
                continue
            answer = self.client.read_page(url, {}, name)
            if isinstance(answer, Elsewhere):
                raise self.client.explain_redirect(answer, name)
            if answer is not None:
                return answer.data
        raise RemoteError(
            f"{self.label} has no src/contrib/PACKAGES",
            "its url must be that of a CRAN-like repository, without src/contrib; or of a date it has",
        )


class RoutedRepositories:
    """The repositories of a team, each name from the one that may serve it; :class:`imagebuild.addons.rlang.closure.Repositories`."""

    def __init__(self, indexes: Sequence[PackageIndex], facts: RFacts, cache: Path, snapshot: Callable[[PackageIndex], str]) -> None:
        """``snapshot`` gives the URL of an index."""
        self._indexes, self._facts, self._cache, self._snapshot = indexes, facts, cache, snapshot
        self._open: dict[str, Repository] = {}

    def close(self) -> None:
        """Let go of connections."""
        for repository in self._open.values():
            repository.close()

    def get(self, name: str) -> Repository:
        """The repository of a package."""
        index = route_addon(name, self._indexes, INDEX_KIND)
        if index.name not in self._open:
            self._open[index.name] = Repository(index, self._snapshot(index), self._facts, self._cache)
        return self._open[index.name]

    def find_current(self, name: str) -> Description | None:
        """:meth:`Repository.find_current`."""
        return self.get(name).find_current(name)

    def find_version(self, name: str, version: str) -> Description | None:
        """:meth:`Repository.find_version`."""
        return self.get(name).find_version(name, version)

    def name_source(self, name: str) -> str:
        """For messages."""
        return self.get(name).label
