"""What was read of a base, in a registry: its inventory, its tree and its cut-out interpreter, so that a company reads a base once.

One OCI artifact a base, whose subject is the base's manifest, under the tag ``base-<32 hex digits of its digest>-<format>``. Its one layer
is a tar of what the cache keeps. The interpreter in it runs on this machine: who may push to that place is trusted with that
(docs/security.md), so it is asked for by a switch of its own. What was taken lies apart (``shared-bases/``) from what was read here.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import zstandard

from imagebuild.base.cache import CACHE_FORMAT, CachedBase, hold_base, load_base, read_pin, store_folder, write_pin
from imagebuild.base.model import compute_fingerprint
from imagebuild.base.tree import SqliteTree
from imagebuild.errors import ImagebuildError, IntegrityError, RemoteError
from imagebuild.files import hash_file, scratch_folder
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.encoding import EMPTY, EMPTY_BLOB, encode_manifest
from imagebuild.oci.model import Descriptor, Digest, ImageConfig, Manifest, Platform, RawManifest
from imagebuild.oci.place import Place
from imagebuild.permissions import choose_mode

ARTIFACT_TYPE = "application/vnd.imagebuild.base.v1"
BLOB_TYPE = "application/vnd.imagebuild.base.v1.tar+zstd"
_NAME = re.compile(r"inventory\.json|tree\.sqlite|facts\.json|python|rootfs/(?:[^/\0]+/)*[^/\0]+")
_LIMIT = 4 << 30  # bytes unpacked
_HINT = "it is not used, and the base is read; whoever may push to that cache wrote it: remove it there, and find out who did"


def name_tag(digest: Digest) -> str:
    """The tag of the artifact of the base ``digest``."""
    return f"base-{digest.hex[:32]}-{CACHE_FORMAT}"


class SharedBases:
    """The places to take bases from, in order, and the one to give them to. Nothing here fails a build: what cannot be taken is read."""

    def __init__(self, cache: Path, sources: Sequence[Place], target: Place | None, report: Callable[[str], object]) -> None:
        self._folder = cache / "shared-bases"
        self._sources, self._target, self._report = tuple(sources), target, report

    def recall(self, pinned: Digest, platform: Platform) -> CachedBase | None:
        """The base from the cache of those that were taken before; None when it was not."""
        known = read_pin(self._folder, pinned, platform) if self._sources else None
        return load_base(self._folder, *known) if known else None

    def take(self, raw: RawManifest, config_data: bytes, pinned: Digest, platform: Platform) -> CachedBase | None:
        """The base of this manifest and config from the first place that has it, checked as far as possible without layers; else None."""
        for place in self._sources:
            try:
                with hold_base(self._folder, raw.digest):
                    cached = load_base(self._folder, raw.digest, raw.media_type) or self._take_from(place, raw, config_data)
            except RemoteError as error:
                self._report(f"warning: {place.name} gives no bases: {error.message}")
                continue
            except IntegrityError as error:
                self._report(f"warning: what {place.name} has of the base {raw.digest} is refused: {error.message}")
                continue
            if cached is not None:
                write_pin(self._folder, pinned, platform, raw)
                self._report(f"the base was read by another machine: taken from {place.name}")
                return cached
        return None

    def _take_from(self, place: Place, raw: RawManifest, config_data: bytes) -> CachedBase | None:
        found = place.store.get_manifest(place.repository, name_tag(raw.digest))
        if found is None:
            return None
        manifest = found.parse()
        if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT_TYPE or len(manifest.layers) != 1:
            raise IntegrityError("there is something else under its tag", _HINT)
        if manifest.subject is None or manifest.subject.digest != raw.digest or manifest.layers[0].media_type != BLOB_TYPE:
            raise IntegrityError("it is about another image", _HINT)

        def fill(aside: Path) -> None:
            with place.store.open_blob(place.repository, manifest.layers[0]) as stream:
                _unpack(stream, aside)
                while stream.read(1 << 20):  # to the end, where the store compares the digest
                    pass
            (aside / "manifest.json").write_bytes(raw.data)
            (aside / "config.json").write_bytes(config_data)

        store_folder(self._folder, raw.digest, fill)
        cached = load_base(self._folder, raw.digest, raw.media_type)
        try:
            if cached is None:
                raise IntegrityError("it is not whole, or of another format", _HINT)
            _check(cached, raw, config_data)
        except IntegrityError:
            shutil.rmtree(self._folder / raw.digest.hex, ignore_errors=True)
            raise
        return cached

    def give(self, cached: CachedBase) -> None:
        """Push what was read here to the target, if the target lacks it."""
        place = self._target
        if place is None or cached.folder.parent == self._folder:
            return
        try:
            if place.store.head_manifest(place.repository, name_tag(cached.raw.digest)) is not None:
                return
            place.store.put_blob(place.repository, EMPTY_BLOB, EMPTY)
            with scratch_folder(self._folder) as scratch:
                blob = pack_base(cached.folder, scratch / "base")
                place.store.put_blob(place.repository, blob, scratch / "base")
            manifest = encode_manifest(EMPTY_BLOB, [blob], artifact_type=ARTIFACT_TYPE, subject=cached.raw.descriptor)
            place.store.put_manifest(place.repository, manifest, name_tag(cached.raw.digest))
        except ImagebuildError as error:
            self._report(f"warning: {place.name} did not take what was read of the base: {error.message}")


def pack_base(folder: Path, out: Path) -> Descriptor:
    """The files of a cache's folder as one compressed tar in the file ``out``."""
    compressor = zstandard.ZstdCompressor(level=3)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and _NAME.fullmatch(path.relative_to(folder).as_posix()))
    with out.open("wb") as output, compressor.stream_writer(output) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
        for path in paths:
            entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
            entry.size, entry.mode = path.stat().st_size, choose_mode(bool(path.stat().st_mode & 0o100))
            with path.open("rb") as content:
                tar.addfile(entry, content)
    return Descriptor(BLOB_TYPE, Digest(f"sha256:{hash_file(out)}"), out.stat().st_size)


