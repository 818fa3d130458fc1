"""Attacks by input, many in one process: wheels, base layers, manifests, pages of indexes, team files, files to merge into.

Each takes a source of chance and an empty folder, and says how it ended. What is refused is refused by an error of ours; anything else
that is raised is a fault, and so is a file outside the folder it was given.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.soak.arena import require
from imagebuild.config import load_team
from imagebuild.emit.forms.imagestream import render_image_streams
from imagebuild.emit.forms.kubeflow import render_spawner_form
from imagebuild.emit.forms.kubespawner import render_profiles
from imagebuild.emit.forms.workspacekind import render_workspace_kinds
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ImagebuildError
from imagebuild.layer.member import build_member
from imagebuild.layer.model import Codec
from imagebuild.lock.file.lockfile import decode_lock
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.requirements import read_requirements
from imagebuild.oci.content import check_manifest
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import ImageConfig
from tests.support import images
from tests.support.builders import make_host_interpreter, make_wheel
from tests.support.forms import A100, HISTORY, MIG
from tests.support.servers.index import FakeIndex, make_index
from tests.support.trees import USUAL, MemoryTree

TEXTS = (
    "", "a", ".", "..", "../x", "/etc/passwd", "a/../../b", "C:\\x", "\\\\host\\x", "a\0b", "a\nb", "\x1b[31m", "é", "e\u0301",
    "\u202e", "\ud800", "x" * 300, "a/" * 600 + "b", "*", "%2e%2e/", "<script>", "' OR 1", "${HOME}", "$(id)", "`id`", "file:///etc/passwd",
    "http://[", "nan", "-1", "1e999", "9" * 50, "sha256:", "sha256:" + "0" * 64, "null", "__proto__", "CON", "demo-1.0.data/purelib",
    "demo-1.0.data/scripts/x", ".dist-info",
)  # fmt: skip
JUNK: tuple[Any, ...] = (None, True, 0, -1, 1 << 63, 1 << 70, 1.5, "", [], {}, [None], {"a": None}, [[]], [{}])


def _mutate_bytes(data: bytes, chance: random.Random) -> bytes:
    kind = chance.randrange(6)
    place = chance.randrange(len(data) + 1)
    if kind == 0:
        return data[:place]
    if kind == 1 and data:
        place = min(place, len(data) - 1)
        return data[:place] + bytes([data[place] ^ (1 << chance.randrange(8))]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + chance.randbytes(chance.randint(1, 40)) + data[place:]
    if kind == 3:
        end = min(len(data), place + chance.randint(1, 40))
        return data[:place] + data[end:]
    if kind == 4:
        end = min(len(data), place + chance.randint(1, 200))
        return data[:end] + data[place:end] * chance.choice([1, 2, 1000]) + data[end:]
    bracket = chance.choice([b"[", b'{"a":', b"- ", b"(", b'"', b"{", b"a."])
    return data[:place] + bracket * chance.choice([1, 100, 5000]) + data[place:]


def _mutate_value(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """A JSON document with one to three places changed."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = chance.choice(list(copy)) if isinstance(copy, dict) else chance.randrange(len(copy))
        if chance.random() < 0.15:
            del copy[key]
        else:
            copy[key] = _mutate_value(copy[key], chance, depth + 1)
        return copy
    return chance.choice([*JUNK, *TEXTS])


