"""What is known about a base image, read from the base and never assumed.

:class:`Inventory` is the short form (committed as ``lockfiles/bases/<base>.json``); :class:`Tree` answers questions
about single paths from the whole form, a SQLite file in the cache; :class:`Runtime` runs the base's own interpreter on
this machine. :class:`Base` is the three of them together, with the image's manifest and config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Literal, Protocol

import msgspec

from imagebuild.oci.model import Digest, ImageConfig, Manifest, Platform

INVENTORY_FORMAT = 1

EntryType = Literal["file", "dir", "symlink", "other"]


class Entry(msgspec.Struct, frozen=True):
    """One path of the base's final tree (all layers applied). Paths are absolute, without a trailing slash."""

    path: str
    type: EntryType
    mode: int  # permission bits only, 0o7777
    uid: int
    gid: int
    size: int = 0  # bytes, files only
    link: str = ""  # symlinks: the target as written
    sha256: str = ""  # 64 hex digits; only for files of at most 1 MiB under a site-packages or dist-packages folder


class Tree(Protocol):
    """Questions about the base's final tree."""

    def get(self, path: str) -> Entry | None:
        """The entry at exactly this path (no symlink is followed), or None."""

    def resolve(self, path: str) -> str:
        """``path`` with every symlinked parent, and the last part if it is a symlink to a folder, followed inside the
        base; parts that do not exist are kept as they are. A loop raises BuildError."""

    def under(self, folder: str) -> Iterator[Entry]:
        """All entries below ``folder``, sorted by path."""

    def read_text(self, path: str) -> bytes | None:
        """The bytes of a small file that was kept (metadata of distributions, passwd, pyvenv.cfg); None if it wasn't."""


class Interpreter(msgspec.Struct, frozen=True):
    """The Python that ``python3`` (or ``python``) on the base's PATH starts. All paths are paths in the image."""

    path: str  # as PATH finds it, e.g. /opt/conda/bin/python3: what shebangs and the Dockerfile name
    executable: str  # the same with links followed
    version: str  # full: 3.11.2
    implementation: str  # cpython
    cache_tag: str  # cpython-311 (PEP 3147)
    magic: str  # importlib.util.MAGIC_NUMBER as hex
    environment: Literal["system", "venv", "conda"]
    prefix: str  # sys.prefix in the image
    base_prefix: str
    paths: dict[str, str]  # sysconfig scheme that pip would use: purelib platlib scripts data include
    markers: dict[str, str]  # PEP 508 environment, as packaging.markers.default_environment() says inside
    tags: tuple[str, ...]  # wheel tags, best first, as packaging.tags.sys_tags() says inside
    libc: str  # "glibc 2.36"
    externally_managed: bool = False  # PEP 668 marker present


class Distribution(msgspec.Struct, frozen=True, omit_defaults=True):
    """One installed Python distribution of the base that the interpreter's sys.path reaches."""

    name: str  # normalised (PEP 503)
    version: str
    location: str  # the folder that holds its metadata folder
    metadata: str = ""  # the metadata folder or file's own name: pandas-2.2.3.dist-info
    installer: str = ""  # pip, uv, conda, dpkg, or "" when nothing says
    has_record: bool = False
    requires: tuple[str, ...] = ()  # Requires-Dist lines as written
    extras: tuple[str, ...] = ()  # Provides-Extra


