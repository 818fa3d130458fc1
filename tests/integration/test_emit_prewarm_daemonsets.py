"""``imagebuild prewarm`` on images of two quarters: what a node pulls, what does not fit, and the folder for GitOps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.support.workspaces import Built, Checkout, LayoutImage

pytestmark = pytest.mark.integration

POOLS = """
[prewarm]
pause-image = "registry.example.com/pause@sha256:ee6521f290b2168b6e0935a181d4cff9be1ac3f505666ef0e3c98fae8199917a"
rate = "10 MB"
[pool.a100]
gke = "a100"
teams = "*"
disk = "{disk}"
"""
PULL = ("--pull-from", "registry.example.com/ml")


@pytest.fixture(scope="module")
def quarters(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkout, LayoutImage, LayoutImage]:
    """A checkout, last quarter's image of cosml and this one's: another layer on the same base."""
    fork = built.checkout.fork(tmp_path_factory.mktemp("quarters"))
    lock = fork.root / "lockfiles" / "pylock.cosml.toml"
    text = lock.read_text()
    (cutoff,) = [line for line in text.splitlines() if line.startswith("cutoff = ")]
    lock.write_text(text.replace(cutoff, 'cutoff = "2026-08-01T00:00:00Z"'))
    fork.write("images/cosml/team.toml", (fork.root / "images/cosml/team.toml").read_text() + "\n[layer]\nlevel = 1\n")
    before = fork.image("cosml")
    assert before["tag"].startswith("2026q3-")
    return fork, LayoutImage.named(fork.layout, f"cosml:{before['tag']}"), LayoutImage.named(fork.layout, f"cosml:{built.tag}")


def test_disk_and_time_are_those_of_the_layers(quarters: tuple[Checkout, LayoutImage, LayoutImage]) -> None:
    checkout, before, now = quarters
    checkout.write("images/pools.toml", POOLS.format(disk="100 GiB"))
    (plan,) = json.loads(checkout.run("prewarm", "--plan", "--json").succeeded().out)
    stored = sum(layer["size"] for layer in now.layers)
    assert (plan["stored"], plan["missing"]) == (stored, now.layers[-1]["size"])
    assert now.layers[-1]["digest"] not in [layer["digest"] for layer in before.layers]
    assert plan["seconds_empty"] == pytest.approx(stored / 1e7)
    annotated = [int(image.manifest["annotations"]["dev.imagebuild.delta.installed"]) for image in (before, now)]
    assert plan["peak"] - plan["on_disk"] == before.layers[-1]["size"] + annotated[0]
    # The base of the committed inventory may be another day's Debian: then its layers are an estimate, and said to be.
    known = {layer["digest"] for layer in json.loads((checkout.root / "lockfiles/bases/starter.json").read_text())["layers"]}
    assert (plan["estimated"] == 0) is all(layer["digest"] in known for layer in now.layers[:-1])


def test_a_set_that_does_not_fit_is_refused_and_nothing_is_written(quarters: tuple[Checkout, LayoutImage, LayoutImage]) -> None:
    checkout, _, _ = quarters
    checkout.write("images/pools.toml", POOLS.format(disk="600 MiB"))
    done = checkout.run("prewarm", *PULL)
    done.refused(5, r"pool a100: its images take .* 510\.0 MiB", "drop cosml", hint="max-unavailable")
    assert done.out == ""


def test_a_folder_for_gitops_is_kept_in_step(quarters: tuple[Checkout, LayoutImage, LayoutImage], tmp_path: Path) -> None:
    checkout, _, now = quarters
    checkout.write("images/pools.toml", POOLS.format(disk="100 GiB"))
    folder = tmp_path / "prewarm"
    checkout.run("prewarm", *PULL, "--kustomize", str(folder)).succeeded()
    first = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(first) == {"kustomization.yaml", "namespace.yaml", "priorityclass.yaml", "prewarm-a100.yaml"}
    assert now.digest in first["prewarm-a100.yaml"]
    (folder / "mine.yaml").write_text("kind: ConfigMap\n")
    pools = POOLS.format(disk="100 GiB").replace("[pool.a100]", "[pool.h100]")
    checkout.write("images/pools.toml", pools)
    checkout.run("prewarm", *PULL, "--kustomize", str(folder)).succeeded()
    assert {path.name for path in folder.iterdir()} == {*first, "mine.yaml", "prewarm-h100.yaml"} - {"prewarm-a100.yaml"}
    listed = YAML(typ="safe").load((folder / "kustomization.yaml").read_text())["resources"]
    assert listed == ["namespace.yaml", "priorityclass.yaml", "prewarm-h100.yaml"]


@pytest.mark.parametrize(("mode", "kinds"), [("pinned-image-set", ["PinnedImageSet"]), ("image-pull-job", ["Namespace", "ImagePullJob"])])
def test_other_modes_name_the_same_image(quarters: tuple[Checkout, LayoutImage, LayoutImage], mode: str, kinds: list[str]) -> None:
    checkout, _, now = quarters
    checkout.write("images/pools.toml", POOLS.format(disk="100 GiB"))
    done = checkout.run("prewarm", *PULL, "--mode", mode).succeeded()
    assert [item["kind"] for item in YAML(typ="safe").load_all(done.out)] == kinds
    assert f"registry.example.com/ml/cosml@{now.digest}" in done.out
