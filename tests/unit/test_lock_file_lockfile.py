"""The lock file: same lock, same bytes; every malformation named."""

from __future__ import annotations

import hashlib
import string
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import LockError
from imagebuild.lock.file.lockfile import format_lock, lock_digest, parse_lock, read_lock, write_lock
from imagebuild.lock.file.model import Lock, LockedPackage

PACKAGE = LockedPackage(
    name="pandas",
    version="2.2.3",
    filename="pandas-2.2.3-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    sha256="a" * 64,
    size=13,
    installed_size=40,
    index="default",
    upload_time="2024-09-20T13:09:01Z",
    requires_python=">=3.9",
    dependencies=("tzdata",),
    via=("requirements.in",),
)
LOCAL = LockedPackage(
    name="cosml-utils",
    version="0.1",
    filename="cosml_utils-0.1-py3-none-any.whl",
    sha256="b" * 64,
    size=1,
    installed_size=2,
    index="local",
    tree="c" * 64,
)
LOCK = Lock(
    team="cosml",
    base="starter",
    base_digest="sha256:" + "d" * 64,
    base_fingerprint="sha256:" + "e" * 64,
    python="3.11.2",
    platform="linux/amd64",
    inputs={"images/cosml/requirements.in": "f" * 64, "images/cosml/packages/cosml utils": "0" * 64},
    resolver="pip-tools 7.6.2",
    cutoff="2026-10-01T00:00:00Z",
    packages=(LOCAL, PACKAGE),
    satisfied=("numpy==1.26.4", "torch==2.5.1+cu121"),
)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "pylock.cosml.toml"
    write_lock(path, LOCK)
    assert read_lock(path) == LOCK
    assert "://" not in path.read_text()


def test_an_empty_lock(tmp_path: Path) -> None:
    lock = msgspec.structs.replace(LOCK, packages=(), satisfied=())
    write_lock(tmp_path / "x", lock)
    assert read_lock(tmp_path / "x") == lock


def test_it_is_a_pep_751_lock() -> None:
    from packaging.pylock import Pylock

    lock = Pylock.from_dict(tomllib.loads(format_lock(LOCK)))
    assert [str(package.name) for package in lock.packages] == ["cosml-utils", "pandas"]
    wheels = lock.packages[1].wheels
    assert wheels is not None
    assert (wheels[0].path, wheels[0].url, wheels[0].hashes) == (PACKAGE.filename, None, {"sha256": "a" * 64})


def test_the_digest_is_of_the_content() -> None:
    assert lock_digest(LOCK) == lock_digest(parse_lock(format_lock(LOCK)))
    assert lock_digest(LOCK) != lock_digest(msgspec.structs.replace(LOCK, packages=(LOCAL,)))
    reordered = msgspec.structs.replace(LOCK, inputs=dict(reversed(LOCK.inputs.items())))
    assert lock_digest(LOCK) == lock_digest(reordered)
    assert format_lock(LOCK) == format_lock(reordered)


def test_what_came_later_changes_no_older_digest() -> None:
    """Image keys and labels hold it: a lock that uses none of it keeps the digest it had before url and yanked were there."""
    content = msgspec.to_builtins(LOCK)
    for package in content["packages"]:
        for key in ("url", "yanked", "source"):
            del package[key]
    for key in ("exclude", "override", "rewritten"):
        del content[key]
    assert lock_digest(LOCK) == "sha256:" + hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    yanked = msgspec.structs.replace(PACKAGE, yanked="leaks")
    assert lock_digest(LOCK) != lock_digest(msgspec.structs.replace(LOCK, packages=(LOCAL, yanked)))


def test_a_wheel_by_address_and_a_yanked_one(tmp_path: Path) -> None:
    direct = msgspec.structs.replace(PACKAGE, index="url", url="https://wheels.corp.example/pandas.whl", yanked='it "leaks"')
    lock = msgspec.structs.replace(LOCK, packages=(LOCAL, direct))
    write_lock(tmp_path / "pylock.cosml.toml", lock)
    assert read_lock(tmp_path / "pylock.cosml.toml") == lock
    for text in (format_lock(lock).replace('index = "url"', 'index = "corp"'), format_lock(LOCK).replace('"default"', '"url"')):
        (tmp_path / "pylock.cosml.toml").write_text(text)
        with pytest.raises(LockError, match=r"wheels\.url is for index 'url'"):
            read_lock(tmp_path / "pylock.cosml.toml")


names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=12)


@given(st.lists(names, unique=True, max_size=5), st.text(max_size=30), st.lists(st.text(min_size=1, max_size=30), max_size=9))
def test_any_lock_round_trips(packages: list[str], resolver: str, via: list[str]) -> None:
    lock = msgspec.structs.replace(
        LOCK,
        resolver="x" + resolver,
        packages=tuple(
            msgspec.structs.replace(PACKAGE, name=name, version="1.0", filename=f"{name}-1.0-py3-none-any.whl", via=tuple(via))
            for name in sorted(packages)
        ),
        inputs={key or "k": "9" * 64 for key in via},
    )
    assert parse_lock(format_lock(lock)) == lock


BREAKS = [
    ('lock-version = "1.0"', 'lock-version = "2.0"', "PEP 751"),
    ('sha256 = "' + "a" * 64, 'sha256 = "' + "A" * 64, "hashes.sha256 must be 64 hex digits"),
    ('sha256 = "' + "a" * 64, 'sha256 = "abc', "hashes.sha256 must be 64 hex digits"),
    ('path = "cosml', 'path = "../cosml', "wheels.path must be a file name|PEP 751|differ"),
    ('version = "2.2.3"', 'version = "2.2.4"', "names another package|not consistent"),
    ("size = 13\n", "size = -1\n", "size|PEP 751"),
    ("installed-size = 40", 'installed-size = "40"', r"packages\[1\].tool.imagebuild.installed-size must be a whole number"),
    ('index = "default"\n', "", r"packages\[1\].tool.imagebuild.index must be a string"),
    ("format = 1\n", "format = 2\n", "format is 2"),
    ('cutoff = "2026-10-01T00:00:00Z"', 'cutoff = "today"', "cutoff"),
    ('base-fingerprint = "sha256:e', 'base-fingerprint = "sha256:', "base-fingerprint"),
    ("[tool.imagebuild]", "[tool.other]", "another program made this file|tool.imagebuild.format"),
    ('created-by = "imagebuild"', "created-by = ", "not TOML"),
    ('name = "pandas"', 'name = "aandas"', "."),
]


@pytest.mark.parametrize(("old", "new", "complaint"), BREAKS)
def test_malformed_files_are_named(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    text = format_lock(LOCK)
    assert old in text
    path = tmp_path / "pylock.cosml.toml"
    path.write_text(text.replace(old, new))
    with pytest.raises(LockError, match=complaint) as caught:
        read_lock(path)
    assert caught.value.message.startswith("pylock.cosml.toml")


def test_an_address_in_a_lock_is_refused(tmp_path: Path) -> None:
    text = format_lock(LOCK).replace(
        f'path = "{PACKAGE.filename}"', f'path = "{PACKAGE.filename}"\nurl = "https://x.example/{PACKAGE.filename}"'
    )
    (tmp_path / "l").write_text(text)
    with pytest.raises(LockError, match=r"url|PEP 751"):
        read_lock(tmp_path / "l")


@pytest.mark.parametrize("data", [b"\xff\xfe", b"", b"[[packages]]\n"])
def test_garbage_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "l").write_bytes(data)
    with pytest.raises(LockError):
        read_lock(tmp_path / "l")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="is missing"):
        read_lock(tmp_path / "none")
