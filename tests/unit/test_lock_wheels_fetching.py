"""Fetching locked wheels: verified, kept by hash, nothing left of what was wrong."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from imagebuild.errors import ConfigurationError, IntegrityError, LockError, RemoteError
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.index import bodies
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.wheels.fetching import fetch_wheels
from tests.support.builders import encode_wheel
from tests.support.servers.index import FakeIndex, make_index
from tests.support.tools import ignore


def lock_package(fake: FakeIndex, name: str, filename: str, index: str = "default") -> LockedPackage:
    data = fake.bodies[filename]
    return LockedPackage(name, "1.0", filename, hashlib.sha256(data).hexdigest(), len(data), 1, index)


def make_lock(*packages: LockedPackage) -> Lock:
    digest = "sha256:" + "0" * 64
    return Lock("t", "b", digest, digest, "3.11.2", "linux/amd64", {}, "r", "2026-10-01T00:00:00Z", packages)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "compute_pause", lambda _attempt, _after: 0.0)


@pytest.fixture
def fake() -> FakeIndex:
    fake = FakeIndex()
    for name in ("one", "two", "three"):
        fake.add(name, "1.0", extra=name.encode() * 50_000)
    return fake


@pytest.fixture
def indexes(fake: FakeIndex) -> Iterator[tuple[PackageIndex, ...]]:
    with fake.serve() as url:
        yield (make_index(url),)


def all_of(fake: FakeIndex) -> Lock:
    return make_lock(*(lock_package(fake, name, next(iter(fake.files[name]))) for name in sorted(fake.files)))


def left_over(cache: Path) -> list[str]:
    return [path.name for path in (cache / "wheels").rglob("*") if path.is_file()]


@pytest.mark.parametrize("form", ["json", "html"])
def test_wheels_are_fetched_once(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path, form: str) -> None:
    fake.form = form
    lock = all_of(fake)
    said: list[str] = []
    found = fetch_wheels(lock, lambda: indexes, tmp_path, {}, said.append)
    assert {name: path.read_bytes() for name, path in found.items()} == {item.name: fake.bodies[item.filename] for item in lock.packages}
    assert [path.name for path in found.values()] == [item.filename for item in lock.packages]
    assert len(said) == 1
    before = len(fake.requests)
    assert fetch_wheels(lock, lambda: indexes, tmp_path, {}, said.append) == found
    assert len(fake.requests) == before
    assert len(said) == 1


def test_a_rotten_cache_is_mended(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = all_of(fake)
    found = fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    data = bytearray(found["one"].read_bytes())
    data[len(data) // 2] ^= 1
    found["one"].write_bytes(data)
    assert fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)["one"].read_bytes() == fake.bodies[found["one"].name]


def test_other_bytes_are_refused_and_not_kept(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    good = fake.bodies["one-1.0-py3-none-any.whl"]
    fake.bodies["one-1.0-py3-none-any.whl"] = good[:-1] + b"!"
    with pytest.raises(IntegrityError, match=r"one 1\.0: one-1\.0-py3-none-any\.whl") as caught:
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    assert lock.packages[0].sha256 in caught.value.details[0]
    assert hashlib.sha256(good[:-1] + b"!").hexdigest() in caught.value.details[1]
    assert left_over(tmp_path) == []


def test_a_longer_body_is_refused_without_reading_it_all(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    fake.bodies["one-1.0-py3-none-any.whl"] += b"x" * 5_000_000
    with pytest.raises(IntegrityError, match="not the expected file"):
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    gc.collect()  # a connection left open is a warning, which fails the test
    assert left_over(tmp_path) == []


def test_a_replaced_file_is_refused_before_it_is_read(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    fake.add("one", "1.0", extra=b"other")
    with pytest.raises(IntegrityError, match="now has another"):
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    assert not any(path.startswith("/files/") for path, _ in fake.requests)


def test_a_body_cut_short_is_tried_again(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    fake.cut = 2
    fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    assert left_over(tmp_path) == ["one-1.0-py3-none-any.whl"]


def test_a_body_that_stays_cut_short_is_an_error(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    fake.cut = 99
    with pytest.raises(RemoteError, match=r"cut one-1\.0-py3-none-any\.whl short 4 times"):
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("what", ["file", "project", "body"])
def test_a_vanished_file(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path, what: str) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl"))
    if what == "file":
        fake.files["one"].clear()
    elif what == "project":
        del fake.files["one"]
    else:
        fake.bodies.clear()
    with pytest.raises(LockError, match=r"one-1\.0-py3-none-any\.whl is no longer on package index 'default'"):
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)


def test_an_index_that_is_not_configured(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl", "internal"))
    with pytest.raises(LockError, match="from package index 'internal', which is not configured"):
        fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore)


def test_a_wheel_comes_from_its_own_index_only(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    private = FakeIndex()
    private.add("secret", "1.0")
    fake.add("secret", "1.0", extra=b"attack")
    lock = make_lock(lock_package(private, "secret", "secret-1.0-py3-none-any.whl", "internal"))
    with private.serve() as url:
        found = fetch_wheels(lock, lambda: (*indexes, make_index(url, "internal", ("secret",))), tmp_path, {}, ignore)
    assert found["secret"].read_bytes() == private.bodies["secret-1.0-py3-none-any.whl"]
    assert fake.requests == []


def test_local_wheels_are_checked(tmp_path: Path) -> None:
    filename, data = encode_wheel("mine", "1.0")
    path = tmp_path / filename
    path.write_bytes(data)
    package = LockedPackage("mine", "1.0", filename, hashlib.sha256(data).hexdigest(), len(data), 1, "local", tree="a" * 64)
    lock = make_lock(package)
    assert fetch_wheels(lock, tuple, tmp_path / "cache", {"mine": path}, ignore) == {"mine": path}
    with pytest.raises(LockError, match="source tree is missing"):
        fetch_wheels(lock, tuple, tmp_path / "cache", {}, ignore)
    with pytest.raises(IntegrityError, match="not the locked one"):
        fetch_wheels(make_lock(msgspec.structs.replace(package, sha256="b" * 64)), tuple, tmp_path / "cache", {"mine": path}, ignore)


@pytest.mark.slow
def test_two_at_once(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path) -> None:
    lock = all_of(fake)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _number: fetch_wheels(lock, lambda: indexes, tmp_path, {}, ignore), range(4)))
    assert all(result == results[0] for result in results)
    assert sorted(left_over(tmp_path)) == sorted(item.filename for item in lock.packages)


def test_a_full_disk_is_said(fake: FakeIndex, indexes: tuple[PackageIndex, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies, "replacing", refuse)
    with pytest.raises(ConfigurationError, match=r"no space left while keeping one-1\.0"):
        fetch_wheels(make_lock(lock_package(fake, "one", "one-1.0-py3-none-any.whl")), lambda: indexes, tmp_path, {}, ignore)
