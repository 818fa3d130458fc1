"""What travels with an image, read by tools nobody here wrote: oras, crane, cosign, CycloneDX's own validator."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imagebuild.oci.model import Digest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers
from imagebuild.oci.registry import RegistryStore
from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.workspaces import Built, Checkout, read_companions, run_tool

pytestmark = pytest.mark.integration

TYPES = [
    "application/vnd.cyclonedx+json",
    "application/vnd.imagebuild.lock.v1+toml",
    "application/vnd.imagebuild.recipe.v1+json",
    "application/vnd.in-toto+json",
]


@dataclass(frozen=True)
class Pushed:
    """The example team's image in a registry without the referrers API."""

    checkout: Checkout
    registry: Registry
    result: dict[str, Any]

    @property
    def digest(self) -> str:
        return str(self.result["digest"])

    @property
    def name(self) -> str:
        return f"{self.registry.host}/companions/cosml"


@pytest.fixture(scope="module")
def pushed(built: Built, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Pushed:
    checkout = built.checkout.fork(tmp_path_factory.mktemp("companions"))
    return Pushed(checkout, hub, checkout.image("cosml", "--registry", f"{hub.host}/companions", "--copy-base"))


def discover(*arguments: str) -> list[dict[str, Any]]:
    """What `oras discover` lists, by artifact type."""
    found: list[dict[str, Any]] = json.loads(run_tool("oras", "discover", "--format", "json", *arguments))["referrers"]
    return sorted(found, key=lambda item: str(item["artifactType"]))


def test_oras_finds_them_in_the_folder_and_in_the_registry(built: Built, pushed: Pushed) -> None:
    assert pushed.digest == built.image.digest  # they change nothing about the image
    in_folder = discover("--oci-layout", f"{built.checkout.layout}@{built.image.digest}")
    in_registry = discover("--plain-http", f"{pushed.name}@{pushed.digest}")
    assert [item["artifactType"] for item in in_folder] == [item["artifactType"] for item in in_registry] == TYPES
    # Lock and recipe are the same wherever they go; SBOM and provenance name the repository.
    assert [item["digest"] for item in in_folder[1:3]] == [item["digest"] for item in in_registry[1:3]]


def read_blob(pushed: Pushed, artifact_type: str) -> bytes:
    (manifest,) = [
        item for item in read_companions(pushed.registry, "companions/cosml", pushed.digest) if item["artifactType"] == artifact_type
    ]
    (blob,) = manifest["layers"]
    assert blob["mediaType"] == artifact_type
    assert manifest["subject"]["digest"] == pushed.digest
    return run_tool("crane", "blob", "--insecure", f"{pushed.name}@{blob['digest']}")


def test_crane_reads_what_they_say(built: Built, pushed: Pushed) -> None:
    assert read_blob(pushed, TYPES[1]) == (built.checkout.root / "lockfiles" / "pylock.cosml.toml").read_bytes()
    assert Digest.of(read_blob(pushed, TYPES[2])) == built.image.manifest["annotations"]["dev.imagebuild.key"]
    bom = read_blob(pushed, TYPES[0]).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bom) is None
    found = {
        (item["name"], item["version"])
        for item in json.loads(bom)["components"]
        if item.get("purl", "").startswith(("pkg:pypi", "pkg:generic"))
    }
    # Against the metadata folders of both layers, read with tarfile.
    installed = set()
    for image in (built.base, built.image):
        for index in range(len(image.layers)) if image is built.base else (-1,):
            for path, (_, content) in image.read_layer(index).items():
                if path.endswith(".dist-info/METADATA") and path.split("/")[-3] == "dist-packages":  # not what bleach vendors
                    head = dict(
                        line.split(": ", 1)
                        for line in content.decode().split("\n\n")[0].splitlines()
                        if line.startswith(("Name: ", "Version: "))
                    )
                    installed.add((head["Name"].lower().replace("_", "-").replace(".", "-"), head["Version"]))
    assert found == installed
    statement = json.loads(read_blob(pushed, TYPES[3]))
    assert statement["subject"][0]["digest"]["sha256"] == pushed.digest.removeprefix("sha256:")


def test_the_tag_is_the_last_thing_pushed_and_the_catalogue_stays_clean(pushed: Pushed) -> None:
    listed = run_tool("crane", "ls", "--insecure", pushed.name).decode().split()
    assert sorted(listed) == sorted([pushed.result["tag"], pushed.digest.replace(":", "-")])
    listing = json.loads(
        pushed.checkout.run("catalogue", "--format", "json", "--registry", f"{pushed.registry.host}/companions").succeeded().out
    )
    assert [item["tag"] for item in listing["entries"]] == [pushed.result["tag"]]
    assert listing["foreign"] == 0


