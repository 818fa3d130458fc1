"""The catalogue is what was pushed: each tag becomes an entry, is counted as foreign, or stops the listing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.catalogue.entries import CatalogueEntry, encode_entries, find_reference, read_catalogue
from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_ZSTD, OCI_MANIFEST, Digest, RawManifest


def describe_image(team: str = "cosml", quarter: str = "2026q4", created: str = "2026-10-01T00:00:00Z", **more: str) -> dict[str, str]:
    return {
        names.FORMAT: "1",
        names.TEAM: team,
        names.QUARTER: quarter,
        names.CREATED: created,
        names.KIND: "jupyter",
        **{getattr(names, key): value for key, value in more.items()},
    }


def make_manifest(notes: dict[str, str] | None, media_type: str = OCI_MANIFEST) -> RawManifest:
    layer = {"mediaType": OCI_LAYER_ZSTD, "digest": Digest.of(b"layer"), "size": 1000}
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": media_type}
    if media_type == OCI_INDEX:
        document["manifests"] = []
    else:
        document |= {"config": {"mediaType": OCI_CONFIG, "digest": Digest.of(b"config"), "size": 50}, "layers": [layer, layer]}
    if notes is not None:
        document["annotations"] = notes
    return RawManifest(json.dumps(document).encode(), media_type)


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore(tmp_path / "registry")


def push(store: LayoutStore, repository: str, tag: str, notes: dict[str, str] | None) -> Digest:
    return store.put_manifest(repository, make_manifest(notes), tag)


def test_an_entry_says_what_the_manifest_says(store: LayoutStore) -> None:
    notes = describe_image(
        TITLE="Consumer science",
        DESCRIPTION="pandas and friends",
        BASE="starter",
        BASE_NAME="registry.example/starter:1",
        BASE_DIGEST=Digest.of(b"base"),
        PORT="8888",
        PYTHON="3.11.2",
        PACKAGES='{"scikit-learn": "1.5.2", "pandas": "2.2.3"}',
        OWNERS='["ann@example.org"]',
        DELTA_COMPRESSED="1000",
        DELTA_INSTALLED="4000",
    )
    digest = push(store, "cosml", "2026q4-0123456789ab", notes)
    assert read_catalogue(store).entries == (
        CatalogueEntry(
            team="cosml",
            quarter="2026q4",
            tag="2026q4-0123456789ab",
            digest=digest,
            created="2026-10-01T00:00:00Z",
            kind="jupyter",
            image=f"oci:{store.folder}:cosml",
            repository="cosml",
            current=True,
            title="Consumer science",
            description="pandas and friends",
            base="starter",
            base_name="registry.example/starter:1",
            base_digest=Digest.of(b"base"),
            port=8888,
            python="3.11.2",
            packages={"pandas": "2.2.3", "scikit-learn": "1.5.2"},
            owners=("ann@example.org",),
            delta_compressed=1000,
            delta_installed=4000,
            size=2050,
            status="current",
            tags=("2026q4-0123456789ab",),
        ),
    )


def test_what_is_no_team_image_is_left_out_and_counted(store: LayoutStore) -> None:
    digest = push(store, "cosml", "2026q4-0123456789ab", describe_image())
    push(store, "cosml", "handmade", None)
    push(store, "bases/starter", "1", {names.FORMAT: "1"})  # ours, and nobody's team image
    push(store, "cosml", digest.replace(":", "-"), describe_image())  # where referrers are listed: neither read nor counted
    push(store, "cosml", digest.replace(":", "-") + ".sig", describe_image())
    store.put_manifest("cosml", make_manifest(None, OCI_INDEX), "many-platforms")
    listing = read_catalogue(store)
    assert [entry.tag for entry in listing.entries] == ["2026q4-0123456789ab"]
    assert listing.foreign == 3


def test_the_newest_is_current_by_time_then_quarter_then_tag(store: LayoutStore) -> None:
    push(store, "cosml", "2026q4-b", describe_image(created="2026-10-01T00:00:00Z"))
    push(store, "cosml", "2026q4-a", describe_image(created="2026-10-01T01:30:00+02:00"))  # earlier, and the greater text
    push(store, "risk", "2026q3-z", describe_image("risk", "2026q3"))
    push(store, "risk", "2026q4-a", describe_image("risk", "2026q4"))
    push(store, "search", "2026q4-a", describe_image("search", PYTHON="3.11"))
    push(store, "search", "2026q4-b", describe_image("search", PYTHON="3.12"))
    listing = read_catalogue(store)
    assert [(entry.team, entry.tag, entry.current) for entry in listing.entries] == [
        ("cosml", "2026q4-b", True),
        ("cosml", "2026q4-a", False),
        ("risk", "2026q4-a", True),
        ("risk", "2026q3-z", False),
        ("search", "2026q4-b", True),
        ("search", "2026q4-a", False),
    ]
    assert listing.undecided == ("search",)  # nothing but the tag's letters decided


def test_two_tags_of_one_image_are_no_doubt(store: LayoutStore) -> None:
    push(store, "cosml", "2026q4-a", describe_image())
    push(store, "cosml", "paper", describe_image())
    assert read_catalogue(store).undecided == ()


def test_a_namespace_is_whole_path_parts(store: LayoutStore) -> None:
    push(store, "ml/cosml", "2026q4-a", describe_image())
    push(store, "ml2/risk", "2026q4-a", describe_image("risk"))
    assert [entry.repository for entry in read_catalogue(store, "ml").entries] == ["ml/cosml"]
    assert [entry.repository for entry in read_catalogue(store, "/ml/").entries] == ["ml/cosml"]
    assert len(read_catalogue(store).entries) == 2


def test_teams_replace_the_list_of_repositories(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(prefix: str = "") -> None:
        raise RemoteError(f"no catalogue to list {prefix}", "name the teams")

    monkeypatch.setattr(store, "list_repositories", refuse)
    push(store, "ml/cosml", "2026q4-a", describe_image())
    push(store, "ml/risk", "2026q4-a", describe_image("risk"))
    assert [entry.team for entry in read_catalogue(store, teams=["ml/cosml", "ml/never-pushed"]).entries] == ["cosml"]
    with pytest.raises(RemoteError):
        read_catalogue(store, "ml")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"KIND": "emacs"}, "kind"),
        ({"PORT": "many"}, "port"),
        ({"PACKAGES": '["pandas"]'}, "packages"),
        ({"DELTA_COMPRESSED": "1e99x"}, "delta.compressed"),
        ({"CREATED": "last week"}, "created"),
        ({"CREATED": "2026-10-01T00:00:00"}, "created"),
        ({"FORMAT": "2"}, "format"),
    ],
)
def test_an_image_of_ours_that_makes_no_sense_is_an_error(store: LayoutStore, change: dict[str, str], word: str) -> None:
    push(store, "cosml", "2026q4-a", describe_image(**change))
    with pytest.raises(IntegrityError, match=word) as caught:
        read_catalogue(store)
    assert "cosml:2026q4-a" in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("missing", [names.QUARTER, names.CREATED, names.KIND])
def test_a_missing_annotation_is_named(store: LayoutStore, missing: str) -> None:
    notes = describe_image()
    del notes[missing]
    push(store, "cosml", "2026q4-a", notes)
    with pytest.raises(IntegrityError, match=missing):
        read_catalogue(store)


def test_a_manifest_that_cannot_be_read_is_never_skipped(store: LayoutStore) -> None:
    push(store, "cosml", "2026q4-a", describe_image())
    digest = push(store, "cosml", "2026q4-b", describe_image(PYTHON="3.12"))
    blob = store.folder / "blobs" / "sha256" / digest.hex
    blob.write_bytes(b"{}")
    with pytest.raises(IntegrityError):
        read_catalogue(store)
    blob.unlink()
    with pytest.raises(RemoteError, match="2026q4-b was listed and no longer exists"):
        read_catalogue(store)


def test_json_is_stable_and_complete(store: LayoutStore) -> None:
    for number in range(20):
        team = f"team{number % 3}"
        push(store, team, f"2026q4-{number:02}", describe_image(team, created=f"2026-10-01T00:00:{number:02}Z"))
    encoded = encode_entries(read_catalogue(store))
    assert encoded == encode_entries(read_catalogue(store))
    document = json.loads(encoded)
    assert list(document) == ["entries", "foreign", "format", "undecided"]
    assert document["format"] == 1
    assert {tuple(entry) for entry in document["entries"]} == {tuple(sorted(CatalogueEntry.__struct_fields__))}
    assert [entry["tag"] for entry in document["entries"] if entry["current"]] == ["2026q4-18", "2026q4-19", "2026q4-17"]


def test_an_empty_store_has_an_empty_catalogue(store: LayoutStore) -> None:
    assert json.loads(encode_entries(read_catalogue(store))) == {"entries": [], "foreign": 0, "format": 1, "undecided": []}


def test_a_folder_has_no_name_to_pull_by(store: LayoutStore) -> None:
    push(store, "cosml", "2026q4-a", describe_image())
    (entry,) = read_catalogue(store).entries
    with pytest.raises(ConfigurationError) as caught:
        find_reference(entry)
    assert "--registry" in caught.value.hint
    assert str(find_reference(entry, "registry.example:5000/ml/")) == f"registry.example:5000/ml/cosml:2026q4-a@{entry.digest}"
    mirrored = msgspec.structs.replace(entry, image="registry.example/notebooks/cosml", repository="notebooks/cosml")
    assert str(find_reference(mirrored, "mirror.example")) == f"mirror.example/notebooks/cosml:2026q4-a@{entry.digest}"
    assert str(find_reference(mirrored, "harbor.example/up")) == f"harbor.example/up/notebooks/cosml:2026q4-a@{entry.digest}"
    with pytest.raises(ConfigurationError):
        find_reference(entry, "Registry Example")
