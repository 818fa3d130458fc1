"""Kubeflow's ``Notebook`` (kubeflow.org/v1) for one image: what the form's page would make, written down and repeatable."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.manifest.naming import LABEL, check_namespace, make_name
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pools import MIG_PROFILE, Pool
from imagebuild.emit.prewarm.quantities import parse_quantity
from imagebuild.emit.prewarm.scheduling import describe_placement, describe_resources
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import ContainerConfig, Reference
from imagebuild.servers import PORT, SERVERS

GPU = "nvidia.com/gpu"
_HOME = "/home/jovyan"  # the controller's working folder where a container names none
_NAME_LIMIT = 52  # a StatefulSet of this name makes pods whose labels must stay within 63 characters
_SHM = "4Gi"
_OBJECT = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_REWRITE = {"notebooks.kubeflow.org/http-rewrite-uri": "/"}


class NotebookDataset(msgspec.Struct, frozen=True):
    """A claim that is mounted beside the home."""

    claim: str
    path: str
    writable: bool = False


class NotebookPlan(msgspec.Struct, frozen=True):
    """What the notebook is to be, checked. ``devices``: resource name -> count."""

    name: str
    namespace: str
    cpu: str
    memory: str
    devices: dict[str, int]
    home_claim: str
    home_path: str = ""  # "": the image's HOME
    home_size: str = ""  # "": the claim is there already
    home_access: str = "ReadWriteOnce"
    storage_class: str = ""
    datasets: tuple[NotebookDataset, ...] = ()
    pool: Pool | None = None
    service_account: str = ""
    pull_secret: str = ""
    warnings: tuple[str, ...] = ()  # what the text says of them, besides


def parse_dataset(text: str) -> NotebookDataset:
    """``CLAIM:/PATH`` or ``CLAIM:/PATH:rw``; UsageError for anything else."""
    claim, _, rest = text.partition(":")
    path, _, mode = rest.partition(":")
    if not _OBJECT.fullmatch(claim) or not _is_path(path) or mode not in ("", "ro", "rw"):
        raise UsageError(f"not a dataset: {text!r}", "write CLAIM:/PATH, or CLAIM:/PATH:rw to write there, as in datasets:/datasets")
    return NotebookDataset(claim, path.rstrip("/"), mode == "rw")


def name_mig(profile: str) -> str:
    """``1g.5gb`` -> ``nvidia.com/mig-1g.5gb``, as the device plugin's mixed strategy calls it."""
    if not MIG_PROFILE.fullmatch(profile):
        raise UsageError(f"not a MIG profile: {profile!r}", "as in 1g.5gb; see nvidia-smi mig -lgip")
    return f"nvidia.com/mig-{profile.replace('+', '.')}"


def render_notebook(entry: CatalogueEntry, reference: Reference, config: ContainerConfig, plan: NotebookPlan) -> str:
    """The Notebook, after its home's claim where ``home_size`` says to make one. ``config``: of the image, for its user and HOME.

    UsageError for what Kubernetes would refuse. The same input gives the same bytes.
    """
    _check_plan(plan)
    home = plan.home_path or config.environment.get("HOME", "") or _HOME
    _check_paths(home, plan)
    documents = [Document((), _describe_claim(plan))] if plan.home_size else []
    documents.append(Document((), _describe_notebook(entry, reference, config, plan, home)))
    comment = (
        f"{entry.title or entry.team}: {entry.quarter}, {entry.tag}. Written by imagebuild notebook; kubectl apply -f FILE.",
        "The image is named by digest: this file starts the same environment in a year.",
        *(f"Warning: {warning}" for warning in plan.warnings),
    )
    return render_documents([msgspec.structs.replace(documents[0], comment=comment), *documents[1:]])


def _check_plan(plan: NotebookPlan) -> None:
    if len(plan.name) > _NAME_LIMIT or not LABEL.fullmatch(plan.name):
        raise UsageError(f"not a notebook's name: {plan.name!r}", f"at most {_NAME_LIMIT} lower-case letters, digits and hyphens: --name")
    if plan.namespace:
        check_namespace(plan.namespace)
    for what, text in (("claim", plan.home_claim), ("service account", plan.service_account or "a"), ("secret", plan.pull_secret or "a")):
        if not _OBJECT.fullmatch(text):
            raise UsageError(f"not a {what}'s name: {text!r}", "lower-case letters, digits, dots and hyphens")
    for option, text in (("--cpu", plan.cpu), ("--memory", plan.memory), ("--home-size", plan.home_size)):
        if text:
            try:
                parse_quantity(text, option)
            except ConfigurationError as error:
                raise UsageError(error.message, error.hint) from None


