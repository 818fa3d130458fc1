"""A team's lock of R packages: closure, archives fetched or built, each checked against the base."""

from __future__ import annotations

import contextlib
import re

from imagebuild.addons.archives import KeptArchive, recall_archive
from imagebuild.addons.model import Addon, AddonLock, AddonRequest, SourceOf
from imagebuild.addons.rlang.archive import Contents, check_built, check_libraries, list_loader_folders, read_contents
from imagebuild.addons.rlang.closure import Chosen, Closure, compute_closure
from imagebuild.addons.rlang.facts import LIBRARIES, PLATFORM, VERSION, describe_r, name_fact, require_r
from imagebuild.addons.rlang.licence import read_r_licence
from imagebuild.addons.rlang.repository import Repository, RoutedRepositories, choose_snapshot
from imagebuild.addons.rlang.sourcepackage import RSourceBuilds
from imagebuild.addons.rlang.wishes import join_wishes, parse_wish
from imagebuild.base.model import Base, RFacts
from imagebuild.errors import LockError
from imagebuild.lock.index.routing import PackageIndex

_DISTRIBUTION = re.compile(r".*/__linux__/([a-z0-9.-]+)/.*")
# What Posit Package Manager calls the distributions that it has binaries for, by ID and VERSION_ID of os-release(5).
_CODENAMES = {
    ("debian", "11"): "bullseye",
    ("debian", "12"): "bookworm",
    ("debian", "13"): "trixie",
    ("ubuntu", "20.04"): "focal",
    ("ubuntu", "22.04"): "jammy",
    ("ubuntu", "24.04"): "noble",
    ("ubuntu", "26.04"): "resolute",
}


def compile_r_lock(request: AddonRequest) -> AddonLock:
    """Resolve, fetch, build and check; LockError, as one sentence, for what does not fit."""
    facts = require_r(request.base)
    with contextlib.closing(
        RoutedRepositories(request.indexes, facts, request.cache, lambda index: _open_snapshot(index, request))
    ) as repositories:
        return _compile(request, facts, repositories)


def _compile(request: AddonRequest, facts: RFacts, repositories: RoutedRepositories) -> AddonLock:
    existing = {item.name: item.version for item in request.existing.addons} if request.existing is not None else {}
    closure = compute_closure(
        join_wishes(parse_wish(wish.text, wish.where) for wish in request.wishes),
        repositories,
        facts,
        request.base.name,
        kept=existing,
        replace=request.replace,
    )
    for name in sorted(request.replace):
        _check_replaced(name, closure, facts, request.base)
    compilation = _Compilation(request, facts, repositories)
    addons = [compilation.make_addon(item) for item in closure.chosen]
    relied = [VERSION, PLATFORM, LIBRARIES, *(name_fact(item.name) for item in closure.satisfied if item.priority != "base")]
    described = describe_r(request.base)
    return AddonLock(
        kind="r",
        team=request.team,
        base=request.base.name,
        cutoff=request.cutoff,
        against={name: described[name] for name in relied},
        inputs=request.inputs,
        addons=tuple(sorted(addons, key=lambda item: item.name)),
        satisfied=tuple(f"{item.name}=={item.version}" for item in closure.satisfied if item.priority != "base"),
    )


def _open_snapshot(index: PackageIndex, request: AddonRequest) -> str:
    """The URL of a repository; LockError where it has binaries of another distribution than the base is."""
    address = choose_snapshot(index, request.cutoff) if request.explicit_cutoff else index.address
    base, system = request.base.name, request.base.inventory.system.os
    match, own = _DISTRIBUTION.fullmatch(address), _CODENAMES.get((system.id, system.version))
    if match is not None and own is not None and match[1] not in (own, "manylinux_2_28"):
        raise LockError(
            f"package index {index.name!r} has binaries for {match[1]}, and base {base} is {own} ({system.id} {system.version})",
            f"write {own} in its url",
        )
    return address


