"""The Kubernetes manifests in docs/ci.md: valid, restricted, and the CronJob's job is the Job."""

from __future__ import annotations

import kubernetes_validate

from tests.support.manifests import read_manifests


def test_the_manifests_are_valid() -> None:
    manifests = read_manifests()
    assert [item["kind"] for item in manifests] == ["Job", "CronJob"]
    for item in manifests:
        kubernetes_validate.validate(item, kubernetes_validate.latest_version(), strict=True)
    job, cron = manifests
    assert cron["spec"]["jobTemplate"]["spec"] == job["spec"]


def test_the_pod_is_restricted_as_pod_security_standards_ask() -> None:
    job, _ = read_manifests()
    assert job["spec"]["completionMode"] == "Indexed"
    pod = job["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    volumes = {item["name"] for item in pod["volumes"]}
    assert {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]} == volumes
