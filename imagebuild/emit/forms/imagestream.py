"""OpenShift AI and Open Data Hub: an ImageStream (image.openshift.io/v1) per team, which their dashboards offer as a workbench image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.offers import Offer, SpawnerForm, list_offers
from imagebuild.emit.forms.wording import clip
from imagebuild.emit.manifest.merging import EditedFile, append_items, drop_key, get_list, get_mapping, merge_items, set_value
from imagebuild.emit.manifest.naming import make_name
from imagebuild.emit.manifest.schemas import IMAGE_STREAM, check_shape
from imagebuild.emit.manifest.yaml import Document, convert_value, render_documents
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.errors import ConfigurationError
from imagebuild.tagforms import IMAGE_TAG

_PREFIX = "opendatahub.io/"
_OUTDATED = f"{_PREFIX}image-tag-outdated"


def render_image_streams(
    entries: Sequence[CatalogueEntry],
    *,
    registry_prefix: str = "",
    pools: Sequence[Pool] = (),
    teams: Sequence[str] = (),
    namespace: str = "",
    merge: EditedFile | None = None,
) -> SpawnerForm:
    """A stream per team with a tag per image, or ``merge`` with ours in it. ``namespace``: where dashboards look for them.

    A workbench names a stream and a tag, so a tag stays, marked as outdated. The same input gives the same bytes. Errors:
    :func:`list_offers`.
    """
    offers = list_offers(entries, registry_prefix, teams)
    own = list(dict.fromkeys(offer.entry.team for offer in offers))
    streams = [
        describe_stream([offer for offer in offers if offer.entry.team == team], pools, namespace, order)
        for order, team in enumerate(own, 1)
    ]
    if merge is not None:
        _merge_streams(merge, streams)
        return SpawnerForm(merge.render(), ())
    documents = [Document((), stream) for stream in streams]
    comment = (
        "Written by imagebuild catalogue --format imagestream: oc apply -f FILE, in the namespace of the dashboard's own images",
        "(redhat-ods-applications, opendatahub). Tags stay: a workbench names its image by stream and tag.",
    )
    return SpawnerForm(render_documents([msgspec.structs.replace(documents[0], comment=comment), *documents[1:]]), ())


def describe_stream(offers: Sequence[Offer], pools: Sequence[Pool], namespace: str, order: int) -> dict[str, Any]:
    """One team's stream. ``offers``: the team's, the current one first."""
    entry = offers[0].entry
    annotations = {
        f"{_PREFIX}notebook-image-name": clip(entry.title, 80) or entry.team,
        f"{_PREFIX}notebook-image-desc": clip(entry.description, 400) or f"The environment of {entry.team}",
        f"{_PREFIX}notebook-image-url": f"https://{offers[0].reference.name}",
        f"{_PREFIX}notebook-image-order": str(order * 10),
    }
    devices = sorted({p.notebook.resource for p in pools if p.notebook.gpu and (p.teams is None or entry.team in p.teams)})
    if devices:
        annotations[f"{_PREFIX}recommended-accelerators"] = json.dumps(devices)
    metadata: dict[str, Any] = {"name": make_name("imagebuild", entry.team)}
    if namespace:
        metadata["namespace"] = namespace
    metadata |= {"labels": {"app.kubernetes.io/managed-by": "imagebuild", f"{_PREFIX}notebook-image": "true"}, "annotations": annotations}
    return {
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStream",
        "metadata": metadata,
        "spec": {"lookupPolicy": {"local": True}, "tags": [describe_tag(offer) for offer in offers]},
    }


def describe_tag(offer: Offer) -> dict[str, Any]:
    """One image. Lists are JSON in an annotation, as the dashboard reads them."""
    entry = offer.entry
    software = [{"name": "Python", "version": f"v{'.'.join(entry.python.split('.')[:2])}"}] if entry.python else []
    software += [{"name": f"kept as {name}", "version": ""} for name in entry.kept]  # the dashboard shows no display name of a tag
    packages = [{"name": name, "version": version} for name, version in entry.packages.items() if ":" not in name]
    software += [{"name": name, "version": version} for name, version in entry.packages.items() if ":" in name]  # add-ons
    annotations = {
        f"{_PREFIX}notebook-software": json.dumps(software),
        f"{_PREFIX}notebook-python-dependencies": json.dumps(packages),
        f"{_PREFIX}workbench-image-recommended": "true" if offer.standing == "current" else "false",
        **({} if offer.is_offered else {_OUTDATED: "true"}),  # any text at all may count as outdated
        # The dashboard compares it with the workbench's own; one that is missing counts as another, and every workbench as deprecated.
        f"{_PREFIX}notebook-build-commit": entry.tag,
        **({"openshift.io/display-name": f"{entry.tag}, kept as {', '.join(entry.kept)}"} if entry.kept else {}),
        "openshift.io/imported-from": offer.reference.name,
    }
    return {
        "name": entry.tag,
        "annotations": annotations,
        "from": {"kind": "DockerImage", "name": str(msgspec.structs.replace(offer.reference, tag=""))},
        "referencePolicy": {"type": "Source"},
    }


def _merge_streams(file: EditedFile, streams: Sequence[dict[str, Any]]) -> None:
    if any(document.get("kind") not in ("ImageStream", None) and document.get("kind") == "List" for document in file.documents):
        raise ConfigurationError(f"{file.name} holds a List", "write its items as documents of their own, with --- between them")
    found = {}
    for document in file.documents:
        if document.get("kind") == "ImageStream":
            check_shape(document, IMAGE_STREAM, file.name)
            found[str(document["metadata"].get("name"))] = document
    for stream in streams:
        name = stream["metadata"]["name"]
        if name in found:
            _merge_stream(found[name], stream, f"{file.name}: {name}")
        else:
            file.documents.append(convert_value(stream))


def _merge_stream(document: Any, stream: dict[str, Any], where: str) -> None:
    """Texts and their order that somebody wrote stay; tags are brought up to date, and those that are gone are outdated."""
    metadata = get_mapping(document, "metadata", where)
    for part in ("labels", "annotations"):
        held = get_mapping(metadata, part, where)
        for key, value in stream["metadata"][part].items():
            if key not in held:
                set_value(held, key, value)
    spec = get_mapping(document, "spec", where)
    get_list(spec, "tags", where)
    wanted = {tag["name"]: tag for tag in stream["spec"]["tags"]}
    for tag in spec["tags"]:
        if isinstance(tag, dict) and str(tag.get("name")) in wanted:
            annotations = get_mapping(tag, "annotations", where)
            for key, value in wanted[str(tag["name"])]["annotations"].items():
                set_value(annotations, key, value)
            if _OUTDATED not in wanted[str(tag["name"])]["annotations"]:
                drop_key(annotations, _OUTDATED)
        elif isinstance(tag, dict) and IMAGE_TAG.fullmatch(str(tag.get("name"))):
            annotations = get_mapping(tag, "annotations", where)
            set_value(annotations, f"{_PREFIX}workbench-image-recommended", "false")
            set_value(annotations, _OUTDATED, "true")
    present = {str(tag.get("name")) for tag in spec["tags"] if isinstance(tag, dict)}
    updated = [{"name": name, "from": tag["from"]} for name, tag in wanted.items() if name in present]
    merge_items(spec, "tags", updated, "name")
    append_items(spec, "tags", [tag for name, tag in wanted.items() if name not in present])
