"""Kubeflow Notebooks 2's WorkspaceKind (v1beta1) as the API server and its webhook see it.

Its rules, written from the published resource definition: what forms need of it, the expressions evaluated by a CEL
library, lists that are maps. The webhook's rules are assertions.
"""

from __future__ import annotations

from typing import Any

from tests.support.customresources import check_object
from tests.support.forms import check_pod


def _text(least: int, most: int) -> dict[str, Any]:
    return {"type": "string", "minLength": least, "maxLength": most}


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": {**required, **optional}, "additionalProperties": False}


def _map(keys: str, items: dict[str, Any], **limits: int) -> dict[str, Any]:
    """A list whose items differ in one key."""
    return {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [keys], "items": items, **limits}


def _rule(schema: dict[str, Any], rule: str, message: str) -> dict[str, Any]:
    return {**schema, "x-kubernetes-validations": [{"rule": rule, "message": message}]}


_ANY: dict[str, Any] = {"type": "object"}
_PORT_ID = {"type": "string", "pattern": "^[a-z0-9]([a-z0-9_-]*[a-z0-9])?$", "minLength": 1, "maxLength": 32}
_ID = _text(1, 256)
_LABEL = _object({"key": _text(2, 64), "value": _text(1, 64)})
_SPAWNER = _object(
    {"displayName": _text(2, 128)},
    description=_text(2, 1024),
    labels=_map("key", _LABEL, maxItems=32),
    hidden={"type": "boolean"},
)
_MESSAGE = _object({"level": {"enum": ["Info", "Warning", "Danger"]}, "text": _text(2, 1024)})
_REDIRECT = _object({"to": _ID}, message=_MESSAGE)
_IMAGE_PORT = _object({"id": _PORT_ID, "port": {"type": "integer", "minimum": 1, "maximum": 65535}}, displayName=_text(2, 64))
_IMAGE_SPEC = _object(
    {"image": {"type": "string", "minLength": 2}, "ports": _map("id", _IMAGE_PORT, minItems=1)},
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
)
_POD_SPEC = _object({}, affinity=_ANY, nodeSelector=_ANY, tolerations={"type": "array"}, resources=_ANY)


def _options(spec: dict[str, Any]) -> dict[str, Any]:
    value = _object({"id": _ID, "spawner": _SPAWNER, "spec": spec}, redirect=_REDIRECT)
    return _object({"spawner": _object({"default": _ID}), "values": _map("id", value, minItems=1)})


