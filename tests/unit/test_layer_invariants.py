"""The audit: layers that break one rule each, written by the standard library's tarfile."""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.errors import IntegrityError
from imagebuild.layer.invariants import AddedLayers, TarEntries, check_layers, find_faults
from imagebuild.layer.model import ExtraFile, Layer, TeamLayers
from imagebuild.oci.model import OCI_LAYER_GZIP, OCI_LAYER_TAR, OCI_LAYER_ZSTD
from tests.support.builders import make_host_base
from tests.support.trees import USUAL, MemoryTree, file, folder, link

TREE = MemoryTree((*USUAL, link("/lib", "usr/lib"), folder("/usr/lib"), file("/etc/passwd", b"root")))


def entry(name: str, kind: bytes = tarfile.REGTYPE, mode: int = 0o644, uid: int = 0, gid: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.uid, info.gid, info.linkname = kind, mode, uid, gid, target
    return info


def directory(name: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
    return entry(name, tarfile.DIRTYPE, mode, uid, gid)


def write(entries: list[tarfile.TarInfo]) -> bytes:
    """A tar of the entries; folder names keep no trailing slash (tarfile adds one)."""
    blocks = b""
    for item in entries:
        block = item.tobuf(tarfile.PAX_FORMAT)
        if item.isdir() and not item.name.endswith("/"):
            raw = bytearray(block[-512:])
            raw[len(item.name)] = 0
            raw[148:156] = b" " * 8
            raw[148:156] = b"%06o\0 " % sum(raw)
            block = block[:-512] + bytes(raw)
        blocks += block
    return blocks + bytes(1024)


def audit(
    tmp_path: Path,
    entries: list[tarfile.TarInfo],
    *,
    replaceable: frozenset[str] = frozenset(),
    whiteouts: frozenset[str] = frozenset(),
) -> list[str]:
    plain = write(entries)
    data = gzip.compress(plain, mtime=0)
    (tmp_path / "blob").write_bytes(data)
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (data, plain)]
    found = list(
        find_faults(
            tmp_path / "blob",
            OCI_LAYER_GZIP,
            added=AddedLayers(TREE, whiteouts),
            home="/home/jovyan",
            digest=digests[0],
            diff_id=digests[1],
            replaceable=replaceable,
        )
    )
    assert find_while_written(plain, replaceable, whiteouts) == found
    return found


def find_while_written(plain: bytes, replaceable: frozenset[str] = frozenset(), whiteouts: frozenset[str] = frozenset()) -> list[str]:
    """What the other audit says, which sees the tar go by."""
    going = TarEntries(make_host_base(TREE), [ExtraFile(path, b"") for path in replaceable], whiteouts)
    going.read(0, iter([b"old"]))
    chunks = iter([plain[start : start + 777] for start in range(0, len(plain), 777)])
    going.read(0, chunks)
    assert next(chunks, None) is None  # whoever feeds it would wait for ever
    return going.findings


GOOD = [directory("usr"), directory("usr/local"), directory("usr/local/new"), entry("usr/local/new/x"), entry("usr/local/" + "n" * 200)]


def test_a_good_layer_has_no_findings(tmp_path: Path) -> None:
    assert audit(tmp_path, GOOD) == []


@pytest.mark.parametrize(
    ("entries", "finding"),
    [
        ([entry("usr/local/new/x")], "/usr/local/new/x: twice in the layer"),
        ([entry("/usr/y")], "'/usr/y': absolute"),
        ([entry("usr/../y")], "'usr/../y': absolute, or with '..'"),
        ([entry("./usr/y")], "'./usr/y': not in plain form"),
        ([entry("usr//y")], "not in plain form"),
        ([directory("usr/slash/")], "not in plain form"),
        ([directory("./")], "not in plain form"),
        ([entry("usr/.wh.x")], "a whiteout that nothing declared"),
        ([entry("usr/.wh..wh..opq")], "a whiteout that nothing declared"),
        ([entry("usr/s", mode=0o4755)], "setuid"),
        ([entry("usr/s", mode=0o2755)], "setuid"),
        ([entry("usr/w", mode=0o666)], "anyone may write it"),
        ([entry("usr/w", mode=0o602)], "anyone may write it"),
        ([directory("usr/d", 0o777)], "a new folder with mode 777"),
        ([directory("usr/d", uid=1000)], "a new folder with mode 755, owner 1000:0"),
        ([directory("home"), directory("home/jovyan", 0o755, 1000, 100), entry("home/jovyan/x")], "/home/jovyan/x: hidden or emptied"),
        ([directory("tmp", 0o1777)], "/tmp: hidden or emptied"),
        ([entry("opt/x")], "/opt/x: its parent folder is not in the layer before it"),
        ([entry("usr/f"), entry("usr/f/x")], "/usr/f/x: a file is its parent"),
        ([directory("etc", 0o700)], "/etc: mode 700 owner 0:0, in the base 755 0:0"),
        ([directory("etc", gid=5)], "/etc: mode 755 owner 0:5"),
        ([directory("etc"), entry("etc/passwd")], "/etc/passwd: overwrites a file of the base"),
        ([directory("lib")], "/lib: a folder over a symlink of the base"),
        ([entry("usr/lib")], "/usr/lib: overwrites a dir of the base"),
        ([entry("usr/h", tarfile.LNKTYPE, target="usr/local/new/x")], "a hard link"),
        ([entry("usr/c", tarfile.CHRTYPE)], "not a file and not a folder"),
        ([entry("usr/l", tarfile.SYMTYPE, 0o777, target="x")], "not a file and not a folder"),
    ],
)
def test_each_broken_rule_is_one_finding(tmp_path: Path, entries: list[tarfile.TarInfo], finding: str) -> None:
    findings = audit(tmp_path, [*GOOD, *entries])
    assert any(finding in line for line in findings), findings


def test_declared_changes_are_no_findings(tmp_path: Path) -> None:
    entries = [*GOOD, directory("etc"), entry("etc/.wh.shadow"), entry("etc/passwd")]
    assert len(audit(tmp_path, entries)) == 2
    assert audit(tmp_path, entries, replaceable=frozenset({"/etc/passwd"}), whiteouts=frozenset({"/etc/shadow"})) == []


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def extend(data: bytes) -> bytes:
    return data + b"x"


def empty(data: bytes) -> bytes:
    return data[:0]


def scramble(data: bytes) -> bytes:
    return data[:20] + bytes(byte ^ 0xFF for byte in data[20:60]) + data[60:]


@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_LAYER_TAR])
@pytest.mark.parametrize("damage", [cut, scramble, extend, empty])
def test_damage_is_a_finding_and_never_a_crash(tmp_path: Path, media_type: str, damage: Callable[[bytes], bytes]) -> None:
    import zstandard

    plain = write(GOOD + [entry(f"usr/local/new/{number}") for number in range(300)])
    compress: dict[str, Callable[[bytes], bytes]] = {
        OCI_LAYER_GZIP: gzip.compress,
        OCI_LAYER_ZSTD: zstandard.compress,
        OCI_LAYER_TAR: bytes,
    }
    data = compress[media_type](plain)
    blob = tmp_path / "blob"
    blob.write_bytes(data)
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (data, plain)]

    def run() -> list[str]:
        return list(find_faults(blob, media_type, added=AddedLayers(TREE), home="/", digest=digests[0], diff_id=digests[1]))

    assert run() == []
    blob.write_bytes(damage(data))
    assert run()


