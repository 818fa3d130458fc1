"""The starter's root file system: cleaned, with its user, the same bytes each time."""

from __future__ import annotations

import io
import tarfile

import pytest

from imagebuild.engine.machinesources import SUITE, choose_sources, parse_apt_sources
from imagebuild.starter.rootfs import HOME, clean_tar, patch_bytecode

EPOCH = 1_700_000_000


def make_tar(order: int = 1) -> bytes:
    files = {
        "./etc/passwd": b"root:x:0:0::/root:/bin/sh\n",
        "./etc/shadow": b"root:*::::::\n",
        "./etc/resolv.conf": b"nameserver 192.0.2.1\n",
        "./etc/apt/sources.list": b"deb somewhere\n",
        "./usr/lib/python3.11/EXTERNALLY-MANAGED": b"x",
        "./usr/lib/python3.11/json.py": b"pass\n",
        "./usr/lib/python3.11/__pycache__/json.cpython-311.pyc": b"MAGI" + bytes(4) + b"\xff\xff\xff\xff" + b"SIZEcode",
        "./usr/share/doc/tini/copyright": b"c",
        "./usr/share/doc/tini/README": b"r",
        "./var/log/apt/history.log": b"now",
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in list(files.items())[::order]:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), EPOCH + 500, 0o644
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("./lib")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/lib"
        tar.addfile(link)
        device = tarfile.TarInfo("./dev/null")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    return stream.getvalue()


def clean(data: bytes) -> bytes:
    target = io.BytesIO()
    clean_tar(io.BytesIO(data), target, EPOCH)
    return target.getvalue()


def test_the_build_machines_own_files_are_gone_and_the_user_is_there() -> None:
    with tarfile.open(fileobj=io.BytesIO(clean(make_tar()))) as tar:
        members = {item.name: item for item in tar.getmembers()}
        passwd = tar.extractfile("etc/passwd")
        sources = tar.extractfile("etc/apt/sources.list")
        assert passwd is not None
        assert b"jovyan:x:1000:0" in passwd.read()
        assert sources is not None
        assert sources.read() == b""
    home = members[HOME.lstrip("/")]
    assert (home.uid, home.gid, home.mode, home.isdir()) == (1000, 0, 0o775, True)
    assert members["usr/local/bin/start-notebook"].mode == 0o755
    assert members["lib"].linkname == "usr/lib"
    gone = {"etc/resolv.conf", "dev/null", "var/log/apt/history.log", "usr/share/doc/tini/README", "usr/lib/python3.11/EXTERNALLY-MANAGED"}
    assert not gone & set(members)
    assert "usr/share/doc/tini/copyright" in members
    assert max(item.mtime for item in members.values()) <= EPOCH


def test_bytecode_follows_its_sources_clamped_time() -> None:
    with tarfile.open(fileobj=io.BytesIO(clean(make_tar()))) as tar:
        stream = tar.extractfile("usr/lib/python3.11/__pycache__/json.cpython-311.pyc")
        assert stream is not None
        data = stream.read()
    assert int.from_bytes(data[8:12], "little") == EPOCH
    assert data[12:] == b"SIZEcode"
    hashed = b"MAGI" + (3).to_bytes(4, "little") + b"12345678code"
    assert patch_bytecode(hashed, EPOCH) == hashed


def test_the_order_of_the_input_does_not_matter() -> None:
    assert clean(make_tar()) == clean(make_tar(-1))


ONE_LINE = (
    "deb [signed-by=/k.gpg] http://mirror.example/debian trixie main\n"
    "# deb http://no.example/debian x main\ndeb-src http://a/debian b main\n"
)
DEB822 = "Types: deb\n# note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\n" + (
    "Types: deb\nURIs: http://mirror.example/debian-security\nSuites: bookworm-security\nComponents: main\nSigned-By: /k.gpg\n"
)


@pytest.mark.parametrize("text", [ONE_LINE, DEB822])
def test_mirrors_come_from_the_machines_own_sources(text: str) -> None:
    lines = choose_sources(parse_apt_sources([text]))
    assert lines[0].endswith(f"http://mirror.example/debian {SUITE} main")
    assert ("signed-by=/k.gpg" in lines[0]) == (text is ONE_LINE)
    assert (f"deb [signed-by=/k.gpg] http://mirror.example/debian-security {SUITE}-security main" in lines) == (text is DEB822)


def test_a_machine_without_debian_sources_leaves_the_choice_to_mmdebstrap() -> None:
    ubuntu = "deb http://archive.example/ubuntu jammy main\n"
    assert choose_sources(parse_apt_sources([ubuntu])) == []
    assert choose_sources(parse_apt_sources([DEB822.replace("Types: deb\n", "Types: deb\nEnabled: no\n")])) == []
