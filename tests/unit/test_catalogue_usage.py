"""What counts as in use, and which dumps say too little, too late, or nothing: the shapes are those of a real cluster's objects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from imagebuild.catalogue.clusterdump import ClusterDump, read_dump
from imagebuild.catalogue.clusterkinds import BEGIN, END, KINDS, is_wanted, parse_kinds, render_command
from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.catalogue.usage import MAX_AGE, Usage, explain_users, read_usage
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Digest
from tests.support.fleet import write_cluster

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

RESOURCES = tuple(kind.resource for kind in KINDS)


def find_user(usage: Usage) -> str:
    """The first that uses ENTRY, "" for none."""
    return next(map(str, usage.find_users([ENTRY.digest], ENTRY.tags)), "")


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
    ("WorkspaceKind", [workspace_kind(image_value(ID, "x", hidden=True))]),  # a Workspace that is made tomorrow may choose it
    ("Workspace", [workspace(f"other-{DIGEST.hex[:12]}")]),
    ("Pod", [named("Pod", note=f"image=cosml%40sha256%3a{DIGEST.hex}")]),
    ("Rollout", [named("Rollout", short=DIGEST.hex[:12])]),
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
    assert find_user(usage).startswith(kind)


@pytest.mark.parametrize(
    "objects",
    [
        [named("Pod", spec={"containers": [{"image": f"r.example/cosml@{Digest.of(b'another')}"}]})],
        [named("Pod", spec={"containers": [{"image": f"r.example/cosml:{TAG[:-1]}f"}]})],
        [workspace(f"cosml-{DIGEST.hex[:11]}")],
        [workspace("cosml")],
        [],
    ],
)
def test_what_names_another_image_does_not(tmp_path: Path, objects: list[dict[str, Any]]) -> None:
    assert find_user(read_usage([write_cluster(tmp_path / "cluster.json", objects, NOW)], NOW)) == ""


def test_clusters_count_together_and_each_is_complete(tmp_path: Path) -> None:
    one = write_cluster(tmp_path / "one.json", [], NOW)
    two = write_cluster(tmp_path / "two.json", [named("CronJob", image=BY_DIGEST)], NOW)
    assert find_user(read_usage([one, two], NOW)) == "CronJob alice/x"
    assert read_usage([one, two], NOW).kinds == {"CronJob": 1, "Pod": 2}
    part = write_cluster(tmp_path / "part.json", [], NOW, asked=["pods", "daemonsets.apps", "notebooks.kubeflow.org"])
    with pytest.raises(ConfigurationError, match=r"part\.json has no replicasets\.apps, statefulsets\.apps, deployments\.apps, jobs"):
        read_usage([one, part], NOW)


def test_a_hub_and_a_list_of_references_add_to_a_cluster(tmp_path: Path) -> None:
    hub = tmp_path / "hub.json"
    options = {"profile": "cosml", "image": BY_DIGEST}
    hub.write_text(
        json.dumps([{"name": "alice", "servers": {"": {"ready": False, "user_options": options}}}, {"name": "bob", "servers": {}}])
    )
    plain = tmp_path / "references.txt"
    plain.write_text(f"# of the batch system\n{BY_TAG}\n")
    for file in (hub, plain):
        os.utime(file, (NOW.timestamp(),) * 2)
    cluster = write_cluster(tmp_path / "cluster.json", [], NOW)
    assert find_user(read_usage([cluster, hub], NOW)) == "JupyterHub user alice"
    assert find_user(read_usage([cluster, plain], NOW)) == f"reference {BY_TAG}"
    with pytest.raises(ConfigurationError, match="none of them is the dump of a cluster"):
        read_usage([hub, plain], NOW)
    assert read_usage([hub, plain], NOW, alone=True).kinds == {"JupyterHub user": 2, "reference": 1}


PODS = {"kind": "PodList", "items": [{"kind": "Pod", "metadata": {"creationTimestamp": "2026-11-26T11:00:00Z"}}], "metadata": {}}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "neither JSON nor a list of references"),
        ("not a reference\n", "neither JSON nor a list of references"),
        ('{"kind": "List", "items": [{"kind": "Pod"', "was cut short"),
        ("[]", "empty, or one page"),
        ('[{"kind": "Pod"}]', "neither a list of objects"),
        ('{"kind": "Pod", "items": []}', "not a list of objects"),
        ('{"kind": "List", "items": []}', "empty"),
        ('{"kind": "List", "items": ["x"]}', "not an object"),
        ('{"kind": "List", "items": [{"kind": "Notebook"}]}', "has no pods, "),
        ('{"kind": "PodList", "items": [{}], "metadata": {"continue": "abc"}}', "one page"),
        ('{"kind": "PodList", "items": [{}], "metadata": {"remainingItemCount": 3}}', "one page"),
        ('{"kind": "List", "items": [{"kind": "PodList", "items": [{}], "metadata": {"continue": "abc"}}]}', "one page"),
        ("Error from server (Forbidden): pods is forbidden", "neither JSON nor a list of references"),
        ("apiVersion: v1", "neither JSON nor a list of references"),
        (json.dumps({"kind": BEGIN, "taken": "2026-11-26T11:00:00Z", "asked": ",".join(RESOURCES)}), "cut short"),
        (json.dumps({"kind": BEGIN, "taken": "2026-11-26T11:00:00Z", "asked": ",".join(RESOURCES)}) + json.dumps(PODS), "cut short"),
        (json.dumps({"kind": BEGIN, "asked": ",".join(RESOURCES)}) + json.dumps(PODS) + json.dumps({"kind": END}), "does not say when"),
        (json.dumps(PODS) + json.dumps(PODS), "not one list"),
        (json.dumps(PODS), "has no replicasets.apps, statefulsets.apps, daemonsets.apps, deployments.apps and"),
        (json.dumps([{"name": "ada"}]), "with their servers"),
        (json.dumps([{"name": f"u{number}", "servers": {}} for number in range(200)]), "one page"),
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
    with pytest.raises(ConfigurationError, match=r"too old: .* 2026-11-25 12:00"):
        read_usage([path], NOW + timedelta(seconds=1))
    read_usage([path], NOW + timedelta(seconds=1), max_age=2 * day)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))  # copied since
    with pytest.raises(ConfigurationError, match=r"too old: .* 2026-11-25 12:00"):
        read_usage([path], NOW + timedelta(seconds=1))
    with pytest.raises(ConfigurationError, match="in the future"):
        read_usage([path], NOW - 2 * day)


@pytest.mark.parametrize(
    ("newest", "changed", "old"),
    [
        ("2026-11-25T12:00:01Z", NOW, False),
        ("2026-11-25T11:59:59Z", NOW, True),  # the copy is new, what it holds is not
        ("2026-11-26T11:00:00+00:00", NOW - timedelta(hours=25), True),  # a clock of the cluster's that goes wrong
    ],
)
def test_a_plain_dump_is_as_old_as_its_newest_time_or_its_file(tmp_path: Path, newest: str, changed: datetime, old: bool) -> None:
    path = tmp_path / "plain.json"
    # Times to come, and those of no event, make it no younger.
    others = {"notAfter": "2026-11-26T11:00:00Z", "startTime": "2099-01-01T00:00:00Z"}
    pod = named("Pod", status={"conditions": [{"lastTransitionTime": newest}], **others})
    path.write_text(json.dumps({"kind": "List", "items": [pod]}))
    os.utime(path, (changed.timestamp(),) * 2)
    if old:
        with pytest.raises(ConfigurationError, match="too old"):
            read_usage([path], NOW, frozenset(RESOURCES))
    else:
        read_usage([path], NOW, frozenset(RESOURCES))


def make_item(kind: str, resource: str) -> dict[str, Any]:
    group = resource.partition(".")[2]
    about = {"name": "x", "namespace": "kube-system" if kind == "Pod" else "alice", "creationTimestamp": "2026-11-26T11:00:00Z"}
    return {"kind": kind, "apiVersion": f"{group}/v1" if group else "v1", "metadata": about}


@pytest.mark.parametrize("kind", KINDS, ids=RESOURCES)
def test_a_plain_dump_has_an_object_of_each_kind_or_somebody_says_that_there_is_none(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "plain.json"
    items = [make_item(other.kind, other.resource) for other in KINDS if other != kind]
    path.write_text(json.dumps({"kind": "List", "items": items}))
    os.utime(path, (NOW.timestamp(),) * 2)
    with pytest.raises(ConfigurationError, match=f"has no {kind.resource}: ") as caught:
        read_usage([path], NOW)
    assert f"--without {kind.resource}" in caught.value.hint
    assert read_usage([path], NOW, frozenset({kind.resource})).clusters == 1
    path.write_text(json.dumps({"kind": "List", "items": [*items, make_item(kind.kind, kind.resource)]}))
    os.utime(path, (NOW.timestamp(),) * 2)
    assert read_usage([path], NOW).warnings == ()


def test_the_dump_that_was_documented_before_is_refused(tmp_path: Path) -> None:
    """``kubectl get notebooks,pods,daemonsets``: what runs by a CronJob or a paused workspace is not in it."""
    path = tmp_path / "plain.json"
    items = [make_item(kind.kind, kind.resource) for kind in KINDS if kind.kind in ("Notebook", "Pod", "DaemonSet")]
    path.write_text(json.dumps({"kind": "List", "items": items}))
    os.utime(path, (NOW.timestamp(),) * 2)
    rest = [kind.resource for kind in KINDS if kind.kind not in ("Notebook", "Pod", "DaemonSet")]
    with pytest.raises(ConfigurationError) as caught:
        read_usage([path], NOW)
    excuse = caught.value.hint.rpartition("--without ")[2]
    assert excuse.startswith("replicasets.apps,statefulsets.apps,deployments.apps,batch,workspaces.kubeflow.org,")
    assert parse_kinds([excuse]) == set(rest)
    read_usage([path], NOW, parse_kinds([excuse]))


def test_one_namespace_is_doubted(tmp_path: Path) -> None:
    path = tmp_path / "plain.json"
    path.write_text(json.dumps({"kind": "List", "items": [make_item("Pod", "pods")]}))
    os.utime(path, (NOW.timestamp(),) * 2)
    (warning,) = read_usage([path], NOW, frozenset(RESOURCES)).warnings
    assert "one namespace, kube-system" in warning


def test_what_only_offers_an_image_is_told_apart(tmp_path: Path) -> None:
    kind = workspace_kind(image_value(ID, BY_DIGEST, hidden=True))

    def explain(*objects: dict[str, Any]) -> str:
        usage = read_usage([write_cluster(tmp_path / "cluster.json", objects, NOW)], NOW)
        return explain_users(usage.find_users([ENTRY.digest], ENTRY.tags))

    assert explain(kind) == "offered in a cluster: WorkspaceKind jupyter; take it out there first"
    assert explain(kind, workspace(ID)) == "in use in a cluster: Workspace alice/ws"
    pods = [named("Pod", metadata={"name": name}, image=BY_TAG) for name in "abc"]
    assert explain(*pods, kind) == "in use in a cluster: Pod a, Pod b and 1 more"


@pytest.mark.parametrize("word", ["CronJob", "cronjob", "cronjobs", "cronjobs.batch", "tasks,cronjobs", "batch"])
def test_a_kind_that_a_cluster_lacks_is_named(tmp_path: Path, word: str) -> None:
    asked = [name for name in RESOURCES if name != "cronjobs.batch"]
    path = write_cluster(tmp_path / "cluster.json", [], NOW, asked=asked)
    with pytest.raises(ConfigurationError, match=r"has no cronjobs\.batch: an image that only those use") as caught:
        read_usage([path], NOW)
    assert "--without cronjobs.batch" in caught.value.hint
    assert read_usage([path], NOW, parse_kinds([word])).kinds == {"Pod": 1}
    with pytest.raises(UsageError, match="'cronjbo'") as wrong:
        parse_kinds([word, "cronjbo"])
    assert "did you mean 'cronjob'" in wrong.value.hint


def test_names_that_kinds_share_mean_all_of_them() -> None:
    assert parse_kinds(["pipelines"]) == {"pipelines.tekton.dev", "pipelines.pipelines.kubeflow.org"}
    assert parse_kinds(["tekton.dev"]) >= {"tasks.tekton.dev", "pipelineruns.tekton.dev"}
    assert parse_kinds(["rayjobs.ray.io", ""]) == {"rayjobs.ray.io"}


def test_what_the_cluster_has_was_asked_for(tmp_path: Path) -> None:
    path = write_cluster(tmp_path / "cluster.json", [], NOW, has=["pods", "secrets", "tfjobs.kubeflow.org"])
    with pytest.raises(ConfigurationError, match=r"has no tfjobs\.kubeflow\.org:"):
        read_usage([path], NOW)
    read_usage([path], NOW, parse_kinds(["tfjobs.kubeflow.org"]))


def make_hub_user(name: str, choice: str, *, stopped: bool = True) -> dict[str, Any]:
    """As JupyterHub's ``user_model`` and ``server_model`` write it; ``choice``: of a profile of ours."""
    server = {"name": "", "last_activity": "2026-11-26T09:00:00Z", "ready": False, "stopped": stopped, "state": None}
    return {"kind": "user", "name": name, "servers": {"": {**server, "user_options": {"profile": "imagebuild-cosml", "image": choice}}}}


