"""Redirects of an index: what is one origin, where pages and files may come from, and that credentials stay behind."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.client import IndexClient
from imagebuild.lock.index.pagecache import PageCache, keep_page
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.redirects import Origin, find_location, find_origin, is_downgrade, resolve_location
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from tests.support.servers.index import FakeIndex
from tests.support.servers.threads import serve_gets

EMPTY = Lock("t", "b", "sha256:" + "0" * 64, "sha256:" + "0" * 64, "3.11.2", "linux/amd64", {}, "r", "2026-10-01T00:00:00Z", ())
BASIC = "Basic " + base64.b64encode(b"joe:x").decode()


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://pypi.corp.example/simple/", "https://pypi.corp.example"),
        ("HTTPS://PyPI.Corp.Example:443/simple/", "https://pypi.corp.example"),
        ("https://joe:x@pypi.corp.example/", "https://pypi.corp.example"),
        ("http://pypi.corp.example:80", "http://pypi.corp.example"),
        ("http://pypi.corp.example:0", "http://pypi.corp.example"),  # requests leaves a port of 0 out
        ("http://pypi.corp.example:443", "http://pypi.corp.example:443"),
        ("https://bücher.example/", "https://xn--bcher-kva.example"),
        ("https://BÜCHER.example/", "https://xn--bcher-kva.example"),
        ("http://[::1]:8080/simple/", "http://[::1]:8080"),
        ("http://pypi.corp.example./", "http://pypi.corp.example"),
        ("http://pypi.corp.example@evil.example/", "http://evil.example"),
        ("http://pypi.corp.example\\@evil.example/", "http://pypi.corp.example"),  # as urllib3 sends it
        ("http://evil.example#@pypi.corp.example/", "http://evil.example"),
        ("http://evil.example?@pypi.corp.example/", "http://evil.example"),
    ],
)
def test_the_origin_is_that_of_the_request(url: str, origin: str) -> None:
    assert str(find_origin(url)) == origin


@pytest.mark.parametrize(
    "url", ["", "file:///etc/passwd", "ftp://x.example/", "http://", "http:///x", "http://[", "http://x.example:99999/", "about:1"]
)  # fmt: skip
def test_what_cannot_be_asked_has_no_origin(url: str) -> None:
    assert find_origin(url) is None


@given(st.text(alphabet="htps:/\\@.#?[]%aé0 \t\n", max_size=30))
def test_any_location_is_an_address_or_none(text: str) -> None:
    target = resolve_location("https://pypi.corp.example/simple/x/", text)
    assert target is None or find_origin(target) is not None
    for url in (text, f"https:{text}", f"//{text}"):
        origin = find_origin(url)
        assert origin is None or find_origin(str(origin)) == origin


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("../thing/", "https://pypi.corp.example/simple/thing/"),
        ("/other/thing/#top", "https://pypi.corp.example/other/thing/"),
        ("?page=2", "https://pypi.corp.example/simple/Thing/?page=2"),
        ("//evil.example/thing/", "https://evil.example/thing/"),
        ("https://joe:x@pypi.corp.example/thing/", "https://pypi.corp.example/thing/"),
        ("file:///etc/passwd", None),
        ("http://[", None),
    ],
)
def test_where_a_location_points(location: str, target: str | None) -> None:
    assert resolve_location("https://pypi.corp.example/simple/Thing/", location) == target


@pytest.mark.parametrize(
    ("status", "location", "found"),
    [
        (302, "/x", "/x"),
        (308, "/b%C3%BC", "/b%C3%BC"),
        (301, "/bÃ¼", "/bü"),
        (302, "", None),
        (302, None, None),
        (304, "/x", None),
        (300, "/x", None),
        (200, "/x", None),
    ],
)
def test_what_is_a_redirect(status: int, location: str | None, found: str | None) -> None:
    assert find_location(status, location) == found


@pytest.mark.parametrize(
    ("url", "redirects", "target", "allowed"),
    [
        ("https://a.example/simple/", (), "https://A.example:443/x", True),
        ("https://a.example/simple/", (), "https://a.example:8443/x", False),
        ("https://a.example/simple/", (), "https://b.a.example/x", False),
        ("https://a.example/simple/", (), "http://a.example/x", False),
        ("http://a.example/simple/", (), "https://a.example/x", False),  # another scheme and port: to be written as the url, or named
        ("http://a.example/simple/", ("a.example",), "https://a.example/x", True),
        ("https://a.example/simple/", ("a.example",), "http://a.example/x", False),
        ("https://a.example/simple/", ("B.example",), "https://b.example/x", True),
        ("https://a.example/simple/", ("b.example",), "https://b.example:8443/x", False),
        ("https://a.example/simple/", ("b.example",), "https://c.b.example/x", False),
        ("https://a.example/simple/", ("b.example:8443",), "https://b.example:8443/x", True),
        ("https://a.example/simple/", ("b.example:8443",), "https://b.example/x", False),
        ("https://a.example/simple/", ("b.example:443",), "https://b.example/x", True),
        ("https://a.example/simple/", ("b.example",), "http://b.example/x", False),
        ("http://a.example/simple/", ("b.example",), "http://b.example/x", True),
        ("https://a.example/simple/", ("bücher.example",), "https://xn--bcher-kva.example/x", True),
        ("http://a.example/simple/", ("[::1]:81",), "http://[::1]:81/x", True),
    ],
)
def test_where_a_page_may_come_from(url: str, redirects: tuple[str, ...], target: str, allowed: bool) -> None:
    assert PackageIndex("corp", url, ("x",), redirects=redirects).may_redirect(target) is allowed


def test_giving_up_encryption() -> None:
    assert is_downgrade("https://a.example/", Origin("http", "a.example", 80))
    assert not is_downgrade("http://a.example/", Origin("http", "a.example", 80))
    assert not is_downgrade("http://a.example/", Origin("https", "a.example", 443))


# -- on the wire: an index behind a password, and a stranger that has more of everything


class World:
    def __init__(self, own: FakeIndex, stranger: FakeIndex, url: str, elsewhere: str, cache: Path) -> None:
        self.own, self.stranger, self.url, self.elsewhere, self.cache = own, stranger, url, elsewhere, cache

    @property
    def host(self) -> str:
        return self.elsewhere.removeprefix("http://").removesuffix("/simple/")

    def index(self, *redirects: str) -> PackageIndex:
        return PackageIndex("corp", self.url.replace("//", "//joe:x@"), default=True, redirects=redirects)

    def open(self, *redirects: str) -> Upstream:
        return Upstream(self.index(*redirects), self.cache, pause=lambda _seconds: None)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    own, stranger = FakeIndex(), FakeIndex()
    own.add("thing", "1.0")
    own.password = "x"
    stranger.add("thing", "99.0")
    stranger.add("gone", "99.0")
    with own.serve() as url, stranger.serve() as elsewhere:
        yield World(own, stranger, url, elsewhere, tmp_path / "cache")


def test_a_page_that_redirects_elsewhere_is_absent_and_never_asked(world: World) -> None:
    world.own.moved = {f"/simple/{name}/": f"{world.elsewhere}{name}/?token=s3cret" for name in ("thing", "gone")}
    with world.open() as upstream:
        assert upstream.read_project("gone") is None
        assert upstream.read_project("gone") is None
        assert upstream.read_project("thing") is None
        assert upstream.find_file("thing", "thing-99.0-py3-none-any.whl") is None
        assert upstream.find_redirect("gone") == f"http://{world.host}"
        assert upstream.find_redirect("other") == ""
    assert world.stranger.requests == []
    assert not (world.cache / "pages").exists()


@pytest.mark.parametrize(
    "location",
    [
        "https://127.0.0.1/simple/gone/",
        "//evil.example/gone/",
        "file:///etc/passwd",
        "http://[",
        "http://localhost:{port}/simple/thing/",
        "http://u:p@{host}/simple/gone/",
        "http://{host}\\@127.0.0.1:{port}/simple/thing/",  # urllib.parse reads our host here, urllib3 asks the other one
        "//{host}\\@127.0.0.1:{port}/simple/thing/",
    ],
)
def test_every_other_kind_of_elsewhere(world: World, location: str) -> None:
    """Another scheme, a scheme-relative address, a file, no address, another name of the same machine, user info."""
    port = world.url.rpartition(":")[2].partition("/")[0]
    world.own.moved = {"/simple/gone/": location.format(port=port, host=world.host)}
    with world.open() as upstream:
        assert upstream.read_project("gone") is None
        assert upstream.find_redirect("gone")
    assert [path for path, _ in world.own.requests] == ["/simple/gone/"]
    assert world.stranger.requests == []


def test_redirects_within_the_index_are_followed_with_its_credentials(world: World) -> None:
    """By a path, a relative path and an absolute address; devpi and others do so for other spellings of a name."""
    world.own.moved = {"/simple/other/": "/root/other", "/root/other": "../simple/Other/", "/simple/Other/": f"{world.url}thing/"}
    with world.open() as upstream:
        page = upstream.read_project("other")
    assert page is not None
    assert [file.filename for file in page.files] == ["thing-1.0-py3-none-any.whl"]
    assert page.files[0].url == world.url.replace("simple/", "files/thing-1.0-py3-none-any.whl")
    assert world.own.authorizations == [BASIC] * 4


def test_a_chain_whose_second_hop_leaves(world: World) -> None:
    world.own.moved = {"/simple/gone/": "/mirror/gone/", "/mirror/gone/": f"{world.elsewhere}gone/"}
    with world.open() as upstream:
        assert upstream.read_project("gone") is None
    assert [path for path, _ in world.own.requests] == ["/simple/gone/", "/mirror/gone/"]
    assert world.stranger.requests == []


def test_a_circle_ends(world: World) -> None:
    world.own.moved = {"/simple/gone/": "/simple/gone/"}
    with world.open() as upstream, pytest.raises(RemoteError, match=r"'corp' redirects in a circle for the page of gone"):
        upstream.read_project("gone")
    assert len(world.own.requests) == 11


def test_a_host_that_redirects_names_is_followed_without_the_credentials(world: World) -> None:
    world.own.moved = {"/simple/gone/": f"{world.elsewhere}gone/"}
    with world.open(world.host) as upstream:
        page = upstream.read_project("gone")
    assert page is not None
    assert world.own.authorizations == [BASIC]
    assert world.stranger.authorizations == [""]
    with world.open() as upstream:
        assert upstream.read_project("gone") is None, "what was kept of that page does not count once the host is not named"
    assert len(world.stranger.requests) == 1


def test_a_page_kept_by_a_version_that_followed_redirects_is_not_trusted(world: World) -> None:
    evil = ProjectPage("thing", (ProjectFile("thing-99.0-py3-none-any.whl", f"{world.elsewhere}x.whl", "0" * 64),))
    PageCache(world.cache, world.index().address).remember("thing", keep_page(evil, '"e"', f"{world.elsewhere}thing/", "0" * 64))
    with world.open() as upstream:
        page = upstream.read_project("thing")
    assert page is not None
    assert [file.filename for file in page.files] == ["thing-1.0-py3-none-any.whl"]
    assert world.own.unchanged == 0


def test_a_refresh_by_markup_or_header_is_not_followed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{world.elsewhere}thing/"
    markup = f'<html><head><meta http-equiv="refresh" content="0; url={address}"></head></html>'.encode()
    monkeypatch.setattr(world.own, "page", lambda _name: ("text/html", markup))
    world.own.headers = {"Refresh": f"0; url={address}", "Content-Location": address, "Link": f"<{address}>; rel=canonical"}
    with world.open() as upstream:
        page = upstream.read_project("thing")
    assert page is not None
    assert page.files == ()
    assert world.stranger.requests == []


def test_a_file_may_be_on_another_host_which_gets_no_credentials(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with indexes whose files lie with a storage service: the bytes are proved by their hash."""
    filename = "thing-1.0-py3-none-any.whl"
    world.own.metadata = True
    world.stranger.add_file("thing", filename, world.own.bodies[filename])
    for path in (filename, f"{filename}.metadata"):
        world.own.moved[f"/files/{path}"] = f"{world.elsewhere.replace('simple/', 'files/')}{path}?signature=1"
    answer = world.stranger.answer

    def without_query(handler: BaseHTTPRequestHandler) -> None:
        handler.path = handler.path.partition("?")[0]
        answer(handler)

    monkeypatch.setattr(world.stranger, "answer", without_query)
    with world.open() as upstream:
        page = upstream.read_project("thing")
        assert page is not None
        assert b"Name: thing" in upstream.read_metadata(page.files[0])
        assert upstream.read_installed_size(page.files[0]) > 0
        upstream.download(page.files[0], tmp_path / "got.whl")
    assert (tmp_path / "got.whl").read_bytes() == world.own.bodies[filename]
    assert set(world.own.authorizations) == {BASIC}
    assert next(path for path, _ in world.stranger.requests) == f"/files/{filename}.metadata"
    assert set(world.stranger.authorizations) == {""}
    world.stranger.add_file("thing", filename, world.own.bodies[filename] + b"x")
    with world.open() as upstream, pytest.raises(IntegrityError, match="is not the expected file"):
        upstream.download(page.files[0], tmp_path / "other.whl")


