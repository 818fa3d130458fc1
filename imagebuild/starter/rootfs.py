"""A Debian root file system as one layer: the tar of imagebuild.starter.debian, cleaned of everything that is the build machine's.

The same Debian packages give the same bytes: times are clamped, caches, logs and the machine's own files (mirror
addresses, resolv.conf, hostname) are dropped, and the notebook's user is added here rather than by running anything.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

from imagebuild.layer.model import Codec
from imagebuild.oci.model import OCI_LAYER_ZSTD, Descriptor

USER, UID, GID, HOME = "jovyan", 1000, 0, "/home/jovyan"

START_SCRIPT = """\
#!/bin/sh
# Starts JupyterLab as a Kubeflow notebook: on port 8888, under NB_PREFIX, in the home volume.
set -eu
cd "$HOME"
if [ -n "${NB_PREFIX:-}" ]; then
    # The platform's gateway has authenticated the user; a token would only ask a second time.
    set -- --ServerApp.base_url="$NB_PREFIX" --IdentityProvider.token= --ServerApp.allow_origin='*' \\
        --ServerApp.authenticate_prometheus=False "$@"
fi
exec jupyter lab --ip=0.0.0.0 --port=8888 --no-browser --ServerApp.root_dir="$HOME" "$@"
"""

# Paths that are the build machine's, or that nobody needs in a container. Matched against the path without "./".
_DROP = re.compile(
    r"dev/.*|proc/.*|sys/.*|run/.+|tmp/.+|etc/resolv\.conf|etc/hostname|etc/machine-id|etc/apt/sources\.list(\.d/.+)?|etc/apt/apt\.conf\.d/99mmdebstrap"
    r"|var/cache/ldconfig/aux-cache|var/cache/apt/.+|var/cache/debconf/.+|var/lib/apt/lists/.+|var/log/.+|var/lib/dpkg/.+-old"
    r"|usr/share/(man|info|lintian|locale)/.+|usr/share/doc/.+/(?!copyright$)[^/]+|usr/lib/python3[^/]*/EXTERNALLY-MANAGED"
)


def _strip(name: str) -> str:
    return name.removeprefix("./").strip("/")


def patch_bytecode(data: bytes, mtime: int) -> bytes:
    """A timestamp .pyc (PEP 552, flags 0) made to match a source whose time was clamped; any other .pyc as it is."""
    if len(data) < 16 or data[4:8] != bytes(4):
        return data
    return data[:8] + mtime.to_bytes(4, "little") + data[12:]


def clean_tar(source: BinaryIO, target: BinaryIO, epoch: int) -> None:
    """Copy a root file system's tar, sorted, without the machine's own files, with the notebook's user and start script."""
    with tarfile.open(fileobj=source) as old, tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as new:
        members = {_strip(item.name): item for item in old.getmembers()}
        kept = {name: item for name, item in members.items() if name and not _DROP.fullmatch(name) and not item.isdev()}

        def add(name: str, item: tarfile.TarInfo, data: bytes | None = None) -> None:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.uid, info.gid = item.type, item.mode, item.uid, item.gid
            info.mtime = min(int(item.mtime), epoch)
            info.linkname = _strip(item.linkname) if item.islnk() else item.linkname
            info.pax_headers = {key: value for key, value in item.pax_headers.items() if key.startswith("SCHILY.xattr.")}
            if data is not None:
                info.size = len(data)
                new.addfile(info, io.BytesIO(data))
            elif item.isreg():
                info.size = item.size
                new.addfile(info, cast("BinaryIO", old.extractfile(item)))
            else:
                new.addfile(info)

        def made(kind: bytes, mode: int, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
            item = tarfile.TarInfo()
            item.type, item.mode, item.uid, item.gid, item.mtime = kind, mode, uid, gid, epoch
            return item

        extra: dict[str, tuple[tarfile.TarInfo, bytes | None]] = {
            "etc/apt/sources.list": (made(tarfile.REGTYPE, 0o644), b""),
            "etc/machine-id": (made(tarfile.REGTYPE, 0o444), b""),
            "usr/local/bin/start-notebook": (made(tarfile.REGTYPE, 0o755), START_SCRIPT.encode()),
            # Group 0 may write, so that a platform's random UID with GID 0 can use it without a volume.
            HOME.lstrip("/"): (made(tarfile.DIRTYPE, 0o775, UID, GID), None),
        }
        user = f"{USER}:x:{UID}:{GID}:{USER}:{HOME}:/bin/bash\n".encode()
        shadow = f"{USER}:*:19000:0:99999:7:::\n".encode()
        for name, line in (("etc/passwd", user), ("etc/shadow", shadow)):
            original = cast("BinaryIO", old.extractfile(kept[name])).read()
            extra[name] = (kept[name], original + line)
        for name, item in kept.items():
            folder, cache, file = name.rpartition("__pycache__/")
            module = kept.get(f"{folder}{file.partition('.')[0]}.py") if cache and file.endswith(".pyc") else None
            if module is not None and item.isreg() and module.mtime > epoch:
                extra[name] = (item, patch_bytecode(cast("BinaryIO", old.extractfile(item)).read(), epoch))
        hard_links = [name for name, item in kept.items() if item.islnk()]
        for name in sorted({*kept, *extra} - set(hard_links)):
            if name in extra:
                add(name, *extra[name])
            else:
                add(name, kept[name])
        for name in sorted(hard_links):  # after what they point at
            add(name, kept[name])


def compress_layer(source: Path, target: BinaryIO, codec: Codec) -> tuple[Descriptor, str]:
    """zstd-compress a tar into ``target``: the layer's descriptor and its diff_id."""

    uncompressed, compressed, size = hashlib.sha256(), hashlib.sha256(), 0
    compressor = zstandard.ZstdCompressor(level=codec.level).compressobj(size=source.stat().st_size)
    with source.open("rb") as stream:
        while True:
            chunk = stream.read(1 << 20)
            uncompressed.update(chunk)
            data = compressor.compress(chunk) if chunk else compressor.flush()
            compressed.update(data)
            size += target.write(data)
            if not chunk:
                break
    return Descriptor(OCI_LAYER_ZSTD, "sha256:" + compressed.hexdigest(), size), "sha256:" + uncompressed.hexdigest()
