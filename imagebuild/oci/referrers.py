"""What refers to an image: small artifacts whose manifest names it as ``subject`` (image-spec v1.1, distribution-spec v1.1).

Where a registry has the referrers API it keeps the list by itself; elsewhere, and in a layout folder, the list is an index
under the tag ``sha256-<hex>`` ("Referrers Tag Schema") that every writer changes: read, merge, write, and look again. The
subject's own bytes and digest never change.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.encoding import EMPTY, EMPTY_BLOB, describe, encode_index, encode_manifest
from imagebuild.oci.model import DESCRIPTOR, Descriptor, Digest, Manifest, RawManifest
from imagebuild.oci.store import Store

# The fallback tag itself, and what signers keep beside it (.sig, .att, .sbom). Never images.
REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(?:\..+)?")
_ATTEMPTS = 8
_SETTLE = 0.1  # seconds, at least: another writer's read and write take about as long


class Artifact(msgspec.Struct, frozen=True):
    """One blob that refers to an image."""

    artifact_type: str
    media_type: str  # of the blob
    data: bytes
    annotations: dict[str, str] = {}  # of the manifest, and of its entry in the list
    blob_annotations: dict[str, str] = {}

    @property
    def blob(self) -> Descriptor:
        """Points at ``data``."""
        return Descriptor.of(self.media_type, self.data, self.blob_annotations)


class Referrer(msgspec.Struct, frozen=True):
    """One entry of the list: a manifest that names the image as its subject."""

    descriptor: Descriptor
    artifact_type: str
    annotations: dict[str, str]


def referrers_tag(digest: Digest) -> str:
    """``sha256-<hex>``."""
    return f"sha256-{Digest(digest).hex}"


def make_artifact_manifest(artifact: Artifact, subject: Descriptor) -> RawManifest:
    """The manifest of ``artifact`` about ``subject``: same artifact, same bytes."""
    return encode_manifest(
        EMPTY_BLOB, [artifact.blob], artifact_type=artifact.artifact_type, subject=subject, annotations=artifact.annotations
    )


def attach_artifacts(
    store: Store,
    repository: str,
    subject: Descriptor,
    artifacts: Sequence[Artifact],
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> tuple[Digest, ...]:
    """Store ``artifacts`` as referrers of ``subject``, which is there already; the digests of their manifests.

    Doing it again changes nothing. RemoteError when another program keeps overwriting the list.
    """
    entries = []
    for artifact in artifacts:
        manifest = make_artifact_manifest(artifact, subject)
        store.put_blob(repository, EMPTY_BLOB, EMPTY)
        store.put_blob(repository, artifact.blob, artifact.data)
        store.put_manifest(repository, manifest)
        entry = {**describe(manifest.descriptor), "artifactType": artifact.artifact_type}
        entries.append({**entry, "annotations": dict(sorted(artifact.annotations.items()))} if artifact.annotations else entry)
    with store.lock_referrers() as alone:
        if alone:
            _merge(store, repository, subject.id, entries)
        elif store.list_referrers(repository, subject.id) is None:
            _merge_settled(store, repository, subject.id, entries, sleep)
    return tuple(Digest(entry["digest"]) for entry in entries)


def list_referrers(store: Store, repository: str, digest: Digest, artifact_type: str = "") -> tuple[Referrer, ...]:
    """What refers to the image ``digest``, in the list's order; only of ``artifact_type``, if given.

    Others wrote the list: only the form of each entry is checked. IntegrityError for a malformed list.
    """
    raw = store.list_referrers(repository, digest)
    if raw is None:
        raw = [*_read_fallback(store, repository, digest), *store.find_referrers(digest)]
    found: dict[str, Referrer] = {}
    for entry in raw:
        try:
            descriptor = DESCRIPTOR.convert(entry)
        except msgspec.ValidationError as error:
            raise IntegrityError(
                f"{store.image_name(repository)}: the referrers index of {digest} is malformed: {error}", "remove or correct it"
            ) from None
        if not artifact_type or descriptor.artifact_type == artifact_type:
            found.setdefault(descriptor.id, Referrer(descriptor, descriptor.artifact_type, descriptor.annotations))
    return tuple(found.values())


def read_artifact(store: Store, repository: str, referrer: Referrer, subject: Digest) -> tuple[Manifest, bytes] | None:
    """The manifest of ``referrer`` and its first blob (at most 32 MiB), verified; None when it is about another image or empty."""
    raw = store.get_manifest(repository, referrer.descriptor.id)
    manifest = raw.parse() if raw is not None else None
    if not isinstance(manifest, Manifest) or manifest.subject is None or manifest.subject.digest != subject or not manifest.layers:
        return None
    return manifest, store.read_blob(repository, manifest.layers[0])


# --- the fallback tag ---------------------------------------------------------------------------------------------------


def _read_fallback(store: Store, repository: str, digest: Digest) -> list[dict[str, Any]]:
    """The raw entries under the fallback tag, so that what others wrote there survives."""
    raw = store.get_manifest(repository, referrers_tag(digest))
    if raw is None:
        return []
    if not raw.is_index:
        raise IntegrityError(
            f"{store.image_name(repository)}:{referrers_tag(digest)} is an image, and must be the referrers index of {digest}",
            "remove that tag",
        )
    found: list[Any] = json.loads(raw.data).get("manifests") or []
    return [item for item in found if isinstance(item, dict)]


def _merge(store: Store, repository: str, digest: Digest, entries: Sequence[dict[str, Any]]) -> bool:
    """Add what the list lacks; whether anything was lacking."""
    present = _read_fallback(store, repository, digest)
    known = {item.get("digest") for item in present}
    lacking = [entry for entry in entries if entry["digest"] not in known]
    if lacking:
        store.put_manifest(repository, encode_index([*present, *lacking]), referrers_tag(digest))
    return bool(lacking)


def _merge_settled(
    store: Store, repository: str, digest: Digest, entries: Sequence[dict[str, Any]], sleep: Callable[[float], None]
) -> None:
    """:func:`_merge` until the entries are still there after others had the time to finish theirs: a tag has no compare-and-swap."""
    for _ in range(_ATTEMPTS):
        started = time.monotonic()
        if not _merge(store, repository, digest, entries):
            return
        sleep(max(_SETTLE, 2 * (time.monotonic() - started)))
    raise RemoteError(
        f"{store.image_name(repository)}:{referrers_tag(digest)}: another program keeps overwriting the referrers index of the image",
        "find out which program writes that tag, then run it again",
    )
