"""Kubeflow Notebooks 2: one ``WorkspaceKind`` (kubeflow.org/v1beta1) per kind of server, of all images there are.

A value that a workspace uses can neither be removed nor changed, so values are only added. Ids derive from the image's
digest, those of pools from what the pool says; what is no longer offered is hidden and redirects to what came after it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.icons import draw_icon
from imagebuild.emit.forms.offers import Offer, SpawnerForm, find_successor, list_offers
from imagebuild.emit.forms.wording import clip, describe_change, join_parts
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.emit.prewarm.scheduling import describe_placement, describe_pool_resources, describe_resources, explain_pool, name_pool
from imagebuild.servers import PORT, SERVERS, Server

_LABELS = 32  # of a value, at most
ID = re.compile(r"(?P<team>.+)-[0-9a-f]{12}")


def describe_proxy(server: Server) -> dict[str, Any]:
    """What the gateway does with a request on its way to the server."""
    path = f'{{{{ httpPathPrefix "{server.workspace}" }}}}'
    headers = {"requestHeaders": {"set": {server.root_header: path}}} if server.root_header else {}
    return {"removePathPrefix": not server.prefixed, **headers}


def list_variables(server: Server) -> list[dict[str, str]]:
    """Those that tell a server its own path."""
    return [{"name": "NB_PREFIX", "value": f'{{{{ httpPathPrefix "{server.workspace}" }}}}'}] if server.prefixed else []


def render_workspace_kinds(
    entries: Sequence[CatalogueEntry],
    *,
    registry_prefix: str = "",
    pools: Sequence[Pool] = (),
    teams: Sequence[str] = (),
    namespace: str = "kubeflow-workspaces",
    team_label: str = "",
    merge: EditedFile | None = None,
) -> SpawnerForm:
    """A document per kind of server that has an image, and a ConfigMap in ``namespace`` with their pictures.

    ``team_label``: a label of namespaces; where one is set to a team, that team's images alone are offered. With ``merge``,
    that file with our values in it. The same input gives the same bytes. Errors: :func:`list_offers`.
    """
    offers = list_offers(entries, registry_prefix, teams)
    if merge is not None:
        from imagebuild.emit.forms.workspacemerge import merge_workspace_kinds

        warnings = merge_workspace_kinds(merge, offers, pools, namespace=namespace, team_label=team_label)
        return SpawnerForm(merge.render(), warnings)
    kinds = [server for server in SERVERS.values() if any(offer.entry.kind == server.kind for offer in offers)]
    documents = [Document((), describe_pictures(kinds, namespace))]
    documents += [Document((), describe_kind(server, offers, pools, namespace=namespace, team_label=team_label)) for server in kinds]
    comment = (
        "Written by imagebuild catalogue --format workspacekind. Values that a workspace uses cannot be removed or changed: to write",
        "it again, give the file of before: imagebuild catalogue --format workspacekind --merge FILE --in-place.",
    )
    return SpawnerForm(render_documents([msgspec.structs.replace(documents[0], comment=comment), *documents[1:]]), ())


def describe_pictures(kinds: Sequence[Server], namespace: str) -> dict[str, Any]:
    """The ConfigMap behind the kinds' icons; the controller reads those with this label alone."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": "imagebuild-icons",
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "imagebuild", "notebooks.kubeflow.org/image-source": "true"},
        },
        "data": {f"{server.workspace}.svg": draw_icon(server.kind) for server in kinds},
    }


def describe_kind(server: Server, offers: Sequence[Offer], pools: Sequence[Pool], *, namespace: str, team_label: str) -> dict[str, Any]:
    """The whole object."""
    own = [offer for offer in offers if offer.entry.kind == server.kind]
    current = next((offer for offer in own if offer.standing == "current"), own[0])
    source = {"name": "imagebuild-icons", "namespace": namespace, "key": f"{server.workspace}.svg", "mediaType": "image/svg+xml"}
    picture = {"configMap": source}
    rules = describe_filters(own, team_label)
    images = [describe_image(offer, own, server) for offer in own]
    pod_values = [describe_cpu(), *(describe_pool(pool) for pool in pools)]
    template: dict[str, Any] = {
        "volumeMounts": {"home": Note(("Cannot be changed later.",), "/home/jovyan")},
        "ports": [{"id": server.workspace, "defaultDisplayName": server.title, "protocol": "HTTP", "httpProxy": describe_proxy(server)}],
        **({"extraEnv": list_variables(server)} if list_variables(server) else {}),
        "extraVolumeMounts": Note(
            ("PyTorch's data loaders need more than a container's 64 MiB of /dev/shm.",), [{"name": "dshm", "mountPath": "/dev/shm"}]
        ),
        "extraVolumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}],
        "securityContext": {"fsGroup": 100, "seccompProfile": {"type": "RuntimeDefault"}},
        "containerSecurityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "options": {
            "imageConfig": {"spawner": {"default": name_image(current)}, "values": images},
            "podConfig": {"spawner": {"default": "cpu"}, "values": pod_values},
        },
    }
    spawner = {
        "displayName": server.title,
        "description": f"{server.title} with a team's locked environment",
        "icon": picture,
        "logo": picture,
    }
    return {
        "apiVersion": "kubeflow.org/v1beta1",
        "kind": "WorkspaceKind",
        "metadata": {"name": server.workspace, "labels": {"app.kubernetes.io/managed-by": "imagebuild"}},
        "spec": {"spawner": spawner, **({"filterRules": rules} if rules else {}), "podTemplate": template},
    }


