"""The lock of a team's extensions: those it asks for, all that these need, and what they bring along.

A gallery has one newest build of each that fits, so this is a closure, not a search. Facts come from each .vsix itself.
"""

from __future__ import annotations

import contextlib
import re
from collections import deque
from pathlib import Path

import msgspec

from imagebuild.addons.archives import keep_archive
from imagebuild.addons.model import Addon, AddonLock, AddonRequest, name_addon
from imagebuild.addons.routing import route_addon
from imagebuild.addons.vscode.facts import describe_vscode, list_platforms, require_vscode
from imagebuild.addons.vscode.gallery import Gallery, GalleryBuild
from imagebuild.addons.vscode.manifest import UNIVERSAL, Extension, is_extension_name, is_extension_version, read_vsix
from imagebuild.addons.vscode.versions import fits_engine, parse_version
from imagebuild.base.model import VSCodeExtension
from imagebuild.errors import ConfigurationError, IntegrityError, LockError
from imagebuild.lock.index.routing import LOCAL_NAME, normalize_pattern
from imagebuild.text import name_some

INDEX_KIND = "openvsx"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._+-]{0,200}\.vsix")
_MOST = 500  # extensions in one lock: a closure that goes on is a gallery's mischief


class _Wanted(msgspec.Struct, frozen=True):
    """An extension to be found. ``optional``: somebody's pack has it, and it may be missing."""

    asked: str  # as written
    version: str  # empty for the newest that fits
    via: str
    optional: bool = False

    @property
    def name(self) -> str:
        return self.asked.lower()


class _Found(msgspec.Struct, frozen=True):
    """An extension that was found: what its .vsix says, and where the file is from."""

    extension: Extension
    filename: str
    sha256: str
    size: int
    index: str
    released: str = ""


def compile_vscode_lock(request: AddonRequest) -> AddonLock:
    """Make the lock. ConfigurationError (inputs), LockError (unsatisfiable), RemoteError, IntegrityError (a gallery)."""
    with contextlib.ExitStack() as stack:
        return _Compilation(request, stack).run()


