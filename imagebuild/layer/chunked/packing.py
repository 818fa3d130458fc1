"""A layer that another program compressed, packed anew as zstd:chunked: the same tar, so the same diff_id."""

from __future__ import annotations

from pathlib import Path

from imagebuild.files import CHUNK, replacing
from imagebuild.layer.chunked.contents import make_ending, read_blob
from imagebuild.layer.chunked.frames import ChunkedFrames
from imagebuild.layer.chunked.segments import split_tar
from imagebuild.layer.model import Codec
from imagebuild.oci.compression import open_decompressed


def pack_chunked(blob: Path, codec: Codec) -> dict[str, str]:
    """Replace ``blob``; the annotations of the new one's descriptor. IntegrityError for a tar that zstd:chunked cannot say."""
    with replacing(blob) as output, blob.open("rb") as stored:
        reader = open_decompressed(stored, codec.compression)
        frames = ChunkedFrames(output.write, codec)
        for segment in split_tar(iter(lambda: reader.read(CHUNK), b"")):
            frames.write(segment.raw)
            frames.write_content(segment.size, segment.content)
        frames.finish()
        ending = make_ending(*read_blob(output, codec), codec)
        output.write(ending.data)
    return ending.annotations
