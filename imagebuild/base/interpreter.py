"""What the base's Python says about itself, and what that means for installing into the base.

The interpreter is run once, isolated; it is given its place in the image (``sys.prefix`` and the rest) before it
computes anything, so that all paths come out as paths of the image, by the base's own, possibly patched, ``sysconfig``
and ``site``. Paths are those pip uses: its preferred scheme, and in a virtual environment its special include folder.
"""

from __future__ import annotations

import importlib.util
import json
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.cutout import FoundPython
from imagebuild.base.model import Interpreter, Runtime
from imagebuild.base.tree import SqliteTree
from imagebuild.decoding import make_decoder
from imagebuild.errors import BuildError, ConfigurationError

_VOLATILE_MARKERS = ("platform_release", "platform_version")  # the kernel's, which is not the base's
_PROBE = """
import json, os, sys
facts = json.loads(sys.argv[1])
loader = facts["musl_loader"]
sys.prefix = sys.exec_prefix = facts["prefix"]
sys.base_prefix = sys.base_exec_prefix = facts["base_prefix"]
sys.executable = facts["executable"]
import importlib.util, platform, site, sysconfig
import packaging.markers, packaging.tags
if loader:
    # packaging asks the loader that the executable names; here that one lies elsewhere.
    import packaging._musllinux
    packaging._musllinux.ELFFile = lambda stream: type("Elf", (), {"interpreter": loader})
    sys.executable = loader
if hasattr(sysconfig, "get_preferred_scheme"):
    scheme = sysconfig.get_preferred_scheme("prefix")
elif hasattr(sysconfig, "_get_default_scheme"):
    scheme = sysconfig._get_default_scheme()
else:
    scheme = "posix_prefix"
paths = sysconfig.get_paths(scheme)
tags = [str(tag) for tag in packaging.tags.sys_tags()]
sys.executable = facts["executable"]
folders = site.getsitepackages([facts["prefix"]])
if facts["system_site_packages"]:
    folders += site.getsitepackages([facts["base_prefix"]])
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
except (AttributeError, ValueError, OSError):
    libc = ""
json.dump({
    "version": platform.python_version(),
    "implementation": sys.implementation.name,
    "cache_tag": sys.implementation.cache_tag or "",
    "magic": importlib.util.MAGIC_NUMBER.hex(),
    "paths": {name: paths[name] for name in ("purelib", "platlib", "scripts", "data", "include")},
    "stdlib": paths["stdlib"],
    "short": "%d.%d" % sys.version_info[:2],
    "markers": packaging.markers.default_environment(),
    "tags": tags,
    "libc": libc,
    "folders": folders,
}, sys.stdout)
"""


class Findings(msgspec.Struct, frozen=True):
    """The interpreter, and the folders of its ``sys.path`` that hold distributions, in order."""

    interpreter: Interpreter
    folders: tuple[str, ...]


class _Report(msgspec.Struct, frozen=True):
    version: str
    implementation: str
    cache_tag: str
    magic: str
    paths: dict[str, str]
    stdlib: str
    short: str
    markers: dict[str, str]
    tags: tuple[str, ...]
    libc: str
    folders: tuple[str, ...]


_REPORT = make_decoder(_Report)


def link_packaging(folder: Path) -> Path:
    """A folder for sys.path that holds our ``packaging`` and nothing else of this program's environment."""
    spec = importlib.util.find_spec("packaging")
    if spec is None or not spec.submodule_search_locations:
        raise BuildError("the Python package `packaging` is missing", "install imagebuild with its dependencies")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "packaging").symlink_to(Path(next(iter(spec.submodule_search_locations))).absolute(), target_is_directory=True)
    return folder


def describe_interpreter(
    runtime: Runtime,
    python: FoundPython,
    tree: SqliteTree,
    home: str,
    tools: Path,
    environment: Mapping[str, str],
    musl_loader: str = "",
) -> Findings:
    """Run the base's Python and put its answers in order.

    ``home`` is the prefix of the Python that runs, as a path in the image; ``tools`` holds ``packaging``;
    ``environment`` is the image's ``Env``, of which only what shapes paths counts.
    """
    venv = python.environment
    prefix = venv.prefix if venv else home
    facts = {
        "prefix": prefix,
        "base_prefix": home,
        "executable": python.path,
        "system_site_packages": bool(venv and venv.system_site_packages),
        "musl_loader": musl_loader,
    }
    layout = {key: value for key, value in environment.items() if key == "DEB_PYTHON_INSTALL_LAYOUT"}
    done = runtime.run(_PROBE, json.dumps(facts), path=[tools], environment=layout, timeout=60)
    try:
        report = _REPORT.decode(done.stdout) if done.returncode == 0 else None
    except msgspec.DecodeError:
        report = None
    if report is None:
        raise ConfigurationError(
            f"the base's Python ({python.path}) does not run on this machine (exit {done.returncode})",
            "a base needs CPython 3.8 or newer that starts with the base's own libraries",
            tuple(done.stderr.decode("utf-8", "replace").strip().splitlines()[-5:]),
        )
    paths = dict(report.paths)
    if venv:
        paths["include"] = posixpath.join(prefix, "include", "site", f"python{report.short}")  # where pip puts headers
    conda = tree.get(tree.resolve(f"{prefix}/conda-meta"))
    interpreter = Interpreter(
        path=python.path,
        executable=python.executable,
        version=report.version,
        implementation=report.implementation,
        cache_tag=report.cache_tag,
        magic=report.magic,
        environment="venv" if venv else "conda" if conda is not None and conda.type == "dir" else "system",
        prefix=prefix,
        base_prefix=home,
        paths=paths,
        markers={**report.markers, **dict.fromkeys(_VOLATILE_MARKERS, "")},
        tags=report.tags,
        libc=report.libc or ("musl" if musl_loader else ""),
        externally_managed=venv is None and tree.get(tree.resolve(f"{report.stdlib}/EXTERNALLY-MANAGED")) is not None,
    )
    return Findings(interpreter, (*python_path(environment), *report.folders))


def python_path(environment: Mapping[str, str]) -> Sequence[str]:
    """The folders that the image's own ``PYTHONPATH`` puts before all others."""
    return [folder for folder in environment.get("PYTHONPATH", "").split(":") if folder.startswith("/")]
