"""A registry that takes requests and says nothing: what that may cost is bounded over the whole run, not for each attempt."""

from __future__ import annotations

import hashlib
import inspect
import time
from pathlib import Path

import pytest

from imagebuild.errors import RemoteError
from imagebuild.http import pace, retry
from imagebuild.http.retry import Patience
from imagebuild.oci import transport
from imagebuild.oci.model import Descriptor
from imagebuild.oci.registry import RegistryStore
from tests.support.servers.scripted import Answer, Asked, in_turn, serve

STALL = 0.3  # seconds; the store's time-out
BLOB = bytes(range(256)) * 800
BLOB_AT = Descriptor("application/octet-stream", "sha256:" + hashlib.sha256(BLOB).hexdigest(), len(BLOB))
MANIFEST = b'{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}'
FOUND = Answer(200, {"Content-Type": "application/vnd.oci.image.index.v1+json"}, MANIFEST)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "STALLED", 1.6 * STALL)
    monkeypatch.setattr(transport.Transport, "_probe_scheme", lambda _: "http")


def open_store(host: str) -> RegistryStore:
    return RegistryStore(host, insecure=True, sleep=lambda _: None, timeout=(5, STALL))


def test_one_stall_is_forgiven() -> None:
    with serve(in_turn(Answer(stall=1), FOUND)) as server:
        assert open_store(server.host).get_manifest("a/b", "1") is not None


@pytest.mark.slow
def test_a_second_one_in_a_row_is_final() -> None:
    with serve(in_turn(Answer(stall=1))) as server:
        started = time.monotonic()
        with pytest.raises(RemoteError, match="no answer in time"):
            open_store(server.host).get_manifest("a/b", "1")
        assert len(server.asked) == 2
        assert time.monotonic() - started < 10 * STALL


@pytest.mark.slow
def test_what_other_requests_waited_counts() -> None:
    with serve(in_turn(Answer(stall=1), FOUND, Answer(stall=1), FOUND)) as server:
        store = open_store(server.host)
        assert store.get_manifest("a/b", "1") is not None
        with pytest.raises(RemoteError, match="no answer in time"):
            store.get_manifest("a/b", "2")


@pytest.mark.slow
def test_a_body_that_stalls() -> None:
    with serve(in_turn(Answer(200, {}, BLOB, sent=1000, stall=1))) as server:
        with pytest.raises(RemoteError, match="no answer in time"), open_store(server.host).open_blob("a/b", BLOB_AT) as stream:
            stream.read()
        assert len(server.asked) == 2


@pytest.mark.slow
def test_a_blob_that_trickles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.5)
    with serve(in_turn(Answer(200, {}, BLOB, pace=0.05))) as server:
        started = time.monotonic()
        with pytest.raises(RemoteError, match="no answer in time"), open_store(server.host).open_blob("a/b", BLOB_AT) as stream:
            stream.read()
        assert time.monotonic() - started < 10


@pytest.mark.slow
def test_a_reader_that_is_slow_itself_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.2)
    with serve(in_turn(Answer(200, {}, BLOB))) as server, open_store(server.host).open_blob("a/b", BLOB_AT) as stream:
        first = stream.read(10)
        time.sleep(0.5)
        assert first + stream.read() == BLOB


@pytest.mark.slow
def test_an_upload_that_is_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(BLOB)

    def script(asked: Asked) -> Answer:
        if asked.method == "POST":
            return Answer(202, {"Location": "/v2/a/b/blobs/uploads/1"})
        return Answer(404) if asked.method == "HEAD" else Answer(201, stall=1)

    with serve(script) as server:
        with pytest.raises(RemoteError, match="no answer in time"):
            open_store(server.host).put_blob("a/b", BLOB_AT, source)
        assert sum(line.startswith("PUT") for line in server.lines) <= 2


def test_good_answers_give_patience_back() -> None:
    now = [0.0]
    patience = Patience(10, clock=lambda: now[0])
    assert patience.spend(9)
    for _ in range(90):
        patience.restore()
    now[0] = 9
    assert patience.spend(9)
    now[0] = 18
    assert not patience.spend(9)


def test_what_several_waited_at_once_counts_once() -> None:
    now = [0.0]
    patience = Patience(10, clock=lambda: now[0])
    assert all(patience.spend(6) for _ in range(8))
    now[0] = 2
    assert patience.spend(6)
    now[0] = 8
    assert not patience.spend(6)


def test_the_worst_that_a_silent_registry_costs() -> None:
    """As commands make a store: the probe for TLS, and time-outs until patience ends, leave a run time of its own within two minutes."""
    timeout = inspect.signature(RegistryStore).parameters["timeout"].default[1]
    now = [0.0]
    patience = Patience(retry.STALLED, clock=lambda: now[0])
    now[0] += timeout
    while patience.spend(timeout):
        now[0] += timeout
    assert now[0] == 2 * timeout  # one is forgiven
    assert now[0] + transport._PROBE <= 110
