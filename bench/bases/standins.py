"""One stand-in a kind: its layers above Debian's, its config, and how it is stored.

What they copy is what the real ones publish (names, users, folders, variables, start commands); no byte of a real one is in them, and
programs are Debian's own. Frameworks are tiny modules with the metadata of the real distribution.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from bench.bases.parts import (
    PYTHON,
    SITE,
    Entries,
    Parts,
    conda_record,
    distribution,
    fetch_debian_packages,
    folders_above,
    merge,
    own,
    unpack_debian_packages,
)
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Platform
from imagebuild.starter.rootfs import clean_tar
from tests.support.images import DEBIAN_PACKAGES, REPOSITORY, debian_rootfs, entry, make_layer, push_image, push_index
from tests.support.servers.registry import Registry
from tests.support.workspaces import run_tool, skopeo_copy

NGC_TORCH = "2.13.0a0+nv26.1"
KUBEFLOW_TORCH = "2.13.0+cpu"
NGC_CONSTRAINTS = "/etc/pip/constraint.txt"
_LAYERS = 60
_EPOCH = 1_767_225_600  # 2026-01-01, for what Debian dates later
_PANDAS = (
    "python3-pandas", "python3-pandas-lib", "python3-numpy", "python3-dateutil", "python3-tz", "libblas3", "liblapack3", "libgfortran5",
    "libquadmath0",
)  # fmt: skip
# What torch asks for beside CUDA's libraries, which a build from source has none of.
_TORCH_NEEDS = ("filelock", "typing-extensions>=4.10.0", "setuptools<82", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5")
_BESIDE_TORCH = {
    "filelock": "3.20.0", "setuptools": "80.9.0", "sympy": "1.14.0", "mpmath": "1.3.0", "networkx": "3.5", "fsspec": "2025.9.0",
    "numpy": "2.3.3", "pillow": "11.3.0",
}  # fmt: skip
_PLAIN = MappingProxyType(
    {"User": "1000", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan", "LANG=C.UTF-8"], "WorkingDir": "/home/jovyan",
     "Entrypoint": ["/usr/bin/tini", "--"], "Cmd": ["/usr/local/bin/start-notebook"]}
)  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """A kind of base. ``python``: the interpreter that a team's packages must go to; empty for a base that has none."""

    name: str
    layers: Callable[[Parts, Path], list[Entries]]
    config: Mapping[str, object] = field(default_factory=lambda: _PLAIN)
    python: str = "/usr/bin/python3"
    environment: str = "system"  # as base inspect has it
    form: str = ""  # skopeo's --format, for a manifest that is not OCI's
    indexed: bool = False  # under an index with a second platform
    compression: str = "zstd"
    root: Callable[[Parts, Path], bytes] = lambda parts, _folder: parts.debian
    server: bool = True  # whether it has JupyterLab; a team on one that has not asks for it
    failing: frozenset[str] = frozenset()  # checks of smoke that must fail, as the platform refuses such an image: "CHECK (RUN)"
    versions: Mapping[str, str] = field(default_factory=dict)  # distributions that base inspect must list


def _server(parts: Parts, _folder: Path) -> list[Entries]:
    return [parts.server()]


# --- Kubeflow ---------------------------------------------------------------------------------------------------------

_INIT = """\
#!/bin/sh
# As s6-overlay's: hooks first, then the services; pid 1 stays.
set -eu
for hook in /etc/cont-init.d/*; do "$hook"; done
exec /etc/services.d/jupyterlab/run
"""
_HOOK = """\
#!/bin/sh
cp -rn "$HOME_TMP/." "$HOME/"
"""
_RUN = """\
#!/bin/sh
cd "$HOME"
exec /opt/conda/bin/jupyter lab --notebook-dir="$HOME" --ip=0.0.0.0 --no-browser --port=8888 --ServerApp.token= --ServerApp.password= \\
  --ServerApp.allow_origin='*' --ServerApp.allow_remote_access=True --ServerApp.authenticate_prometheus=False \\
  --ServerApp.base_url="$NB_PREFIX"
"""
_CONDA = f"opt/conda/lib/{PYTHON}/site-packages"
_KUBEFLOW = MappingProxyType(
    {
        "User": "1000",
        "Env": [
            "PATH=/opt/conda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "NB_USER=jovyan", "NB_UID=1000", "NB_GID=0",
            "USERS_GID=100", "NB_PREFIX=/", "HOME=/home/jovyan", "HOME_TMP=/tmp_home/jovyan", "CONDA_DIR=/opt/conda", "SHELL=/bin/bash",
            "LANG=en_US.UTF-8",
        ],
        "Entrypoint": ["/init"],
        "WorkingDir": "/home/jovyan",
        "ExposedPorts": {"8888/tcp": {}},
    }
)  # fmt: skip


