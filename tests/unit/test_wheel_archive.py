"""Hostile and damaged wheels: each refused, with the wheel and the entry named."""

from __future__ import annotations

import csv
import io
import re
import stat
import struct
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imagebuild.base.model import Entry
from imagebuild.errors import BuildError, ImagebuildError, IntegrityError
from imagebuild.layer.member import build_member
from imagebuild.layer.members import build_members
from imagebuild.layer.memberstore import MemberRequest
from imagebuild.layer.model import Codec, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.wheel.archive import WheelArchive
from imagebuild.wheel.faults import count_record_faults, find_record_faults
from tests.support.builders import make_host_interpreter, make_wheel, render_record
from tests.support.trees import SITE, USUAL, MemoryTree, folder, link


def build(wheel: Path, tmp_path: Path, *, tree: tuple[Entry, ...] = (), home: str = "/home/jovyan", version: str = "1.0") -> Member:
    return build_member(
        wheel,
        package="demo",
        version=version,
        interpreter=make_host_interpreter(),
        tree=MemoryTree((*USUAL, *tree)),
        codec=Codec(),
        compiler=None,
        cache=tmp_path / "cache",
        home=home,
    )


def refuse(wheel: Path, tmp_path: Path, match: str, kind: type[ImagebuildError] = BuildError, **options: object) -> None:
    with pytest.raises(kind, match=match) as caught:
        build(wheel, tmp_path, **options)  # type: ignore[arg-type]
    assert wheel.name in caught.value.message
    assert caught.value.hint
    assert not list((tmp_path / "cache").glob("members/*/index.json"))
    assert not list((tmp_path / "cache").glob("members/*/member*"))


def with_mode(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../evil.py", r"'\.\./evil\.py'.*climbs"),
        ("demo/../../evil.py", "climbs"),
        ("/etc/passwd", "absolute"),
        ("demo\\evil.py", "backslash"),
        ("demo/.wh.__init__.py", r"\.wh\."),
        (".wh..wh..opq", r"\.wh\."),
        ("demo/.wh.d/x", r"\.wh\."),
        ("demo//x.py", "plain form"),
        ("./demo/x.py", "plain form"),
        ("demo/a\nb.py", "control character"),
        ("demo/" + "n" * 256, "longer than"),
        ("demo/__init__.py/x", "both a file and a folder"),
        ("demo-1.0.data", "a file where wheels have a folder"),
        ("other.data/data/x", None),
        ("second-1.0.dist-info/METADATA", "exactly one .dist-info"),
    ],
)
def test_names_no_wheel_may_have(tmp_path: Path, name: str, why: str | None) -> None:
    if why is None:
        wheel = make_wheel(tmp_path, files={name: b"x", "demo-1.0.data/data/y": b"y"})
        refuse(wheel, tmp_path, r"more than one \.data folder")
        return
    refuse(make_wheel(tmp_path, extra=[(name, b"evil")]), tmp_path, why)


@pytest.mark.parametrize("climb", ["../x.py", "data/../../x"])
def test_climbing_out_of_the_data_folder(tmp_path: Path, climb: str) -> None:
    refuse(make_wheel(tmp_path, files={f"demo-1.0.data/{climb}": b""}), tmp_path, "climbs")


def test_a_data_folder_that_is_no_scheme(tmp_path: Path) -> None:
    refuse(make_wheel(tmp_path, files={"demo-1.0.data/etc/passwd": b""}), tmp_path, r"not contained in a valid \.data subdirectory")


@pytest.mark.parametrize("name", ["demo-1.0.data/loose", "demo-1.0.data/purelib", "demo-1.0.data/scripts"])
def test_a_file_in_the_place_of_a_scheme(tmp_path: Path, name: str) -> None:
    refuse(make_wheel(tmp_path, files={name: b""}), tmp_path, "a file where wheels have a folder")


def test_a_path_that_no_system_takes(tmp_path: Path) -> None:
    refuse(make_wheel(tmp_path, extra=[("demo/" + "/".join(["n" * 200] * 21), b"")]), tmp_path, "longer than a system takes")


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        (stat.S_IFLNK | 0o777, "symbolic link"),
        (stat.S_IFREG | 0o4755, "setuid"),
        (stat.S_IFREG | 0o2755, "setuid, setgid"),
        (stat.S_IFREG | 0o1644, "sticky"),
        (stat.S_IFIFO | 0o644, "not a regular file"),
        (stat.S_IFCHR | 0o644, "not a regular file"),
        (stat.S_IFDIR | 0o755, "not a regular file"),
    ],
)
def test_modes_no_wheel_may_have(tmp_path: Path, mode: int, why: str) -> None:
    refuse(make_wheel(tmp_path, extra=[(with_mode("demo/x", mode), b"/etc/passwd")]), tmp_path, f"'demo/x'.*{why}")


