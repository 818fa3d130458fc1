"""Layers: folders with the base's metadata, shared and clashing files, both codecs, and the audit of each result."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from imagebuild.base.model import Base, Entry
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.jobs.slots import Jobs
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.invariants import TarEntries, check_layers
from imagebuild.layer.model import Codec, ExtraFile, FileFact, Layer, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.layer.sharing import find_exclusions
from imagebuild.layer.tar.header import encode_header
from imagebuild.oci.model import Digest
from imagebuild.wheel.archive import WheelArchive
from tests.support.builders import lock_wheel, make_host_base, make_host_interpreter, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree, file, folder, link

TAG = make_host_interpreter().cache_tag


def build(tmp_path: Path, wheels: list[Path], *, base: Base | None = None, **changes: Any) -> Layer:
    options: dict[str, Any] = {"codec": Codec(), "cache": tmp_path / "cache", "mtime": 9, "out": tmp_path / "layer"}
    base = base or make_host_base(runtime=HostRuntime())
    made = build_layers([(wheel, lock_wheel(wheel)) for wheel in wheels], base=base, **{**options, **changes})
    check_layers(made, base=base, extra=options.get("extra", changes.get("extra", ())))
    [layer] = made.layers
    return layer


def unpack(layer: Layer) -> bytes:
    data = layer.file.read_bytes()
    assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.digest
    assert len(data) == layer.size
    if layer.media_type.endswith("gzip"):
        plain = gzip.decompress(data)
    else:
        plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read()
    assert "sha256:" + hashlib.sha256(plain).hexdigest() == layer.diff_id
    assert len(plain) == layer.uncompressed
    return plain


def read(layer: Layer) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(unpack(layer))) as archive:
        entries = archive.getmembers()
    assert len({entry.name for entry in entries}) == len(entries)
    return {"/" + entry.name: entry for entry in entries}


def read_file(layer: Layer, path: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(unpack(layer))) as archive:
        stream = archive.extractfile(path.lstrip("/"))
        assert stream is not None
        return stream.read()


def test_every_ancestor_is_there_once_with_the_bases_metadata(tmp_path: Path) -> None:
    tree = MemoryTree((*USUAL, folder(f"{SITE}/demo", 0o2775, 1000660000, 50)))
    wheel = make_wheel(tmp_path, files={"demo/__init__.py": b"x = 1\n", "demo/sub/deep/y.txt": b"y"})
    found = read(
        build(tmp_path, [wheel], base=make_host_base(tree, runtime=HostRuntime()), extra=(ExtraFile("/etc/team/c.txt", b"a==1\n"),))
    )
    folders = {path: (entry.mode, entry.uid, entry.gid) for path, entry in found.items() if entry.isdir()}
    assert folders == {
        "/etc": (0o755, 0, 0),
        "/etc/team": (0o755, 0, 0),
        "/usr": (0o755, 0, 0),
        "/usr/local": (0o755, 0, 0),
        "/usr/local/lib": (0o755, 0, 0),
        "/usr/local/lib/python3.11": (0o2775, 0, 50),
        SITE: (0o2775, 0, 50),
        f"{SITE}/demo": (0o2775, 1000660000, 50),
        f"{SITE}/demo/__pycache__": (0o755, 0, 0),
        f"{SITE}/demo/sub": (0o755, 0, 0),
        f"{SITE}/demo/sub/deep": (0o755, 0, 0),
        f"{SITE}/demo-1.0.dist-info": (0o755, 0, 0),
    }
    paths = list(found)
    assert paths[: len(folders)] == sorted(folders)
    assert (found["/etc/team/c.txt"].size, found["/etc/team/c.txt"].mode) == (5, 0o644)
    assert {entry.mtime for entry in found.values()} == {9}


@pytest.mark.parametrize("codec", [Codec(), Codec("gzip", 2), Codec("zstd", 1, single=True), Codec("gzip", 1, single=True)])
def test_every_codec_gives_the_same_tar_and_sizes_that_add_up(tmp_path: Path, codec: Codec) -> None:
    wheels = [make_wheel(tmp_path, f"p{number}", files={f"p{number}/x.bin": bytes(range(number + 1)) * 40_000}) for number in range(6)]
    plain = build(tmp_path, wheels, base=make_host_base())
    layer = build(tmp_path, wheels[::-1], base=make_host_base(), codec=codec, out=tmp_path / "other", jobs=Jobs(1))
    assert layer.diff_id == plain.diff_id
    files = [entry for entry in read(layer).values() if entry.isfile()]
    assert layer.installed == sum(entry.size for entry in files) == sum(item.installed for item in layer.packages)
    assert 0.5 * layer.size < sum(item.compressed for item in layer.packages) <= layer.size
    assert [item.package for item in layer.packages] == [
        item.package for item in sorted(layer.packages, key=lambda item: (-item.compressed, item.package))
    ]
    data = layer.file.read_bytes()
    if codec.single and codec.name == "zstd":
        assert len(zstandard.ZstdDecompressor().decompress(data)) == layer.uncompressed
    if codec.single and codec.name == "gzip":
        import zlib

        reader = zlib.decompressobj(31)
        assert len(reader.decompress(data)) == layer.uncompressed
        assert reader.eof
        assert not reader.unused_data


def test_the_bytes_depend_on_the_inputs_only(tmp_path: Path) -> None:
    wheels = [make_wheel(tmp_path, f"p{number}", files={f"p{number}/m.py": b"def f(x):\n    return x\n" * number}) for number in range(6)]
    first = build(tmp_path, wheels, jobs=Jobs(1))
    second = build(tmp_path, wheels[::-1], jobs=Jobs(3), cache=tmp_path / "cache2", out=tmp_path / "layer2")
    again = build(tmp_path, wheels, out=tmp_path / "layer3")
    assert first.digest == second.digest == again.digest
    assert first.diff_id == second.diff_id == again.diff_id


def test_a_file_two_wheels_share_is_in_the_layer_once(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"# namespace\n", "ns/one.py": b""})
    two = make_wheel(tmp_path, "two", files={"ns/__init__.py": b"# namespace\n", "ns/two.py": b""})
    found = read(build(tmp_path, [two, one]))
    assert {f"{SITE}/ns/__init__.py", f"{SITE}/ns/__pycache__/__init__.{TAG}.pyc", f"{SITE}/ns/two.py"} <= set(found)


def test_different_content_at_one_path_names_both(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"1\n"})
    two = make_wheel(tmp_path, "two", files={"ns/__init__.py": b"2\n"})
    with pytest.raises(BuildError, match=r"one and two both bring ns/__init__\.py, with different content") as caught:
        build(tmp_path, [two, one])
    assert '[files] "ns/__init__.py" = "one"' in caught.value.hint


def list_record(layer: Layer, info: str) -> list[str]:
    data = read_file(layer, f"{SITE}/{info}/RECORD")
    return [row[0] for row in csv.reader(data.decode().splitlines())]


@pytest.mark.parametrize("owner", ["one", "two"])
@pytest.mark.parametrize("pattern", ["ns/__init__.py", "ns/*", "*/__init__.py"])
def test_a_path_that_two_bring_is_its_owners(tmp_path: Path, owner: str, pattern: str) -> None:
    """Also its bytecode and its row: the loser's RECORD leaves them to the owner."""
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"x = 1\n", "ns/one.py": b""})
    two = make_wheel(tmp_path, "two", files={"ns/__init__.py": b"x = 2\n", "ns/two.py": b""})
    loser = "two" if owner == "one" else "one"
    layer = build(tmp_path, [two, one], files={pattern: owner})
    assert read_file(layer, f"{SITE}/ns/__init__.py") == (b"x = 1\n" if owner == "one" else b"x = 2\n")
    compiled = f"ns/__pycache__/__init__.{TAG}.pyc"
    assert {"ns/__init__.py", compiled} <= set(list_record(layer, f"{owner}-1.0.dist-info"))
    assert not {"ns/__init__.py", compiled} & set(list_record(layer, f"{loser}-1.0.dist-info"))
    assert {f"ns/{loser}.py"} <= set(list_record(layer, f"{loser}-1.0.dist-info"))
    assert build(tmp_path, [one, two], files={pattern: owner}, out=tmp_path / "again").digest == layer.digest