class _Compilation:
    def __init__(self, request: AddonRequest, stack: contextlib.ExitStack) -> None:
        self._request = request
        self._stack = stack
        self._galleries: dict[str, Gallery] = {}
        self._vscode = require_vscode(request.base)
        self._held = _list_held(self._vscode.extensions)
        self._kept = {item.name: item.version for item in request.existing.addons if item.index != LOCAL_NAME} if request.existing else {}
        self._found: dict[str, _Found] = {}
        self._via: dict[str, list[str]] = {}
        self._satisfied: dict[str, str] = {}
        self._missing: set[str] = set()

    def run(self) -> AddonLock:
        request = self._request
        local = self._read_local()
        todo = deque(_parse_wish(wish.text, wish.where) for wish in request.wishes)
        todo.extend(_Wanted(name, item.extension.version, item.filename) for name, item in local.items())
        pinned = {item.name: item.version for item in todo if item.version}
        while todo:
            wanted = todo.popleft()
            if self._settle(wanted):
                continue
            found = self._find(msgspec.structs.replace(wanted, version=pinned.get(wanted.name, "")), local)
            if found is None:
                self._missing.add(wanted.name)
                request.report(f"note: {wanted.via} brings {wanted.asked} along, which no index has: it is left out")
                continue
            self._found[wanted.name] = found
            self._via[wanted.name] = [wanted.via]
            if len(self._found) > _MOST:
                raise LockError(f"the extensions need more than {_MOST} others", "look at what they ask for")
            todo.extend(_list_needs(found.extension))
        return self._make_lock()

    def _settle(self, wanted: _Wanted) -> bool:
        """Whether the extension is decided already: by an earlier one who asked, or because the base has it."""
        name = wanted.name
        if name in self._found:
            version = self._found[name].extension.version
            if wanted.version and wanted.version != version:
                raise LockError(
                    f"{wanted.via} asks for {name} {wanted.version}, and {self._via[name][0]} for {version}", "ask for one version"
                )
            if wanted.via not in self._via[name]:
                self._via[name].append(wanted.via)
            return True
        if name in self._missing and wanted.optional:
            return True
        held = self._held.get(name)
        if held is None or name in self._request.replace:
            return False
        if wanted.version and wanted.version != held.version:
            raise LockError(
                f"{wanted.via} asks for {name} {wanted.version}, and the base {self._request.base.name} has {held.version}",
                f'leave the version out, or let it be replaced: replace = ["{name_addon("vscode", name)}"] in team.toml',
            )
        if not held.builtin and name not in self._satisfied:
            self._request.report(f"note: {name} {held.version} is in the base, in {held.folder}, which a volume may hide")
        self._satisfied[name] = held.version
        return True

    # --- finding

    def _read_local(self) -> dict[str, _Found]:
        """The team's own .vsix files by name: of several builds of one extension, that for the base's platform."""
        platforms = list_platforms(self._request.base)
        found: dict[str, _Found] = {}
        others: dict[str, tuple[Path, str]] = {}
        for path in self._request.files:
            if not _FILE_NAME.fullmatch(path.name) or not path.is_file():
                raise ConfigurationError(f"{path.name!r} in extensions/ is not a file with a plain name", "rename it: own-tool-1.0.0.vsix")
            kept = keep_archive(path, self._request.cache, path.name)
            extension = read_vsix(kept.path, path.name)
            if extension.platform not in platforms:
                others[extension.name] = path, extension.platform
                continue
            if extension.name in found:
                raise ConfigurationError(
                    f"{path.name} and {found[extension.name].filename} are both {extension.name} for {platforms[0]}", "remove one of them"
                )
            self._refuse_claimed(extension.name, path)
            found[extension.name] = _Found(extension, path.name, kept.sha256, kept.size, LOCAL_NAME)
        for name, (path, platform) in others.items():
            if name not in found:
                raise LockError(f"{path.name} is for {platform}, and the base runs {platforms[0]}", "add the build for that platform")
        return found

    def _refuse_claimed(self, name: str, path: Path) -> None:
        claiming = next((index for index in self._request.indexes if index.claims(normalize_pattern(name)) and not index.local), None)
        if claiming is not None:
            raise LockError(
                f"{path.name} is in the team's folder, and package index {claiming.name!r} claims {name}",
                f"take it from the index, or say that it may come from here too: local = true in the [[index]] {claiming.name!r}",
            )

    def _find(self, wanted: _Wanted, local: dict[str, _Found]) -> _Found | None:
        """The .vsix of an extension, checked; None for an optional one that no index has."""
        found = local.get(wanted.name)
        if found is None:
            try:
                gallery = self._open(wanted)
            except LockError:
                if wanted.optional:
                    return None
                raise
            build = self._choose(wanted, gallery)
            if build is None:
                return None
            kept = gallery.download(build)
            extension = read_vsix(kept.path, build.filename)
            _check_identity(build, extension, gallery.index.name)
            found = _Found(extension, build.filename, kept.sha256, kept.size, gallery.index.name, build.released)
        self._check(wanted, found)
        return found

    def _open(self, wanted: _Wanted) -> Gallery:
        index = route_addon(wanted.asked, self._request.indexes, INDEX_KIND)
        if index.name not in self._galleries:
            gallery = self._galleries[index.name] = Gallery(index, self._request.cache)
            self._stack.callback(gallery.close)
        return self._galleries[index.name]

    def _choose(self, wanted: _Wanted, gallery: Gallery) -> GalleryBuild | None:
        """The build to take: the one asked for, that of the lock so far, or the newest that is old enough and runs on the base."""
        platforms = list_platforms(self._request.base)
        for version in filter(None, (wanted.version, "" if wanted.version else self._kept.get(wanted.name, ""))):
            build = gallery.find_build(wanted.asked, platforms, version)
            if build is not None and self._is_old_enough(build) and (wanted.version or self._may_run(build)):
                return build
            if wanted.version:
                raise self._explain_missing(wanted, gallery, build)
        newest = gallery.find_build(wanted.asked, platforms)
        if newest is None:
            if wanted.optional and gallery.list_platforms(wanted.asked) is None:
                return None
            raise self._explain_missing(wanted, gallery, None)
        tried: list[str] = []
        for version in dict.fromkeys((newest.version, *newest.versions)):
            build = newest if version == newest.version else gallery.find_build(wanted.asked, platforms, version)
            if build is None or build.pre_release or not self._is_old_enough(build):
                continue
            if self._may_run(build):
                return build
            tried.append(f"{build.version} needs {build.engine}")
        raise LockError(
            f"no version of {wanted.name} runs on VS Code {self._vscode.version} of the base {self._request.base.name}"
            + (f": {name_some(tried)}" if tried else ""),
            "choose a base with a newer VS Code, or name a version: name==version",
        )

    def _may_run(self, build: GalleryBuild) -> bool:
        """Whether the gallery does not say that it needs another VS Code; the .vsix itself is asked later."""
        return not build.engine or fits_engine(build.engine, self._vscode.version)

    def _is_old_enough(self, build: GalleryBuild) -> bool:
        """Whether it was released before the cutoff; LockError when a cutoff is asked for and the gallery has no times."""
        if not build.released:
            if self._request.explicit_cutoff:
                raise LockError(
                    f"the gallery does not say when {build.name} {build.version} was released, so no cutoff can be kept",
                    "name the version, name==version, and leave --as-of and cooldown out",
                )
            return True
        return build.released <= self._request.cutoff

    def _explain_missing(self, wanted: _Wanted, gallery: Gallery, build: GalleryBuild | None) -> LockError:
        if build is not None:
            return LockError(
                f"{wanted.name} {build.version} was released at {build.released}, after the cutoff {self._request.cutoff}",
                "ask for an older version, or for a later cutoff",
            )
        listed = gallery.list_platforms(wanted.asked)
        what = f"{wanted.name} {wanted.version}".strip()
        if listed is None:
            return LockError(f"package index {gallery.index.name!r} has no {wanted.name} ({wanted.via} asks for it)", "correct the name")
        return LockError(
            f"package index {gallery.index.name!r} has no {what} for {list_platforms(self._request.base)[0]}",
            f"it has builds for {name_some(listed)}; ask for another version" if listed else "ask for another version",
        )

    # --- judging

    def _check(self, wanted: _Wanted, found: _Found) -> None:
        extension = found.extension
        if wanted.version and wanted.version != extension.version:
            raise LockError(
                f"{wanted.via} asks for {wanted.name} {wanted.version}, and {found.filename} is {extension.version}", "ask for one version"
            )
        platforms = list_platforms(self._request.base)
        if extension.platform not in platforms:
            raise LockError(
                f"{extension.name} {extension.version} is for {extension.platform}, and the base runs {platforms[0]}",
                "ask for a version with a build for that platform",
            )
        if not fits_engine(extension.engine, self._vscode.version):
            raise LockError(
                f"{extension.name} {extension.version} needs VS Code {extension.engine}, and the base {self._request.base.name} has "
                f"{self._vscode.version}",
                "ask for an older version of it, or choose a base with a newer VS Code",
            )
        held = self._held.get(extension.name)
        if held is not None and not _is_newer(extension.version, held.version):
            raise LockError(
                f"{extension.name} {extension.version} would replace {held.version} of the base {self._request.base.name}, and VS Code "
                "takes the newest that it finds",
                f"leave it out of replace, or ask for a version newer than {held.version}",
            )

    def _make_lock(self) -> AddonLock:
        request = self._request
        facts = describe_vscode(request.base)
        used = {"vscode", "folder", "platform", *(f"extension {name}" for name in (*self._satisfied, *(self._held.keys() & self._found)))}
        unused = request.replace - self._found.keys()
        if unused or request.replace - self._held.keys():
            name = min(unused or request.replace - self._held.keys())
            raise LockError(f"replace names {name_addon('vscode', name)}, and nothing of that name is replaced", "leave it out of replace")
        return AddonLock(
            kind="vscode",
            team=request.team,
            base=request.base.name,
            cutoff=request.cutoff,
            against={key: facts[key] for key in sorted(used)},
            inputs=request.inputs,
            addons=tuple(self._lock(name) for name in sorted(self._found)),
            satisfied=tuple(f"{name}=={version}" for name, version in sorted(self._satisfied.items())),
        )

    def _lock(self, name: str) -> Addon:
        found = self._found[name]
        extension = found.extension
        needs = {item.lower() for item in (*extension.dependencies, *extension.pack)} & self._found.keys()
        return Addon(
            name=name,
            version=extension.version,
            filename=found.filename,
            sha256=found.sha256,
            size=found.size,
            installed=extension.installed,
            folder=f"{self._request.base.tree.resolve(self._vscode.folder)}/{name}-{extension.version}",
            form="extension",
            index=found.index,
            needs=tuple(sorted(needs)),
            via=tuple(sorted(self._via[name])),
            platform="" if extension.platform == UNIVERSAL else extension.platform,
            licence=extension.licence,
            released=found.released,
            tree=extension.tree,
        )


