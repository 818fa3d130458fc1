"""Small base images for tests: layers from lists of entries, images in a layout folder, and one real Debian."""

from __future__ import annotations

import fcntl
import functools
import gzip
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zstandard

from imagebuild.base.model import Base
from imagebuild.base.reading import BaseNames, read_base
from imagebuild.engine.machinesources import SUITE, read_machine_sources
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_LAYER_TAR,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Platform,
    RawManifest,
)
from tests.support.tools import need

DEBIAN_PACKAGES = "python3,python3-venv,python3-six,ca-certificates,tini"
REPOSITORY = "bases/test"


def entry(name: str, data: bytes | None = None, *, link: str = "", hard: str = "", mode: int | None = None, uid: int = 0, gid: int = 0,
          kind: bytes = b"", pax: dict[str, str] | None = None) -> tuple[tarfile.TarInfo, bytes]:  # fmt: skip
    """One tar entry: a file with ``data``, a symlink, a hard link, or (with none of them) a folder."""
    info = tarfile.TarInfo(name)
    info.uid, info.gid, info.pax_headers = uid, gid, pax or {}
    if kind:
        info.type = kind
    elif data is not None:
        info.size = len(data)
    elif link:
        info.type, info.linkname = tarfile.SYMTYPE, link
    elif hard:
        info.type, info.linkname = tarfile.LNKTYPE, hard
    else:
        info.type = tarfile.DIRTYPE
    info.mode = mode if mode is not None else {tarfile.DIRTYPE: 0o755, tarfile.SYMTYPE: 0o777}.get(info.type, 0o644)
    return info, data or b""


def make_layer(entries: Iterable[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An uncompressed layer."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for info, data in entries:
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pack_files(files: dict[str, bytes]) -> bytes:
    """A tar of plain files, by their paths."""
    return make_layer([entry(name, data) for name, data in files.items()])


def push_blob(store: LayoutStore, media_type: str, data: bytes) -> Descriptor:
    """Store bytes; the descriptor that names them."""
    descriptor = Descriptor(media_type, str(Digest.of(data)), len(data))
    store.put_blob(REPOSITORY, descriptor, data)
    return descriptor


@functools.lru_cache(4)
def _compress(layer: bytes, compression: str) -> bytes:
    """Kept, because many tests push one root file system."""
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=1).compress(layer)
    return layer if compression == "none" else gzip.compress(layer, 1, mtime=0)


def push_image(
    store: LayoutStore,
    layers: Sequence[bytes],
    config: dict[str, Any] | None = None,
    *,
    tag: str = "1",
    compression: str = "gzip",
    docker: bool = False,
    platform: Platform | None = None,
    diff_ids: Sequence[str] | None = None,
) -> RawManifest:
    """An image of uncompressed ``layers``, bottom first."""
    platform = platform or Platform()
    descriptors = []
    for layer in layers:
        media_type = {"zstd": OCI_LAYER_ZSTD, "none": OCI_LAYER_TAR}.get(compression, DOCKER_LAYER_GZIP if docker else OCI_LAYER_GZIP)
        descriptors.append(push_blob(store, media_type, _compress(layer, compression)))
    image = {
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids) if diff_ids is not None else [str(Digest.of(layer)) for layer in layers]},
        "history": [{"created_by": "test"} for _ in layers],
    }
    described = push_blob(store, DOCKER_CONFIG if docker else OCI_CONFIG, json.dumps(image).encode())
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    manifest = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": {"mediaType": described.media_type, "digest": described.digest, "size": described.size},
        "layers": [{"mediaType": item.media_type, "digest": item.digest, "size": item.size} for item in descriptors],
    }
    raw = RawManifest(json.dumps(manifest).encode(), media_type)
    store.put_manifest(REPOSITORY, raw, tag)
    return raw


def push_index(store: LayoutStore, images: Sequence[tuple[Platform, RawManifest]], tag: str = "index") -> RawManifest:
    """An index over images that are in the store."""
    manifests = [
        {
            "mediaType": raw.media_type,
            "digest": str(raw.digest),
            "size": len(raw.data),
            "platform": {"os": platform.os, "architecture": platform.architecture},
        }
        for platform, raw in images
    ]
    raw = RawManifest(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}).encode(), OCI_INDEX)
    store.put_manifest(REPOSITORY, raw, tag)
    return raw


def read_image(store: Any, raw: RawManifest, cache: Path, platform: Platform | None = None) -> Base:
    """:func:`imagebuild.base.reading.read_base` with the names filled in."""
    names = BaseNames("test", "jupyter", f"layout:{REPOSITORY}:1", "")
    return read_base(store, REPOSITORY, raw.digest, platform or Platform(), names, cache=cache, report=lambda _: None)


def debian_rootfs(fallback: Path, suite: str = SUITE, packages: str = DEBIAN_PACKAGES) -> Path:
    """A minimal Debian with Python as a tar, made once by mmdebstrap (half a minute) and kept in the folder that
    IMAGEBUILD_TEST_CACHE names, else in ``fallback``. Skips without mmdebstrap or where an ordinary user may not run it."""
    tool = need("mmdebstrap")
    folder = Path(os.environ.get("IMAGEBUILD_TEST_CACHE") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{'debian' if suite == SUITE else suite}-{packages.replace(',', '-')}.tar"
    with (folder / "debian.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            sources = [line.replace(f" {SUITE}", f" {suite}") for line in read_machine_sources()]
            aside = target.with_suffix(".part")
            command = [
                tool,
                "--quiet",
                "--variant=minbase",
                f"--include={packages}",
                "--format=tar",
                suite,
                str(aside),
                *sources,
            ]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C.UTF-8"})
            aside.rename(target)
    return target
