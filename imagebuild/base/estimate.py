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

from imagebuild.base.cutout import Cutter, FoundPython
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


def estimate_interpreter(
    tree: SqliteTree, cutter: Cutter, python: FoundPython, platform: Platform, environment: Mapping[str, str]
) -> Findings:
    """The same answer as :func:`imagebuild.base.interpreter.describe_interpreter`, from files alone."""
    from packaging import tags

    machine = _MACHINES.get(platform.architecture)
    prefix, short, threads = cutter.find_standard_library(python.runnable)
    root = prefix.rstrip("/")
    if machine is None or threads or python.runnable.endswith("d"):
        raise _refuse(python, platform, "is of a kind that imagebuild cannot describe without running it")
    pattern = rb"\0(%s\.[0-9]+(?:(?:a|b|rc)[0-9]+)?)\+?\0" % re.escape(short.encode())
    libraries = (f"{folder}/libpython{short}.so.1.0" for folder in cutter.library_folders(root))
    version = next(
        (found for path in (python.runnable, *libraries) if (found := _search(cutter.file(path), pattern))),
        "",
    )
    libc = next((cutter.file(f"{folder}/libc.so.6") for folder in cutter.library_folders(root) if cutter.file(f"{folder}/libc.so.6")), None)
    glibc = _search(libc, rb"GNU C Library[^\n]{0,200}? release version (2\.[0-9]+)")
    if not version or not glibc:
        raise _refuse(python, platform, "does not say its version" if not version else "does not use glibc")
    library = posixpath.join(root, "lib64" if tree.get(f"{root}/lib64/python{short}/os.py") else "lib")
    folder = f"{library}/python{short}"
    magic = _search(cutter.file(f"{folder}/importlib/_bootstrap_external.py"), rb"MAGIC_NUMBER = \(([0-9]+)\)\.to_bytes\(2")
    sysconfig = cutter.file(f"{folder}/sysconfig.py") or cutter.file(f"{folder}/sysconfig/__init__.py")
    debian, fedora = bool(_search(sysconfig, rb"(posix_local)")), bool(_search(sysconfig, rb"(rpm_prefix)"))
    venv = python.environment
    if sysconfig is None or (fedora and venv is None):
        raise _refuse(python, platform, "has an install scheme of its own")
    own = venv.prefix if venv else (root or "/")
    name, platlib = f"python{short}", posixpath.basename(library)

    def site_folders(base: str) -> list[str]:
        site = [f"{base}/lib/{name}/site-packages"] if venv or not debian else []
        if debian:
            return [
                *site,
                f"{base}/local/lib/{name}/dist-packages",
                f"{base}/lib/python3/dist-packages",
                f"{base}/lib/{name}/dist-packages",
            ]
        return [f"{base}/{platlib}/{name}/site-packages", *site]

    local = f"{own}/local" if debian and venv is None else own
    packages = "dist-packages" if debian and venv is None else "site-packages"
    digits = short.replace(".", "")
    platforms = list(list_platform_tags(glibc, machine))
    numbers = tuple(int(part) for part in short.split("."))
    interpreter = Interpreter(
        path=python.path,
        executable=python.executable,
        version=version,
        implementation="cpython",
        cache_tag=f"cpython-{digits}",
        # The pyc header's first four bytes: the number, then CR LF (importlib, PEP 3147).
        magic=(int(magic).to_bytes(2, "little") + b"\r\n").hex() if magic else "",
        environment="venv" if venv else "conda" if tree.follow(f"{own}/conda-meta") else "system",
        prefix=own,
        base_prefix=root or "/",
        paths={
            "purelib": f"{local}/lib/{name}/{packages}",
            "platlib": f"{local}/{'lib' if debian else platlib}/{name}/{packages}",
            "scripts": f"{local}/bin",
            "data": local,
            "include": f"{own}/include/site/{name}" if venv else f"{own}/include/{name}",
        },
        markers={
            "implementation_name": "cpython",
            "implementation_version": version,
            "os_name": "posix",
            "platform_machine": machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": version,
            "python_version": short,
            "sys_platform": "linux",
        },
        tags=(
            *map(str, tags.cpython_tags(numbers, abis=[f"cp{digits}"], platforms=platforms)),
            *map(str, tags.compatible_tags(numbers, interpreter=f"cp{digits}", platforms=platforms)),
        ),
        libc=f"glibc {glibc}",
        externally_managed=venv is None and tree.get(f"{folder}/EXTERNALLY-MANAGED") is not None,
    )
    folders = site_folders(own)
    if venv and venv.system_site_packages:
        folders += site_folders(root or "/")
    return Findings(interpreter, (*python_path(environment), *folders))
