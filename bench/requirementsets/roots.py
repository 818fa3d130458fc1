"""The base's root file system on this disk, and overlays on it in which programs run as they would in a container (needs root)."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from bench.scratch import Run, run_limited
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Manifest

_CERTIFICATES = "tmp/certificates.pem"


def unpack_image(layout: LayoutStore, repository: str, digest: Digest, folder: Path, *, skip: int = 0) -> None:
    """An image's layers from number ``skip`` on, one over the other; with ``skip``, whiteouts are left in ``folder`` as files."""
    raw = layout.get_manifest(repository, digest)
    manifest = raw.parse() if raw is not None else None
    if not isinstance(manifest, Manifest):
        raise SystemExit(f"{repository}@{digest} is not an image")
    for layer in manifest.layers[skip:]:
        blob = layout.local_file(Digest(layer.digest))
        if blob is None:
            raise SystemExit(f"layer {layer.digest} is not in the layout")
        unpack_layer(blob, folder, carry_out=not skip)


def unpack_layer(blob: Path, folder: Path, *, carry_out: bool) -> None:
    """A stored layer over ``folder``. ``carry_out``: what its whiteouts (image-spec, layer.md) name is removed; else they stay as files."""
    folder.mkdir(parents=True, exist_ok=True)
    # Anchored: packages have folders called dev, too.
    exclude = ["--anchored", "--exclude=dev/*", "--exclude=./dev/*"]
    if carry_out:
        listed = subprocess.run(["tar", "--quoting-style=literal", "-tf", str(blob)], check=True, capture_output=True, text=True).stdout
        for line in listed.splitlines():
            path = folder / line
            if path.name.startswith(".wh."):
                target = path.with_name(path.name.removeprefix(".wh."))
                if target.is_dir() and not target.is_symlink():
                    shutil.rmtree(target)
                else:
                    target.unlink(missing_ok=True)
        exclude += ["--no-anchored", "--exclude=.wh.*"]
    subprocess.run(["tar", "-xpf", str(blob), "-C", str(folder), *exclude], check=True)


def count_layers(layout: LayoutStore, repository: str, digest: Digest) -> int:
    """How many layers an image has."""
    raw = layout.get_manifest(repository, digest)
    manifest = raw.parse() if raw is not None else None
    return len(manifest.layers) if isinstance(manifest, Manifest) else 0


def apply_whiteouts(upper: Path) -> None:
    """``.wh.NAME`` of a layer as overlayfs has it: a device 0:0 called NAME; ``.wh..wh..opq`` is not made by imagebuild."""
    for path in list(upper.rglob(".wh.*")):
        target = path.with_name(path.name.removeprefix(".wh."))
        path.unlink()
        if not target.exists():
            os.mknod(target, 0o020000, os.makedev(0, 0))


@contextlib.contextmanager
def overlay(lower: Path, upper: Path, scratch: Path) -> Iterator[Path]:
    """``lower`` with ``upper`` over it, mounted; what is written goes into ``upper``."""
    work, merged = scratch / "work", scratch / "merged"
    for folder in (upper, work, merged):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    try:
        yield merged
    finally:
        subprocess.run(["umount", "-l", str(merged)], check=True)
        shutil.rmtree(work, ignore_errors=True)


def run_pip(
    root: Path, index: PackageIndex, arguments: list[str], limit: float, *, python: str = "/usr/bin/python3",
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Run:  # fmt: skip
    """The base's own pip in ``root``, by chroot, with the index and nothing else of this machine's configuration."""
    for path in ("dev/null", "dev/urandom"):
        target = root / path
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            os.mknod(target, 0o020666, os.makedev(1, 3 if path == "dev/null" else 9))
    for source, path in ((Path("/etc/resolv.conf"), "etc/resolv.conf"), (Path("/etc/hosts"), "etc/hosts")):
        (root / path).write_bytes(source.read_bytes())
    if index.certificate:
        (root / _CERTIFICATES).write_bytes(Path(index.certificate).read_bytes())
    settings = {
        "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/bin", "HOME": "/root", "LANG": "C.UTF-8", "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": index.url, "PIP_CERT": f"/{_CERTIFICATES}", "PIP_NO_CACHE_DIR": "1", "PIP_ROOT_USER_ACTION": "ignore",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment,
    }  # fmt: skip
    return run_limited(["chroot", str(root), python, "-m", "pip", *arguments], limit, environment=settings)
