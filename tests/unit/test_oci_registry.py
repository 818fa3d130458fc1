"""The registry client against servers that misbehave; what a good one does is tests/integration/test_oci_registry.py."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from imagebuild.errors import ConfigurationError, ImagebuildError, IntegrityError, RemoteError
from imagebuild.oci.credentials import Credentials
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.listing import DEFAULT_LIMITS, ListingLimits
from imagebuild.oci.model import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.registry import RegistryStore
from imagebuild.oci.transport import Transport
from tests.support.servers.scripted import Answer, Asked, in_turn, serve

BLOB = bytes(range(256)) * 2000
BLOB_AT = Descriptor("application/octet-stream", Digest.of(BLOB), len(BLOB))
CONFIG = b"{}"
MANIFEST = RawManifest(
    json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "layers": [],
            "config": {"mediaType": OCI_CONFIG, "digest": Digest.of(CONFIG), "size": 2},
        },
        indent=3,
    ).encode(),
    OCI_MANIFEST,
)
GOOD_MANIFEST = Answer(200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": MANIFEST.digest}, MANIFEST.data)
OTHER = Digest.of(b"other")


class Naps(list[float]):
    """A ``sleep`` that only remembers."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def open_store(
    host: str,
    naps: Naps | None = None,
    credentials: Credentials | None = None,
    clock: Callable[[], float] = lambda: 1_000_000.0,
    listing: ListingLimits = DEFAULT_LIMITS,
) -> RegistryStore:
    return RegistryStore(
        host,
        credentials=credentials,
        insecure=True,
        sleep=naps if naps is not None else Naps(),
        clock=clock,
        timeout=(5, 5),
        listing=listing,
    )


def log_in(host: str, **extra: str) -> Credentials:
    auth = base64.b64encode(b"ann:s3cr:et").decode()
    return Credentials({"auths": {host: {"auth": auth, **extra}}})


