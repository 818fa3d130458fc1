"""A base with torch 2.5.1+cu121 and its CUDA libraries, by their real metadata: what a lock on it adds, and what it must not."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest

from imagebuild.lock.file.lockfile import read_lock
from tests.support.images import entry, make_layer
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker, need_index
from tests.support.workspaces import Built, Checkout, run_tool, skopeo_copy

pytestmark = pytest.mark.integration
SITE = "usr/local/lib/python3.11/dist-packages"
LINUX = 'platform_system == "Linux" and platform_machine == "x86_64"'
CUDA = {
    "nvidia-cublas-cu12": "12.1.3.1",
    "nvidia-cuda-cupti-cu12": "12.1.105",
    "nvidia-cuda-nvrtc-cu12": "12.1.105",
    "nvidia-cuda-runtime-cu12": "12.1.105",
    "nvidia-cudnn-cu12": "9.1.0.70",
    "nvidia-cufft-cu12": "11.0.2.54",
    "nvidia-curand-cu12": "10.3.2.106",
    "nvidia-cusolver-cu12": "11.4.5.107",
    "nvidia-cusparse-cu12": "12.1.0.106",
    "nvidia-nccl-cu12": "2.21.5",
    "nvidia-nvtx-cu12": "12.1.105",
}
# As the METADATA of the wheel for CUDA 12.1 has it.
TORCH = [
    "filelock",
    "typing-extensions (>=4.8.0)",
    "networkx",
    "jinja2",
    "fsspec",
    *(f"{name} (=={version}) ; {LINUX}" for name, version in CUDA.items()),
    f'triton (==3.1.0) ; {LINUX} and python_version < "3.13"',
    'sympy (==1.13.1) ; python_version >= "3.9"',
    'setuptools ; python_version >= "3.12"',
    "opt-einsum (>=3.3) ; extra == 'opt-einsum'",
    "optree (>=0.12.0) ; extra == 'optree'",
]
BESIDE = {"filelock": "3.16.1", "fsspec": "2024.10.0", "mpmath": "1.3.0", "networkx": "3.4.2", "numpy": "2.1.3", "pillow": "11.0.0"}


def installed(name: str, version: str, requires: list[str]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The metadata of a distribution as pip leaves it; none of its modules."""
    folder = f"{name.replace('-', '_')}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        "INSTALLER": "pip\n",
        "RECORD": f"{folder}/METADATA,,\n{folder}/RECORD,,\n",
    }
    return [entry(f"{SITE}/{folder}"), *(entry(f"{SITE}/{folder}/{file}", text.encode()) for file, text in files.items())]


@pytest.fixture(scope="module")
def torch_team(built: Built, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Team blue on the starter base with a torch stack installed on it."""
    need_index("timm")
    folder = tmp_path_factory.mktemp("torch")
    reference = f"{hub.host}/torch/base"
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{reference}:1")
    parts = [*CUDA.items(), *BESIDE.items(), ("triton", "3.1.0")]
    layer = [item for name, version in parts for item in installed(name, version, ["filelock"] if name == "triton" else [])]
    layer += installed("sympy", "1.13.1", ["mpmath<1.4,>=1.1.0"]) + installed("torch", "2.5.1+cu121", TORCH)
    (folder / "layer.tar").write_bytes(make_layer(layer))
    run_tool("crane", "append", "--insecure", "-b", f"{reference}:1", "-f", str(folder / "layer.tar"), "-t", f"{reference}:1")
    checkout = Checkout(folder / "checkout", built.checkout.cache)
    checkout.use_base("torch", reference, run_tool("crane", "digest", "--insecure", f"{reference}:1").decode().strip())
    checkout.write("images/blue/team.toml", 'base = "torch"\n')
    checkout.write("images/blue/requirements.in", "timm==1.0.12\n")
    return checkout


@pytest.mark.parametrize("resolver", ["uv", "pip-tools"])
def test_timm_brings_no_second_stack(torch_team: Checkout, resolver: str) -> None:
    torch_team.run("lock", "blue", "--upgrade", "--resolver", resolver, "--as-of", "2025-06-01").succeeded()
    lock = read_lock(torch_team.root / "lockfiles/pylock.blue.toml")
    names = {item.name for item in lock.packages}
    assert {"timm", "torchvision"} <= names
    assert len(names) <= 10
    assert not {name for name in names if name.startswith(("nvidia-", "cuda-")) or name in ("torch", "triton")}
    assert next(item.version for item in lock.packages if item.name == "torchvision") == "0.20.1"  # the one for torch 2.5.1
    assert {"torch==2.5.1+cu121", "pillow==11.0.0"} <= set(lock.satisfied)
    assert lock.resolver.startswith(resolver)


@pytest.mark.parametrize("resolver", ["uv", "pip-tools"])
@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ("timm==1.0.12\ntorch==2.6.0\n", r"requirements\.in line 2 asks for torch==2\.6\.0; the base torch has torch 2\.5\.1\+cu121$"),
        ("torchvision==0.21.0\n", r"torchvision( 0\.21\.0)? needs torch==2\.6\.0; the base torch has torch 2\.5\.1\+cu121$"),
        (
            "jax[cuda12]==0.4.38\n",
            r"^requirements\.in would add jax 0\.4\.38 and 3 more to the base torch, which has torch 2\.5\.1\+cu121 and 12 more",
        ),
    ],
    ids=["direct", "through-another", "a-second-framework"],
)
def test_conflicts_are_one_sentence(torch_team: Checkout, resolver: str, wanted: str, complaint: str, tmp_path: Path) -> None:
    team = Checkout(tmp_path / "team", torch_team.cache)
    for name in ("images/catalogue.toml", "images/blue/team.toml"):
        team.write(name, (torch_team.root / name).read_text())
    team.write("images/blue/requirements.in", wanted)
    done = team.run("lock", "blue", "--resolver", resolver, "--as-of", "2025-06-01")
    assert done.code == 4, done.err
    (line,) = [line.removeprefix("error: ") for line in done.err.splitlines() if line.startswith("error: ")]
    assert re.search(complaint, line), line
    assert "replace =" not in done.err  # a protected one is no candidate
    assert "Traceback" not in done.err


def test_pip_in_the_image_agrees(torch_team: Checkout) -> None:
    docker = need_docker()
    torch_team.run("lock", "blue", "--as-of", "2025-06-01").succeeded()
    done = torch_team.run("image", "blue", "--load", "--copy-base", "--json").succeeded().result
    name = f"blue:{done['tag']}"
    script = "set -e; pip check; pip install --dry-run --no-index --break-system-packages -r /requirements.in"
    mount = f"{torch_team.root}/images/blue/requirements.in:/requirements.in:ro"
    try:
        out = run_tool(docker, "run", "--rm", "--network=none", "-v", mount, "--entrypoint", "sh", name, "-c", script).decode()
    finally:
        run_tool(docker, "rmi", "--force", name)
    assert "No broken requirements found." in out
    assert "Would install" not in out
    assert "Requirement already satisfied: timm==1.0.12" in out