def _parse_wish(text: str, where: str) -> _Wanted:
    name, equals, version = (part.strip() for part in text.partition("=="))
    if not is_extension_name(name) or (equals and not is_extension_version(version)):
        raise ConfigurationError(
            f"{where}: not an extension: {text!r}", 'write publisher.name, or publisher.name==version: "charliermarsh.ruff"'
        )
    return _Wanted(name, version, where)


def _list_needs(extension: Extension) -> list[_Wanted]:
    for item in (*extension.dependencies, *extension.pack):
        if not is_extension_name(item):
            raise LockError(f"{extension.name} asks for {item!r}, which is not an extension's name", "pin another version")
    needs = [_Wanted(item, "", extension.name) for item in extension.dependencies]
    return needs + [_Wanted(item, "", extension.name, optional=True) for item in extension.pack]


def _check_identity(build: GalleryBuild, extension: Extension, index: str) -> None:
    """IntegrityError for a file that is another extension than the one it was served as."""
    promised = (build.name, build.version, build.platform)
    if promised != (extension.name, extension.version, extension.platform):
        raise IntegrityError(
            f"package index {index!r} serves {extension.name} {extension.version} ({extension.platform}) as {' '.join(promised[:2])} "
            f"({promised[2]})",
            "do not install it; report it to the index's operators",
        )


def _list_held(extensions: tuple[VSCodeExtension, ...]) -> dict[str, VSCodeExtension]:
    """By name the newest: that is the one that VS Code takes."""
    held: dict[str, VSCodeExtension] = {}
    for item in extensions:
        if item.name not in held or _is_newer(item.version, held[item.name].version):
            held[item.name] = item
    return held


def _is_newer(version: str, other: str) -> bool:
    one, two = parse_version(version), parse_version(other)
    return one is not None and two is not None and one > two
