"""A base that travels in a bundle: what comes out at the other site is what was read here."""

from __future__ import annotations

from pathlib import Path

from imagebuild.base.cache import load_base, read_pin
from imagebuild.bundle.model import FORMAT, NAME, Bundle, BundleManifest
from imagebuild.bundle.packing import Packing, describe_base, pack_layers
from imagebuild.bundle.unpacking import unpack_base, unpack_layers
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Platform
from tests.support.images import REPOSITORY, entry, make_layer, push_image, read_image


def test_a_base_comes_out_as_it_was_read(tmp_path: Path) -> None:
    store, cache = LayoutStore(tmp_path / "layout"), tmp_path / "cache"
    raw = push_image(store, [make_layer([entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")])])
    base = read_image(store, raw, cache)
    packing = Packing(tmp_path / "bundle")
    packing.folder.mkdir()
    packing.add_folder("base", cache / "bases" / raw.digest.hex)
    pack_layers(packing, base, store, lambda _: None)
    manifest = BundleManifest(FORMAT, "cosml", "2026q4-0", "direct", describe_base(base, with_layers=True), packing.files)
    (packing.folder / NAME).write_bytes(manifest.encode())

    bundle, other, layout = Bundle(packing.folder), tmp_path / "other", LayoutStore(tmp_path / "registry")
    (tmp_path / "scratch").mkdir()
    for _ in range(2):  # the second time it is there
        unpack_base(bundle, other)
        unpack_layers(bundle, layout, tmp_path / "scratch")
    assert read_pin(other / "bases", base.pinned, Platform()) == (raw.digest, raw.media_type)
    found = load_base(other / "bases", Digest(raw.digest), raw.media_type)
    assert found is not None
    assert (found.inventory, found.config_data) == (base.inventory, base.config_data)
    again = read_image(layout, raw, tmp_path / "third")  # from the layers that travelled
    assert again.manifest == base.manifest
    assert base.repository == REPOSITORY
    assert not list((other / "bases").glob(".tmp-*"))