def _mutate_document(document: Any, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        document = _mutate_value(document, chance)
    data = json.dumps(document).encode()
    return _mutate_bytes(data, chance) if chance.random() < 0.3 else data


def _is_inside(folder: Path, known: set[Path]) -> None:
    strange = {path for path in folder.parent.iterdir() if path != folder} - known
    require(not strange, f"written outside: {sorted(strange)[:3]}")


# --- (e) wheels ---------------------------------------------------------------------------------------------------------


def _write_odd_wheel(folder: Path, chance: random.Random) -> Path:
    name = chance.choice(
        ["demo/__init__.py", "demo/x.py", "demo-1.0.data/scripts/run", "demo-1.0.data/data/etc/x", "demo-1.0.data/purelib/y.py"]
    )
    files = {"demo/__init__.py": b"x = 1\n", name: b"#!python\nprint(1)\n", "demo/big.txt": b"a" * chance.randint(0, 100_000)}
    options: dict[str, Any] = {}
    if chance.random() < 0.3:
        options["entry_points"] = chance.choice(
            ["[console_scripts]\nrun = demo:main\n", "[console_scripts]\n../x = demo:main\n", *TEXTS]
        ).replace("\ud800", "?")
    if chance.random() < 0.3:
        options["record"] = chance.choice(TEXTS).encode("utf-8", "replace") + b",,\n"
    if chance.random() < 0.2:
        options["metadata"] = chance.choice(TEXTS).replace("\ud800", "?")
    wheel = make_wheel(folder, files=files, **options)
    if chance.random() < 0.6:
        with zipfile.ZipFile(wheel) as archive:
            entries = [(item, archive.read(item)) for item in archive.infolist()]
        for _ in range(chance.randint(1, 3)):
            number = chance.randrange(len(entries))
            item, data = entries[number]
            text = chance.choice(TEXTS).replace("\ud800", "?").replace("\0", "") or "z"
            kind = chance.randrange(6)
            if kind == 0:
                item.filename = text
            elif kind == 1:
                item.filename += text
            elif kind == 2:
                item.external_attr = chance.choice([0o120777, 0o020666, 0o104755, 0o40755, 0o100000, 0]) << 16
            elif kind == 3:
                data = chance.choice([b"", data * 50, text.encode("utf-8", "replace"), bytes(5_000_000)])
            elif kind == 4:
                entries.append((item, data))
            else:
                entries.pop(number)
            if kind != 5:
                entries[number] = (item, data)
            if not entries:
                break
        _write_zip(wheel, entries)
    data = wheel.read_bytes()
    for _ in range(chance.choice([0, 0, 1, 2])):
        data = _mutate_bytes(data, chance) if chance.random() < 0.5 else _mutate_headers(data, chance)
    wheel.write_bytes(data)
    return wheel


def _write_zip(wheel: Path, entries: list[tuple[zipfile.ZipInfo, bytes]]) -> None:
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for old, data in entries:
            item = zipfile.ZipInfo(old.filename or "z")
            item.external_attr, item.compress_type = old.external_attr, zipfile.ZIP_DEFLATED
            archive.writestr(item, data)


def _mutate_headers(data: bytes, chance: random.Random) -> bytes:
    """Flags, sizes, methods and offsets of the zip's own headers."""
    places = [match.start() for match in re.finditer(rb"PK\x01\x02|PK\x03\x04|PK\x05\x06", data)]
    if not places:
        return data
    place = chance.choice(places) + chance.randrange(4, 46)
    size = chance.choice([1, 2, 4])
    value = chance.choice([0, 1, 8, 0x20, 0x40, 0x800, 0xFFFF, 0xFFFFFFFF]) & ((1 << 8 * size) - 1)
    return data[:place] + struct.pack({1: "<B", 2: "<H", 4: "<I"}[size], value) + data[place + size :]


def attack_wheel(chance: random.Random, folder: Path) -> str:
    """Built as one member of a layer, or refused; what is built is a tar whose paths stay where Python packages belong."""
    wheel = _write_odd_wheel(folder / "wheel", chance)
    known = set(folder.parent.iterdir())
    member = build_member(
        wheel, package="demo", version="1.0", interpreter=make_host_interpreter(), tree=MemoryTree(USUAL), codec=Codec(), compiler=None,
        cache=folder / "cache", home="/home/jovyan",
    )  # fmt: skip
    _is_inside(folder, known)
    for fact in member.files:
        parts = fact.path.encode("utf-8", "surrogateescape").split(b"/")
        require(
            fact.path.startswith(("usr/local/", "/usr/local/")) and b".." not in parts,
            f"a member's path leads elsewhere: {fact.path[:200]!r}",
        )
        require(max(map(len, parts)) <= 255 and len(fact.path) < 4096, f"no node can unpack {fact.path[:200]!r}")
    return "built"


# --- (f) bases ----------------------------------------------------------------------------------------------------------


def _draw_entry(chance: random.Random) -> tuple[tarfile.TarInfo, bytes]:
    folders = (
        "usr",
        "usr/bin",
        "usr/lib",
        "usr/lib/python3",
        "etc",
        "usr/lib/python3/dist-packages",
        "usr/local/lib",
        "opt",
        "..",
        "var/lib/dpkg",
    )
    names = (
        "python3",
        "python3.11",
        "passwd",
        "os-release",
        "x-1.dist-info",
        "METADATA",
        "status",
        ".wh.x",
        ".wh..wh..opq",
        "a",
        *TEXTS[:20],
    )
    name = f"{chance.choice(folders)}/{chance.choice(names)}".replace("\0", "").replace("\ud800", "?")[:4000]
    kind = chance.randrange(8)
    target = chance.choice(["/", "..", "../../../../etc", "a", "/usr/bin/python3", name, "/proc/self/root", "x" * 5000])
    if kind == 0:
        return images.entry(name)
    if kind == 1:
        return images.entry(name, link=target)
    if kind == 2:
        return images.entry(name, hard=target)
    if kind == 3:
        return images.entry(name, kind=chance.choice([tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE]))
    if kind == 4:
        return images.entry(
            name,
            b"x",
            pax={"path": chance.choice(TEXTS).replace("\ud800", "?").replace("\0", "") or "p", "size": chance.choice(["1", "1"])},
        )
    return images.entry(
        name, chance.choice([b"", b"\x7fELF" + chance.randbytes(60), b"root:x:0:0::/:/bin/sh\n", chance.randbytes(3000), bytes(3_000_000)])
    )


def attack_base(chance: random.Random, folder: Path) -> str:
    """An image of strange layers: read as a base, or refused."""
    store = LayoutStore(folder / "layout")
    layers = [images.make_layer(_draw_entry(chance) for _ in range(chance.randint(0, 12))) for _ in range(chance.randint(1, 3))]
    if chance.random() < 0.3:
        layers[0] = _mutate_bytes(layers[0], chance)
    config: dict[str, Any] = {
        "User": chance.choice(["", "1000", "jovyan", "0:0", *TEXTS[:20]]).replace("\ud800", "?"),
        "Env": ["PATH=/usr/bin"],
    }
    if chance.random() < 0.3:
        config = json.loads(json.dumps(_mutate_value(config, chance))) if chance.random() < 0.9 else {"Env": [1]}
    digests = ["sha256:" + "0" * 64] * len(layers) if chance.random() < 0.1 else None
    known = set(folder.parent.iterdir())
    raw = images.push_image(
        store, layers, config if isinstance(config, dict) else {}, compression=chance.choice(["zstd", "gzip", "none"]), diff_ids=digests
    )
    images.read_image(store, raw, folder / "cache")
    _is_inside(folder, known)
    return "read"


def attack_manifest(chance: random.Random, _folder: Path) -> str:
    """A manifest and a config with places changed: understood, or refused."""
    one = {"mediaType": "application/vnd.oci.image.layer.v1.tar+zstd", "digest": "sha256:" + "a" * 64, "size": 3}
    manifest = {
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": [one, one], "annotations": {"a": "b"},
        "config": {**one, "mediaType": "application/vnd.oci.image.config.v1+json"}, "subject": one,
    }  # fmt: skip
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{**one, "platform": {"os": "linux", "architecture": "amd64"}}],
    }
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["A=b"], "Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created_by": "x"}],
    }
    kind = chance.randrange(3)
    if kind == 2:
        ImageConfig.parse(_mutate_document(config, chance))
    else:
        document: dict[str, Any] = (manifest, index)[kind]
        served = chance.choice(["", "text/plain", str(manifest["mediaType"]), str(index["mediaType"])])
        check_manifest(_mutate_document(document, chance), served).parse()
    return "read"


