"""``imagebuild base build starter``: Debian, then JupyterLab in one locked layer, into the layout folder."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from imagebuild import annotations as names
from imagebuild.base.model import Base
from imagebuild.base.reading import BaseNames, read_base
from imagebuild.engine.image import DerivedImage, derive_image
from imagebuild.engine.machinesources import SUITE
from imagebuild.errors import LockError
from imagebuild.files import exclusive
from imagebuild.jobs.slots import Jobs
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.model import LAYER_MTIME, Codec, TeamLayers
from imagebuild.lock.compiling import compile_lock
from imagebuild.lock.file.lockfile import lock_digest, read_lock, write_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import default_index
from imagebuild.lock.request import LockRequest
from imagebuild.lock.wheels.fetching import fetch_wheels
from imagebuild.oci.encoding import encode_json, encode_manifest
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, Descriptor, Digest, Platform
from imagebuild.progress import step
from imagebuild.recipe import created_epoch
from imagebuild.starter import rootfs
from imagebuild.starter.debian import PACKAGES, make_debian
from imagebuild.starter.lockfile import LOCKFILE
from imagebuild.starter.place import REPOSITORY, TAG, find_starter, is_current

ROOT_REPOSITORY = "bases/starter-root"
_FOLDER = Path(__file__).parent
REQUIREMENTS = _FOLDER / "requirements.in"
_CODEC = Codec()


def _nothing() -> None:
    """The usual ``meanwhile``."""


def starter_lock() -> Lock:
    """JupyterLab's own lock, as shipped with this program."""
    return read_lock(LOCKFILE)


