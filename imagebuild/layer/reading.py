"""A layer that another program wrote, read once: both digests, sizes, and which package brings how many bytes."""

from __future__ import annotations

import csv
import io
import posixpath
import tarfile
from collections.abc import Mapping, Set
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.dpkg import STATUS, SystemFiles, is_dpkg_list, read_system_files
from imagebuild.layer.model import Layer, LayerFile, PackageBytes
from imagebuild.layer.tar.reading import HashingReader, is_decompression_error, iterate_entries
from imagebuild.oci.compression import open_decompressed
from imagebuild.wheel.installed import NO_SITES, is_record, parse_info_path
from imagebuild.wheel.record import decode_hash
from imagebuild.wheel.sizes import classify_path

NO_ADDONS: Mapping[str, tuple[str, str]] = {}
_TEXT_LIMIT = 64 << 20  # a RECORD, a package's list or dpkg's status is never larger


class ForeignLayer(Layer, frozen=True):
    """A layer written by a container engine. ``system`` is what apt did in it, None when nothing."""

    system: SystemFiles | None = None
    newest: int = 0  # the latest modification time of its entries, seconds since 1970


class _Seen:
    """What one pass over the tar finds: sizes by path, and the texts that say what is installed."""

    def __init__(self, sites: Set[str]) -> None:
        self._sites = sites
        self.sizes: dict[str, int] = {}
        self.records: dict[str, str] = {}
        self.lists: dict[str, str] = {}
        self.status = ""
        self.newest = 0

    def take(self, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        """Note one entry."""
        self.newest = max(self.newest, int(entry.mtime))
        if not entry.isreg() or entry.name.rpartition("/")[2].startswith(".wh."):
            return
        path = "/" + entry.name.removeprefix("./")
        self.sizes[path] = entry.size
        if entry.size <= _TEXT_LIMIT and (path == STATUS or is_dpkg_list(path) or is_record(path, self._sites)):
            text = cast("BinaryIO", archive.extractfile(entry)).read().decode("utf-8", "replace")
            if path == STATUS:
                self.status = text
            else:
                (self.lists if is_dpkg_list(path) else self.records)[path] = text


def read_foreign_layer(
    blob: Path, media_type: str, sites: Set[str] = NO_SITES, addons: Mapping[str, tuple[str, str]] = NO_ADDONS
) -> ForeignLayer:
    """Read ``blob`` to its end; ``sites``: where distributions count; ``addons``: folder -> name and version of an add-on.

    IntegrityError when it is not a compressed tar.

    A package's compressed size is its share by installed bytes: one stream has no borders between packages.
    """
    compression = media_type.rpartition("+")[2] if "+" in media_type else "none"
    with blob.open("rb") as file:
        stored = HashingReader(file)
        content = HashingReader(open_decompressed(cast(BinaryIO, io.BufferedReader(stored, CHUNK)), compression))
        seen = _scan(content, stored, sites)
    sizes = seen.sizes
    system = read_system_files(seen.lists, seen.status, sizes)
    installed = sum(sizes.values())
    described = [read_record(path, text, sites) for path, text in seen.records.items()]
    packages = [(item.name, item.version, sum(sizes.get(path, 0) for path in item.hashes)) for item in described]
    owners = {path: (item.name, sha256) for item in described for path, sha256 in item.hashes.items()}
    packages += [(f"{name} (apt)", system.versions[name], size) for name, size in system.sizes.items()] if system else []
    owners.update({path: (f"{name} (apt)", "") for path, name in system.owners.items() if path not in owners} if system else {})
    for folder, (name, version) in addons.items():
        own = [path for path in sizes if path.startswith(f"{folder}/")]
        packages.append((name, version, sum(sizes[path] for path in own)))
        owners.update(dict.fromkeys(own, (name, "")))
    shares = [PackageBytes(name, version, stored.count * size // (installed or 1), size) for name, version, size in packages]
    return ForeignLayer(
        blob=blob,
        digest=f"sha256:{stored.sha256}",
        size=stored.count,
        diff_id=f"sha256:{content.sha256}",
        uncompressed=content.count,
        installed=installed,
        media_type=media_type,
        packages=tuple(sorted(shares, key=lambda share: (-share.compressed, share.package))),
        files=tuple(
            LayerFile(path, size, package, classify_path(path), sha256)
            for path, size in sizes.items()
            for package, sha256 in [owners.get(path, ("", ""))]
        ),
        system=system,
        newest=seen.newest,
    )


def _scan(content: HashingReader, stored: HashingReader, sites: Set[str]) -> _Seen:
    """Read the tar, and both streams to their ends."""
    seen = _Seen(sites)
    try:
        with tarfile.open(fileobj=cast(BinaryIO, content), mode="r|", bufsize=CHUNK) as archive:
            for entry in iterate_entries(archive):
                seen.take(archive, entry)
        while content.read(CHUNK):
            pass
        while stored.read(CHUNK):
            pass
    except Exception as error:
        if not isinstance(error, (tarfile.TarError, EOFError)) and not is_decompression_error(error):
            raise  # a defect stays a traceback
        raise IntegrityError(
            f"the engine's layer cannot be read: {error}", "build it again; if it fails again, try another builder"
        ) from None
    return seen


class InstalledRecord(msgspec.Struct, frozen=True):
    """What a RECORD says: absolute paths, with the SHA-256 in hex where it has one."""

    name: str  # normalised
    version: str
    hashes: dict[str, str]


def read_record(path: str, text: str, sites: Set[str] = NO_SITES) -> InstalledRecord:
    """The RECORD at ``path`` (:func:`imagebuild.wheel.installed.is_record`); rows that make no sense have no hash."""
    info = parse_info_path(path, sites)
    assert info is not None
    hashes: dict[str, str] = {}
    for row in csv.reader(text.splitlines()):
        if row:
            hashes[posixpath.normpath(posixpath.join(info.site, row[0]))] = decode_hash(row[1] if len(row) > 1 else "")
    return InstalledRecord(info.name, info.version, hashes)
