"""An index that takes requests and says nothing, or a byte now and then: what that may cost is bounded over the whole run."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from pathlib import Path

import pytest

from imagebuild.errors import RemoteError
from imagebuild.http import pace
from imagebuild.lock.index import client
from imagebuild.lock.index.upstream import Upstream
from tests.support.servers.index import make_index
from tests.support.servers.scripted import Answer, Asked, Script, serve

STALL = 0.3
WHEEL = bytes(range(256)) * 400
NAME = "alpha-1.0-py3-none-any.whl"
PAGE = Answer(
    200,
    {"Content-Type": "application/vnd.pypi.simple.v1+json"},
    json.dumps(
        {
            "meta": {"api-version": "1.1"},
            "name": "alpha",
            "files": [{"filename": NAME, "url": f"/{NAME}", "hashes": {"sha256": hashlib.sha256(WHEEL).hexdigest()}, "size": len(WHEEL)}],
        }
    ).encode(),
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUTS", (5, STALL))
    monkeypatch.setattr(client, "STALLED", 1.6 * STALL)


def answer_files(*answers: Answer) -> Script:
    remaining = list(answers)

    def script(asked: Asked) -> Answer:
        if asked.path.startswith("/simple/"):
            return PAGE
        return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return script


def fetch(host: str, folder: Path) -> bytes:
    with Upstream(make_index(f"http://{host}/simple/"), folder / "cache", pause=lambda _: None) as upstream:
        page = upstream.read_project("alpha")
        assert page is not None
        upstream.download(page.files[0], folder / "file")
    return (folder / "file").read_bytes()


def test_one_stall_is_forgiven(tmp_path: Path) -> None:
    with serve(answer_files(Answer(stall=1), Answer(body=WHEEL))) as server:
        assert fetch(server.host, tmp_path) == WHEEL


@pytest.mark.slow
@pytest.mark.parametrize("stalled", [Answer(stall=1), Answer(body=WHEEL, sent=1000, stall=1)])
def test_a_second_one_is_final(tmp_path: Path, stalled: Answer) -> None:
    with serve(answer_files(stalled)) as server:
        with pytest.raises(RemoteError, match="takes requests and does not answer in time"):
            fetch(server.host, tmp_path)
        assert len([asked for asked in server.asked if asked.path.endswith(".whl")]) == 2


@pytest.mark.slow
def test_a_page_that_stalls(tmp_path: Path) -> None:
    with serve(lambda _: Answer(stall=1)) as server:
        with pytest.raises(RemoteError, match="takes requests and does not answer in time"):
            fetch(server.host, tmp_path)
        assert len(server.asked) == 2


@pytest.mark.slow
@pytest.mark.parametrize("trickling", ["page", "file"])
def test_a_body_that_trickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trickling: str) -> None:
    monkeypatch.setattr(pace, "WINDOW", 0.5)
    slow = Answer(PAGE.status, PAGE.headers, PAGE.body, pace=0.05) if trickling == "page" else Answer(body=WHEEL, pace=0.05)
    with serve(lambda _: slow) if trickling == "page" else serve(answer_files(slow)) as server:
        started = time.monotonic()
        with pytest.raises(RemoteError, match="takes requests and does not answer in time"):
            fetch(server.host, tmp_path)
        assert time.monotonic() - started < 10
    gc.collect()  # a connection that is left open is a ResourceWarning, which fails the test
