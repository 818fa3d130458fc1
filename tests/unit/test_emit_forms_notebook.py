"""A Notebook: valid for Kubernetes, and with what Kubeflow's controller and page read of it."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec
import pytest

from imagebuild.catalogue.entries import find_reference
from imagebuild.emit.forms.notebook import NotebookPlan, name_mig, parse_dataset, render_notebook
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import ContainerConfig
from tests.support.forms import A100, HISTORY, MIG, check_pod, make_image

yaml: Any = importlib.import_module("yaml")

CONFIG = ContainerConfig(user="1000", env=("PATH=/usr/bin", "HOME=/home/jovyan"))
PLAN = NotebookPlan("pytorch-dev", "alice", "4", "16Gi", {"nvidia.com/gpu": 1}, "alice-workspace")


def render(plan: NotebookPlan = PLAN, entry: Any = HISTORY[0], config: ContainerConfig = CONFIG, **changes: Any) -> list[dict[str, Any]]:
    text = render_notebook(entry, find_reference(entry), config, msgspec.structs.replace(plan, **changes))
    assert text == render_notebook(entry, find_reference(entry), config, msgspec.structs.replace(plan, **changes))
    return list(yaml.safe_load_all(text))


def open_pod(notebook: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the pod's spec, its container), after the checks that every notebook must pass."""
    pod = notebook["spec"]["template"]["spec"]
    check_pod(pod)
    (container,) = pod["containers"]
    # The jupyter-web-app lists a namespace's notebooks by these, and fails for the whole namespace when one has none.
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert notebook["metadata"]["annotations"]["notebooks.kubeflow.org/server-type"] in ("jupyter", "group-one", "group-two")
    assert container["name"] == notebook["metadata"]["name"]  # by which the controller finds its state
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    return pod, container


def test_four_cpus_sixteen_gib_a_gpu_a_home_and_shared_data() -> None:
    claim, notebook = render(home_size="50Gi", datasets=(parse_dataset("corpus:/datasets"),))
    assert claim["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "50Gi"}}}
    assert claim["metadata"] == {"name": "alice-workspace", "namespace": "alice"}
    assert (notebook["apiVersion"], notebook["kind"]) == ("kubeflow.org/v1", "Notebook")
    assert notebook["metadata"]["namespace"] == "alice"
    pod, container = open_pod(notebook)
    assert container["image"] == f"registry.example/ml/cosml:{HISTORY[0].tag}@{HISTORY[0].digest}"
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi"},
        "limits": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
    }
    assert pod["volumes"] == [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": "alice-workspace"}},
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}},
        {"name": "data-corpus", "persistentVolumeClaim": {"claimName": "corpus"}},
    ]
    assert container["volumeMounts"] == [
        {"name": "workspace", "mountPath": "/home/jovyan"},
        {"name": "dshm", "mountPath": "/dev/shm"},
        {"name": "data-corpus", "mountPath": "/datasets", "readOnly": True},
    ]
    assert container["securityContext"]["runAsNonRoot"] is True
    assert "securityContext" not in pod  # the controller then adds fsGroup 100, without which the home cannot be written
    assert "workingDir" not in container
    assert "ports" not in container


def test_a_pool_says_where() -> None:
    (notebook,) = render(pool=A100)
    pod, _ = open_pod(notebook)
    assert pod["nodeSelector"] == {"cloud.google.com/gke-nodepool": "a100-pool"}
    assert pod["tolerations"][0]["key"] == "nvidia.com/gpu"
    (notebook,) = render(service_account="default-editor", pull_secret="registry")
    pod, _ = open_pod(notebook)
    assert (pod["serviceAccountName"], pod["imagePullSecrets"]) == ("default-editor", [{"name": "registry"}])
    (notebook,) = render(pool=MIG, devices={name_mig("1g.5gb"): 1})
    pod, container = open_pod(notebook)
    assert "affinity" in pod
    assert container["resources"]["limits"]["nvidia.com/mig-1g.5gb"] == "1"