@pytest.mark.slow
def test_of_three_that_bring_a_path_those_with_the_owners_file_keep_their_row(tmp_path: Path) -> None:
    """Whoever comes first by name: what counts is whose content it is."""
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"x = 1\n"})
    same = make_wheel(tmp_path, "same", files={"ns/__init__.py": b"x = 1\n"})
    three = make_wheel(tmp_path, "three", files={"ns/__init__.py": b"x = 3\n"})
    paths = {"ns/__init__.py", f"ns/__pycache__/__init__.{TAG}.pyc"}
    for owner, listing in (("three", {"three"}), ("one", {"one", "same"}), ("same", {"one", "same"})):
        layer = build(tmp_path, [one, same, three], files={"ns/*": owner})
        assert read_file(layer, f"{SITE}/ns/__init__.py") == (b"x = 3\n" if owner == "three" else b"x = 1\n")
        assert {name for name in ("one", "same", "three") if paths & set(list_record(layer, f"{name}-1.0.dist-info"))} == listing


@pytest.mark.parametrize("owner", ["one", "two"])
def test_a_script_that_two_bring_is_its_owners(tmp_path: Path, owner: str) -> None:
    one = make_wheel(tmp_path, "one", entry_points="[console_scripts]\nrun = one:main\n")
    two = make_wheel(tmp_path, "two", files={"two-1.0.data/scripts/run": b"#!python\nprint(2)\n"})
    with pytest.raises(BuildError, match=r"one and two both bring \.\./\.\./\.\./bin/run") as caught:
        build(tmp_path, [one, two])
    assert '[files] "../../../bin/run" = "one"' in caught.value.hint
    layer = build(tmp_path, [one, two], files={"../../../bin/run": owner})
    assert (b"from one import main" in read_file(layer, "/usr/local/bin/run")) is (owner == "one")
    rows = {name: "../../../bin/run" in list_record(layer, f"{name}-1.0.dist-info") for name in ("one", "two")}
    assert rows == {"one": owner == "one", "two": owner == "two"}
    assert b"run = one:main" in read_file(layer, f"{SITE}/one-1.0.dist-info/entry_points.txt")


