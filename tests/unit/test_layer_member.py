"""Members: the files pip would leave, RECORD, and the cache."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import BuildError, ConfigurationError, IntegrityError
from imagebuild.jobs.slots import Jobs
from imagebuild.layer.bytecode import BytecodeCompiler
from imagebuild.layer.member import build_member
from imagebuild.layer.members import build_members
from imagebuild.layer.memberstore import MemberRequest
from imagebuild.layer.model import Codec, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.layer.tar.header import END_OF_ARCHIVE
from imagebuild.wheel.record import render_record
from tests.support.builders import lock_wheel, make_host_interpreter, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree, folder, link

TAG = sys.implementation.cache_tag


def build(wheel: Path, cache: Path, **changes: Any) -> Member:
    options: dict[str, Any] = {
        "package": "demo",
        "version": "1.0",
        "interpreter": make_host_interpreter(),
        "tree": MemoryTree(USUAL),
        "codec": Codec(),
        "compiler": None,
        "cache": cache,
        "home": "/home/jovyan",
        "mtime": 7,
    }
    return build_member(wheel, **{**options, **changes})


def read_tar(member: Member) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    data = member.blob.read_bytes()
    plain = gzip.decompress(data) if member.blob.name.endswith("gz") else zstandard.ZstdDecompressor().decompress(data)
    assert len(plain) == member.uncompressed
    assert not plain.endswith(END_OF_ARCHIVE)
    found = {}
    with tarfile.open(fileobj=io.BytesIO(plain + END_OF_ARCHIVE)) as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            assert entry.name not in found
            found["/" + entry.name] = (entry, content.read())
    return found


RICH = {
    "demo/__init__.py": b"x = 1\n",
    "demo/broken.py": b"def (\n",
    "demo/native.cpython-311-x86_64-linux-gnu.so.1": b"\x7fELF",
    "demo/run.sh": b"#!/bin/sh\n",
    'demo/na\u00efve name,with "quotes".txt': b"t",
    "demo/__pycache__/__init__.cpython-27.pyc": b"old",
    f"demo/__pycache__/__init__.{TAG}.pyc": b"stale",
    "demo-1.0.data/scripts/jp.py": b"#!python\nimport sys\n",
    "demo-1.0.data/scripts/demo-tool": b"#!/setuptools/wrapper\n",
    "demo-1.0.data/scripts/plain": b"\x7fELFbinary",
    "demo-1.0.data/data/share/demo/x.json": b"{}",
    "demo-1.0.data/headers/demo.h": b"int x;",
    "demo-1.0.dist-info/INSTALLER": b"flit\n",
}


def test_every_scheme_mode_and_generated_file_is_where_pip_puts_it(tmp_path: Path) -> None:
    wheel = make_wheel(
        tmp_path, files=RICH, modes={"demo/run.sh": 0o100750, "demo-1.0.data/scripts/jp.py": 0o100755},
        entry_points="[console_scripts]\ndemo-tool = demo:main\n[gui_scripts]\ndemo-gui = demo.gui:app.run [extra]\n",
    )  # fmt: skip
    with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
        member = build(wheel, tmp_path / "cache", compiler=compiler)
    found = read_tar(member)
    info = f"{SITE}/demo-1.0.dist-info"
    kinds = {
        f"{SITE}/demo/__init__.py": (0o644, "code"),
        f"{SITE}/demo/broken.py": (0o644, "code"),
        f"{SITE}/demo/native.cpython-311-x86_64-linux-gnu.so.1": (0o644, "library"),
        f"{SITE}/demo/run.sh": (0o755, "data"),
        f'{SITE}/demo/na\u00efve name,with "quotes".txt': (0o644, "data"),
        f"{SITE}/demo/__pycache__/__init__.cpython-27.pyc": (0o644, "bytecode"),
        f"{SITE}/demo/__pycache__/__init__.{TAG}.pyc": (0o644, "bytecode"),
        "/usr/local/bin/jp.py": (0o755, "script"),
        f"/usr/local/bin/__pycache__/jp.{TAG}.pyc": (0o644, "bytecode"),
        "/usr/local/bin/demo-tool": (0o755, "script"),
        "/usr/local/bin/demo-gui": (0o755, "script"),
        "/usr/local/bin/plain": (0o644, "script"),
        "/usr/local/share/demo/x.json": (0o644, "data"),
        "/usr/local/include/python3.11/demo/demo.h": (0o644, "data"),
        **{f"{info}/{name}": (0o644, "metadata") for name in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "REQUESTED", "entry_points.txt")},
    }
    assert {path: entry.mode for path, (entry, _) in found.items()} == {path: mode for path, (mode, _) in kinds.items()}
    assert {fact.path: fact.kind for fact in member.files} == {path: kind for path, (_, kind) in kinds.items()}
    assert all((entry.uid, entry.gid, entry.mtime, entry.isfile()) == (0, 0, 7, True) for entry, _ in found.values())
    assert found["/usr/local/bin/jp.py"][1] == b"#!/usr/local/bin/python3\nimport sys\n"
    assert found["/usr/local/bin/demo-tool"][1].startswith(b"#!/usr/local/bin/python3\nimport sys\nfrom demo import main\n")
    assert found[f"{info}/INSTALLER"][1] == b"pip\n"
    assert found[f"{info}/REQUESTED"][1] == b""
    assert found[f"{SITE}/demo/__pycache__/__init__.{TAG}.pyc"][1] != b"stale"
    for fact in member.files:
        assert (fact.size, fact.sha256) == (len(found[fact.path][1]), hashlib.sha256(found[fact.path][1]).hexdigest())
    assert member.sha256 == hashlib.sha256(member.blob.read_bytes()).hexdigest()
    check_record(found, info)


def check_record(found: dict[str, tuple[tarfile.TarInfo, bytes]], info: str, missing: frozenset[str] = frozenset()) -> None:
    """RECORD lists every file once, sorted, with its true hash; bytecode and RECORD itself without one."""
    import posixpath

    rows = list(csv.reader(io.StringIO(found[f"{info}/RECORD"][1].decode(), newline="")))
    assert rows == sorted(rows)
    listed = {posixpath.normpath(posixpath.join(posixpath.dirname(info), row[0])): row[1:] for row in rows}
    assert len(listed) == len(rows)
    assert set(listed) == set(found) | missing
    for path, (digest, size) in listed.items():
        if path in missing:
            continue
        content = found[path][1]
        if path.endswith("/RECORD") or path.endswith(f".{TAG}.pyc"):
            assert (digest, size) == ("", "")
        else:
            encoded = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={encoded}", str(len(content)))


def test_links_of_the_base_are_followed_and_record_still_says_what_pip_says(tmp_path: Path) -> None:
    interpreter = make_host_interpreter("/opt/venv", environment="venv")
    interpreter.paths["platlib"] = "/opt/venv/lib64/python3.11/site-packages"
    tree = MemoryTree((*USUAL, link("/opt", "usr/opt"), folder("/usr/opt"), folder("/usr/opt/venv"), link("/usr/opt/venv/lib64", "lib")))
    wheel = make_wheel(
        tmp_path, purelib=False, entry_points="[console_scripts]\nd = demo:x\n", files={"demo-1.0.data/headers/h.h": b"", "demo.py": b""}
    )
    member = build(wheel, tmp_path / "cache", interpreter=interpreter, tree=tree)
    found = read_tar(member)
    assert "/usr/opt/venv/lib/python3.11/site-packages/demo.py" in found
    assert "/usr/opt/venv/include/site/python3.11/demo/h.h" in found
    assert "/usr/opt/venv/bin/d" in found
    assert found["/usr/opt/venv/bin/d"][1].startswith(b"#!/opt/venv/bin/python3\n")
    record = found["/usr/opt/venv/lib/python3.11/site-packages/demo-1.0.dist-info/RECORD"][1]
    assert b"\r\n../../../bin/d,sha256=" in b"\r\n" + record


@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), st.binary(min_size=32, max_size=32)),
        unique_by=lambda row: row[0],
    )
)
def test_record_gives_back_any_name(rows: list[tuple[str, bytes]]) -> None:
    data = render_record([(name, digest.hex(), 5) for name, digest in rows])
    read = list(csv.reader(io.StringIO(data.decode(), newline="")))
    assert [row[0] for row in read] == sorted(name for name, _ in rows)
    for name, encoded, size in read:
        digest = base64.urlsafe_b64decode(encoded.removeprefix("sha256=") + "=")
        assert (name, digest, size) in {(name, digest, "5") for name, digest in rows}


def test_the_second_time_nothing_is_built_and_each_input_is_in_the_key(tmp_path: Path) -> None:
    wheel, cache = make_wheel(tmp_path), tmp_path / "cache"
    first = build(wheel, cache)
    inode = first.blob.stat().st_ino
    assert build(wheel, cache) == first
    assert first.blob.stat().st_ino == inode
    interpreter = make_host_interpreter()
    others = [
        build(wheel, cache, codec=Codec(level=4)),
        build(wheel, cache, codec=Codec("gzip", 2)),
        build(wheel, cache, mtime=8),
        build(wheel, cache, exclude=frozenset({f"{SITE}/demo/__init__.py"})),
        build(wheel, cache, tree=MemoryTree((*USUAL[:-1], link(f"{SITE}/demo", "/usr/local/elsewhere")))),
        build(wheel, cache, interpreter=make_host_interpreter(path="/usr/local/bin/python3.11")),
        build(wheel, cache, interpreter=make_host_interpreter(version=interpreter.version + "9")),
        build(make_wheel(tmp_path / "b", files={"demo/__init__.py": b"x = 2\n"}), cache),
    ]
    with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
        others.append(build(wheel, cache, compiler=compiler))
    assert len({member.blob.parent for member in [first, *others]}) == len(others) + 1


def test_gzip_and_zstd_hold_the_same_tar(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files=RICH)
    zstd, other = build(wheel, tmp_path / "cache"), build(wheel, tmp_path / "cache", codec=Codec("gzip", 1))
    assert read_tar(zstd).keys() == read_tar(other).keys()
    assert zstandard.ZstdDecompressor().decompress(zstd.blob.read_bytes()) == gzip.decompress(other.blob.read_bytes())
    assert zstandard.get_frame_parameters(zstd.blob.read_bytes()).content_size == zstd.uncompressed


@pytest.mark.parametrize("codec", [Codec("brotli", 1), Codec("zstd", 0), Codec("zstd", 20), Codec("gzip", 4)])
def test_a_codec_that_is_none(tmp_path: Path, codec: Codec) -> None:
    with pytest.raises(ConfigurationError, match=codec.name):
        build(make_wheel(tmp_path), tmp_path / "cache", codec=codec)


def test_excluded_files_are_listed_but_not_written(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"shared/__init__.py": b"", "demo.py": b"y = 1\n"})
    gone = frozenset({f"{SITE}/shared/__init__.py", f"{SITE}/shared/__pycache__/__init__.{TAG}.pyc"})
    with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
        found = read_tar(build(wheel, tmp_path / "cache", exclude=gone, compiler=compiler))
    assert not gone & set(found)
    check_record(found, f"{SITE}/demo-1.0.dist-info", gone)


@pytest.mark.parametrize("kept", [0, 12, 1 << 20])
def test_it_never_shows_which_sources_were_kept_in_memory_to_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int) -> None:
    monkeypatch.setattr("imagebuild.layer.member._SOURCES", kept)
    files = {f"demo/{name}.py": f"{name} = 1\n".encode() for name in "abcd"}  # 6 bytes each
    with BytecodeCompiler(HostRuntime(), make_host_interpreter()) as compiler:
        found = read_tar(build(make_wheel(tmp_path, "demo", "1.0", files), tmp_path / "cache", compiler=compiler))
    written = {path: data for path, (_, data) in found.items() if path.endswith(".py")}
    assert written == {f"{SITE}/{path}": data for path, data in files.items()}


def test_a_cut_off_blob_is_built_again_and_a_file_that_is_not_the_locked_one_is_refused(tmp_path: Path) -> None:
    wheel, cache = make_wheel(tmp_path), tmp_path / "cache"
    good = lock_wheel(wheel).sha256
    member = build(wheel, cache, sha256=good)
    data = member.blob.read_bytes()
    member.blob.write_bytes(data[:-1])
    assert build(wheel, cache, sha256=good) == member
    assert member.blob.read_bytes() == data
    member.blob.with_name("index.json").write_bytes(b"{")
    assert build(wheel, cache, sha256=good) == member
    wheel.write_bytes(make_wheel(tmp_path / "other", files={"demo/__init__.py": b"evil\n"}).read_bytes())
    shutil.rmtree(cache)
    with pytest.raises(IntegrityError, match="not the file that was locked"):
        build(wheel, cache, sha256=good)
    assert not list(cache.glob("members/*/index.json"))


def test_a_cache_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(ConfigurationError, match=r"preparing demo-1\.0"):
        build(make_wheel(tmp_path), tmp_path / "cache")


def make_set(target: Path, count: int = 12) -> list[MemberRequest]:
    requests = []
    for number in range(count):
        files = {
            f"pkg{number}/mod{index}.py": f"N = 'pkg{number}'\ndef run(x={index}):\n    return x in {{'a b', None, {number}}}\n".encode()
            for index in range(number % 5 + 1)
        }
        wheel = make_wheel(target, f"pkg{number}", files=files)
        requests.append(MemberRequest(wheel, f"pkg{number}", "1.0"))
    return requests


@pytest.mark.slow
def test_order_and_number_of_workers_never_show(tmp_path: Path) -> None:
    requests = make_set(tmp_path / "wheels")
    seen = []
    for number, (workers, order) in enumerate([(1, requests), (2, requests), (2, requests[::-1]), (4, requests[5:] + requests[:5])]):
        members = build_members(
            order, interpreter=make_host_interpreter(), folders=FolderResolver(MemoryTree(USUAL)), codec=Codec(), runtime=HostRuntime(),
            cache=tmp_path / f"cache{number}", home="/root", jobs=Jobs(workers),
        )  # fmt: skip
        assert [member.package for member in members] == [request.package for request in order]
        seen.append({member.package: (member.blob.parent.name, member.sha256) for member in members})
    assert seen[0] == seen[1] == seen[2] == seen[3]


def test_one_bad_wheel_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    requests = make_set(tmp_path / "wheels", 6)
    bad = MemberRequest(make_wheel(tmp_path, extra=[("../x", b"")]), "demo", "1.0")
    with pytest.raises(BuildError, match="climbs"):
        build_members(
            [*requests, bad], interpreter=make_host_interpreter(), folders=FolderResolver(MemoryTree(USUAL)), codec=Codec(),
            runtime=None, cache=tmp_path / "cache", home="/root",
        )  # fmt: skip


def test_many_at_once_on_one_cache_build_it_once(tmp_path: Path) -> None:
    wheel, cache = make_wheel(tmp_path, files={"demo/x.bin": bytes(range(256)) * 8192}), tmp_path / "cache"
    with ThreadPoolExecutor(8) as pool:
        members = list(pool.map(lambda _: build(wheel, cache), range(8)))
    assert len(set(members)) == 1
    assert sorted(path.name for path in members[0].blob.parent.iterdir()) == ["index.json", "lock", "member.tar.zst"]


PROCESS = """
import sys
from pathlib import Path
from imagebuild.layer.member import build_member
from imagebuild.layer.model import Codec
from tests.support.trees import USUAL, MemoryTree
from tests.support.builders import make_host_interpreter
member = build_member(Path(sys.argv[1]), package="demo", version="1.0", interpreter=make_host_interpreter(), tree=MemoryTree(USUAL),
    codec=Codec(), compiler=None, cache=Path(sys.argv[2]), home="/root")
print(member.sha256)
"""


def test_two_processes_at_once_agree(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/x.bin": bytes(range(256)) * 8192})
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", PROCESS, str(wheel), str(tmp_path / "cache")]
    children = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {child.communicate()[0] for child in children}
    assert [child.returncode for child in children] == [0, 0]
    assert len(answers) == 1