def test_bytes_after_the_end_are_a_finding(tmp_path: Path) -> None:
    plain = write(GOOD) + b"hidden" * 100
    (tmp_path / "blob").write_bytes(plain)
    digest = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    findings = list(find_faults(tmp_path / "blob", OCI_LAYER_TAR, added=AddedLayers(TREE), home="/", digest=digest, diff_id=digest))
    assert findings == ["there are bytes after the end of the archive"]


@pytest.mark.parametrize("damage", [scramble, empty])  # a cut end is for whoever counts the bytes: tarfile takes it for the end
def test_damage_that_goes_by_is_a_finding(damage: Callable[[bytes], bytes]) -> None:
    assert find_while_written(write(GOOD)) == []
    assert find_while_written(damage(write(GOOD)))
    assert find_while_written(write(GOOD) + b"hidden") == ["there are bytes after the end of the archive"]


def test_a_layer_that_was_not_read_is_not_found_good() -> None:
    with pytest.raises(IntegrityError, match="no layer was read"):
        TarEntries(make_host_base(TREE)).finish()


def test_the_error_lists_the_findings(tmp_path: Path) -> None:
    plain = write([directory("usr"), *(entry(f"usr/{number}", mode=0o666) for number in range(30))])
    data = gzip.compress(plain)
    (tmp_path / "blob").write_bytes(data)
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (data, plain)]
    layer = Layer(tmp_path / "blob", digests[0], len(data), digests[1], len(plain), 0, OCI_LAYER_GZIP, ())
    with pytest.raises(IntegrityError, match="breaks 30 rules: /usr/0: anyone may write it") as caught:
        check_layers(TeamLayers((layer,)), base=make_host_base(TREE), extra=(ExtraFile("/x", b""),))
    assert len(caught.value.details) == 20
    assert caught.value.details[-1] == "and 10 more"


