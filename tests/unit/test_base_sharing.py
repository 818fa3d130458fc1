"""What was read of a base, shared: the same base on another machine without its layers; what does not fit is refused and the base read."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from imagebuild.base.model import Base
from imagebuild.base.reading import BaseNames, read_base
from imagebuild.base.sharing import BLOB_TYPE, SharedBases, name_tag
from imagebuild.errors import RemoteError
from imagebuild.oci.encoding import encode_json
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_MANIFEST, Descriptor, Digest, Platform, RawManifest
from imagebuild.oci.place import Place
from tests.support import images

NAMES = BaseNames("tiny", "jupyter", "registry.example.com/tiny", "")


class Company:
    """A base, a place for what is read of bases, and machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = LayoutStore(root / "bases")
        self.place = Place(LayoutStore(root / "company"), "ml/cache")
        layer = images.make_layer([images.entry("etc/passwd", b"me:x:1000:1000::/home/me:/bin/sh\n"), images.entry("usr/lib/x", b"y")])
        self.raw = images.push_image(self.store, [layer], {"User": "me"})
        self.lines: list[str] = []

    def read(self, machine: str, *, take: bool = True, give: bool = False) -> Base:
        shared = SharedBases(self.root / machine, [self.place] if take else [], self.place if give else None, self.lines.append)
        say, cache = self.lines.append, self.root / machine
        return read_base(self.store, images.REPOSITORY, self.raw.digest, Platform(), NAMES, cache=cache, report=say, shared=shared)

    def was_read(self) -> bool:
        return any(line.startswith("reading layer") for line in self.lines)

    def spoil(self, change: Callable[[dict[str, bytes]], None], note: Callable[[dict[str, object]], None] = lambda _: None) -> None:
        """Replace the artifact by one of other files, with digests that agree."""
        raw = self.place.store.get_manifest(self.place.repository, name_tag(self.raw.digest))
        assert raw is not None
        document = json.loads(raw.data)
        blob = document["layers"][0]
        data = self.place.store.read_blob(self.place.repository, Descriptor(blob["mediaType"], blob["digest"], blob["size"]))
        files = {}
        with tarfile.open(fileobj=io.BytesIO(zstandard.ZstdDecompressor().decompressobj().decompress(data))) as tar:
            for entry in tar:
                content = tar.extractfile(entry)
                files[entry.name] = content.read() if content is not None else b""
        change(files)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content_of in files.items():
                info = tarfile.TarInfo(name)
                if name.startswith("link:"):
                    info.name, info.type, info.linkname = name[5:], tarfile.SYMTYPE, content_of.decode()
                    tar.addfile(info)
                else:
                    info.size = len(content_of)
                    tar.addfile(info, io.BytesIO(content_of))
        spoilt = zstandard.ZstdCompressor().compress(packed.getvalue())
        document["layers"][0] = {"mediaType": BLOB_TYPE, "digest": str(Digest.of(spoilt)), "size": len(spoilt)}
        note(document)
        self.place.store.put_blob(self.place.repository, Descriptor(BLOB_TYPE, Digest.of(spoilt), len(spoilt)), spoilt)
        self.place.store.put_manifest(self.place.repository, RawManifest(encode_json(document), OCI_MANIFEST), name_tag(self.raw.digest))


@pytest.fixture
def company(tmp_path: Path) -> Company:
    found = Company(tmp_path)
    found.first = found.read("first", give=True)  # type: ignore[attr-defined]
    assert found.was_read()
    found.lines.clear()
    return found


def test_a_base_is_read_once_in_the_company(company: Company) -> None:
    second = company.read("second", give=True)
    assert not company.was_read()
    first: Base = company.first  # type: ignore[attr-defined]
    assert second.inventory == first.inventory
    assert second.tree.get("/usr/lib/x") == first.tree.get("/usr/lib/x") is not None
    assert second.tree.read_text("/etc/passwd") == first.tree.read_text("/etc/passwd")
    assert any("taken from" in line for line in company.lines)
    company.lines.clear()
    assert company.read("second").inventory == first.inventory  # from this machine's cache
    assert company.lines == []


