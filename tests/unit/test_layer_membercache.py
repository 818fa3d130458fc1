"""Members in a place that others write to: what is taken is what would have been built here, and all else is refused and not kept."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.errors import RemoteError
from imagebuild.files import hash_file
from imagebuild.layer.membercache import ARTIFACT_TYPE, DOCUMENTS, SharedMembers, compute_shared_key, encode_artifact
from imagebuild.layer.members import MemberSources, build_members
from imagebuild.layer.memberstore import MemberRequest, MemberRules
from imagebuild.layer.model import CHUNKED, LAYER_MTIME, Codec, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.layer.tar.header import count_entry, count_padding, encode_header
from imagebuild.oci.encoding import EMPTY, EMPTY_BLOB, encode_json
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.place import Place
from imagebuild.wheel.record import render_record
from tests.support.builders import make_host_interpreter, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree, folder, link

TAG = sys.implementation.cache_tag
FILES = {"demo/__init__.py": b"x = 1\n", "demo/run.py": b"print(1)\n", "demo/data.bin": bytes(range(256)) * 40}
SBOM = json.dumps({"bomFormat": "CycloneDX", "components": [{"name": "inner", "version": "1"}]}).encode()
INFO = "demo-1.0.dist-info"


@dataclass
class Site:
    """A machine with a cache, and the company's place."""

    root: Path
    place: Place
    wheel: Path
    codec: Codec = field(default_factory=Codec)
    tree: MemoryTree = field(default_factory=lambda: MemoryTree(USUAL))
    lines: list[str] = field(default_factory=list)

    def request(self, **changes: Any) -> MemberRequest:
        found = MemberRequest(self.wheel, "demo", "1.0", hash_file(self.wheel), self.wheel.name)
        return msgspec.structs.replace(found, **changes)

    def rules(self, name: str, **changes: Any) -> MemberRules:
        return MemberRules(
            changes.get("interpreter", make_host_interpreter()), FolderResolver(changes.get("tree", self.tree)), self.codec,
            self.root / name, "/home/jovyan", LAYER_MTIME, True, "base",
        )  # fmt: skip

    def build(self, name: str, *, sources: tuple[Place, ...] = (), target: Place | None = None, **changes: Any) -> tuple[Member, int, int]:
        """The member on the machine ``name``, how many were taken from a place, and how many wheels were asked for."""
        asked: list[str] = []
        shared = SharedMembers(self.root / name, sources, target, self.lines.append)
        gone = self.root / "nowhere" / self.wheel.name

        def provide(wanted: Any) -> Mapping[str, Path]:
            asked.extend(wanted)
            return dict.fromkeys(wanted, self.wheel)

        (member,) = build_members(
            [self.request(wheel=changes.pop("wheel", gone), **{key: changes.pop(key) for key in ("exclude", "strict") if key in changes})],
            interpreter=changes.get("interpreter", make_host_interpreter()),
            folders=FolderResolver(changes.get("tree", self.tree)),
            codec=self.codec,
            runtime=HostRuntime(),
            cache=self.root / name,
            home="/home/jovyan",
            base=changes.get("base", "base"),
            sources=MemberSources(shared, provide),
        )
        shared.push()
        return member, len(shared.taken), len(asked)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    files = {**FILES, f"{INFO}/sboms/a.json": SBOM}
    wheel = make_wheel(tmp_path / "wheels", files=files, entry_points="[console_scripts]\ndemo = demo.run:main\n")
    return Site(tmp_path, Place(LayoutStore(tmp_path / "company"), "ml/members"), wheel)


@pytest.mark.parametrize("codec", [Codec(), Codec("gzip", 1), Codec(CHUNKED)])
def test_what_one_machine_made_another_takes(site: Site, codec: Codec) -> None:
    site.codec = codec
    first, taken, asked = site.build("first", sources=(site.place,), target=site.place)
    assert (taken, asked) == (0, 1)
    second, taken, asked = site.build("second", sources=(site.place,), target=site.place)
    assert (taken, asked) == (1, 0)  # no wheel is fetched, nothing is compiled
    assert second.blob.read_bytes() == first.blob.read_bytes()
    assert (second.files, second.sha256, second.uncompressed) == (first.files, first.sha256, first.uncompressed)
    _, taken, asked = site.build("second", sources=(site.place,))
    assert (taken, asked) == (0, 0)  # once
    assert [line for line in site.lines if "warning" in line] == []
    with zipfile.ZipFile(second.blob.with_name(DOCUMENTS)) as documents, zipfile.ZipFile(site.wheel) as wheel:
        for name in (f"{INFO}/METADATA", f"{INFO}/sboms/a.json"):
            assert documents.read(name) == wheel.read(name)