def test_a_path_twice(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wheel = make_wheel(tmp_path, extra=[("demo/__init__.py", b"evil")])
    refuse(wheel, tmp_path, "twice, with different content")


def test_a_path_twice_with_the_same_content_is_one_file(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        wheel = make_wheel(tmp_path, files={"demo/__init__.py": b"x = 1\n"}, extra=[("demo/__init__.py", b"x = 1\n")])
    member = build(wheel, tmp_path)
    assert [fact.path.rpartition("/")[2] for fact in member.files].count("__init__.py") == 1
    assert member.repaired == 0


def test_two_entries_that_land_at_one_place(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": b"1", "demo-1.0.data/purelib/demo.py": b"2"})
    refuse(wheel, tmp_path, "two files of the wheel land at")


def patch_names(wheel: Path, old: bytes, new: bytes, *, flags: int | None = None) -> None:
    """Change a name in the local and the central header, and the general purpose flags if given."""
    data = wheel.read_bytes().replace(old, new)
    if flags is not None:
        at = data.rindex(b"PK\x01\x02", 0, data.rindex(new))
        data = data[: at + 8] + struct.pack("<H", flags) + data[at + 10 :]
    wheel.write_bytes(data)


@pytest.mark.parametrize(
    ("raw", "flags", "why"),
    [
        (b"demo/nul\0.py", None, "NUL"),
        (b"demo/\xff\xfe12.py", 0, "not marked as UTF-8"),
        (b"demo/\xff\xfe12.py", 0x800, "not UTF-8"),
        (b"demo/plain.py", 0x1, "encrypted"),
        (b"demo/plain.py", 0x20, "a patch"),
        (b"demo/plain.py", 0x40, "encrypted strongly"),
        (b"demo/plain.py", 0x2000, "hidden"),
    ],
)
def test_names_that_are_not_text_and_entries_that_are_encrypted(tmp_path: Path, raw: bytes, flags: int | None, why: str) -> None:
    wheel = make_wheel(tmp_path, extra=[("demo/nulX.py"[: len(raw)].ljust(len(raw), "y"), b"evil")])
    patch_names(wheel, b"demo/nulX.py"[: len(raw)].ljust(len(raw), b"y"), raw, flags=flags)
    refuse(wheel, tmp_path, why)


def read_true_record(member: Member) -> dict[str, tuple[str, ...]]:
    """The RECORD that the image gets, by path."""
    data = zstandard.ZstdDecompressor().stream_reader(member.blob.read_bytes()).read()
    with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as archive:
        name = next(item for item in archive.getnames() if item.endswith("/RECORD"))
        stream = archive.extractfile(name)
        assert stream is not None
        return {row[0]: tuple(row[1:]) for row in csv.reader(stream.read().decode().splitlines())}


def rewrite_record(tmp_path: Path, change: Callable[[str], str]) -> Path:
    honest = make_wheel(tmp_path / "honest")
    with zipfile.ZipFile(honest) as archive:
        text = archive.read("demo-1.0.dist-info/RECORD").decode()
    changed = change(text)
    assert changed != text
    return make_wheel(tmp_path, record=changed.encode())


WRONG_RECORDS: dict[str, tuple[Callable[[str], str], int]] = {
    "another hash": (lambda text: re.sub(r"sha256=[^,]{3}", "sha256=AAA", text, count=1), 1),
    "a weak hash": (lambda text: text.replace("sha256=", "md5=", 1), 1),
    "no hash": (lambda text: re.sub(r",sha256=[^,]*,", ",,", text, count=1), 1),
    "no hash at all": (lambda text: re.sub(r",sha256=[^,]*,", ",,", text), 3),
    "another size": (lambda text: text.replace(",6", ",7", 1), 1),
    "no sizes": (lambda text: re.sub(r",\d+$", ",", text, flags=re.MULTILINE), 3),
    "two rows that differ": (lambda text: text + "demo/__init__.py,sha256=x,1\n", 1),
    "a row of no file": (lambda text: text + "demo/_core.c,sha256=x,1\n", 1),
    "a row of a folder": (lambda text: text + "demo-1.0.dist-info/licenses/,sha256=x,0\n", 1),
    "backslashes": (lambda text: text.replace("demo/__init__", "demo\\__init__", 1), 1),
    "a missing row": (lambda text: text.partition("\n")[2], 1),
    "nothing": (lambda _text: "", 3),
    "no CSV": (lambda _text: '"\x00' + "x" * 200_000, 4),
}


@pytest.mark.parametrize("case", WRONG_RECORDS)
def test_a_record_that_is_wrong_is_counted_and_the_images_is_true(tmp_path: Path, case: str) -> None:
    """pip and uv install such wheels: the lock's hash of the archive and the zip's own CRCs guard the bytes."""
    change, count = WRONG_RECORDS[case]
    wheel = rewrite_record(tmp_path, change)
    member, honest = build(wheel, tmp_path), build(make_wheel(tmp_path / "again"), tmp_path / "again")
    assert (member.repaired, honest.repaired) == (count, 0)
    assert read_true_record(member) == read_true_record(honest)
    assert build(wheel, tmp_path).repaired == count  # from the cache
    assert count_record_faults(wheel, python="3.11.2") == count


def test_the_faults_of_a_record_are_counted_once(tmp_path: Path) -> None:
    wheel = rewrite_record(tmp_path, WRONG_RECORDS["nothing"][0])
    cache, digest = tmp_path / "cache", "a" * 64
    assert find_record_faults(wheel, digest, cache, python="3.11.2") == 3
    wheel.unlink()
    assert find_record_faults(wheel, digest, cache, python="3.11.2") == 3
    (kept,) = (cache / "record-faults").iterdir()
    kept.write_bytes(kept.read_bytes().replace(b"3", b"2", 1))  # files rot
    with pytest.raises(BuildError):  # counted again, and there is no wheel
        find_record_faults(wheel, digest, cache, python="3.11.2")


def test_a_strict_policy_refuses_a_wrong_record(tmp_path: Path) -> None:
    wheel = rewrite_record(tmp_path, WRONG_RECORDS["no hash"][0])
    for _ in range(2):  # whether it was built before or not
        with pytest.raises(IntegrityError, match=r"demo-1\.0-py3-none-any\.whl: 1 row of its RECORD is wrong, and images/policy\.toml"):
            build_members(
                [MemberRequest(wheel, "demo", "1.0", strict=True)],
                interpreter=make_host_interpreter(),
                folders=FolderResolver(MemoryTree(USUAL)),
                codec=Codec(),
                runtime=None,
                cache=tmp_path / "cache",
                home="/home/jovyan",
            )


def test_a_wrong_record_is_told_by_every_build(tmp_path: Path) -> None:
    wheel = rewrite_record(tmp_path, WRONG_RECORDS["no hash at all"][0])
    lines: list[str] = []
    for _ in range(2):
        build_members(
            [MemberRequest(wheel, "demo", "1.0")],
            interpreter=make_host_interpreter(),
            folders=FolderResolver(MemoryTree(USUAL)),
            codec=Codec(),
            runtime=None,
            cache=tmp_path / "cache",
            home="/home/jovyan",
            report=lines.append,
        )
    notes = [line for line in lines if line.startswith("note: ")]
    assert notes == ["note: demo 1.0: 3 rows of its RECORD are wrong; the image's is made of the true bytes"] * 2


def find_central(data: bytes, name: bytes) -> int:
    at = 0
    while True:
        at = data.index(b"PK\x01\x02", at + 1)
        if data[at + 46 : at + 46 + len(name)] == name:
            return at


@pytest.mark.parametrize("declared", [3, 600_000_000])
def test_a_declared_size_that_is_not_the_content(tmp_path: Path, declared: int) -> None:
    wheel = make_wheel(tmp_path, files={"demo/bomb.bin": bytes(1 << 20)})
    data = bytearray(wheel.read_bytes())
    at = find_central(bytes(data), b"demo/bomb.bin")
    struct.pack_into("<I", data, at + 24, declared)
    wheel.write_bytes(data)
    refuse(wheel, tmp_path, rf"demo/bomb\.bin: the zip declares {declared} bytes", IntegrityError)


def test_entries_that_share_bytes(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/a.bin": bytes(1 << 20), "demo/b.bin": bytes(1 << 20)})
    data = bytearray(wheel.read_bytes())
    first, second = find_central(bytes(data), b"demo/a.bin"), find_central(bytes(data), b"demo/b.bin")
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    wheel.write_bytes(data)
    refuse(wheel, tmp_path, "overlaps another entry")


def test_damaged_and_cut_data(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/x.bin": bytes(range(256)) * 400})
    data = bytearray(wheel.read_bytes())
    at = data.index(b"demo/x.bin") + len("demo/x.bin")
    data[at + 20 : at + 60] = b"\xff" * 40
    wheel.write_bytes(data)
    refuse(wheel, tmp_path, r"demo/x\.bin: ", IntegrityError)
    wheel.write_bytes(data[:-100])
    refuse(wheel, tmp_path, "not a zip archive", IntegrityError)


def test_the_directory_and_the_local_header_must_agree(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path)
    data = wheel.read_bytes().replace(b"demo/__init__.py", b"demo/__evil__.py", 1)
    wheel.write_bytes(data)
    refuse(wheel, tmp_path, "name different files", IntegrityError)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"metadata": "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n"}, "METADATA says other 1.0"),
        ({"metadata": "Metadata-Version: 2.1\nName: demo\nVersion: 2.0\n"}, "METADATA says demo 2.0"),
        ({"info": "demo-3.0.dist-info"}, r"demo-3\.0\.dist-info says demo 3\.0"),
        ({"info": "evil-1.0.dist-info"}, "says evil 1.0"),
        ({"tag": "cp27-cp27m-win_amd64"}, "for another platform"),
    ],
)
def test_a_wheel_that_is_not_the_one_locked(tmp_path: Path, options: dict[str, str], why: str) -> None:
    refuse(make_wheel(tmp_path, **options), tmp_path, why)  # type: ignore[arg-type]


def test_the_locks_version_counts(tmp_path: Path) -> None:
    refuse(make_wheel(tmp_path), tmp_path, "the lock says demo 1.1", version="1.1")
    assert build(make_wheel(tmp_path), tmp_path, version="1.0.0").package == "demo"


@pytest.mark.parametrize(
    ("tree", "home", "why"),
    [
        ((), "/usr/local/share", "would land in /usr/local/share/x.*hidden or emptied"),
        ((link("/usr/local/share", "/tmp"),), "/", "/tmp/x, outside"),
        ((link("/usr/local/share", "/usr/local/real"),), "/usr/local/real", "hidden or emptied"),
        ((folder("/srv"), link("/usr/local/share", "../../srv")), "/", "/srv/x, outside the base's Python"),
        ((link("/homes", "/usr/local/share"),), "/homes", "hidden or emptied"),
    ],
)
def test_places_no_file_may_land(tmp_path: Path, tree: tuple[Entry, ...], home: str, why: str) -> None:
    refuse(make_wheel(tmp_path, files={"demo-1.0.data/data/share/x": b""}), tmp_path, why, tree=tree, home=home)


def test_volatile_folders_are_refused_even_inside_the_prefix(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="would land in /dev/x"):
        build_member(
            make_wheel(tmp_path, files={"demo-1.0.data/data/dev/x": b""}),
            package="demo",
            version="1.0",
            interpreter=make_host_interpreter("/"),
            tree=MemoryTree(()),
            codec=Codec(),
            compiler=None,
            cache=tmp_path / "cache",
            home="/root",
        )


def test_not_a_wheel_and_no_file(tmp_path: Path) -> None:
    other = tmp_path / "demo-1.0.tar.gz"
    other.write_bytes(b"")
    with pytest.raises(BuildError, match="not a wheel"):
        WheelArchive(other, python="3.11.2")
    with pytest.raises(BuildError, match="no such"):
        WheelArchive(tmp_path / "demo-1.0-py3-none-any.whl", python="3.11.2")


def test_stored_entries_and_old_spellings_are_fine(tmp_path: Path) -> None:
    wheel = make_wheel(tmp_path, files={"demo/a.bin": b"abc" * 1000})
    with zipfile.ZipFile(wheel) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    text = parts["demo-1.0.dist-info/WHEEL"].replace(b"Purelib: true", b"Purelib: True")
    parts["demo-1.0.dist-info/WHEEL"] = text
    parts.pop("demo-1.0.dist-info/RECORD")
    parts["demo-1.0.dist-info/RECORD"] = render_record(parts, "demo-1.0.dist-info/RECORD")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("demo/", b"")
        for name, data in parts.items():
            archive.writestr(name, data)
    wheel.write_bytes(buffer.getvalue())
    member = build(wheel, tmp_path)
    assert f"{SITE}/demo/a.bin" in [fact.path for fact in member.files]
