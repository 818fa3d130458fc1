"""What the layer tests stand on: a base's tree in memory, this machine's Python as a base's, and hand-made wheels."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import posixpath
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from packaging.tags import sys_tags

from imagebuild.base.model import Base, Entry, Interpreter, Inventory, Tree, User, compute_fingerprint
from imagebuild.lock.file.model import LockedPackage
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, Digest, ImageConfig, Manifest, Platform

PURELIB = "/usr/local/lib/python3.11/dist-packages"
NO_DIGEST = Digest("sha256:" + "0" * 64)


class MemoryTree:
    """A :class:`Tree` over a dictionary of entries."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = {entry.path: entry for entry in entries}

    def get(self, path: str) -> Entry | None:
        return self._entries.get(path)

    def resolve(self, path: str) -> str:
        done = "/"
        parts = [part for part in path.split("/") if part]
        hops = 0
        while parts:
            here = posixpath.join(done, parts.pop(0))
            entry = self._entries.get(here)
            if entry is not None and entry.type == "symlink":
                hops += 1
                assert hops < 40
                target = posixpath.normpath(posixpath.join(done, entry.link))
                parts = [part for part in target.split("/") if part] + parts
                done = "/"
            else:
                done = here
        return done

    def read_text(self, path: str) -> bytes | None:  # noqa: ARG002
        return None

    def under(self, folder: str) -> Iterator[Entry]:
        return iter(sorted((e for p, e in self._entries.items() if p.startswith(folder + "/")), key=lambda entry: entry.path))


def folder(path: str, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Entry:
    """A folder of the base."""
    return Entry(path, "dir", mode, uid, gid)


def file(path: str, content: bytes = b"", mode: int = 0o644) -> Entry:
    """A file of the base, with its hash."""
    return Entry(path, "file", mode, 0, 0, len(content), sha256=hashlib.sha256(content).hexdigest())


def link(path: str, target: str) -> Entry:
    """A symbolic link of the base."""
    return Entry(path, "symlink", 0o777, 0, 0, link=target)


USUAL = (
    folder("/usr"),
    folder("/usr/local"),
    folder("/usr/local/bin"),
    folder("/usr/local/lib"),
    folder("/usr/local/lib/python3.11", 0o2775, 0, 50),
    folder(PURELIB, 0o2775, 0, 50),
    folder("/etc"),
    folder("/home"),
    folder("/home/jovyan", 0o755, 1000, 100),
    folder("/tmp", 0o1777),
)


def make_interpreter(prefix: str = "/usr/local", **changes: object) -> Interpreter:
    """This machine's Python, as if it lay in an image under ``prefix``."""
    short = f"{sys.version_info[0]}.{sys.version_info[1]}"
    library = PURELIB if prefix == "/usr/local" else f"{prefix}/lib/python{short}/site-packages"
    values: dict[str, object] = {
        "path": f"{prefix}/bin/python3",
        "executable": f"{prefix}/bin/python{short}",
        "version": sys.version.split()[0],
        "implementation": sys.implementation.name,
        "cache_tag": sys.implementation.cache_tag,
        "magic": importlib.util.MAGIC_NUMBER.hex(),
        "environment": "system",
        "prefix": prefix,
        "base_prefix": prefix,
        "paths": {
            "purelib": library,
            "platlib": library,
            "scripts": f"{prefix}/bin",
            "data": prefix,
            "include": f"{prefix}/include/python{short}",
        },
        "markers": {},
        "tags": tuple(str(tag) for tag in sys_tags()),
        "libc": "glibc 2.36",
    }
    return Interpreter(**{**values, **changes})  # type: ignore[arg-type]


class HostRuntime:
    """A :class:`imagebuild.base.model.Runtime` around this machine's Python, with a scrubbed environment."""

    def __init__(self, hash_seed: str = "0") -> None:
        self._environment = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": hash_seed, "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}

    def run(
        self, code: str, *arguments: str, input: bytes = b"", path: Sequence[Path] = (), network: bool = False,
        environment: Mapping[str, str] | None = None, timeout: float = 300,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        if path or network or environment:
            raise NotImplementedError
        return subprocess.run(
            self._command(code, arguments), input=input, capture_output=True, env=self._environment, cwd="/", timeout=timeout, check=False
        )

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command(code, arguments), stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, cwd="/")

    def _command(self, code: str, arguments: Sequence[str]) -> list[str]:
        return [sys.executable, "-s", "-S", "-B", "-c", code, *arguments]


class FakeChild(HostRuntime):
    """A runtime whose child runs other code than it is asked to."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        assert code
        return super().start(self._code, *arguments)


def make_base(
    tree: Tree | None = None,
    interpreter: Interpreter | None = None,
    *,
    runtime: HostRuntime | None = None,
    home: str = "/home/jovyan",
    digest: Digest = NO_DIGEST,
) -> Base:
    """A base around the parts a layer needs."""
    interpreter = interpreter or make_interpreter()
    return Base(
        name="test",
        kind="jupyter",
        reference="layout:test:1",
        registry="",
        repository="test",
        pinned=NO_DIGEST,
        manifest=Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, NO_DIGEST, 0), (), {}),
        config=ImageConfig(),
        config_data=b"{}",
        inventory=Inventory(
            format=1,
            digest=digest,
            platform=Platform(),
            fingerprint=compute_fingerprint(interpreter, ()),
            user=User("1000", 1000, 100, "jovyan", home),
            path=("/usr/local/bin", "/usr/bin"),
            interpreter=interpreter,
            distributions=(),
            layers=(),
        ),
        tree=tree or MemoryTree(USUAL),
        runtime=runtime,
    )


def render_wheel_record(files: Mapping[str, bytes], record: str) -> bytes:
    """RECORD for ``files`` as wheel builders write it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((record, "", ""))
    return text.getvalue().encode()


def make_wheel(
    target: Path,
    name: str = "demo",
    version: str = "1.0",
    files: Mapping[str, bytes] | None = None,
    *,
    modes: Mapping[str, int] | None = None,
    tag: str = "py3-none-any",
    entry_points: str = "",
    record: bytes | None = None,
    metadata: str | None = None,
    info: str | None = None,
    extra: Sequence[tuple[zipfile.ZipInfo | str, bytes]] = (),
    purelib: bool = True,
    stored: bool = False,
) -> Path:
    """A wheel in folder ``target``; ``extra`` entries go into the zip as they are, behind the others, outside RECORD.

    ``stored``: not compressed, so that its bytes are the same whatever library this Python compresses with.
    """
    info = info or f"{name}-{version}.dist-info"
    content = dict(files or {f"{name}/__init__.py": b"x = 1\n"})
    content[f"{info}/METADATA"] = (metadata or f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n").encode()
    content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: {str(purelib).lower()}\nTag: {tag}\n".encode()
    if entry_points:
        content[f"{info}/entry_points.txt"] = entry_points.encode()
    content[f"{info}/RECORD"] = render_wheel_record(content, f"{info}/RECORD") if record is None else record
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in content.items():
            header = zipfile.ZipInfo(entry)
            header.external_attr = (modes or {}).get(entry, 0o100644) << 16
            header.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.writestr(header, data)
        for item, data in extra:
            archive.writestr(item, data)
    return path


def lock_wheel(path: Path) -> LockedPackage:
    """What a lock says of a wheel."""
    name, version = path.name.split("-")[:2]
    data = path.read_bytes()
    normal = name.lower().replace("_", "-").replace(".", "-")
    return LockedPackage(normal, version, path.name, hashlib.sha256(data).hexdigest(), len(data), 0, "local")