def _kubeflow(parts: Parts, _folder: Path) -> list[Entries]:
    conda = parts.interpreter("opt/conda") + parts.server("opt/conda", _CONDA, f"/opt/conda/bin/{PYTHON}")
    place = f"lib/{PYTHON}/site-packages"
    by_conda = [  # conda installed these, pip the others
        conda_record(name, version, [f"{place}/{stem}/METADATA", f"{place}/{stem}/RECORD"], "opt/conda")
        for name, version, stem in _find_distributions(conda, _CONDA, ("jinja2", "pyyaml", "tornado"))
    ]
    top = [entry("opt/conda", mode=0o2775), entry("opt/conda/conda-meta"), *by_conda]
    start = [
        entry("init", _INIT.encode(), mode=0o755),
        entry("etc/cont-init.d"),
        entry("etc/cont-init.d/01-copy-tmp-home", _HOOK.encode(), mode=0o755),
        entry("etc/services.d"),
        entry("etc/services.d/jupyterlab"),
        entry("etc/services.d/jupyterlab/run", _RUN.encode(), mode=0o755),
        entry("tmp_home"),
        *own([entry("tmp_home/jovyan", mode=0o775), entry("tmp_home/jovyan/.bashrc", b"alias ll='ls -l'\n")], 1000, 0),
    ]
    return [own([*top, *conda], 1000, 0), start]


def _find_distributions(entries: Entries, library: str, names: tuple[str, ...]) -> list[tuple[str, str, str]]:
    """(name, version, dist-info folder) of each."""
    found = []
    for info, _ in entries:
        stem = info.name.removeprefix(f"{library}/").partition("/")[0]
        name, dash, version = stem.removesuffix(".dist-info").partition("-")
        if info.name == f"{library}/{stem}/RECORD" and dash and name.lower() in names:
            found.append((name.lower(), version, stem))
    assert len(found) == len(names), (names, found)
    return found


def _kubeflow_torch(parts: Parts, folder: Path) -> list[Entries]:
    return [*_kubeflow(parts, folder), own(_torch(KUBEFLOW_TORCH, "0.28.0+cpu", _CONDA), 1000, 0)]


def _torch(version: str, vision: str, library: str, leave_out: tuple[str, ...] = ()) -> Entries:
    parts = [
        item for name, pinned in _BESIDE_TORCH.items() if name not in leave_out for item in distribution(name, pinned, library=library)
    ]
    torch = distribution("torch", version, _TORCH_NEEDS, library=library)
    return [*parts, *torch, *distribution("torchvision", vision, ("numpy", f"torch=={version}", "pillow>=5.3.0"), library=library)]


# --- OpenDataHub ------------------------------------------------------------------------------------------------------

_APP = "opt/app-root"
_ODH = MappingProxyType(
    {
        "User": "1001",
        "Env": [
            f"PATH=/{_APP}/src/.local/bin:/{_APP}/src/bin:/{_APP}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"HOME=/{_APP}/src", f"APP_ROOT=/{_APP}", "PYTHONUNBUFFERED=1", "PYTHONIOENCODING=UTF-8", "LANG=C.UTF-8",
            "PIP_INDEX_URL=https://index.invalid/simple", f"PIP_CONFIG_FILE=/{_APP}/pip.conf", "PIP_NO_CACHE_DIR=off",
            "PIP_DISABLE_PIP_VERSION_CHECK=1", "PIP_REQUIRE_VIRTUALENV=1", f"UV_CONFIG_FILE=/{_APP}/uv.toml",
            "UV_DEFAULT_INDEX=https://index.invalid/simple", "UV_PROJECT_ENVIRONMENT=/opt/app-root", "VIRTUAL_ENV=/opt/app-root",
        ],
        "Entrypoint": ["start-notebook"],
        "WorkingDir": f"/{_APP}/src",
        "ExposedPorts": {"8888/tcp": {}},
    }
)  # fmt: skip