def name_image(offer: Offer) -> str:
    """``cosml-3f9c1a7b2d4e``: the team, and the first digits of the manifest's digest."""
    return f"{offer.entry.team}-{offer.entry.digest.hex[:12]}"


def describe_image(offer: Offer, offers: Sequence[Offer], server: Server) -> dict[str, Any]:
    """One value of ``imageConfig``; ``redirect`` of those that are no longer offered."""
    entry = offer.entry
    value: dict[str, Any] = {"id": name_image(offer), "spawner": describe_image_spawner(offer)}
    after = None if offer.is_offered else find_successor(offer, offers)
    if after is not None:
        change = describe_change(entry, after.entry)
        value["redirect"] = {"to": name_image(after), "message": {"level": change.level, "text": change.text}}
    value["spec"] = {  # by the tag it was pushed under: a name it is given later must not change what is in use
        "image": str(msgspec.structs.replace(offer.reference, tag=entry.tag)),
        "imagePullPolicy": "IfNotPresent",
        "ports": [{"id": server.workspace, "port": entry.port or PORT}],
    }
    return value


def describe_image_spawner(offer: Offer) -> dict[str, Any]:
    """What the page shows of an image. Of those it hides without the packages: an object in the cluster has little room."""
    entry = offer.entry
    labels = {"team": entry.team, "quarter": entry.quarter, **({"python": entry.python} if entry.python else {})}
    if offer.is_offered:
        for name, version in entry.packages.items():
            if len(labels) < _LABELS and 2 <= len(name) <= 63 and version:
                labels.setdefault(name, clip(version, 63))
    packages = [f"{name} {version}" for name, version in entry.packages.items()] if offer.is_offered else []
    description = clip(entry.description, 400) or f"The environment of {entry.team}"
    if packages:
        description = join_parts(f"{description.rstrip('.')}. With ", packages, 1024)
    return {
        "displayName": clip(offer.title, 128),
        "description": description,
        "labels": [{"key": key, "value": value} for key, value in labels.items()],
        "hidden": not offer.is_offered,
    }


def describe_cpu() -> dict[str, Any]:
    """The value for notebooks that need no pool; there must be one."""
    spawner = {"displayName": "CPU", "description": "1 CPU, 4Gi memory, any node", "labels": [{"key": "cpu", "value": "1"}]}
    return {"id": "cpu", "spawner": {**spawner, "hidden": False}, "spec": {"resources": describe_resources("1", "4Gi")}}


def describe_pool(pool: Pool) -> dict[str, Any]:
    """One value of ``podConfig``: the pool's nodes, and what a notebook there asks for."""
    notebook = pool.notebook
    spec = {**describe_placement(pool), "resources": describe_pool_resources(pool)}
    labels = {"pool": pool.name, "cpu": str(notebook.cpu), "memory": notebook.memory}
    if notebook.gpu:
        labels |= {"gpu": str(notebook.gpu), "device": notebook.resource}
    return {
        "id": f"{pool.name}-{hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:12]}",
        "spawner": {
            "displayName": clip(name_pool(pool) if len(name_pool(pool)) > 1 else f"Pool {pool.name}", 128),
            "description": clip(explain_pool(pool), 1024),
            "labels": [{"key": key, "value": clip(value, 63)} for key, value in labels.items()],
            "hidden": False,
        },
        "spec": spec,
    }


def describe_filters(offers: Sequence[Offer], team_label: str) -> list[dict[str, Any]]:
    """Per team: its images are not for namespaces whose label names another team. Namespaces without the label see all."""
    if not team_label:
        return []
    return [
        {
            "scope": "IMAGE_CONFIG",
            "effect": {"api": {"hide": True}},
            "match": [
                {
                    "matchNamespace": {
                        "selector": {
                            "matchExpressions": [
                                {"key": team_label, "operator": "Exists"},
                                {"key": team_label, "operator": "NotIn", "values": [team]},
                            ]
                        }
                    }
                },
                {"matchImageConfig": {"selector": {"matchLabels": {"team": team}}}},
            ],
        }
        for team in sorted({offer.entry.team for offer in offers})
    ]