def test_large_and_small_layers_stream(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    big = entry("usr/local/big.bin")
    big.size = 5 << 20
    buffer.write(b"".join(write([item])[:-1024] for item in (directory("usr"), directory("usr/local"))))
    buffer.write(big.tobuf() + bytes(big.size) + bytes(1024))
    plain = buffer.getvalue()
    data = gzip.compress(plain)
    (tmp_path / "blob").write_bytes(data)
    digests = [f"sha256:{hashlib.sha256(content).hexdigest()}" for content in (data, plain)]
    blob, added = tmp_path / "blob", AddedLayers(TREE)
    assert not list(find_faults(blob, OCI_LAYER_GZIP, added=added, home="/", digest=digests[0], diff_id=digests[1]))


OLD = MemoryTree(
    (
        *USUAL,
        folder("/usr/lib"),
        folder("/usr/lib/old"),
        file("/usr/lib/old/a.py"),
        file("/usr/lib/old/b.py"),
        folder("/usr/lib/gone"),
        file("/usr/lib/gone/c.py"),
        folder("/usr/lib/theirs"),
        file("/usr/lib/theirs/d.py"),
    )
)
GOING = frozenset({"/usr/lib/old/a.py", "/usr/lib/old/b.py", "/usr/lib/gone/c.py"})


@pytest.mark.parametrize(
    ("entries", "faults"),
    [
        (["usr/lib/.wh.gone", "usr/lib/old/.wh.b.py", "usr/lib/old/a.py"], []),
        (["usr/lib/.wh.gone", "usr/lib/.wh.old"], []),
        (["usr/lib/.wh.gone", "usr/lib/old/a.py"], ["/usr/lib/old/b.py: of a package that is replaced, and still there"]),
        (
            ["usr/lib/.wh.gone", "usr/lib/.wh.old", "usr/lib/theirs/.wh.d.py"],
            ["/usr/lib/theirs/.wh.d.py: a whiteout that nothing declared"],
        ),
        (["usr/lib/.wh.gone", "usr/lib/.wh.old", "usr/lib/.wh.theirs"], ["/usr/lib/.wh.theirs: a whiteout that nothing declared"]),
        (["usr/lib/.wh.gone", "usr/lib/.wh.old", "usr/lib/theirs/d.py"], ["/usr/lib/theirs/d.py: overwrites a file of the base"]),
        (
            ["usr/lib/.wh.gone", "usr/lib/old/.wh.a.py", "usr/lib/old/.wh.b.py", "usr/lib/old/b.py"],
            ["/usr/lib/old/b.py: deleted, and in the layer as well"],
        ),
        (
            ["usr/lib/gone/.wh..wh..opq", "usr/lib/gone/.wh.c.py", "usr/lib/.wh.old"],
            ["/usr/lib/gone/.wh..wh..opq: a whiteout that nothing declared"],
        ),
    ],
)
def test_deletions_are_exactly_those_of_what_is_replaced(tmp_path: Path, entries: list[str], faults: list[str]) -> None:
    parents = sorted({str(parent) for name in entries for parent in Path(name).parents} - {"."})
    plain = write([*(directory(name) for name in parents), *(entry(name) for name in entries)])
    (tmp_path / "blob").write_bytes(plain)
    digest = f"sha256:{hashlib.sha256(plain).hexdigest()}"
    added = AddedLayers(OLD, GOING)
    found = find_faults(tmp_path / "blob", OCI_LAYER_TAR, added=added, home="/home/j", digest=digest, diff_id=digest)
    assert [*found, *added.find_leftovers()] == faults
    going = TarEntries(make_host_base(OLD), (), GOING)
    going.read(0, iter([plain]))
    if not faults:
        going.finish()
        return
    with pytest.raises(IntegrityError, match=re.escape(faults[0])):
        going.finish()