def test_a_base_with_another_digest_and_the_same_python_takes_it(site: Site) -> None:
    site.build("first", target=site.place, base="base")
    assert site.build("second", sources=(site.place,), base="other")[1:] == (1, 0)


def test_another_python_or_way_of_making_it_is_another_member(site: Site) -> None:
    site.build("first", target=site.place)
    assert site.build("second", sources=(site.place,), interpreter=make_host_interpreter(version="3.11.99"))[1] == 0
    assert site.build("third", sources=(site.place,), exclude=frozenset({f"{SITE}/demo/data.bin"}))[1] == 0
    site.codec = Codec("zstd", 5)
    assert site.build("fourth", sources=(site.place,))[1] == 0


def test_a_member_with_files_left_out_travels_too(site: Site) -> None:
    gone = frozenset({f"{SITE}/demo/data.bin"})
    site.build("first", target=site.place, exclude=gone)
    member, taken, asked = site.build("second", sources=(site.place,), exclude=gone)
    assert (taken, asked) == (1, 0)
    assert f"{SITE}/demo/data.bin" not in {fact.path for fact in member.files}


def test_a_base_that_has_another_place_for_a_file_refuses_it(site: Site) -> None:
    site.build("first", target=site.place)
    other = MemoryTree([*USUAL, folder("/usr/local/lib/elsewhere"), link(f"{SITE}/demo", "/usr/local/lib/elsewhere")])
    member, taken, asked = site.build("second", sources=(site.place,), tree=other)
    assert (taken, asked) == (0, 1)
    assert "this base has another place for it" in site.lines[-1]
    assert "/usr/local/lib/elsewhere/run.py" in {fact.path for fact in member.files}


def test_the_next_place_is_asked_and_a_broken_one_not_again(site: Site, tmp_path: Path) -> None:
    class Broken(LayoutStore):
        asked = 0

        def get_manifest(self, *_: str) -> RawManifest | None:
            Broken.asked += 1
            raise RemoteError("no answer", "look at it")

    site.build("first", target=site.place)
    broken = Place(Broken(tmp_path / "broken"), "x")
    assert site.build("second", sources=(broken, site.place))[1:] == (1, 0)
    assert Broken.asked == 1
    assert [line for line in site.lines if "gives no members, and is not asked again: no answer" in line]


def test_a_target_that_refuses_is_a_warning(site: Site, tmp_path: Path) -> None:
    class Full(LayoutStore):
        def put_blob(self, *_: object) -> None:
            raise RemoteError("full", "make room")

    member, _, _ = site.build("first", target=Place(Full(tmp_path / "full"), "x"))
    assert member.files
    assert any("did not take its members: full" in line for line in site.lines)


# --- hostile artifacts ----------------------------------------------------------------------------------------------


@dataclass
class Poison:
    """An artifact to spoil: its tar's entries, its index, its manifest."""

    entries: list[tuple[str, int, bytes]]  # path, mode, content
    index: dict[str, Any]
    manifest: dict[str, Any]
    tail: bytes = b""  # behind the last entry
    garbage: bytes = b""  # behind the frame
    header: dict[str, Any] = field(default_factory=dict)  # of the first entry

    def relist(self) -> None:
        """Make the index agree with the entries, as a careful attacker does."""
        kinds = {item["path"]: item["kind"] for item in self.index["files"]}
        self.index["files"] = [
            {
                "path": path, "size": len(data), "mode": mode, "sha256": Digest.of(data).hex,
                "kind": kinds.get(path, "bytecode" if path.endswith(".pyc") else "code"),
            }
            for path, mode, data in sorted(self.entries)
        ]  # fmt: skip

    def replace(self, end: str, data: bytes) -> None:
        self.entries = [(path, mode, data if path.endswith(end) else old) for path, mode, old in self.entries]

    def find(self, end: str) -> bytes:
        return next(data for path, _, data in self.entries if path.endswith(end))

    def rerecord(self) -> None:
        """A RECORD that lists the entries."""
        record = f"{SITE}/{INFO}/RECORD"
        rows: list[tuple[str, str, int | None]] = []
        for path, _, data in self.entries:
            row = path.removeprefix(SITE + "/") if path.startswith(SITE + "/") else "../../../bin/" + path.rpartition("/")[2]
            rows.append((row, "", None) if path == record or path.endswith(".pyc") else (row, Digest.of(data).hex, len(data)))
        self.replace("/RECORD", render_record(rows))
        self.relist()


