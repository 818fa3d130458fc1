"""Names for good, finding an image, what was current then, and whether all of it is still there."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from unittest.mock import Mock

import pytest

from imagebuild import annotations as names
from imagebuild.catalogue.description import describe_entry, render_description
from imagebuild.catalogue.entries import read_catalogue
from imagebuild.catalogue.lookup import find_named_image
from imagebuild.catalogue.pinnedtags import keep_image
from imagebuild.catalogue.presence import check_presence
from imagebuild.catalogue.selection import find_entry
from imagebuild.commands.options import parse_moment
from imagebuild.emit.snippets import list_snippets
from imagebuild.errors import RemoteError, UsageError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_INDEX, Digest, RawManifest
from imagebuild.tagforms import count_quarters, is_companion, kept_tag
from imagebuild.workspace import Workspace
from tests.support.fleet import make_fleet, push_fleet, push_image


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "registry"
    push_fleet(LayoutStore(folder), make_fleet(3), "")
    return folder


@pytest.fixture
def store(pushed: Path, tmp_path: Path) -> LayoutStore:
    return LayoutStore(shutil.copytree(pushed, tmp_path / "registry"))


def test_every_image_says_what_it_is_and_what_came_after(store: LayoutStore) -> None:
    entries = [entry for entry in read_catalogue(store).entries if entry.team == "churn"]
    assert [entry.status for entry in entries] == ["current", "previous", *["retired"] * 6]
    assert [entry.successor for entry in entries] == ["", *(entry.tag for entry in entries[:-1])]
    assert all(entry.tags == (entry.tag,) for entry in entries)


def test_as_of_is_the_catalogue_of_that_day(store: LayoutStore) -> None:
    listing = read_catalogue(store, as_of=parse_moment("2026-03-31"))
    assert {(entry.team, entry.quarter) for entry in listing.entries if entry.current} == {
        ("churn", "2026q1"), ("pricing", "2026q1"), ("risk", "2026q1"),
    }  # fmt: skip
    assert max(entry.created for entry in listing.entries) < "2026-04"
    assert parse_moment("2026-03-31") == datetime.fromisoformat("2026-03-31T23:59:59Z")
    assert parse_moment("2026-03-31T12:00:00+02:00") == datetime.fromisoformat("2026-03-31T10:00:00Z")


def test_a_name_for_good(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    old = find_entry(listing, "churn@2025q3")
    assert keep_image(store, listing, old, "churn-q3")
    assert not keep_image(store, read_catalogue(store), old, "churn-q3")  # again: nothing to do
    listing = read_catalogue(store)
    kept = find_entry(listing, "churn-q3")
    assert (kept.digest, kept.tag, kept.status, kept.kept) == (old.digest, old.tag, "kept", ("churn-q3",))
    assert kept.tags == (old.tag, "keep-churn-q3")
    assert listing.foreign == 0
    assert len(listing.entries) == 24  # a second tag is no second image
    for other in ("churn", "risk"):
        with pytest.raises(UsageError, match=r"'churn-q3' belongs to .*, for good"):
            keep_image(store, listing, find_entry(listing, other), "churn-q3")


def test_a_name_that_only_the_registry_knows_is_not_moved_either(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    entry = find_entry(listing, "churn")
    other = store.get_manifest("churn", find_entry(listing, "churn@2025q1").digest)
    assert other is not None
    store.put_manifest("churn", other, "keep-paper")  # after the listing was read
    with pytest.raises(UsageError, match="for good"):
        keep_image(store, listing, entry, "paper")


@pytest.mark.parametrize("name", ["", "Churn", "churn_q3", "-q3", "2026q3", "2026q3-0123456789ab", "a" * 130])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        kept_tag(name)


def test_an_image_that_lost_its_tag_is_found_by_its_name(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "registry")
    (made,) = make_fleet(1, ("2026q4",))
    push_image(store, "churn", "keep-paper", made.notes)
    (entry,) = read_catalogue(store).entries
    assert (entry.tag, entry.kept) == ("keep-paper", ("paper",))


def test_every_way_to_name_an_image(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    wanted = find_entry(listing, "risk@2026q2")
    assert (wanted.team, wanted.quarter) == ("risk", "2026q2")
    for text in (
        wanted.tag,
        wanted.digest,
        wanted.digest[7:19],
        f"{wanted.image}:{wanted.tag}",
        f"risk:{wanted.tag}",
        f"risk@{wanted.digest}",
    ):
        assert find_entry(listing, text) == wanted
    assert find_entry(listing, "risk").current
    with pytest.raises(UsageError, match="no image 'rsk'") as caught:
        find_entry(listing, "rsk")
    assert "risk" in caught.value.hint


def test_one_tag_of_two_images_is_not_guessed(store: LayoutStore) -> None:
    first, second, *_ = make_fleet(2, ("2026q4",))
    push_image(store, "churn", "paper", first.notes, [b"one"])
    push_image(store, "risk", "paper", {**second.notes, names.TEAM: "risk"}, [b"two"])
    with pytest.raises(UsageError, match="more than one image"):
        find_entry(read_catalogue(store), "paper")


def test_companions_are_no_images() -> None:
    tag = "2026q4-0123456789ab"
    assert is_companion(f"{tag}-attested", [tag])
    assert not is_companion("x-attested", [tag])
    assert is_companion("sha256-" + "0" * 64, [])
    assert count_quarters("2026q1") == (count_quarters("2025q4") or 0) + 1
    assert count_quarters("2026q5") is None


def test_a_foreign_index_holds_what_it_lists(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    item = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": entry.digest, "size": 5}
    store.put_manifest("churn", RawManifest(json.dumps({"schemaVersion": 2, "manifests": [item]}).encode(), OCI_INDEX), "many")
    listing = read_catalogue(store)
    assert find_entry(listing, entry.tag).held_by == ("many",)
    assert listing.foreign == 1


def test_presence_names_what_is_gone(store: LayoutStore) -> None:
    entries = read_catalogue(store).entries
    report = check_presence(store, entries)
    assert (report.images, report.missing, report.elsewhere) == (24, (), 0)
    assert report.parts == 24 + 24 + 24 + 3 * 3  # manifests, configs, own layers; three base layers in three repositories
    own = Digest.of(entries[0].tag.encode() * 40)
    (store.folder / "blobs" / "sha256" / own.hex).unlink()
    base = next(made.base for made in make_fleet(3) if made.team == entries[0].team)
    (store.folder / "blobs" / "sha256" / Digest.of(f"{base} layer 0".encode() * 40).hex).unlink()
    report = check_presence(store, entries[:1])
    assert [(item.tag, item.part, item.digest) for item in report.missing] == [(entries[0].tag, "layer 4 of 4", own)]
    assert report.elsewhere == 1  # a sparse folder lacks base layers rightly


def test_unknown_is_not_absent(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = read_catalogue(store).entries
    monkeypatch.setattr(store, "has_blob", Mock(side_effect=RemoteError("it does not say")))
    with pytest.raises(RemoteError):
        check_presence(store, entries)


def test_snippets_name_the_digest_where_a_cluster_can_pull(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn")
    (alone,) = list_snippets(entry)
    assert alone[0] == "Docker"
    assert f"docker-daemon:churn:{entry.tag}" in alone[1]
    found = dict(list_snippets(entry, "registry.example.com/ml"))
    assert found["Notebook"] == f"image: registry.example.com/ml/churn:{entry.tag}@{entry.digest}"
    assert all(f"@{entry.digest}" in text for text in found.values())


def test_size_and_diff_know_names_for_good_too(store: LayoutStore, tmp_path: Path) -> None:
    for team in ("churn", "risk"):
        (tmp_path / "images" / team).mkdir(parents=True)
        (tmp_path / "images" / team / "team.toml").write_text('base = "starter"\n')
    workspace = Workspace(tmp_path)
    shutil.copytree(store.folder, workspace.layout.folder)
    listing = read_catalogue(workspace.target)
    entry = find_entry(listing, "risk@2025q3")
    keep_image(workspace.target, listing, entry, "paper")
    found = find_named_image(workspace, "paper")
    assert (found.digest, found.team) == (entry.digest, "risk")
    with pytest.raises(UsageError, match="'papers' is neither a team here"):
        find_named_image(workspace, "papers")


def test_what_an_image_says_of_itself_does_not_reach_the_terminal_as_commands(store: LayoutStore) -> None:
    described = describe_entry(store, find_entry(read_catalogue(store), "churn"), reference="", snippets=(), what="churn")
    text = render_description({**described, "title": "a\x1b[2Jb\rc\u202ed é"})
    assert "a\\x1b[2Jb\\rc\\u202ed é" in text
    assert all(line.isprintable() for line in text.split("\n"))
