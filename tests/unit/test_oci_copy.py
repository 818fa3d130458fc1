"""What is mounted, what is copied, and that nothing is copied unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.copy import copy_blobs, is_same_store, plan_copy
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Descriptor, Digest
from imagebuild.oci.registry import RegistryStore
from tests.support.servers.scripted import Answer, Asked, serve

FIRST, SECOND = b"first" * 300_000, b"second" * 100
BLOBS = tuple(Descriptor("application/octet-stream", Digest.of(data), len(data)) for data in (FIRST, SECOND))


class FakeRegistry:
    """Blobs in memory; says of a mount what it was told to say."""

    def __init__(self, blobs: dict[str, bytes], mount: int = 201, head: int = 200) -> None:
        self.blobs, self.mount, self.head = blobs, mount, head

    def __call__(self, asked: Asked) -> Answer:
        digest = asked.path.rpartition("/")[2]
        if asked.method == "POST":
            return Answer(self.mount if asked.query else 202, {"Location": f"/{asked.path.split('/')[2]}"})
        if asked.method == "PUT":
            self.blobs[dict(asked.query)["digest"]] = asked.body
            return Answer(201)
        if asked.method == "DELETE":
            return Answer(204)
        if asked.method == "HEAD":
            return Answer(self.head if self.head != 200 or digest in self.blobs else 404)
        return Answer(200, {}, self.blobs[digest]) if digest in self.blobs else Answer(404)


def open_store(host: str) -> RegistryStore:
    return RegistryStore(host, sleep=lambda _: None)


@pytest.fixture
def layout(tmp_path: Path) -> LayoutStore:
    store = LayoutStore(tmp_path / "layout")
    for data, blob in zip((FIRST, SECOND), BLOBS, strict=True):
        store.put_blob("base/x", blob, data)
    return store


def test_within_one_folder_everything_is_there(layout: LayoutStore) -> None:
    plan = plan_copy(layout, "base/x", LayoutStore(layout.folder), "team/x", (*BLOBS, *BLOBS))
    assert plan.present == BLOBS
    assert plan.mountable == plan.to_copy == ()
    copy_blobs(plan, allow_copy=False)


def test_within_one_folder_a_missing_blob_is_named(layout: LayoutStore) -> None:
    missing = Descriptor("x", Digest.of(b"missing"), 7)
    for allowed in (False, True):
        with pytest.raises(RemoteError, match=r"does not hold 1 blob \(7 B\) of base/x"):
            copy_blobs(plan_copy(layout, "base/x", layout, "team/x", [missing]), allow_copy=allowed)


def test_within_one_registry_blobs_are_mounted() -> None:
    with serve(FakeRegistry({BLOBS[1].digest: SECOND})) as server:
        plan = plan_copy(open_store(server.host), "base/x", open_store(server.host), "team/x", BLOBS)
        assert (plan.present, plan.mountable, plan.to_copy) == (BLOBS[1:], BLOBS[:1], ())
        lines: list[str] = []
        copy_blobs(plan, allow_copy=False, report=lines.append)
        assert lines == [f"mounted {BLOBS[0].digest} (1.4 MiB) of base/x"]
        assert "PUT" not in {asked.method for asked in server.asked}


@pytest.mark.parametrize("status", [202, 403])
def test_a_refused_mount_is_never_a_copy_unasked(status: int) -> None:
    script = FakeRegistry({}, mount=status)
    with serve(script) as server:
        store = open_store(server.host)
        with pytest.raises(RemoteError, match=r"cannot be mounted for .*: 2 blobs \(1\.4 MiB\) would have to be copied") as caught:
            copy_blobs(plan_copy(store, "base/x", store, "team/x", BLOBS), allow_copy=False)
        assert "--copy-base" in caught.value.hint
        assert not {"PUT", "GET"} & {asked.method for asked in server.asked}


def test_a_refused_mount_is_copied_when_asked() -> None:
    class TwoRepositories(FakeRegistry):
        def __call__(self, asked: Asked) -> Answer:
            if asked.method == "HEAD" and "team" in asked.path:
                return Answer(404)
            return super().__call__(asked)

    script = TwoRepositories({blob.digest: data for blob, data in zip(BLOBS, (FIRST, SECOND), strict=True)}, mount=202)
    with serve(script) as server:
        store = open_store(server.host)
        copy_blobs(plan_copy(store, "base/x", store, "team/x", BLOBS), allow_copy=True)
        assert [asked.body for asked in server.asked if asked.method == "PUT"] == [FIRST, SECOND]


def test_between_two_places_copying_has_to_be_allowed(layout: LayoutStore, tmp_path: Path) -> None:
    other = LayoutStore(tmp_path / "other")
    plan = plan_copy(layout, "base/x", other, "team/x", BLOBS)
    assert plan.to_copy == BLOBS
    assert plan.bytes_to_copy == len(FIRST) + len(SECOND)
    with pytest.raises(RemoteError, match=r"2 blobs \(1\.4 MiB\)") as caught:
        copy_blobs(plan, allow_copy=False)
    assert "--copy-base" in caught.value.hint
    assert not other.folder.exists()
    copy_blobs(plan, allow_copy=True)
    assert other.read_blob("team/x", BLOBS[0]) == FIRST


def test_from_a_registry_to_a_folder_and_back(tmp_path: Path) -> None:
    script = FakeRegistry({blob.digest: data for blob, data in zip(BLOBS, (FIRST, SECOND), strict=True)})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    layout = LayoutStore(tmp_path / "layout")
    with serve(script) as server:
        copy_blobs(plan_copy(open_store(server.host), "base/x", layout, "team/x", BLOBS), allow_copy=True, scratch=scratch)
        assert layout.read_blob("team/x", BLOBS[0]) == FIRST
        assert list(scratch.iterdir()) == []
        script.blobs.clear()
        copy_blobs(plan_copy(layout, "team/x", open_store(server.host), "team/y", BLOBS), allow_copy=True)
        assert script.blobs == {blob.digest: data for blob, data in zip(BLOBS, (FIRST, SECOND), strict=True)}


def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path / "layout")
    with serve(FakeRegistry({BLOBS[0].digest: FIRST[:-1] + b"!"})) as server, pytest.raises(IntegrityError):
        copy_blobs(plan_copy(open_store(server.host), "base/x", layout, "team/x", BLOBS[:1]), allow_copy=True)
    assert layout.has_blob("team/x", BLOBS[0].id) is False


def test_unknown_is_not_absent(layout: LayoutStore) -> None:
    with serve(FakeRegistry({}, head=500)) as server, pytest.raises(RemoteError, match="HTTP 500"):
        plan_copy(layout, "base/x", open_store(server.host), "team/x", BLOBS)


def test_what_is_one_place(layout: LayoutStore, tmp_path: Path) -> None:
    assert is_same_store(layout, LayoutStore(layout.folder))
    assert not is_same_store(layout, LayoutStore(tmp_path / "other"))
    assert is_same_store(open_store("localhost:1"), open_store("localhost:1"))
    assert not is_same_store(open_store("localhost:1"), open_store("localhost:2"))