def test_the_choice_of_a_stopped_server_is_in_use(tmp_path: Path) -> None:
    hub = tmp_path / "hub.json"
    hub.write_text(json.dumps([make_hub_user("ada", f"2026q1-{DIGEST.hex[:12]}")]))
    os.utime(hub, (NOW.timestamp(),) * 2)
    usage = read_usage([hub], NOW, alone=True)
    assert (find_user(usage), usage.clusters, usage.warnings) == ("JupyterHub user ada", 0, ())
    hub.write_text(json.dumps([make_hub_user("ada", "x", stopped=False)]))
    os.utime(hub, (NOW.timestamp(),) * 2)
    assert "include_stopped_servers" in read_usage([hub], NOW, alone=True).warnings[0]


def test_pages_of_a_hub_stand_one_after_the_other(tmp_path: Path) -> None:
    hub = tmp_path / "hub.json"
    users = [make_hub_user("bob", "x"), make_hub_user("eve", "x"), make_hub_user("ada", f"2026q1-{DIGEST.hex[:12]}")]
    pages = [
        {"items": users[:2], "_pagination": {"offset": 0, "limit": 2, "total": 3, "next": {"offset": 2, "limit": 2, "url": "x"}}},
        {"items": users[2:], "_pagination": {"offset": 2, "limit": 2, "total": 3, "next": None}},
    ]
    for kept, whole in ((pages, True), (pages[:1], False), (pages[1:], False)):
        hub.write_text("\n".join(map(json.dumps, kept)))
        os.utime(hub, (NOW.timestamp(),) * 2)
        if whole:
            assert find_user(read_usage([hub], NOW, alone=True)) == "JupyterHub user ada"
        else:
            with pytest.raises(ConfigurationError, match="one page of several"):
                read_usage([hub], NOW, alone=True)