# --- (g) indexes --------------------------------------------------------------------------------------------------------


class _LyingIndex(FakeIndex):
    """Changes the page, and what it says of the file."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance.choice(["json", "html"]))
        self.chance = chance

    def page(self, name: str) -> tuple[str, bytes]:
        kind, data = super().page(name)
        if self.form == "html" or self.chance.random() < 0.3:
            text = self.chance.choice(TEXTS).encode("utf-8", "replace")
            return kind, data.replace(self.chance.choice([b"../../files/", b"alpha-1.0-py3-none-any.whl", b"sha256", b"href"]), text, 1)
        return kind, _mutate_document(json.loads(data), self.chance)


def attack_index(chance: random.Random, folder: Path) -> str:
    """A page with places changed, bodies that are cut or other ones: files with the page's hash come, or nothing does."""
    index = _LyingIndex(chance)
    index.add("alpha", "1.0", ["beta>=1"])
    index.metadata, index.metadata_missing, index.ranges = chance.random() < 0.5, chance.random() < 0.3, chance.random() < 0.7
    index.cut = chance.choice([0, 0, 1, 9])
    index.refuse = chance.choice([[], [], [500], [404], [429, 503]])
    if chance.random() < 0.3:
        name = next(iter(index.bodies))
        index.bodies[name] = _mutate_bytes(index.bodies[name], chance)
    known = set(folder.parent.iterdir())
    with index.serve() as url, Upstream(make_index(url), folder / "cache", pause=lambda _: None) as upstream:
        page = upstream.read_project("alpha")
        for file in page.files[:3] if page is not None else ():
            upstream.read_metadata(file)
            upstream.read_installed_size(file)
            if file.sha256:
                target = folder / "file.whl"
                upstream.download(file, target)
                require(hashlib.sha256(target.read_bytes()).hexdigest() == file.sha256, "a file with another hash was kept")
    _is_inside(folder, known)
    return "read"


