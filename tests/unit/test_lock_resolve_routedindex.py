"""What a resolver is shown: stubs, judged files, and the loopback server."""

from __future__ import annotations

import contextlib
import hashlib
import io
import zipfile
from pathlib import Path

import msgspec
import pytest
import requests

from imagebuild.base.model import Distribution
from imagebuild.errors import LockError, RemoteError
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.hashes import AllowedHashes
from imagebuild.lock.inputs.localpackage import LocalWheel
from imagebuild.lock.resolve.baserequirements import list_base_constraints, list_requiring
from imagebuild.lock.resolve.candidates import Choice, describe_tags, select_wheels
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.stubs import build_stub, build_stubs
from tests.support.builders import encode_wheel
from tests.support.servers.index import FakeIndex, make_index
from tests.support.tools import ignore, wait_for

ENVIRONMENT = {"python_version": "3.11", "sys_platform": "linux", "extra": ""}
TAGS = ("cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_17_x86_64", "cp311-abi3-manylinux_2_17_x86_64", "py3-none-any")
TORCH = Distribution(
    "torch",
    "2.5.1+cu121",
    "/x",
    requires=(
        "filelock",
        "sympy==1.13.1; python_version >= '3.9'",
        "old<1; python_version < '3'",
        "optree>=0.12; extra == 'optree'",
        "numpy<3",
        "broken >=",
        "at @ https://x.example/at.whl",
    ),
    extras=("optree",),
)


def page(*files: ProjectFile, name: str = "thing") -> ProjectPage:
    return ProjectPage(name, files)


def file(filename: str, uploaded: str = "2024-01-01T00:00:00Z", **more: object) -> ProjectFile:
    return ProjectFile(filename, "https://x.example/" + filename, upload_time=uploaded, **more)  # type: ignore[arg-type]


def choose(cutoff: str = "2026-01-01T00:00:00Z", explicit: bool = True, **pins: str) -> Choice:
    return Choice(TAGS, "3.11.2", cutoff, explicit, {name: frozenset({version}) for name, version in pins.items()})


def test_a_stub_keeps_version_and_extras_only() -> None:
    stub = build_stub(TORCH, ENVIRONMENT)
    assert stub.filename == "torch-2.5.1+cu121-py3-none-any.whl"
    lines = stub.metadata.decode().splitlines()
    assert "Version: 2.5.1+cu121" in lines
    assert "Provides-Extra: optree" in lines
    assert [line for line in lines if line.startswith("Requires-Dist")] == ["Requires-Dist: optree>=0.12; extra == 'optree'"]
    assert build_stub(TORCH, ENVIRONMENT) == stub
    with zipfile.ZipFile(io.BytesIO(stub.data)) as archive:
        assert archive.read("torch-2.5.1+cu121.dist-info/METADATA") == stub.metadata


def test_stubs_leave_out_odd_versions() -> None:
    stubs, odd = build_stubs([TORCH, Distribution("apt", "2.6-3build1", "/x"), Distribution("torch", "1.0", "/later")], ENVIRONMENT)
    assert stubs["torch"].version == "2.5.1+cu121"
    assert odd == {"apt": "2.6-3build1"}


def test_what_the_base_needs_and_lacks_is_a_constraint() -> None:
    assert list_base_constraints([TORCH], ENVIRONMENT, {"torch", "numpy"}) == ("sympy==1.13.1",)
    assert list_base_constraints([TORCH], ENVIRONMENT, {"torch"}) == ("numpy<3", "sympy==1.13.1")
    assert list_requiring([TORCH], ENVIRONMENT)["sympy"] == ("torch 2.5.1+cu121 (needs sympy==1.13.1)",)


def test_the_best_wheel_of_each_version() -> None:
    offer = select_wheels(
        page(
            file("thing-1.0-py3-none-any.whl"),
            file("thing-1.0-cp311-abi3-manylinux_2_17_x86_64.whl"),
            file("thing-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl"),
            file("thing-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"),
            file("thing-1.1-1-py3-none-any.whl"),
            file("thing-1.1-2a-py3-none-any.whl"),
            file("thing-1.1-py3-none-any.whl"),
            file("other-1.0-py3-none-any.whl"),
            file("thing-x-y.whl"),
        ),
        "default",
        choose(),
    )
    assert {version: item.filename for version, item in offer.wheels.items()} == {
        "1.0": "thing-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
        "1.1": "thing-1.1-2a-py3-none-any.whl",
    }


