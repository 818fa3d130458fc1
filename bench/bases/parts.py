"""What the stand-ins are made of: Debian and JupyterLab as the starter base has them, moved to where other bases keep them.

Paths are without a leading slash, as in a layer. Everything is read from the starter's two layers; only ``fetch_debian_packages`` uses a
network, by this machine's own apt.
"""

from __future__ import annotations

import copy
import csv
import io
import posixpath
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from tests.support.images import entry
from tests.support.tools import need
from tests.support.workspaces import LayoutImage

Entry = tuple[tarfile.TarInfo, bytes]
Entries = list[Entry]

PYTHON = "python3.11"  # Debian 12's
SITE = f"usr/local/lib/{PYTHON}/dist-packages"  # where the starter base has JupyterLab
_STDLIB = f"usr/lib/{PYTHON}"
# What makes Debian's Python install into dist-packages, and CPython's text, of the same length where it lies in the program: `site` is
# frozen into that.
_SCHEME = (b"prefix_scheme = 'posix_local'", b"prefix_scheme = 'posix_prefix'")
_FOLDER = (b"dist-packages", b"site-packages")


class Parts:
    """The starter base, layer by layer."""

    def __init__(self, starter: LayoutImage) -> None:
        self.starter = starter

    @cached_property
    def debian(self) -> bytes:
        """Debian's layer, uncompressed: a root file system with Python, the user jovyan (1000:0) and ``start-notebook``."""
        with self.starter.open_layer(0) as stream:
            return stream.read()

    @cached_property
    def _files(self) -> Entries:
        return list(read_entries(self.debian))

    @cached_property
    def _server(self) -> Entries:
        with self.starter.open_layer(1) as stream:
            return list(read_entries(stream.read()))

    def server(self, prefix: str = "usr/local", library: str = SITE, python: str = "/usr/bin/python3") -> Entries:
        """JupyterLab with pip and 90 more distributions, installed under ``prefix`` for the interpreter ``python``."""
        moved = []
        for info, data in self._server:
            path = _move(info.name, {SITE: library, "usr/local": prefix})
            if path is None:
                continue
            if info.isreg() and posixpath.dirname(path) == f"{prefix}/bin":
                data = _rewrite_script(data, python)
            elif info.isreg() and path.endswith(".dist-info/RECORD"):
                data = _forget_script_hashes(data)
            elif path.endswith(".pyc"):  # names the old path
                continue
            moved.append(_place(info, path, data))
        return [*folders_above(f"{library}/x"), *moved] if library != SITE else moved

    def interpreter(self, prefix: str) -> Entries:
        """A Python of its own in ``prefix``, which installs into ``site-packages`` as CPython's own does."""
        found = [*folders_above(f"{prefix}/lib/{PYTHON}/site-packages/x"), entry(f"{prefix}/bin")]
        for info, data in self._files:
            if info.name == f"usr/bin/{PYTHON}":
                found.append(_place(info, f"{prefix}/bin/{PYTHON}", data.replace(*_FOLDER)))
                continue
            path = _move(info.name, {_STDLIB: f"{prefix}/lib/{PYTHON}"})
            if path is None or path.endswith(".pyc"):
                continue
            if path == f"{prefix}/lib/{PYTHON}/sysconfig.py":
                assert _SCHEME[0] in data
                data = data.replace(*_SCHEME)
            found.append(_place(info, path, data))
        return [*found, *(entry(f"{prefix}/bin/{name}", link=PYTHON) for name in ("python3", "python"))]

    def read(self, path: str) -> bytes:
        """A file of Debian's layer."""
        return next(data for info, data in self._files if info.name == path)

    def without_python(self) -> Entries:
        """The whiteouts that take Debian's Python away."""
        names = [info.name for info, _ in self._files if posixpath.dirname(info.name) == "usr/bin" and "python" in info.name]
        return [entry(f"usr/bin/.wh.{posixpath.basename(name)}", b"") for name in names] + [
            entry(f"usr/lib/.wh.{name}", b"") for name in (PYTHON, "python3")
        ]


