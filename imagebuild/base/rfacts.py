"""R as a base has it: start script, R_HOME, library folders in R's order, and what is installed in them.

Nothing is run. The start script names R_HOME (R ignores the one of the environment), ``etc/Renviron`` and ``etc/Renviron.site`` set the
library folders over the image's ENV (R's documentation: ``?Startup``, ``?libPaths``), and each package's DESCRIPTION says its version
and what it was built with.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from imagebuild.base.libraries import follow_links
from imagebuild.base.model import RFacts, RPackage, Tree

_TEXT_LIMIT = 1 << 20  # bytes of a DESCRIPTION
_SCRIPT_LIMIT = 64 << 10  # bytes of the start script or an Renviron
_VALUE_LIMIT = 4096  # characters of a variable
_HOME = re.compile(r"(?m)^R_HOME_DIR=[\"']?(/[^\s\"'$]+)[\"']?\s*$")
_ASSIGNMENT = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?-)((?:[^{}]|\{[^{}]*\})*))?\}")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9.]*[A-Za-z0-9]")
_FIELD = re.compile(r"(?m)^(Package|Version|Built|Priority):[ \t]*(.*)$")
_HIDDEN = ("/tmp/", "/var/tmp/", "/run/", "/dev/", "/proc/", "/sys/", "/home/", "/root/")  # volumes and homes lie over these
_NESTED = 8  # rounds of replacing references in a value


def is_r_text(path: bytes, size: int) -> bool:
    """Whether the file is one that :func:`read_r` reads."""
    folder, _, name = path.rpartition(b"/")
    if name == b"R":
        return size <= _SCRIPT_LIMIT and folder.endswith(b"/bin")
    if name in (b"Renviron", b"Renviron.site"):
        return size <= _SCRIPT_LIMIT and folder.endswith((b"/etc", b"/R"))
    package = folder.rpartition(b"/")[2].decode("utf-8", "replace")
    return size <= _TEXT_LIMIT and name == b"DESCRIPTION" and _NAME.fullmatch(package) is not None


def read_r(tree: Tree, path: tuple[str, ...], environment: Mapping[str, str], home: str) -> RFacts | None:
    """The R that ``path`` (PATH, split) finds; None where there is none. ``home`` is the notebook user's."""
    for folder in path:
        program = posixpath.join(folder, "R")
        entry = follow_links(tree, program)
        if entry is None or entry.type != "file" or not entry.mode & 0o111:
            continue
        found = _HOME.search(_read_text(tree, entry.path))
        if found is not None:
            return _describe(tree, program, posixpath.normpath(found[1]), environment, home)
    return None


def _read_text(tree: Tree, path: str) -> str:
    entry = follow_links(tree, path)
    return (tree.read_text(entry.path) or b"").decode("utf-8", "replace") if entry is not None else ""


def _describe(tree: Tree, program: str, r_home: str, environment: Mapping[str, str], home: str) -> RFacts | None:
    own = f"{r_home}/library"
    libraries = _list_libraries(tree, r_home, environment, home)
    packages: dict[str, RPackage] = {}
    platform = ""
    for library in libraries:
        for name, fields in _read_library(tree, library):
            version, built = fields.get("Version", ""), [part.strip() for part in fields.get("Built", "").split(";")]
            package = RPackage(name, version, library, built[0].removeprefix("R").strip(), fields.get("Priority", "").strip())
            packages.setdefault(name, package)
            if library == own and len(built) > 1 and built[1]:
                platform = platform or built[1]
    base = packages.get("base")
    if base is None:
        return None
    library = next((item for item in reversed(libraries[:-1])), own)
    return RFacts(program, r_home, base.version, platform, libraries, library, tuple(packages[name] for name in sorted(packages)))


def _list_libraries(tree: Tree, r_home: str, environment: Mapping[str, str], home: str) -> tuple[str, ...]:
    """R_LIBS and R_LIBS_SITE as R reads them, then R's own; R_LIBS_USER is the user's, and in a volume."""
    values = {**environment, "R_HOME": r_home}
    for name in ("Renviron", "Renviron.site"):
        values = apply_renviron(_read_text(tree, f"{r_home}/etc/{name}"), values)
    own = f"{r_home}/library"
    site = values.get("R_LIBS_SITE") or "%S"
    found = []
    for text in f"{values.get('R_LIBS', '')}:{site}".split(":"):
        folder = text.strip().replace("%S", f"{r_home}/site-library")
        if not folder.startswith("/") or "%" in folder:
            continue
        folder = posixpath.normpath(folder)
        if folder != own and not f"{folder}/".startswith((*_HIDDEN, f"{home.rstrip('/')}/")):
            found.append(folder)
    return (*dict.fromkeys(found), own)


def apply_renviron(text: str, values: Mapping[str, str]) -> dict[str, str]:
    """``values`` after an Renviron file: ``NAME=value`` lines, ``${NAME-default}`` and ``${NAME:-default}`` in them (``?Startup``)."""
    result = dict(values)
    for line in text.splitlines():
        match = _ASSIGNMENT.fullmatch(line)
        if match is None or line.lstrip().startswith("#"):
            continue
        value = match[2].strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        for _ in range(_NESTED):
            replaced = _REFERENCE.sub(lambda found: _resolve(found, result), value)
            if replaced == value or len(replaced) > _VALUE_LIMIT:
                break
            value = replaced
        result[match[1]] = value[:_VALUE_LIMIT]
    return result


def _resolve(found: re.Match[str], values: Mapping[str, str]) -> str:
    name, operator, default = found[1], found[2], found[3] or ""
    if name in values and (values[name] or operator == "-"):
        return values[name]
    return default.strip().strip("\"'") if operator else ""


def _read_library(tree: Tree, library: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Name and fields of each package in a library folder."""
    folder = follow_links(tree, library)
    if folder is None or folder.type != "dir":
        return
    depth = folder.path.count("/") + 2
    for entry in tree.under(folder.path):
        if entry.path.count("/") != depth or not entry.path.endswith("/DESCRIPTION"):
            continue
        fields = dict(_FIELD.findall(_read_text(tree, entry.path)))
        name = fields.get("Package", "").strip()
        if name and fields.get("Version", "").strip() and name == posixpath.basename(posixpath.dirname(entry.path)):
            yield name, {key: value.strip() for key, value in fields.items()}
