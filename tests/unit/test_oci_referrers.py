"""Referrers: the API where there is one, the fallback tag elsewhere; nothing of others is lost, and the subject never changes."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, list_referrers, make_artifact_manifest, read_artifact, referrers_tag
from imagebuild.oci.registry import RegistryStore
from tests.support.servers.scripted import Answer, Asked, serve

SUBJECT = RawManifest(b'{"schemaVersion":2,"mediaType":"%s","config":{},"layers":[]}' % OCI_MANIFEST.encode(), OCI_MANIFEST)
NOTE = Artifact("application/vnd.example.note", "text/plain", b"hello", {"a": "1"}, {"title": "note"})
OTHER = Artifact("application/vnd.example.other", "text/plain", b"other")


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    store = LayoutStore(tmp_path / "layout")
    store.put_manifest("cosml", SUBJECT, "1")
    return store


def test_an_artifact_is_listed_read_back_and_attached_once(layout: LayoutStore) -> None:
    before = (layout.folder / "blobs" / "sha256" / SUBJECT.digest.hex).read_bytes()
    digests = attach_artifacts(layout, "cosml", SUBJECT.descriptor, [NOTE, OTHER])
    assert attach_artifacts(layout, "cosml", SUBJECT.descriptor, [OTHER, NOTE]) == digests[::-1]
    found = list_referrers(layout, "cosml", SUBJECT.digest)
    assert [item.descriptor.digest for item in found] == list(digests)
    assert [item.artifact_type for item in found] == [NOTE.artifact_type, OTHER.artifact_type]
    (only,) = list_referrers(layout, "cosml", SUBJECT.digest, NOTE.artifact_type)
    assert only.annotations == {"a": "1"}
    read = read_artifact(layout, "cosml", only, SUBJECT.digest)
    assert read is not None
    assert read[1] == b"hello"
    assert read[0].layers[0].annotations == {"title": "note"}
    assert read_artifact(layout, "cosml", only, Digest.of(b"another image")) is None
    assert (layout.folder / "blobs" / "sha256" / SUBJECT.digest.hex).read_bytes() == before
    assert list(layout.list_tags("cosml")) == ["1", referrers_tag(SUBJECT.digest)]
    assert list_referrers(layout, "cosml", Digest.of(b"another image")) == ()


def test_what_others_wrote_under_the_tag_stays_to_the_letter(layout: LayoutStore) -> None:
    theirs = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(b"x")), "size": 3, "artifactType": "x/y", "novel": {"kept": True}}
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [theirs]}).encode()
    layout.put_manifest("cosml", RawManifest(index, OCI_INDEX), referrers_tag(SUBJECT.digest))
    attach_artifacts(layout, "cosml", SUBJECT.descriptor, [NOTE])
    raw = layout.get_manifest("cosml", referrers_tag(SUBJECT.digest))
    assert raw is not None
    first, second = json.loads(raw.data)["manifests"]
    assert first == theirs
    assert second["artifactType"] == NOTE.artifact_type


def test_many_writers_to_one_folder_lose_nothing(layout: LayoutStore) -> None:
    notes = [Artifact("application/vnd.example.note", "text/plain", b"%d" % number) for number in range(12)]
    threads = [threading.Thread(target=attach_artifacts, args=(layout, "cosml", SUBJECT.descriptor, [note])) for note in notes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list_referrers(layout, "cosml", SUBJECT.digest)) == 12


def test_a_list_that_is_no_list_is_named(layout: LayoutStore) -> None:
    layout.put_manifest("cosml", SUBJECT, referrers_tag(SUBJECT.digest))
    with pytest.raises(IntegrityError, match="must be the referrers index"):
        list_referrers(layout, "cosml", SUBJECT.digest)
    index = b'{"schemaVersion":2,"mediaType":"%s","manifests":[{"digest":7}]}' % OCI_INDEX.encode()
    layout.put_manifest("cosml", RawManifest(index, OCI_INDEX), referrers_tag(SUBJECT.digest))
    with pytest.raises(IntegrityError, match="malformed"):
        list_referrers(layout, "cosml", SUBJECT.digest)


def test_untagged_entries_of_a_folder_count_too(layout: LayoutStore) -> None:
    """As `oras attach --oci-layout` leaves them."""
    manifest = make_artifact_manifest(NOTE, SUBJECT.descriptor)
    layout.put_manifest("cosml", manifest)
    index = layout.folder / "index.json"
    document = json.loads(index.read_bytes())
    document["manifests"].append({"mediaType": OCI_MANIFEST, "digest": str(manifest.digest), "size": len(manifest.data)})
    index.write_text(json.dumps(document))
    (found,) = list_referrers(layout, "cosml", SUBJECT.digest)
    assert (found.artifact_type, found.annotations) == (NOTE.artifact_type, {"a": "1"})


class Memory:
    """A registry in memory; ``api`` says whether it has the referrers API."""

    def __init__(self, *, api: bool) -> None:
        self.api = api
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.blobs: set[str] = set()
        self.lists_put = 0
        self.upon_list: list[bytes] = []  # what another writer puts right after each of our lists

    def __call__(self, asked: Asked) -> Answer:
        name = asked.path.rpartition("/")[2]
        if asked.path == "/v2/":
            return Answer()
        if "/blobs/" in asked.path:
            if asked.method in ("POST", "PUT"):
                self.blobs.add(dict(asked.query).get("digest", ""))
                return Answer(202 if asked.method == "POST" else 201, {"Location": "/v2/cosml/blobs/uploads/1"})
            return Answer(200 if name in self.blobs else 404)
        if "/referrers/" in asked.path:
            return self._answer_referrers(name) if self.api else Answer(404)
        if asked.method == "PUT":
            self.manifests[name] = self.manifests[Digest.of(asked.body)] = (asked.headers["content-type"], asked.body)
            if name.startswith("sha256-"):
                self.lists_put += 1
                if self.upon_list:
                    self.manifests[name] = (OCI_INDEX, self.upon_list.pop(0))
            return Answer(201)
        if name not in self.manifests:
            return Answer(404)
        media_type, data = self.manifests[name]
        return Answer(200, {"Content-Type": media_type}, data)

    def _answer_referrers(self, digest: str) -> Answer:
        found = []
        for name, (media_type, data) in self.manifests.items():
            document = json.loads(data)
            if name.startswith("sha256:") and (document.get("subject") or {}).get("digest") == digest:
                entry: dict[str, Any] = {"mediaType": media_type, "digest": name, "size": len(data)}
                found.append({**entry, "artifactType": document["artifactType"], "annotations": document.get("annotations", {})})
        return Answer(200, {"Content-Type": OCI_INDEX}, json.dumps({"schemaVersion": 2, "manifests": found}).encode())


def attach(memory: Memory, *artifacts: Artifact) -> tuple[str, ...]:
    with serve(memory) as server:
        store = RegistryStore(server.host)
        attach_artifacts(store, "cosml", SUBJECT.descriptor, artifacts, sleep=lambda _: None)
        return tuple(item.artifact_type for item in list_referrers(store, "cosml", SUBJECT.digest))


def test_a_registry_with_the_api_keeps_the_list_itself() -> None:
    memory = Memory(api=True)
    assert attach(memory, NOTE, OTHER) == (NOTE.artifact_type, OTHER.artifact_type)
    assert memory.lists_put == 0


def test_a_registry_without_it_gets_the_fallback_tag_once() -> None:
    memory = Memory(api=False)
    assert attach(memory, NOTE, OTHER) == (NOTE.artifact_type, OTHER.artifact_type)
    assert attach(memory, NOTE, OTHER) == (NOTE.artifact_type, OTHER.artifact_type)
    assert memory.lists_put == 1


def _list_of(*digests: str) -> bytes:
    entries = [{"mediaType": OCI_MANIFEST, "digest": item, "size": 1, "artifactType": "x/theirs"} for item in digests]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def test_another_writer_that_undid_the_list_is_merged_with() -> None:
    memory = Memory(api=False)
    memory.upon_list = [_list_of(str(Digest.of(b"theirs")))]
    assert attach(memory, NOTE) == ("x/theirs", NOTE.artifact_type)
    assert memory.lists_put == 2


def test_a_writer_that_never_stops_is_an_error_and_not_a_loop() -> None:
    memory = Memory(api=False)
    memory.upon_list = [_list_of(str(Digest.of(b"theirs")))] * 100
    with pytest.raises(RemoteError, match="another program"):
        attach(memory, NOTE)


def test_the_pages_of_the_api_are_followed_and_stay_on_the_host() -> None:
    def script(asked: Asked) -> Answer:
        if "page" in dict(asked.query):
            return Answer(200, {"Content-Type": OCI_INDEX}, _list_of(str(Digest.of(b"b"))))
        link = f'<{asked.path}?page=2>; rel="next"'
        return Answer(200, {"Content-Type": OCI_INDEX, "Link": link}, _list_of(str(Digest.of(b"a"))))

    with serve(script) as server:
        found = list_referrers(RegistryStore(server.host), "cosml", SUBJECT.digest)
    assert [item.descriptor for item in found] == [
        Descriptor(OCI_MANIFEST, str(Digest.of(name)), 1, artifact_type="x/theirs") for name in (b"a", b"b")
    ]
    away = {"Content-Type": OCI_INDEX, "Link": '<http://elsewhere.example/v2/x>; rel="next"'}
    with serve(lambda _: Answer(200, away, _list_of())) as server, pytest.raises(RemoteError, match="another host"):
        list_referrers(RegistryStore(server.host), "cosml", SUBJECT.digest)
    with serve(lambda _: Answer(200, {"Content-Type": OCI_INDEX}, b"[]")) as server, pytest.raises(RemoteError, match="not an index"):
        list_referrers(RegistryStore(server.host), "cosml", SUBJECT.digest)
    for status in (401, 500):  # a refusal or an outage is never "nothing refers to it"
        with serve(lambda _, status=status: Answer(status)) as server, pytest.raises(RemoteError):  # type: ignore[misc]
            list_referrers(RegistryStore(server.host, sleep=lambda _: None), "cosml", SUBJECT.digest)
