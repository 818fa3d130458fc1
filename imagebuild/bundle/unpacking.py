"""Using a bundle: every file verified on its way to where the pipeline looks for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imagebuild.addons.archives import archive_path
from imagebuild.base.cache import hold_base, pin_path, store_folder
from imagebuild.base.pins import load_catalogue
from imagebuild.bundle.model import Bundle, BundleManifest
from imagebuild.dockerfile import ADDONS_FOLDER
from imagebuild.errors import IntegrityError
from imagebuild.files import explain_os_error, scratch_folder, write_atomic
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.wheels.fetching import is_cached
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Descriptor, Digest, Manifest, Platform, RawManifest
from imagebuild.workspace import Workspace


@contextlib.contextmanager
def open_bundle(workspace: Workspace, folder: Path, expected: str = "") -> Iterator[BundleManifest]:
    """Within the block ``workspace`` is offline, and its images/ and lockfiles/, the base and the wheels are the bundle's.

    ``expected``: the bundle's digest, where it is known. ``[mirrors]`` stay those of the site's own catalogue, if it has one.
    """
    bundle = Bundle(folder, expected)
    manifest = bundle.manifest
    workspace.prepare()
    own = workspace.root / "images" / "catalogue.toml"
    if own.is_file():
        workspace.mirrors = load_catalogue(own).mirrors
    workspace.report(f"bundle {bundle.digest}: team {manifest.team}, {len(manifest.files)} files")
    with scratch_folder(workspace.state) as scratch:
        try:
            bundle.copy_tree("project", scratch / "project")
            unpack_wheels(bundle, workspace.cache)
            unpack_base(bundle, workspace.cache)
            unpack_layers(bundle, workspace.layout, scratch)
        except OSError as error:
            raise explain_os_error(error, "unpacking the bundle") from None
        workspace.offline = True
        workspace.adopt(scratch / "project")
        if manifest.base.layers:
            workspace.bundled_base = (manifest.base.name, Digest(manifest.base.pinned))
        yield manifest


def unpack_wheels(bundle: Bundle, cache: Path) -> None:
    """The wheels and the archives of add-ons, into their caches."""
    for name, file in bundle.list_files(f"wheels/{ADDONS_FOLDER}").items():
        bundle.copy_file(f"wheels/{ADDONS_FOLDER}/{name}", archive_path(cache, file.sha256, name))
    for name, file in bundle.list_files("wheels").items():
        if name.endswith(".whl") and "/" not in name:
            path = wheel_cache_path(cache, file.sha256, name)
            if not is_cached(path, file.sha256):
                bundle.copy_file(f"wheels/{name}", path)


def unpack_base(bundle: Bundle, cache: Path) -> None:
    """What was read of the base, into the cache of bases, unless it is there; and what its pin stands for."""
    base = bundle.manifest.base
    digest, bases = Digest(base.digest), cache / "bases"
    with hold_base(bases, digest):
        if not (bases / digest.hex / "facts.json").is_file():
            store_folder(bases, digest, lambda aside: bundle.copy_tree("base", aside))
    write_atomic(pin_path(bases, Digest(base.pinned), Platform.parse(base.platform)), f"{digest} {base.media_type}\n".encode())


def unpack_layers(bundle: Bundle, layout: LayoutStore, scratch: Path) -> None:
    """The base's manifest, config and layers, where the bundle has them, into the layout folder; no tag is moved."""
    base = bundle.manifest.base
    if not base.layers:
        return
    bundle.copy_file("base/manifest.json", scratch / "manifest.json")
    raw = RawManifest((scratch / "manifest.json").read_bytes(), base.media_type)
    manifest = raw.parse()
    if raw.digest != base.digest or not isinstance(manifest, Manifest):
        raise IntegrityError("the bundle's base is not the one that its manifest names", "get the bundle again; nothing was built")
    for descriptor in (manifest.config, *manifest.layers):
        _unpack_blob(bundle, layout, base.repository, descriptor, scratch)
    layout.put_manifest(base.repository, raw)


def _unpack_blob(bundle: Bundle, layout: LayoutStore, repository: str, descriptor: Descriptor, scratch: Path) -> None:
    known = layout.local_file(descriptor.id)
    if known is not None and known.stat().st_size == descriptor.size:
        return
    bundle.copy_file(f"layers/{descriptor.id.hex}", scratch / descriptor.id.hex)
    layout.put_blob(repository, descriptor, scratch / descriptor.id.hex)
