"""Finding the base's Python and cutting it out: executable, standard library, shared libraries, loader.

Works on the finished tree and on the files put aside while the layers streamed by. What is kept lies under ``rootfs/``
at its real path, as plain files only: links are followed here, inside the base, and never written.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec

from imagebuild.base.elf import read_elf_file
from imagebuild.base.libraries import DEFAULT_FOLDERS, read_configured_folders
from imagebuild.base.model import Entry
from imagebuild.base.runtime import WRAPPER, Launch, write_wrapper
from imagebuild.base.tree import SqliteTree
from imagebuild.errors import BuildError, ConfigurationError

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # what runtimes set where Env has none
OMITTED_FOLDERS = frozenset(  # of a standard library: nothing that runs here needs them
    {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip", "__pycache__"}
)
_OS_MODULE = re.compile(r"(?P<prefix>.*)/lib(?:64)?/python(?P<version>3\.[0-9]+)(?P<threads>t?)/os\.py")
_VERSIONED = re.compile(r"python(3\.[0-9]+)(t?)")
# Opened by name at run time, so nothing lists them: name service, and unwinding when a thread ends.
_OPENED_BY_NAME = ("libgcc_s.so.1", "libnss_files.so.2", "libnss_dns.so.2", "libresolv.so.2")


class VirtualEnvironment(msgspec.Struct, frozen=True):
    """A ``pyvenv.cfg`` (PEP 405)."""

    prefix: str
    home: str
    system_site_packages: bool


class FoundPython(msgspec.Struct, frozen=True):
    """What ``python3`` on PATH is."""

    path: str  # as PATH finds it
    executable: str  # links followed
    runnable: str  # the executable to start: the same, or for a virtual environment made of copies its base's
    environment: VirtualEnvironment | None
    shadowed: tuple[str, ...]  # other Pythons, as PATH finds them


def _follow(tree: SqliteTree, path: str) -> Entry | None:
    """Like :meth:`SqliteTree.follow`; a loop of links is nothing a PATH search would find."""
    try:
        return tree.follow(path)
    except BuildError:
        return None


def _search_path(tree: SqliteTree, folders: tuple[str, ...], name: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        if not folder.startswith("/"):
            continue
        path = posixpath.join(folder, name)
        entry = _follow(tree, path)
        if entry is not None and entry.type == "file" and entry.mode & 0o111:
            yield path, entry.path


def read_virtual_environment(tree: SqliteTree, python: str) -> VirtualEnvironment | None:
    """The ``pyvenv.cfg`` beside ``python`` or one folder up, as CPython looks for it (links of ``python`` not followed)."""
    folder = posixpath.dirname(python)
    for place in (folder, posixpath.dirname(folder)):
        entry = _follow(tree, posixpath.join(place, "pyvenv.cfg"))
        data = tree.read_text(entry.path) if entry is not None else None
        if data is None:
            continue
        pairs = (line.partition("=") for line in data.decode("utf-8", "replace").splitlines())
        values = {key.strip().lower(): value.strip() for key, equals, value in pairs if equals}
        if "home" not in values:
            continue
        return VirtualEnvironment(place, values["home"], values.get("include-system-site-packages", "").lower() == "true")
    return None


def find_python(tree: SqliteTree, folders: tuple[str, ...]) -> FoundPython | None:
    """The first ``python3`` on PATH, else the first ``python``; None when the base has neither."""
    found = [*_search_path(tree, folders, "python3"), *_search_path(tree, folders, "python")]
    if not found:
        return None
    path, executable = found[0]
    environment = read_virtual_environment(tree, path)
    shadowed: dict[tuple[str, str], str] = {(executable, environment.prefix if environment else ""): path}
    for other, other_executable in found[1:]:
        venv = read_virtual_environment(tree, other)
        shadowed.setdefault((other_executable, venv.prefix if venv else ""), other)
    runnable = executable
    if environment is not None and executable.startswith(tree.resolve(environment.prefix) + "/"):
        # Made with copies: the copy has no standard library of its own, the Python it was copied from has.
        for name in (posixpath.basename(executable), "python3", "python"):
            entry = _follow(tree, posixpath.join(environment.home, name))
            if entry is not None and entry.type == "file":
                runnable = entry.path
                break
        else:
            raise ConfigurationError(
                f"the base's virtual environment {environment.prefix} names {environment.home}, where there is no Python",
                "use a base whose virtual environment works",
            )
    return FoundPython(path, executable, runnable, environment, tuple(shadowed.values())[1:])


class Cutter:
    """One cut: collects what the interpreter needs and puts it under ``folder/rootfs``.

    ``spool`` gives the file for a number of :meth:`SqliteTree.spooled`.
    """

    def __init__(self, tree: SqliteTree, spool: Callable[[int], Path], folder: Path) -> None:
        self._tree, self._spool, self._folder = tree, spool, folder
        self._spooled: Mapping[str, int] = dict(tree.spooled())
        self._libraries: dict[str, str] = {}  # NEEDED name -> real folder in the base

    def file(self, path: str) -> Path | None:
        """The bytes of what ``path`` opens in the base, where they were put aside."""
        entry = _follow(self._tree, path)
        number = self._spooled.get(entry.path) if entry is not None and entry.type == "file" else None
        return None if number is None else self._spool(number)

    def _place(self, source: Path, path: str, mode: int = 0o644) -> str:
        """Put a file at its real path below ``rootfs``; the path relative to it."""
        relative = path.lstrip("/")
        target = self._folder / "rootfs" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            shutil.copyfile(source, target)
        if mode != 0o644:
            target.chmod(mode)
        return relative

    def _find_library(self, name: str, folders: list[str], machine: tuple[int, str]) -> tuple[str, Path] | None:
        for folder in folders:
            source = self.file(f"{folder}/{name}")
            if source is None:
                continue
            elf = read_elf_file(source)
            if elf is not None and elf.machine == machine:
                return self._tree.resolve(folder), source
        return None

    def _close_over(self, roots: list[tuple[str, Path]], machine: tuple[int, str], prefix: str) -> None:
        """Find and place every shared library that ``roots`` (real path, file) need, and what those need."""
        common = self.library_folders(prefix)
        waiting = [(path, file) for path, file in roots]
        inherited: list[str] = []
        while waiting:
            path, file = waiting.pop()
            elf = read_elf_file(file)
            if elf is None:
                continue
            origin = posixpath.dirname(path)
            own = [posixpath.normpath(re.sub(r"\$(?:ORIGIN|\{ORIGIN\})", origin.replace("\\", "\\\\"), text)) for text in elf.folders]
            own = [folder for folder in own if folder.startswith("/")]
            inherited += [folder for folder in own if folder not in inherited]
            for name in (*elf.needed, *(_OPENED_BY_NAME if (path, file) == roots[0] else ())):
                if name in self._libraries or "/" in name:
                    continue
                found = self._find_library(name, [*own, *common, *inherited], machine)
                if found is None:
                    continue  # an optional module of the standard library; the interpreter itself says so when it starts
                folder, source = found
                self._libraries[name] = folder
                self._place(source, f"{folder}/{name}")
                entry = _follow(self._tree, f"{folder}/{name}")
                waiting.append((entry.path if entry else f"{folder}/{name}", source))

    def library_folders(self, prefix: str) -> list[str]:
        """Where the loader looks for libraries, besides what an executable names; ``prefix`` is the interpreter's."""
        folders = [f"{prefix}/lib", f"{prefix}/lib64", *read_configured_folders(self._tree)]
        for folder in DEFAULT_FOLDERS:
            folders += [folder, *sorted(f"{folder}/{part}" for part in self._multiarch(folder))]
        return folders

    def _multiarch(self, folder: str) -> set[str]:
        start = self._tree.resolve(folder) + "/"
        names = {path[len(start) :].split("/", 1)[0] for path in self._spooled if path.startswith(start)}
        return {name for name in names if re.search(r"-linux-(gnu|musl)", name)}

    def find_standard_library(self, executable: str) -> tuple[str, str, str]:
        """Prefix, version (``3.11``) and ABI suffix (``t`` for free threading) of the executable's standard library."""
        places = [match for match in map(_OS_MODULE.fullmatch, self._spooled) if match]
        named = _VERSIONED.fullmatch(posixpath.basename(executable))
        for prefix in (posixpath.dirname(posixpath.dirname(executable)), "/usr", "/usr/local"):
            here = [match for match in places if (match["prefix"] or "/") == prefix]
            exact = [match for match in here if named and (match["version"], match["threads"]) == (named[1], named[2])]
            if exact or here:
                best = max(exact or here, key=lambda match: (int(match["version"].split(".")[1]), not match["threads"]))
                return prefix, best["version"], best["threads"]
        raise ConfigurationError(
            f"the base has {executable} but not its standard library", "use a base with a complete Python 3, not a minimal cut of one"
        )

    def cut(self, python: FoundPython) -> Launch:
        """Everything ``python`` needs, placed; a base whose Python cannot be run this way is a ConfigurationError."""
        (self._folder / "rootfs").mkdir()
        source = self.file(python.runnable)
        elf = read_elf_file(source) if source is not None else None
        if source is None or elf is None:
            raise ConfigurationError(
                f"{python.path} in the base is not a Python executable but a script or another kind of file ({python.runnable})",
                "put the folder of the real Python first on the base's PATH",
            )
        prefix, version, threads = self.find_standard_library(python.runnable)
        root = prefix.rstrip("/")
        launch = Launch(self._place(source, python.runnable, 0o755), root.lstrip("/"), (3, int(version.split(".")[1])))
        roots = [(python.runnable, source)]
        for folder in (f"{root}/lib/python{version}{threads}", f"{root}/lib64/python{version}{threads}"):
            for entry in self._tree.under(folder):
                parts = entry.path[len(folder) + 1 :].split("/")
                if entry.type not in ("file", "symlink") or not OMITTED_FOLDERS.isdisjoint(parts):
                    continue
                file = self.file(entry.path)
                if file is None:
                    continue
                self._place(file, entry.path)
                if ".so" in parts[-1]:
                    roots.append((entry.path, file))
        self._close_over(roots, elf.machine, root)
        if elf.interpreter:
            loader = self.file(elf.interpreter)
            if loader is None:
                raise ConfigurationError(
                    f"the base's Python asks for the loader {elf.interpreter}, which the base lacks", "use a base whose Python runs"
                )
            place = self._place(loader, self._tree.resolve(elf.interpreter), 0o755)
            folders = tuple(dict.fromkeys(folder.lstrip("/") for folder in self._libraries.values()))
            launch = msgspec.structs.replace(launch, loader=place, libraries=folders)
        write_wrapper(self._folder / WRAPPER, launch)
        return launch