def test_an_owner_that_does_not_bring_the_path(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", files={"ns/__init__.py": b"1\n"})
    two = make_wheel(tmp_path, "two", files={"ns/__init__.py": b"2\n"})
    with pytest.raises(BuildError, match=r"and three, which \[files\] names as the owner, does not bring it"):
        build(tmp_path, [one, two], files={"ns/*": "three"})


def test_slim_comes_before_collisions(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", files={"tests/test_a.py": b"1\n", "one.py": b""})
    two = make_wheel(tmp_path, "two", files={"tests/test_a.py": b"2\n", "two.py": b""})
    with pytest.raises(BuildError, match="both bring tests/test_a"):
        build(tmp_path, [one, two])
    assert f"{SITE}/tests/test_a.py" not in read(build(tmp_path, [one, two], slim=("tests",)))


def test_a_file_where_another_wheel_needs_a_folder(tmp_path: Path) -> None:
    one = make_wheel(tmp_path, "one", files={"ns": b"1"})
    two = make_wheel(tmp_path, "two", files={"ns/x.py": b""})
    with pytest.raises(BuildError, match=f"one brings {SITE}/ns as a file, two needs a folder there"):
        build(tmp_path, [two, one])


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ((file(f"{SITE}/demo.py", b"other\n"),), f"demo would change a file of the base: {SITE}/demo.py"),
        ((Entry(f"{SITE}/demo.py", "file", 0o644, 0, 0, 6),), "would change a file"),
        ((folder(f"{SITE}/demo.py"),), "would change a folder"),
        ((link(f"{SITE}/demo.py", "/etc/passwd"),), "would change a symbolic link"),
        ((file(f"{SITE}/demo-1.0.dist-info"),), "demo needs a folder at .*dist-info, which is a file in the base"),
    ],
)
def test_nothing_of_the_base_is_changed(tmp_path: Path, entries: tuple[Entry, ...], why: str) -> None:
    wheel = make_wheel(tmp_path, files={"demo.py": b"x = 1\n"})
    with pytest.raises(BuildError, match=why):
        build(tmp_path, [wheel], base=make_host_base(MemoryTree((*USUAL, *entries)), runtime=HostRuntime()))


