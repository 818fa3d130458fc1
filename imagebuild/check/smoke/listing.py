"""What the layers of a ``docker save`` archive hold, read as they stream by; nothing is kept on a disk."""

from __future__ import annotations

import io
import json
import tarfile
from typing import BinaryIO, cast

import msgspec

from imagebuild.errors import BuildError
from imagebuild.oci.compression import open_decompressed
from imagebuild.wheel.installed import parse_info_path


class LayerListing(msgspec.Struct, frozen=True):
    """What smoke wants to know of a layer."""

    at_home: tuple[str, ...]  # absolute paths below the home, whiteouts too
    distributions: tuple[str, ...]  # names, normalised (PEP 503)


def read_archive(stream: BinaryIO, home: str, *, count: int, known: frozenset[str] = frozenset()) -> tuple[LayerListing, ...]:
    """The topmost ``count`` layers of the one image in the archive, lowest first.

    Which they are is said at the archive's end, so every layer is listed as it comes by. ``known`` has the digests and
    diff_ids (hex) of layers that need no look: an archive names its blobs by the one or the other.
    """
    listings: dict[str, LayerListing] = {}
    order: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                file = cast("io.BufferedReader | None", archive.extractfile(member)) if member.isreg() else None
                if file is None:
                    continue
                if member.name == "manifest.json":
                    order = [str(item) for item in json.loads(file.read())[0]["Layers"]]
                elif member.name.startswith("blobs/") or member.name.endswith("/layer.tar"):
                    listing = None if member.name.rpartition("/")[2] in known else list_layer(file, home)
                    if listing is not None:
                        listings[member.name] = listing
        wanted = order[len(order) - count :] if count else []
        return tuple(listings[name] for name in wanted)
    except (tarfile.TarError, EOFError, ValueError, LookupError, TypeError) as error:
        raise BuildError(
            f"what docker saved cannot be read: {error}", "run it again; if it fails again, see whether docker image save fails too"
        ) from None


def list_layer(file: io.BufferedReader, home: str) -> LayerListing | None:
    """List a layer's tar, compressed or not; None for a blob that is not a layer (a manifest, a config)."""
    head = file.peek(4)[:4]
    if head[:1] == b"{":
        return None
    compression = "zstd" if head == b"\x28\xb5\x2f\xfd" else "gzip" if head[:2] == b"\x1f\x8b" else "none"
    inside = f"{home.strip('/')}/"
    at_home: list[str] = []
    distributions: set[str] = set()
    with tarfile.open(fileobj=open_decompressed(file, compression), mode="r|") as layer:
        for member in layer:
            path = member.name.removeprefix("./").strip("/")
            if len(inside) > 1 and path.startswith(inside):
                at_home.append(f"/{path}")
            info = parse_info_path(f"/{path}")
            if info is not None and info.file == "METADATA":
                distributions.add(info.name)
    return LayerListing(tuple(at_home), tuple(sorted(distributions)))
