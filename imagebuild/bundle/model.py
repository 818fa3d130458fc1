"""``bundle.json``: what a bundle is for, and the hash of every file in it.

The folder: ``project/`` (what images/ and lockfiles/ have of the team), ``wheels/`` (a build context), ``base/`` (what was read of
the base, with its interpreter), ``layers/`` (the base's layers, where asked for), ``Dockerfile``, ``recipe.json``. A file that
bundle.json does not name is never read.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import msgspec

from imagebuild.decoding import make_decoder
from imagebuild.errors import ConfigurationError, IntegrityError
from imagebuild.files import CHUNK, hash_file, replacing
from imagebuild.oci.model import Digest
from imagebuild.permissions import choose_mode

FORMAT = 1
NAME = "bundle.json"


class BundledFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file's bytes, or (``link``) a symlink inside a source tree."""

    sha256: str = ""
    size: int = 0
    executable: bool = False
    link: str = ""


class BundledBase(msgspec.Struct, frozen=True):
    """Which base, and whether its layers are in the bundle."""

    name: str
    digest: str  # of the platform's manifest
    pinned: str  # what the catalogue names: an index or that manifest
    media_type: str  # of the manifest
    repository: str
    platform: str
    layers: bool


class BundleManifest(msgspec.Struct, frozen=True):
    """The file. ``engine``: what the tag was made with."""

    format: int
    team: str
    tag: str
    engine: str
    base: BundledBase
    files: dict[str, BundledFile]  # relative path, with slashes

    def encode(self) -> bytes:
        """Indented JSON, keys sorted; same bundle, same bytes."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"


_MANIFEST = make_decoder(BundleManifest)


def describe_file(path: Path) -> BundledFile:
    """The entry of a file on this disk."""
    status = path.stat()
    return BundledFile(hash_file(path), status.st_size, bool(status.st_mode & 0o100))


class Bundle:
    """A bundle's folder. Whatever comes out of it has been compared with bundle.json on the way."""

    def __init__(self, folder: Path, expected: str = "") -> None:
        """``expected``: the ``sha256:`` of bundle.json, from whoever made it; "" trusts the folder's own."""
        self.folder = folder
        path = folder / NAME
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{folder} is not a bundle: {NAME} {error.strerror}", "make one with: imagebuild bundle TEAM -o DIR"
            ) from None
        self.digest = str(Digest.of(data))
        if expected and expected != self.digest:
            raise IntegrityError(
                f"the bundle in {folder} is not the expected one",
                "get it again from its maker; nothing of it was used",
                (f"expected {expected}", f"got      {self.digest}"),
            )
        try:
            self.manifest = _MANIFEST.decode(data)
        except msgspec.DecodeError as error:
            raise IntegrityError(f"{path} cannot be read: {error}", "get the bundle again") from None
        if self.manifest.format != FORMAT:
            raise ConfigurationError(
                f"{path} has format {self.manifest.format}, this program reads {FORMAT}", "use the same imagebuild on both sides"
            )
        for name in self.manifest.files:
            parts = PurePosixPath(name).parts
            if not parts or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name or str(PurePosixPath(name)) != name:
                raise IntegrityError(f"{path} names a file outside the bundle: {name!r}", "do not use this bundle")

    def list_files(self, top: str) -> dict[str, BundledFile]:
        """The files of one of its folders, by their path below it."""
        return {name.removeprefix(f"{top}/"): file for name, file in self.manifest.files.items() if name.startswith(f"{top}/")}

    def copy_tree(self, top: str, target: Path) -> None:
        """One of its folders, verified, as the new folder ``target``; not flushed to the disk.

        Symlinks are made last: nothing is written through one.
        """
        files = self.list_files(top)
        for name, file in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not file.link:
                with path.open("xb") as copy:
                    self._copy_verified(f"{top}/{name}", copy)
                path.chmod(choose_mode(file.executable))
        for name, file in files.items():
            if file.link:
                (target / name).symlink_to(file.link)

    def copy_file(self, name: str, target: Path) -> None:
        """One file, verified while it is copied, at ``target`` or not there at all."""
        with replacing(target) as copy:
            self._copy_verified(name, copy)

    def _copy_verified(self, name: str, copy: BinaryIO) -> None:
        file = self.manifest.files.get(name)
        if file is None:
            raise IntegrityError(f"the bundle lacks {name}", "get the bundle again; nothing was built")
        try:
            stream = (self.folder / name).open("rb")
        except OSError as error:
            raise IntegrityError(f"the bundle lacks {name}: {error.strerror}", "get the bundle again; nothing was built") from None
        with stream:
            found, size = _copy(stream, copy, file.size)
        if (found, size) != (file.sha256, file.size):
            got = f"{size} bytes" if size <= file.size else "more bytes"
            raise IntegrityError(
                f"{name} does not match the bundle's manifest",
                "get the bundle again; nothing of this file was kept",
                (f"expected sha256 {file.sha256}, {file.size} bytes", f"got      sha256 {found}, {got}"),
            )


def _copy(source: BinaryIO, target: BinaryIO, limit: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    while size <= limit and (block := source.read(CHUNK)):
        size += len(block)
        digest.update(block)
        target.write(block)
    return digest.hexdigest(), size
