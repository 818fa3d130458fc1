"""The archives of locked R packages: from the cache, from their repository by hash, or built again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from imagebuild.addons.archives import archive_path, download_archive, find_archive, refuse_offline
from imagebuild.addons.model import Addon, AddonRules, FetchRequest
from imagebuild.addons.rlang.archive import read_archive_description
from imagebuild.addons.rlang.compiling import compile_r_lock
from imagebuild.addons.rlang.facts import describe_r, require_r
from imagebuild.addons.rlang.repository import INDEX_KIND, Repository, find_snapshot, locate_archived, locate_file
from imagebuild.addons.rlang.sourcepackage import RSourceBuilds
from imagebuild.addons.routing import find_index
from imagebuild.errors import IntegrityError, LockError
from imagebuild.files import hash_file


def fetch_r(addon: Addon, request: FetchRequest) -> Path:
    """The binary archive, its hash compared with the lock's."""
    kept = find_archive(addon, request.cache)
    if kept is not None:
        return kept
    if request.offline:
        raise refuse_offline(addon)
    if addon.source is None:
        return _fetch_file(addon, addon.filename, addon.sha256, request)
    source = _fetch_file(addon, addon.source.filename, addon.source.sha256, request)
    requires = [fetch_r(item, request) for item in list_required(addon, request)]
    builds = RSourceBuilds(request.cache, str(request.base.inventory.digest), request.build, request.report)
    made = builds.make(read_archive_description(source, addon.name), source, requires)
    if (found := hash_file(made)) != addon.sha256:
        raise IntegrityError(
            f"{addon.name}: the package built from {source.name} is not the locked one",
            "the base or the Debian packages it is built with changed since: lock again",
            (f"expected sha256 {addon.sha256}", f"got      sha256 {found}"),
        )
    return made


def list_required(addon: Addon, request: FetchRequest) -> list[Addon]:
    """The locked packages that ``addon`` needs, directly or not, sorted by name."""
    by_name = {item.name: item for item in request.lock.addons}
    found: dict[str, Addon] = {}
    waiting = list(addon.needs)
    while waiting:
        name = waiting.pop()
        if name not in found and name in by_name:
            found[name] = by_name[name]
            waiting.extend(by_name[name].needs)
    return [found[name] for name in sorted(found)]


def _fetch_file(addon: Addon, filename: str, sha256: str, request: FetchRequest) -> Path:
    """A file of the add-on's repository with that hash: the current one, an older one, or the one of the lock's date.

    A repository builds binaries of one version anew, and puts older versions elsewhere; other bytes are passed over, and are an
    IntegrityError when no place has the right ones.
    """
    target = archive_path(request.cache, sha256, filename)
    if target.is_file() and hash_file(target) == sha256:
        return target
    with contextlib.ExitStack() as stack:
        return _fetch_from(_list_urls(addon, request, stack), addon, filename, sha256, request.cache)


def _fetch_from(urls: Iterable[tuple[Repository, str]], addon: Addon, filename: str, sha256: str, cache: Path) -> Path:
    wrong: IntegrityError | None = None
    for repository, url in urls:
        try:
            return download_archive(repository.client, url, filename, cache, sha256=sha256, name=addon.name)
        except LockError:
            continue
        except IntegrityError as error:
            wrong = error
    if wrong is not None:
        raise wrong
    raise LockError(f"{filename} is no longer on package index {addon.index!r}", "lock again, or get the file back onto the index")


def _list_urls(addon: Addon, request: FetchRequest, stack: contextlib.ExitStack) -> Iterator[tuple[Repository, str]]:
    """Where the file may be; the repositories are closed with ``stack``."""
    index = find_index(addon.name, addon.index, request.indexes, INDEX_KIND)
    facts = require_r(request.base)
    addresses = dict.fromkeys((index.address, find_snapshot(index, request.lock.cutoff)))
    repositories = [stack.enter_context(contextlib.closing(Repository(index, address, facts, request.cache))) for address in addresses]
    for repository in repositories:
        for place in (locate_file(addon.name, addon.version), locate_archived(addon.name, addon.version)):
            yield repository, repository.address + place
    if place := repositories[0].locate_current(addon.name):
        yield repositories[0], repositories[0].address + place


RULES = AddonRules("R package", INDEX_KIND, describe_r, compile_r_lock, fetch_r)
