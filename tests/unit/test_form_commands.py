"""The spawner forms and the notebook through the whole command line, on a folder of images."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from imagebuild import annotations as names
from imagebuild.oci.layout import LayoutStore
from tests.support.fleet import push_image
from tests.support.forms import check_pod
from tests.support.inprocess import run_here
from tests.support.workspacekinds import check_kind
from tests.support.workspaces import Checkout, copy_project

yaml: Any = importlib.import_module("yaml")
PULL = ("--pull-from", "registry.example.com/ml")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The repository's own team with an image of two quarters."""
    done = copy_project(tmp_path_factory.mktemp("forms"))
    for quarter, month, version in (("2026q3", "07", "2.2.2"), ("2026q4", "10", "2.2.3")):
        notes = {
            names.FORMAT: "1", names.TEAM: "cosml", names.QUARTER: quarter, names.CREATED: f"2026-{month}-01T00:00:00Z",
            names.KIND: "jupyter", names.PACKAGES: f'{{"pandas": "{version}"}}', names.VERSION: f"{quarter}-{month * 6}",
        }  # fmt: skip
        push_image(LayoutStore(done.layout), "cosml", f"{quarter}-{month * 6}", notes)
    return done


@pytest.mark.slow
@pytest.mark.parametrize("form", ["kubeflow", "workspacekind", "kubespawner", "imagestream"])
def test_every_form_with_the_pools_and_again_in_place(checkout: Checkout, form: str, tmp_path: Path) -> None:
    text = checkout.run("catalogue", "--format", form, *PULL).succeeded().out
    documents = list(yaml.safe_load_all(text))
    assert documents
    if form == "workspacekind":
        check_kind(documents[1])
        assert len(documents[1]["spec"]["podTemplate"]["options"]["podConfig"]["values"]) == 3
    if form != "imagestream":
        assert "a100" in text
    file = tmp_path / "form.yaml"
    file.write_text("# mine\n" + text)
    merged = run_here(checkout, "catalogue", "--format", form, *PULL, "--merge", str(file), "--in-place").succeeded()
    assert merged.out == f"{file}: nothing to change\n"
    assert file.read_text() == "# mine\n" + text
    file.write_text("# mine\n" + text.replace("2.2.3", "2.2.1"))
    run_here(checkout, "catalogue", "--format", form, *PULL, "--merge", str(file), "--in-place").succeeded()
    assert file.read_text() == "# mine\n" + text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("catalogue", "--merge", "x"), 2),
        (("catalogue", "--format", "kubeflow", "--in-place"), 2),
        (("catalogue", "--format", "kubeflow", "--namespace", "a"), 2),
        (("catalogue", "--format", "imagestream", "--team-label", "a"), 2),
        (("catalogue", "--format", "kubeflow", "--merge", "/nowhere/form.yaml", *PULL), 3),
        (("catalogue", "--format", "imagestream", "--namespace", "A_B", *PULL), 3),
        (("catalogue", "--format", "kubespawner", "--team", "cosm", *PULL), 2),
        (("catalogue", "--format", "kubespawner"), 3),
        (("notebook", "cosml"), 3),
        (("notebook", "cosm", *PULL), 2),
        (("notebook", "cosml", *PULL, "--gpu", "1", "--mig", "1g.5gb"), 2),
        (("notebook", "cosml", *PULL, "--pool", "a10"), 2),
        (("notebook", "cosml", *PULL, "--cpu", "many"), 2),
        (("prewarm", *PULL, "--prune", "--pool", "a100"), 2),
        (("prewarm", *PULL, "--prune", "--plan"), 2),
        (("prewarm", *PULL, "--mode", "list", "--kustomize", "x"), 2),
        (("prewarm", *PULL, "--json"), 2),
        (("prewarm", *PULL, "--pool", "a10"), 2),
        (("prewarm", "--mode", "list"), 3),
    ],
)
def test_wrong_use_is_one_line_and_a_hint(checkout: Checkout, arguments: tuple[str, ...], code: int) -> None:
    done = run_here(checkout, *arguments)
    assert done.code == code, done.err
    assert done.err.count("error: ") == 1
    assert "hint: " in done.err
    assert "Traceback" not in done.err
    assert not done.out