def _opendatahub(parts: Parts, _folder: Path) -> list[Entries]:
    library = f"{_APP}/lib/{PYTHON}/site-packages"
    passwd = parts.read("etc/passwd").replace(
        b"jovyan:x:1000:0:jovyan:/home/jovyan", f"default:x:1001:0:Default Application User:/{_APP}/src".encode()
    )
    venv = [
        *folders_above(f"{library}/x"),
        entry(f"{_APP}/bin"),
        entry(f"{_APP}/lib64", link="lib"),
        entry(f"{_APP}/bin/{PYTHON}", link=f"/usr/bin/{PYTHON}"),
        entry(f"{_APP}/bin/python3", link=PYTHON),
        entry(f"{_APP}/bin/python", link="python3"),
        entry(f"{_APP}/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"),
        entry(f"{_APP}/pip.conf", b"[global]\nindex-url = https://index.invalid/simple\nno-deps = true\nprefix = /nowhere\n"),
        entry(f"{_APP}/uv.toml", b'index-url = "https://index.invalid/simple"\n'),
        entry(f"{_APP}/src", mode=0o775),
        *parts.server(_APP, library, f"/{_APP}/bin/{PYTHON}"),
    ]
    return [[entry("etc/passwd", passwd)], own(venv, 1001, 0)]


# --- NVIDIA -----------------------------------------------------------------------------------------------------------

_NGC = MappingProxyType(
    {
        "Env": [
            "PATH=/usr/local/nvidia/bin:/usr/local/cuda/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            f"PIP_CONSTRAINT={NGC_CONSTRAINTS}", "PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_DEFAULT_TIMEOUT=100", "LANG=C.UTF-8",
            "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_REQUIRE_CUDA=cuda>=9.0", f"PYTORCH_BUILD_VERSION={NGC_TORCH}", "JUPYTER_PORT=8888",
        ],
        "Entrypoint": ["/opt/nvidia/nvidia_entrypoint.sh"],
        "Cmd": ["/usr/local/bin/start-notebook"],
        "WorkingDir": "/workspace",
    }
)  # fmt: skip
# No USER: root may write what it installed; and a home that only root may enter.
_AS_ROOT = frozenset({"user (image)", "read-only files (own-user)", "server (random-uid)"})
_MANAGED = b"[externally-managed]\nError=To install Python packages system-wide, try apt install python3-xyz.\n"


def _ngc(parts: Parts, folder: Path) -> list[Entries]:
    packages = fetch_debian_packages(_PANDAS, folder / "debian")
    debian = unpack_debian_packages(packages, parts.read("var/lib/dpkg/status"))
    library = "usr/lib/x86_64-linux-gnu"
    debian += [  # as their postinst scripts leave them
        entry(f"{library}/libblas.so.3", link=f"/{library}/blas/libblas.so.3"),
        entry(f"{library}/liblapack.so.3", link=f"/{library}/lapack/liblapack.so.3"),
    ]
    torch = _torch(NGC_TORCH, "0.25.0a0+nv26.1", SITE, leave_out=("numpy",))
    own_files = [
        entry(f"usr/lib/{PYTHON}/EXTERNALLY-MANAGED", _MANAGED),
        entry("etc/pip"),
        entry(NGC_CONSTRAINTS[1:], f"torch=={NGC_TORCH}\ngadget<2\n".encode()),
        entry("workspace", mode=0o777),
        entry("etc/jupyter"),
        entry("etc/jupyter/jupyter_server_config.json", b'{"ServerApp": {"allow_root": true}}\n'),
        entry("opt/nvidia"),
        entry("opt/nvidia/nvidia_entrypoint.sh", b'#!/bin/sh\necho "== PyTorch =="\nexport HOME="${HOME:-/root}"\nexec "$@"\n', mode=0o755),
    ]
    return [debian, parts.server(), torch, own_files]