def _root_config(diff_id: str, created: str, platform: Platform) -> bytes:
    document = {
        "created": created,
        "architecture": platform.architecture,
        "os": platform.os,
        "config": {
            "User": str(rootfs.UID),
            "ExposedPorts": {"8888/tcp": {}},
            "Env": [
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                f"HOME={rootfs.HOME}",
                f"NB_USER={rootfs.USER}",
                f"NB_UID={rootfs.UID}",
                "LANG=C.UTF-8",
                "SHELL=/bin/bash",
            ],
            "Entrypoint": ["/usr/bin/tini", "--"],
            "Cmd": ["/usr/local/bin/start-notebook"],
            "WorkingDir": rootfs.HOME,
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": f"debian {SUITE} {' '.join(PACKAGES)}", "comment": "imagebuild"}],
    }
    return encode_json(document)


def _put_root(
    layout: LayoutStore, cache: Path, created: str, platform: Platform, report: Callable[[str], None], meanwhile: Callable[[], object]
) -> Digest:
    """Make the root file system and put it into the layout as an image of one layer; its manifest's digest.

    ``meanwhile`` is called while Debian's packages are fetched and unpacked.
    """
    epoch = created_epoch(created)
    with make_debian(cache, epoch, report) as debian, tempfile.TemporaryDirectory(prefix="imagebuild-starter-") as folder:
        clean, blob = Path(folder, "clean.tar"), Path(folder, "layer")
        meanwhile()
        with step("base starter: waiting for Debian"):
            raw = debian.wait()
        with step("base starter: packing Debian"):
            with raw.open("rb") as source, clean.open("wb") as target:
                rootfs.clean_tar(source, target, epoch)
            raw.unlink()
            with blob.open("wb") as target:
                layer, diff_id = rootfs.compress_layer(clean, target, _CODEC)
            layout.put_blob(ROOT_REPOSITORY, layer, blob)
    config = _root_config(diff_id, created, platform)
    descriptor = Descriptor.of(OCI_CONFIG, config)
    layout.put_blob(ROOT_REPOSITORY, descriptor, config)
    manifest = encode_manifest(descriptor, [Descriptor(layer.media_type, layer.digest, layer.size)])
    return layout.put_manifest(ROOT_REPOSITORY, manifest, TAG)


def _read_root(layout: LayoutStore, digest: Digest, platform: Platform, cache: Path, report: Callable[[str], None]) -> Base:
    names = BaseNames("starter-root", "jupyter", f"localhost/{ROOT_REPOSITORY}", "")
    return read_base(layout, ROOT_REPOSITORY, digest, platform, names, cache=cache, report=report)


def open_root(layout: LayoutStore, cache: Path, platform: Platform, report: Callable[[str], None]) -> Base:
    """Debian with its Python and nothing else: what the starter base begins with, made when the layout has none."""
    descriptor = layout.head_manifest(ROOT_REPOSITORY, TAG)
    found = descriptor.id if descriptor is not None else _put_root(layout, cache, starter_lock().cutoff, platform, report, _nothing)
    return _read_root(layout, found, platform, cache, report)


def lock_starter(layout: LayoutStore, cache: Path, platform: Platform, cutoff: str, report: Callable[[str], None]) -> Lock:
    """Resolve JupyterLab anew on today's Debian and write :data:`LOCKFILE` (for this program's developers)."""
    digest = _put_root(layout, cache, cutoff, platform, report, _nothing)
    root = _read_root(layout, digest, platform, cache, report)
    request = LockRequest(
        team="starter",
        base=root,
        requirements=REQUIREMENTS,
        local_packages=(),
        indexes=(default_index(),),
        cutoff=cutoff,
        explicit_cutoff=False,
        root=_FOLDER,
        cache=cache,
        report=report,
    )
    lock = compile_lock(request)
    write_lock(LOCKFILE, lock)
    return lock


def build_starter(
    layout: LayoutStore,
    cache: Path,
    platform: Platform,
    report: Callable[[str], None],
    jobs: Jobs,
    *,
    rebuild: bool = False,
    meanwhile: Callable[[], object] = _nothing,
) -> Digest:
    """The starter base's manifest digest. Built when the layout has none of this program's lock; ``rebuild``: for newer Debian packages.

    ``meanwhile`` is called, if it is built, while Debian is fetched and unpacked, which leaves network and a processor free.
    """
    if not rebuild and (digest := find_starter(layout)) is not None and is_current(layout, digest):
        return digest
    with exclusive(cache / "starter.lock"):
        digest = find_starter(layout)
        if not rebuild and digest is not None and is_current(layout, digest):  # another run made it while this one waited
            return digest
        if not rebuild and digest is not None:
            report("base starter: this imagebuild brings a newer lock of it; it is built anew, and its teams are locked on it")
        lock = starter_lock()

        def fetch() -> None:
            fetch_wheels(lock, lambda: (default_index(),), cache, {}, report)
            meanwhile()

        root = _read_root(layout, _put_root(layout, cache, lock.cutoff, platform, report, fetch), platform, cache, report)
        if root.inventory.fingerprint != lock.base_fingerprint:
            raise LockError(
                f"Debian {SUITE} now gives Python {root.interpreter.version}, and the starter's lock was made for {lock.python}",
                "install a newer imagebuild, or, working on imagebuild itself, run: imagebuild base build starter --relock",
            )
        wheels = fetch_wheels(lock, lambda: (default_index(),), cache, {}, report)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-starter-") as folder:
            made = build_layers(
                [(wheels[item.name], item) for item in lock.packages],
                base=root,
                codec=_CODEC,
                cache=cache,
                extra=(),
                mtime=LAYER_MTIME,
                jobs=jobs,
                out=Path(folder, "layer"),
                report=report,
            )
            image = _derive(root, lock, made)
            for descriptor, layer in zip(image.layers, made.layers, strict=True):
                layout.put_blob(REPOSITORY, descriptor, layer.file)
        layout.put_blob(REPOSITORY, image.config_descriptor, image.config)
        return layout.put_manifest(REPOSITORY, image.manifest, TAG)


def _derive(root: Base, lock: Lock, made: TeamLayers) -> DerivedImage:
    """Config and manifest of Debian with the starter's layer on it."""
    annotations = {
        names.CREATED: lock.cutoff,
        names.TITLE: "Starter: JupyterLab on Debian",
        names.BASE_NAME: root.reference,
        names.BASE_DIGEST: str(root.pinned),
        names.PYTHON: root.interpreter.version,
        names.LOCK: lock_digest(lock),
    }
    return derive_image(
        root.manifest,
        root.config_data,
        made,
        created=lock.cutoff,
        created_by=f"imagebuild base build starter ({len(lock.packages)} wheels)",
        environment={},
        labels=annotations,
        annotations=annotations,
    )