@pytest.mark.parametrize(("kind", "group"), [("vscode", "group-one"), ("rstudio", "group-two")])
def test_servers_that_serve_under_the_root(kind: Any, group: str) -> None:
    (notebook,) = render(entry=make_image("apps", kind=kind))
    notes = notebook["metadata"]["annotations"]
    assert notes["notebooks.kubeflow.org/server-type"] == group
    assert notes["notebooks.kubeflow.org/http-rewrite-uri"] == "/"
    header = notes.get("notebooks.kubeflow.org/http-headers-request-set")
    assert header == ('{"X-RStudio-Root-Path":"/notebook/alice/pytorch-dev/"}' if kind == "rstudio" else None)
    open_pod(notebook)


def test_what_the_image_says_of_itself() -> None:
    entry = msgspec.structs.replace(HISTORY[0], port=8787)
    (notebook,) = render(entry=entry, config=ContainerConfig(user="jovyan:users", env=("HOME=/home/ana",)))
    _, container = open_pod(notebook)
    assert "runAsNonRoot" not in container["securityContext"]  # a name: the kubelet would refuse it
    assert container["workingDir"] == "/home/ana"
    assert container["volumeMounts"][0]["mountPath"] == "/home/ana"
    assert container["ports"] == [{"name": "notebook-port", "containerPort": 8787, "protocol": "TCP"}]
    (notebook,) = render(config=ContainerConfig(), home_path="/home/b", datasets=(parse_dataset("a:/x:rw"), parse_dataset("a:/y")))
    pod, container = open_pod(notebook)
    assert len(pod["volumes"]) == 3
    assert [mount.get("readOnly", False) for mount in container["volumeMounts"]] == [False, False, False, True]


def test_no_namespace_is_left_to_kubectl() -> None:
    claim, notebook = render(namespace="", home_size="1Gi")
    assert "namespace" not in claim["metadata"]
    assert "namespace" not in notebook["metadata"]
    with pytest.raises(UsageError, match="its own URL"):
        render(namespace="", entry=make_image("stats", kind="rstudio"))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "a" * 53}, {"name": "A"}, {"name": "a.b"}, {"namespace": "a/b"}, {"cpu": "four"}, {"cpu": "0"}, {"memory": "16 GiB"},
        {"home_claim": "-a"}, {"service_account": "A"}, {"pull_secret": "a/b"},
        {"home_size": "5gib"}, {"home_path": "/"}, {"home_path": "home"}, {"home_path": "/home/../etc"},
    ],
)  # fmt: skip
def test_what_kubernetes_would_refuse(changes: dict[str, Any]) -> None:
    with pytest.raises((UsageError, ConfigurationError)):
        render(**changes)


@pytest.mark.parametrize("text", ["", "a", "a:", ":/x", "a:x", "a:/", "a:/x:no", "A_b:/x", "a:/x/../y"])
def test_what_is_no_dataset(text: str) -> None:
    with pytest.raises(UsageError):
        parse_dataset(text)


def test_two_volumes_at_one_place() -> None:
    for path in ("/home/jovyan", "/dev/shm/", "/home/jovyan/"):
        with pytest.raises(UsageError, match="two volumes"):
            render(datasets=(parse_dataset(f"a:{path}"),))


def test_slices_of_a_gpu() -> None:
    assert name_mig("1g.10gb+me") == "nvidia.com/mig-1g.10gb.me"
    for text in ("1g", "all-1g.5gb", ""):
        with pytest.raises(UsageError):
            name_mig(text)


@pytest.mark.parametrize(("memory", "told"), [("2Gi", True), ("4Gi", True), ("4500M", False), ("8Gi", False)])
def test_memory_that_shm_does_not_fit_in_is_told(memory: str, told: bool) -> None:
    text = render_notebook(HISTORY[0], find_reference(HISTORY[0]), CONFIG, msgspec.structs.replace(PLAN, memory=memory))
    assert (f"# /dev/shm may hold 4Gi, and the container {memory}:" in text) == told
