"""Values for unit tests: a base that exists only in memory."""

from __future__ import annotations

from collections.abc import Iterator

from imagebuild.base.model import (
    INVENTORY_FORMAT,
    Base,
    Distribution,
    Entry,
    Interpreter,
    Inventory,
    User,
    compute_fingerprint,
)
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, ContainerConfig, Descriptor, Digest, ImageConfig, Manifest, Platform

SITE = "/usr/local/lib/python3.11/dist-packages"


class MemoryTree:
    """A tree of the entries given, without links."""

    def __init__(self, *entries: Entry) -> None:
        self.entries = {entry.path: entry for entry in entries}
        self.texts: dict[str, bytes] = {}

    def get(self, path: str) -> Entry | None:
        return self.entries.get(path)

    def resolve(self, path: str) -> str:
        return path

    def read_text(self, path: str) -> bytes | None:
        return self.texts.get(path)

    def under(self, folder: str) -> Iterator[Entry]:
        return iter(sorted((item for path, item in self.entries.items() if path.startswith(folder + "/")), key=lambda item: item.path))


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


def make_base(*distributions: Distribution, user: str = "1000", env: tuple[str, ...] = (), registry: str = "reg.example") -> Base:
    interpreter = make_interpreter()
    digest = Digest.of(b"base")
    inventory = Inventory(
        format=INVENTORY_FORMAT,
        digest=str(digest),
        platform=Platform(),
        fingerprint=str(compute_fingerprint(interpreter, distributions)),
        user=User(user, 1000, 0, "jovyan", "/home/jovyan"),
        path=("/usr/local/bin", "/usr/bin"),
        interpreter=interpreter,
        distributions=distributions,
        layers=(),
    )
    return Base(
        name="scipy",
        kind="jupyter",
        reference="ghcr.example/kubeflow/jupyter-scipy:v1",
        registry=registry,
        repository="kubeflow/jupyter-scipy",
        pinned=Digest.of(b"index"),
        manifest=Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, digest, 2), (), {}),
        config=ImageConfig(config=ContainerConfig(user=user, env=env)),
        config_data=b"{}",
        inventory=inventory,
        tree=MemoryTree(),
        runtime=None,
    )


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