@pytest.fixture(autouse=True)
def _known_scheme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each store would first try TLS on the server, which costs these many tests more than they do."""
    if "real_scheme" not in request.fixturenames:
        monkeypatch.setattr(Transport, "_probe_scheme", lambda _: "http")


@pytest.fixture
def real_scheme() -> None:
    """Ask for this to keep the look for TLS."""


# --- retries -----------------------------------------------------------------------------------------------------------


def test_waits_as_many_seconds_as_the_registry_says() -> None:
    with serve(in_turn(Answer(429, {"Retry-After": "7"}), GOOD_MANIFEST)) as server:
        naps = Naps()
        assert open_store(server.host, naps).get_manifest("a/b", "t") == MANIFEST
    assert len(naps) == 1
    assert 7 <= naps[0] <= 7.5


def test_waits_until_the_date_the_registry_says() -> None:
    date = email.utils.formatdate(1_000_020, usegmt=True)
    with serve(in_turn(Answer(429, {"Retry-After": date}), GOOD_MANIFEST)) as server:
        naps = Naps()
        assert open_store(server.host, naps).get_manifest("a/b", "t") == MANIFEST
    assert 20 <= naps[0] <= 20.5


@pytest.mark.parametrize("value", ["soon", "-3", "", "99999999999999999999", "Thu, 99 Foo 2024 00:00:00 GMT"])
def test_a_strange_retry_after_is_survived_and_capped(value: str) -> None:
    with serve(in_turn(Answer(429, {"Retry-After": value}), GOOD_MANIFEST)) as server:
        naps = Naps()
        assert open_store(server.host, naps).get_manifest("a/b", "t") == MANIFEST
    assert len(naps) == 1
    assert 0 <= naps[0] <= 61


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_gives_up_after_five_attempts(status: int) -> None:
    error = json.dumps({"errors": [{"code": "UNAVAILABLE", "message": "storage is\ndown"}]}).encode()
    with serve(in_turn(Answer(status, {}, error))) as server:
        naps = Naps()
        store = open_store(server.host, naps)
        with pytest.raises(RegistryError) as caught:
            store.get_manifest("a/b", "t")
        assert caught.value.message == f"{server.host}: a/b: get manifest t: HTTP {status}: UNAVAILABLE: storage is down"
        assert caught.value.hint
        assert len(server.asked) == 5
        assert len(naps) == 4
        assert all(0 < nap <= 8 for nap in naps)


def test_a_reset_connection_is_tried_again() -> None:
    with serve(in_turn(Answer(reset=True), Answer(reset=True), GOOD_MANIFEST)) as server:
        assert open_store(server.host).get_manifest("a/b", "t") == MANIFEST
        assert len(server.asked) == 3


def test_a_manifest_cut_short_is_asked_for_again() -> None:
    cut = Answer(200, GOOD_MANIFEST.headers, MANIFEST.data, sent=10)
    with serve(in_turn(cut, GOOD_MANIFEST)) as server:
        assert open_store(server.host).get_manifest("a/b", "t") == MANIFEST


def test_a_client_error_is_not_tried_again() -> None:
    with serve(in_turn(Answer(400))) as server:
        with pytest.raises(RemoteError, match="HTTP 400"):
            open_store(server.host).get_manifest("a/b", "t")
        assert len(server.asked) == 1


def test_nobody_there(unused_port: int) -> None:
    naps = Naps()
    store = open_store(f"127.0.0.1:{unused_port}", naps)
    with pytest.raises(RemoteError, match="Connection refused") as caught:
        store.head_manifest("a/b", "t")
    assert "check the address" in caught.value.hint
    assert len(naps) == 2
    with pytest.raises(RemoteError, match="no connection"):
        store.get_manifest("a/b", "t")


@pytest.fixture
def unused_port() -> int:
    from tests.support.tools import find_port

    return find_port()


# --- presence ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "there"),
    [
        (Answer(200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OTHER, "Content-Length": "77"}), True),
        (Answer(404), False),
        (Answer(401), None),
        (Answer(403), None),
        (Answer(503), None),
        (Answer(reset=True), None),
    ],
)
def test_there_absent_or_not_said(answer: Answer, there: bool | None) -> None:
    """What a registry does not say (None) is an error, never absence."""
    with serve(lambda _: answer) as server:
        store = open_store(server.host)
        if there is not None:
            assert (store.head_manifest("a/b", "t") is not None) is there
            assert store.has_blob("a/b", OTHER) is there
            return
        for ask in (lambda: store.head_manifest("a/b", "t"), lambda: store.has_blob("a/b", OTHER), lambda: store.get_manifest("a/b", "t")):
            with pytest.raises(RemoteError):
                ask()


def test_head_with_everything_is_one_request() -> None:
    headers = {"Content-Type": f"{OCI_MANIFEST}; charset=utf-8", "Docker-Content-Digest": OTHER, "Content-Length": "77"}
    with serve(lambda _: Answer(200, headers)) as server:
        assert open_store(server.host).head_manifest("a/b", "t") == Descriptor(OCI_MANIFEST, OTHER, 77)
        assert server.lines == ["HEAD /v2/a/b/manifests/t"]
        for media_type in (OCI_INDEX, OCI_MANIFEST, DOCKER_MANIFEST, "application/vnd.docker.distribution.manifest.list.v2+json"):
            assert media_type in server.asked[0].headers["accept"]


@pytest.mark.parametrize("head", [Answer(405), Answer(200, {"Content-Type": "text/plain"}), Answer(200, {"Content-Type": OCI_MANIFEST})])
def test_head_falls_back_to_get(head: Answer) -> None:
    with serve(lambda asked: head if asked.method == "HEAD" else GOOD_MANIFEST) as server:
        assert open_store(server.host).head_manifest("a/b", "t") == MANIFEST.descriptor
        assert server.lines == ["HEAD /v2/a/b/manifests/t", "GET /v2/a/b/manifests/t"]


def test_blob_head_falls_back_to_one_byte() -> None:
    def script(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(405)
        return Answer(206, {"Content-Range": "bytes 0-0/9"}, b"x") if OTHER in asked.path else Answer(404)

    with serve(script) as server:
        store = open_store(server.host)
        assert store.has_blob("a/b", OTHER) is True
        assert store.has_blob("a/b", BLOB_AT.id) is False
        assert server.asked[1].headers["range"] == "bytes=0-0"


# --- manifests: bytes and types ----------------------------------------------------------------------------------------


def test_wrong_bytes_for_a_digest() -> None:
    with (
        serve(lambda _: Answer(200, {"Content-Type": OCI_MANIFEST}, MANIFEST.data)) as server,
        pytest.raises(IntegrityError, match="instead of"),
    ):
        open_store(server.host).get_manifest("a/b", OTHER)


def test_wrong_bytes_for_the_digest_the_registry_names() -> None:
    with (
        serve(lambda _: Answer(200, {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OTHER}, MANIFEST.data)) as server,
        pytest.raises(IntegrityError, match=OTHER),
    ):
        open_store(server.host).get_manifest("a/b", "t")


def test_head_that_names_another_digest() -> None:
    headers = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": OTHER, "Content-Length": "9"}
    with serve(lambda _: Answer(200, headers)) as server, pytest.raises(IntegrityError):
        open_store(server.host).head_manifest("a/b", MANIFEST.digest)


def test_a_type_that_contradicts_the_manifest() -> None:
    with (
        serve(lambda _: Answer(200, {"Content-Type": DOCKER_MANIFEST}, MANIFEST.data)) as server,
        pytest.raises(IntegrityError, match="was served as"),
    ):
        open_store(server.host).get_manifest("a/b", "t")


@pytest.mark.parametrize("served", ["application/json", "text/plain", "application/octet-stream"])
def test_a_type_that_says_nothing(served: str) -> None:
    with serve(lambda _: Answer(200, {"Content-Type": served}, MANIFEST.data)) as server:
        assert open_store(server.host).get_manifest("a/b", "t") == MANIFEST


@pytest.mark.parametrize(
    "data",
    [
        b"not json",
        b"[]",
        b'{"schemaVersion":1,"fsLayers":[]}',
        b'{"schemaVersion":2,"manifests":[],"layers":[]}',
        b'{"schemaVersion":2,"mediaType":"%s","manifests":[]}' % OCI_MANIFEST.encode(),
        b"\xff" * 20,
    ],
)
def test_a_manifest_that_is_none(data: bytes) -> None:
    with serve(lambda _: Answer(200, {"Content-Type": "application/json"}, data)) as server, pytest.raises(IntegrityError):
        open_store(server.host).get_manifest("a/b", "t")


def test_a_manifest_too_large() -> None:
    with (
        serve(lambda _: Answer(200, {"Content-Type": OCI_MANIFEST}, bytes((4 << 20) + 1))) as server,
        pytest.raises(RemoteError, match="larger than 4096 KiB"),
    ):
        open_store(server.host).get_manifest("a/b", "t")


def test_a_registry_that_rewrites_a_manifest() -> None:
    with serve(lambda _: Answer(201, {"Docker-Content-Digest": OTHER})) as server:
        with pytest.raises(IntegrityError, match="stored"):
            open_store(server.host).put_manifest("a/b", MANIFEST, "t")
        assert server.asked[0].body == MANIFEST.data
        assert server.asked[0].headers["content-type"] == OCI_MANIFEST


@pytest.mark.parametrize("name", ["", "A/b", "a//b", "../x", "a/b?x=1", "a/b:t", "a b", "a/" + "é"])
def test_names_that_are_none_never_reach_an_address(name: str) -> None:
    with serve(lambda _: Answer(200)) as server:
        store = open_store(server.host)
        for call in (
            lambda: store.get_manifest(name, "t"),
            lambda: store.has_blob(name, OTHER),
            lambda: store.put_blob(name, BLOB_AT, BLOB),
            lambda: list(store.list_tags(name)),
            lambda: store.mount_blob("a/b", OTHER, name),
            lambda: store.put_manifest("a/b", MANIFEST, name or "?"),
        ):
            with pytest.raises(ImagebuildError):
                call()
        assert server.asked == []


# --- downloads ---------------------------------------------------------------------------------------------------------


def read_all(store: RegistryStore, descriptor: Descriptor = BLOB_AT) -> bytes:
    with store.open_blob("a/b", descriptor) as stream:
        return b"".join(iter(lambda: stream.read(100_000), b""))


def test_a_cut_download_goes_on_where_it_broke() -> None:
    def script(asked: Asked) -> Answer:
        start = int(asked.headers.get("range", "bytes=0-")[6:-1])
        status, headers = (206, {"Content-Range": f"bytes {start}-{len(BLOB) - 1}/{len(BLOB)}"}) if start else (200, {})
        return Answer(status, headers, BLOB[start:], sent=200_000)

    with serve(script) as server:
        assert read_all(open_store(server.host)) == BLOB
        assert [asked.headers.get("range") for asked in server.asked] == [None, "bytes=200000-", "bytes=400000-"]


def test_a_cut_download_without_range_support() -> None:
    with serve(in_turn(Answer(200, {}, BLOB, sent=200_000), Answer(200, {}, BLOB, sent=300_000), Answer(200, {}, BLOB))) as server:
        assert read_all(open_store(server.host)) == BLOB
        assert len(server.asked) == 3


def test_a_cut_download_is_given_up_without_progress() -> None:
    with serve(
        in_turn(Answer(200, {}, BLOB, sent=1000), Answer(206, {"Content-Range": f"bytes 1000-{len(BLOB) - 1}/*"}, BLOB[1000:], sent=0))
    ) as server:
        naps = Naps()
        with pytest.raises(RemoteError, match="cut short at 1000 of 512000 bytes"):
            read_all(open_store(server.host, naps))
        assert len(server.asked) == 5
        assert len(naps) == 4


def test_a_short_body_with_a_matching_length() -> None:
    with serve(lambda _: Answer(200, {}, BLOB[:1000])) as server, pytest.raises(RemoteError, match="cut short"):
        read_all(open_store(server.host))


def test_a_blob_with_wrong_bytes_never_ends() -> None:
    wrong = BLOB[:-1] + b"!"
    with serve(lambda _: Answer(200, {}, wrong)) as server:
        got: list[bytes] = []
        with open_store(server.host).open_blob("a/b", BLOB_AT) as stream, pytest.raises(IntegrityError, match="other bytes"):
            got.extend(iter(lambda: stream.read(1000), b""))
        assert sum(map(len, got)) < len(BLOB)
        with pytest.raises(IntegrityError):
            open_store(server.host).read_blob("a/b", BLOB_AT)


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "", "Connection": "close"}])
def test_a_blob_that_is_too_long(headers: dict[str, str]) -> None:
    small = Descriptor("x", Digest.of(BLOB[:1000]), 1000)
    sent = len(BLOB) if headers else None
    with serve(lambda _: Answer(200, headers, BLOB, sent=sent)) as server, pytest.raises(IntegrityError, match=r"more than|instead of"):
        read_all(open_store(server.host), small)


def test_an_empty_blob() -> None:
    with serve(lambda _: Answer(200)) as server:
        assert read_all(open_store(server.host), Descriptor("x", Digest.of(b""), 0)) == b""
        with pytest.raises(IntegrityError):
            read_all(open_store(server.host), Descriptor("x", OTHER, 0))


def test_a_config_said_to_be_enormous() -> None:
    with serve(lambda _: Answer(200)) as server:
        with pytest.raises(IntegrityError, match="32 MiB"):
            open_store(server.host).read_blob("a/b", Descriptor(OCI_CONFIG, OTHER, 1 << 40))
        assert server.asked == []


def test_the_authorisation_stays_behind_on_a_redirect() -> None:
    def registry(asked: Asked) -> Answer:
        if not asked.authorization:
            return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(307, {"Location": f"http://{storage.host}/bucket/blob?signature=a%2Fb%3D"})

    with serve(lambda _: Answer(200, {}, BLOB)) as storage, serve(registry) as server:
        assert read_all(open_store(server.host, credentials=log_in(server.host))) == BLOB
        assert server.asked[-1].authorization.startswith("Basic ")
        assert [asked.authorization for asked in storage.asked] == [""]
        assert storage.asked[0].target == "/bucket/blob?signature=a%2Fb%3D"


def test_netrc_goes_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login leak password leak\n")
    monkeypatch.setenv("NETRC", str(netrc))
    redirected = Answer(307, {"Location": "/elsewhere"})
    with serve(lambda asked: redirected if "blobs" in asked.path else Answer(200, {}, BLOB)) as server:
        assert read_all(open_store(server.host)) == BLOB
        assert [asked.authorization for asked in server.asked] == ["", ""]


def test_a_circle_of_redirects() -> None:
    with serve(lambda asked: Answer(302, {"Location": asked.target})) as server, pytest.raises(RemoteError, match="redirects"):
        open_store(server.host).get_manifest("a/b", "t")


@pytest.mark.parametrize("location", ["ftp://x/y", "http://[", "http:///x", "http://h:port/x", "javascript:alert(1)"])
def test_a_redirect_to_nowhere(location: str) -> None:
    with serve(lambda _: Answer(302, {"Location": location})) as server, pytest.raises(RemoteError):
        open_store(server.host).get_manifest("a/b", "t")


def test_a_storage_service_that_signs_for_get_only() -> None:
    with (
        serve(lambda asked: Answer(403) if asked.method == "HEAD" else Answer(206, {}, b"x")) as storage,
        serve(lambda _: Answer(307, {"Location": f"http://{storage.host}/blob"})) as server,
    ):
        assert open_store(server.host).has_blob("a/b", OTHER) is True


def test_a_proxy_in_the_environment_is_not_asked_for_loopback(monkeypatch: pytest.MonkeyPatch, unused_port: int) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with serve(lambda _: GOOD_MANIFEST) as server:
        assert open_store(server.host).get_manifest("a/b", "t") == MANIFEST


# --- uploads -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location",
    [
        "/v2/a/b/blobs/uploads/17?_state=a%2Bb%3D%3D&x",
        "http://{host}/v2/a/b/blobs/uploads/17?_state=a%2Bb%3D%3D&x",
        "17?_state=a%2Bb%3D%3D&x",
    ],
)
def test_upload_is_one_post_and_one_put(location: str, tmp_path: Path) -> None:
    def script(asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(404)
        if asked.method == "POST":
            return Answer(202, {"Location": location.format(host=server.host)})
        return Answer(201, {"Docker-Content-Digest": BLOB_AT.digest})

    source = tmp_path / "blob"
    source.write_bytes(BLOB)
    with serve(script) as server:
        open_store(server.host).put_blob("a/b", BLOB_AT, source)
        assert [asked.method for asked in server.asked] == ["HEAD", "POST", "PUT"]
        put = server.asked[-1]
        assert put.target == f"/v2/a/b/blobs/uploads/17?_state=a%2Bb%3D%3D&x&digest=sha256%3A{BLOB_AT.id.hex}"
        assert put.headers["content-length"] == str(len(BLOB))
        assert "transfer-encoding" not in put.headers
        assert put.body == BLOB
        assert server.asked[1].headers["content-length"] == "0"


@pytest.mark.parametrize("size", [0, 5])
def test_small_uploads_have_a_length(size: int, tmp_path: Path) -> None:
    data = b"x" * size
    source = tmp_path / "blob"
    source.write_bytes(data)
    answers = {"HEAD": Answer(404), "POST": Answer(202, {"Location": "/up"}), "PUT": Answer(201)}
    with serve(lambda asked: answers[asked.method]) as server:
        for given in (source, data):
            open_store(server.host).put_blob("a/b", Descriptor("x", Digest.of(data), size), given)
            assert server.asked[-1].headers["content-length"] == str(size)
            assert "transfer-encoding" not in server.asked[-1].headers


def test_what_is_there_is_not_sent() -> None:
    with serve(lambda _: Answer(200, {"Content-Length": "9"})) as server:
        open_store(server.host).put_blob("a/b", BLOB_AT, BLOB)
        assert [asked.method for asked in server.asked] == ["HEAD"]


def test_an_upload_that_broke_is_begun_anew() -> None:
    puts = in_turn(Answer(503), Answer(reset=True), Answer(201))

    def script(asked: Asked) -> Answer:
        return {"HEAD": Answer(404), "POST": Answer(202, {"Location": "/up"})}.get(asked.method) or puts(asked)

    with serve(script) as server:
        open_store(server.host).put_blob("a/b", BLOB_AT, BLOB)
        assert [asked.method for asked in server.asked] == ["HEAD", "POST", "PUT"] * 3


class ChunkedUploads:
    """A registry's uploads, by the specification. ``puts``: answers to whole PUTs; ``breaks``: at which PATCH how many bytes arrive before
    the connection breaks; ``refuse``: the answer to every PATCH."""

    def __init__(self, puts: list[Answer], breaks: dict[int, int] | None = None, refuse: int = 0) -> None:
        self.data = b""
        self.stored: bytes | None = None
        self.puts, self.breaks, self.refuse = puts, breaks or {}, refuse
        self.patches = 0
        self.sent = 0  # bytes that clients sent in chunks

    def __call__(self, asked: Asked) -> Answer:
        if asked.method == "HEAD":
            return Answer(404 if self.stored is None else 200, {"Content-Length": "1"})
        if asked.method == "POST":
            self.data = b""
            return Answer(202, {"Location": "/up/0"})
        if asked.method == "GET":
            return Answer(204, {"Location": f"/up/{len(self.data)}", "Range": f"0-{max(0, len(self.data) - 1)}"})
        if asked.method == "PUT" and asked.body:
            answer = self.puts.pop(0)
            self.stored = asked.body if answer.status == 201 and not answer.reset else None
            return answer
        if asked.method == "PUT":
            self.stored = self.data
            return Answer(201)
        self.patches += 1
        if self.refuse:
            return Answer(self.refuse)
        start, _, end = asked.headers["content-range"].partition("-")
        assert (int(start), int(end)) == (len(self.data), len(self.data) + len(asked.body) - 1)
        assert asked.path == f"/up/{len(self.data)}"
        self.sent += len(asked.body)
        if (got := self.breaks.pop(self.patches, None)) is not None:
            self.data += asked.body[:got]
            return Answer(reset=True)
        self.data += asked.body
        return Answer(202, {"Location": f"/up/{len(self.data)}", "Range": "0-0"})  # as ECR: it sticks


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Descriptor, Path]:
    """A file of ten and a half chunks."""
    monkeypatch.setattr("imagebuild.oci.upload._CHUNK", 1000)
    source = tmp_path / "large"
    source.write_bytes(bytes(range(250)) * 42)
    return Descriptor("x", Digest.of(source.read_bytes()), 10_500), source


def test_a_large_upload_that_broke_goes_on_in_chunks(large: tuple[Descriptor, Path]) -> None:
    descriptor, source = large
    registry = ChunkedUploads([Answer(reset=True)], {3: 0, 5: 1000, 6: 400, 7: 0})
    with serve(registry) as server:
        open_store(server.host).put_blob("a/b", descriptor, source)
    assert registry.stored == source.read_bytes()
    assert registry.sent < 10_500 + 4 * 1000  # a break costs a chunk, and not the file


@pytest.mark.parametrize("status", [404, 405, 413, 416, 501])
def test_a_registry_that_takes_no_chunks_gets_one_put_again(large: tuple[Descriptor, Path], status: int) -> None:
    descriptor, source = large
    registry = ChunkedUploads([Answer(502), Answer(201)], refuse=status)
    with serve(registry) as server:
        open_store(server.host).put_blob("a/b", descriptor, source)
    assert registry.stored == source.read_bytes()
    assert registry.patches == 1


def test_a_registry_that_loses_count_is_begun_anew(large: tuple[Descriptor, Path]) -> None:
    descriptor, source = large

    class Forgetful(ChunkedUploads):
        def __call__(self, asked: Asked) -> Answer:
            return Answer(204, {"Range": "0-9000"}) if asked.method == "GET" else super().__call__(asked)

    registry = Forgetful([Answer(reset=True), Answer(201)], {2: 0})
    with serve(registry) as server:
        open_store(server.host).put_blob("a/b", descriptor, source)
    assert registry.stored == source.read_bytes()


def test_an_upload_that_never_gets_on_is_given_up(large: tuple[Descriptor, Path]) -> None:
    descriptor, source = large
    registry = ChunkedUploads([Answer(reset=True)] * 3, dict.fromkeys(range(2, 40), 0))
    with serve(registry) as server, pytest.raises(RemoteError):
        open_store(server.host).put_blob("a/b", descriptor, source)
    assert registry.stored is None
    assert registry.patches < 20


def test_a_small_upload_never_goes_in_chunks(large: tuple[Descriptor, Path]) -> None:
    source = large[1].with_name("small")
    source.write_bytes(b"x" * 900)
    registry = ChunkedUploads([Answer(reset=True), Answer(503), Answer(201)])
    with serve(registry) as server:
        open_store(server.host).put_blob("a/b", Descriptor("x", Digest.of(b"x" * 900), 900), source)
    assert (registry.stored, registry.patches) == (b"x" * 900, 0)


def test_an_upload_whose_answer_was_lost_is_not_sent_twice() -> None:
    heads = in_turn(Answer(404), Answer(200))

    def script(asked: Asked) -> Answer:
        return (
            heads(asked) if asked.method == "HEAD" else Answer(202, {"Location": "/up"}) if asked.method == "POST" else Answer(reset=True)
        )

    with serve(script) as server:
        open_store(server.host).put_blob("a/b", BLOB_AT, BLOB)
        assert [asked.method for asked in server.asked] == ["HEAD", "POST", "PUT", "HEAD"]


def test_unknown_is_not_absent_for_an_upload() -> None:
    with serve(lambda asked: Answer(500) if asked.method == "HEAD" else Answer(202, {"Location": "/up"})) as server:
        with pytest.raises(RemoteError, match="HTTP 500"):
            open_store(server.host).put_blob("a/b", BLOB_AT, BLOB)
        assert {asked.method for asked in server.asked} == {"HEAD"}


def test_uploads_elsewhere_get_no_authorisation() -> None:
    def registry(asked: Asked) -> Answer:
        if not asked.authorization:
            return Answer(401, {"WWW-Authenticate": 'Basic realm="x"'})
        return Answer(404) if asked.method == "HEAD" else Answer(202, {"Location": f"http://{storage.host}/signed"})

    with serve(lambda _: Answer(201)) as storage, serve(registry) as server:
        open_store(server.host, credentials=log_in(server.host)).put_blob("a/b", BLOB_AT, BLOB)
        assert [(asked.authorization, asked.body) for asked in storage.asked] == [("", BLOB)]


def test_a_source_that_changed(tmp_path: Path) -> None:
    invalid = Answer(400, {}, b'{"errors":[{"code":"DIGEST_INVALID","message":"digest mismatch"}]}')
    answers = {"HEAD": Answer(404), "POST": Answer(202, {"Location": "/up"}), "PUT": invalid}
    source = tmp_path / "blob"
    with serve(lambda asked: answers[asked.method]) as server:
        source.write_bytes(BLOB[:-1])
        with pytest.raises(IntegrityError, match="511999 bytes instead of 512000"):
            open_store(server.host).put_blob("a/b", BLOB_AT, source)
        assert server.asked == []
        source.write_bytes(BLOB[:-1] + b"!")
        with pytest.raises(IntegrityError, match="DIGEST_INVALID"):
            open_store(server.host).put_blob("a/b", BLOB_AT, source)
        with pytest.raises(IntegrityError, match="cannot read"):
            open_store(server.host).put_blob("a/b", BLOB_AT, tmp_path / "missing")


# --- mounts ------------------------------------------------------------------------------------------------------------


def test_a_mount_that_is_granted() -> None:
    with serve(lambda _: Answer(201, {"Location": "/v2/t/x/blobs/..."})) as server:
        assert open_store(server.host).mount_blob("t/x", OTHER, "s/y").done is True
        assert server.asked[0].query == [("mount", OTHER), ("from", "s/y")]
        assert len(server.asked) == 1


def test_a_mount_that_became_an_upload_is_cancelled() -> None:
    with serve(
        lambda asked: Answer(202, {"Location": "/v2/t/x/blobs/uploads/9?_state=z"}) if asked.method == "POST" else Answer(204)
    ) as server:
        assert open_store(server.host).mount_blob("t/x", OTHER, "s/y").done is False
        assert [(asked.method, asked.target) for asked in server.asked[1:]] == [("DELETE", "/v2/t/x/blobs/uploads/9?_state=z")]


def test_a_cancel_that_fails_does_not_matter() -> None:
    with serve(lambda asked: Answer(202, {"Location": "/u"}) if asked.method == "POST" else Answer(500)) as server:
        assert open_store(server.host).mount_blob("t/x", OTHER, "s/y").done is False


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_mount_that_is_refused(status: int) -> None:
    with serve(lambda _: Answer(status)) as server:
        assert open_store(server.host).mount_blob("t/x", OTHER, "s/y").done is False


def test_a_mount_that_fails_is_not_refused() -> None:
    with serve(lambda _: Answer(503)) as server, pytest.raises(RemoteError, match="HTTP 503"):
        open_store(server.host).mount_blob("t/x", OTHER, "s/y")


# --- listings ----------------------------------------------------------------------------------------------------------


def page(field: str, names: list[str] | None, following: str = "") -> Answer:
    return Answer(200, {"Link": following} if following else {}, json.dumps({"name": "a/b", field: names}).encode())


def test_pages_by_relative_and_absolute_links() -> None:
    def script(asked: Asked) -> Answer:
        last = dict(asked.query).get("last", "")
        following = {
            "": '</v2/a/b/tags/list?last=b&n=2>; rel="next"',
            "b": f"<http://{server.host}/v2/a/b/tags/list?last=c>; rel=next",
            "c": '</v2/a/b/tags/list?last=zzz>; rel="prev"',
        }[last]
        return page("tags", {"": ["a", "b"], "b": ["c"], "c": ["d"]}[last], following)

    with serve(script) as server:
        assert list(open_store(server.host).list_tags("a/b")) == ["a", "b", "c", "d"]
        assert len(server.asked) == 3


def test_no_tags_and_no_repository() -> None:
    with serve(in_turn(page("tags", None), Answer(404))) as server:
        store = open_store(server.host)
        assert list(store.list_tags("a/b")) == []
        assert list(store.list_tags("a/b")) == []


def test_pages_that_lead_in_a_circle() -> None:
    def script(asked: Asked) -> Answer:
        following = "y" if dict(asked.query).get("last") == "x" else "x"
        return page("tags", ["a"], f'</v2/a/b/tags/list?last={following}>; rel="next"')

    with serve(script) as server, pytest.raises(RemoteError, match="circle"):
        list(open_store(server.host).list_tags("a/b"))


def test_a_page_on_another_host_gets_nothing() -> None:
    with serve(lambda _: page("tags", ["evil"])) as other:
        with (
            serve(lambda _: page("tags", ["a"], f'<http://{other.host}/v2/a/b/tags/list?last=a>; rel="next"')) as server,
            pytest.raises(RemoteError, match="another host"),
        ):
            list(open_store(server.host).list_tags("a/b"))
        assert other.asked == []


def test_a_listing_has_one_limit_in_entries_and_one_in_pages() -> None:
    def script(asked: Asked) -> Answer:
        number = int(dict(asked.query).get("last", "0")) + 1
        return page("tags", [f"t{number}"], f'</v2/a/b/tags/list?last={number}>; rel="next"')

    with serve(script) as server:
        with pytest.raises(RegistryError, match="more than 25 entries"):
            list(open_store(server.host, listing=ListingLimits(entries=25)).list_tags("a/b"))
        assert len(server.asked) == 26
        with pytest.raises(RegistryError, match="circle"):
            list(open_store(server.host, listing=ListingLimits(pages=7)).list_tags("a/b"))


@pytest.mark.slow
def test_a_page_that_comes_a_byte_at_a_time_is_given_up() -> None:
    body = b'{"tags": ["a"' + b" " * 4000 + b"]}"
    with serve(lambda _: Answer(200, {}, body, pace=0.02)) as server:
        started = time.monotonic()
        with pytest.raises(RegistryError, match="not complete in time"):
            list(open_store(server.host, listing=ListingLimits(seconds=1.0)).list_tags("a/b"))
        assert time.monotonic() - started < 5
        assert [line for line in server.lines if "tags" in line] == ["GET /v2/a/b/tags/list"]


@pytest.mark.slow
def test_slow_pages_are_counted_together() -> None:
    def script(asked: Asked) -> Answer:
        time.sleep(0.2)
        number = int(dict(asked.query).get("last", "0")) + 1
        return page("tags", [f"t{number}"], f'</v2/a/b/tags/list?last={number}>; rel="next"')

    with serve(script) as server, pytest.raises(RegistryError, match="not complete in time"):
        list(open_store(server.host, listing=ListingLimits(seconds=1.0)).list_tags("a/b"))


@pytest.mark.parametrize("body", [b"", b"[]", b'{"tags": "a"}', b'{"tags": [1]}', b"<html>"])
def test_a_listing_that_is_none(body: bytes) -> None:
    with serve(lambda _: Answer(200, {}, body)) as server, pytest.raises(RemoteError, match="not a list of tags"):
        list(open_store(server.host).list_tags("a/b"))


def test_repositories_by_prefix() -> None:
    with serve(in_turn(page("repositories", ["a/x", "b/y"], '</v2/_catalog?last=b>; rel="next"'), page("repositories", ["a/z"]))) as server:
        assert list(open_store(server.host).list_repositories("a/")) == ["a/x", "a/z"]


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_registry_without_a_catalogue(status: int) -> None:
    with serve(lambda _: Answer(status)) as server, pytest.raises(RemoteError, match="does not list its repositories"):
        list(open_store(server.host).list_repositories())


# --- authorisation -----------------------------------------------------------------------------------------------------


class TokenRegistry:
    """A registry with its token service on the same port: a token is the list of scopes it is good for."""

    def __init__(self, expires_in: int = 300, service: str = "the, service") -> None:
        self.expires_in, self.service = expires_in, service
        self.good: set[str] = set()
        self.token_requests: list[Asked] = []
        self.host = ""

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            self.token_requests.append(asked)
            token = f"token-{len(self.token_requests)}"
            self.good.add(token)
            return Answer(200, {}, json.dumps({"token": token, "expires_in": self.expires_in}).encode())
        if asked.authorization.removeprefix("Bearer ") not in self.good:
            challenge = f'Bearer realm="http://{self.host}/token",service="{self.service}",scope="repository:a/b:pull"'
            return Answer(401, {"WWW-Authenticate": challenge})
        if asked.method == "POST":
            return Answer(201)
        return GOOD_MANIFEST


def test_anonymous_tokens_are_fetched_once_per_scope_set() -> None:
    script = TokenRegistry()
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host)
        assert store.get_manifest("a/b", "t") == MANIFEST
        assert store.get_manifest("a/b", "t") == MANIFEST
        assert len(script.token_requests) == 1
        assert script.token_requests[0].query == [("service", "the, service"), ("scope", "repository:a/b:pull")]
        assert script.token_requests[0].authorization == ""
        assert store.mount_blob("t/x", OTHER, "s/y").done is True
        # Push on the target first, then pull on the source, each its own parameter; no second 401 was needed.
        assert [item for item in script.token_requests[1].query if item[0] == "scope"] == [
            ("scope", "repository:t/x:pull,push"),
            ("scope", "repository:s/y:pull"),
        ]
        assert server.lines.count("POST /v2/t/x/blobs/uploads/") == 1


def test_user_and_password_go_to_the_token_service() -> None:
    script = TokenRegistry()
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host, credentials=log_in(server.host))
        assert store.get_manifest("a/b", "t") == MANIFEST
        assert base64.b64decode(script.token_requests[0].authorization.removeprefix("Basic ")) == b"ann:s3cr:et"
        assert ("account", "ann") in script.token_requests[0].query


@pytest.mark.parametrize("login", [{}, {"identitytoken": "refresh-me"}])
def test_no_login_goes_to_another_host_in_the_clear(login: dict[str, str]) -> None:
    """A registry on loopback may be anybody's program: the host it names for tokens is not this machine, so it must have TLS."""
    challenge = 'Bearer realm="http://tokens.example:8080/token",service="s"'
    with serve(lambda _: Answer(401, {"WWW-Authenticate": challenge})) as server:
        store = open_store(server.host, credentials=log_in(server.host, **login))
        with pytest.raises(RegistryError, match=r"no login is sent there") as caught:
            store.get_manifest("a/b", "t")
        assert "tokens.example" in caught.value.message
        assert "s3cr" not in caught.value.message + caught.value.hint


