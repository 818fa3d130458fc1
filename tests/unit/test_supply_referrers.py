"""The lock and the recipe that travel with an image are those that the image's own annotations prove."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path

import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.layer.model import Codec
from imagebuild.lock.file.lockfile import decode_lock, lock_digest
from imagebuild.lock.file.model import Lock
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, Digest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts
from imagebuild.recipe import ImageOptions, Recipe, make_recipe
from imagebuild.supply.referrers import LOCK_TYPE, make_lock_artifact, make_recipe_artifact, read_image_lock, read_image_recipe
from tests.support.builders import make_base, make_lock, make_package


@pytest.fixture
def lock() -> Lock:
    return make_lock(make_base(), make_package("pandas", "2.2.3"))


def make_image_recipe(lock: Lock) -> Recipe:
    return make_recipe(
        make_base(),
        lock,
        lock_digest(lock),
        ImageOptions(
            engine="direct",
            codec=Codec(),
            environment={"A": "1"},
            personal_constraints=True,
            title="Consumer science",
            description="",
            owners=("ann@example.org",),
        ),
    )


def push(store: LayoutStore, notes: dict[str, str]) -> RawManifest:
    config = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [], "annotations": notes}
    image = RawManifest(json.dumps(document).encode(), OCI_MANIFEST)
    store.put_manifest("cosml", image, "1")
    return image


def test_lock_and_recipe_come_back_as_they_were(tmp_path: Path, lock: Lock) -> None:
    store, recipe = LayoutStore(tmp_path), make_image_recipe(lock)
    image = push(store, recipe.labels)
    assert read_image_lock(store, "cosml", image.digest) is None
    attach_artifacts(store, "cosml", image.descriptor, [make_lock_artifact(lock), make_recipe_artifact(recipe)])
    assert read_image_lock(store, "cosml", image.digest) == lock
    assert read_image_recipe(store, "cosml", image.digest) == recipe


def test_lock_and_recipe_are_attached_as_files_whose_digests_the_image_has(lock: Lock) -> None:
    """What another tool sees of them: a type, a title, a time, and bytes that hash to the image's own annotations."""
    recipe = make_image_recipe(lock)
    found = make_lock_artifact(lock)
    assert (found.artifact_type, found.media_type) == ("application/vnd.imagebuild.lock.v1+toml",) * 2
    assert found.annotations == {"org.opencontainers.image.created": "2026-10-01T00:00:00Z"}
    assert found.blob_annotations == {"org.opencontainers.image.title": "pylock.cosml.toml"}
    assert [package["name"] for package in tomllib.loads(found.data.decode())["packages"]] == ["pandas"]
    assert recipe.labels["dev.imagebuild.lock"] == lock_digest(decode_lock(found.data, "the lock attached"))
    found = make_recipe_artifact(recipe)
    assert (found.artifact_type, found.media_type) == ("application/vnd.imagebuild.recipe.v1+json",) * 2
    assert found.blob_annotations == {"org.opencontainers.image.title": "recipe.json"}
    assert recipe.labels["dev.imagebuild.key"] == "sha256:" + hashlib.sha256(found.data).hexdigest()


def test_a_lock_that_the_image_does_not_name_is_passed_over(tmp_path: Path, lock: Lock) -> None:
    store, recipe = LayoutStore(tmp_path), make_image_recipe(lock)
    image = push(store, recipe.labels)
    forged = msgspec.structs.replace(lock, packages=(make_package("pandas", "6.6.6"),))
    garbage = Artifact(LOCK_TYPE, LOCK_TYPE, b"\xff not TOML")
    attach_artifacts(store, "cosml", image.descriptor, [make_lock_artifact(forged), garbage])
    assert read_image_lock(store, "cosml", image.digest) is None
    attach_artifacts(store, "cosml", image.descriptor, [make_lock_artifact(lock)])
    assert read_image_lock(store, "cosml", image.digest) == lock
    changed = msgspec.structs.replace(recipe, engine="docker")
    attach_artifacts(store, "cosml", image.descriptor, [make_recipe_artifact(changed)])
    assert read_image_recipe(store, "cosml", image.digest) is None


def test_an_image_that_names_no_lock_has_none(tmp_path: Path, lock: Lock) -> None:
    store = LayoutStore(tmp_path)
    image = push(store, {names.TEAM: "cosml"})
    attach_artifacts(store, "cosml", image.descriptor, [make_lock_artifact(lock)])
    assert read_image_lock(store, "cosml", image.digest) is None
    assert read_image_lock(store, "cosml", Digest.of(b"no image")) is None
