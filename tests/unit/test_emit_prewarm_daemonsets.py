"""The pre-warm manifests: valid for Kubernetes' own schemas, restricted, by digest, and always the same bytes."""

from __future__ import annotations

import importlib
import itertools
import re
from typing import Any

import kubernetes_validate
import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.prewarm.daemonsets import HEADER, describe_prewarm, render_kustomization, render_prewarm
from imagebuild.emit.prewarm.pools import Pool, PrewarmSettings, Toleration
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Digest

yaml: Any = importlib.import_module("yaml")

OLDEST = "1.25.0"  # the oldest whose schemas the package brings
PAUSE = f"registry.example/pause:3@{Digest.of(b'pause')}"
GPU = Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule")


def make_entry(team: str = "cosml", tag: str = "2026q4-a", current: bool = True, image: str = "") -> CatalogueEntry:
    return CatalogueEntry(
        team=team,
        quarter="2026q4",
        tag=tag,
        digest=Digest.of(f"{team}:{tag}".encode()),
        created="2026-10-01T00:00:00Z",
        kind="jupyter",
        image=image or f"registry.example:5000/ml/{team}",
        repository=f"ml/{team}",
        current=current,
        title="Consumer science",
    )


def make_pool(name: str = "a100", teams: tuple[str, ...] | None = ("cosml",), labels: dict[str, tuple[str, ...]] | None = None) -> Pool:
    return Pool(name, labels or {"cloud.google.com/gke-nodepool": (name,)}, teams, (GPU,), "10%", 0)


def render(pools: list[Pool], entries: list[CatalogueEntry], **options: Any) -> list[dict[str, Any]]:
    chosen = {name: options.pop(name) for name in list(options) if name in PrewarmSettings.__struct_fields__}
    settings = PrewarmSettings(**{"pause_image": PAUSE, **chosen})
    return list(yaml.safe_load_all(render_prewarm(pools, entries, settings, **options)))


def check_restricted(pod: dict[str, Any]) -> list[str]:
    """What the restricted Pod Security Standard (kubernetes.io, "Restricted") finds wrong; written from its text."""
    found = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    allowed = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret"}
    found += [f"volume {volume['name']}" for volume in pod.get("volumes", []) if not set(volume) - {"name"} <= allowed]
    shared = pod.get("securityContext", {})
    found += ["runAsUser 0"] if shared.get("runAsUser") == 0 else []
    found += ["sysctls"] if shared.get("sysctls") else []
    for container in [*pod["containers"], *pod.get("initContainers", []), *pod.get("ephemeralContainers", [])]:
        own = container.get("securityContext", {})
        if own.get("privileged"):
            found.append("privileged")
        if own.get("allowPrivilegeEscalation") is not False:
            found.append("allowPrivilegeEscalation")
        if own.get("runAsNonRoot", shared.get("runAsNonRoot")) is not True:
            found.append("runAsNonRoot")
        if own.get("runAsUser") == 0:
            found.append("runAsUser 0")
        if own.get("seccompProfile", shared.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            found.append("seccompProfile")
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append("capabilities")
        found += [f"hostPort {port}" for port in container.get("ports", []) if port.get("hostPort")]
    return found


def test_the_newest_kubernetes_takes_every_document() -> None:
    pools = [make_pool(), make_pool("t4", ("cosml", "risk"), {"nvidia.com/gpu.product": ("Tesla-T4", "Tesla-T4-SHARED"), "a": ("true",)})]
    documents = render(pools, [make_entry(), make_entry("risk")], pull_secret="registry")
    assert [document["kind"] for document in documents] == ["Namespace", "PriorityClass", "DaemonSet", "DaemonSet"]
    newest = kubernetes_validate.latest_version()
    for document in documents:
        assert kubernetes_validate.validate(document, newest, strict=True) == ".".join(newest.split(".")[:2])
    broken = documents[2]
    broken["spec"]["template"]["spec"]["volumes"][0]["image"]["ref"] = "x"  # the check above can fail
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, newest, strict=True)