# --- (h) files of teams -------------------------------------------------------------------------------------------------

_TEAM = b"""base = "starter"
display-name = "A team"
owners = ["a@example.com"]
slim = ["tests"]
[budget]
compressed = "150 MiB"
packages = { pandas = "10 MB" }
[env]
A = "b"
[[index]]
name = "corp"
url = "https://pypi.corp.example/simple/"
names = ["corp-*"]
[resolve]
override = ["numpy>=2"]
[files]
"a/b.py" = "alpha"
"""
_REQUIREMENTS = (
    b"pandas==2.2.*\n-r more.in\nnumpy[x]>=1 ; python_version < '4' # c\nq @ https://h.example/q-1.0-py3-none-any.whl#sha256="
    + b"a" * 64
    + b"\n"
)


def attack_team(chance: random.Random, folder: Path) -> str:
    """team.toml, requirements.in and a lock with bytes changed: read, or refused in one printable line."""
    team = folder / "images" / "alpha"
    team.mkdir(parents=True)
    text, asked = _TEAM, _REQUIREMENTS
    for _ in range(chance.randint(1, 3)):
        text, asked = _mutate_bytes(text, chance), _mutate_bytes(asked, chance)
    (team / "team.toml").write_bytes(_TEAM if chance.random() < 0.3 else text)
    (team / "requirements.in").write_bytes(asked)
    (team / "more.in").write_bytes(b"six\n")
    kind = chance.randrange(3)
    if kind == 0:
        decode_lock(_mutate_bytes(_LOCK, chance), "a lock")
    elif kind == 1:
        read_requirements(team / "requirements.in", folder)
    else:
        load_team(folder / "images", "alpha")
    return "read"


_LOCK = (Path(__file__).parents[2] / "imagebuild" / "starter" / "pylock.toml").read_bytes()[:6000]
_FORMS: dict[str, Callable[..., Any]] = {
    "kubeflow": render_spawner_form, "workspacekind": render_workspace_kinds, "kubespawner": render_profiles,
    "imagestream": render_image_streams,
}  # fmt: skip
_RENDERED: dict[str, bytes] = {}


def attack_form(chance: random.Random, _folder: Path) -> str:
    """A file to merge into with bytes changed: merged, or refused in one printable line."""
    name = chance.choice(list(_FORMS))
    if name not in _RENDERED:
        _RENDERED[name] = _FORMS[name](HISTORY, pools=[A100, MIG]).text.encode()
    data = _RENDERED[name]
    if chance.random() < 0.3:
        data = data.replace(b"\n", b"\r\n")
    for _ in range(chance.randint(1, 3)):
        data = _mutate_bytes(data, chance)
    _FORMS[name](HISTORY, pools=[A100], merge=EditedFile(data.decode("utf-8", "replace"), "form.yaml"))
    return "merged"


INPUTS: dict[str, Callable[[random.Random, Path], str]] = {
    "wheels": attack_wheel,
    "bases": attack_base,
    "manifests": attack_manifest,
    "indexes": attack_index,
    "team files": attack_team,
    "merge files": attack_form,
}


def check_refusal(error: ImagebuildError) -> None:
    """A refusal is lines that print, with a hint."""
    for line in (error.message, error.hint, *error.details):
        require(all(letter.isprintable() for letter in line), f"a refusal with characters that do not print: {line[:200]!r}")
    require(error.message and error.hint, f"a refusal without a hint: {error.message[:200]!r}")