def test_a_token_service_beside_the_registry_on_this_machine_gets_the_login() -> None:
    tokens = TokenRegistry()
    with serve(tokens) as service:
        tokens.host = f"localhost:{service.server_address[1]}"
        with serve(tokens) as server:
            store = open_store(server.host, credentials=log_in(server.host))
            assert store.get_manifest("a/b", "t") == MANIFEST
            assert [item.path for item in service.asked] == ["/token"]
            assert service.asked[0].authorization.startswith("Basic ")


def test_an_identity_token_is_exchanged_by_post() -> None:
    script = TokenRegistry()
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host, credentials=log_in(server.host, identitytoken="refresh-me"))
        assert store.mount_blob("t/x", OTHER, "s/y").done is True
        asked = script.token_requests[0]
        assert (asked.method, asked.query, asked.authorization) == ("POST", [], "")
        fields = dict(parse_qsl(asked.body.decode()))
        assert fields["grant_type"] == "refresh_token"
        assert fields["refresh_token"] == "refresh-me"
        assert fields["service"] == "the, service"
        assert fields["scope"].split()[0] == "repository:t/x:pull,push"


def test_a_registry_token_is_sent_as_it_is() -> None:
    script = TokenRegistry()
    script.good.add("ready-made")
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host, credentials=log_in(server.host, registrytoken="ready-made"))
        assert store.get_manifest("a/b", "t") == MANIFEST
        assert script.token_requests == []


