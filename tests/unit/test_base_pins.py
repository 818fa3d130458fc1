"""The catalogue of bases: what is accepted, what is refused, and pins that keep the file as it was."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

from imagebuild.base.pins import load_catalogue, pin_base, require_pinned, resolve_pin
from imagebuild.errors import ConfigurationError, RemoteError, UsageError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest, Reference
from tests.support.images import REPOSITORY, make_layer, push_image

SHIPPED = Path(__file__).parents[2] / "images" / "catalogue.toml"
PIN = Digest("sha256:" + "ab" * 32)
TEXT = """\
# the bases
[base.one] # first
reference = "ghcr.io/team/one"   # where
tag = "v1"      # moving
kind = "jupyter"

# about two
[base.two]
reference = "quay.io/two"
digest = "sha256:%s"
kind = "vscode"

[mirrors]
"ghcr.io" = "registry.corp.example/ghcr"
"ghcr.io/team" = "fast.example:5000"
"ghcr.io/te" = "wrong.example"
""" % ("cd" * 32)


def write(folder: Path, text: str = TEXT) -> Path:
    path = folder / "catalogue.toml"
    path.write_text(text)
    return path


def test_shipped_catalogue_has_the_bases_and_only_known_pins() -> None:
    catalogue = load_catalogue(SHIPPED)
    assert {name: base.digest for name, base in catalogue.bases.items() if base.reference.registry == "ghcr.io"} == {
        "jupyter-scipy": "sha256:8f8a000b7eece82c7e874924dc45a3922e9197137eefe67f55c711cc3ce068fd",
        "jupyter-pytorch-full": None,
        "jupyter-pytorch-cuda-full": "sha256:55f6abbe52112317570b9cd10967bc8e4dc724eaff7030bc92d97a2e097dce84",
        "jupyter-tensorflow-full": None,
        "jupyter-tensorflow-cuda-full": None,
        "codeserver-python": None,
        "rstudio-tidyverse": None,
    }
    hub = [base for base in catalogue.bases.values() if base.reference.registry == "quay.io"]
    assert len(hub) == 5
    assert all(base.digest for base in hub)
    assert catalogue.get("starter").build == "starter"


def test_mirrors_longest_prefix_at_a_slash_wins_and_the_name_stays(tmp_path: Path) -> None:
    catalogue = load_catalogue(write(tmp_path))
    one = catalogue.get("one")
    assert one.located(catalogue.mirrors) == Reference("fast.example:5000", "one", "v1")
    assert str(one.located({"ghcr.io": "registry.corp.example/ghcr"})) == "registry.corp.example/ghcr/team/one:v1"
    assert one.located({"ghcr.i": "x.example"}) == one.reference
    assert one.annotation_name == "ghcr.io/team/one:v1"
    assert catalogue.get("two").located(catalogue.mirrors).digest == "sha256:" + "cd" * 32


def test_unknown_base_suggests() -> None:
    with pytest.raises(UsageError) as caught:
        load_catalogue(SHIPPED).get("jupyter-scypi")
    assert "jupyter-scipy" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[base.a]\nreference = "r.example/a"\ntag = "1"\ndigst = ""\n', "digest"),
        ('[bases.a]\nreference = "r.example/a"\n', "base"),
        ('[base.a]\ntag = "1"\n', "reference"),
        ('[base.a]\nreference = "r.example/a"\nbuild = "starter"\n', "reference"),
        ('[base.a]\nreference = "r.example/a:1"\n', "tag"),
        ('[base.a]\nreference = "r.example/a"\n', "tag"),
        ('[base.a]\nreference = "r.example/a"\ntag = "1"\ndigest = "sha256:12"\n', "digest"),
        ('[base.a]\nreference = "r.example/A"\ntag = "1"\n', "lower case"),
        ('[base.a]\nreference = "r.example/a"\ntag = "1"\nkind = "vim"\n', "formats"),
        ('[base."A b"]\nreference = "r.example/a"\ntag = "1"\n', "lower-case"),
        ('[mirrors]\n"ghcr.io" = "https://mirror.example"\n', "mirror"),
        ("[base.a\n", "line"),
    ],
)
def test_wrong_catalogues_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_catalogue(write(tmp_path, text))
    assert said in caught.value.message + caught.value.hint


def test_pin_adds_a_line_and_changes_no_other(tmp_path: Path) -> None:
    path = write(tmp_path)
    with pytest.raises(ConfigurationError, match="not pinned") as caught:
        require_pinned(load_catalogue(path).get("one"))
    assert caught.value.hint == "run: imagebuild base pin one"
    pin_base(path, "one", PIN)
    assert path.read_text() == TEXT.replace('tag = "v1"      # moving\n', f'tag = "v1"      # moving\ndigest = "{PIN}"\n')
    assert require_pinned(load_catalogue(path).get("one")) == PIN


def test_pin_replaces_a_digest(tmp_path: Path) -> None:
    path = write(tmp_path)
    pin_base(path, "two", PIN)
    assert path.read_text() == TEXT.replace("cd" * 32, "ab" * 32)


def test_pin_works_on_every_unpinned_shipped_base(tmp_path: Path) -> None:
    path = write(tmp_path, SHIPPED.read_text())
    for base in load_catalogue(SHIPPED).bases.values():
        if base.build:
            assert require_pinned(base) is None
            with pytest.raises(ConfigurationError, match="built here"):
                pin_base(path, base.name, PIN)
        elif base.digest is None:
            pin_base(path, base.name, PIN)
    pinned = load_catalogue(path)
    assert all(base.digest for base in pinned.bases.values() if not base.build)
    lines = [line for line in path.read_text().splitlines() if str(PIN) not in line]
    assert lines == SHIPPED.read_text().splitlines()
    assert tomllib.loads(path.read_text())["mirrors"] == {}


def test_resolve_pin_tells_absent_from_unknown(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    raw = push_image(store, [make_layer([])], tag="v1")
    reference = Reference("r.example", REPOSITORY)
    assert resolve_pin(store, reference, "v1") == raw.digest
    with pytest.raises(ConfigurationError, match="has no"):
        resolve_pin(store, reference, "v2")

    class Silent(LayoutStore):
        def head_manifest(self, repository: str, reference: str) -> NoReturn:  # noqa: ARG002
            raise RemoteError("it does not say")

    with pytest.raises(RemoteError):
        resolve_pin(Silent(tmp_path), reference, "v1")


def test_what_a_tag_names_is_read_before_it_is_pinned(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    reference = Reference("r.example", REPOSITORY)
    raw = push_image(store, [make_layer([])], tag="v1")

    class Lying(LayoutStore):
        def head_manifest(self, repository: str, reference: str) -> Descriptor:  # noqa: ARG002
            return Descriptor(OCI_MANIFEST, str(PIN), 100)

    assert resolve_pin(Lying(tmp_path), reference, "v1") == raw.digest
    with pytest.raises(ConfigurationError, match="has no"):
        resolve_pin(Lying(tmp_path), reference, "v2")


def _artifact(store: LayoutStore) -> bytes:
    config = b"{}"
    descriptor = Descriptor("application/vnd.oci.empty.v1+json", Digest.of(config), len(config))
    store.put_blob(REPOSITORY, descriptor, config)
    entry = {"mediaType": descriptor.media_type, "digest": descriptor.digest, "size": 2}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": entry, "layers": [entry]}).encode()


def _index(platform: dict[str, str] | None) -> bytes:
    entry = {"mediaType": OCI_MANIFEST, "digest": str(PIN), "size": 5, **({"platform": platform} if platform else {})}
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}).encode()


def test_what_runs_nowhere_is_not_pinned(tmp_path: Path) -> None:
    store, reference = LayoutStore(tmp_path), Reference("r.example", REPOSITORY)
    cases = {
        "artifact": RawManifest(_artifact(store), OCI_MANIFEST),
        "attestations": RawManifest(_index({"os": "unknown", "architecture": "unknown"}), OCI_INDEX),
        "bare": RawManifest(_index(None), OCI_INDEX),
    }
    for tag, raw in cases.items():
        store.put_manifest(REPOSITORY, raw, tag)
        with pytest.raises(ConfigurationError, match="for no platform"):
            resolve_pin(store, reference, tag)
    index = RawManifest(_index({"os": "linux", "architecture": "arm64"}), OCI_INDEX)
    store.put_manifest(REPOSITORY, index, "arm")
    assert resolve_pin(store, reference, "arm") == index.digest
