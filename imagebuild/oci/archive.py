"""One image as a tar that ``docker load`` reads, streamed: an OCI image layout (image-spec, image-layout.md) that also has
docker's own ``manifest.json``.

The containerd store reads the layout and keeps the manifest, and with it the image's digest; the classic store (overlay2) reads
``manifest.json`` and unpacks the layers, gzip or, since docker 23, zstd. Blobs go through in pieces of 1 MiB and are
verified on the way by the store they come from; nothing is written to a disk.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO

from imagebuild.annotations import REF_NAME
from imagebuild.files import CHUNK
from imagebuild.oci.encoding import describe, encode_index, encode_json
from imagebuild.oci.model import Descriptor, Manifest, RawManifest, Reference

CONTAINERD_NAME = "io.containerd.image.name"  # what containerd's importer calls the image, in full
OpenBlob = Callable[[Descriptor], AbstractContextManager[BinaryIO]]


def stream_archive(raw: RawManifest, manifest: Manifest, name: str, open_blob: OpenBlob) -> Iterator[bytes]:
    """The archive's bytes. ``name`` is ``repository:tag`` as docker shows it; ``open_blob`` gives verified streams.

    A failure of ``open_blob``, or of a read, ends the stream with that error: whoever reads must then not take it for whole.
    """
    reference = Reference.parse(name)
    yield _header("oci-layout", _OCI_LAYOUT) + _pad(_OCI_LAYOUT)
    named = {CONTAINERD_NAME: str(reference), REF_NAME: reference.tag}
    index = encode_index([{**describe(raw.descriptor), "annotations": named}]).data
    yield _header("index.json", index) + _pad(index)
    yield _header(_path(raw.digest), raw.data) + _pad(raw.data)
    blobs = {item.digest: item for item in (manifest.config, *manifest.layers)}
    for item in blobs.values():
        yield _header(_path(item.digest), item.size)
        with open_blob(item) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
        yield bytes(-item.size % tarfile.BLOCKSIZE)
    listing = [{"Config": _path(manifest.config.digest), "RepoTags": [name], "Layers": [_path(item.digest) for item in manifest.layers]}]
    document = encode_json(listing)
    yield _header("manifest.json", document) + _pad(document)
    yield bytes(2 * tarfile.BLOCKSIZE)  # the end of a tar


_OCI_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _header(name: str, content: bytes | int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = content if isinstance(content, int) else len(content)
    info.mode = 0o644
    return info.tobuf(tarfile.PAX_FORMAT)  # a blob may be larger than the 8 GiB that ustar can say


def _pad(content: bytes) -> bytes:
    return content + bytes(-len(content) % tarfile.BLOCKSIZE)
