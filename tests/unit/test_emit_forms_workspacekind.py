"""Kubeflow Notebooks 2: as its schema and its webhook see what is written, the first time and after every quarter."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.workspacekind import render_workspace_kinds
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ConfigurationError
from tests.support.forms import A100, HISTORY, MIG, age, make_image
from tests.support.workspacekinds import check_kind

yaml: Any = importlib.import_module("yaml")


def read(text: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in yaml.safe_load_all(text)}


def list_images(kind: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {value["id"]: value for value in kind["spec"]["podTemplate"]["options"]["imageConfig"]["values"]}


def name(entry: CatalogueEntry) -> str:
    return f"{entry.team}-{entry.digest.hex[:12]}"


def _stand(entry: CatalogueEntry, status: Any, current: bool) -> CatalogueEntry:
    return msgspec.structs.replace(entry, status=status, current=current)


def merge(text: str, entries: Any, **options: Any) -> str:
    return render_workspace_kinds(entries, merge=EditedFile(text, "f.yaml"), **options).text


def test_a_kind_per_server_with_every_image() -> None:
    kinds = read(render_workspace_kinds(HISTORY, pools=[A100, MIG]).text)
    icons = kinds.pop("imagebuild-icons")
    assert set(kinds) == {"jupyterlab", "codeserver", "rstudio"}
    for kind in kinds.values():
        check_kind(kind)
        picture = kind["spec"]["spawner"]["icon"]["configMap"]
        assert icons["data"][picture["key"]].startswith("<svg ")
        assert (icons["metadata"]["namespace"], icons["metadata"]["name"]) == (picture["namespace"], picture["name"])
    images = list_images(kinds["jupyterlab"])
    current, kept, retired = (images[name(entry)] for entry in HISTORY[:3])
    assert current["spec"]["image"] == f"registry.example/ml/cosml:{HISTORY[0].tag}@{HISTORY[0].digest}"
    assert "redirect" not in current
    assert not current["spawner"]["hidden"]
    assert {"key": "polars", "value": "1.9.0"} in current["spawner"]["labels"]
    assert kept["spec"]["image"] == f"registry.example/ml/cosml:{HISTORY[1].tag}@{HISTORY[1].digest}"
    assert "redirect" not in kept
    assert not kept["spawner"]["hidden"]
    assert "churn-q3" in kept["spawner"]["displayName"]
    assert retired["spawner"]["hidden"]
    assert retired["redirect"] == {
        "to": name(HISTORY[0]),
        "message": {
            "level": "Warning",
            "text": "2026q4 replaces 2026q2: dask is gone, pandas 2.2.3 to 2.3.0, polars 1.9.0 is new.",
        },
    }
    assert kinds["rstudio"]["spec"]["podTemplate"]["ports"][0]["httpProxy"]["requestHeaders"]["set"] == {
        "X-RStudio-Root-Path": '{{ httpPathPrefix "rstudio" }}'
    }


def test_pools_are_pod_configs() -> None:
    kind = read(render_workspace_kinds(HISTORY, pools=[A100, MIG]).text)["jupyterlab"]
    cpu, a100, mig = kind["spec"]["podTemplate"]["options"]["podConfig"]["values"]
    assert cpu["id"] == "cpu"
    assert a100["spec"] == {
        "nodeSelector": {"cloud.google.com/gke-nodepool": "a100-pool"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "resources": {"requests": {"cpu": "4", "memory": "16Gi"}, "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}},
    }
    assert mig["spec"]["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == "2"
    assert mig["spawner"]["description"] == "500m CPU, 1500Mi memory, 2 nvidia.com/mig-1g.5gb"


@pytest.mark.slow
def test_quarter_after_quarter_nothing_in_use_is_changed() -> None:
    """Four quarters, a pool that changes, an image that the registry loses, and a team that leaves: each accepted."""
    entries = list(HISTORY)
    text = render_workspace_kinds(entries, pools=[A100, MIG]).text
    wider = msgspec.structs.replace(A100, labels={"cloud.google.com/gke-nodepool": ("a100-pool", "a100-more")})
    steps: list[tuple[list[CatalogueEntry], list[Any]]] = []
    for quarter in ("2027q1", "2027q2", "2027q3"):
        entries = age(entries, make_image("cosml", quarter, {"pandas": "3.0.0"}), make_image("stats", quarter, {}, kind="rstudio"))
        steps.append((entries, [A100, MIG]))
    steps.append((entries, [wider, MIG]))
    steps.append(([entry for entry in entries if entry.team != "apps" and entry.digest != HISTORY[2].digest], [wider]))
    lost = [entry for entry in entries if entry.quarter <= "2027q2" and entry.team in ("cosml", "stats")]  # the newest, deleted
    back = {True: ("current", True), False: ("retired", False)}
    steps.append(([_stand(entry, *back[entry.quarter == "2027q2"]) for entry in lost], [wider]))
    for listed, pools in steps:
        before, text = read(text), merge(text, listed, pools=pools)
        after = read(text)
        assert set(after) == set(before)
        for key in set(after) - {"imagebuild-icons"}:
            check_kind(after[key], before[key])
        assert merge(text, listed, pools=pools) == text
    images = list_images(after["jupyterlab"])
    gone = images[name(make_image("cosml", "2027q3"))]
    assert gone["redirect"]["message"]["level"] == "Danger"
    assert gone["redirect"]["to"] == name(make_image("cosml", "2027q2"))
    assert next(key for key in images if key.startswith("cosml-")) == name(make_image("cosml", "2027q3"))  # the newest first
    assert "redirect" not in images[name(make_image("cosml", "2027q2"))]
    assert after["codeserver"] == before["codeserver"]  # a team that is not listed is left alone
    places = after["jupyterlab"]["spec"]["podTemplate"]["options"]["podConfig"]["values"]
    assert [(value["spawner"]["hidden"], "redirect" in value) for value in places] == [
        (False, False),
        (True, True),
        (False, False),
        (False, False),
    ]


def test_a_hidden_value_whose_image_is_gone_says_so_whatever_it_redirected_to() -> None:
    """Before, one that had a redirect already kept its harmless message."""
    first, second, third = (make_image("cosml", quarter) for quarter in ("2026q1", "2026q2", "2026q3"))
    text = render_workspace_kinds(age([first], second)).text
    old = list_images(read(text)["jupyterlab"])[name(first)]
    assert old["redirect"]["message"]["level"] != "Danger"
    text = merge(text, age([second], third))
    gone = list_images(read(text)["jupyterlab"])[name(first)]
    assert (gone["redirect"]["to"], gone["redirect"]["message"]["level"]) == (name(second), "Danger")
    form = render_workspace_kinds(age([second], third), merge=EditedFile(text, "f.yaml"))
    assert form.warnings == (
        f"jupyterlab: the registry no longer has an image of {name(first)}; a workspace that has one cannot start again",
    )


@pytest.mark.slow
def test_a_team_that_left_for_another_server_leaves_no_value_that_cannot_start() -> None:
    """Its images of the kind before are gone from the registry: hidden, told of, and with Danger where there is a redirect."""
    first, second, other = make_image("cosml", "2026q1"), make_image("cosml", "2026q2"), make_image("risk", "2026q2")
    text = render_workspace_kinds([*age([first], second), other]).text
    moved = make_image("cosml", "2026q3", kind="vscode")
    for listed in ([moved, other], [moved]):  # with other teams on JupyterLab, and with none
        form = render_workspace_kinds(listed, merge=EditedFile(text, "f.yaml"))
        kinds = read(form.text)
        check_kind(kinds["jupyterlab"], read(text)["jupyterlab"])
        check_kind(kinds["codeserver"])
        old, new = (list_images(kinds["jupyterlab"])[name(entry)] for entry in (first, second))
        assert old["redirect"]["message"]["level"] == "Danger"
        assert (old["spawner"]["hidden"], new["spawner"]["hidden"], "redirect" in new) == (True, True, False)
        assert name(first) in form.warnings[0]
        assert name(second) in form.warnings[0]
        assert not list_images(kinds["jupyterlab"])[name(other)]["spawner"]["hidden"]
        assert kinds["jupyterlab"]["spec"]["podTemplate"]["options"]["imageConfig"]["spawner"]["default"] == name(other)
        assert merge(form.text, listed) == form.text


SAMPLE = """\
# ours, by hand
apiVersion: kubeflow.org/v1beta1
kind: WorkspaceKind
metadata:
  name: jupyterlab  # as upstream
