"""JSON as this program writes it into images: no spaces, the keys in the order they have, text as UTF-8. Same value, same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from imagebuild.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, RawManifest

EMPTY = b"{}"
EMPTY_BLOB = Descriptor.of("application/vnd.oci.empty.v1+json", EMPTY)  # image-spec, manifest.md: "Guidance for an Empty Descriptor"


def encode_json(document: Mapping[str, Any] | Sequence[Any]) -> bytes:
    """The bytes whose digest names ``document``."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def describe(item: Descriptor) -> dict[str, Any]:
    """A descriptor as JSON (image-spec, descriptor.md): type, digest, size, and its annotations, sorted, where it has any."""
    found: dict[str, Any] = {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size}
    return {**found, "annotations": dict(sorted(item.annotations.items()))} if item.annotations else found


def encode_manifest(
    config: Descriptor,
    layers: Sequence[Descriptor],
    *,
    artifact_type: str = "",
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
) -> RawManifest:
    """An OCI manifest (image-spec, manifest.md); of ``subject`` type, digest and size are named."""
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
    if artifact_type:
        document["artifactType"] = artifact_type
    document |= {"config": describe(config), "layers": [describe(item) for item in layers]}
    if subject is not None:
        document["subject"] = describe(Descriptor(subject.media_type, subject.digest, subject.size))
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    return RawManifest(encode_json(document), OCI_MANIFEST)


def encode_index(entries: Sequence[Mapping[str, Any]]) -> RawManifest:
    """An OCI index (image-spec, image-index.md) of descriptors as JSON."""
    return RawManifest(encode_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}), OCI_INDEX)