def _check_replaced(name: str, closure: Closure, facts: RFacts, base: Base) -> None:
    """A package that takes the place of one of the base has to be found before that one, or lie in its folder."""
    held = facts.package(name)
    if held is None:
        raise LockError(f"replace names r:{name}, which base {base.name} does not have", "take it out of replace; it is brought without")
    if held.priority == "base":
        raise LockError(f"replace names r:{name}, which is R itself", "choose a base with another R")
    if name not in {item.description.name for item in closure.chosen}:
        return
    order = facts.libraries
    if order.index(held.library) <= order.index(facts.library):
        raise LockError(
            f"base {base.name} has {name} {held.version} in {held.library}; R looks no earlier into {facts.library}, where a team's go",
            "choose a base that has it in R's own library, or one without it",
        )


class _Compilation:
    """The archives of one lock, made in the closure's order."""

    def __init__(self, request: AddonRequest, facts: RFacts, repositories: RoutedRepositories) -> None:
        self._request, self._facts, self._repositories = request, facts, repositories
        self._builds = RSourceBuilds(request.cache, str(request.base.inventory.digest), request.build, request.report)
        self._made: dict[str, KeptArchive] = {}
        self._needs: dict[str, set[str]] = {}
        self._loaded = list_loader_folders(request.base, facts)
        before = request.existing
        same = before is not None and {before.against.get(VERSION), before.against.get(PLATFORM)} == {facts.version, facts.platform}
        self._before = {item.name: item for item in before.addons} if before is not None and same else {}

    def make_addon(self, item: Chosen) -> Addon:
        """The archive of a package, checked, as an add-on."""
        name, version = item.description.name, item.description.version
        repository = self._repositories.get(name)
        fetched = self._find_kept(item, repository) or repository.fetch_archive(item.description)
        contents = read_contents(fetched.path, name, version)
        self._needs[name] = set(item.needs).union(*(self._needs[need] for need in item.needs))
        archive, source = fetched, None
        if not contents.is_binary:
            source = SourceOf(fetched.path.name, fetched.sha256, fetched.size)
            archive = self._builds.make(contents.description, fetched, [self._made[need] for need in sorted(self._needs[name])])
            contents = read_contents(archive.path, name, version)
        self._made[name] = archive
        self._check(contents, repository)
        return self._describe(item, contents, archive, source, repository)

    def _find_kept(self, item: Chosen, repository: Repository) -> KeptArchive | None:
        """The file that this version is locked with, if it is in the cache: a repository builds binaries anew, and the lock stays."""
        before = self._before.get(item.description.name)
        if before is None or (before.version, before.index) != (item.description.version, repository.index.name):
            return None
        file = before.source or before
        return recall_archive(file.sha256, file.filename, self._request.cache)

    def _check(self, contents: Contents, repository: Repository) -> None:
        base, facts = self._request.base, self._facts
        check_built(contents, facts, base, repository.label)
        folder = f"{facts.library}/{contents.description.name}"
        for line in check_libraries(contents, base, folder, self._loaded, self._request.system):
            self._request.report(f"warning: {line}")

    def _describe(self, item: Chosen, contents: Contents, archive: KeptArchive, source: SourceOf | None, repository: Repository) -> Addon:
        found = contents.description
        return Addon(
            name=found.name,
            version=found.version,
            filename=archive.path.name,
            sha256=archive.sha256,
            size=archive.size,
            installed=contents.installed,
            folder=f"{self._request.base.tree.resolve(self._facts.library)}/{found.name}",
            form="source" if source is not None else "binary",
            index=repository.index.name,
            needs=item.needs,
            via=item.via,
            platform=found.built_platform,
            licence=read_r_licence(found.licence),
            released=found.published_at.strftime("%Y-%m-%dT%H:%M:%SZ") if found.published_at is not None else "",
            tree=contents.tree,
            source=source,
        )
