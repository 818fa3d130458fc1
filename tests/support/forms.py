"""Images for spawner forms, and what Kubernetes and the forms' own programs would say of them; written from their published rules."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import kubernetes_validate
import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, Kind, Status
from imagebuild.catalogue.tags import name_kept
from imagebuild.emit.prewarm.pools import Pool, PoolNotebook, Toleration
from imagebuild.oci.model import Digest

jsonschema: Any = importlib.import_module("jsonschema")

OLDEST, NEWEST = "1.25.0", "1.37.0"  # of the schemas that kubernetes-validate brings
GPU = Toleration("nvidia.com/gpu", "Exists", "", "NoSchedule")
A100 = Pool("a100", {"cloud.google.com/gke-nodepool": ("a100-pool",)}, ("cosml",), (GPU,), "10%", 0)
MIG = Pool(
    "mig", {"nvidia.com/mig.config": ("all-1g.5gb", "all-2g.10gb")}, None, (), "10%", 0,
    notebook=PoolNotebook("A slice", "", "500m", "1500Mi", 2, "nvidia.com/mig-1g.5gb"),
)  # fmt: skip


def make_image(
    team: str = "cosml",
    quarter: str = "2026q4",
    packages: dict[str, str] | None = None,
    *,
    status: Status = "current",
    kind: Kind = "jupyter",
    keep: str = "",
    host: str = "registry.example",
) -> CatalogueEntry:
    digest = Digest.of(f"{team}:{quarter}".encode())
    year, number = quarter.split("q")
    return CatalogueEntry(
        team=team,
        quarter=quarter,
        tag=f"{quarter}-{digest.hex[-12:]}",
        digest=digest,
        created=f"{year}-{int(number) * 3 - 2:02}-01T00:00:00Z",
        kind=kind,
        image=f"{host}/ml/{team}",
        repository=f"ml/{team}",
        current=status == "current",
        title=f"Team {team}: tables",
        description="Tabular work",
        base="starter",
        base_digest="sha256:" + "b" * 64,
        port=8888,
        python="3.11.2",
        packages={"pandas": "2.2.3"} if packages is None else packages,
        status=status,
        kept=(name_kept(keep),) if keep else (),
    )


HISTORY = (
    make_image("cosml", "2026q4", {"pandas": "2.3.0", "polars": "1.9.0"}),
    make_image("cosml", "2026q3", status="kept", keep="churn-q3"),
    make_image("cosml", "2026q2", {"pandas": "2.2.3", "dask": "2024.1.0"}, status="retired"),
    make_image("apps", "2026q4", {}, kind="vscode"),
    make_image("stats", "2026q4", {"rpy2": "3.5.17"}, kind="rstudio"),
    make_image("stats", "2026q3", {"rpy2": "3.5.16"}, kind="rstudio", status="previous"),
)


def age(entries: Sequence[CatalogueEntry], *newer: CatalogueEntry) -> list[CatalogueEntry]:
    """The same images after newer ones of their teams were pushed."""
    teams = {entry.team for entry in newer}

    def demote(entry: CatalogueEntry) -> CatalogueEntry:
        status: Status = "kept" if entry.kept else "previous" if entry.current else "retired"
        return msgspec.structs.replace(entry, current=False, status=status) if entry.team in teams else entry

    return [*newer, *map(demote, entries)]


def listing(entries: Sequence[CatalogueEntry]) -> CatalogueListing:
    return CatalogueListing(tuple(entries), 0)


def check_pod(spec: dict[str, Any], namespace: str = "alice") -> None:
    """A pod's spec against Kubernetes' own strict schemas, the oldest and the newest there are."""
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": namespace}, "spec": spec}
    for version in (OLDEST, NEWEST):
        kubernetes_validate.validate(document, version, strict=True)


def _text(least: int, most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": most}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}, "additionalProperties": False}


_ANY: dict[str, Any] = {"type": "object"}
_PORT_ID = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$", "maxLength": 32}
_ID = _text(1, 256)
_LABEL = _object({"key": _text(2, 64), "value": _text(1, 64)})
_SPAWNER = _object(
    {"displayName": _text(2, 128)},
    description=_text(2, 1024),
    labels={"type": "array", "maxItems": 32, "items": _LABEL},
    hidden={"type": "boolean"},
)
_MESSAGE = _object({"level": {"enum": ["Info", "Warning", "Danger"]}, "text": _text(2, 1024)})
_REDIRECT = _object({"to": _ID}, message=_MESSAGE)
_IMAGE_PORT = _object({"id": _PORT_ID, "port": {"type": "integer", "minimum": 1, "maximum": 65535}}, displayName=_text(2, 64))
_IMAGE_SPEC = _object(
    {"image": {"type": "string", "minLength": 2}, "ports": {"type": "array", "minItems": 1, "items": _IMAGE_PORT}},
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
)
_POD_SPEC = _object({}, affinity=_ANY, nodeSelector=_ANY, tolerations={"type": "array"}, resources=_ANY)


def _options(spec: dict[str, Any]) -> dict[str, Any]:
    value = _object({"id": _ID, "spawner": _SPAWNER, "spec": spec}, redirect=_REDIRECT)
    return _object({"spawner": _object({"default": _ID}), "values": {"type": "array", "minItems": 1, "items": value}})


_PICTURE = {"oneOf": [_object({"url": {"type": "string"}}), _object({"configMap": _ANY})]}
_TEMPLATE = _object(
    {
        "volumeMounts": _object({"home": {"type": "string", "pattern": "^/[^/].*$"}}),
        "ports": {
            "type": "array",
            "minItems": 1,
            "items": _object({"id": _PORT_ID, "protocol": {"enum": ["HTTP"]}, "defaultDisplayName": _text(2, 64)}, httpProxy=_ANY),
        },
        "options": _object({"imageConfig": _options(_IMAGE_SPEC), "podConfig": _options(_POD_SPEC)}),
    },
    **dict.fromkeys(("podMetadata", "serviceAccount", "activityProbe", "probes", "securityContext", "containerSecurityContext"), _ANY),
    **{key: {"type": "array"} for key in ("extraEnv", "extraVolumeMounts", "extraVolumes")},
)
_KIND_SPAWNER = _object(
    {"displayName": _text(2, 128), "description": _text(2, 4096), "icon": _PICTURE, "logo": _PICTURE},
    hidden={"type": "boolean"},
    deprecated={"type": "boolean"},
    deprecationMessage=_text(2, 256),
)
_RULE = _object(
    {"scope": {"enum": ["WORKSPACE_KIND", "POD_CONFIG", "IMAGE_CONFIG"]}, "effect": _ANY, "match": {"type": "array", "minItems": 1}}
)
WORKSPACE_KIND = _object(
    {"apiVersion": {"const": "kubeflow.org/v1beta1"}, "kind": {"const": "WorkspaceKind"}, "metadata": _ANY,
     "spec": _object({"spawner": _KIND_SPAWNER, "podTemplate": _TEMPLATE}, activityRules={"type": "array"},
                     filterRules={"type": "array", "items": _RULE})}
)  # fmt: skip


def check_kind(kind: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """The schema of WorkspaceKind (v1beta1, what forms need of it), and what its admission webhook refuses: of a new object, and
    of one that replaces ``before`` while every value is in use."""
    jsonschema.validate(kind, WORKSPACE_KIND)
    template = kind["spec"]["podTemplate"]
    ports = {port["id"] for port in template["ports"]}
    options = template["options"]
    for group in options.values():
        values = {value["id"]: value for value in group["values"]}
        assert len(values) == len(group["values"])
        assert group["spawner"]["default"] in values
        for value in values.values():
            keys = [label["key"] for label in value["spawner"].get("labels", [])]
            assert len(keys) == len(set(keys))
            seen = []
            while "redirect" in value:
                assert value["id"] not in seen, "a cycle"
                seen.append(value["id"])
                value = values[value["redirect"]["to"]]
    for value in options["imageConfig"]["values"]:
        assert {port["id"] for port in value["spec"]["ports"]} <= ports
    for value in options["podConfig"]["values"]:
        spec = dict(value["spec"])
        check_pod({"containers": [{"name": "main", "image": "a", "resources": spec.pop("resources", {})}], **spec})
    if before is not None:
        old_template = before["spec"]["podTemplate"]
        assert template["volumeMounts"] == old_template["volumeMounts"]
        for name, group in old_template["options"].items():
            specs = {value["id"]: value["spec"] for value in options[name]["values"]}
            for value in group["values"]:
                assert specs[value["id"]] == value["spec"], f"{value['id']} is in use and cannot be changed"
