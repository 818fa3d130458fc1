"""An archive of an R package: source, or built for one minor version of R; whether a binary fits the base."""

from __future__ import annotations

import hashlib
import io
import posixpath
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from imagebuild.addons.rlang.control import Description, read_description, read_stanzas
from imagebuild.addons.unpacking import ArchiveFile, hash_files, open_archive, read_file
from imagebuild.base.elf import ElfFile, read_elf, read_needed_versions
from imagebuild.base.libraries import has_library, list_library_folders
from imagebuild.base.model import Base, RFacts
from imagebuild.errors import IntegrityError, LockError
from imagebuild.text import name_some

_DESCRIPTION_LIMIT = 1 << 20  # bytes
_MACHINES = {"amd64": (64, "EM_X86_64"), "arm64": (64, "EM_AARCH64"), "ppc64le": (64, "EM_PPC64"), "s390x": (64, "EM_S390")}
_SHARED_OBJECT = re.compile(r".*\.so(?:\.[0-9.]+)?")
_ORIGIN = re.compile(r"\$(?:ORIGIN|\{ORIGIN\})")
_GLIBC = re.compile(r"GLIBC_([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})")
_BASE_GLIBC = re.compile(r"glibc ([0-9]{1,4}(?:\.[0-9]{1,4}){1,3})")
_HINT = "report it to the repository's operators, or ask for another version"


class SharedObject(msgspec.Struct, frozen=True):
    """A shared object in a package."""

    path: str  # relative to the package's folder: libs/data.table.so
    elf: ElfFile
    glibc: tuple[int, ...] = ()  # the newest version of glibc that it needs


class Contents(msgspec.Struct, frozen=True):
    """What is known of an archive."""

    description: Description
    installed: int  # bytes of its files
    tree: str  # see hash_tree of addons/unpacking
    objects: tuple[SharedObject, ...]
    names: frozenset[str]  # of its files, without folders

    @property
    def is_binary(self) -> bool:
        """Whether R can load it as it is."""
        return bool(self.description.built)


