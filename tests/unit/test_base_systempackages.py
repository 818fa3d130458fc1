"""Packages of dpkg, rpm, conda and R, as their databases say; and a base that has them all, read from its layers."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.base.inventory import decode_inventory, encode_inventory
from imagebuild.base.model import Inventory, OperatingSystem, SystemInventory, SystemPackage
from imagebuild.base.systempackages import is_system_database, parse_header, parse_status
from imagebuild.commands.base import describe_system
from imagebuild.oci.layout import LayoutStore
from tests.support.images import entry, make_layer, push_image, read_image

STATUS = """Package: libssl3
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: openssl
Version: 3.0.15-1~deb12u1
Description: Secure Sockets Layer toolkit
 Version: 9 is no field, it is indented

Package: login
Status: install ok installed
Architecture: amd64
Source: shadow (1:4.13+dfsg1-1)
Version: 1:4.13+dfsg1-1+b1

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
DEBS = (
    SystemPackage("deb", "libssl3", "3.0.15-1~deb12u1", "amd64", "openssl"),
    SystemPackage("deb", "login", "1:4.13+dfsg1-1+b1", "amd64", "shadow", "1:4.13+dfsg1-1"),
)
BASH = SystemPackage("rpm", "bash", "5.1.8-9.el9", "x86_64")
LIBS = SystemPackage("rpm", "openssl-libs", "1:3.2.2-6.el9_5", "x86_64", "openssl")


def make_header(name: str, version: str, release: str, architecture: str = "x86_64", source: str = "", epoch: int | None = None) -> bytes:
    """As rpm's header.c writes one: entries first, then their data."""
    data, entries = b"", b""
    for tag, text in ((1000, name), (1001, version), (1002, release), (1022, architecture), (1044, source)):
        if text:
            entries += struct.pack(">IIII", tag, 6, len(data), 1)
            data += text.encode() + b"\0"
    if epoch is not None:
        data += b"\0" * (-len(data) % 4)
        entries += struct.pack(">IIII", 1003, 4, len(data), 1)
        data += struct.pack(">I", epoch)
    entries += struct.pack(">IIII", 1028, 4, len(data), 3)  # file sizes: another tag, several values
    data += struct.pack(">III", 1, 2, 3)
    return struct.pack(">II", len(entries) // 16, len(data)) + entries + data


HEADERS = (
    make_header("bash", "5.1.8", "9.el9", source="bash-5.1.8-9.el9.src.rpm"),
    make_header("openssl-libs", "3.2.2", "6.el9_5", source="openssl-3.2.2-6.el9_5.src.rpm", epoch=1),
    make_header("gpg-pubkey", "fd431d51", "4ae0493b", architecture=""),
)


def make_sqlite(folder: Path, *headers: bytes) -> bytes:
    path = folder / "rpmdb.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")  # as rpm sets it
        database.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        database.executemany("INSERT INTO Packages (blob) VALUES (?)", [(item,) for item in headers])
        database.commit()
    return path.read_bytes()


def make_ndb(*headers: bytes) -> bytes:
    slots = struct.pack("<4sIII", b"RpmP", 0, 1, 1) + struct.pack("<IIII", 4, 0, 0, 0)
    blobs = b""
    for number, header in enumerate(headers, 1):
        slots += struct.pack("<4sIII", b"Slot", number, (4096 + len(blobs)) // 16, 1)
        blobs += struct.pack("<4sIII", b"BlbS", number, 1, len(header)) + header
        blobs += b"\0" * (-len(blobs) % 16)
    slots += struct.pack("<4sIII", b"Slot", 0, 0, 0) * ((4096 - len(slots)) // 16)
    return slots + blobs


def read_inventory(folder: Path, *entries: Any) -> Inventory:
    store = LayoutStore(folder / "store")
    layer = make_layer([entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), *entries])
    return read_image(store, push_image(store, [layer]), folder / "cache").inventory


def read_system(folder: Path, *entries: Any) -> SystemInventory:
    return read_inventory(folder, *entries).system


def test_debian_s_status_gives_binary_and_source_packages() -> None:
    assert tuple(parse_status(STATUS)) == DEBS
    assert tuple(parse_status("Package: base-files\nVersion: 12.4\nArchitecture: amd64\n", single=True)) == (
        SystemPackage("deb", "base-files", "12.4", "amd64"),
    )
    assert tuple(parse_status("Package: base-files\nVersion: 12.4\n")) == ()


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("/var/lib/dpkg/status", True),
        ("/var/lib/dpkg/status-old", False),
        ("/var/lib/dpkg/status.d/base-files", True),
        ("/var/lib/dpkg/status.d/base-files.md5sums", False),
        ("/usr/lib/os-release", True),
        ("/var/lib/rpm/rpmdb.sqlite", True),
        ("/var/lib/rpm/rpmdb.sqlite-wal", False),
        ("/usr/lib/sysimage/rpm/Packages.db", True),
        ("/home/x/Packages.db", False),
        ("/usr/lib/R/library/MASS/DESCRIPTION", True),
        ("/usr/local/lib/R/site-library/dplyr/DESCRIPTION", True),
        ("/opt/conda/lib/R/library/dplyr/DESCRIPTION", True),
        ("/usr/lib/R/library/MASS/doc/DESCRIPTION", False),
        ("/srv/DESCRIPTION", False),
    ],
)
def test_only_the_databases_are_kept(path: str, kept: bool) -> None:
    assert is_system_database(path.encode()) is kept


