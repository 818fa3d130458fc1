"""The Python distributions that a base has installed, read from the metadata kept beside the tree."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from email.parser import BytesHeaderParser
from email.policy import compat32

from imagebuild.base.model import Distribution
from imagebuild.base.tree import SqliteTree
from imagebuild.decoding import load_json
from imagebuild.errors import BuildError

_METADATA = re.compile(r"(?P<location>.*)/(?P<name>[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO|egg-info))")
OWNED_FOLDER = "/var/lib/dpkg/info/"


def _follow(tree: SqliteTree, path: str) -> str | None:
    try:
        entry = tree.follow(path)
    except BuildError:
        return None
    return None if entry is None else entry.path


def add_path_files(tree: SqliteTree, folders: Sequence[str]) -> list[str]:
    """``folders`` with the folders that their ``*.pth`` files add after each, as :mod:`site` does (``import`` lines are not run)."""
    reached = list(dict.fromkeys(folders))
    files = [path for path in tree.texts() if path.endswith(".pth")]
    for folder in folders:
        real = _follow(tree, folder)
        for path in files:
            if real is None or posixpath.dirname(path) != real:
                continue
            for line in (tree.read_text(path) or b"").decode("utf-8", "replace").splitlines():
                text = line.strip()
                if not text or text.startswith(("#", "import ", "import\t")):
                    continue
                added = posixpath.normpath(posixpath.join(folder, text))
                entry = _follow(tree, added)
                if entry is not None and added not in reached:
                    reached.append(added)
    return reached


def read_requires_text(data: bytes) -> Iterator[str]:
    """The lines of setuptools' ``requires.txt`` as requirements: ``[extra:marker]`` sections become markers."""
    condition = ""
    for line in data.decode("utf-8", "replace").splitlines():
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        if text.startswith("[") and text.endswith("]"):
            extra, _, marker = text[1:-1].partition(":")
            parts = [f"({marker})"] if marker else []
            parts += [f'extra == "{extra}"'] if extra else []
            condition = " and ".join(parts)
        else:
            yield f"{text} ; {condition}" if condition else text


def _read_owned_by_conda(tree: SqliteTree, prefix: str) -> set[str]:
    """Real paths of metadata files that a conda package of ``prefix`` brought."""
    owned: set[str] = set()
    folder = _follow(tree, f"{prefix}/conda-meta")
    for path in tree.texts():
        if folder is None or posixpath.dirname(path) != folder or not path.endswith(".json"):
            continue
        try:
            files = load_json(tree.read_text(path) or b"{}").get("files", [])
        except (ValueError, AttributeError):
            continue
        for name in files if isinstance(files, list) else ():
            if isinstance(name, str) and "-info" in name:
                owned.add(tree.resolve(posixpath.join(prefix, name)))
    return owned


def _read_owned_by_dpkg(tree: SqliteTree) -> set[str]:
    owned: set[str] = set()
    for path in tree.texts():
        if path.startswith(OWNED_FOLDER):
            for line in (tree.read_text(path) or b"").decode("utf-8", "surrogateescape").splitlines():
                owned.add(tree.resolve(line))
    return owned


def read_distributions(tree: SqliteTree, folders: Sequence[str], conda_prefix: str = "") -> tuple[Distribution, ...]:
    """What ``folders`` (of sys.path, in order) hold, sorted by name; of two with one name the first on sys.path counts."""
    from packaging.utils import canonicalize_name

    conda = _read_owned_by_conda(tree, conda_prefix) if conda_prefix else set()
    dpkg = _read_owned_by_dpkg(tree)
    by_folder: dict[str, list[tuple[str, str]]] = {}
    for path in tree.texts():
        match = _METADATA.fullmatch(path)
        if match:
            by_folder.setdefault(match["location"] or "/", []).append((path, match["name"].partition("/")[0]))
    parser = BytesHeaderParser(policy=compat32)
    found: dict[str, Distribution] = {}
    for folder in folders:
        location = _follow(tree, folder)
        for path, metadata in by_folder.get(location or "", ()):
            headers = parser.parsebytes(tree.read_text(path) or b"")
            name, version = str(headers.get("Name", "")).strip(), str(headers.get("Version", "")).strip()
            if not name or not version:
                continue  # importlib.metadata and pip skip it too
            normal = str(canonicalize_name(name))
            if normal in found:
                continue
            top = posixpath.dirname(path) if path.endswith(("/METADATA", "/PKG-INFO")) else path
            installer = (tree.read_text(f"{top}/INSTALLER") or b"").decode("utf-8", "replace").strip().lower()
            if path in conda:
                installer = "conda"
            elif path in dpkg or top in dpkg:
                installer = "dpkg"
            requires = tuple(str(line) for line in headers.get_all("Requires-Dist", []))
            if not requires and top.endswith(".egg-info"):
                requires = tuple(read_requires_text(tree.read_text(f"{top}/requires.txt") or b""))
            found[normal] = Distribution(
                name=normal,
                version=version,
                location=location or folder,
                metadata=metadata,
                installer=installer,
                has_record=tree.get(f"{top}/RECORD") is not None,
                requires=tuple(" ".join(line.split()) for line in requires),
                extras=tuple(str(extra) for extra in headers.get_all("Provides-Extra", [])),
            )
    return tuple(found[name] for name in sorted(found))
