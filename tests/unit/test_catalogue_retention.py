"""What may go and what never: current, kept, in use, foreign, uncertain; and that removing takes along what belongs to an image alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, read_catalogue
from imagebuild.catalogue.pinnedtags import keep_image
from imagebuild.catalogue.presence import check_presence
from imagebuild.catalogue.retention import RetirementPlan, plan_retirement, retire_images
from imagebuild.catalogue.selection import find_entry
from imagebuild.catalogue.usage import Usage, read_usage
from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers, referrers_tag
from imagebuild.oci.store import Presence
from tests.catalogue_parts import make_fleet, push_fleet


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet") / "registry"
    push_fleet(LayoutStore(folder), make_fleet(2), "")
    return folder


@pytest.fixture
def store(pushed: Path, tmp_path: Path) -> LayoutStore:
    return LayoutStore(shutil.copytree(pushed, tmp_path / "registry"))


def plan(store: LayoutStore, usage: Usage | None = None, older_than: int = 4, listing: CatalogueListing | None = None) -> RetirementPlan:
    return plan_retirement(store, listing or read_catalogue(store), usage or Usage(), today="2026q4", older_than=older_than)


def goes(found: RetirementPlan) -> set[tuple[str, str]]:
    return {(entry.team, entry.quarter) for entry in found.goes}


def reasons(found: RetirementPlan) -> dict[tuple[str, str], str]:
    return {(stay.entry.team, stay.entry.quarter): stay.reason for stay in found.stays}


def write_dump(path: Path, *images: str, kind: str = "Pod", **more: Any) -> Path:
    pod = {"kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [{"image": "busybox"}]}}
    users = [{"kind": kind, "spec": {"template": {"spec": {"containers": [{"image": image}]}}}} for image in images]
    path.write_text(json.dumps({"kind": "List", "apiVersion": "v1", "items": [pod, *users], "metadata": {"resourceVersion": ""}, **more}))
    return path


def test_age_is_counted_in_whole_quarters(store: LayoutStore) -> None:
    assert goes(plan(store)) == {(team, quarter) for team in ("churn", "pricing") for quarter in ("2025q1", "2025q2", "2025q3")}
    assert goes(plan(store, older_than=7)) == set()
    assert len(goes(plan(store, older_than=1))) == 12


def test_the_current_image_stays_whatever_its_age(store: LayoutStore) -> None:
    late = plan_retirement(store, read_catalogue(store), Usage(), today="2036q1", older_than=4)
    assert reasons(late) == {(team, "2026q4"): "the current image of its team" for team in ("churn", "pricing")}
    assert len(late.goes) == 14


def test_names_tags_and_indexes_of_others_hold(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    first, second, third = (find_entry(listing, f"churn@2025q{number}") for number in (1, 2, 3))
    keep_image(store, listing, first, "paper")
    raw = store.get_manifest("churn", second.digest)
    assert raw is not None
    store.put_manifest("churn", raw, "stable")
    item = {"mediaType": OCI_MANIFEST, "digest": third.digest, "size": 5}
    store.put_manifest("churn", RawManifest(json.dumps({"schemaVersion": 2, "manifests": [item]}).encode(), OCI_INDEX), "many")
    assert {key: reason for key, reason in reasons(plan(store)).items() if key[0] == "churn"} == {
        ("churn", "2025q1"): "kept as paper",
        ("churn", "2025q2"): "also tagged stable",
        ("churn", "2025q3"): "listed by the index many",
    }


@pytest.mark.parametrize("how", ["digest", "tag", "status", "volume", "annotation", "stopped", "mirror", "attested"])
def test_what_a_cluster_names_stays(store: LayoutStore, tmp_path: Path, how: str) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    name = f"registry.example.com/ml/churn@{entry.digest}"
    path = tmp_path / "dump.json"
    if how == "attested":
        index = {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": entry.digest, "size": 5}]}
        digest = store.put_manifest("churn", RawManifest(json.dumps(index).encode(), OCI_INDEX), f"{entry.tag}-attested")
        write_dump(path, f"registry.example.com/ml/churn@{digest}")
    elif how == "status":
        write_dump(path, items=[{"kind": "Pod", "status": {"containerStatuses": [{"image": "sha256:0", "imageID": name}]}}])
    elif how == "volume":
        write_dump(path, items=[{"kind": "Pod", "spec": {"volumes": [{"name": "warm", "image": {"reference": name}}]}}])
    elif how == "annotation":
        note = json.dumps({"spec": {"containers": [{"image": name}]}})
        write_dump(path, items=[{"kind": "Pod", "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": note}}}])
    elif how == "stopped":
        write_dump(path, name, kind="Notebook")
    else:
        write_dump(path, {"digest": name, "tag": f"registry.example.com/ml/churn:{entry.tag}", "mirror": f"other:5000/x:{entry.tag}"}[how])
    found = plan(store, read_usage([path]))
    assert ("churn", "2025q1") not in goes(found)
    assert "in use" in reasons(found)["churn", "2025q1"]
    assert ("churn", "2025q2") in goes(found)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not JSON"),
        ('{"kind": "List", "items": [{"kind": "Pod"', "not JSON"),
        ("[]", "not a list of objects"),
        ('{"kind": "Pod", "items": []}', "not a list of objects"),
        ('{"kind": "List", "items": []}', "empty"),
        ('{"kind": "List", "items": ["x"]}', "empty"),
        ('{"kind": "List", "items": [{"kind": "Notebook"}]}', "no pod"),
        ('{"kind": "PodList", "items": [{}], "metadata": {"continue": "abc"}}', "one page"),
        ('{"kind": "PodList", "items": [{}], "metadata": {"remainingItemCount": 3}}', "one page"),
    ],
)
def test_a_dump_that_is_not_whole_stops_everything(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "dump.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=word):
        read_usage([write_dump(tmp_path / "good.json"), path])
    with pytest.raises(ConfigurationError, match="cannot read"):
        read_usage([tmp_path / "none.json"])


def test_what_cannot_be_said_stops_the_plan(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = read_catalogue(store)
    monkeypatch.setattr(store, "head_manifest", lambda *_: (Presence.UNKNOWN, None))
    with pytest.raises(RemoteError):
        plan(store, listing=listing)


def attach(store: LayoutStore, entry: CatalogueEntry, text: str) -> str:
    raw = store.get_manifest(entry.repository, entry.digest)
    assert raw is not None
    (digest,) = attach_artifacts(store, entry.repository, raw.descriptor, [Artifact("application/x", "text/plain", text.encode())])
    return digest


def test_removing_takes_along_what_belongs_to_the_image_and_nothing_else(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    entry, other = find_entry(listing, "churn@2025q1"), find_entry(listing, "churn")
    attach(store, entry, "lock")
    attach(store, other, "lock of another")
    # A list of referrers is what anybody wrote: one that names the current image must not take it along.
    fallback = store.get_manifest("churn", referrers_tag(entry.digest))
    assert fallback is not None
    document = json.loads(fallback.data)
    document["manifests"].append({"mediaType": OCI_MANIFEST, "digest": other.digest, "size": 5, "artifactType": "application/x"})
    store.put_manifest("churn", RawManifest(json.dumps(document).encode(), OCI_INDEX), referrers_tag(entry.digest))
    found = plan(store)
    lines: list[str] = []
    retire_images(store, found, lambda fresh: plan(store, listing=fresh), cache=None, report=lines.append)
    left = read_catalogue(store)
    assert {(item.team, item.quarter) for item in left.entries} == {(e.team, e.quarter) for e in listing.entries} - goes(found)
    assert store.head_manifest("churn", referrers_tag(entry.digest))[0] is Presence.ABSENT
    assert len(list_referrers(store, "churn", other.digest)) == 1
    assert len(lines) == 6


def test_what_was_kept_in_between_stays(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    found = plan(store)
    keep_image(store, listing, find_entry(listing, "churn@2025q1"), "paper")
    lines: list[str] = []
    retire_images(store, found, lambda fresh: plan(store, listing=fresh), cache=None, report=lines.append)
    assert find_entry(read_catalogue(store), "paper").quarter == "2025q1"
    assert any("changed since" in line for line in lines)


def test_a_stopped_removal_is_finished_by_the_next(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    attach(store, entry, "lock")
    delete = store.delete_manifest

    def fail(repository: str, digest: Any) -> bool:
        if digest == entry.digest:
            raise RemoteError("the line is cut")
        return delete(repository, digest)

    monkeypatch.setattr(store, "delete_manifest", fail)
    with pytest.raises(RemoteError):
        retire_images(store, plan(store), lambda fresh: plan(store, listing=fresh), cache=None, report=lambda _: None)
    monkeypatch.undo()
    assert ("churn", "2025q1") in goes(plan(store))
    retire_images(store, plan(store), lambda fresh: plan(store, listing=fresh), cache=None, report=lambda _: None)
    assert goes(plan(store)) == set()


def test_a_layout_forgets_the_image_and_keeps_the_blobs_of_others(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    assert store.delete_manifest("churn", entry.digest)
    assert not store.delete_manifest("churn", entry.digest)
    assert store.head_manifest("churn", entry.tag)[0] is Presence.ABSENT
    assert store.has_blob("churn", Descriptor("", entry.digest, 0).id) is Presence.EXISTS


def test_a_layout_is_swept_of_what_nothing_names_any_more(store: LayoutStore) -> None:
    entry, other = find_entry(read_catalogue(store), "churn@2025q1"), find_entry(read_catalogue(store), "churn")
    attach(store, entry, "lock")
    blobs = {path.name: path.stat().st_size for path in (store.folder / "blobs" / "sha256").iterdir()}
    done = retire_images(store, plan(store), lambda fresh: plan(store, listing=fresh), cache=None, report=lambda _: None)
    left = {path.name for path in (store.folder / "blobs" / "sha256").iterdir()}
    assert done.images == 6
    assert done.freed == sum(size for name, size in blobs.items() if name not in left)
    assert entry.digest.hex not in left
    assert Digest.of(entry.tag.encode() * 40).hex not in left  # its own layer
    assert Digest.of(b"lock").hex not in left
    assert Digest.of(other.tag.encode() * 40).hex in left
    assert check_presence(store, read_catalogue(store).entries).missing == ()
    assert check_presence(store, read_catalogue(store).entries).elsewhere == 0  # base layers that others share
    # What nothing named before is not ours to sweep.
    stray = store.folder / "blobs" / "sha256" / ("0" * 64)
    stray.write_bytes(b"of another")
    retire_images(store, plan(store), lambda fresh: plan(store, listing=fresh), cache=None, report=lambda _: None)
    assert stray.exists()


def test_a_sweep_that_cannot_read_what_is_named_removes_nothing(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn")
    (store.folder / "blobs" / "sha256" / entry.digest.hex).write_bytes(b"{}")
    layer = Digest.of(entry.tag.encode() * 40)
    with pytest.raises(IntegrityError):
        store.sweep_blobs([layer])
    assert store.has_blob("churn", layer) is Presence.EXISTS