def test_what_was_taken_lies_apart(company: Company) -> None:
    company.read("second")
    assert not list((company.root / "second" / "bases").glob("*/facts.json"))
    company.read("second", take=False)  # who is to trust nobody reads the base
    assert company.was_read()


def rewrite_inventory(files: dict[str, bytes], old: bytes, new: bytes) -> None:
    """Change the inventory as a careful attacker does: the facts agree with it."""
    from imagebuild.base import cache

    files["inventory.json"] = files["inventory.json"].replace(old, new)
    facts = json.loads(files["facts.json"])
    facts["inventory"] = Digest.of(files["inventory.json"]).hex
    kind = cache._FACTS
    value = kind._decoder.decode(json.dumps(facts).encode())
    files["facts.json"] = kind.encode(value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda files: files.update({"../evil": b"x"}), "it has an entry '../evil'"),
        (lambda files: files.update({"rootfs/../../evil": b"x"}), "it has an entry 'rootfs/../../evil'"),
        (lambda files: files.update({"/etc/evil": b"x"}), "it has an entry '/etc/evil'"),
        (lambda files: files.update({"link:rootfs/x": b"/etc"}), "it has an entry 'rootfs/x'"),
        (lambda files: files.update({"other.json": b"x"}), "it has an entry 'other.json'"),
        (lambda files: files.update({"inventory.json": files["inventory.json"] + b" "}), "it is not whole, or of another format"),
        (lambda files: files.pop("tree.sqlite"), "it is not whole, or of another format"),
        (lambda files: files.update({"tree.sqlite": b"x" * 4096}), "it is not whole, or of another format"),
        (lambda files: files.pop("facts.json"), "it is not whole, or of another format"),
        (lambda files: rewrite_inventory(files, b'"uncompressed"', b'"uncompressed"'), ""),
        (lambda files: rewrite_inventory(files, b'"architecture": "amd64"', b'"architecture": "arm64"'), "it describes another image"),
        (lambda files: rewrite_inventory(files, b'"fingerprint": "sha256:', b'"fingerprint": "sha256:0'), "its fingerprint is not that"),
    ],
)
def test_what_does_not_fit_is_refused_and_the_base_read(company: Company, change: Callable[[dict[str, bytes]], None], reason: str) -> None:
    company.spoil(change)
    found = company.read("victim")
    assert found.inventory == company.first.inventory  # type: ignore[attr-defined]
    assert not (company.root / "evil").exists()
    if not reason:  # nothing was changed: the helper makes artifacts that are taken
        assert not company.was_read()
        return
    assert company.was_read()
    (line,) = [line for line in company.lines if "is refused: " in line]
    assert reason in line
    assert not list((company.root / "victim" / "shared-bases").glob("*/facts.json"))


@pytest.mark.parametrize(
    "note",
    [
        lambda document: document.update(artifactType="application/vnd.example"),
        lambda document: document["subject"].update(digest=f"sha256:{'0' * 64}"),
        lambda document: document.pop("subject"),
        lambda document: document["layers"][0].update(mediaType="text/plain"),
        lambda document: document["layers"].append(document["layers"][0]),
    ],
)
def test_another_artifact_under_the_tag_is_refused(company: Company, note: Callable[[dict[str, object]], None]) -> None:
    company.spoil(lambda _: None, note)
    company.read("victim")
    assert company.was_read()
    assert any("is refused: " in line for line in company.lines)


def test_a_place_that_does_not_answer_is_a_warning(company: Company, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RemoteError("no answer", "look at it")

    monkeypatch.setattr(company.place.store, "get_manifest", refuse)
    company.read("victim")
    assert company.was_read()
    assert any("gives no bases: no answer" in line for line in company.lines)