def test_what_is_left_out_is_remembered() -> None:
    offer = select_wheels(
        page(
            file("thing-0.1.tar.gz"),
            file("thing-1.0.tar.gz"),
            file("thing-1.0-py3-none-any.whl"),
            file("thing-2.0-cp312-cp312-macosx_11_0_arm64.whl"),
            file("thing-3.0-py3-none-any.whl", requires_python=">=3.12"),
            file("thing-3.1-py3-none-any.whl", requires_python="not a specifier"),
            file("thing-4.0-py3-none-any.whl", uploaded="2026-01-01T00:00:01Z"),
            file("thing-5.0-py3-none-any.whl", yanked=True),
            file("thing-5.1-py3-none-any.whl", yanked=True),
            file("thing-6.0-py3-none-any.whl", uploaded=""),
            file("thing-7.0-py3-none-any.whl", uploaded="2026-01-01T00:00:00Z"),
        ),
        "default",
        choose(thing="5.1"),
    )
    assert list(offer.wheels) == ["1.0", "3.1", "5.1", "7.0"]
    assert offer.sdist_only == ("0.1",)
    assert offer.other_tags == {"2.0": ("cp312-cp312-macosx_11_0_arm64",)}
    assert offer.other_python == {"3.0": ">=3.12"}
    assert offer.too_new == ("4.0",)
    assert offer.yanked == ("5.0",)
    assert offer.undated == 1


def test_wheels_with_other_hashes_do_not_count() -> None:
    files = (
        file("thing-1.0-cp311-cp311-manylinux_2_17_x86_64.whl", sha256="b" * 64),
        file("thing-1.0-py3-none-any.whl", sha256="a" * 64),
        file("thing-1.1-py3-none-any.whl", sha256="c" * 64),
        file("thing-1.2-py3-none-any.whl"),  # its hash is known when it has been fetched
        file("thing-1.3-cp311-cp311-win_amd64.whl", sha256="d" * 64),
    )
    allowed = {"thing": AllowedHashes(frozenset({"a" * 64}), ("requirements.in line 1",))}
    found = select_wheels(page(*files), "default", msgspec.structs.replace(choose(), hashes=allowed))
    assert {version: item.filename for version, item in found.wheels.items()} == {
        "1.0": "thing-1.0-py3-none-any.whl",
        "1.2": "thing-1.2-py3-none-any.whl",
    }
    assert found.other_hashes == ("1.1",)
    assert list(found.other_tags) == ["1.3"]


def test_a_cutoff_needs_upload_times() -> None:
    undated = page(file("thing-1.0-py3-none-any.whl", uploaded=""))
    with pytest.raises(LockError, match="gives no upload times, so the cutoff 2026-01-01T00:00:00Z cannot be applied to thing"):
        select_wheels(undated, "default", choose())
    assert list(select_wheels(undated, "default", choose(explicit=False)).wheels) == ["1.0"]
    assert list(select_wheels(undated, "default", choose(cutoff="")).wheels) == ["1.0"]


def test_tags_for_people() -> None:
    assert describe_tags(["cp312-cp312-win_amd64", "cp313-cp313-win_amd64"]) == "cp312, cp313 on win_amd64"


def test_the_server_shows_pages_metadata_and_bodies(tmp_path: Path) -> None:
    fake = FakeIndex("html")
    fake.add("thing", "1.0", ["torch"])
    fake.add_file("thing", "thing-0.9.tar.gz", b"x")
    fake.add("torch", "99.0")
    stubs, odd = build_stubs([TORCH, Distribution("apt", "2.6-3build1", "/x")], ENVIRONMENT)
    with fake.serve() as url:
        index = make_index(url)
        with (
            Upstream(index, tmp_path) as upstream,
            RoutedIndex([index], {"default": upstream}, choose(explicit=False), stubs, odd, {}, tmp_path, ignore) as policy,
            requests.Session() as session,
        ):
            answer = session.get(policy.url + "thing/")
            assert answer.headers["Content-Type"] == "application/vnd.pypi.simple.v1+json"
            (entry,) = answer.json()["files"]
            assert entry["filename"] == "thing-1.0-py3-none-any.whl"
            assert entry["core-metadata"] is True
            address = requests.compat.urljoin(answer.url, entry["url"])
            assert b"Requires-Dist: torch" in session.get(address + ".metadata").content
            assert session.get(address).content == fake.bodies["thing-1.0-py3-none-any.whl"]
            (stub,) = session.get(policy.url + "torch/").json()["files"]
            assert stub["filename"] == stubs["torch"].filename
            assert session.get(requests.compat.urljoin(policy.url + "torch/", stub["url"])).content == stubs["torch"].data
            assert session.get(policy.url + "nothing/").status_code == 404
            offer = policy.find_candidates("nothing")
            assert offer is not None
            assert offer.absent
            assert session.get(policy.url.replace("/simple/", "x/simple/") + "thing/").status_code == 404
            assert session.get(policy.url.rsplit("/", 3)[0] + "/simple/thing/").status_code == 404
            assert not any("torch" in path for path, _ in fake.requests)
            policy.raise_failure()
            assert session.get(policy.url + "apt/").status_code == 404
            with pytest.raises(LockError, match=r"apt 2\.6-3build1"):
                policy.raise_failure()


