"""From a real registry to the form and the node: what is rendered is what another tool finds there."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.catalogue.entries import encode_entries, read_catalogue
from imagebuild.emit.forms.formats import FORMS, FormRequest, render_form
from imagebuild.emit.forms.kubeflow import render_spawner_form
from imagebuild.emit.prewarm.daemonsets import render_prewarm
from imagebuild.emit.prewarm.pools import load_pools
from imagebuild.errors import RemoteError
from imagebuild.oci.credentials import Credentials
from imagebuild.oci.model import OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.registry import RegistryStore
from imagebuild.oci.store import Store
from tests.support.servers.registry import Registry, run_registry
from tests.support.tools import need

pytestmark = pytest.mark.integration

yaml: Any = importlib.import_module("yaml")
ROOT = Path(__file__).parents[2]
Crane = Callable[..., str]


def push_image(store: Store, repository: str, tag: str, notes: dict[str, str]) -> Digest:
    """An image with one layer of nothing: what the catalogue reads is in the manifest."""
    layer = bytes(10240)
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [Digest.of(layer)]}}
    blobs = [(OCI_CONFIG, json.dumps(config).encode()), (OCI_LAYER_TAR, layer)]
    described = []
    for media_type, data in blobs:
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        store.put_blob(repository, descriptor, data)
        described.append({"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size})
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described[0], "layers": described[1:], "annotations": notes}
    return store.put_manifest(repository, RawManifest(json.dumps(document).encode(), OCI_MANIFEST), tag)


def describe_image(team: str, created: str, kind: str = "jupyter") -> dict[str, str]:
    return {
        names.FORMAT: "1",
        names.TEAM: team,
        names.QUARTER: "2026q4",
        names.CREATED: created,
        names.KIND: kind,
        names.TITLE: f"Team {team}",
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("catalogue")
    with run_registry(folder / "registry", login=True) as registry:
        yield registry, registry.write_docker_config(folder / "docker")


@pytest.fixture(scope="module")
def store(place: tuple[Registry, Path]) -> RegistryStore:
    registry, config = place
    return RegistryStore(registry.host, credentials=Credentials.load(config))


@pytest.fixture(scope="module")
def crane(place: tuple[Registry, Path]) -> Crane:
    binary = need("crane")

    def run(*arguments: str) -> str:
        environment = {**os.environ, "DOCKER_CONFIG": str(place[1])}
        return subprocess.run([binary, *arguments], check=True, capture_output=True, text=True, env=environment).stdout

    return run


@pytest.fixture(scope="module")
def images(store: RegistryStore, crane: Crane) -> dict[str, Digest]:
    """Three teams with images, and what else lies about in a registry."""
    pushed = {}
    for number in range(12):
        tag = f"2026q4-{number:012x}"
        pushed[f"cosml:{tag}"] = push_image(store, "ml/cosml", tag, describe_image("cosml", f"2026-10-01T00:00:{number:02}Z"))
    pushed["risk"] = push_image(store, "ml/risk", "2026q4-a", describe_image("risk", "2026-10-01T00:00:00Z"))
    pushed["apps"] = push_image(store, "ml/apps", "2026q4-a", describe_image("apps", "2026-10-01T00:00:00Z", "vscode"))
    push_image(store, "ml/notes", "1", {})
    push_image(store, "other/cosml", "2027q1-a", describe_image("cosml", "2027-01-01T00:00:00Z"))
    crane("copy", f"{store.label}/ml/notes:1", f"{store.label}/ml/cosml:handmade")
    crane("copy", f"{store.label}/ml/notes:1", f"{store.label}/ml/cosml:{pushed['risk'].replace(':', '-')}")
    return pushed


def test_the_catalogue_is_what_crane_finds(store: RegistryStore, images: dict[str, Digest], crane: Crane) -> None:
    listing = read_catalogue(store, "ml")
    repositories = [name for name in crane("catalog", store.label).split() if name.startswith("ml/")]
    tags = {f"{repository}:{tag}" for repository in repositories for tag in crane("ls", f"{store.label}/{repository}").split()}
    companions = {tag for tag in tags if ":sha256-" in tag}  # where referrers are listed
    assert len(companions) == 1
    assert len(listing.entries) + listing.foreign == len(tags - companions)
    assert {f"{entry.repository}:{entry.tag}" for entry in listing.entries} < tags
    assert listing.foreign == 2
    for entry in listing.entries:
        assert crane("digest", f"{entry.image}:{entry.tag}").strip() == entry.digest
        assert json.loads(crane("manifest", f"{entry.image}@{entry.digest}"))["annotations"][names.TITLE] == entry.title
    assert {entry.team: entry.digest for entry in listing.entries if entry.current} == {
        "apps": images["apps"],
        "cosml": images["cosml:2026q4-00000000000b"],
        "risk": images["risk"],
    }
    assert encode_entries(read_catalogue(store, "ml")) == encode_entries(listing)


@pytest.mark.usefixtures("images")
def test_named_repositories_alone(store: RegistryStore) -> None:
    listing = read_catalogue(store, teams=["ml/risk", "ml/never-pushed"])
    assert [(entry.team, entry.current) for entry in listing.entries] == [("risk", True)]


@pytest.mark.usefixtures("images")
def test_a_refused_listing_is_no_empty_one(place: tuple[Registry, Path]) -> None:
    anonymous = RegistryStore(place[0].host)
    with pytest.raises(RemoteError):
        read_catalogue(anonymous)
    with pytest.raises(RemoteError):
        read_catalogue(anonymous, teams=["ml/cosml"])


def test_the_form_and_the_nodes_name_images_that_are_there(store: RegistryStore, images: dict[str, Digest], crane: Crane) -> None:
    entries = read_catalogue(store, "ml").entries
    rendered = render_spawner_form(entries)
    form = yaml.safe_load(rendered.text)["spawnerFormDefaults"]
    assert len(rendered.warnings) == 1  # the registry has a port
    for key, expected in (("image", [images["cosml:2026q4-00000000000b"], images["risk"]]), ("imageGroupOne", [images["apps"]])):
        assert [crane("digest", option).strip() for option in form[key]["options"]] == expected

    # The committed pools, all teams instead of one.
    loaded = load_pools(ROOT / "images" / "pools.toml")
    pools = [msgspec.structs.replace(pool, teams=None) for pool in loaded.pools]
    text = render_prewarm(pools, entries, loaded.settings)
    documents = list(yaml.safe_load_all(text))
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    daemonsets = [document for document in documents if document["kind"] == "DaemonSet"]
    assert len(daemonsets) == 2
    for daemonset in daemonsets:
        references = [volume["image"]["reference"] for volume in daemonset["spec"]["template"]["spec"]["volumes"]]
        assert [crane("digest", reference).strip() for reference in references] == [
            images["apps"],
            images["cosml:2026q4-00000000000b"],
            images["risk"],
        ]


def test_every_reference_of_every_form_is_there(store: RegistryStore, images: dict[str, Digest], crane: Crane) -> None:
    entries = read_catalogue(store, "ml").entries
    pools = load_pools(ROOT / "images" / "pools.toml").pools
    for name in FORMS:
        text = render_form(name, FormRequest(entries, pools)).text
        found = {match[0] for match in re.finditer(rf"{re.escape(store.label)}/[^\s\"]+@sha256:[0-9a-f]{{64}}", text)}
        assert {reference.partition("@")[2] for reference in found} >= {images["cosml:2026q4-00000000000b"], images["risk"], images["apps"]}
        assert name == "kubeflow" or len(found) > 3  # what is no longer offered is in the others too
        for reference in found:
            assert crane("digest", reference).strip() == reference.partition("@")[2]
