"""References, descriptors, manifests, configs: OCI image-spec v1.1 and Docker Image Manifest V2 schema 2, read-only.

A manifest's bytes are its identity. :class:`RawManifest` carries them as received; the parsed views beside it are for
reading. Digests are SHA-256 only (SHA-512 is legal in the spec and refused here with a clear line).
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from imagebuild.decoding import Converter, check_json_depth, make_decoder
from imagebuild.errors import ConfigurationError, IntegrityError

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER_TAR = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
# The grammar of github.com/distribution/reference.
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?")
_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


class Digest(str):
    """``sha256:`` and 64 lower-case hex digits; anything else raises :class:`IntegrityError`."""

    __slots__ = ()

    def __new__(cls, text: str) -> Digest:
        if not _DIGEST.fullmatch(text):
            raise IntegrityError(f"not a SHA-256 digest: {text[:100]!r}", "expected sha256: and 64 hex digits")
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """The digest of ``data``."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @property
    def hex(self) -> str:
        """The 64 hex digits alone."""
        return self[7:]


class Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    """Operating system and CPU as an image index names them (``linux/amd64``, ``linux/arm64/v8``)."""

    os: str = "linux"
    architecture: str = "amd64"
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os/architecture[/variant]``."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ConfigurationError(f"not a platform: {text!r}", "write it as linux/amd64 or linux/arm64")
        return cls(*parts)

    def matches(self, other: Platform) -> bool:
        """Whether an index entry for ``other`` serves this platform (arm64 and arm64/v8 are the same)."""
        if (self.os, self.architecture) != (other.os, other.architecture):
            return False
        usual = "v8" if self.architecture == "arm64" else ""
        return (self.variant or usual) == (other.variant or usual)


class Reference(msgspec.Struct, frozen=True):
    """``registry/repository[:tag][@digest]``. ``registry`` keeps its port; Docker Hub is spelled ``docker.io``."""

    registry: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.name}{tag}{digest}"

    @property
    def name(self) -> str:
        """``registry/repository`` without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Parse as docker does: ``ubuntu:22.04`` is ``docker.io/library/ubuntu:22.04``."""
        rest, at, digest = text.partition("@")
        slash = rest.rfind("/")
        colon = rest.rfind(":")
        tag = ""
        if colon > slash:
            rest, tag = rest[:colon], rest[colon + 1 :]
            if not _TAG.fullmatch(tag):
                raise ConfigurationError(f"not an image reference: {text!r}", f"{tag!r} is not a valid tag")
        first, separator, remainder = rest.partition("/")
        if separator and ("." in first or ":" in first or first == "localhost"):
            registry, repository = first, remainder
        else:
            registry, repository = "docker.io", rest
        if registry in ("index.docker.io", "registry-1.docker.io"):
            registry = "docker.io"
        if registry == "docker.io" and "/" not in repository:
            repository = f"library/{repository}"
        if not _DOMAIN.fullmatch(registry) or not _REPOSITORY.fullmatch(repository):
            raise ConfigurationError(
                f"not an image reference: {text!r}", "expected registry/repository[:tag][@sha256:...], repository in lower case"
            )
        if at and not _DIGEST.fullmatch(digest):
            raise ConfigurationError(f"not an image reference: {text!r}", "the part after @ must be sha256: and 64 hex digits")
        return cls(registry, repository, tag, Digest(digest) if at else None)