def read_entries(member: Member) -> list[tuple[str, int, bytes]]:
    with member.blob.open("rb") as stored:
        plain = zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True).read()
    found, at = [], 0
    while at < len(plain):
        name = plain[at : at + 100].rstrip(b"\0").decode()
        prefix = plain[at + 345 : at + 500].rstrip(b"\0").decode()
        size, mode = int(plain[at + 124 : at + 135], 8), int(plain[at + 100 : at + 107], 8)
        found.append(("/" + (f"{prefix}/{name}" if prefix else name), mode, plain[at + 512 : at + 512 + size]))
        at += 512 + size + count_padding(size)
    return found


def poison(site: Site, spoil: Callable[[Poison], None], *, honest: bool = True) -> None:
    """Put a spoilt artifact under the tag of the site's member. ``honest``: digests and sizes are of the spoilt bytes."""
    rules, request = site.rules("attacker"), site.request()
    member, _, _ = site.build("attacker")
    key = compute_shared_key(request, rules)
    raw, _, _, data = encode_artifact(key, request, rules, member)
    found = Poison(read_entries(member), json.loads(data), json.loads(raw.data))
    spoil(found)
    parts = []
    for number, (path, mode, content) in enumerate(found.entries):
        extra = found.header if not number else {}
        parts += [encode_header(path, **{"size": len(content), "mode": mode, "mtime": LAYER_MTIME, **extra}), content]
        parts.append(bytes(count_padding(len(content))))
    plain = b"".join(parts) + found.tail
    frame = zstandard.ZstdCompressor(3).compress(plain) + found.garbage
    if honest:
        listed = sum(count_entry(item["path"], max(0, item["size"])) for item in found.index["files"])
        found.index |= {"frame": Digest.of(frame).hex, "compressed": len(frame), "uncompressed": listed}
    listing = json.dumps(found.index).encode()
    for layer, blob in zip(found.manifest["layers"], (frame, listing), strict=False):
        if honest:
            layer |= {"digest": str(Digest.of(blob)), "size": len(blob)}
        store_blob(site, Descriptor(layer["mediaType"], str(Digest.of(blob)), len(blob)), blob)
    store_blob(site, EMPTY_BLOB, EMPTY)
    site.place.store.put_manifest(site.place.repository, RawManifest(encode_json(found.manifest), OCI_MANIFEST), key[:32])


def store_blob(site: Site, descriptor: Descriptor, data: bytes) -> None:
    site.place.store.put_blob(site.place.repository, descriptor, data)


def is_refused(site: Site, reason: str) -> None:
    """It is told, not taken, not kept; and the build goes on with the wheel, to the same bytes as without any cache."""
    member, taken, asked = site.build("victim", sources=(site.place,))
    assert (taken, asked) == (0, 1)
    assert member.sha256 == site.build("attacker")[0].sha256
    (line,) = [line for line in site.lines if "is refused: " in line]
    assert reason in line, line
    kept = site.root / "victim" / "shared-members"
    assert [path for path in kept.rglob("*") if path.is_file() and path.name != "lock"] == []


def change_byte(found: Poison) -> None:
    data = bytearray(found.find("/data.bin"))
    data[5] ^= 1
    found.replace("/data.bin", bytes(data))


def change_byte_and_list(found: Poison) -> None:
    change_byte(found)
    found.relist()


def add_file(found: Poison) -> None:
    found.entries.append((f"{SITE}/evil.py", 0o644, b"import os\n"))


def add_file_and_list(found: Poison) -> None:
    add_file(found)
    found.relist()


def drop_file(found: Poison) -> None:
    found.entries = [item for item in found.entries if not item[0].endswith("/run.py")]


def drop_file_and_list(found: Poison) -> None:
    drop_file(found)
    found.relist()


def set_mode(found: Poison) -> None:
    found.entries = [(path, 0o4755 if path.endswith("/bin/demo") else mode, data) for path, mode, data in found.entries]