def test_pods_are_restricted_and_ask_for_no_gpu() -> None:
    namespace, _, daemonset = render([make_pool()], [make_entry()])
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    pod = daemonset["spec"]["template"]["spec"]
    assert check_restricted(pod) == []
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}  # and no runAsUser
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert pod["terminationGracePeriodSeconds"] == 0
    assert daemonset["spec"]["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"
    (container,) = pod["containers"]
    assert container["resources"] == {"requests": {"cpu": "1m", "memory": "8Mi"}, "limits": {"memory": "32Mi"}}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert "command" not in container
    assert "imagePullSecrets" not in pod


@pytest.mark.parametrize("key", ["allowPrivilegeEscalation", "capabilities"])
def test_the_check_for_restricted_pods_can_fail(key: str) -> None:
    pod = render([make_pool()], [make_entry()])[2]["spec"]["template"]["spec"]
    del pod["containers"][0]["securityContext"][key]
    assert check_restricted(pod) == [key]


def test_images_are_held_by_digest() -> None:
    entries = [make_entry(), make_entry(tag="2026q3-old", current=False), make_entry("risk"), make_entry("alone")]
    pod = render([make_pool(teams=("cosml", "risk"))], entries, pull_secret="registry")[2]["spec"]["template"]["spec"]
    assert pod["volumes"] == [
        {
            "name": f"warm-{entry.team}",
            "image": {"reference": f"registry.example:5000/ml/{entry.team}@{entry.digest}", "pullPolicy": "IfNotPresent"},
        }
        for entry in (entries[0], entries[2])
    ]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": f"warm-{team}", "mountPath": f"/warm/warm-{team}", "readOnly": True} for team in ("cosml", "risk")
    ]
    assert pod["containers"][0]["image"] == f"registry.example/pause@{Digest.of(b'pause')}"
    assert pod["imagePullSecrets"] == [{"name": "registry"}]


def test_every_team_is_those_with_an_image() -> None:
    pod = render([make_pool(teams=None)], [make_entry("risk"), make_entry()])[2]["spec"]["template"]["spec"]
    assert [volume["name"] for volume in pod["volumes"]] == ["warm-cosml", "warm-risk"]
    with pytest.raises(UsageError, match="no team has a pushed image"):
        render([make_pool(teams=None)], [make_entry(current=False)])