def test_a_token_that_the_registry_forgot_is_replaced_once() -> None:
    script = TokenRegistry()
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host)
        store.get_manifest("a/b", "t")
        script.good.clear()
        assert store.get_manifest("a/b", "t") == MANIFEST
        assert len(script.token_requests) == 2


def test_a_token_that_expired_is_replaced_before_it_is_sent() -> None:
    script, now = TokenRegistry(expires_in=100), [0.0]
    with serve(script) as server:
        script.host = server.host
        store = open_store(server.host, clock=lambda: now[0])
        store.get_manifest("a/b", "t")
        now[0] = 95
        store.get_manifest("a/b", "t")
        assert len(script.token_requests) == 2
        assert sum(line.startswith("GET /v2/a/b/manifests") for line in server.lines) == 3


def test_a_registry_that_never_accepts() -> None:
    script = TokenRegistry()

    def refuse(asked: Asked) -> Answer:
        script.good.clear()
        return script(asked)

    with serve(refuse) as server:
        script.host = server.host
        with pytest.raises(RegistryError) as caught:
            open_store(server.host).get_manifest("a/b", "t")
        assert caught.value.status == 401
        assert caught.value.hint == f"run `docker login {server.host}`"
        assert len(server.asked) == 3
        with pytest.raises(RegistryError) as caught:
            open_store(server.host, credentials=log_in(server.host)).get_manifest("a/b", "t")
        assert "again" in caught.value.hint
        assert "s3cr" not in caught.value.message + caught.value.hint


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"token": 7}', b'{"token": "a\\nb"}', b'{"token": ""}', b"\xff", b"[" * 100_000])
def test_a_token_that_is_none(body: bytes) -> None:
    def script(asked: Asked) -> Answer:
        return Answer(200, {}, body) if asked.path == "/t" else Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{server.host}/t"'})

    with serve(script) as server, pytest.raises(RemoteError):
        open_store(server.host).get_manifest("a/b", "t")


