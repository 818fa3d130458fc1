"""Content-addressed bytes: what is checked about them before anybody uses them, in whichever store they lie."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagebuild.decoding import check_json_depth, make_decoder
from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.files import CHUNK
from imagebuild.oci.model import INDEX_TYPES, MANIFEST_TYPES, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest, Reference
from imagebuild.progress import advance

MANIFEST_LIMIT = 4 << 20  # bytes; distribution-spec v1.1 asks registries to take at least this much
BLOB_LIMIT = 32 << 20  # bytes; what Store.read_blob takes into memory

IMAGE_TYPES = INDEX_TYPES | MANIFEST_TYPES

Fill = Callable[[int], bytes]


def check_name(repository: str, tag: str = "") -> None:
    """Refuse a repository or tag outside distribution-spec's grammar, before it becomes part of an address."""
    text = f"localhost/{repository}" + (f":{tag}" if tag else "")
    parsed = Reference.parse(text)
    if (parsed.registry, parsed.repository, parsed.tag, parsed.digest) != ("localhost", repository, tag, None):
        raise ConfigurationError(f"not a repository name: {repository!r}", "lower case letters, digits, and . _ - / between them")


def parse_reference(reference: str) -> Digest | None:
    """The digest, when ``reference`` is one; None for a tag. Neither is a ConfigurationError."""
    if ":" in reference:
        return Digest(reference)
    check_name("x", reference)
    if not reference:
        raise ConfigurationError("an empty tag", "name a tag or a digest")
    return None


class _Envelope(msgspec.Struct, rename="camel"):
    media_type: str = ""
    schema_version: int = 0
    config: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    manifests: msgspec.Raw = msgspec.Raw()


_ENVELOPE = make_decoder(_Envelope)


def check_manifest(data: bytes, served_type: str = "") -> RawManifest:
    """Manifest bytes with the media type they have.

    ``served_type`` is what a server or an index entry says; without one (or with a meaningless one such as
    ``text/plain``) the JSON's own ``mediaType`` counts, and lacking that, what it holds. Two that disagree, or a
    manifest that is both an image and an index, is an IntegrityError: the same bytes must never be read in two ways
    (image-spec, manifest.md, ``mediaType``).
    """
    digest = Digest.of(data)
    try:
        envelope = _ENVELOPE.decode(data)
        check_json_depth(data)
    except (msgspec.DecodeError, ValueError) as error:
        raise IntegrityError(f"malformed manifest {digest}: {error}", "push the image again") from None
    if envelope.schema_version == 1:
        raise IntegrityError(
            f"manifest {digest} is in the obsolete Docker schema 1", "push the image again with a current tool, or name a newer tag"
        )
    has_manifests, has_image = bool(envelope.manifests), bool(envelope.config) or bool(envelope.layers)
    if has_manifests and has_image:
        raise IntegrityError(f"manifest {digest} is an image and an index at once", "do not trust its source; push it again")
    sniffed = OCI_INDEX if has_manifests else OCI_MANIFEST
    served = served_type if served_type in IMAGE_TYPES else ""
    if served and envelope.media_type and served != envelope.media_type:
        raise IntegrityError(
            f"manifest {digest} was served as {served} but says it is {envelope.media_type}",
            "do not trust its source; push it again",
        )
    media_type = served or envelope.media_type or sniffed
    if has_manifests is not (media_type in INDEX_TYPES) and media_type in IMAGE_TYPES:
        raise IntegrityError(f"manifest {digest} does not hold what {media_type} must", "push the image again")
    return RawManifest(data, media_type)


def check_bytes(data: bytes, descriptor: Descriptor, where: str, hint: str) -> bytes:
    """``data`` itself, when its size and digest are the descriptor's."""
    if len(data) != descriptor.size:
        raise IntegrityError(f"{where}: {descriptor.digest} has {len(data)} bytes instead of {descriptor.size}", hint)
    found = Digest.of(data)
    if found != descriptor.id:
        raise IntegrityError(f"{where}: {descriptor.digest} holds other bytes ({found})", hint)
    return data


def check_small(descriptor: Descriptor, where: str) -> None:
    """Refuse to take more than :data:`BLOB_LIMIT` bytes into memory."""
    if not 0 <= descriptor.size <= BLOB_LIMIT:
        raise IntegrityError(
            f"{where}: {descriptor.digest} has {descriptor.size} bytes by its manifest; a config has at most {BLOB_LIMIT >> 20} MiB",
            "look at the manifest that names it",
        )


def compute_file_digest(source: Path) -> tuple[Digest, int]:
    """SHA-256 and size in bytes of a file, read in chunks."""
    state, size, buffer = hashlib.sha256(), 0, memoryview(bytearray(CHUNK))
    with source.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            state.update(buffer[:count])
            size += count
    return Digest("sha256:" + state.hexdigest()), size


class VerifyingReader(io.RawIOBase):
    """A forward-only reader that gives out the last bytes only when size and digest are the descriptor's.

    ``fill(n)`` returns up to ``n`` next bytes, and ``b""`` at the end. Too few, too many or other bytes raise
    IntegrityError; nobody sees the end of wrong content.
    """

    def __init__(self, fill: Fill, descriptor: Descriptor, where: str, hint: str, close: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._fill, self._descriptor, self._where, self._hint, self._close = fill, descriptor, where, hint, close
        self._state = hashlib.sha256()
        self._left = descriptor.size
        self._checked = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer; BufferedReader gives a memoryview
        if self._left == 0:
            self._check_end()
            return 0
        if len(buffer) == 0:
            return 0
        data = self._fill(min(len(buffer), self._left))
        if not data:
            size = self._descriptor.size
            raise IntegrityError(f"{self._where}: {self._descriptor.digest} ends after {size - self._left} of {size} bytes", self._hint)
        self._state.update(data)
        self._left -= len(data)
        advance(len(data))
        if self._left == 0:
            self._check_end()
        buffer[: len(data)] = data
        return len(data)

    def _check_end(self) -> None:
        if self._checked:
            return
        if self._fill(1):
            raise IntegrityError(f"{self._where}: {self._descriptor.digest} has more than {self._descriptor.size} bytes", self._hint)
        found = "sha256:" + self._state.hexdigest()
        if found != self._descriptor.id:
            raise IntegrityError(f"{self._where}: {self._descriptor.digest} holds other bytes ({found})", self._hint)
        self._checked = True

    def close(self) -> None:
        if not self.closed and self._close is not None:
            self._close()
        super().close()


def open_verified(fill: Fill, descriptor: Descriptor, where: str, hint: str, close: Callable[[], None] | None = None) -> BinaryIO:
    """:class:`VerifyingReader` behind a buffer of one chunk."""
    return io.BufferedReader(VerifyingReader(fill, descriptor, where, hint, close), CHUNK)
