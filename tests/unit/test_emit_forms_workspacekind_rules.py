"""What a WorkspaceKind must not be: each rule of its definition and its webhook refuses something, so that the checks of forms can fail.

With WORKSPACEKIND_CRD=FILE the same kinds, good and bad, go through that file too: the definition that Kubeflow publishes
(workspaces/controller/manifests/kustomize/base/crd/kubeflow.org_workspacekinds.yaml in kubeflow/notebooks).
"""

from __future__ import annotations

import copy
import functools
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imagebuild.emit.forms.workspacekind import render_workspace_kinds
from imagebuild.emit.manifest.merging import EditedFile
from tests.support.customresources import check_object
from tests.support.forms import A100, HISTORY, MIG, age, make_image
from tests.support.workspacekinds import WORKSPACE_KIND, check_admission

yaml: Any = importlib.import_module("yaml")
jsonschema: Any = importlib.import_module("jsonschema")
Kind = dict[str, Any]


def list_definitions() -> list[Any]:
    """Ours, and the one that the environment names."""
    found = [pytest.param(WORKSPACE_KIND, id="ours")]
    if path := os.environ.get("WORKSPACEKIND_CRD"):
        (version,) = yaml.safe_load(Path(path).read_text())["spec"]["versions"]
        found.append(pytest.param(version["schema"]["openAPIV3Schema"], id="published"))
    return found


@functools.cache
def read_quarters() -> tuple[list[Kind], list[Kind]]:
    """The kinds of one quarter, and of the next merged into them."""
    label = "example.com/team"
    text = render_workspace_kinds(HISTORY, pools=[A100, MIG], team_label=label).text
    newer = age(HISTORY, make_image("cosml", "2027q1"))
    later = render_workspace_kinds(newer, pools=[A100], team_label=label, merge=EditedFile(text, "f")).text
    first, second = ([item for item in yaml.safe_load_all(one) if item["kind"] == "WorkspaceKind"] for one in (text, later))
    return first, second


def copy_kind() -> Kind:
    return copy.deepcopy(read_quarters()[0][0])


@pytest.mark.slow
@pytest.mark.parametrize("definition", list_definitions())
def test_what_is_written_is_taken_the_first_time_and_the_next(definition: Kind) -> None:
    before, later = read_quarters()
    assert [kind["metadata"]["name"] for kind in before] == ["jupyterlab", "codeserver", "rstudio"]
    for kind, after in zip(before, later, strict=True):
        check_object(definition, kind)
        check_object(definition, after, kind)


def images(kind: Kind) -> list[Kind]:
    values: list[Kind] = kind["spec"]["podTemplate"]["options"]["imageConfig"]["values"]
    return values


def add_twice(items: list[Any]) -> None:
    items.append(copy.deepcopy(items[0]))


def rule(kind: Kind) -> Kind:
    found: Kind = kind["spec"]["filterRules"][0]
    return found