class Descriptor(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A typed, sized pointer to content (image-spec, descriptor.md). ``size`` is in bytes."""

    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] = {}
    platform: dict[str, Any] | None = None
    urls: tuple[str, ...] = ()
    artifact_type: str = ""

    @classmethod
    def of(cls, media_type: str, data: bytes, annotations: dict[str, str] | None = None) -> Descriptor:
        """What points to ``data``."""
        return cls(media_type, Digest.of(data), len(data), annotations or {})

    @property
    def id(self) -> Digest:
        """The digest as a checked type."""
        return Digest(self.digest)

    @property
    def compression(self) -> str:
        """``zstd``, ``gzip`` or ``none``, as the media type says."""
        for suffix, name in (("zstd", "zstd"), ("gzip", "gzip")):
            if self.media_type.endswith(suffix):
                return name
        return "none"


class _Document(msgspec.Struct, frozen=True, rename="camel"):
    """What indexes and manifests have between them; unknown fields are ignored, the raw bytes keep them."""

    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] = ()
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] | None = None
    subject: Descriptor | None = None
    artifact_type: str = ""


_DOCUMENT = make_decoder(_Document)


class RawManifest(msgspec.Struct, frozen=True):
    """A manifest or index, byte for byte, with the media type it was served under."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> Digest:
        """SHA-256 of the bytes as received."""
        return Digest.of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """A descriptor that points at these bytes."""
        return Descriptor(self.media_type, self.digest, len(self.data))

    @property
    def is_index(self) -> bool:
        """Whether this is an image index (manifest list)."""
        return self.media_type in INDEX_TYPES

    def parse(self) -> Manifest | Index:
        """The typed view; malformed JSON or a missing part raises :class:`IntegrityError`."""
        try:
            document = _DOCUMENT.decode(self.data)
        except msgspec.DecodeError as error:
            raise IntegrityError(f"malformed manifest {self.digest}: {error}", "push the image again") from None
        if document.schema_version != 2:
            raise IntegrityError(f"manifest {self.digest} has schemaVersion {document.schema_version}", "only schemaVersion 2 is supported")
        if self.is_index:
            return Index(document.manifests, document.annotations or {})
        if self.media_type not in MANIFEST_TYPES or document.config is None:
            raise IntegrityError(f"{self.digest} is not an image manifest ({self.media_type})", "name an image")
        return Manifest(
            self.media_type,
            document.config,
            document.layers,
            document.annotations or {},
            document.subject,
            document.artifact_type,
        )


class Manifest(msgspec.Struct, frozen=True):
    """An image manifest, parsed."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str]
    subject: Descriptor | None = None
    artifact_type: str = ""


class Index(msgspec.Struct, frozen=True):
    """An image index, parsed. Attestation entries (platform ``unknown/unknown``) are never images."""

    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str]

    def select(self, platform: Platform) -> Descriptor:
        """The entry for ``platform``; :class:`ConfigurationError` lists what there is."""
        offered: list[str] = []
        for entry in self.manifests:
            raw = entry.platform or {}
            found = Platform(str(raw.get("os", "")), str(raw.get("architecture", "")), str(raw.get("variant", "")))
            if found.os in ("", "unknown"):
                continue
            if platform.matches(found):
                return entry
            offered.append(str(found))
        raise ConfigurationError(f"the image has no {platform} manifest", f"it offers: {', '.join(offered) or 'no platform at all'}")


class ContainerConfig(msgspec.Struct, frozen=True):
    """The ``config`` object of an image config: what a runtime starts with. Field names are the spec's."""

    user: str = msgspec.field(default="", name="User")
    env: tuple[str, ...] | None = msgspec.field(default=None, name="Env")
    entrypoint: tuple[str, ...] | None = msgspec.field(default=None, name="Entrypoint")
    cmd: tuple[str, ...] | None = msgspec.field(default=None, name="Cmd")
    working_dir: str = msgspec.field(default="", name="WorkingDir")
    labels: dict[str, str] | None = msgspec.field(default=None, name="Labels")
    exposed_ports: dict[str, Any] | None = msgspec.field(default=None, name="ExposedPorts")

    @property
    def environment(self) -> dict[str, str]:
        """``Env`` as a mapping; a later entry of the same name wins."""
        return dict(item.partition("=")[::2] for item in self.env or ())


class RootFilesystem(msgspec.Struct, frozen=True):
    """``rootfs``: the digests of the uncompressed layers, bottom first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] = ()


class ImageConfig(msgspec.Struct, frozen=True):
    """An image config blob, parsed for reading. Derive new configs from the raw JSON, never from this view."""

    architecture: str = ""
    os: str = ""
    variant: str = ""
    created: str = ""
    config: ContainerConfig | None = None
    rootfs: RootFilesystem = RootFilesystem()
    history: tuple[dict[str, Any], ...] | None = None

    @property
    def container(self) -> ContainerConfig:
        """``config``, empty where the image has none."""
        return self.config or ContainerConfig()

    @property
    def platform(self) -> Platform:
        """What the config says it runs on."""
        return Platform(self.os or "linux", self.architecture or "amd64", self.variant)

    @staticmethod
    def parse(data: bytes) -> ImageConfig:
        """Malformed JSON raises :class:`IntegrityError`."""
        try:
            check_json_depth(data)
            return _CONFIG.decode(data)
        except (msgspec.DecodeError, ValueError) as error:
            raise IntegrityError(f"malformed image config {Digest.of(data)}: {error}", "push the image again") from None


_CONFIG = make_decoder(ImageConfig)
DESCRIPTOR = Converter(Descriptor)
