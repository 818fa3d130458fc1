"""JSON as this program writes it into images: no spaces, the keys in the order they have, text as UTF-8. Same value, same bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from imagebuild.oci.model import Descriptor


def encode_json(document: Mapping[str, Any]) -> bytes:
    """The bytes whose digest names ``document``."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def describe(item: Descriptor) -> dict[str, Any]:
    """A descriptor as JSON (image-spec, descriptor.md): type, digest, size, and its annotations, sorted, where it has any."""
    found: dict[str, Any] = {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size}
    return {**found, "annotations": dict(sorted(item.annotations.items()))} if item.annotations else found