REFUSED: list[tuple[str, Callable[[Kind], object]]] = [
    ("a display name of one letter", lambda kind: images(kind)[0]["spawner"].update(displayName="x")),
    ("a display name of 129", lambda kind: images(kind)[0]["spawner"].update(displayName="x" * 129)),
    ("a description of 1025", lambda kind: images(kind)[0]["spawner"].update(description="x" * 1025)),
    ("no id", lambda kind: images(kind)[0].pop("id")),
    ("an id of 257", lambda kind: images(kind)[0].update(id="x" * 257)),
    ("33 labels", lambda kind: images(kind)[0]["spawner"].update(labels=[{"key": f"k{n}", "value": "v"} for n in range(33)])),
    ("a label of 65", lambda kind: images(kind)[0]["spawner"]["labels"][0].update(value="x" * 65)),
    ("a label twice", lambda kind: add_twice(images(kind)[0]["spawner"]["labels"])),
    ("a value twice", lambda kind: add_twice(images(kind))),
    ("a port twice", lambda kind: add_twice(images(kind)[0]["spec"]["ports"])),
    ("port 0", lambda kind: images(kind)[0]["spec"]["ports"][0].update(port=0)),
    ("a port's id in capitals", lambda kind: images(kind)[0]["spec"]["ports"][0].update(id="Jupyter")),
    ("no ports", lambda kind: images(kind)[0]["spec"].update(ports=[])),
    ("a pull policy", lambda kind: images(kind)[0]["spec"].update(imagePullPolicy="Sometimes")),
    ("a level", lambda kind: images(kind)[2]["redirect"]["message"].update(level="Fatal")),
    ("a message of 1025", lambda kind: images(kind)[2]["redirect"]["message"].update(text="x" * 1025)),
    ("a redirect to nowhere", lambda kind: images(kind)[2]["redirect"].pop("to")),
    ("hidden in words", lambda kind: images(kind)[0]["spawner"].update(hidden="yes")),
    ("two pictures", lambda kind: kind["spec"]["spawner"]["icon"].update(url="https://example.com/a.svg")),
    ("no picture", lambda kind: kind["spec"]["spawner"].update(logo={})),
    ("a picture's type", lambda kind: kind["spec"]["spawner"]["icon"]["configMap"].update(mediaType="image/png")),
    ("a home that is no path", lambda kind: kind["spec"]["podTemplate"]["volumeMounts"].update(home="home")),
    ("a variable twice", lambda kind: add_twice(kind["spec"]["podTemplate"]["extraEnv"])),
    ("a mount twice", lambda kind: add_twice(kind["spec"]["podTemplate"]["extraVolumeMounts"])),
    ("a protocol", lambda kind: kind["spec"]["podTemplate"]["ports"][0].update(protocol="TCP")),
    ("no pod config", lambda kind: kind["spec"]["podTemplate"]["options"]["podConfig"].update(values=[])),
    ("a scope", lambda kind: rule(kind).update(scope="EVERYTHING")),
    ("a rule without effect", lambda kind: rule(kind).update(effect={})),
    ("a rule for nothing", lambda kind: rule(kind).update(match=[])),
    ("two things to match at once", lambda kind: rule(kind)["match"][0].update(matchPodConfig={"selector": {}})),
    ("nothing to match", lambda kind: rule(kind)["match"].append({})),
    ("a message that denies nothing", lambda kind: rule(kind)["effect"]["api"].update(denyMessage={"text": "no"})),
]


@pytest.mark.parametrize("definition", list_definitions())
@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in REFUSED])
def test_what_the_definition_refuses(definition: Kind, change: Callable[[Kind], object]) -> None:
    kind = copy_kind()
    check_object(definition, kind)
    change(kind)
    with pytest.raises((jsonschema.ValidationError, AssertionError)):
        check_object(definition, kind)


@pytest.mark.parametrize("definition", list_definitions())
def test_the_home_is_where_it_was(definition: Kind) -> None:
    before, after = copy_kind(), copy_kind()
    after["spec"]["podTemplate"]["volumeMounts"]["home"] = "/home/other"
    check_object(definition, after)
    with pytest.raises(AssertionError, match="home"):
        check_object(definition, after, before)


FORBIDDEN: list[tuple[str, Callable[[Kind], object]]] = [
    ("a default that is not there", lambda kind: kind["spec"]["podTemplate"]["options"]["imageConfig"]["spawner"].update(default="gone")),
    ("a redirect to nobody", lambda kind: images(kind)[2]["redirect"].update(to="gone")),
    ("a circle", lambda kind: images(kind)[2]["redirect"].update(to=images(kind)[2]["id"])),
    ("a port that the kind has not", lambda kind: kind["spec"]["podTemplate"]["ports"][0].update(id="other")),
    ("one port number twice", lambda kind: images(kind)[0]["spec"]["ports"].append({"id": "other", "port": 8888})),
    ("a rule that hides nothing", lambda kind: rule(kind)["effect"]["api"].update(hide=False)),
    ("a kind hidden by its images", lambda kind: rule(kind).update(scope="WORKSPACE_KIND")),
    ("an image in use that is another", lambda kind: images(kind)[2]["spec"].update(image="registry.example/x")),
    ("an image in use that is gone", lambda kind: images(kind).pop(1)),
]


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in FORBIDDEN])
def test_what_the_webhook_refuses(change: Callable[[Kind], object]) -> None:
    before, kind = copy_kind(), copy_kind()
    check_admission(kind, before)
    change(kind)
    with pytest.raises((AssertionError, KeyError)):
        check_admission(kind, before)
