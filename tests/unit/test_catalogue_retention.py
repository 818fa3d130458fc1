"""What may go and what never: current, kept, in use, foreign, uncertain; and that removing takes along what belongs to an image alone."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing, read_catalogue
from imagebuild.catalogue.pinnedtags import keep_image
from imagebuild.catalogue.presence import check_presence
from imagebuild.catalogue.retention import RetirementPlan, plan_retirement
from imagebuild.catalogue.retirement import (
    Removed,
    _delete,
    explain_wait,
    find_retired,
    remove_retired,
    retire_images,
    undo_retirement,
)
from imagebuild.catalogue.selection import find_entry
from imagebuild.catalogue.usage import Usage, read_usage
from imagebuild.errors import IntegrityError, RemoteError, UsageError
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, Manifest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers, referrers_tag
from tests.support.fleet import make_fleet, push_fleet, write_cluster

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
GRACE = timedelta(days=14)


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
    users = [{"kind": kind, "spec": {"template": {"spec": {"containers": [{"image": image}]}}}} for image in images]
    return write_cluster(path, more.get("items", users), NOW)


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
    found = plan(store, read_usage([path], NOW))
    assert ("churn", "2025q1") not in goes(found)
    assert "in use" in reasons(found)["churn", "2025q1"]
    assert ("churn", "2025q2") in goes(found)


def test_what_cannot_be_said_stops_the_plan(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = read_catalogue(store)
    monkeypatch.setattr(store, "head_manifest", Mock(side_effect=RemoteError("it does not say")))
    with pytest.raises(RemoteError):
        plan(store, listing=listing)


def attach(store: LayoutStore, entry: CatalogueEntry, text: str) -> str:
    raw = store.get_manifest(entry.repository, entry.digest)
    assert raw is not None
    (digest,) = attach_artifacts(store, entry.repository, raw.descriptor, [Artifact("application/x", "text/plain", text.encode())])
    return digest


def retire(store: LayoutStore, *, at: datetime = NOW, lines: list[str] | None = None) -> int:
    told = [] if lines is None else lines
    return retire_images(store, plan(store), lambda fresh: plan(store, listing=fresh), now=at, cache=None, report=told.append)


def remove(store: LayoutStore, *, at: datetime, usage: Usage | None = None) -> Removed:
    waiting = find_retired(store, store.list_repositories(), read_catalogue(store))
    return remove_retired(store, waiting, usage or Usage(), now=at, grace=GRACE, cache=None, report=lambda _: None)


def test_retiring_takes_the_tag_and_leaves_the_image_for_the_days_of_grace(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    assert retire(store) == 6
    left = read_catalogue(store)
    assert ("churn", "2025q1") not in {(item.team, item.quarter) for item in left.entries}
    assert left.foreign == 0
    assert store.head_manifest("churn", entry.tag) is None
    assert store.get_manifest("churn", f"retired-{entry.tag}") is not None
    assert store.get_manifest("churn", entry.digest) is not None  # pulls by digest go on
    assert remove(store, at=NOW + timedelta(days=13)) == Removed(0, 0, 0)
    assert goes(plan(store)) == set()  # nothing is retired twice
    done = remove(store, at=NOW + timedelta(days=14))
    assert (done.images, done.freed > 0) == (6, True)
    assert find_retired(store, store.list_repositories(), read_catalogue(store)) == ()
    assert store.head_manifest("churn", f"retired-{entry.tag}") is None


@pytest.mark.parametrize("name", ["{tag}", "churn:{tag}", "retired-{tag}", "churn:retired-{tag}"])
def test_a_retired_image_is_brought_back(store: LayoutStore, name: str) -> None:
    before = read_catalogue(store)
    entry = find_entry(before, "churn@2025q1")
    retire(store)
    waiting = find_retired(store, ["churn", "pricing"], read_catalogue(store))
    image = undo_retirement(store, waiting, name.format(tag=entry.tag))
    assert (image.team, image.tag, image.digest) == ("churn", entry.tag, entry.digest)
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest
    assert store.head_manifest("churn", f"retired-{entry.tag}") is None
    later = NOW + timedelta(days=30)
    assert retire(store, at=later) == 1  # retired again: its grace starts anew
    remove(store, at=later + timedelta(days=13))
    assert store.get_manifest("churn", f"retired-{entry.tag}") is not None


def test_nothing_of_that_name_is_retired(store: LayoutStore) -> None:
    retire(store)
    waiting = find_retired(store, ["churn", "pricing"], read_catalogue(store))
    with pytest.raises(UsageError, match="no retired image is called 'churn:2026q4-000000000000'") as caught:
        undo_retirement(store, waiting, "churn:2026q4-000000000000")
    assert "churn:2025q1-" in caught.value.hint
    twins = [msgspec.structs.replace(waiting[0], repository=name) for name in ("a/churn", "b/pricing")]
    with pytest.raises(UsageError, match="is retired in churn and pricing"):
        undo_retirement(store, twins, waiting[0].tag)


def test_what_comes_into_use_in_its_grace_is_not_removed(store: LayoutStore, tmp_path: Path) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    retire(store)
    later = NOW + timedelta(days=20)
    job = {"kind": "CronJob", "metadata": {"namespace": "alice", "name": "train"}, "image": f"r.example/churn@{entry.digest}"}
    usage = read_usage([write_cluster(tmp_path / "dump.json", [job], later)], later)
    (image,) = [item for item in find_retired(store, ["churn"], read_catalogue(store)) if item.tag == entry.tag]
    assert explain_wait(image, usage, now=later, grace=GRACE) == "in use in a cluster: CronJob alice/train; it gets its tag back"
    assert remove(store, at=later, usage=usage).images == 5
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest
    assert store.head_manifest("churn", f"retired-{entry.tag}") is None


@pytest.mark.slow
def test_what_an_index_of_others_lists_is_not_removed(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    retire(store)
    item = {"mediaType": OCI_MANIFEST, "digest": entry.digest, "size": 5}
    store.put_manifest("churn", RawManifest(json.dumps({"schemaVersion": 2, "manifests": [item]}).encode(), OCI_INDEX), "many")
    (image,) = [item for item in find_retired(store, ["churn"], read_catalogue(store)) if item.tag == entry.tag]
    assert explain_wait(image, Usage(), now=NOW + 2 * GRACE, grace=GRACE) == "listed by the index many"
    assert remove(store, at=NOW + 2 * GRACE).images == 5


@pytest.mark.slow
@pytest.mark.parametrize("how", ["config", "attested"])
def test_a_retired_image_is_known_by_its_other_digests_too(store: LayoutStore, tmp_path: Path, how: str) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    index = {"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": entry.digest, "size": 5}]}
    name = store.put_manifest("churn", RawManifest(json.dumps(index).encode(), OCI_INDEX), f"{entry.tag}-attested")
    if how == "config":
        raw = store.get_manifest("churn", entry.digest)
        manifest = raw.parse() if raw is not None else None
        assert isinstance(manifest, Manifest)
        name = manifest.config.id
    usage = read_usage([write_cluster(tmp_path / "dump.json", [{"kind": "Pod", "status": {"imageID": name}}], NOW)], NOW)
    assert reasons(plan(store, usage))["churn", "2025q1"] == "in use in a cluster: Pod"
    retire(store)
    assert read_catalogue(store).foreign == 0
    assert remove(store, at=NOW, usage=usage).images == 0
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest


@pytest.mark.slow
def test_what_was_built_again_in_its_grace_stays(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    raw = store.get_manifest("churn", entry.digest)
    assert raw is not None
    retire(store)
    store.put_manifest("churn", raw, entry.tag)
    remove(store, at=NOW + timedelta(days=20))
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest
    assert store.head_manifest("churn", f"retired-{entry.tag}") is None


@pytest.mark.slow
def test_what_was_built_again_since_the_plan_stays(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    retire(store)
    waiting = find_retired(store, ["churn"], read_catalogue(store))
    raw = store.get_manifest("churn", entry.digest)
    assert raw is not None
    store.put_manifest("churn", raw, entry.tag)
    done = remove_retired(store, waiting, Usage(), now=NOW + GRACE, grace=GRACE, cache=None, report=lambda _: None)
    assert done.images == 2
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest


def test_without_a_marker_the_grace_starts_when_that_is_seen(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    raw = store.get_manifest("churn", entry.digest)
    assert raw is not None
    store.put_manifest("churn", raw, f"retired-{entry.tag}")
    store.delete_tag("churn", entry.tag)
    later = NOW + timedelta(days=400)
    assert remove(store, at=later).images == 0
    assert remove(store, at=later + timedelta(days=13)).images == 0
    assert remove(store, at=later + timedelta(days=14)).images == 1


class OldRegistry(LayoutStore):
    """A store that can only delete a manifest with all its tags, as distribution 2; ``killed`` after so many changes."""

    def __init__(self, folder: Path, killed: int = 999) -> None:
        super().__init__(folder)
        self.left = killed
        self.tagged: list[set[Digest]] = []  # after each change, which manifests have a tag

    def _count(self) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1

    def delete_tag(self, repository: str, tag: str) -> bool:  # noqa: ARG002
        return False

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        self._count()
        done = super().delete_manifest(repository, digest)
        self.tagged.append(find_tagged(self))
        return done

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:
        self._count()
        digest = super().put_manifest(repository, manifest, tag)
        self.tagged.append(find_tagged(self))
        return digest


def find_tagged(store: LayoutStore) -> set[Digest]:
    found = [store.head_manifest(name, tag) for name in store.list_repositories() for tag in store.list_tags(name)]
    return {descriptor.id for descriptor in found if descriptor is not None}


@pytest.mark.slow
def test_a_registry_that_cannot_take_a_tag_away_has_the_manifest_all_the_time(store: LayoutStore) -> None:
    before = {entry.digest for entry in read_catalogue(store).entries}
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    old = OldRegistry(store.folder)
    assert retire(old) == 6
    assert f"retired-{entry.tag}" in set(store.list_tags("churn"))
    assert entry.tag not in set(store.list_tags("churn"))
    undo_retirement(old, find_retired(old, ["churn"], read_catalogue(old)), entry.tag)
    assert find_entry(read_catalogue(store), "churn@2025q1").digest == entry.digest
    assert f"retired-{entry.tag}" not in set(store.list_tags("churn"))
    assert len(old.tagged) > 20
    assert all(before <= tagged for tagged in old.tagged)


@pytest.mark.slow
@pytest.mark.parametrize("killed", range(1, 12))
def test_a_run_that_is_killed_loses_nothing_and_the_next_finishes_it(store: LayoutStore, killed: int) -> None:
    listing = read_catalogue(store)
    before = {entry.digest for entry in listing.entries}
    with pytest.raises(KeyboardInterrupt):
        retire(OldRegistry(store.folder, killed))
    assert before <= find_tagged(store)
    between = read_catalogue(store)
    assert between.foreign == 0  # a tag that was being taken away names nothing
    old = OldRegistry(store.folder)
    waiting = find_retired(old, ["churn", "pricing"], between)
    assert {entry.digest for entry in between.entries} | {image.digest for image in waiting} == before
    remove_retired(old, waiting, Usage(), now=NOW, grace=GRACE, cache=None, report=lambda _: None)
    retire(old)
    after = set(store.list_tags("churn")) | set(store.list_tags("pricing"))
    gone = {entry.tag for entry in listing.entries if entry.quarter < "2025q4"}
    assert {tag for tag in after if not tag.startswith("sha256-")} == {
        *(entry.tag for entry in listing.entries if entry.tag not in gone),
        *(f"retired-{tag}" for tag in gone),
    }
    assert all(image.since is not None for image in find_retired(old, ["churn", "pricing"], read_catalogue(old)))


class LockedRegistry(LayoutStore):
    """A store that deletes nothing."""

    def delete_manifest(self, repository: str, digest: Digest) -> bool:  # noqa: ARG002
        raise RemoteError("does not delete manifests")


def test_where_nothing_can_be_deleted_nothing_is_changed(store: LayoutStore) -> None:
    before = (store.folder / "index.json").read_bytes()
    with pytest.raises(RemoteError, match="does not delete manifests"):
        retire(LockedRegistry(store.folder))
    assert (store.folder / "index.json").read_bytes() == before


class CarelessRegistry(LayoutStore):
    """A store that takes the manifest away when it is asked for a tag, as zot once did."""

    def delete_tag(self, repository: str, tag: str) -> bool:
        found = self.head_manifest(repository, tag)
        return found is not None and super().delete_manifest(repository, found.id)


def test_a_registry_that_takes_the_manifest_for_a_tag_gets_it_back(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    assert retire(CarelessRegistry(store.folder)) == 6
    assert store.head_manifest("churn", f"retired-{entry.tag}") is not None
    assert store.head_manifest("churn", entry.tag) is None


class UntaggedOnly(LayoutStore):
    """A store that deletes manifests without a tag only, as Google's and Docker Hub."""

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        if digest in {found.id for tag in self.list_tags(repository) if (found := self.head_manifest(repository, tag)) is not None}:
            raise RegistryError("a tag refers to it", status=403)
        return super().delete_manifest(repository, digest) or self.get_manifest(repository, digest) is not None


