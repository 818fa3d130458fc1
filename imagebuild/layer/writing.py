"""A layer's stored bytes on their way to the disk: passed on, or compressed anew.

Reading and hashing the stored bytes, and decompressing and hashing the tar, run side by side, with bounded memory.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.chunked.contents import Contents, make_ending
from imagebuild.layer.chunked.framescan import FrameScanner
from imagebuild.layer.memberstore import drop_member
from imagebuild.layer.model import Codec, Member
from imagebuild.layer.tar.flow import BackgroundDigest, ChunkConsumer, open_chunks, read_ahead
from imagebuild.layer.tar.frame import FrameWriter
from imagebuild.oci.compression import open_decompressed


class WrittenTar(msgspec.Struct, frozen=True):
    """What was written, unpacked."""

    sha256: str  # in hex: the diff_id
    size: int  # bytes
    annotations: dict[str, str] = {}  # of the layer's descriptor


def read_stored(prelude: bytes, members: Sequence[Member], tail: bytes) -> Iterator[bytes]:
    """The layer's stored bytes; IntegrityError after a member whose bytes are not those of its index."""
    yield prelude
    for member in members:
        digest = hashlib.sha256()
        with member.blob.open("rb", buffering=0) as blob:
            while chunk := blob.read(CHUNK):
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != member.sha256:
            drop_member(member)
            raise IntegrityError(
                f"the cached member of {member.package} {member.version} is damaged: {member.blob}", "run again: it is built anew"
            )
    yield tail


def write_tar(
    stored: Iterator[bytes], write: Callable[[bytes], None], codec: Codec, total: int, inspect: Callable[[Iterator[bytes]], None] | None
) -> WrittenTar:
    """Hand a layer's bytes to ``write``, as ``codec`` wants them; ``total``: bytes of its tar, which ``inspect`` reads on a thread."""
    if codec.single:
        return _write_single(stored, write, codec, total)
    return (_write_chunked if codec.chunked else _write_frames)(stored, write, codec, [inspect] if inspect else [])


def _write_frames(
    stored: Iterator[bytes], write: Callable[[bytes], None], codec: Codec, inspect: Sequence[Callable[[Iterator[bytes]], None]]
) -> WrittenTar:
    """Pass the stored bytes on; what they unpack to is found on more threads meanwhile."""
    digest = BackgroundDigest()

    def decompress(chunks: Iterator[bytes]) -> None:
        reader = open_decompressed(open_chunks(chunks), codec.compression)
        with contextlib.ExitStack() as stack:
            feeds = [stack.enter_context(item) for item in (digest, *map(ChunkConsumer, inspect))]
            while data := reader.read(CHUNK):
                for feed in feeds:
                    feed(data)

    with ChunkConsumer(decompress) as put:
        for chunk in stored:
            put(chunk)
            write(chunk)
    return WrittenTar(digest.sha256, digest.count)


def _write_chunked(
    stored: Iterator[bytes], write: Callable[[bytes], None], codec: Codec, inspect: Sequence[Callable[[Iterator[bytes]], None]]
) -> WrittenTar:
    """As :func:`_write_frames`, then the table of contents."""
    frames, contents = FrameScanner(), Contents(codec)

    def scan() -> Iterator[bytes]:
        for chunk in stored:
            frames.feed(chunk)
            yield chunk

    found = _write_frames(scan(), write, codec, [contents.read, *inspect])
    frames.finish()
    ending = make_ending(contents, frames, codec)
    write(ending.data)
    return msgspec.structs.replace(found, annotations=ending.annotations)


def _write_single(stored: Iterator[bytes], write: Callable[[bytes], None], codec: Codec, total: int) -> WrittenTar:
    """Compress the tar anew as one stream."""
    digest = BackgroundDigest()
    frame = FrameWriter(write, codec, total)
    with digest as feed, read_ahead(open_decompressed(open_chunks(stored), codec.compression)) as chunks:
        for data in chunks:
            feed(data)
            frame.write(data)
    frame.finish()
    return WrittenTar(digest.sha256, digest.count)
