"""Members and layers as values."""

from __future__ import annotations

from pathlib import Path

import msgspec

from imagebuild.errors import ConfigurationError
from imagebuild.permissions import FILE_MODE

LAYER_MTIME = 315532800  # 1980-01-01, the earliest a zip can say: the time of every entry, in every layer
LAYER_FORMAT = 1  # part of every member's and image's key: raise it whenever the bytes of a layer would change

CHUNKED = "zstd:chunked"
_LEVELS = {"zstd": range(1, 20), CHUNKED: range(1, 20), "gzip": range(4)}


class Codec(msgspec.Struct, frozen=True):
    """How layer bytes are compressed. ``single`` re-compresses the layer as one stream for old readers."""

    name: str = "zstd"  # zstd, zstd:chunked or gzip
    level: int = 3  # zstd 1..19; gzip by isal 0..3
    single: bool = False

    @property
    def compression(self) -> str:
        """What decompresses it: ``zstd`` or ``gzip``."""
        return "zstd" if self.chunked else self.name

    @property
    def chunked(self) -> bool:
        """Whether each file's content is in a frame of its own (:mod:`imagebuild.layer.chunked`)."""
        return self.name == CHUNKED


def check_codec(codec: Codec) -> None:
    """ConfigurationError for a codec or level that does not exist."""
    levels = _LEVELS.get(codec.name)
    if levels is None:
        raise ConfigurationError(f"unknown compression {codec.name!r}", "use zstd, zstd:chunked or gzip")
    if codec.level not in levels:
        raise ConfigurationError(f"{codec.name} has no level {codec.level}", f"use {levels.start} to {levels.stop - 1}")


class FileFact(msgspec.Struct, frozen=True):
    """One file or symlink that a member puts in the image. Path is absolute and final."""

    path: str
    size: int
    mode: int
    sha256: str  # of the content
    kind: str  # code, bytecode, library (shared), data, script, metadata


class Member(msgspec.Struct, frozen=True):
    """One wheel, as the tar entries it becomes, compressed on its own and kept in the member cache."""

    package: str  # normalised name
    version: str
    blob: Path  # compressed tar entries, no end-of-archive blocks
    compressed: int  # bytes of blob
    uncompressed: int  # bytes of tar
    files: tuple[FileFact, ...]
    sha256: str = ""  # of blob, in hex: checked whenever the bytes go into a layer
    repaired: int = 0  # rows of the wheel's RECORD that were wrong


class ExtraFile(msgspec.Struct, frozen=True):
    """A file of the layer that no wheel brings (the constraints file)."""

    path: str
    data: bytes
    mode: int = FILE_MODE


class LayerFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a finished layer, for its account."""

    path: str
    size: int
    package: str = ""  # normalised name; empty where none lists it
    kind: str = ""  # of imagebuild.wheel.sizes.KINDS
    sha256: str = ""  # in hex; empty where it is not known


class PackageBytes(msgspec.Struct, frozen=True):
    """What one package costs. Bytes."""

    package: str
    version: str
    compressed: int
    installed: int


class Layer(msgspec.Struct, frozen=True):
    """A finished layer."""

    blob: Path | None  # its file; None for one that was not made again, as the target has it
    digest: str
    size: int  # bytes as stored
    diff_id: str
    uncompressed: int  # bytes of tar
    installed: int  # bytes of all files
    media_type: str
    packages: tuple[PackageBytes, ...]  # by compressed size, largest first
    files: tuple[LayerFile, ...] = ()  # no folders, no links
    members: dict[str, Path] = {}  # package -> its member, where the layer was made of members
    repaired: dict[str, int] = {}  # package -> rows of its wheel's RECORD that were wrong
    annotations: dict[str, str] = {}  # of its descriptor: where the table of contents of zstd:chunked is

    @property
    def file(self) -> Path:
        """``blob`` of a layer that was made; ValueError for one that was not."""
        if self.blob is None:
            raise ValueError(f"layer {self.digest} was not made here")
        return self.blob


class TeamLayers(msgspec.Struct, frozen=True):
    """The finished layers of a team's image over its base, lowest first: one, unless ``[layer] split`` divides its packages."""

    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(layer.size for layer in self.layers)

    @property
    def installed(self) -> int:
        """Bytes of all files."""
        return sum(layer.installed for layer in self.layers)

    @property
    def packages(self) -> tuple[PackageBytes, ...]:
        """By compressed size, largest first."""
        found = (item for layer in self.layers for item in layer.packages)
        return tuple(sorted(found, key=lambda item: (-item.compressed, item.package)))

    @property
    def files(self) -> tuple[LayerFile, ...]:
        """No folders, no links; no path is in two layers."""
        return tuple(item for layer in self.layers for item in layer.files)

    @property
    def members(self) -> dict[str, Path]:
        """Package -> its member."""
        return {package: path for layer in self.layers for package, path in layer.members.items()}

    @property
    def repaired(self) -> dict[str, int]:
        """Package -> rows of its wheel's RECORD that were wrong."""
        return {package: rows for layer in self.layers for package, rows in layer.repaired.items()}