def test_cosign_signs_and_verifies_it_and_both_lists_survive(pushed: Pushed, tmp_path: Path) -> None:
    cosign = need("cosign")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "COSIGN_PASSWORD": "", "DOCKER_CONFIG": str(tmp_path)}

    def run(*arguments: str) -> str:
        done = subprocess.run([cosign, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    name, plain = f"{pushed.name}@{pushed.digest}", ("--allow-http-registry", "--allow-insecure-registry")
    run("generate-key-pair")
    run("sign", "--yes", "--key", "cosign.key", "--tlog-upload=false", "--use-signing-config=false", *plain, name)
    verify = ("verify", "--key", "cosign.pub", "--insecure-ignore-tlog=true", *plain)
    (claim,) = json.loads(run(*verify, name))
    assert claim["critical"]["image"]["docker-manifest-digest"] == pushed.digest
    assert [item["artifactType"] for item in discover("--plain-http", name) if item["artifactType"] in TYPES] == TYPES
    # Another of ours after the signature: the signature stays.
    store = RegistryStore(pushed.registry.host)
    raw = store.get_manifest("companions/cosml", pushed.digest)
    assert raw is not None
    before = list_referrers(store, "companions/cosml", raw.digest)
    attach_artifacts(store, "companions/cosml", raw.descriptor, [Artifact("application/vnd.example.note", "text/plain", b"note")])
    assert [item.descriptor.digest for item in list_referrers(store, "companions/cosml", raw.digest)][:-1] == [
        item.descriptor.digest for item in before
    ]
    assert json.loads(run(*verify, name))
    assert pushed.checkout.run("catalogue", "--registry", f"{pushed.registry.host}/companions").code == 0


def test_writers_at_once_lose_nothing_in_a_real_registry(pushed: Pushed) -> None:
    store = RegistryStore(pushed.registry.host)
    raw = store.get_manifest("companions/cosml", pushed.digest)
    assert raw is not None
    notes = [Artifact("application/vnd.example.writer", "text/plain", b"%d" % number) for number in range(4)]
    threads = [
        threading.Thread(target=attach_artifacts, args=(RegistryStore(pushed.registry.host), "companions/cosml", raw.descriptor, [note]))
        for note in notes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = discover("--plain-http", "--artifact-type", "application/vnd.example.writer", f"{pushed.name}@{pushed.digest}")
    assert len(found) == len(notes)


def test_oras_and_imagebuild_read_what_the_other_attached(pushed: Pushed, built: Built, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("a note")
    layout = pushed.checkout.layout
    command = [
        need("oras"),
        "attach",
        "--oci-layout",
        f"{layout}@{built.image.digest}",
        "--artifact-type",
        "application/vnd.example.oras",
        "note.txt",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    from imagebuild.oci.layout import LayoutStore

    found = list_referrers(LayoutStore(layout), "cosml", Digest(built.image.digest))
    assert sorted(item.artifact_type for item in found) == sorted([*TYPES, "application/vnd.example.oras"])
    assert pushed.checkout.run("catalogue").code == 0


def test_a_registry_that_serves_no_referrers_api_is_what_this_was_tested_on(pushed: Pushed) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://{pushed.registry.host}/v2/companions/cosml/referrers/{pushed.digest}")
    assert error.value.code == 404
    error.value.close()


def test_a_registry_that_takes_no_artifacts(built: Built, hub: Registry, tmp_path: Path) -> None:
    """Whoever must push there leaves them out; else no tag is pushed without them."""
    from tests.support.servers.faulty import Fault, FaultyRegistry

    checkout = built.checkout.fork(tmp_path / "checkout")
    with FaultyRegistry(hub).serve() as proxy:
        proxy.faults = [Fault("/v2/refused/cosml/manifests/sha256-", 400)]
        target = ("--registry", f"{proxy.host}/refused", "--copy-base")
        done = checkout.run("image", "cosml", *target)
        done.refused(6, "what travels with the image was not taken, and so its tag was not pushed: .*HTTP 400", hint="--no-companions")
        assert RegistryStore(hub.host).head_manifest("refused/cosml", built.tag) is None
        result = checkout.image("cosml", *target, "--no-companions")
    assert run_tool("crane", "ls", "--insecure", f"{hub.host}/refused/cosml").decode().split() == [result["tag"]]
