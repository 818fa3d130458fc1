"""The spawner forms and the notebook through the whole command line, on a folder of images."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from imagebuild import annotations as names
from imagebuild.oci.layout import LayoutStore
from tests.support.fleet import push_image
from tests.support.forms import check_pod
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
    merged = checkout.run("catalogue", "--format", form, *PULL, "--merge", str(file), "--in-place").succeeded()
    assert merged.out == f"{file}: nothing to change\n"
    assert file.read_text() == "# mine\n" + text
    file.write_text("# mine\n" + text.replace("2.2.3", "2.2.1"))
    checkout.run("catalogue", "--format", form, *PULL, "--merge", str(file), "--in-place").succeeded()
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
    ],
)
def test_wrong_use_is_one_line_and_a_hint(checkout: Checkout, arguments: tuple[str, ...], code: int) -> None:
    done = checkout.run(*arguments)
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
    older, *_ = yaml.safe_load_all(checkout.run("notebook", "cosml@2026q3", "--name", "old", "--mig", "1g.5gb", *PULL).succeeded().out)
    container = older["spec"]["template"]["spec"]["containers"][0]
    assert "cosml:2026q3-" in container["image"]
    assert container["resources"]["limits"] == {"cpu": "2", "memory": "8Gi", "nvidia.com/mig-1g.5gb": "1"}
