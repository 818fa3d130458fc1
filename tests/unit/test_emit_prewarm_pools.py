"""pools.toml: what Kubernetes would refuse later is refused at once, with the pool's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.emit.prewarm.pools import Toleration, load_pools
from imagebuild.errors import ConfigurationError

ROOT = Path(__file__).parents[2]


def write(folder: Path, text: str) -> Path:
    path = folder / "pools.toml"
    path.write_text(text)
    return path


def test_the_committed_file_is_valid_and_has_a_pinned_pause_image() -> None:
    loaded = load_pools(ROOT / "images" / "pools.toml")
    assert [pool.name for pool in loaded.pools] == ["a100", "t4"]
    assert all(pool.teams == ("cosml",) for pool in loaded.pools)
    assert "@sha256:" in loaded.settings.pause_image


def test_defaults(tmp_path: Path) -> None:
    (pool,) = load_pools(write(tmp_path, '[pool.a]\nteams = "*"\ngke = "a"\n')).pools
    assert pool.teams is None
    assert pool.tolerations == (Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule"),)
    assert (pool.max_surge, pool.max_unavailable) == ("10%", 0)


def test_short_forms_are_the_labels_of_those_systems(tmp_path: Path) -> None:
    text = """
[pool.all]
teams = ["cosml", "cosml"]
labels = { "nvidia.com/gpu.present" = "true" }
gke = "g"
eks = "e"
karpenter = "k"
aks = "a"
gpu-product = ["A100-SXM4-40GB", "A100-SXM4-40GB-SHARED"]
mig = "all-1g.5gb"
tolerations = []
max-unavailable = "25%"
"""
    (pool,) = load_pools(write(tmp_path, text)).pools
    assert pool.labels == {
        "cloud.google.com/gke-nodepool": ("g",),
        "eks.amazonaws.com/nodegroup": ("e",),
        "karpenter.sh/nodepool": ("k",),
        "kubernetes.azure.com/agentpool": ("a",),
        "nvidia.com/gpu.present": ("true",),
        "nvidia.com/gpu.product": ("A100-SXM4-40GB", "A100-SXM4-40GB-SHARED"),
        "nvidia.com/mig.config": ("all-1g.5gb",),
    }
    assert (pool.teams, pool.tolerations, pool.max_surge, pool.max_unavailable) == (("cosml",), (), 0, "25%")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('labels = { "cloud.google.com/gke-nodepool" = "g" }', {"cloud.google.com/gke-nodepool": ("g",)}),  # what a short form writes
        ('mig = "1g.5gb"', {"nvidia.com/mig.config": ("all-1g.5gb",)}),
        ('mig = "1g.5gb"\ngpu-product = "NVIDIA-A100-SXM4-40GB"', {"nvidia.com/gpu.product": ("NVIDIA-A100-SXM4-40GB-MIG-1g.5gb",)}),
        ('gpu-product = "Tesla-T4"\ntime-sliced = true', {"nvidia.com/gpu.product": ("Tesla-T4-SHARED",)}),
        (
            'gpu-product = "A100"\nmig = "1g.5gb"\ntime-sliced = true\narch = "amd64"',
            {"kubernetes.io/arch": ("amd64",), "nvidia.com/gpu.product": ("A100-MIG-1g.5gb-SHARED",)},
        ),
    ],
)
def test_shared_and_cut_gpus_are_named_as_the_operator_does(tmp_path: Path, text: str, labels: dict[str, tuple[str, ...]]) -> None:
    (pool,) = load_pools(write(tmp_path, f'[pool.a]\nteams = "*"\n{text}\n')).pools
    assert pool.labels == labels


@pytest.mark.parametrize(
    "text",
    [
        'mig = "1g.5gb"\ngpu-product = "A100"',  # single: slices are nvidia.com/gpu
        'mig = "all-1g.5gb"\ngpu-product = "A100"\nnotebook = { resource = "nvidia.com/mig-1g.5gb" }',  # mixed
        'mig = "1g.5gb"\nnotebook = { resource = "nvidia.com/mig-1g.5gb" }',
        'mig = "1g.5gb"\ngpu-product = "A100"\nnotebook = { gpu = 0, resource = "nvidia.com/mig-1g.5gb" }',
    ],
)
def test_either_mig_strategy_alone_is_taken(tmp_path: Path, text: str) -> None:
    assert len(load_pools(write(tmp_path, f'[pool.a]\nteams = "*"\n{text}\n')).pools) == 1


def test_disk_and_machine_config_pool(tmp_path: Path) -> None:
    (pool,) = load_pools(write(tmp_path, '[pool.a]\nteams = "*"\ngke = "a"\ndisk = "200 GiB"\nmachine-config-pool = "gpu"\n')).pools
    assert (pool.disk, pool.machine_config_pool) == (200 << 30, "gpu")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ndisk = "much"', "disk: not a size", "GB"),
        (
            '[pool.a]\nteams = ["x"]\ngpu-product = "H100"\nmig = "1g.10gb"\nnotebook = { resource = "nvidia.com/mig-1g.10gb" }',
            "no node has both the product H100-MIG-1g.10gb (MIG strategy single) and the resource nvidia.com/mig-1g.10gb (strategy mixed)",
            'mig = "all-1g.10gb"',
        ),
        (
            '[pool.a]\nteams = ["x"]\nlabels = { "nvidia.com/gpu.product" = ["A", "A-MIG-1g.5gb"] }\n'
            'notebook = { resource = "nvidia.com/mig-2g.10gb" }',
            "no node has both the product A-MIG-1g.5gb",
            "",
        ),
        ('[prewarm]\npull-secret = "A B"\n[pool.a]\nteams = ["x"]\ngke = "a"', "not a secret's name", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nnotebook = { pull-secret = "A/B" }', "not a secret's name", ""),
        ('[pool.a]\nteams = ["x"]\nmig = ["1g.5gb", "all-balanced"]', "profiles and layouts together", "1g.5gb"),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ntime-sliced = true', "needs the GPU's product", "gpu-product"),
        ('[prewarm]\nrate = "0 B"\n[pool.a]\nteams = ["x"]\ngke = "a"', "rate is zero", "kubernetes.md"),
        ('[prewarm]\nrate = "fast"\n[pool.a]\nteams = ["x"]\ngke = "a"', "rate: not a size", "100 MiB"),
        ('[prewarm]\ndisk-threshold = 850\n[pool.a]\nteams = ["x"]\ngke = "a"', "not a percentage", ""),
        ('[prewarm]\nmode = "pull"\n[pool.a]\nteams = ["x"]\ngke = "a"', "mode", ""),
        ('[prewarm]\nreadiness-condition = "a b"\n[pool.a]\nteams = ["x"]\ngke = "a"', "not the type of a node condition", ""),
        ("", "has no pool", "[pool.NAME]"),
        ('[pool.a]\nteams = ["x"]\ngek = "a"', "unknown key pool.a.gek", "did you mean 'gke'"),
        ('[prewarm]\npause-imag = "x"', "unknown key prewarm.pause-imag", "did you mean 'pause-image'"),
        ('[pools.a]\nteams = ["x"]', "unknown key pools", "did you mean 'pool'"),
        ('[pool.a]\ngke = "a"', "teams", ""),
        ('[pool.a]\nteams = []\ngke = "a"', "has no teams", '"*"'),
        ('[pool.a]\nteams = "cosml"\ngke = "a"', "teams", ""),
        ('[pool.a]\nteams = ["x"]', "would select every node", "gpu-product"),
        ('[pool.a]\nteams = ["x"]\nlabels = { "a b" = "c" }', "not a label", ""),
        ('[pool.a]\nteams = ["x"]\nlabels = { "a/b/c" = "c" }', "not a label", ""),
        ('[pool.a]\nteams = ["x"]\nlabels = { "a" = [] }', "has no value", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "-a"', "not a value", ""),
        (f'[pool.a]\nteams = ["x"]\ngke = "{"a" * 64}"', "not a value", "63"),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nlabels = { "cloud.google.com/gke-nodepool" = "b" }', "twice", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nmax-surge = 1\nmax-unavailable = 1', "exactly one", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nmax-surge = "0%"', "exactly one", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nmax-surge = "101%"', "max-surge is '101%'", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\nmax-unavailable = -1', "max-unavailable is -1", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ntolerations = [{ operator = "Equal" }]', "without a key", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ntolerations = [{ key = "k", operator = "Exists", value = "v" }]', "with a value", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ntolerations = [{ key = "k", effect = "Never" }]', "effect", ""),
        ('[pool.a]\nteams = ["x"]\ngke = "a"\ntolerations = [{ key = "k", efect = "NoSchedule" }]', "unknown key", "did you mean 'effect'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str, hint: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError) as caught:
        load_pools(path)
    assert message in caught.value.message
    assert str(path) in caught.value.message
    assert hint in caught.value.hint
