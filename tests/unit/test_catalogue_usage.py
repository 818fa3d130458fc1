"""What counts as in use, and which dumps say too little, too late, or nothing: the shapes are those of a real cluster's objects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.catalogue.clusterdump import BEGIN, END, KINDS, read_dump, render_command
from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.catalogue.usage import read_usage
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Digest
from tests.catalogue_parts import write_cluster

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DIGEST = Digest.of(b"cosml")
TAG = "2026q1-61b1a7b664ae"
ENTRY = CatalogueEntry(
    team="cosml",
    quarter="2026q1",
    tag=TAG,
    digest=DIGEST,
    created="2026-01-15T00:00:00Z",
    kind="jupyter",
    image="registry.example/ml/cosml",
    repository="ml/cosml",
    current=False,
    tags=(TAG,),
)
BY_DIGEST = f"registry.example/ml/cosml@{DIGEST}"
BY_TAG = f"registry.example/ml/cosml:{TAG}"
ID = f"cosml-{DIGEST.hex[:12]}"


def pod_template(image: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "main", "image": image}]}}


def image_value(id: str, image: str, *, hidden: bool = False) -> dict[str, Any]:
    return {"id": id, "spawner": {"displayName": "x", "hidden": hidden}, "spec": {"image": image}}


def workspace_kind(*values: dict[str, Any]) -> dict[str, Any]:
    options = {"imageConfig": {"spawner": {"default": "new"}, "values": [image_value("new", "other/image:1"), *values]}}
    applied = {"kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"podTemplate": {"options": options}}})}
    return {"kind": "WorkspaceKind", "metadata": {"name": "jupyter", "annotations": applied}, "spec": {"podTemplate": {"options": options}}}


def workspace(image: str, *, paused: bool = True) -> dict[str, Any]:
    options = {"imageConfig": image, "podConfig": "small"}
    return {
        "kind": "Workspace",
        "metadata": {"namespace": "alice", "name": "ws"},
        "spec": {"paused": paused, "kind": "jupyter", "podTemplate": {"options": options}},
    }


def named(kind: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"namespace": "alice", "name": "x"}, **more}


USERS: list[tuple[str, list[dict[str, Any]]]] = [
    ("CronJob", [named("CronJob", spec={"suspend": True, "jobTemplate": {"spec": {"template": pod_template(BY_DIGEST)}}})]),
    ("Job", [named("Job", spec={"template": pod_template(BY_TAG)}, status={"succeeded": 1})]),
    ("StatefulSet", [named("StatefulSet", spec={"replicas": 0, "template": pod_template(BY_DIGEST)})]),
    ("ReplicaSet", [named("ReplicaSet", spec={"replicas": 0, "template": pod_template(BY_DIGEST)})]),
    ("Deployment", [named("Deployment", spec={"template": pod_template(f"mirror.example:5000/x/cosml:{TAG}")})]),
    ("Notebook", [named("Notebook", metadata={"name": "x", "annotations": {"kubeflow-resource-stopped": "2026-01-01T00:00:00Z"}},
                        spec={"template": pod_template(BY_TAG)})]),
    ("Notebook", [named("Notebook", last={"notebooks.opendatahub.io/last-image-selection": f"imagebuild-cosml:{TAG}"})]),
    ("Workspace", [workspace(ID)]),
    ("Workspace", [workspace("env-of-q1"), workspace_kind(image_value("env-of-q1", "x", hidden=True)), named("Workspace", note=BY_DIGEST)]),
    ("WorkspaceKind", [workspace_kind(image_value(ID, BY_DIGEST))]),
    ("WorkspaceKind", [workspace_kind(image_value("env-of-q1", BY_DIGEST, hidden=True)), workspace("env-of-q1")]),
    ("InferenceService", [named("InferenceService", spec={"predictor": {"containers": [{"image": BY_DIGEST}]}})]),
    ("CronWorkflow", [named("CronWorkflow", spec={"workflowSpec": {"templates": [{"container": {"image": BY_TAG}}]}})]),
    ("WorkflowTemplate", [named("WorkflowTemplate", spec={"templates": [{"script": {"image": BY_DIGEST}}]})]),
    ("Task", [named("Task", spec={"steps": [{"image": BY_DIGEST}]})]),
    ("Pipeline", [named("Pipeline", spec={"params": [{"name": "tag", "default": TAG}]})]),
    ("ImageStream", [named("ImageStream", spec={"tags": [{"name": TAG, "from": {"kind": "DockerImage", "name": BY_DIGEST}}]})]),
    ("PyTorchJob", [named("PyTorchJob", spec={"pytorchReplicaSpecs": {"Worker": {"template": pod_template(BY_DIGEST)}}})]),
    ("RayCluster", [named("RayCluster", spec={"headGroupSpec": {"template": pod_template(BY_DIGEST)}})]),
    ("Pod", [named("Pod", status={"containerStatuses": [{"image": "x", "imageID": f"docker-pullable://r.example/x@{DIGEST}"}]})]),
    ("Pod", [named("Pod", spec={"volumes": [{"name": "warm", "image": {"reference": BY_DIGEST}}]})]),
    ("ConfigMap", [named("ConfigMap", data={"values.yaml": f"singleuser:\n  image:\n    name: r.example/cosml\n    tag: {TAG}\n"})]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "objects"), USERS, ids=[f"{number}-{kind}" for number, (kind, _) in enumerate(USERS)])
def test_whatever_names_an_image_uses_it(tmp_path: Path, kind: str, objects: list[dict[str, Any]]) -> None:
    usage = read_usage([write_cluster(tmp_path / "cluster.json", objects, NOW)], NOW)
    assert usage.find_user(ENTRY).startswith(kind)


@pytest.mark.parametrize(
    "objects",
    [
        [workspace_kind(image_value(ID, BY_DIGEST, hidden=True))],  # nobody can choose it, and nobody has
        [workspace_kind(image_value("old", BY_DIGEST, hidden=True)), workspace("new")],
        [named("Pod", spec={"containers": [{"image": f"r.example/cosml@{Digest.of(b'another')}"}]})],
        [named("Pod", spec={"containers": [{"image": f"r.example/cosml:{TAG[:-1]}f"}]})],
        [workspace(f"other-{DIGEST.hex[:12]}")],
        [workspace(f"{ID}0")],
        [],
    ],
)
def test_what_names_another_image_does_not(tmp_path: Path, objects: list[dict[str, Any]]) -> None:
    assert read_usage([write_cluster(tmp_path / "cluster.json", objects, NOW)], NOW).find_user(ENTRY) == ""


def test_clusters_count_together_and_each_is_complete(tmp_path: Path) -> None:
    one = write_cluster(tmp_path / "one.json", [], NOW)
    two = write_cluster(tmp_path / "two.json", [named("CronJob", image=BY_DIGEST)], NOW)
    assert read_usage([one, two], NOW).find_user(ENTRY) == "CronJob alice/x"
    assert read_usage([one, two], NOW).kinds == {"CronJob": 1, "Pod": 2}
    part = write_cluster(tmp_path / "part.json", [], NOW, asked=["pods", "daemonsets.apps", "notebooks.kubeflow.org"])
    with pytest.raises(ConfigurationError, match=r"part\.json has no deployments\.apps, replicasets\.apps, statefulsets\.apps, cronjobs"):
        read_usage([one, part], NOW)


def test_a_hub_and_a_list_of_references_add_to_a_cluster(tmp_path: Path) -> None:
    hub = tmp_path / "hub.json"
    options = {"profile": "cosml", "image": BY_DIGEST}
    hub.write_text(
        json.dumps([{"name": "alice", "servers": {"": {"ready": False, "user_options": options}}}, {"name": "bob", "servers": {}}])
    )
    plain = tmp_path / "references.txt"
    plain.write_text(f"# of the batch system\n{BY_TAG}\n")
    cluster = write_cluster(tmp_path / "cluster.json", [], NOW)
    assert read_usage([cluster, hub], NOW).find_user(ENTRY) == "hub user alice"
    assert read_usage([cluster, plain], NOW).find_user(ENTRY) == "reference references.txt"
    with pytest.raises(ConfigurationError, match="no dump of a cluster"):
        read_usage([hub, plain], NOW)
    assert read_usage([hub, plain], NOW, alone=True).kinds == {"hub user": 2, "reference": 1}


PODS = {"kind": "PodList", "items": [{"kind": "Pod", "metadata": {"creationTimestamp": "2026-11-26T11:00:00Z"}}], "metadata": {}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON, and no list of references"),
        ("not a reference\n", "not JSON, and no list of references"),
        ('{"kind": "List", "items": [{"kind": "Pod"', "was cut short"),
        ("[]", "not a list of objects"),
        ('[{"kind": "Pod"}]', "not a list of objects"),
        ('{"kind": "Pod", "items": []}', "not a list of objects"),
        ('{"kind": "List", "items": []}', "empty"),
        ('{"kind": "List", "items": ["x"]}', "empty"),
        ('{"kind": "List", "items": [{"kind": "Notebook"}]}', "no pod"),
        ('{"kind": "PodList", "items": [{}], "metadata": {"continue": "abc"}}', "one page"),
        ('{"kind": "PodList", "items": [{}], "metadata": {"remainingItemCount": 3}}', "one page"),
        (json.dumps({"kind": BEGIN, "taken": "2026-11-26T11:00:00Z", "asked": ",".join(KINDS)}), "cut short"),
        (json.dumps({"kind": BEGIN, "taken": "2026-11-26T11:00:00Z", "asked": ",".join(KINDS)}) + json.dumps(PODS), "cut short"),
        (json.dumps({"kind": BEGIN, "asked": ",".join(KINDS)}) + json.dumps(PODS) + json.dumps({"kind": END}), "does not say when"),
        (json.dumps(PODS), "has no podtemplates, replicationcontrollers, daemonsets.apps, deployments.apps and"),
    ],
)
def test_a_dump_that_says_too_little_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "dump.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=word) as caught:
        read_usage([write_cluster(tmp_path / "good.json", [], NOW), path], NOW)
    assert "--print-kubectl" in caught.value.hint
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_usage([tmp_path / "none.json"], NOW)


def test_a_dump_is_of_today(tmp_path: Path) -> None:
    day = timedelta(days=1)
    path = write_cluster(tmp_path / "cluster.json", [], NOW - day)
    read_usage([path], NOW)
    with pytest.raises(ConfigurationError, match="too old: the file is of 2026-11-25 12:00"):
        read_usage([path], NOW + timedelta(seconds=1))
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))  # copied since
    with pytest.raises(ConfigurationError, match="too old: it was taken of 2026-11-25 12:00"):
        read_usage([path], NOW + timedelta(seconds=1))
    plain = {
        "kind": "List",
        "items": [{"kind": "Pod", "metadata": {"creationTimestamp": "2026-11-25T11:59:59Z"}, "until": "2099-01-01T00:00:00Z"}],
    }
    path.write_text(json.dumps(plain))
    with pytest.raises(ConfigurationError, match="nothing in it is newer than of 2026-11-25 11:59"):
        read_usage([path], NOW, [*KINDS])


@pytest.mark.parametrize("word", ["CronJob", "cronjob", "cronjobs", "cronjobs.batch"])
def test_a_kind_that_a_cluster_lacks_is_named(tmp_path: Path, word: str) -> None:
    asked = [name for name in KINDS if name != "cronjobs.batch"]
    path = write_cluster(tmp_path / "cluster.json", [], NOW, asked=asked)
    with pytest.raises(ConfigurationError, match=r"has no cronjobs\.batch: an image that only those use") as caught:
        read_usage([path], NOW)
    assert "--without CronJob" in caught.value.hint
    assert read_usage([path], NOW, [word]).kinds == {"Pod": 1}
    with pytest.raises(ConfigurationError, match="no kind is called 'CronJbo'") as caught:
        read_usage([path], NOW, ["CronJbo"])
    assert "CronJob" in caught.value.hint


HAS = """bindings configmaps pods secrets controllerrevisions.apps daemonsets.apps deployments.apps replicasets.apps statefulsets.apps
cronjobs.batch jobs.batch notebooks.kubeflow.org profiles.kubeflow.org pytorchjobs.kubeflow.org imagestreams.image.openshift.io
images.image.openshift.io certificates.cert-manager.io"""
FAKE_KUBECTL = f"""#!/bin/sh
case "$*" in
"api-resources --verbs=list -o name") printf '%s\\n' {" ".join(HAS.split())}; exit ${{API_CODE:-0}} ;;
get*) echo "$2" > asked; cat list.json; exit ${{GET_CODE:-0}} ;;
*) exit 9 ;;
esac
"""


@pytest.mark.parametrize("shell", ["sh", "bash", "dash"])
def test_the_printed_command_gathers_what_the_cluster_has(tmp_path: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    tool = tmp_path / "bin" / "kubectl"
    tool.parent.mkdir()
    tool.write_text(FAKE_KUBECTL)
    tool.chmod(0o755)
    (tmp_path / "list.json").write_text(
        json.dumps({"kind": "List", "items": [{"kind": "Pod"}, named("PyTorchJob", image=BY_DIGEST)]}, indent=4)
    )
    environment = {
        **os.environ,
        "PATH": f"{tool.parent}:{os.environ['PATH']}",
        "ASKED": str(tmp_path / "asked"),
        "LIST": str(tmp_path / "list.json"),
    }

    def run(**more: str) -> int:
        return subprocess.run([shell, "-c", render_command()], cwd=tmp_path, env={**environment, **more}, check=False).returncode

    assert run() == 0
    assert (tmp_path / "asked").read_text().strip() == (
        "pods,daemonsets.apps,deployments.apps,replicasets.apps,statefulsets.apps,cronjobs.batch,jobs.batch,notebooks.kubeflow.org,"
        "profiles.kubeflow.org,pytorchjobs.kubeflow.org,imagestreams.image.openshift.io"
    )
    found = read_dump(tmp_path / "cluster.json", (), datetime.now(UTC))
    assert (found.kinds, found.whole) == ({"Pod": 1, "PyTorchJob": 1}, True)
    assert run(GET_CODE="1") != 0  # one kind may not be read: kubectl prints the others
    with pytest.raises(ConfigurationError, match="cut short"):
        read_dump(tmp_path / "cluster.json", (), datetime.now(UTC))
    (tmp_path / "cluster.json").unlink()
    assert run(API_CODE="1") != 0  # an aggregated API is away: its kinds are missing
    assert not (tmp_path / "cluster.json").exists()


def test_every_kind_of_the_table_is_asked_for() -> None:
    pattern = render_command().partition("grep -E '")[2].partition("'")[0]
    done = subprocess.run(["grep", "-E", pattern], input="\n".join(KINDS), capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(KINDS)
    assert len(msgspec.json.encode(KINDS)) > 500
