"""What can be said about a base's CPython without running it: for a base of another architecture than this machine.

The version is read from the executable, the magic number and the flavour of installation paths from the standard
library, glibc's version from the base's ``libc.so.6``; tags and markers follow from those and the platform. Where the
flavour is one whose rules are not known here the base is refused rather than guessed at.
"""

from __future__ import annotations

import mmap
import posixpath
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
from packaging import tags

from imagebuild.base.cutout import Cutter, FoundPython, VirtualEnvironment
from imagebuild.base.interpreter import Findings, python_path
from imagebuild.base.model import Interpreter
from imagebuild.base.tree import SqliteTree
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Platform

_MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64le": "ppc64le", "s390x": "s390x", "riscv64": "riscv64"}
_LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}  # PEP 600


def _search(file: Path | None, pattern: bytes) -> str:
    """The first group of the first match in a file, or an empty string."""
    if file is None or not file.stat().st_size:
        return ""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        match = re.search(pattern, data)
        return match[1].decode("ascii") if match else ""


def list_platform_tags(glibc: str, machine: str) -> Iterator[str]:
    """Platform tags in the order of packaging.tags: plain linux, then manylinux from ``glibc`` (``2.36``) down (PEP 600)."""
    yield f"linux_{machine}"
    legacy = machine == "x86_64"
    for minor in range(int(glibc.split(".")[1]), 4 if legacy else 16, -1):
        yield f"manylinux_2_{minor}_{machine}"
        if minor in _LEGACY and (legacy or machine in ("aarch64", "ppc64le", "s390x")):
            yield f"{_LEGACY[minor]}_{machine}"


def _refuse(python: FoundPython, platform: Platform, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the base is for {platform}, which this machine cannot run, and its Python ({python.path}) {why}",
        f"read it once on a {platform} machine, with the cache folder of that machine shared or copied here",
    )