def test_a_file_does_not_redirect_to_this_machines_files(world: World, tmp_path: Path) -> None:
    world.own.moved["/files/thing-1.0-py3-none-any.whl"] = (tmp_path / "netrc").as_uri()
    with world.open() as upstream:
        page = upstream.read_project("thing")
        assert page is not None
        with pytest.raises(RemoteError, match=r"redirected thing-1\.0.* to an address that is not http or https"):
            upstream.download(page.files[0], tmp_path / "got.whl")
    assert not (tmp_path / "got.whl").exists()


@pytest.mark.parametrize("page", [True, False])
def test_no_redirect_gives_up_encryption(monkeypatch: pytest.MonkeyPatch, page: bool) -> None:
    """Also to a host that redirects names: it is named for https."""
    asked: list[str] = []
    index = PackageIndex("corp", "https://pypi.corp.example/simple/", ("x",), redirects=("files.corp.example",))
    client = IndexClient(index, lambda _seconds: None)

    class Answer:
        status_code, url, headers = 302, "https://pypi.corp.example/simple/x/", {"Location": "http://files.corp.example/x/"}

        def close(self) -> None:
            pass

    def get(url: str, **_options: object) -> Answer:
        asked.append(url)
        return Answer()

    monkeypatch.setattr(client._connect(), "get", get)
    if page:
        upstream = Upstream(index, Path("/nonexistent"))
        upstream.client = client
        assert upstream.read_project("x") is None
    else:
        with pytest.raises(RemoteError, match=r"redirected x from https to http://files\.corp\.example, which is not encrypted"):
            client.send("https://pypi.corp.example/simple/x/", {}, "x")
    assert asked == ["https://pypi.corp.example/simple/x/"]