def set_mode_and_list(found: Poison) -> None:
    set_mode(found)
    found.relist()


def climb(found: Poison) -> None:
    found.entries.append((f"{SITE}/../../../../../etc/cron.d/evil", 0o644, b"x"))
    found.relist()


def leave(found: Poison) -> None:
    """Into a folder of the base that is no Python's; RECORD says so too."""
    found.entries.append(("/etc/profile.d/evil.sh", 0o644, b"x"))
    record = found.find("/RECORD") + b"../../../../../etc/profile.d/evil.sh,,\r\n"
    found.replace("/RECORD", record)
    found.relist()


def white_out(found: Poison) -> None:
    found.entries.append((f"{SITE}/.wh.pip", 0o644, b""))
    found.rerecord()


def hide_home(found: Poison) -> None:
    found.entries.append(("/home/jovyan/.bashrc", 0o644, b"x"))
    found.replace("/RECORD", found.find("/RECORD") + b"../../../../../home/jovyan/.bashrc,,\r\n")
    found.relist()


def repeat(found: Poison) -> None:
    found.entries.append(found.entries[0])


def repeat_listed(found: Poison) -> None:
    found.index["files"].append(found.index["files"][0])


def other_python(found: Poison) -> None:
    pyc = found.find(f"run.{TAG}.pyc")
    found.replace(f"run.{TAG}.pyc", b"\x00\x00\x0d\x0a" + pyc[4:])
    found.relist()


def other_member(found: Poison) -> None:
    found.index["key"] = "0" * 64


def other_wheel(found: Poison) -> None:
    found.index["wheel"] = "0" * 64


def other_name(found: Poison) -> None:
    found.index["package"] = "other"


def lie_about_kind(found: Poison) -> None:
    for item in found.index["files"]:
        item["kind"] = "bytecode"


def negative_size(found: Poison) -> None:
    found.index["files"][0]["size"] = -1


def trailing_entry(found: Poison) -> None:
    found.tail = encode_header("/etc/evil", size=0, mode=0o644, mtime=LAYER_MTIME)


def foreign_owner(found: Poison) -> None:
    found.header = {"uid": 1000}


def other_time(found: Poison) -> None:
    found.header = {"mtime": 1}


def become_image(found: Poison) -> None:
    found.manifest["artifactType"] = "application/vnd.example"


def one_layer(found: Poison) -> None:
    found.manifest["layers"].pop()


def other_type(found: Poison) -> None:
    found.manifest["layers"][0]["mediaType"] = "text/plain"


def no_record(found: Poison) -> None:
    found.entries = [item for item in found.entries if not item[0].endswith("/RECORD")]
    found.relist()


def unhash(found: Poison) -> None:
    """A RECORD without the hash of the file that was changed."""
    change_byte(found)
    lines = found.find("/RECORD").decode().splitlines()
    found.replace("/RECORD", "\r\n".join("demo/data.bin,," if line.startswith("demo/data.bin,") else line for line in lines).encode())
    found.relist()


HOSTILE = [
    (change_byte, "is not the file that its index lists"),
    (change_byte_and_list, "RECORD has another hash or size of"),
    (add_file, "that its index does not list so"),
    (add_file_and_list, "RECORD does not list"),
    (drop_file, "its frame lacks"),
    (drop_file_and_list, "which its RECORD lists"),
    (set_mode, "that its index does not list so"),
    (set_mode_and_list, "with mode 4755"),
    (climb, "which is not a path of a layer"),
    (leave, "outside the base's Python"),
    (white_out, "which is not a path of a layer"),
    (hide_home, "outside the base's Python or where no file may be"),
    (repeat, "or has it twice"),
    (repeat_listed, "twice"),
    (other_python, "is bytecode of another Python"),
    (other_member, "its index is of another member"),
    (other_wheel, "its index is of another member"),
    (other_name, "its index is of another member"),
    (lie_about_kind, "as 'bytecode'"),
    (negative_size, "-1 bytes"),
    (trailing_entry, "that its index does not list so"),
    (foreign_owner, "that its index does not list so"),
    (other_time, "that its index does not list so"),
    (become_image, "something else under its tag"),
    (one_layer, "something else under its tag"),
    (other_type, "its layers are text/plain"),
    (no_record, "it has no RECORD"),
    (unhash, "RECORD has no hash of"),
]