class SystemPackage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One package of the base that is not a distribution of its Python (conda's may be both)."""

    kind: Literal["deb", "rpm", "conda", "cran"]
    name: str
    version: str  # as its manager writes it: epoch, version, release
    architecture: str = ""
    source: str = ""  # the source package, where it is named otherwise
    source_version: str = ""  # the same of its version


class OperatingSystem(msgspec.Struct, frozen=True):
    """``ID`` and ``VERSION_ID`` of os-release(5): debian 12, ubuntu 22.04, rhel 9.4; empty where there is none."""

    id: str = ""
    version: str = ""


class SystemInventory(msgspec.Struct, frozen=True):
    """What the base brings besides Python's distributions."""

    os: OperatingSystem = OperatingSystem()
    packages: tuple[SystemPackage, ...] = ()
    unread: tuple[str, ...] = ()  # package databases that are there and could not be read


class RPackage(msgspec.Struct, frozen=True, omit_defaults=True):
    """One installed R package of the base, in the first library that has it."""

    name: str
    version: str
    library: str  # the folder that holds its folder
    built: str = ""  # the R version it was built with: 4.2.2
    priority: str = ""  # "base" for R's own, "recommended" for those that R is shipped with


class RFacts(msgspec.Struct, frozen=True):
    """The R that ``R`` on the base's PATH starts. All paths are paths in the image."""

    path: str  # as PATH finds it: /usr/bin/R
    home: str  # R_HOME: /usr/lib/R
    version: str  # full: 4.2.2
    platform: str  # of R's own compiled packages: x86_64-pc-linux-gnu
    libraries: tuple[str, ...]  # where R looks for packages, in order, R's own last; outside of any home, there or not
    library: str  # where a team's packages go: the last of them before R's own
    packages: tuple[RPackage, ...]  # sorted by name

    @property
    def minor(self) -> str:
        """``4.2``: what a binary package is built for."""
        return ".".join(self.version.split(".")[:2])

    def package(self, name: str) -> RPackage | None:
        """The installed package of that name, which R distinguishes by case."""
        return next((item for item in self.packages if item.name == name), None)


class VSCodeExtension(msgspec.Struct, frozen=True, omit_defaults=True):
    """One VS Code extension of the base."""

    name: str  # publisher.name in lower case
    version: str
    folder: str  # where it lies
    builtin: bool = False  # in VS Code's own folder, not in that of a user


class VSCodeFacts(msgspec.Struct, frozen=True):
    """The base's code-server."""

    server: str  # code-server's version
    version: str  # VS Code's version
    folder: str  # VS Code's own extensions: found at every start, whatever is mounted over a user's folders
    extensions: tuple[VSCodeExtension, ...] = ()  # sorted by name


class User(msgspec.Struct, frozen=True):
    """Who the image runs as. ``config`` is ``config.User`` verbatim; the rest is looked up in the base's passwd."""

    config: str
    uid: int
    gid: int
    name: str = ""
    home: str = "/"  # HOME of the image's Env if set, else passwd's


class BaseLayer(msgspec.Struct, frozen=True):
    """One layer of the base."""

    digest: str
    size: int  # bytes as stored
    diff_id: str
    uncompressed: int  # bytes of tar


class Inventory(msgspec.Struct, frozen=True):
    """The short form: everything later rooms need but single paths."""

    format: int
    digest: str  # of the platform's manifest
    platform: Platform
    fingerprint: str  # sha256:...; see compute_fingerprint
    user: User
    path: tuple[str, ...]  # PATH, split
    interpreter: Interpreter | None
    distributions: tuple[Distribution, ...]
    layers: tuple[BaseLayer, ...]
    shadowed_interpreters: tuple[str, ...] = ()  # further Pythons later on PATH
    system: SystemInventory = SystemInventory()  # no part of the fingerprint: no lock depends on it
    r: RFacts | msgspec.UnsetType = msgspec.UNSET  # not encoded where the base has no R; the locks of R packages say what they rely on
    vscode: VSCodeFacts | msgspec.UnsetType = msgspec.UNSET  # a lock of extensions depends on it, a Python lock does not

    def distribution(self, name: str) -> Distribution | None:
        """The installed distribution of that normalised name."""
        return next((item for item in self.distributions if item.name == name), None)


class Runtime(Protocol):
    """The base's interpreter on this machine: through the base's own loader, isolated, environment scrubbed."""

    def run(
        self,
        code: str,
        *arguments: str,
        input: bytes = b"",
        path: Sequence[Path] = (),
        network: bool = False,
        environment: Mapping[str, str] | None = None,
        timeout: float = 300,
    ) -> CompletedProcess[bytes]:
        """Run ``code`` as ``python -c`` would, with ``path`` put first on sys.path; output captured, never raises for
        a non-zero exit. ``environment`` adds to the scrubbed environment (PATH, HOME=/nonexistent, LC_ALL=C.UTF-8,
        PYTHONHASHSEED=0, PYTHONNOUSERSITE=1, PYTHONDONTWRITEBYTECODE=1, nothing else of ours)."""

    def start(self, code: str, *arguments: str) -> Popen[bytes]:
        """The same as a child with pipes on stdin, stdout and stderr, without network where the machine allows."""


class Base(msgspec.Struct, frozen=True):
    """A base image, ready to lock against and build on."""

    name: str  # of the catalogue
    kind: str  # jupyter, vscode, rstudio
    reference: str  # registry/repository[:tag] or layout:repository:tag, as annotations name it
    registry: str  # the registry host the blobs are in (after mirrors), or "" for the layout folder
    repository: str
    pinned: Digest  # what the catalogue pins: an index or a manifest (org.opencontainers.image.base.digest)
    manifest: Manifest  # of the platform
    config: ImageConfig
    config_data: bytes  # the config blob's bytes
    inventory: Inventory
    tree: Tree
    runtime: Runtime | None  # None where the base has no Python or this machine is of another architecture

    @property
    def interpreter(self) -> Interpreter:
        """The interpreter, for code that runs after the check that there is one."""
        assert self.inventory.interpreter is not None
        return self.inventory.interpreter


def compute_fingerprint(interpreter: Interpreter | None, distributions: Sequence[Distribution]) -> str:
    """What a lock depends on: interpreter version and paths, markers, tags, distributions with versions.

    Two bases with the same fingerprint take the same lock, whatever else their layers hold.
    """
    markers = dict(interpreter.markers) if interpreter else {}
    for volatile in ("platform_release", "platform_version"):  # the kernel's, not the base's
        markers.pop(volatile, None)
    content = {
        "interpreter": None
        if interpreter is None
        else {
            "version": interpreter.version,
            "implementation": interpreter.implementation,
            "magic": interpreter.magic,
            "path": interpreter.path,
            "paths": interpreter.paths,
            "tags": list(interpreter.tags),
            "markers": markers,
        },
        "distributions": sorted(f"{item.name}=={item.version}" for item in distributions),
    }
    return Digest.of(msgspec.json.encode(content, order="sorted"))