@pytest.mark.parametrize("content", [b"", b"# namespace\n"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_the_base_has_already_is_left_out(tmp_path: Path, content: bytes, compiled: bool) -> None:
    pyc = f"{SITE}/ns/__pycache__/__init__.{TAG}.pyc"
    below = [folder(f"{SITE}/ns"), file(f"{SITE}/ns/__init__.py", content)]
    if compiled:
        below += [folder(f"{SITE}/ns/__pycache__"), file(pyc, b"made by another pip")]
    wheel = make_wheel(tmp_path, files={"ns/__init__.py": content, "ns/demo.py": b""})
    found = read(build(tmp_path, [wheel], base=make_host_base(MemoryTree((*USUAL, *below)), runtime=HostRuntime())))
    assert f"{SITE}/ns/__init__.py" not in found
    assert f"{SITE}/ns/demo.py" in found
    assert (pyc in found) is not compiled


def test_a_symlinked_parent_is_never_replaced_by_a_folder(tmp_path: Path) -> None:
    tree = MemoryTree((*USUAL[:4], folder("/data"), folder("/data/lib"), link("/usr/local/lib", "/data/lib"), USUAL[0]))
    base = make_host_base(tree, make_host_interpreter(paths={**make_host_interpreter().paths}), runtime=None)
    found = read(build(tmp_path, [make_wheel(tmp_path)], base=base))
    assert "/data/lib/python3.11/dist-packages/demo/__init__.py" in found
    assert not any(path.startswith("/usr/local/lib") for path in found)


def test_a_base_that_does_not_run_here_gets_no_bytecode_and_says_so(tmp_path: Path) -> None:
    lines: list[str] = []
    found = read(build(tmp_path, [make_wheel(tmp_path)], base=make_host_base(), report=lines.append))
    assert not any(path.endswith(".pyc") for path in found)
    assert "no bytecode" in lines[0]


@pytest.mark.parametrize("name", ["member.tar.zst", "index.json"])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.99])
def test_damaged_members_are_seen_and_built_anew(tmp_path: Path, name: str, place: float) -> None:
    wheels = [make_wheel(tmp_path, "one"), make_wheel(tmp_path, "two"), make_wheel(tmp_path, "three")]
    good = build(tmp_path, wheels)
    lines: list[str] = []
    for file_ in sorted((tmp_path / "cache" / "members").glob(f"*/{name}"))[:2]:
        data = bytearray(file_.read_bytes())
        data[int(len(data) * place)] ^= 1
        file_.write_bytes(data)
    assert build(tmp_path, wheels, out=tmp_path / "second", report=lines.append).digest == good.digest
    assert "2 of 3 packages prepared, 1 from the cache" in lines
    assert build(tmp_path, wheels, out=tmp_path / "third").digest == good.digest


@pytest.mark.parametrize(
    ("extra", "why"),
    [
        (ExtraFile("etc/x", b""), "not a path"),
        (ExtraFile("/etc/../x", b""), "not a path"),
        (ExtraFile("/etc/.wh.x", b""), "not a path"),
        (ExtraFile("/etc/x", b"", 0o4755), "mode 4755"),
        (ExtraFile("/etc/x", b"", 0o666), "mode 666"),
        (ExtraFile("/home/jovyan/.x", b""), "hidden or emptied"),
        (ExtraFile("/tmp/x", b""), "hidden or emptied"),
        (ExtraFile("/usr/local", b""), "not a file in the base"),
        (ExtraFile("/lib/x", b""), "symbolic link of the base"),
        (ExtraFile(f"{SITE}/demo/__init__.py", b""), "demo brings"),
    ],
)
def test_extra_files_keep_the_rules_too(tmp_path: Path, extra: ExtraFile, why: str) -> None:
    base = make_host_base(MemoryTree((*USUAL, link("/lib", "usr/lib"))), runtime=None)
    with pytest.raises(BuildError, match=why):
        build(tmp_path, [make_wheel(tmp_path)], base=base, extra=(extra,))