@pytest.mark.parametrize("realm", ["", "file:///etc/passwd", "http://[", "http://h:x/", "//", "http://"])
def test_a_token_service_that_is_nowhere(realm: str) -> None:
    with serve(lambda _: Answer(401, {"WWW-Authenticate": f'Bearer realm="{realm}"'})) as server, pytest.raises(RemoteError):
        open_store(server.host).get_manifest("a/b", "t")


def test_a_token_service_that_is_busy_is_asked_again() -> None:
    script, busy = TokenRegistry(), in_turn(Answer(503), Answer(429, {"Retry-After": "1"}), Answer(200))
    with serve(lambda asked: script(asked) if asked.path != "/token" or (answer := busy(asked)).status == 200 else answer) as server:
        script.host = server.host
        naps = Naps()
        assert open_store(server.host, naps).get_manifest("a/b", "t") == MANIFEST
        assert len(naps) == 2


def test_bearer_is_chosen_over_basic() -> None:
    script = TokenRegistry()

    def both(asked: Asked) -> Answer:
        answer = script(asked)
        if answer.status == 401:
            return Answer(401, {"WWW-Authenticate": 'Basic realm="a, \\"b\\"", ' + answer.headers["WWW-Authenticate"]})
        return answer

    with serve(both) as server:
        script.host = server.host
        assert open_store(server.host).get_manifest("a/b", "t") == MANIFEST


