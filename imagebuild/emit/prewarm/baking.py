"""The images of pools as a list, for whoever puts them into a node image: pools that scale from zero have no node to pull on."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from imagebuild.emit.prewarm.capacity import NodeImage, merge_layers
from imagebuild.oci.model import Reference
from imagebuild.table import format_table
from imagebuild.text import format_size


class BakedImage(msgspec.Struct, frozen=True):
    """One image of one pool. Sizes in bytes, each layer of the image once; ``added``: on disk beside the pool's images before it."""

    pool: str
    team: str
    tag: str
    reference: str  # by digest alone: the name to pull it under
    digest: str
    stored: int
    on_disk: int  # stored and unpacked
    added: int
    estimated: bool  # whether a layer's unpacked size is


def list_baked_images(pool: str, images: Sequence[tuple[NodeImage, Reference]]) -> list[BakedImage]:
    """In the order given; layers that images share are counted where they come first."""
    baked = []
    there: set[str] = set()
    for image, reference in images:
        layers = merge_layers([image])
        baked.append(
            BakedImage(
                pool=pool,
                team=image.team,
                tag=image.tag,
                reference=str(msgspec.structs.replace(reference, tag="")),
                digest=str(reference.digest),
                stored=sum(layer.stored for layer in layers.values()),
                on_disk=sum(layer.on_disk for layer in layers.values()),
                added=sum(layer.on_disk for digest, layer in layers.items() if digest not in there),
                estimated=any(layer.unpacked < 0 for layer in layers.values()),
            )
        )
        there.update(layers)
    return baked


def format_baked_images(baked: Sequence[BakedImage]) -> list[str]:
    """A line per image: pool, reference, stored, on disk, added; ``~`` before what is estimated."""
    rows = [
        (
            item.pool,
            item.reference,
            format_size(item.stored),
            f"{'~' * item.estimated}{format_size(item.on_disk)}",
            f"{'~' * item.estimated}{format_size(item.added)}",
        )
        for item in baked
    ]
    return format_table([("pool", "image", "stored", "on disk", "added"), *rows], right=(2, 3, 4))