def test_a_base_of_debian_with_conda_and_r(tmp_path: Path) -> None:
    found = read_system(
        tmp_path,
        entry("usr/lib/os-release", b'NAME="Debian"\nID=debian\nVERSION_ID="12"\n'),
        entry("etc/os-release", link="../usr/lib/os-release"),
        entry("var/lib/dpkg/status", STATUS.encode()),
        entry(
            "opt/conda/conda-meta/zlib-1.json", json.dumps({"name": "zlib", "version": "1.3", "subdir": "linux-64", "files": []}).encode()
        ),
        entry("opt/conda/envs/r/conda-meta/zlib-1.json", json.dumps({"name": "zlib", "version": "1.3", "subdir": "linux-64"}).encode()),
        entry("opt/conda/conda-meta/state.json", b"[]"),
        entry("usr/lib/R/library/MASS/DESCRIPTION", b"Package: MASS\nPriority: recommended\nVersion: 7.3-58.2\n"),
    )
    conda, cran = SystemPackage("conda", "zlib", "1.3", "linux-64"), SystemPackage("cran", "MASS", "7.3-58.2")
    assert found == SystemInventory(OperatingSystem("debian", "12"), (conda, cran, *DEBS))


@pytest.mark.parametrize("form", ["sqlite", "ndb"])
def test_a_base_of_red_hat_and_one_of_suse(tmp_path: Path, form: str) -> None:
    (tmp_path / "made").mkdir()
    name = {"sqlite": "var/lib/rpm/rpmdb.sqlite", "ndb": "usr/lib/sysimage/rpm/Packages.db"}[form]
    data = make_sqlite(tmp_path / "made", *HEADERS) if form == "sqlite" else make_ndb(*HEADERS)
    found = read_system(tmp_path, entry("etc/os-release", b'ID="rhel"\nVERSION_ID="9.5"\n'), entry(name, data))
    assert found == SystemInventory(OperatingSystem("rhel", "9.5"), (BASH, LIBS))


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("var/lib/rpm/Packages", bytes),  # Berkeley DB
        ("var/lib/rpm/rpmdb.sqlite", lambda data: data[:5000]),
        ("var/lib/rpm/Packages.db", lambda _: make_ndb(*HEADERS)[:4200]),
        ("var/lib/rpm/Packages.db", lambda _: b""),
    ],
)
def test_a_database_that_cannot_be_read_is_named(tmp_path: Path, name: str, spoil: Callable[[bytes], bytes]) -> None:
    (tmp_path / "made").mkdir()
    data = spoil(make_sqlite(tmp_path / "made", *HEADERS))
    assert read_system(tmp_path, entry(name, data)) == SystemInventory(unread=(f"/{name}",))


def spoil_header(cut: int, byte: bytes) -> bytes:
    return HEADERS[1][:cut] + byte + HEADERS[1][cut + 1 :]


@given(st.binary(max_size=200) | st.builds(spoil_header, st.integers(0, 200), st.binary(max_size=1)))
def test_a_header_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(ValueError, LookupError, struct.error):
        assert parse_header(data).kind == "rpm"


def test_no_lock_depends_on_it(tmp_path: Path) -> None:
    """Another status, another inventory, the same fingerprint; an inventory committed before there was the field is read."""
    plain, full = read_inventory(tmp_path / "a"), read_inventory(tmp_path / "b", entry("var/lib/dpkg/status", STATUS.encode()))
    assert plain.system != full.system
    assert plain.fingerprint == full.fingerprint
    document = json.loads(encode_inventory(full))
    del document["system"]
    assert decode_inventory(json.dumps(document).encode()).system == SystemInventory()


def test_inspect_says_it_in_a_line() -> None:
    assert describe_system(SystemInventory(OperatingSystem("debian", "12"), (*DEBS, SystemPackage("cran", "MASS", "7")))) == (
        "1 cran, 2 deb (debian 12)"
    )
    assert describe_system(SystemInventory(OperatingSystem("arch", ""), (), ("/var/lib/rpm/Packages",))) == (
        "no package known (arch); /var/lib/rpm/Packages cannot be read"
    )