def test_a_notebook_of_a_team_and_of_an_older_quarter(checkout: Checkout) -> None:
    options = ("--namespace", "alice", "--pool", "a100", "--dataset", "corpus:/datasets", *PULL)
    (notebook,) = yaml.safe_load_all(checkout.run("notebook", "cosml", *options).succeeded().out)
    pod = notebook["spec"]["template"]["spec"]
    check_pod(pod)
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert "cosml:2026q4-" in pod["containers"][0]["image"]
    done = run_here(checkout, "notebook", "cosml@2026q3", "--name", "old", "--mig", "1g.5gb", *PULL).succeeded()
    older, *_ = yaml.safe_load_all(done.out)
    container = older["spec"]["template"]["spec"]["containers"][0]
    assert "cosml:2026q3-" in container["image"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/mig-1g.5gb": "1"}


POOLS = """
[prewarm]
pause-image = "registry.example.com/pause@sha256:ee6521f290b2168b6e0935a181d4cff9be1ac3f505666ef0e3c98fae8199917a"
pull-secret = "registry"
pull-from = "mirror.example.com/ml"
[pool.a100]
gke = "a100"
teams = "*"
[pool.cut]
gpu-product = "H100"
mig = "1g.10gb"
teams = ["cosml"]
"""


@pytest.fixture
def pools(checkout: Checkout, tmp_path: Path) -> Checkout:
    """The same with pools that pull with a secret, from a mirror."""
    fork = checkout.fork(tmp_path / "pools")
    fork.write("images/pools.toml", POOLS)
    return fork


def test_the_images_of_pools_for_a_node_image(pools: Checkout) -> None:
    done = run_here(pools, "prewarm", "--mode", "list", "--json", "--quiet").succeeded()
    images = json.loads(done.out)
    assert [(item["pool"], item["team"]) for item in images] == [("a100", "cosml"), ("cut", "cosml")]
    assert all(item["reference"] == f"mirror.example.com/ml/cosml@{item['digest']}" for item in images)
    assert images[0]["tag"].startswith("2026q4-")
    assert done.err == ""
    lines = run_here(pools, "prewarm", "--mode", "list", "--pool", "cut").succeeded().out.splitlines()
    assert lines[0].split() == ["pool", "image", "stored", "on", "disk", "added"]
    assert lines[1].split()[:2] == ["cut", images[1]["reference"]]


def test_what_pools_pull_by_is_told_where_it_differs(pools: Checkout) -> None:
    done = run_here(pools, "prewarm").succeeded()
    assert "mirror.example.com/ml/cosml@sha256:" in done.out
    assert "warning: pools a100, cut: pre-warm pods pull with the secret registry" in done.err
    assert "warning: --pull-from other.example.com is not" in run_here(pools, "prewarm", "--pull-from", "other.example.com").succeeded().err
    done = run_here(pools, "notebook", "cosml", "--pool", "a100", "--pull-from", "other.example.com/ml").succeeded()
    assert "this notebook names none" in done.err
    assert "# Warning: --pull-from other.example.com/ml is not" in done.out
    assert run_here(pools, "notebook", "cosml", "--pull-secret", "registry").succeeded().err == ""
    done = run_here(pools, "catalogue", "--format", "kubeflow").succeeded()
    assert "mirror.example.com/ml/cosml:2026q4-" in done.out
    done = run_here(pools, "catalogue", "--format", "kubeflow", "--pull-from", "other.example.com").succeeded()
    assert "is not the pull-from" in done.err


def test_commands_that_delete_name_the_whole_set(pools: Checkout) -> None:
    out = run_here(pools, "prewarm", "--prune").succeeded().out
    assert "'--field-selector=metadata.name!=prewarm-a100,metadata.name!=prewarm-cut'" in out
    assert "--namespace=imagebuild-prewarm" in out
    run_here(pools, "prewarm", "--prune", "--mode", "image-pull-job", "--namespace", "a").succeeded()
    run_here(pools, "notebook", "cosml", "--pool", "cut", "--mig", "1g.10gb").refused(2, "no node has both", hint="all-1g.10gb")