def test_nodes_are_chosen_by_the_pools_labels_and_taints() -> None:
    pool = make_pool(labels={"one": ("true",), "two": ("a", "b")})
    pool = msgspec.structs.replace(pool, tolerations=(GPU, Toleration("t", "Equal", "v")))
    daemonset = render([pool], [make_entry()])[2]
    pod = daemonset["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"one": "true"}
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term == {"matchExpressions": [{"key": "two", "operator": "In", "values": ["a", "b"]}]}
    assert pod["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "t", "operator": "Equal", "value": "v"},
    ]
    assert daemonset["spec"]["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "10%", "maxUnavailable": 0}}
    assert daemonset["spec"]["selector"]["matchLabels"].items() <= daemonset["spec"]["template"]["metadata"]["labels"].items()


def test_the_priority_never_pushes_a_notebook_out() -> None:
    priority = render([make_pool()], [make_entry()])[1]
    assert priority["value"] < 0
    assert priority["preemptionPolicy"] == "Never"
    assert "globalDefault" not in priority  # the server leaves false out: each apply would say "configured"
    assert render([make_pool()], [make_entry()])[2]["spec"]["template"]["spec"]["priorityClassName"] == priority["metadata"]["name"]


@pytest.mark.slow
def test_the_order_of_the_input_does_not_matter() -> None:
    pools = [make_pool("b", ("risk", "cosml")), make_pool("a", None), make_pool("c")]
    pools = [msgspec.structs.replace(pool, teams=None if pool.teams is None else tuple(sorted(pool.teams))) for pool in pools]
    entries = [make_entry(), make_entry("risk"), make_entry(tag="2026q3-old", current=False)]
    texts = {
        render_prewarm(some_pools, some_entries, PrewarmSettings(pause_image=PAUSE))
        for some_pools in itertools.permutations(pools)
        for some_entries in itertools.permutations(entries)
    }
    assert len(texts) == 1


def test_names_are_dns_labels_and_distinct() -> None:
    names = ["A100", "a100", "a100-", "a_100", "x" * 80, "x" * 81, "é", "..", "a100.2"]
    documents = render([make_pool(name, labels={"pool": (str(number),)}) for number, name in enumerate(names)], [make_entry()])
    made = [document["metadata"]["name"] for document in documents[2:]]
    assert len(set(made)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in made)
    assert "prewarm-a100" in made


def test_a_title_cannot_break_out_of_its_comment() -> None:
    evil = msgspec.structs.replace(make_entry(), title="x\n---\nkind: Secret\n\u2028kind: Pod\x85kind: Job")
    assert [document["kind"] for document in render([make_pool()], [evil])] == ["Namespace", "PriorityClass", "DaemonSet"]


def test_a_team_without_an_image_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        render([make_pool(teams=("cosml", "riks"))], [make_entry(), make_entry("risk")])
    assert "riks has no pushed image" in caught.value.message
    assert "imagebuild image riks" in caught.value.hint
    assert "did you mean 'risk'" in caught.value.hint


@pytest.mark.parametrize("pause", ["", "registry.example/pause:3", "Not An Image@sha256:0"])
def test_the_pause_image_must_be_named_by_digest(pause: str) -> None:
    with pytest.raises(ConfigurationError, match="pause") as caught:
        render_prewarm([make_pool()], [make_entry()], PrewarmSettings(pause_image=pause))
    assert "pause-image" in caught.value.hint


def test_a_folder_needs_to_be_told_where_it_will_be() -> None:
    entry = msgspec.structs.replace(make_entry(image="oci:/srv/registry:cosml"), repository="cosml")
    with pytest.raises(ConfigurationError, match="not a name that a cluster can pull from"):
        render([make_pool()], [entry])
    pod = render([make_pool()], [entry], registry_prefix="registry.example/ml")[2]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["image"]["reference"] == f"registry.example/ml/cosml@{entry.digest}"


def test_a_bad_namespace_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not a namespace"):
        render([make_pool()], [make_entry()], namespace="Pre Warm")


# --- other ways to hold -----------------------------------------------------------------------------------------------

HOLD = f"registry.example/busybox@{Digest.of(b'busybox')}"


@pytest.mark.parametrize("version", ["OLDEST", "NEWEST"])
def test_every_supported_kubernetes_takes_hold_containers(version: str) -> None:
    documents = render([make_pool(teams=("cosml", "risk"))], [make_entry(), make_entry("risk")], mode="hold", hold_image=HOLD)
    for document in documents:
        kubernetes_validate.validate(document, {"OLDEST": OLDEST, "NEWEST": kubernetes_validate.latest_version()}[version], strict=True)


def test_hold_containers_are_restricted_and_run_nothing_of_the_image() -> None:
    documents = render([make_pool(teams=("cosml", "risk"))], [make_entry(), make_entry("risk")], mode="hold", hold_image=HOLD)
    pod = documents[2]["spec"]["template"]["spec"]
    assert check_restricted(pod) == []
    assert pod["securityContext"]["runAsUser"] == 65534  # an image's own user may be a name, which runAsNonRoot refuses
    (bring,) = pod["initContainers"]
    assert (bring["image"], bring["command"][-1]) == (HOLD, "/imagebuild-hold/sleep")
    for container, team in zip(pod["containers"], ("cosml", "risk"), strict=True):
        assert container["image"] == f"registry.example:5000/ml/{team}@{make_entry(team).digest}"
        assert container["command"] == ["/imagebuild-hold/sleep", "2147483647"]
        assert container["env"] == [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    assert pod["volumes"] == [{"name": "hold", "emptyDir": {"sizeLimit": "16Mi"}}]


def test_openshift_chooses_the_holding_user() -> None:
    pod = render([make_pool()], [make_entry()], mode="hold", hold_image=HOLD, hold_user=0)[2]["spec"]["template"]["spec"]
    assert "runAsUser" not in pod["securityContext"]
    assert check_restricted(pod) == []


def test_a_hold_image_must_be_named_by_digest() -> None:
    with pytest.raises(ConfigurationError, match="hold image is configured"):
        render([make_pool()], [make_entry()], mode="hold")


def test_openshift_pins_by_digest_in_a_machine_config_pool() -> None:
    pools = [make_pool(), msgspec.structs.replace(make_pool("t4"), machine_config_pool="gpu")]
    documents = render(pools, [make_entry()], mode="pinned-image-set")
    assert [document["kind"] for document in documents] == ["PinnedImageSet", "PinnedImageSet"]
    assert [item["metadata"]["labels"]["machineconfiguration.openshift.io/role"] for item in documents] == ["a100", "gpu"]
    assert documents[0]["spec"] == {"pinnedImages": [{"name": f"registry.example:5000/ml/cosml@{make_entry().digest}"}]}


def test_kruise_pulls_on_the_pools_nodes_and_on_those_that_join() -> None:
    pool = make_pool(teams=("cosml", "risk"), labels={"one": ("true",), "two": ("a", "b")})
    namespace, *jobs = render([pool], [make_entry(), make_entry("risk")], mode="image-pull-job", pull_secret="registry")
    assert namespace["kind"] == "Namespace"
    assert [job["spec"]["image"].rpartition("/")[2].partition("@")[0] for job in jobs] == ["cosml", "risk"]
    assert jobs[0]["spec"]["selector"] == {
        "matchLabels": {"one": "true"},
        "matchExpressions": [{"key": "two", "operator": "In", "values": ["a", "b"]}],
    }
    assert jobs[0]["spec"]["completionPolicy"] == {"type": "Never"}
    assert jobs[0]["spec"]["pullSecrets"] == ["registry"]  # names, not references: unlike a pod's
    newer = render([pool], [make_entry(tag="2026q4-b"), make_entry("risk")], mode="image-pull-job")[1]
    assert newer["metadata"]["name"] != jobs[0]["metadata"]["name"]


def test_split_is_a_daemonset_per_image() -> None:
    documents = render([make_pool(teams=("cosml", "risk"))], [make_entry(), make_entry("risk")], split=True)
    assert [item["metadata"]["name"] for item in documents[2:]] == ["prewarm-a100-cosml", "prewarm-a100-risk"]
    selectors = [item["spec"]["selector"]["matchLabels"]["app.kubernetes.io/instance"] for item in documents[2:]]
    assert len(set(selectors)) == 2
    assert all(len(item["spec"]["template"]["spec"]["volumes"]) == 1 for item in documents[2:])


def test_a_readiness_rule_taints_and_the_pod_tolerates_it() -> None:
    documents = render([make_pool()], [make_entry()], readiness_condition="example.com/ImagesReady")
    daemonset, rule = documents[2:]
    assert (rule["apiVersion"], rule["kind"]) == ("readiness.node.x-k8s.io/v1alpha1", "NodeReadinessRule")
    assert rule["spec"]["conditions"] == [{"type": "example.com/ImagesReady", "requiredStatus": "True"}]
    assert rule["spec"]["nodeSelector"] == {"matchLabels": daemonset["spec"]["template"]["spec"]["nodeSelector"]}
    taint = rule["spec"]["taint"]
    tolerations = daemonset["spec"]["template"]["spec"]["tolerations"]
    assert {"key": taint["key"], "operator": "Exists", "effect": taint["effect"]} in tolerations


def test_asking_the_registry_each_time_is_a_choice_that_says_why() -> None:
    text = render_prewarm([make_pool()], [make_entry()], PrewarmSettings(pause_image=PAUSE, pull_policy="Always"))
    assert "pullPolicy: Always" in text
    assert "a registry that is down" in text
    assert "IfNotPresent is exact" in render_prewarm([make_pool()], [make_entry()], PrewarmSettings(pause_image=PAUSE))


def test_a_kustomization_names_every_file() -> None:
    settings = PrewarmSettings(pause_image=PAUSE, readiness_condition="example.com/ImagesReady")
    documents = describe_prewarm([make_pool(), make_pool("t4")], [make_entry()], settings)
    files = render_kustomization(documents, settings)
    listed = yaml.safe_load(files["kustomization.yaml"])["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(files)
    parts = [yaml.safe_load(files[name]) for name in listed]
    assert parts == list(yaml.safe_load_all(render_prewarm([make_pool(), make_pool("t4")], [make_entry()], settings)))
    assert all(text.startswith(f"# {HEADER}\n") for text in files.values())
