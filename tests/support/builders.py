"""Values for tests: interpreters, bases, locks and wheels, each made by one function."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import io
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.tags import sys_tags

from imagebuild.base.model import INVENTORY_FORMAT, Base, Distribution, Interpreter, Inventory, Runtime, Tree, User, compute_fingerprint
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, ContainerConfig, Descriptor, Digest, ImageConfig, Manifest, Platform
from tests.support.runtimes import HostRuntime
from tests.support.trees import SITE, USUAL, MemoryTree

NO_DIGEST = Digest("sha256:" + "0" * 64)


# --- interpreters -------------------------------------------------------------------------------------------------------


def make_interpreter(version: str = "3.11.2") -> Interpreter:
    return Interpreter(
        path="/usr/bin/python3",
        executable="/usr/bin/python3.11",
        version=version,
        implementation="cpython",
        cache_tag="cpython-311",
        magic="a70d0d0a",
        environment="system",
        prefix="/usr",
        base_prefix="/usr",
        paths={"purelib": SITE, "platlib": SITE, "scripts": "/usr/local/bin", "data": "/usr/local", "include": "/usr/include/python3.11"},
        markers={"python_version": "3.11", "python_full_version": version, "platform_release": "6.1"},
        tags=("cp311-cp311-manylinux_2_36_x86_64", "py3-none-any"),
        libc="glibc 2.36",
    )


def make_host_interpreter(prefix: str = "/usr/local", **changes: object) -> Interpreter:
    """This machine's Python, as if it lay in an image under ``prefix``."""
    short = f"{sys.version_info[0]}.{sys.version_info[1]}"
    library = SITE if prefix == "/usr/local" else f"{prefix}/lib/python{short}/site-packages"
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


# --- bases --------------------------------------------------------------------------------------------------------------


def _compose_base(
    interpreter: Interpreter, distributions: Sequence[Distribution], *, user: User, digest: Digest, tree: Tree, runtime: Runtime | None,
    name: str, reference: str, registry: str, repository: str, pinned: Digest, config: ImageConfig,
) -> Base:  # fmt: skip
    inventory = Inventory(
        format=INVENTORY_FORMAT, digest=str(digest), platform=Platform(),
        fingerprint=str(compute_fingerprint(interpreter, distributions)), user=user,
        path=("/usr/local/bin", "/usr/bin"), interpreter=interpreter, distributions=tuple(distributions), layers=(),
    )  # fmt: skip
    return Base(
        name=name, kind="jupyter", reference=reference, registry=registry, repository=repository, pinned=pinned,
        manifest=Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, digest, 2), (), {}), config=config, config_data=b"{}",
        inventory=inventory, tree=tree, runtime=runtime,
    )  # fmt: skip


def make_base(*distributions: Distribution, user: str = "1000", env: tuple[str, ...] = (), registry: str = "reg.example") -> Base:
    """A base that is the same everywhere, without files; its Python 3.11.2 cannot run."""
    return _compose_base(
        make_interpreter(), distributions, user=User(user, 1000, 0, "jovyan", "/home/jovyan"), digest=Digest.of(b"base"), tree=MemoryTree(),
        runtime=None, name="scipy", reference="ghcr.example/kubeflow/jupyter-scipy:v1", registry=registry,
        repository="kubeflow/jupyter-scipy", pinned=Digest.of(b"index"), config=ImageConfig(config=ContainerConfig(user=user, env=env)),
    )  # fmt: skip


def make_host_base(
    tree: Tree | None = None,
    interpreter: Interpreter | None = None,
    *,
    runtime: Runtime | None = None,
    home: str = "/home/jovyan",
    digest: Digest = NO_DIGEST,
) -> Base:
    """A base with the usual folders and this machine's Python, which runs where there is a ``runtime``: to make layers on."""
    return _compose_base(
        interpreter or make_host_interpreter(), (), user=User("1000", 1000, 100, "jovyan", home), digest=digest,
        tree=tree or MemoryTree(USUAL), runtime=runtime, name="test", reference="layout:test:1", registry="", repository="test",
        pinned=NO_DIGEST, config=ImageConfig(),
    )  # fmt: skip


def make_lock_base(distributions: Sequence[Distribution] = (), *, executable: str = sys.executable, name: str = "plain") -> Base:
    """A base without files, with a Python of this machine that runs, and these distributions: to lock on."""
    runtime = HostRuntime(executable)
    version = runtime.run("import platform; print(platform.python_version(), end='')").stdout.decode()
    markers = {**{key: str(value) for key, value in default_environment().items()}, "python_full_version": version}
    digest = Digest.of(b"base")
    return _compose_base(
        make_host_interpreter("/usr", version=version, markers=markers), distributions, user=User("1000", 1000, 1000), digest=digest,
        tree=MemoryTree(), runtime=runtime, name=name, reference=f"localhost/bases/{name}", registry="", repository=f"bases/{name}",
        pinned=digest, config=ImageConfig(),
    )  # fmt: skip


# --- locks --------------------------------------------------------------------------------------------------------------


def make_lock(base: Base, *packages: LockedPackage, cutoff: str = "2026-10-01T00:00:00Z") -> Lock:
    return Lock(
        team="cosml",
        base=base.name,
        base_digest=str(base.inventory.digest),
        base_fingerprint=base.inventory.fingerprint,
        python=base.interpreter.version,
        platform="linux/amd64",
        inputs={"images/cosml/requirements.in": "0" * 64},
        resolver="pip-tools 7.6.2",
        cutoff=cutoff,
        packages=packages,
    )


def make_package(name: str, version: str = "1.0", via: tuple[str, ...] = ("requirements.in",), index: str = "default") -> LockedPackage:
    return LockedPackage(
        name=name,
        version=version,
        filename=f"{name}-{version}-py3-none-any.whl",
        sha256=Digest.of(f"{name}{version}".encode()).hex,
        size=1000,
        installed_size=4000,
        index=index,
        via=via,
    )


def lock_wheel(path: Path) -> LockedPackage:
    """What a lock says of a wheel."""
    name, version = path.name.split("-")[:2]
    data = path.read_bytes()
    normal = name.lower().replace("_", "-").replace(".", "-")
    return LockedPackage(normal, version, path.name, hashlib.sha256(data).hexdigest(), len(data), 0, "local")


# --- wheels -------------------------------------------------------------------------------------------------------------


def render_record(files: Mapping[str, bytes], record: str) -> bytes:
    """RECORD for ``files`` as wheel builders write it; ``record``: its own name."""
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
    content[f"{info}/RECORD"] = render_record(content, f"{info}/RECORD") if record is None else record
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


def encode_wheel(
    name: str, version: str, requires: Sequence[str] = (), *, tag: str = "py3-none-any", extra: bytes = b"x = 1\n", python: str = ""
) -> tuple[str, bytes]:
    """(file name, bytes) of a wheel with one module, and what it says it needs."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Python: {python}"] if python else []
    extras = sorted({line.partition("extra == ")[2].strip("'\" ") for line in requires if "extra ==" in line})
    lines += [f"Provides-Extra: {item}" for item in extras] + [f"Requires-Dist: {line}" for line in requires]
    stem = name.replace("-", "_")
    with tempfile.TemporaryDirectory() as folder:
        path = make_wheel(Path(folder), stem, version, {f"{stem}/__init__.py": extra}, tag=tag, metadata="\n".join(lines) + "\n")
        return path.name, path.read_bytes()