@pytest.mark.parametrize(("spoil", "reason"), HOSTILE, ids=[item[0].__name__ for item in HOSTILE])
def test_a_hostile_artifact_is_refused(site: Site, spoil: Callable[[Poison], None], reason: str) -> None:
    poison(site, spoil)
    is_refused(site, reason)


def test_a_member_for_zstd_chunked_has_each_file_in_frames_of_its_own(site: Site) -> None:
    site.codec = Codec(CHUNKED)
    poison(site, lambda _: None)  # all in one
    member, taken, asked = site.build("victim", sources=(site.place,))
    assert (taken, asked) == (0, 1)
    assert "it cannot be a part of a zstd:chunked layer" in site.lines[-1]
    assert member.blob.is_file()


@pytest.mark.parametrize("garbage", [b"garbage", zstandard.ZstdCompressor().compress(b"more")])
def test_something_behind_the_frame_is_refused(site: Site, garbage: bytes) -> None:
    poison(site, lambda found: setattr(found, "garbage", garbage))
    is_refused(site, "")


def test_bytes_that_are_not_of_their_digest_are_refused(site: Site) -> None:
    site.build("first", target=site.place)
    store = site.place.store
    assert isinstance(store, LayoutStore)
    frame = next(path for path in (store.folder / "blobs/sha256").iterdir() if path.stat().st_size > 1500 and path.read_bytes()[:1] != b"{")
    data = bytearray(frame.read_bytes())
    data[len(data) // 2] ^= 1
    frame.unlink()
    frame.write_bytes(bytes(data))
    is_refused(site, "")


def test_consistent_poison_is_seen_where_the_wheel_is_at_hand(site: Site) -> None:
    """Frame, index and RECORD changed together: only the wheel tells; without it who pushes is trusted (docs/security.md)."""

    def spoil(found: Poison) -> None:
        found.replace("/run.py", b"evil = 1\n")
        found.rerecord()

    poison(site, spoil)
    _, taken, asked = site.build("far", sources=(site.place,))
    assert (taken, asked) == (1, 0)
    _, taken, _ = site.build("near", sources=(site.place,), wheel=site.wheel)
    assert taken == 0
    assert "run.py is not the wheel's file" in site.lines[-1]


def test_files_added_consistently_are_seen_where_the_wheel_is_at_hand(site: Site) -> None:
    def spoil(found: Poison) -> None:
        found.entries.append((f"{SITE}/sitecustomize.py", 0o644, b"evil = 1\n"))
        found.rerecord()

    poison(site, spoil)
    assert site.build("near", sources=(site.place,), wheel=site.wheel)[1] == 0
    assert "is in the member, and not in the wheel" in site.lines[-1]


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_change_of_a_frame_is_taken_for_the_member(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any one byte of the tar changed, with digests that agree."""
    root = tmp_path_factory.mktemp("site")
    wheel = make_wheel(root / "wheels", files={"demo/__init__.py": b"x = 1\n"})
    site = Site(root, Place(LayoutStore(root / "company"), "members"), wheel)
    chosen: list[int] = []

    def spoil(found: Poison) -> None:
        number = data.draw(st.integers(0, len(found.entries) - 1))
        path, mode, content = found.entries[number]
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        changed = bytearray(content or b"\0")
        changed[at if content else 0] ^= data.draw(st.integers(1, 255))
        found.entries[number] = (path, mode, bytes(changed))
        if data.draw(st.booleans()) and not path.endswith((".pyc", "/RECORD")):
            found.relist()
        chosen.append(number)

    poison(site, spoil)
    assert site.build("victim", sources=(site.place,))[1] == 0


def test_the_artifact_is_what_registries_know(site: Site) -> None:
    site.build("first", target=site.place)
    (tag,) = site.place.store.list_tags("ml/members")
    assert tag == compute_shared_key(site.request(), site.rules("x"))[:32]
    raw = site.place.store.get_manifest("ml/members", tag)
    assert raw is not None
    document = json.loads(raw.data)
    assert document["artifactType"] == ARTIFACT_TYPE
    assert [item["mediaType"] for item in document["layers"]] == [
        "application/vnd.imagebuild.member.frame.v1.tar+zstd", "application/vnd.imagebuild.member.index.v1+json",
    ]  # fmt: skip
    assert document["config"]["mediaType"] == EMPTY_BLOB.media_type