def read_now(path: Path) -> ClusterDump:
    return read_dump(path, frozenset(), datetime.now(UTC), MAX_AGE)


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
    found = read_now(tmp_path / "cluster.json")
    assert ([item["kind"] for item in found.objects], found.whole) == (["Pod", "PyTorchJob"], True)
    begin = json.loads((tmp_path / "cluster.json").read_text().splitlines()[0])
    assert begin["has"].split(",") == HAS.split()
    assert run(KUBECTL=f"{tool} --context prod") != 0
    assert run(KUBECTL=str(tool), PATH=os.environ["PATH"]) == 0
    assert run(GET_CODE="1") != 0  # one kind may not be read: kubectl prints the others
    with pytest.raises(ConfigurationError, match="cut short"):
        read_now(tmp_path / "cluster.json")
    (tmp_path / "cluster.json").unlink()
    assert run(API_CODE="1") != 0  # an aggregated API is away: its kinds are missing
    assert not (tmp_path / "cluster.json").exists()


def test_every_kind_of_the_table_is_asked_for() -> None:
    pattern = render_command().partition("grep -xE '")[2].partition("'")[0]
    more = ("trainjobs.trainer.kubeflow.org", "rayclusters.ray.io", "rollouts.argoproj.io", "services.serving.knative.dev")
    never = ("secrets", "configmaps", "events", "services", "pods.metrics.k8s.io", "x.notkubeflow.org", "controllerrevisions.apps")
    done = subprocess.run(
        ["grep", "-xE", pattern], input="\n".join((*RESOURCES, *more, *never)), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*RESOURCES, *more]
    assert all(map(is_wanted, (*RESOURCES, *more)))
    assert not any(map(is_wanted, never))