def _unpack(stream: BinaryIO, folder: Path) -> None:
    """Regular files with plain names and nothing else, in bounded space."""
    left = _LIMIT
    try:
        with tarfile.open(fileobj=open_decompressed(stream, "zstd"), mode="r|") as tar:
            for entry in tar:
                parts = entry.name.split("/")
                if not entry.isreg() or not _NAME.fullmatch(entry.name) or any(part in (".", "..") for part in parts):
                    raise IntegrityError(f"it has an entry {entry.name[:100]!r}", _HINT)
                left -= entry.size
                target = folder / entry.name
                if left < 0 or target.exists():
                    raise IntegrityError(f"it has {entry.name[:100]!r} twice, or is larger than any", _HINT)
                target.parent.mkdir(parents=True, exist_ok=True)
                content = tar.extractfile(entry)
                assert content is not None  # it is a regular file
                with target.open("wb") as output:
                    shutil.copyfileobj(content, output, 1 << 20)
                target.chmod(choose_mode(bool(entry.mode & 0o100)))
    except (tarfile.TarError, EOFError, OSError, zstandard.ZstdError) as error:
        raise IntegrityError(f"it cannot be unpacked: {error}", _HINT) from None


def _check(cached: CachedBase, raw: RawManifest, config_data: bytes) -> None:
    """What it says of the image's layers, platform and packages agrees with the image and with itself."""
    inventory = cached.inventory
    manifest, config = raw.parse(), ImageConfig.parse(config_data)
    assert isinstance(manifest, Manifest)
    layers = [(item.digest, item.size, item.diff_id) for item in inventory.layers]
    named = [(item.digest, item.size, diff_id) for item, diff_id in zip(manifest.layers, config.rootfs.diff_ids, strict=True)]
    if (inventory.digest, layers) != (raw.digest, named) or not inventory.platform.matches(config.platform):
        raise IntegrityError("it describes another image", _HINT)
    if inventory.fingerprint != compute_fingerprint(inventory.interpreter, inventory.distributions):
        raise IntegrityError("its fingerprint is not that of its packages", _HINT)
    launch = cached.launch
    words = (launch.executable, launch.home, launch.loader, *launch.libraries) if launch is not None else ()
    if any(word.startswith("/") or ".." in word.split("/") for word in words):
        raise IntegrityError("it would start a program outside its folder", _HINT)
    tree = SqliteTree(cached.folder / "tree.sqlite")
    try:
        tree.get("/usr")
    except Exception as error:  # sqlite3.Error, or rows of another kind
        raise IntegrityError(f"its tree cannot be read: {error}", _HINT) from None
    finally:
        tree.close()