def read_entries(layer: bytes) -> Iterator[Entry]:
    """The entries of an uncompressed layer."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        for info in archive:
            stream = archive.extractfile(info) if info.isreg() else None
            yield info, stream.read() if stream else b""


def _move(path: str, places: Mapping[str, str]) -> str | None:
    """Where ``path`` goes, by the first of ``places`` that it is or lies in; None for what lies in none."""
    for old, new in places.items():
        if path == old or path.startswith(f"{old}/"):
            return f"{new}{path[len(old) :]}"
    return None


def _place(info: tarfile.TarInfo, path: str, data: bytes) -> Entry:
    moved = copy.copy(info)
    moved.name, moved.size = path, len(data) if info.isreg() else info.size
    moved.pax_headers = {}
    return moved, data


def _rewrite_script(data: bytes, python: str) -> bytes:
    first, newline, rest = data.partition(b"\n")
    return b"#!" + python.encode() + newline + rest if first.startswith(b"#!") and b"python" in first else data


def _forget_script_hashes(record: bytes) -> bytes:
    """RECORD without bytecode, and without the hashes of scripts, whose first line changed; rows stay, as a row needs no hash."""
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\n")
    for path, digest, size in csv.reader(io.StringIO(record.decode(), newline="")):
        if path.endswith(".pyc"):
            continue
        rows.writerow((path, "", "") if "../bin/" in path else (path, digest, size))
    return text.getvalue().encode()


def folders_above(path: str) -> Entries:
    """The folders on the way to ``path``, below those that Debian has."""
    parents = [str(parent) for parent in Path(path).parents][::-1]
    return [entry(parent) for parent in parents if parent not in (".", "usr", "etc", "opt", "usr/local", "usr/lib", "usr/local/lib")]


def merge(*layers: Entries) -> Entries:
    """One layer of several; of entries with one path, as of folders, the first."""
    found: dict[str, Entry] = {}
    for layer in layers:
        for info, data in layer:
            found.setdefault(info.name, (info, data))
    return list(found.values())


def own(entries: Iterable[Entry], uid: int, gid: int) -> Entries:
    """The same files, of another owner."""
    for info, _ in (found := list(entries)):
        info.uid, info.gid = uid, gid
    return found


def distribution(name: str, version: str, requires: Iterable[str] = (), *, library: str = SITE) -> Entries:
    """A tiny module with the metadata of a large distribution, as pip leaves it."""
    module, info = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/INSTALLER": "pip\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    folders = [entry(f"{library}/{folder}") for folder in (module, info)]
    return [*folders, *(entry(f"{library}/{path}", text.encode()) for path, text in files.items())]


def conda_record(name: str, version: str, files: Iterable[str], prefix: str) -> Entry:
    """The note that conda keeps of a package: ``files`` relative to the prefix."""
    listed = ", ".join(f'"{path}"' for path in files)
    text = f'{{"name": "{name}", "version": "{version}", "build": "py311_0", "build_number": 0, "files": [{listed}]}}\n'
    return entry(f"{prefix}/conda-meta/{name}-{version}-py311_0.json", text.encode())


def fetch_debian_packages(names: Iterable[str], folder: Path) -> list[Path]:
    """Download packages of Debian, which lie in ``folder`` afterwards; those that are there are not fetched again."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in names:
        have = sorted(folder.glob(f"{name}_*.deb"))
        if not have:
            command = [need("apt-get"), "-qq", "-o", "APT::Sandbox::User=root", "download", name]
            subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, capture_output=True)
            have = sorted(folder.glob(f"{name}_*.deb"))
        found.append(have[0])
    return found


def unpack_debian_packages(packages: Iterable[Path], status: bytes) -> Entries:
    """Their files, and what dpkg keeps of them; ``status`` is the base's ``var/lib/dpkg/status``."""
    found: dict[str, Entry] = {}
    for path in packages:
        tar = subprocess.run([need("dpkg-deb"), "--fsys-tarfile", str(path)], check=True, capture_output=True).stdout
        fields = subprocess.run([need("dpkg-deb"), "--field", str(path)], check=True, capture_output=True, text=True).stdout
        name = next(line.partition(": ")[2] for line in fields.splitlines() if line.startswith("Package: "))
        multi = "Multi-Arch: same" in fields
        listed = ["/."]
        for info, data in read_entries(tar):
            info.name = info.name.removeprefix("./").rstrip("/")
            if info.name in ("", "."):
                continue
            listed.append(f"/{info.name}")
            if info.islnk():
                info.linkname = info.linkname.removeprefix("./")
            found[info.name] = (info, data)
        place = f"var/lib/dpkg/info/{name}{':amd64' if multi else ''}.list"
        found[place] = entry(place, "".join(f"{line}\n" for line in listed).encode())
        first, _, rest = fields.partition("\n")
        status += f"{first}\nStatus: install ok installed\n{rest}\n".encode()
    found["var/lib/dpkg/status"] = entry("var/lib/dpkg/status", status)
    merged = ("bin", "lib", "lib64", "sbin")  # links in Debian since 12; a folder entry would replace them
    return [item for path, item in found.items() if path not in merged]
