"""The image layout folder as a store."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from imagebuild.errors import ConfigurationError, ImagebuildError, IntegrityError, RemoteError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest

DATA = b"some layer" * 1000
BLOB = Descriptor("application/octet-stream", Digest.of(DATA), len(DATA))


def make_manifest(note: str = "", media_type: str = OCI_MANIFEST) -> RawManifest:
    config = {"mediaType": OCI_CONFIG, "digest": Digest.of(b"{}"), "size": 2}
    document = {"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [], "annotations": {"note": note}}
    return RawManifest(json.dumps(document, indent=1).encode(), media_type)


@pytest.fixture
def store(tmp_path: Path) -> LayoutStore:
    return LayoutStore(tmp_path / "layout")


def test_reading_writes_nothing(store: LayoutStore) -> None:
    assert store.head_manifest("a/b", "t") is None
    assert store.get_manifest("a/b", "t") is None
    assert store.get_manifest("a/b", BLOB.digest) is None
    assert store.has_blob("a/b", BLOB.id) is False
    assert list(store.list_tags("a/b")) == list(store.list_repositories()) == []
    assert not store.folder.exists()


def test_a_manifest_comes_back_byte_for_byte(store: LayoutStore) -> None:
    manifest = make_manifest()
    assert store.put_manifest("a/b", manifest, "t") == manifest.digest
    assert store.get_manifest("a/b", "t") == store.get_manifest("a/b", manifest.digest) == manifest
    assert store.head_manifest("a/b", "t") == manifest.descriptor
    assert store.head_manifest("a/b", manifest.digest) == manifest.descriptor
    assert store.head_manifest("a/other", "t") is None
    assert json.loads((store.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((store.folder / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["mediaType"] == OCI_INDEX
    assert index["manifests"] == [
        {
            "mediaType": OCI_MANIFEST,
            "digest": manifest.digest,
            "size": len(manifest.data),
            "annotations": {"org.opencontainers.image.ref.name": "a/b:t"},
        }
    ]
    assert store.image_name("a/b") == f"oci:{store.folder}:a/b"


def test_a_tag_moves_and_leaves_the_old_manifest(store: LayoutStore) -> None:
    old, new = make_manifest("old"), make_manifest("new")
    store.put_manifest("a/b", old, "t")
    store.put_manifest("a/b", old, "kept")
    store.put_manifest("a/b", new, "t")
    assert store.get_manifest("a/b", "t") == new
    assert store.get_manifest("a/b", old.digest) == old
    assert list(store.list_tags("a/b")) == ["kept", "t"]
    assert len(json.loads((store.folder / "index.json").read_text())["manifests"]) == 2


def test_a_manifest_without_a_tag_is_a_blob(store: LayoutStore) -> None:
    manifest = make_manifest()
    store.put_manifest("a/b", manifest)
    assert json.loads((store.folder / "index.json").read_text())["manifests"] == []
    assert store.get_manifest("a/b", manifest.digest) == manifest


@pytest.mark.parametrize(
    ("document", "media_type"),
    [
        ({"schemaVersion": 2, "manifests": []}, OCI_INDEX),
        ({"schemaVersion": 2, "config": {}, "layers": []}, OCI_MANIFEST),
        ({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, OCI_INDEX),
    ],
)
def test_the_type_of_an_untagged_manifest_is_read_from_it(store: LayoutStore, document: dict[str, object], media_type: str) -> None:
    manifest = RawManifest(json.dumps(document).encode(), media_type)
    store.put_manifest("a/b", manifest)
    assert store.get_manifest("a/b", manifest.digest) == manifest


def test_what_other_tools_wrote_into_the_index_stays(store: LayoutStore) -> None:
    store.put_manifest("a/b", make_manifest(), "t")
    path = store.folder / "index.json"
    document = json.loads(path.read_text())
    foreign = {
        "mediaType": "x/y",
        "digest": BLOB.digest,
        "size": 3,
        "future": [1],
        "annotations": {"org.opencontainers.image.ref.name": "v1"},
    }
    document["manifests"].insert(0, foreign)
    document["annotations"] = {"by": "umoci"}
    path.write_text(json.dumps(document))
    store.put_manifest("c/d", make_manifest("2"), "t")
    after = json.loads(path.read_text())
    assert after["annotations"] == {"by": "umoci"}
    assert after["manifests"][0] == foreign
    assert list(store.list_repositories()) == ["a/b", "c/d"]
    assert list(store.list_repositories("c")) == ["c/d"]


def test_the_folder_is_sparse(store: LayoutStore) -> None:
    store.put_manifest("a/b", make_manifest(), "t")
    assert store.has_blob("a/b", Digest.of(b"{}")) is False
    assert store.mount_blob("c/d", Digest.of(b"{}"), "a/b").done is False
    with pytest.raises(RemoteError, match="does not hold"), store.open_blob("a/b", BLOB):
        pass
    with pytest.raises(RemoteError, match="does not hold"):
        store.read_blob("a/b", BLOB)


# --- blobs -------------------------------------------------------------------------------------------------------------


def test_blobs_are_shared_between_repositories(store: LayoutStore) -> None:
    store.put_blob("a/b", BLOB, DATA)
    assert store.has_blob("c/d", BLOB.id) is True
    assert store.mount_blob("c/d", BLOB.id, "a/b").done is True
    assert store.read_blob("c/d", BLOB) == DATA
    with store.open_blob("c/d", BLOB) as stream:
        assert b"".join(iter(lambda: stream.read(777), b"")) == DATA


def test_a_file_on_the_same_disk_is_linked(store: LayoutStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    source.chmod(0o600)
    store.put_blob("a/b", BLOB, source)
    blob = store.local_file(BLOB.id)
    assert blob is not None
    assert blob.samefile(source)
    assert blob.stat().st_mode & 0o777 == 0o644
    store.put_blob("a/b", BLOB, source)
    store.put_blob("a/b", BLOB, blob)
    assert list(blob.parent.glob(".tmp-*")) == []


def test_a_file_elsewhere_is_copied(store: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    source = tmp_path / "source"
    source.write_bytes(DATA)
    store.put_blob("a/b", BLOB, source)
    blob = store.local_file(BLOB.id)
    assert blob is not None
    assert not blob.samefile(source)
    assert blob.read_bytes() == DATA


@pytest.mark.parametrize("linked", [True, False])
@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b"!" + DATA[1:]])
def test_a_source_that_changed_is_not_kept(
    store: LayoutStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes, linked: bool
) -> None:
    if not linked:
        monkeypatch.setattr("imagebuild.oci.layout.link_file", lambda *_: False)
    source = tmp_path / "source"
    source.write_bytes(data)
    for given in (source, data):
        with pytest.raises(IntegrityError):
            store.put_blob("a/b", BLOB, given)
    assert list((store.folder / "blobs" / "sha256").iterdir()) == []


def test_a_truncated_blob_is_reported_and_then_healed(store: LayoutStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(DATA)
    store.put_blob("a/b", BLOB, DATA)
    blob = store.local_file(BLOB.id)
    assert blob is not None
    os.truncate(blob, 5)
    with pytest.raises(IntegrityError, match="has 5 bytes instead of 10000") as caught, store.open_blob("a/b", BLOB):
        pass
    assert str(blob) in caught.value.hint
    store.put_blob("a/b", BLOB, source)
    assert store.read_blob("a/b", BLOB) == DATA


def test_rotten_bytes_never_end(store: LayoutStore) -> None:
    store.put_blob("a/b", BLOB, DATA)
    blob = store.local_file(BLOB.id)
    assert blob is not None
    blob.write_bytes(DATA[:-1] + b"!")
    with pytest.raises(IntegrityError, match="other bytes"):
        store.read_blob("a/b", BLOB)
    with store.open_blob("a/b", BLOB) as stream, pytest.raises(IntegrityError, match="other bytes"):
        stream.read()


def test_a_rotten_manifest(store: LayoutStore) -> None:
    manifest = make_manifest()
    store.put_manifest("a/b", manifest, "t")
    blob = store.local_file(manifest.digest)
    assert blob is not None
    blob.write_bytes(manifest.data[:-1] + b" ")
    with pytest.raises(IntegrityError, match="other bytes"):
        store.get_manifest("a/b", "t")
    blob.write_bytes(b"")
    with pytest.raises(IntegrityError, match="0 bytes"):
        store.head_manifest("a/b", "t")
    store.put_manifest("a/b", manifest, "t")
    assert store.get_manifest("a/b", "t") == manifest
    blob.unlink()
    assert store.head_manifest("a/b", "t") is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"manifests": 3}', '{"manifests": [7]}', '{"schemaVersion": 2, "manifests": [', "\x00" * 50, "[" * 100_000],
)
def test_a_damaged_index_is_reported_and_kept(store: LayoutStore, text: str) -> None:
    store.put_manifest("a/b", make_manifest(), "t")
    path = store.folder / "index.json"
    path.write_text(text)
    for call in (
        lambda: store.head_manifest("a/b", "t"),
        lambda: list(store.list_tags("a/b")),
        lambda: store.put_manifest("a/b", make_manifest(), "t"),
    ):
        with pytest.raises(IntegrityError, match=r"index\.json is damaged") as caught:
            call()
        assert "move the folder away" in caught.value.hint
    assert path.read_text() == text


@pytest.mark.parametrize("entry", [{}, {"mediaType": "x", "digest": "sha256:1", "size": 1}, {"mediaType": 3, "digest": 4, "size": "x"}])
def test_a_damaged_entry(store: LayoutStore, entry: dict[str, object]) -> None:
    store.put_manifest("a/b", make_manifest(), "t")
    entry = {**entry, "annotations": {"org.opencontainers.image.ref.name": "a/b:bad"}}
    (store.folder / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with pytest.raises(IntegrityError, match="a/b:bad"):
        store.get_manifest("a/b", "bad")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"imageLayoutVersion": "2.0.0"}'])
def test_another_layout_version_is_not_written_to(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "layout"
    folder.mkdir()
    (folder / "oci-layout").write_text(text)
    with pytest.raises(IntegrityError):
        LayoutStore(folder).put_manifest("a/b", make_manifest(), "t")


@pytest.mark.parametrize("name", ["", "A/b", "../x", "a b", "a/b:t", "a\n"])
@pytest.mark.parametrize("tag", ["t", "", "-t", "a/b", "a:b"])
def test_names_that_are_none(store: LayoutStore, name: str, tag: str) -> None:
    with pytest.raises(ImagebuildError):
        store.put_manifest(name, make_manifest(), tag)
    with pytest.raises(ImagebuildError):
        store.get_manifest(name, tag)
    assert not store.folder.exists()


def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigurationError):
        LayoutStore(tmp_path / "file" / "layout").put_blob("a/b", BLOB, DATA)


def test_leftovers_of_killed_writers_go_when_they_are_old(store: LayoutStore) -> None:
    store.put_blob("a/b", BLOB, DATA)
    blobs = store.folder / "blobs" / "sha256"
    old, young = blobs / ".tmp-old", blobs / ".tmp-young"
    for leftover in (old, young):
        leftover.write_bytes(b"x")
    os.utime(old, (time.time() - 100_000,) * 2)
    LayoutStore(store.folder).put_blob("a/b", BLOB, DATA)
    assert not old.exists()
    assert young.exists()


# --- several writers ---------------------------------------------------------------------------------------------------


def write_tags(folder: Path, name: str, count: int) -> None:
    store = LayoutStore(folder)
    for number in range(count):
        store.put_blob("team/x", BLOB, DATA)
        store.put_manifest("team/x", make_manifest(f"{name} {number}"), f"{name}-{number}")
        store.put_manifest("team/x", make_manifest(f"{name} {number}"), "latest")


@pytest.mark.slow
def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    folder, count = tmp_path / "layout", 25
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_tags, args=(folder, name, count)) for name in ("one", "two")]
    for writer in writers:
        writer.start()
    reader = LayoutStore(folder)
    while any(writer.is_alive() for writer in writers):  # a reader without a lock sees whole states only
        for tag in reader.list_tags("team/x"):
            assert reader.get_manifest("team/x", tag) is not None
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    expected = {f"{name}-{number}" for name in ("one", "two") for number in range(count)} | {"latest"}
    assert set(reader.list_tags("team/x")) == expected
    assert reader.get_manifest("team/x", "latest") in (make_manifest(f"one {count - 1}"), make_manifest(f"two {count - 1}"))
    assert not list(folder.rglob(".tmp-*"))


def write_until_killed(folder: Path) -> None:
    write_tags(folder, "x", 1_000_000)


def test_a_writer_killed_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_until_killed, args=(folder,))
    writer.start()
    deadline = time.monotonic() + 20
    while not (folder / "index.json").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.05)
    writer.kill()
    writer.join()
    store = LayoutStore(folder)
    for tag in store.list_tags("team/x"):
        assert store.get_manifest("team/x", tag) is not None
    store.put_manifest("team/x", make_manifest("after"), "after")
    assert store.get_manifest("team/x", "after") == make_manifest("after")
