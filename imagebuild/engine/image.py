"""Deriving an image's config and manifest from its base's: pure functions on JSON, bytes in and bytes out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from imagebuild import annotations as names
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.layer.model import TeamLayers
from imagebuild.oci.encoding import describe, encode_index, encode_json, encode_manifest
from imagebuild.oci.model import (
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_TAR,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_TAR,
    OCI_LAYER_ZSTD,
    Descriptor,
    Manifest,
    Platform,
    RawManifest,
)

_LAYER_TYPES = {
    OCI_LAYER_TAR: OCI_LAYER_TAR,
    OCI_LAYER_GZIP: OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD: OCI_LAYER_ZSTD,
    DOCKER_LAYER_TAR: OCI_LAYER_TAR,
    DOCKER_LAYER_GZIP: OCI_LAYER_GZIP,
}


class DerivedImage(msgspec.Struct, frozen=True):
    """An image that is ready to be pushed: its manifest, its config, and the layers it adds, lowest first."""

    manifest: RawManifest
    config: bytes
    layers: tuple[Descriptor, ...]
    installed: int  # bytes of their files

    @property
    def compressed(self) -> int:
        """Bytes of the added layers as stored."""
        return sum(layer.size for layer in self.layers)

    @property
    def config_descriptor(self) -> Descriptor:
        """Points at ``config``."""
        return Descriptor.of(OCI_CONFIG, self.config)


def derive_config(
    base_config: bytes,
    *,
    diff_ids: Sequence[str],
    created: str,
    created_by: str,
    environment: Mapping[str, str],
    labels: Mapping[str, str],
) -> bytes:
    """The base's config with ``diff_ids`` and as many history entries more; Env and Labels extended, all else verbatim.

    A base whose history and diff_ids disagree is refused with IntegrityError (image-spec, config.md).
    """
    document: dict[str, Any] = json.loads(base_config)
    rootfs = document.get("rootfs") or {}
    below = list(rootfs.get("diff_ids") or [])
    history = document.get("history")
    if history is not None:
        filled = sum(1 for entry in history if not entry.get("empty_layer"))
        if filled != len(below):
            raise IntegrityError(
                f"the base's config counts {len(below)} layers and {filled} history entries", "the base image is malformed; pin another"
            )
    entry = {"created": created, "created_by": created_by, "comment": "imagebuild"}
    document["created"] = created
    document["rootfs"] = {**rootfs, "type": "layers", "diff_ids": [*below, *diff_ids]}
    # Without a history in the base, docker counts the missing entries as zero; give the lower layers empty-handed ones.
    lower = history if history is not None else [{"created": created, "created_by": "base"} for _ in below]
    document["history"] = [*lower, *([entry] * len(diff_ids))]
    container = dict(document.get("config") or {})
    env: list[str] = [item for item in container.get("Env") or [] if item.partition("=")[0] not in environment]
    container["Env"] = [*env, *(f"{name}={value}" for name, value in sorted(environment.items()))]
    container["Labels"] = {**(container.get("Labels") or {}), **dict(sorted(labels.items()))}
    document["config"] = container
    # Written by old docker daemons: what the image was last run with. Meaningless here, and stale once derived.
    for leftover in ("container", "container_config", "docker_version", "id", "parent"):
        document.pop(leftover, None)
    return encode_json(document)


def derive_manifest(base: Manifest, *, config: bytes, layers: Sequence[Descriptor], annotations: Mapping[str, str]) -> RawManifest:
    """An OCI manifest of the base's layers and those added; Docker schema 2 descriptors become OCI ones.

    The two families are never mixed (registries refuse that), and only OCI manifests carry annotations.
    """
    return encode_manifest(Descriptor.of(OCI_CONFIG, config), (*convert_layers(base), *layers), annotations=annotations)


def convert_layers(base: Manifest) -> tuple[Descriptor, ...]:
    """The base's layers under OCI media types; a foreign (non-distributable) layer is a BuildError."""
    converted = []
    for item in base.layers:
        kind = _LAYER_TYPES.get(item.media_type)
        if kind is None:
            raise BuildError(
                f"the base has a layer of type {item.media_type}", "only tar, gzip and zstd layers that a registry may hold can be built on"
            )
        converted.append(Descriptor(kind, item.digest, item.size))
    return tuple(converted)


def derive_image(
    base: Manifest,
    base_config: bytes,
    made: TeamLayers,
    *,
    created: str,
    created_by: str,
    environment: Mapping[str, str],
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> DerivedImage:
    """Put config and manifest together around finished layers. Of several the manifest says what each unpacks to."""
    diff_ids = [layer.diff_id for layer in made.layers]
    config = derive_config(base_config, diff_ids=diff_ids, created=created, created_by=created_by, environment=environment, labels=labels)
    several = len(made.layers) > 1
    layers = tuple(
        Descriptor(
            layer.media_type,
            layer.digest,
            layer.size,
            {**({names.DELTA_INSTALLED: str(layer.installed)} if several else {}), **layer.annotations},
        )
        for layer in made.layers
    )
    manifest = derive_manifest(base, config=config, layers=layers, annotations=annotations)
    return DerivedImage(manifest, config, layers, made.installed)


IN_TOTO = "application/vnd.in-toto+json"


class AttestedIndex(msgspec.Struct, frozen=True):
    """An index of an image and what was attested of it, as docker stores it (docs.docker.com, Image attestation storage)."""

    index: RawManifest
    attestation: RawManifest
    blobs: tuple[tuple[Descriptor, bytes], ...]  # the attestation's config and statements


def derive_attested_index(image: RawManifest, platform: Platform, name: str, statements: Sequence[tuple[str, bytes]]) -> AttestedIndex:
    """Put ``image`` and in-toto ``statements`` (predicate type, JSON) into an index; the image's own digest stays.

    The statements are about what the builder made. Their subject becomes ``image``, whose added layer is the same and whose
    config and manifest were derived from the base's: ``name`` is its name and tag.
    """
    subject = {
        "name": f"pkg:docker/{name}?platform={quote(str(platform), safe='')}",
        "digest": {"sha256": image.digest.hex},
    }
    blobs = []
    for predicate, data in statements:
        statement = encode_json({**json.loads(data), "subject": [subject]})
        blobs.append((Descriptor.of(IN_TOTO, statement, {"in-toto.io/predicate-type": predicate}), statement))
    config = encode_json(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [str(item.digest) for item, _ in blobs]},
        }
    )
    config_descriptor = Descriptor.of(OCI_CONFIG, config)
    attestation = encode_manifest(config_descriptor, [item for item, _ in blobs])
    entries = [
        {**describe(image.descriptor), "platform": {"architecture": platform.architecture, "os": platform.os}},
        {
            **describe(attestation.descriptor),
            "platform": {"architecture": "unknown", "os": "unknown"},
            "annotations": {"vnd.docker.reference.digest": str(image.digest), "vnd.docker.reference.type": "attestation-manifest"},
        },
    ]
    return AttestedIndex(encode_index(entries), attestation, ((config_descriptor, config), *blobs))