def test_where_only_untagged_manifests_can_be_deleted_the_tag_goes_first(store: LayoutStore) -> None:
    retire(store)
    entry_tags = [tag for tag in store.list_tags("churn") if tag.startswith("retired-")]
    strict = UntaggedOnly(store.folder)
    for tag in [tag for tag in store.list_tags("churn") if tag.startswith("sha256-")]:
        store.delete_tag("churn", tag)  # the list of referrers: such registries have the API for it
    waiting = [msgspec.structs.replace(image, since=NOW) for image in find_retired(strict, ["churn"], read_catalogue(strict))]
    assert len(waiting) == len(entry_tags) == 3
    for image in waiting:
        assert _delete(strict, image, image.digest)
    assert not [tag for tag in store.list_tags("churn") if tag.startswith("retired-")]


@pytest.mark.slow
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
    retire(store, lines=lines)
    remove(store, at=NOW + GRACE)
    left = read_catalogue(store)
    assert {(item.team, item.quarter) for item in left.entries} == {(e.team, e.quarter) for e in listing.entries} - goes(found)
    assert store.head_manifest("churn", referrers_tag(entry.digest)) is None
    assert len(list_referrers(store, "churn", other.digest)) == 1
    assert len(lines) == 6


def test_what_was_kept_in_between_stays(store: LayoutStore) -> None:
    listing = read_catalogue(store)
    found = plan(store)
    keep_image(store, listing, find_entry(listing, "churn@2025q1"), "paper")
    lines: list[str] = []
    retire_images(store, found, lambda fresh: plan(store, listing=fresh), now=NOW, cache=None, report=lines.append)
    assert find_entry(read_catalogue(store), "paper").quarter == "2025q1"
    assert any("changed since" in line for line in lines)


