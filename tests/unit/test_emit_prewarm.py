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
from imagebuild.emit.pools import Pool, Toleration
from imagebuild.emit.prewarm import render_prewarm
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Digest

yaml: Any = importlib.import_module("yaml")

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
    return list(yaml.safe_load_all(render_prewarm(pools, entries, pause_image=PAUSE, **options)))


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
    assert priority["globalDefault"] is False
    assert render([make_pool()], [make_entry()])[2]["spec"]["template"]["spec"]["priorityClassName"] == priority["metadata"]["name"]


def test_the_order_of_the_input_does_not_matter() -> None:
    pools = [make_pool("b", ("risk", "cosml")), make_pool("a", None), make_pool("c")]
    pools = [msgspec.structs.replace(pool, teams=None if pool.teams is None else tuple(sorted(pool.teams))) for pool in pools]
    entries = [make_entry(), make_entry("risk"), make_entry(tag="2026q3-old", current=False)]
    texts = {
        render_prewarm(some_pools, some_entries, pause_image=PAUSE)
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
        render_prewarm([make_pool()], [make_entry()], pause_image=pause)
    assert "pause-image" in caught.value.hint


def test_a_folder_needs_to_be_told_where_it_will_be() -> None:
    entry = msgspec.structs.replace(make_entry(image="oci:/srv/registry:cosml"), repository="cosml")
    with pytest.raises(ConfigurationError, match="no name that a cluster can pull from"):
        render([make_pool()], [entry])
    pod = render([make_pool()], [entry], registry_prefix="registry.example/ml")[2]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["image"]["reference"] == f"registry.example/ml/cosml@{entry.digest}"


def test_a_bad_namespace_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="not a namespace"):
        render([make_pool()], [make_entry()], namespace="Pre Warm")