def test_an_extra_file_may_take_the_place_of_an_older_one(tmp_path: Path) -> None:
    base = make_host_base(MemoryTree((*USUAL, folder("/etc/team"), file("/etc/team/c.txt", b"old"))), runtime=None)
    layer = build(tmp_path, [make_wheel(tmp_path)], base=base, extra=(ExtraFile("/etc/team/c.txt", b"new"),))
    assert "/etc/team/c.txt" in read(layer)


@pytest.mark.slow
@pytest.mark.parametrize("codec", [Codec(), Codec("gzip", 1)])
def test_a_defect_is_seen_while_the_layer_is_written(tmp_path: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = [make_wheel(tmp_path, "one", files={"one.py": b"x = 1\n" * 300_000}), make_wheel(tmp_path, "two", files={"two.py": b""})]
    base = make_host_base(runtime=HostRuntime())
    good = TarEntries(base)
    build(tmp_path, wheels, base=base, codec=codec, inspector=good)
    good.finish()

    def encode_wrongly(path: str, **facts: Any) -> bytes:
        return encode_header(path, **{**facts, "mode": 0o4755 if path.endswith("/two.py") else facts["mode"]})

    monkeypatch.setattr("imagebuild.layer.tar.entries.encode_header", encode_wrongly)
    seen = TarEntries(base)
    options: dict[str, Any] = {"codec": codec, "cache": tmp_path / "other", "out": tmp_path / "layer"}
    made = build_layers([(wheel, lock_wheel(wheel)) for wheel in wheels], base=base, inspector=seen, **options)
    for audit in (seen.finish, lambda: check_layers(made, base=base)):
        with pytest.raises(IntegrityError, match=r"breaks 1 rule: .*/two\.py: setuid, setgid or sticky \(4755\)"):
            audit()


def test_a_wheel_that_was_seen_is_not_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = make_wheel(tmp_path, "one", files={"one.py": b"x = 1\n"})
    first = build(tmp_path, [wheel])
    opened: list[str] = []

    class Watched(WheelArchive):
        def __init__(self, path: Path, **options: Any) -> None:
            opened.append(path.name)
            super().__init__(path, **options)

    monkeypatch.setattr("imagebuild.layer.member.WheelArchive", Watched)
    assert build(tmp_path, [wheel]).digest == first.digest
    assert opened == []
    (note,) = (tmp_path / "cache" / "member-keys").iterdir()
    for damage in ("", "0" * 63, "../../elsewhere", "0" * 64):
        note.write_text(damage)
        assert build(tmp_path, [wheel]).digest == first.digest
    assert len(opened) == 4
    build(
        tmp_path,
        [wheel],
        base=make_host_base(MemoryTree([*USUAL, link("/x", "y")]), runtime=HostRuntime(), digest=Digest("sha256:" + "1" * 64)),
    )
    assert len(opened) == 5
    build(tmp_path, [wheel], codec=Codec("gzip", 1))
    assert len(opened) == 6


def test_no_wheels_and_no_python(tmp_path: Path) -> None:
    layer = build(tmp_path, [], extra=(ExtraFile("/etc/c", b"1"),))
    assert list(read(layer)) == ["/etc", "/etc/c"]
    base = make_host_base()
    inventory = type(base.inventory)(**{**{f: getattr(base.inventory, f) for f in base.inventory.__struct_fields__}, "interpreter": None})
    other = Base(**{**{f: getattr(base, f) for f in base.__struct_fields__}, "inventory": inventory})
    with pytest.raises(BuildError, match="has no Python"):
        build(tmp_path, [], base=other)


def test_many_conflicts_are_counted() -> None:
    members = [
        Member(name, "1", Path(), 0, 0, tuple(FileFact(f"/usr/x{n}", 1, 0o644, name, "data") for n in range(30))) for name in ("a", "b")
    ]
    with pytest.raises(BuildError) as caught:
        find_exclusions(members, FolderResolver(MemoryTree(USUAL)), interpreter=make_host_interpreter())
    assert caught.value.details[-1] == "and 10 more"
    assert len(caught.value.details) == 20
