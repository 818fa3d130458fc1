"""The archives of locked R packages: from the cache, from their repository by hash, or built again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imagebuild.addons.archives import KeptArchive, download_archive, recall_archive, refuse_offline, require_locked
from imagebuild.addons.model import Addon, AddonLock, AddonRules, FetchRequest
from imagebuild.addons.rlang.archive import read_archive_description
from imagebuild.addons.rlang.compiling import compile_r_lock
from imagebuild.addons.rlang.facts import describe_r, require_r
from imagebuild.addons.rlang.repository import INDEX_KIND, Repository, find_snapshot, locate_archived, locate_file
from imagebuild.addons.rlang.sourcepackage import RSourceBuilds
from imagebuild.addons.routing import find_index
from imagebuild.errors import IntegrityError, LockError
from imagebuild.lock.index.routing import PackageIndex


def fetch_r(request: FetchRequest) -> dict[str, Path]:
    """The binary archive of each package of the lock, by name, its hash compared with the lock's."""
    with contextlib.ExitStack() as stack:
        fetching = _Fetching(request, stack)
        return {item.name: fetching.get(item).path for item in request.lock.addons}


class _Fetching:
    """The archives of one lock, each fetched or built once, however many packages are built with it."""

    def __init__(self, request: FetchRequest, stack: contextlib.ExitStack) -> None:
        """The repositories are closed with ``stack``."""
        self._request, self._stack = request, stack
        self._builds = RSourceBuilds(request.cache, str(request.base.inventory.digest), request.build, request.report)
        self._found: dict[str, KeptArchive] = {}
        self._repositories: dict[tuple[str, str], Repository] = {}

    def get(self, addon: Addon) -> KeptArchive:
        """The binary archive of a package."""
        if addon.name not in self._found:
            kept = recall_archive(addon.sha256, addon.filename, self._request.cache)
            self._found[addon.name] = kept or self._make(addon)
        return self._found[addon.name]

    def _make(self, addon: Addon) -> KeptArchive:
        if self._request.offline:
            raise refuse_offline(addon)
        if addon.source is None:
            return self._fetch(addon, addon.filename, addon.sha256)
        source = self._fetch(addon, addon.source.filename, addon.source.sha256)
        requires = [self.get(item) for item in list_required(addon, self._request.lock)]
        made = self._builds.make(read_archive_description(source.path, addon.name), source, requires)
        return require_locked(
            made,
            addon,
            f"{addon.name}: the package built from {addon.source.filename} is not the locked one",
            "the base or the Debian packages it is built with changed since: lock again",
        )

    def _fetch(self, addon: Addon, filename: str, sha256: str) -> KeptArchive:
        """A file of the add-on's repository with that hash: the current one, an older one, or the one of the lock's date.

        A repository builds binaries of one version anew, and puts older versions elsewhere; other bytes are passed over, and are an
        IntegrityError when no place has the right ones.
        """
        kept = recall_archive(sha256, filename, self._request.cache)
        if kept is not None:
            return kept
        wrong: IntegrityError | None = None
        for repository, place in self._list_places(addon):
            url = repository.address + place
            try:
                return download_archive(repository.client, url, filename, self._request.cache, sha256=sha256, name=addon.name)
            except LockError:
                continue
            except IntegrityError as error:
                wrong = error
        if wrong is not None:
            raise wrong
        raise LockError(f"{filename} is no longer on package index {addon.index!r}", "lock again, or get the file back onto the index")

    def _list_places(self, addon: Addon) -> Iterator[tuple[Repository, str]]:
        """Where the file may be, below a repository's URL."""
        index = find_index(addon.name, addon.index, self._request.indexes, INDEX_KIND)
        addresses = dict.fromkeys((index.address, find_snapshot(index, self._request.lock.cutoff)))
        repositories = [self._open(index, address) for address in addresses]
        for repository in repositories:
            for place in (locate_file(addon.name, addon.version), locate_archived(addon.name, addon.version)):
                yield repository, place
        if place := repositories[0].locate_current(addon.name):
            yield repositories[0], place

    def _open(self, index: PackageIndex, address: str) -> Repository:
        key = index.name, address
        if key not in self._repositories:
            repository = Repository(index, address, require_r(self._request.base), self._request.cache)
            self._repositories[key] = self._stack.enter_context(contextlib.closing(repository))
        return self._repositories[key]


def list_required(addon: Addon, lock: AddonLock) -> list[Addon]:
    """The locked packages that ``addon`` needs, directly or not, sorted by name."""
    by_name = {item.name: item for item in lock.addons}
    found: dict[str, Addon] = {}
    waiting = list(addon.needs)
    while waiting:
        name = waiting.pop()
        if name not in found and name in by_name:
            found[name] = by_name[name]
            waiting.extend(by_name[name].needs)
    return [found[name] for name in sorted(found)]


RULES = AddonRules("R package", INDEX_KIND, describe_r, compile_r_lock, fetch_r)