@pytest.mark.slow
def test_a_stopped_removal_is_finished_by_the_next(store: LayoutStore, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    attach(store, entry, "lock")
    retire(store)
    delete = store.delete_manifest

    def fail(repository: str, digest: Any) -> bool:
        if digest == entry.digest:
            raise RemoteError("the line is cut")
        return delete(repository, digest)

    monkeypatch.setattr(store, "delete_manifest", fail)
    with pytest.raises(RemoteError):
        remove(store, at=NOW + GRACE)
    monkeypatch.undo()
    assert entry.tag in {image.tag for image in find_retired(store, ["churn"], read_catalogue(store))}
    # What was about it went first, the time too: it waits once more.
    assert remove(store, at=NOW + GRACE).images == 5
    assert remove(store, at=NOW + 2 * GRACE).images == 1
    assert find_retired(store, ["churn", "pricing"], read_catalogue(store)) == ()


def test_a_layout_forgets_the_image_and_keeps_the_blobs_of_others(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn@2025q1")
    assert store.delete_manifest("churn", entry.digest)
    assert not store.delete_manifest("churn", entry.digest)
    assert store.head_manifest("churn", entry.tag) is None
    assert store.has_blob("churn", Descriptor("", entry.digest, 0).id) is True


@pytest.mark.slow
def test_a_layout_is_swept_of_what_nothing_names_any_more(store: LayoutStore) -> None:
    entry, other = find_entry(read_catalogue(store), "churn@2025q1"), find_entry(read_catalogue(store), "churn")
    attach(store, entry, "lock")
    retire(store)
    blobs = {path.name: path.stat().st_size for path in (store.folder / "blobs" / "sha256").iterdir()}
    done = remove(store, at=NOW + GRACE)
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
    remove(store, at=NOW + GRACE)
    assert stray.exists()


def test_a_sweep_that_cannot_read_what_is_named_removes_nothing(store: LayoutStore) -> None:
    entry = find_entry(read_catalogue(store), "churn")
    (store.folder / "blobs" / "sha256" / entry.digest.hex).write_bytes(b"{}")
    layer = Digest.of(entry.tag.encode() * 40)
    with pytest.raises(IntegrityError):
        store.sweep_blobs([layer])
    assert store.has_blob("churn", layer) is True