spec:
  spawner:
    displayName: "Notebooks"
    description: "By hand"
    icon: {url: "https://jupyter.example/icon.svg"}
    logo: {url: "https://jupyter.example/logo.svg"}
  podTemplate:
    volumeMounts:
      home: "/home/me"
    ports:
      - id: jupyterlab
        protocol: HTTP
        defaultDisplayName: JupyterLab
    options:
      imageConfig:
        spawner:
          default: "scipy"
        values:
          ## the one from upstream
          - id: "scipy"
            spawner:
              displayName: "scipy"
              ## NOTE: shown
              hidden: false
            spec:
              image: "registry.example/scipy:v1"
              ports:
                - id: jupyterlab
                  port: 8888

      ## where it runs
      podConfig:
        spawner:
          default: tiny
        values:
          - id: tiny
            spawner:
              displayName: Tiny
            spec:
              resources:
                requests:
                  cpu: 100m
# the end
"""


def test_a_kind_by_hand_keeps_what_is_its_own() -> None:
    text = merge(SAMPLE, HISTORY[:3], pools=[A100])
    check_kind(read(text)["jupyterlab"], read(SAMPLE)["jupyterlab"])
    ours = [line for line in text.splitlines() if line not in SAMPLE.splitlines()]
    rest = iter(text.splitlines())
    assert all(line in rest for line in SAMPLE.splitlines())  # every line of before, in its order
    assert ours
    images = read(text)["jupyterlab"]["spec"]["podTemplate"]["options"]["imageConfig"]
    assert images["spawner"]["default"] == "scipy"
    assert [value["id"] for value in images["values"]] == ["scipy", *(name(entry) for entry in HISTORY[:3])]


@pytest.mark.slow
def test_namespaces_by_team() -> None:
    text = render_workspace_kinds(HISTORY, team_label="example.com/team").text
    kind = read(text)["jupyterlab"]
    check_kind(kind)
    (rule,) = kind["spec"]["filterRules"]
    assert rule["match"][1] == {"matchImageConfig": {"selector": {"matchLabels": {"team": "cosml"}}}}
    assert rule["match"][0]["matchNamespace"]["selector"]["matchExpressions"][1]["values"] == ["cosml"]
    assert merge(text, HISTORY, team_label="example.com/team") == text
    moved = read(merge(text, HISTORY, team_label="example.com/other"))["jupyterlab"]
    (rule,) = moved["spec"]["filterRules"]
    assert rule["match"][0]["matchNamespace"]["selector"]["matchExpressions"][0]["key"] == "example.com/other"


@pytest.mark.slow
def test_two_years_of_fifty_teams_fit_into_one_object() -> None:
    """etcd takes objects of 1.5 MiB."""
    packages = {f"package-number-{number}": "2026.10.1" for number in range(40)}
    quarters = [f"{year}q{quarter}" for year in (2027, 2026) for quarter in (4, 3, 2, 1)]
    entries = [
        make_image(f"team-{team}", quarter, packages, status="current" if quarter == "2027q4" else "retired")
        for team in range(50)
        for quarter in quarters
    ]
    kind = read(render_workspace_kinds(entries).text)["jupyterlab"]
    check_kind(kind)
    assert len(list_images(kind)) == 400
    assert len(msgspec.json.encode(kind)) < 1 << 20


@pytest.mark.parametrize("text", ["a: b\n", "kind: WorkspaceKind\nmetadata: {name: jupyterlab}\nspec: []\n", "- a\n", "", "a: [\n"])
def test_what_is_no_kind_is_said(text: str) -> None:
    with pytest.raises(ConfigurationError):
        merge(text, HISTORY)
