"""Reading project pages and wheels' metadata from a fake index on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.errors import IntegrityError, LockError, RemoteError
from imagebuild.lock.index import upstream as upstream_module
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.pages import ProjectFile, ProjectPage, parse_html_page, parse_json_page, parse_time
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from tests.support.builders import encode_wheel
from tests.support.servers.index import FakeIndex, make_index

PAGE = "https://index.example/simple/thing/"
SHA = "a" * 64


@pytest.fixture
def fake() -> FakeIndex:
    fake = FakeIndex()
    fake.add("thing", "1.0", ["other>=1"], extra=b"y" * 300_000)
    return fake


@pytest.fixture
def upstream(fake: FakeIndex, tmp_path: Path) -> Iterator[Upstream]:
    with fake.serve() as url, Upstream(make_index(url), tmp_path, pause=lambda _seconds: None) as upstream:
        yield upstream


def read_file(upstream: Upstream) -> ProjectFile:
    page = upstream.read_project("thing")
    assert page is not None
    return page.files[0]


def test_html_page_with_every_attribute() -> None:
    text = f"""<!DOCTYPE html><html><head><base href="https://files.example/pool/">
    <meta name="pypi:repository-version" content="1.1"></head><body>
    <A HREF="thing-1.0-py3-none-any.whl#sha256={SHA.upper()}"
       data-requires-python="&gt;=3.9,&lt;4" data-dist-info-metadata="sha256={"b" * 64}"
       >x</a>
    <a href="../up/thing-1.1-py3-none-any.whl#md5=00" data-yanked="broken &amp; sad" data-core-metadata="true"
       >y</a>
    <a href="/root/thing-2.0%2Bcu1-py3-none-any.whl" data-yanked>z</a> <a>none</a> <a href="">empty</a> <a href="mailto:x@y">mail</a>
    <a href="file:///etc/passwd">local</a></body></html>"""
    one, two, three = parse_html_page("thing", text, PAGE).files
    assert one.url == "https://files.example/pool/thing-1.0-py3-none-any.whl"
    assert (one.sha256, one.requires_python, one.metadata_sha256, one.has_metadata) == (SHA, ">=3.9,<4", "b" * 64, True)
    assert two.url == "https://files.example/up/thing-1.1-py3-none-any.whl"
    assert (two.sha256, two.yanked, two.yanked_reason, two.has_metadata, two.metadata_sha256) == ("", True, "broken & sad", True, "")
    assert (three.url, three.filename) == ("https://files.example/root/thing-2.0%2Bcu1-py3-none-any.whl", "thing-2.0+cu1-py3-none-any.whl")
    assert three.yanked
    assert not one.yanked


def test_json_page_with_every_field() -> None:
    entry = {
        "filename": "thing-1.0-py3-none-any.whl",
        "url": "../../f/thing-1.0-py3-none-any.whl",
        "hashes": {"sha256": SHA},
        "requires-python": ">=3.9",
        "size": 7,
        "upload-time": "2024-05-01T12:00:00.987654+02:00",
        "yanked": "bad",
        "core-metadata": {"sha256": "b" * 64},
    }
    page = {"meta": {"api-version": "1.3"}, "name": "thing", "files": [entry, {"filename": 3}, None, {"filename": "../x.whl", "url": "y"}]}
    (file,) = parse_json_page("thing", json.dumps(page).encode(), PAGE).files
    assert file == ProjectFile(
        "thing-1.0-py3-none-any.whl",
        "https://index.example/f/thing-1.0-py3-none-any.whl",
        SHA,
        7,
        "2024-05-01T10:00:00Z",
        ">=3.9",
        True,
        "bad",
        True,
        "b" * 64,
    )


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"files": 3}', b'{"files": [], "meta": {"api-version": "2.0"}}', b"\xff", b"[" * 100_000]
)
def test_unusable_json_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json_page("thing", data, PAGE)


def test_html_of_another_major_version_is_refused() -> None:
    with pytest.raises(ValueError, match="not supported"):
        parse_html_page("thing", '<meta name="pypi:repository-version" content="2.0">', PAGE)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(["filename", "url", "hashes", "size", "upload-time", "yanked", "core-metadata", "requires-python"])


@settings(max_examples=100, deadline=None)
@pytest.mark.slow
@given(
    st.lists(
        st.dictionaries(keys, json_values | st.sampled_from(["a-1-py3-none-any.whl", "http://[", "//h", "file:///x", "../../x"])),
        max_size=5,
    )
)
def test_any_json_entry_is_read_or_left_out(entries: list[dict[str, object]]) -> None:
    page = parse_json_page("thing", json.dumps({"files": entries}).encode(), PAGE)
    for file in page.files:
        assert "/" not in file.filename
        assert file.filename not in ("", ".", "..")
        assert file.url.startswith(("http://", "https://"))
        assert file.size >= 0
        assert file.sha256 == "" or len(file.sha256) == 64


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("<>a href=\"'#!-[]&;/.:?\x00é\n%2Fsha256data-yanked")), max_size=120))
def test_any_html_is_read(text: str) -> None:
    for file in parse_html_page("thing", "<a href=x-1.whl>" + text, PAGE).files:
        assert "/" not in file.filename
        assert file.url.startswith(("http://", "https://"))


@given(st.text(max_size=40) | st.datetimes().map(lambda value: value.isoformat()))
def test_any_time_is_normal_or_none(text: str) -> None:
    value = parse_time(text)
    assert value == "" or (len(value) == 20 and value.endswith("Z") and parse_time(value) == value)


def test_absent_is_not_an_error(upstream: Upstream) -> None:
    assert upstream.read_project("no-such") is None


def test_names_are_normalised_when_asked(upstream: Upstream) -> None:
    assert upstream.read_project("Thing") is not None


def test_passing_trouble_is_tried_again(upstream: Upstream, fake: FakeIndex) -> None:
    fake.refuse = [503, 429, 502]
    assert upstream.read_project("thing") is not None
    assert len(fake.requests) == 4


@pytest.mark.parametrize(("status", "tries"), [(500, 4), (401, 1), (403, 1), (418, 1)])
def test_refusals_name_the_index_and_not_its_address(upstream: Upstream, fake: FakeIndex, status: int, tries: int) -> None:
    fake.refuse = [status] * 9
    with pytest.raises(RemoteError, match=f"package index 'default' answered {status}") as caught:
        upstream.read_project("thing")
    assert "127.0.0.1" not in caught.value.message + caught.value.hint
    assert len(fake.requests) == tries


def test_no_network_is_said(tmp_path: Path) -> None:
    with (
        Upstream(make_index("http://u:hunter2@127.0.0.1:9/simple"), tmp_path, pause=lambda _s: None) as upstream,
        pytest.raises(RemoteError, match="no network: package index 'default'") as caught,
    ):
        upstream.read_project("thing")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_a_page_of_something_else_is_refused(upstream: Upstream, fake: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "page", lambda _name: ("application/pdf", b"%PDF"))
    with pytest.raises(RemoteError, match="application/pdf"):
        upstream.read_project("thing")


def test_credentials_are_sent_to_the_index(fake: FakeIndex, tmp_path: Path) -> None:
    fake.password = "x"
    with fake.serve() as url, Upstream(PackageIndex("default", url.replace("//", "//joe:x@"), default=True), tmp_path) as upstream:
        assert upstream.read_project("thing") is not None
    assert all(text.startswith("Basic ") for text in fake.authorizations)


def test_a_file_that_redirects_to_another_host_goes_without_credentials(fake: FakeIndex, tmp_path: Path) -> None:
    fake.password = "x"
    other = FakeIndex()
    filename = other.add("thing", "1.0", ["other>=1"], extra=b"y" * 300_000)
    with fake.serve() as url, other.serve() as elsewhere:
        fake.moved = {f"/files/{filename}": elsewhere.replace("/simple/", f"/files/{filename}")}
        with Upstream(PackageIndex("default", url.replace("//", "//joe:x@"), default=True), tmp_path) as upstream:
            file = read_file(upstream)
            upstream.download(file, tmp_path / "got.whl")
            assert file.url.startswith(url.removesuffix("simple/"))
    assert (tmp_path / "got.whl").read_bytes() == other.bodies[filename]
    assert all(text.startswith("Basic ") for text in fake.authorizations)
    assert other.authorizations
    assert not any(other.authorizations)


def test_a_page_that_redirects_to_another_host_is_not_there(fake: FakeIndex, tmp_path: Path) -> None:
    """Another port is another host: the other one is never asked, whatever it would say."""
    other = FakeIndex()
    other.add("thing", "99.0")
    with fake.serve() as url, other.serve() as elsewhere:
        fake.moved = {"/simple/thing/": elsewhere + "thing/"}
        with Upstream(make_index(url), tmp_path) as upstream:
            assert upstream.read_project("thing") is None
            assert upstream.find_redirect("thing") == elsewhere.removesuffix("/simple/")
            assert upstream.find_file("thing", "thing-99.0-py3-none-any.whl") is None
            assert other.requests == []
        port = elsewhere.split(":")[2].partition("/")[0]
        named = msgspec.structs.replace(make_index(url), redirects=(f"127.0.0.1:{port}",))
        with Upstream(named, tmp_path) as upstream:
            page = upstream.read_project("thing")
            assert page is not None
            assert [file.filename for file in page.files] == ["thing-99.0-py3-none-any.whl"]
        asked = len(other.requests)
        with Upstream(make_index(url), tmp_path) as upstream:  # the page that was kept came from there
            assert upstream.read_project("thing") is None
        assert len(other.requests) == asked


def test_a_page_may_redirect_within_its_index(fake: FakeIndex, tmp_path: Path) -> None:
    with fake.serve() as url, Upstream(make_index(url), tmp_path) as upstream:
        fake.files["moved"] = fake.files.pop("thing")
        fake.moved = {"/simple/thing/": "/simple/hop/", "/simple/hop/": "../moved/"}
        page = upstream.read_project("thing")
        assert page is not None
        assert page.files[0].filename == "thing-1.0-py3-none-any.whl"
        fake.moved["/simple/hop/"] = "//elsewhere.example/simple/thing/"
        assert upstream.read_project("thing") is None
        assert upstream.find_redirect("thing") == "http://elsewhere.example"
        fake.moved["/simple/hop/"] = "/simple/thing/"
        with pytest.raises(RemoteError, match="redirects in a circle"):
            upstream.read_project("thing")


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_page_that_was_read_is_asked_for_by_its_etag(upstream: Upstream, fake: FakeIndex, tmp_path: Path, form: str) -> None:
    fake.form = form
    first = upstream.read_project("thing")
    assert upstream.read_project("thing") == first
    (kept,) = (tmp_path / "pages").iterdir()
    assert (len(fake.requests), fake.unchanged) == (2, 1)
    fake.add("thing", "2.0")
    page = upstream.read_project("thing")
    assert page is not None
    assert len(page.files) == 2, "another ETag: the page was sent anew"
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(data)
    assert upstream.read_project("thing") == page, "a kept page that rotted is read again"
    del fake.files["thing"]
    assert upstream.read_project("thing") is None


def test_a_page_without_an_etag_is_sent_again_and_parsed_when_it_changed(
    upstream: Upstream, fake: FakeIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.etags = False
    first = upstream.read_project("thing")
    parsed: list[str] = []
    original = parse_json_page

    def parse(name: str, data: bytes, url: str) -> ProjectPage:
        parsed.append(name)
        return original(name, data, url)

    monkeypatch.setattr(upstream_module, "parse_json_page", parse)
    assert upstream.read_project("thing") == first
    assert parsed == []
    fake.add("thing", "2.0")
    assert upstream.find_file("thing", "thing-2.0-py3-none-any.whl") is not None
    assert parsed == ["thing"]
    assert upstream.find_file("thing", "thing-3.0-py3-none-any.whl") is None


def test_an_answer_of_unchanged_that_nobody_asked_for_is_refused(upstream: Upstream, fake: FakeIndex) -> None:
    fake.refuse = [304]
    with pytest.raises(RemoteError, match="answered 304"):
        upstream.read_project("thing")


@pytest.mark.parametrize("form", ["json", "html"])
def test_metadata_by_ranges_reads_little(upstream: Upstream, fake: FakeIndex, form: str) -> None:
    fake.form = form
    fake.add("thing", "1.0", ["other>=1"], extra=bytes(range(256)) * 8000)
    file = read_file(upstream)
    found = upstream.read_wheel_metadata(file)
    assert b"Requires-Dist: other>=1" in found.metadata
    assert found.installed_size > 2_000_000
    assert all(span for path, span in fake.requests if path.startswith("/files/"))
    before = len(fake.requests)
    assert upstream.read_wheel_metadata(file) == found
    assert len(fake.requests) == before, "kept by hash"


def test_a_server_without_ranges_is_downloaded_whole_and_kept(upstream: Upstream, fake: FakeIndex, tmp_path: Path) -> None:
    fake.ranges = False
    file = read_file(upstream)
    assert upstream.read_wheel_metadata(file).installed_size > 300_000
    assert wheel_cache_path(tmp_path, file.sha256, file.filename).read_bytes() == fake.bodies[file.filename]


def test_advertised_metadata_is_used_and_checked(upstream: Upstream, fake: FakeIndex) -> None:
    fake.metadata = True
    file = read_file(upstream)
    assert b"Name: thing" in upstream.read_metadata(file)
    assert [path for path, _ in fake.requests if path.startswith("/files/")] == [f"/files/{file.filename}.metadata"]


def test_advertised_metadata_that_is_missing_falls_back(upstream: Upstream, fake: FakeIndex) -> None:
    fake.metadata = fake.metadata_missing = True
    assert b"Name: thing" in upstream.read_metadata(read_file(upstream))


def test_advertised_metadata_with_another_hash_is_refused(upstream: Upstream, fake: FakeIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.metadata = True
    file = read_file(upstream)
    monkeypatch.setattr(fake, "metadata_of", lambda _name: b"Name: evil\n")
    with pytest.raises(IntegrityError, match="not have the hash on its page"):
        upstream.read_metadata(file)


def test_a_body_that_is_no_wheel_is_refused(upstream: Upstream, fake: FakeIndex) -> None:
    fake.add_file("thing", "thing-1.0-py3-none-any.whl", b"not a zip" * 1000)
    with pytest.raises(IntegrityError, match="not a readable wheel"):
        upstream.read_wheel_metadata(read_file(upstream))


def test_a_wheel_with_anothers_metadata_is_refused(upstream: Upstream, fake: FakeIndex) -> None:
    fake.add_file("thing", "thing-1.0-py3-none-any.whl", encode_wheel("other", "1.0")[1])
    with pytest.raises(IntegrityError, match="METADATA of its own name"):
        upstream.read_wheel_metadata(read_file(upstream))


def test_a_file_that_vanished(upstream: Upstream, fake: FakeIndex) -> None:
    file = read_file(upstream)
    fake.bodies.clear()
    with pytest.raises(LockError, match="no longer on package index 'default'"):
        upstream.read_wheel_metadata(file)


def test_an_index_without_hashes_is_hashed_here(upstream: Upstream, fake: FakeIndex, tmp_path: Path) -> None:
    file = read_file(upstream)
    bare = ProjectFile(file.filename, file.url)
    done = upstream.complete(bare)
    assert (done.sha256, done.size) == (file.sha256, file.size)
    assert wheel_cache_path(tmp_path, file.sha256, file.filename).is_file()
    assert [path.name for path in (tmp_path / "metadata").glob("*")] == []
    assert fake.requests


def test_a_folder_as_an_index(tmp_path: Path) -> None:
    filename, data = encode_wheel("thing", "1.0")
    (tmp_path / "simple/thing").mkdir(parents=True)
    (tmp_path / "simple/thing" / filename).write_bytes(data)
    (tmp_path / "simple/thing/index.html").write_text(f'<a href="{filename}">x</a>')
    with Upstream(make_index((tmp_path / "simple").as_uri()), tmp_path / "cache") as upstream:
        assert upstream.read_project("nothing") is None
        file = upstream.complete(read_file(upstream))
        assert file.size == len(data)
        assert upstream.read_wheel_metadata(file).installed_size > 0
    with Upstream(make_index((tmp_path / "gone").as_uri()), tmp_path) as upstream, pytest.raises(RemoteError, match="is not there"):
        upstream.read_project("thing")