def _check_paths(home: str, plan: NotebookPlan) -> None:
    if not _is_path(home):
        raise UsageError(f"not a home to mount at: {home!r}", "give --home-path /home/NAME")
    used = {PurePosixPath("/dev/shm"), PurePosixPath(home)}
    for dataset in plan.datasets:
        if PurePosixPath(dataset.path) in used:
            raise UsageError(f"two volumes at {dataset.path}", "mount the dataset elsewhere")
        used.add(PurePosixPath(dataset.path))


def _warn_shm(memory: str) -> tuple[str, ...]:
    if not memory or parse_quantity(memory, "--memory") > parse_quantity(_SHM, "/dev/shm"):
        return ()
    return (f"/dev/shm may hold {_SHM}, and the container {memory}: who fills it is killed for memory before it is full.",)


def _is_path(text: str) -> bool:
    """Absolute, not the root, without what a mount path may not have."""
    return text.startswith("/") and bool(text.strip("/")) and ":" not in text and ".." not in text.split("/")


def _describe_claim(plan: NotebookPlan) -> dict[str, Any]:
    spec: dict[str, Any] = {"accessModes": [plan.home_access], "resources": {"requests": {"storage": plan.home_size}}}
    if plan.storage_class:
        spec["storageClassName"] = plan.storage_class
    metadata = {"name": plan.home_claim, **({"namespace": plan.namespace} if plan.namespace else {})}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def _describe_notebook(
    entry: CatalogueEntry, reference: Reference, config: ContainerConfig, plan: NotebookPlan, home: str
) -> dict[str, Any]:
    server = SERVERS[entry.kind]
    annotations = {"notebooks.kubeflow.org/server-type": server.group}
    if not server.prefixed:  # the gateway takes the prefix away
        annotations |= _REWRITE
    if server.root_header and plan.namespace:
        annotations["notebooks.kubeflow.org/http-headers-request-set"] = (
            f'{{"{server.root_header}":"/notebook/{plan.namespace}/{plan.name}/"}}'
        )
    if server.root_header and not plan.namespace:
        raise UsageError("RStudio's page needs to know its own URL", "add --namespace")
    metadata: dict[str, Any] = {"name": plan.name}
    if plan.namespace:
        metadata["namespace"] = plan.namespace
    metadata |= {"labels": {"app": plan.name}, "annotations": annotations}
    pod = {
        **({"serviceAccountName": plan.service_account} if plan.service_account else {}),
        **({"imagePullSecrets": [{"name": plan.pull_secret}]} if plan.pull_secret else {}),
        **(describe_placement(plan.pool) if plan.pool is not None else {}),
        "containers": [_describe_container(entry, reference, config, plan, home)],
        "volumes": _list_volumes(plan),
    }
    return {"apiVersion": "kubeflow.org/v1", "kind": "Notebook", "metadata": metadata, "spec": {"template": {"spec": pod}}}


def _describe_container(
    entry: CatalogueEntry, reference: Reference, config: ContainerConfig, plan: NotebookPlan, home: str
) -> dict[str, Any]:
    security: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    user = config.user.partition(":")[0]
    if user.isdecimal() and int(user):  # of a name the kubelet cannot tell that it is not root, and would not start it
        security["runAsNonRoot"] = True
    container: dict[str, Any] = {
        "name": plan.name,
        "image": str(reference),
        "imagePullPolicy": "IfNotPresent",
        "resources": Note(
            ("Requests equal to limits: quotas count requests. What is written to /dev/shm counts as memory.", *_warn_shm(plan.memory)),
            describe_resources(plan.cpu, plan.memory, plan.devices),
        ),
        "securityContext": security,
    }
    if home != _HOME:
        container["workingDir"] = home
    port = entry.port or PORT
    if port != PORT:
        container["ports"] = [{"name": "notebook-port", "containerPort": port, "protocol": "TCP"}]
    mounts: list[dict[str, Any]] = [{"name": "workspace", "mountPath": home}, {"name": "dshm", "mountPath": "/dev/shm"}]
    for dataset in plan.datasets:
        mount: dict[str, Any] = {"name": make_name("data", dataset.claim), "mountPath": dataset.path}
        mounts.append(mount if dataset.writable else {**mount, "readOnly": True})
    container["volumeMounts"] = mounts
    return container


def _list_volumes(plan: NotebookPlan) -> list[dict[str, Any]]:
    volumes: list[dict[str, Any]] = [
        {"name": "workspace", "persistentVolumeClaim": {"claimName": plan.home_claim}},
        {"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": _SHM}},
    ]
    claims = list(dict.fromkeys(dataset.claim for dataset in plan.datasets))
    return volumes + [{"name": make_name("data", claim), "persistentVolumeClaim": {"claimName": claim}} for claim in claims]