# --- shapes -----------------------------------------------------------------------------------------------------------


def _many_layers(parts: Parts, _folder: Path) -> list[Entries]:
    """JupyterLab in many layers; each also changes one file, adds one and takes the one before away."""
    files, count = parts.server(), _LAYERS - 1
    step = len(files) // count + 1
    found = []
    for number in range(count):
        marks = [entry("etc/layers"), entry("etc/layers/newest", f"{number}\n".encode()), entry(f"etc/layers/{number}", b"x\n")]
        if number:
            marks.append(entry(f"etc/layers/.wh.{number - 1}", b""))
        found.append([*marks, *files[number * step : (number + 1) * step]])
    return found


def _two_pythons(parts: Parts, _folder: Path) -> list[Entries]:
    """Debian's in /usr/bin, with a distribution of its own, and one that was built into /usr/local, where JupyterLab is."""
    library = f"usr/local/lib/{PYTHON}/site-packages"
    built = parts.interpreter("usr/local") + parts.server("usr/local", library, f"/usr/local/bin/{PYTHON}")
    return [distribution("duckdb", "0.1", library="usr/lib/python3/dist-packages"), built]


def _make_trixie(_parts: Parts, folder: Path) -> bytes:
    """Debian 13's Python 3.13 with pip, and no notebook server."""
    layer = io.BytesIO()
    with debian_rootfs(folder / "debian", "trixie", f"{DEBIAN_PACKAGES},python3-pip").open("rb") as rootfs:
        clean_tar(rootfs, layer, _EPOCH)
    return layer.getvalue()


STAND_INS = (
    StandIn("kubeflow", _kubeflow, _KUBEFLOW, "/opt/conda/bin/python3", "conda"),
    StandIn("kubeflow-pytorch", _kubeflow_torch, _KUBEFLOW, "/opt/conda/bin/python3", "conda", versions={"torch": KUBEFLOW_TORCH}),
    StandIn("opendatahub", _opendatahub, _ODH, f"/{_APP}/bin/python3", "venv"),
    StandIn("ngc", _ngc, _NGC, failing=_AS_ROOT, versions={"torch": NGC_TORCH, "pandas": "1.5.3", "numpy": "1.24.2"}),
    StandIn("schema2", _server, form="v2s2", compression="gzip"),
    StandIn("index", _server, indexed=True, compression="gzip"),
    StandIn("zstd", _server),
    StandIn("layers", _many_layers),
    StandIn("two-pythons", _two_pythons, python="/usr/local/bin/python3"),
    StandIn("trixie", lambda _parts, _folder: [], root=_make_trixie, server=False),
    StandIn("none", lambda parts, _folder: [parts.without_python()], python=""),
)


def push_stand_in(item: StandIn, parts: Parts, registry: Registry, folder: Path) -> str:
    """Make the stand-in and push it with skopeo: its reference, whose tag is ``1``."""
    store = LayoutStore(folder / "layouts" / item.name)
    layers = [item.root(parts, folder), *(make_layer(merge(layer)) for layer in item.layers(parts, folder))]
    raw = push_image(store, layers, json.loads(json.dumps(dict(item.config))), compression=item.compression)
    tag = "1"
    if item.indexed:
        arm = Platform("linux", "arm64")
        other = push_image(store, [make_layer([entry("etc"), entry("etc/arm", b"arm\n")])], {"User": "1000"}, tag="arm", platform=arm)
        push_index(store, [(arm, other), (Platform(), raw)])
        tag = "index"
    reference = f"{registry.host}/bases/{item.name}"
    options = [f"--format={item.form}"] if item.form else ["--all", "--preserve-digests"]
    skopeo_copy(f"oci:{store.folder}:{REPOSITORY}:{tag}", f"docker://{reference}:1", *options)
    return reference


def read_pushed_digest(reference: str) -> str:
    """What the tag of a stand-in names, by crane."""
    return run_tool("crane", "digest", "--insecure", f"{reference}:1").decode().strip()