def test_no_index_hears_the_name_of_a_source_tree_or_of_a_wheel_by_address(tmp_path: Path) -> None:
    """Whoever asks: the resolver, the search for what blocks, or what is read ahead."""
    fake = FakeIndex()
    for name in ("cosml-utils", "solver"):
        fake.add(name, "99.0")
    fake.add("thing", "1.0", ["cosml-utils", "solver>=3"])
    fake.add("six", "1.0")
    local = {}
    for name, url in (("cosml-utils", ""), ("solver", "https://wheels.example/solver-3.1-py3-none-any.whl")):
        filename, data = encode_wheel(name, "3.1", ["six"])
        path = tmp_path / filename
        path.write_bytes(data)
        local[name] = LocalWheel(path, filename, hashlib.sha256(data).hexdigest(), len(data), name, "3.1", "", url)
    with fake.serve() as url:
        index = make_index(url)
        choice = msgspec.structs.replace(choose(explicit=False), markers=ENVIRONMENT)
        with (
            Upstream(index, tmp_path) as upstream,
            RoutedIndex([index], {"default": upstream}, choice, {}, {}, local, tmp_path, ignore) as policy,
        ):
            assert policy.metadata_of("thing", "thing-1.0-py3-none-any.whl") is not None
            wait_for(lambda: policy.find_candidates("six") is not None)
            for name, wheel in local.items():
                found = policy.ask_candidates(name)
                assert found.given
                assert [file.sha256 for file in found.wheels.values()] == [wheel.sha256]
                assert [str(item) for item in policy.read_needs(name, "3.1")] == ["six"]
                (entry,) = requests.get(policy.url + f"{name}/", headers={"Connection": "close"}).json()["files"]
                address = requests.compat.urljoin(policy.url + f"{name}/", entry["url"])
                assert requests.get(address, headers={"Connection": "close"}).content == wheel.path.read_bytes()
                assert b"Requires-Dist: six" in requests.get(address + ".metadata", headers={"Connection": "close"}).content
            policy.raise_failure()
    assert {path for path, _ in fake.requests if path.startswith("/simple/")} == {"/simple/thing/", "/simple/six/"}


def test_what_a_served_package_needs_is_read_ahead(tmp_path: Path) -> None:
    """A resolver that asks for one thing at a time finds the next one read; names that do not apply, or are given, are not asked for."""
    fake = FakeIndex()
    fake.add("thing", "1.0", ["next<2", "torch", "win; sys_platform == 'win32'", "more; extra == 'x'", "private-one", "gone"])
    fake.add("next", "1.0", ["last"])
    fake.add("next", "2.0", ["not-this"])
    fake.add("last", "1.0")
    stubs, odd = build_stubs([TORCH], ENVIRONMENT)
    with fake.serve() as url:
        indexes = [make_index(url), PackageIndex("corp", "http://127.0.0.1:9/simple/", ("private-*",))]
        with contextlib.ExitStack() as stack:
            upstreams = {item.name: stack.enter_context(Upstream(item, tmp_path, pause=ignore_pause)) for item in indexes}
            choice = msgspec.structs.replace(choose(explicit=False), markers=ENVIRONMENT)
            policy = stack.enter_context(RoutedIndex(indexes, upstreams, choice, stubs, odd, {}, tmp_path, ignore))
            assert policy.metadata_of("thing", "thing-1.0-py3-none-any.whl") is not None
            wait_for(lambda: {"/simple/next/", "/simple/last/", "/simple/gone/"} <= {path for path, _ in fake.requests})
            wait_for(lambda: policy.find_candidates("last") is not None)
            policy.raise_failure()  # the private index is down, and nobody has asked for anything of it
    asked = {path for path, _ in fake.requests if path.startswith("/simple/")}
    assert asked == {"/simple/thing/", "/simple/next/", "/simple/last/", "/simple/gone/"}
    assert not any("next-2.0" in path for path, _ in fake.requests)


def ignore_pause(_seconds: float) -> None:
    """No waiting between attempts."""


def test_an_error_while_serving_is_kept(tmp_path: Path) -> None:
    fake = FakeIndex()
    fake.add("thing", "1.0")
    fake.refuse = [403]
    with fake.serve() as url:
        index = make_index(url)
        with (
            Upstream(index, tmp_path) as upstream,
            RoutedIndex([index], {"default": upstream}, choose(), {}, {}, {}, tmp_path, ignore) as policy,
        ):
            assert requests.get(policy.url + "thing/", headers={"Connection": "close"}).status_code == 404
            with pytest.raises(RemoteError, match="answered 403 for the page of thing"):
                policy.raise_failure()