class _Installation(msgspec.Struct, frozen=True):
    """What the base's files say of its Python; everything else follows from it."""

    machine: str  # as in platform tags: x86_64
    root: str  # the prefix of the standard library, without a slash at the end: "" for /
    short: str  # 3.11
    version: str  # 3.11.2
    glibc: str  # 2.36
    magic: str  # importlib's number in digits
    library: str  # the folder that holds the standard library's: /usr/lib
    debian: bool  # sysconfig has Debian's schemes
    venv: VirtualEnvironment | None

    @property
    def name(self) -> str:
        return f"python{self.short}"

    @property
    def own(self) -> str:
        """sys.prefix."""
        return self.venv.prefix if self.venv else (self.root or "/")

    @property
    def platlib(self) -> str:
        """``lib``, or ``lib64`` where the distribution has that."""
        return posixpath.basename(self.library)

    def list_sites(self, prefix: str) -> list[str]:
        """The folders of packages below a prefix, in the order of sys.path."""
        site = [f"{prefix}/lib/{self.name}/site-packages"] if self.venv or not self.debian else []
        if not self.debian:
            return [f"{prefix}/{self.platlib}/{self.name}/site-packages", *site]
        folders = (f"local/lib/{self.name}/dist-packages", "lib/python3/dist-packages", f"lib/{self.name}/dist-packages")
        return [*site, *(f"{prefix}/{folder}" for folder in folders)]

    def list_paths(self) -> dict[str, str]:
        """Where pip installs to (sysconfig's scheme): Debian's Python has its own for what does not come with Debian."""
        local = f"{self.own}/local" if self.debian and self.venv is None else self.own
        packages = "dist-packages" if self.debian and self.venv is None else "site-packages"
        return {
            "purelib": f"{local}/lib/{self.name}/{packages}",
            "platlib": f"{local}/{'lib' if self.debian else self.platlib}/{self.name}/{packages}",
            "scripts": f"{local}/bin",
            "data": local,
            "include": f"{self.own}/include/site/{self.name}" if self.venv else f"{self.own}/include/{self.name}",
        }

    def list_markers(self) -> dict[str, str]:
        """The PEP 508 environment of CPython on Linux; what is the kernel's stays empty."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.version,
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.version,
            "python_version": self.short,
            "sys_platform": "linux",
        }

    def list_tags(self) -> tuple[str, ...]:
        """Wheel tags, best first."""
        digits = self.short.replace(".", "")
        platforms = list(list_platform_tags(self.glibc, self.machine))
        numbers = tuple(int(part) for part in self.short.split("."))
        own = tags.cpython_tags(numbers, abis=[f"cp{digits}"], platforms=platforms)
        return (*map(str, own), *map(str, tags.compatible_tags(numbers, interpreter=f"cp{digits}", platforms=platforms)))


def _read_installation(tree: SqliteTree, cutter: Cutter, python: FoundPython, platform: Platform) -> _Installation:
    machine = _MACHINES.get(platform.architecture)
    prefix, short, threads = cutter.find_standard_library(python.runnable)
    root = prefix.rstrip("/")
    if machine is None or threads or python.runnable.endswith("d"):
        raise _refuse(python, platform, "is of a kind that imagebuild cannot describe without running it")
    pattern = rb"\0(%s\.[0-9]+(?:(?:a|b|rc)[0-9]+)?)\+?\0" % re.escape(short.encode())
    libraries = (f"{folder}/libpython{short}.so.1.0" for folder in cutter.library_folders(root))
    version = next((found for path in (python.runnable, *libraries) if (found := _search(cutter.file(path), pattern))), "")
    libc = next((cutter.file(f"{folder}/libc.so.6") for folder in cutter.library_folders(root) if cutter.file(f"{folder}/libc.so.6")), None)
    glibc = _search(libc, rb"GNU C Library[^\n]{0,200}? release version (2\.[0-9]+)")
    if not version or not glibc:
        raise _refuse(python, platform, "does not say its version" if not version else "does not use glibc")
    library = posixpath.join(root, "lib64" if tree.get(f"{root}/lib64/python{short}/os.py") else "lib")
    folder = f"{library}/python{short}"
    magic = _search(cutter.file(f"{folder}/importlib/_bootstrap_external.py"), rb"MAGIC_NUMBER = \(([0-9]+)\)\.to_bytes\(2")
    sysconfig = cutter.file(f"{folder}/sysconfig.py") or cutter.file(f"{folder}/sysconfig/__init__.py")
    debian, fedora = bool(_search(sysconfig, rb"(posix_local)")), bool(_search(sysconfig, rb"(rpm_prefix)"))
    if sysconfig is None or (fedora and python.environment is None):
        raise _refuse(python, platform, "has an install scheme of its own")
    return _Installation(machine, root, short, version, glibc, magic, library, debian, python.environment)


def estimate_interpreter(
    tree: SqliteTree, cutter: Cutter, python: FoundPython, platform: Platform, environment: Mapping[str, str]
) -> Findings:
    """The same answer as :func:`imagebuild.base.interpreter.describe_interpreter`, from files alone."""
    found = _read_installation(tree, cutter, python, platform)
    venv, own = found.venv, found.own
    interpreter = Interpreter(
        path=python.path,
        executable=python.executable,
        version=found.version,
        implementation="cpython",
        cache_tag=f"cpython-{found.short.replace('.', '')}",
        # The pyc header's first four bytes: the number, then CR LF (importlib, PEP 3147).
        magic=(int(found.magic).to_bytes(2, "little") + b"\r\n").hex() if found.magic else "",
        environment="venv" if venv else "conda" if tree.follow(f"{own}/conda-meta") else "system",
        prefix=own,
        base_prefix=found.root or "/",
        paths=found.list_paths(),
        markers=found.list_markers(),
        tags=found.list_tags(),
        libc=f"glibc {found.glibc}",
        externally_managed=venv is None and tree.get(f"{found.library}/{found.name}/EXTERNALLY-MANAGED") is not None,
    )
    folders = found.list_sites(own)
    if venv and venv.system_site_packages:
        folders += found.list_sites(found.root or "/")
    return Findings(interpreter, (*python_path(environment), *folders))