def test_a_login_that_may_push_is_told_that_a_repository_is_absent() -> None:
    """Docker Hub answers 401 to a pull of what does not exist, and 404 to who may create it."""

    def script(asked: Asked) -> Answer:
        if asked.path == "/token":
            scope = dict(asked.query)["scope"]
            return Answer(200, {}, json.dumps({"token": scope.rpartition(":")[2]}).encode())
        if asked.authorization == "Bearer pull,push":
            return Answer(404)
        return Answer(401, {"WWW-Authenticate": f'Bearer realm="http://{server.host}/token"'})

    with serve(script) as server:
        assert open_store(server.host, credentials=log_in(server.host)).head_manifest("a/b", "t") is None
        with pytest.raises(RemoteError):
            open_store(server.host).head_manifest("a/b", "t")


# --- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["", "a/b", "http://x", "a b", "-x", "x:y", "user@host"])
def test_hosts_that_are_none(host: str) -> None:
    with pytest.raises(ConfigurationError):
        RegistryStore(host)


@pytest.mark.usefixtures("real_scheme")
def test_plain_http_is_for_loopback_or_by_consent() -> None:
    with serve(lambda _: GOOD_MANIFEST) as server:
        for insecure in (None, True):
            assert RegistryStore(server.host, insecure=insecure).get_manifest("a/b", "t") == MANIFEST
        server.asked.clear()
        with pytest.raises(RemoteError, match="no TLS connection"):
            RegistryStore(server.host, insecure=False, sleep=Naps()).get_manifest("a/b", "t")
        assert server.asked == []


def test_names_of_a_store() -> None:
    assert RegistryStore("docker.io").label == "docker.io"
    assert RegistryStore("ghcr.io").image_name("a/b") == "ghcr.io/a/b"


def test_an_unreadable_authority(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nonsense")
    for name in ("ca.pem", "missing.pem"):
        with pytest.raises(ConfigurationError, match="cannot use the certificate"):
            RegistryStore("x.example", ca_file=tmp_path / name)


@pytest.mark.parametrize(
    ("answer", "able"),
    [
        (Answer(206, {"Content-Type": 'multipart/byteranges; boundary="x"'}, b"--x"), True),
        (
            Answer(206, {"Content-Type": "application/octet-stream", "Content-Range": "bytes 0-0/512000"}, b"a"),
            False,
        ),  # the first one alone
        (Answer(200, {"Content-Type": "application/octet-stream"}, BLOB), False),
        (Answer(416, {}, b""), False),
        (Answer(400, {}, b""), False),
    ],
)
def test_two_ranges_in_one_request(answer: Answer, able: bool) -> None:
    with serve(in_turn(answer)) as server:
        assert open_store(server.host).answers_ranges("ml/team", BLOB_AT) is able
    assert server.asked[-1].headers["range"] == "bytes=0-0,511999-511999"
