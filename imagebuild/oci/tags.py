"""What a tag names, and taking one away, also where a registry can only delete a manifest with all its tags (distribution 2, Harbor).

There the tag is given to a manifest of nothing, and that is deleted: it takes the tag along, and the image's own manifest is there all
the time, under its other tags. A tag that has the placeholder was being taken away when the program was stopped: it names no image.
"""

from __future__ import annotations

from imagebuild.oci.encoding import EMPTY, EMPTY_BLOB, encode_manifest
from imagebuild.oci.model import Digest
from imagebuild.oci.store import Store

PLACEHOLDER = encode_manifest(EMPTY_BLOB, [EMPTY_BLOB], artifact_type="application/vnd.imagebuild.placeholder.v1")


def resolve_tag(store: Store, repository: str, tag: str) -> Digest | None:
    """The digest under a tag, None for none; RemoteError when the store cannot say."""
    descriptor = store.head_manifest(repository, tag)
    return descriptor.id if descriptor is not None and descriptor.digest != PLACEHOLDER.digest else None


def drop_tag(store: Store, repository: str, tag: str) -> None:
    """Take ``tag`` away and leave the manifest. RemoteError where nothing can be deleted: the tag may have the placeholder then."""
    if store.delete_tag(repository, tag):
        return
    store.put_blob(repository, EMPTY_BLOB, EMPTY)
    store.put_manifest(repository, PLACEHOLDER, tag)
    store.delete_manifest(repository, PLACEHOLDER.digest)