def test_the_body_of_a_redirect_is_not_read_when_it_is_long(tmp_path: Path) -> None:
    """Nothing of a redirect's body counts, and a server that never ends it does not hold us up."""

    def answer(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://evil.example/")
        handler.send_header("Content-Length", str(1 << 40))
        handler.end_headers()
        handler.close_connection = True

    with serve_gets(answer) as host, Upstream(PackageIndex("corp", f"http://{host}/simple/", default=True), tmp_path) as upstream:
        assert upstream.read_project("x") is None


def test_a_connection_serves_again_after_a_redirect(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ports: list[int] = []
    answer = world.own.answer

    def note_port(handler: BaseHTTPRequestHandler) -> None:
        ports.append(handler.client_address[1])
        answer(handler)

    monkeypatch.setattr(world.own, "answer", note_port)
    world.own.moved = {"/simple/other/": "/simple/thing/"}
    with world.open() as upstream:
        assert upstream.read_project("other") is not None
        assert upstream.read_project("other") is not None
    assert len(ports) == 4
    assert len(set(ports)) == 1


# -- netrc


@pytest.mark.parametrize(
    ("text", "own", "other"),
    [
        ("default login all password p\n", "Basic YWxsOnA=", ""),  # stands for any host: only the index's own gets it
        ("machine 127.0.0.1 login all password p\n", "Basic YWxsOnA=", "Basic YWxsOnA="),  # by name: netrc knows no ports
        ("machine other.example login all password p\n", "", ""),
        ("nonsense\n", "", ""),
    ],
)
def test_netrc_by_name_and_its_default(world: World, tmp_path: Path, text: str, own: str, other: str) -> None:
    (tmp_path / "netrc").write_text(text)
    world.own.password = ""
    world.own.moved["/files/thing-1.0-py3-none-any.whl"] = world.elsewhere.replace("simple/", "files/thing-99.0-py3-none-any.whl")
    index = PackageIndex("corp", world.url, default=True)
    with Upstream(index, world.cache) as upstream:
        page = upstream.read_project("thing")
        assert page is not None
        with pytest.raises(IntegrityError):
            upstream.download(page.files[0], tmp_path / "got.whl")
    assert set(world.own.authorizations) == {own}
    assert world.stranger.authorizations == [other]


def test_credentials_in_a_links_own_address_are_used_for_it(world: World, tmp_path: Path) -> None:
    filename = "thing-99.0-py3-none-any.whl"
    address = world.elsewhere.replace("//", "//key:word@").replace("simple/", f"files/{filename}")
    with world.open() as upstream:
        upstream.download(ProjectFile(filename, address), tmp_path / "got.whl")
    assert world.stranger.authorizations == ["Basic " + base64.b64encode(b"key:word").decode()]