_DNS = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_PICTURE_FILE = _object(
    {
        "key": {**_text(1, 253), "pattern": "^[-._a-zA-Z0-9]+$"},
        "mediaType": {"enum": ["image/svg+xml"]},
        "name": {**_text(1, 253), "pattern": rf"^{_DNS}(\.{_DNS})*$"},
        "namespace": {**_text(1, 63), "pattern": f"^{_DNS}$"},
    }
)
_PICTURE = _rule(
    _object({}, url={"type": "string"}, configMap=_PICTURE_FILE), "has(self.url) != has(self.configMap)", "one of url and configMap"
)
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_HEADERS = _object({}, add=_STRINGS, set=_STRINGS, remove={"type": "array", "items": {"type": "string"}})
_PORT = _object(
    {"id": _PORT_ID, "protocol": {"enum": ["HTTP"]}, "defaultDisplayName": _text(2, 64)},
    httpProxy=_object({}, removePathPrefix={"type": "boolean"}, requestHeaders=_HEADERS),
)
_HOME = {**_text(2, 4096), "pattern": "^/[^/].*$"}
_TEMPLATE = _object(
    {
        "volumeMounts": _object({"home": _rule(_HOME, "self == oldSelf", "the home's path is immutable")}),
        "ports": _map("id", _PORT, minItems=1),
        "options": _object({"imageConfig": _options(_IMAGE_SPEC), "podConfig": _options(_POD_SPEC)}),
    },
    **dict.fromkeys(("podMetadata", "serviceAccount", "activityProbe", "probes", "securityContext", "containerSecurityContext"), _ANY),
    extraEnv=_map("name", _ANY),
    extraVolumes=_map("name", _ANY),
    extraVolumeMounts=_map("mountPath", _ANY),
)
_KIND_SPAWNER = _object(
    {"displayName": _text(2, 128), "description": _text(2, 4096), "icon": _PICTURE, "logo": _PICTURE},
    hidden={"type": "boolean"},
    deprecated={"type": "boolean"},
    deprecationMessage=_text(2, 256),
)
_EXPRESSION = _object({"key": {"type": "string"}, "operator": {"type": "string"}}, values={"type": "array", "items": {"type": "string"}})
_SELECTED = _object({"selector": _object({}, matchLabels=_STRINGS, matchExpressions={"type": "array", "items": _EXPRESSION})})
_MATCH = _rule(
    _object({}, matchNamespace=_SELECTED, matchImageConfig=_SELECTED, matchPodConfig=_SELECTED),
    "[has(self.matchNamespace), has(self.matchImageConfig), has(self.matchPodConfig)].filter(one, one).size() == 1",
    "one thing to match",
)
_API = _rule(
    _object({}, hide={"type": "boolean"}, deny={"type": "boolean"}, denyMessage=_object({"text": _text(2, 1024)})),
    "has(self.denyMessage) ? has(self.deny) && self.deny : true",
    "a message needs deny",
)
_EFFECT = _rule(_object({}, ui=_object({"hide": {"type": "boolean"}}), api=_API), "has(self.ui) || has(self.api)", "ui or api")
_RULE = _object(
    {
        "scope": {"enum": ["WORKSPACE_KIND", "POD_CONFIG", "IMAGE_CONFIG"]},
        "effect": _EFFECT,
        "match": {"type": "array", "minItems": 1, "items": _MATCH},
    }
)
WORKSPACE_KIND = _object(
    {"apiVersion": {"const": "kubeflow.org/v1beta1"}, "kind": {"const": "WorkspaceKind"}, "metadata": _ANY,
     "spec": _object({"spawner": _KIND_SPAWNER, "podTemplate": _TEMPLATE}, activityRules={"type": "array"},
                     filterRules={"type": "array", "items": _RULE})}
)  # fmt: skip


def check_kind(kind: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """The definition's rules, and what the admission webhook refuses: of a new object, and of one that replaces ``before`` while every
    value is in use."""
    check_object(WORKSPACE_KIND, kind, before)
    check_admission(kind, before)


def check_admission(kind: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """The webhook alone."""
    template = kind["spec"]["podTemplate"]
    ports = {port["id"] for port in template["ports"]}
    options = template["options"]
    for group in options.values():
        values = {value["id"]: value for value in group["values"]}
        assert group["spawner"]["default"] in values
        for value in values.values():
            seen = []
            while "redirect" in value:
                assert value["id"] not in seen, "a cycle"
                seen.append(value["id"])
                value = values[value["redirect"]["to"]]
    for value in options["imageConfig"]["values"]:
        assert {port["id"] for port in value["spec"]["ports"]} <= ports
        numbers = [port["port"] for port in value["spec"]["ports"]]
        assert len(numbers) == len(set(numbers))
    for value in options["podConfig"]["values"]:
        spec = dict(value["spec"])
        check_pod({"containers": [{"name": "main", "image": "a", "resources": spec.pop("resources", {})}], **spec})
    for rule in kind["spec"].get("filterRules", []):
        api, ui = rule["effect"].get("api", {}), rule["effect"].get("ui", {})
        assert ui.get("hide") or api.get("hide") or api.get("deny")
        if rule["scope"] == "WORKSPACE_KIND":
            assert all("matchNamespace" in match for match in rule["match"])
    if before is not None:
        for name, group in before["spec"]["podTemplate"]["options"].items():
            specs = {value["id"]: value["spec"] for value in options[name]["values"]}
            for value in group["values"]:
                assert specs[value["id"]] == value["spec"], f"{value['id']} is in use and cannot be changed"