def hash_md5(path: Path) -> str:
    """MD5 in hex: what a repository's PACKAGES has, and no protection by itself."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def read_archive_description(path: Path, name: str) -> Description:
    """The DESCRIPTION in an archive."""
    with open_archive(path, path.name, f"{name}/") as files:
        return _read_description(files, path.name)


def read_contents(path: Path, name: str, version: str) -> Contents:
    """What an archive holds; IntegrityError when it is of another package or version than its name says."""
    with open_archive(path, path.name, f"{name}/") as files:
        description = _read_description(files, path.name)
        if (description.name, description.version) != (name, version):
            raise IntegrityError(f"{path.name} holds {description.name} {description.version}", _HINT)
        objects = tuple(_read_objects(files, path.name)) if description.built else ()
        names = frozenset(posixpath.basename(file.path) for file in files)
        return Contents(description, sum(file.size for file in files), hash_files(files), objects, names)


def _read_description(files: list[ArchiveFile], label: str) -> Description:
    data = read_file(files, "DESCRIPTION", _DESCRIPTION_LIMIT)
    if data is None:
        raise IntegrityError(f"{label} has no DESCRIPTION", _HINT)
    try:
        return read_description(next(read_stanzas(data.decode("utf-8", "replace")), {}))
    except ValueError as error:
        raise IntegrityError(f"{label}: its DESCRIPTION cannot be read: {error}", _HINT) from None


def _read_objects(files: list[ArchiveFile], label: str) -> Iterator[SharedObject]:
    for file in files:
        if _SHARED_OBJECT.fullmatch(posixpath.basename(file.path)):
            data = io.BytesIO(b"".join(file.open()))
            elf = read_elf(data)
            if elf is None:
                raise IntegrityError(f"{label}: {file.path} is not a shared object that can be read", _HINT)
            found = (_GLIBC.fullmatch(name) for name in read_needed_versions(data))
            yield SharedObject(file.path, elf, max((_parse_numbers(match[1]) for match in found if match), default=()))


def _parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def check_built(contents: Contents, facts: RFacts, base: Base, label: str) -> None:
    """LockError for a binary that is built for another R minor version, platform, machine or glibc than the base has.

    ``label``: who gave it.
    """
    found = contents.description
    if found.built_minor != facts.minor:
        raise LockError(
            f"{found.name} {found.version} of {label} is built for R {found.built_minor}, and base {base.name} has R {facts.version}",
            "use a repository with binaries for that R, or with source packages, which are built inside the base",
        )
    if found.built_platform and facts.platform and found.built_platform.split("-")[0] != facts.platform.split("-")[0]:
        raise LockError(
            f"{found.name} {found.version} of {label} is built for {found.built_platform}, and R of base {base.name} is {facts.platform}",
            "use a repository with binaries for that platform",
        )
    machine = _MACHINES.get(base.inventory.platform.architecture)
    for item in contents.objects:
        if machine is not None and item.elf.machine != machine:
            raise LockError(
                f"{found.name} {found.version} of {label}: {item.path} is for another machine than base {base.name}",
                "use a repository with binaries for that platform",
            )
    _check_glibc(contents, base, label)


def _check_glibc(contents: Contents, base: Base, label: str) -> None:
    own = _BASE_GLIBC.fullmatch(base.interpreter.libc)
    newest = max(contents.objects, key=lambda item: item.glibc, default=None)
    if own is not None and newest is not None and newest.glibc > _parse_numbers(own[1]):
        found, needed = contents.description, ".".join(map(str, newest.glibc))
        raise LockError(
            f"{found.name} {found.version} of {label}: {newest.path} needs glibc {needed}, and base {base.name} has {own[0]}",
            "use a repository with binaries for the base's distribution",
        )


def find_missing_libraries(contents: Contents, base: Base, folder: str, loaded: Sequence[str]) -> list[str]:
    """``libs/x.so needs libxml2.so.2`` for each library that neither the package, nor R, nor the base has.

    ``folder``: the package's. ``loaded``: :func:`list_loader_folders`.
    """
    missing = []
    for item in contents.objects:
        origin = f"{folder}/{posixpath.dirname(item.path)}".rstrip("/")
        own = [posixpath.normpath(_ORIGIN.sub(lambda _: origin, text)) for text in item.elf.folders]  # noqa: B023
        for name in item.elf.needed:
            if posixpath.basename(name) not in contents.names and not has_library(base.tree, name, (*own, *loaded)):
                missing.append(f"{item.path} needs {name}")
    return missing


def list_loader_folders(base: Base, facts: RFacts) -> tuple[str, ...]:
    """Where R's loader finds libraries: R's own (``etc/ldpaths``), LD_LIBRARY_PATH, conda's prefix around R, and the loader's."""
    prefix = posixpath.dirname(posixpath.dirname(facts.home))
    conda = base.tree.get(base.tree.resolve(f"{prefix}/conda-meta"))
    return (
        f"{facts.home}/lib",
        *([f"{prefix}/lib"] if conda is not None and conda.type == "dir" else []),
        *(part for part in base.config.container.environment.get("LD_LIBRARY_PATH", "").split(":") if part.startswith("/")),
        *list_library_folders(base.tree),
    )


def check_libraries(contents: Contents, base: Base, folder: str, loaded: Sequence[str], system: Sequence[str]) -> list[str]:
    """Warnings where ``system`` packages of apt may bring what is missing; LockError, naming the library, where there are none.

    ``folder`` and ``loaded`` as of :func:`find_missing_libraries`.
    """
    missing = find_missing_libraries(contents, base, folder, loaded)
    found = contents.description
    if missing and not system:
        raise LockError(
            f"{found.name} {found.version}: {missing[0]}, which base {base.name} lacks",
            "choose a base that has that library, or add it: [system] packages in team.toml, with the docker engine",
            tuple(missing[1:]),
        )
    if not missing:
        return []
    return [f"{found.name} {found.version}: {name_some(missing)}, which base {base.name} lacks; [system] packages must bring it"]
