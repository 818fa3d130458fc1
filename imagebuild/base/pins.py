"""``images/catalogue.toml``: the bases a team may name, what each is pinned to, and the mirrors they are read through."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.files import explain_os_error, sweep_writes, write_atomic
from imagebuild.oci.model import Digest, ImageConfig, Index, RawManifest, Reference
from imagebuild.oci.store import Store
from imagebuild.servers import Kind
from imagebuild.text import suggest
from imagebuild.toml import decode_toml

BUILT_REPOSITORIES = "bases"  # where `imagebuild base build NAME` keeps what it makes, in the layout folder
_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_HOST_OR_PREFIX = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*")


class _Row(msgspec.Struct, frozen=True):
    """One ``[base.NAME]`` table as written."""

    reference: str = ""
    tag: str = ""
    digest: str = ""
    kind: Kind = "jupyter"
    description: str = ""
    build: Literal["starter", ""] = ""


class _File(msgspec.Struct, frozen=True):
    base: dict[str, _Row] = {}
    mirrors: dict[str, str] = {}


class CatalogueBase(msgspec.Struct, frozen=True):
    """One base. ``reference`` has an empty registry when the base is built here and kept in the layout folder."""

    name: str
    reference: Reference  # registry/repository:tag, as the catalogue writes it; never with a digest
    kind: Kind
    description: str = ""
    digest: Digest | None = None  # of the index or manifest the tag named when it was pinned
    build: str = ""  # "starter": made by `imagebuild base build`, not pulled

    @property
    def annotation_name(self) -> str:
        """What ``org.opencontainers.image.base.name`` says: the catalogue's own name, whatever mirror served it."""
        if self.build:
            return f"layout:{self.reference.repository}:{self.reference.tag}"
        return str(self.reference)

    def located(self, mirrors: Mapping[str, str]) -> Reference:
        """Where the base is read from: ``reference`` with the longest matching mirror put in, and the pin."""
        located = msgspec.structs.replace(self.reference, digest=self.digest)
        if self.build:
            return located
        matching = [source for source in mirrors if f"{self.reference.name}/".startswith(f"{source}/")]
        if not matching:
            return located
        source = max(matching, key=len)
        registry, _, repository = (mirrors[source] + self.reference.name[len(source) :]).partition("/")
        return msgspec.structs.replace(located, registry=registry, repository=repository)


class Catalogue(msgspec.Struct, frozen=True):
    """All bases, by name, in the file's order."""

    path: Path
    bases: dict[str, CatalogueBase]
    mirrors: dict[str, str]

    def get(self, name: str) -> CatalogueBase:
        """The base of that name; :class:`UsageError` suggests the one that was meant."""
        found = self.bases.get(name)
        if found is None:
            raise UsageError(f"there is no base {name!r} in {self.path}", suggest(name, list(self.bases)))
        return found


def _read_base(path: Path, name: str, row: _Row) -> CatalogueBase:
    where = f"{path}: base.{name}"
    if not _NAME.fullmatch(name):
        raise ConfigurationError(f"{where}: not a base name", "use lower-case letters, digits, and . _ - between them")
    if bool(row.reference) is bool(row.build):
        raise ConfigurationError(f"{where} needs either `reference` or `build`", 'write reference = "registry/repository"')
    if row.build:
        if row.digest:
            raise ConfigurationError(f"{where}: a base that is built here has no digest to pin", "remove `digest`")
        reference = Reference("", f"{BUILT_REPOSITORIES}/{name}", row.tag or "latest")
        return CatalogueBase(name, reference, row.kind, row.description, None, row.build)
    parsed = Reference.parse(row.reference)
    if parsed.tag or parsed.digest:
        raise ConfigurationError(f"{where}: `reference` is registry/repository only", "put the tag in `tag` and the digest in `digest`")
    if not row.tag and not row.digest:
        raise ConfigurationError(f"{where} has neither `tag` nor `digest`", "write the tag; then `imagebuild base pin` finds the digest")
    if row.tag and Reference.parse(f"{row.reference}:{row.tag}").tag != row.tag:
        raise ConfigurationError(f"{where}: not a tag: {row.tag!r}", "letters, digits and . _ - only")
    if row.digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", row.digest):
        raise ConfigurationError(f"{where}: not a digest: {row.digest!r}", "expected sha256: and 64 hex digits")
    digest = Digest(row.digest) if row.digest else None
    return CatalogueBase(name, msgspec.structs.replace(parsed, tag=row.tag), row.kind, row.description, digest)


def load_catalogue(path: Path) -> Catalogue:
    """Read and check the catalogue. A wrong key, name, reference, digest or mirror is a :class:`ConfigurationError`."""
    content = decode_toml(path, _File)
    for source, target in content.mirrors.items():
        for text in (source, target):
            if not _HOST_OR_PREFIX.fullmatch(text):
                raise ConfigurationError(
                    f"{path}: mirrors: not a registry host or host/prefix: {text!r}", 'write "ghcr.io" = "registry.corp.example/ghcr"'
                )
    return Catalogue(path, {name: _read_base(path, name, row) for name, row in content.base.items()}, dict(content.mirrors))


def require_pinned(base: CatalogueBase) -> Digest | None:
    """The pin, or None for a base built here (its tag in the layout folder says what it is). Unpinned is refused."""
    if base.digest is None and not base.build:
        raise ConfigurationError(
            f"the base {base.name!r} is not pinned: {base.reference} may be another image tomorrow", f"run: imagebuild base pin {base.name}"
        )
    return base.digest


def resolve_pin(store: Store, reference: Reference, tag: str) -> Digest:
    """The digest of the index or manifest that ``tag`` names now. ``store`` is where ``reference`` lives.

    The digest is that of bytes which were read, and which are an index or an image for some platform (IntegrityError or
    ConfigurationError otherwise): what a HEAD says of itself is not enough to write down.
    """
    what = f"{reference.repository}:{tag}"
    found = store.head_manifest(reference.repository, tag)
    raw = store.get_manifest(reference.repository, tag) if found is not None else None
    if raw is None:
        raise ConfigurationError(
            f"{store.label} has no {what}", "correct reference and tag in the catalogue, or the mirror it goes through"
        )
    if not _list_platforms(store, reference.repository, raw):
        raise ConfigurationError(f"{store.label}: {what} has an image for no platform", "name the tag of an image")
    return raw.digest


def _list_platforms(store: Store, repository: str, raw: RawManifest) -> list[str]:
    """The platforms that an index offers, or the one that an image's config names."""
    parsed = raw.parse()
    if isinstance(parsed, Index):
        offered = [entry.platform or {} for entry in parsed.manifests]
        return [f"{item['os']}/{item.get('architecture', '')}" for item in offered if item.get("os") not in (None, "", "unknown")]
    if not parsed.layers:
        return []  # an artifact: its config is not an image's
    config = ImageConfig.parse(store.read_blob(repository, parsed.config))
    return [str(config.platform)] if config.os and config.architecture else []


def pin_base(path: Path, name: str, digest: Digest) -> None:
    """Write ``digest`` into ``[base.NAME]``; all else in the file, comments too, stays as it is."""
    import tomlkit

    base = load_catalogue(path).get(name)
    if base.build:
        raise ConfigurationError(f"the base {name!r} is built here and has no digest to pin", f"run: imagebuild base build {name}")
    document: Any = tomlkit.parse(path.read_bytes().decode("utf-8"))
    table = document["base"][name]
    if "digest" in table:
        table["digest"] = str(digest)
    else:
        # Right after the line it belongs to; a key appended to the table would land below the comments that follow it.
        after = "tag" if "tag" in table else "reference"
        container = table.value
        container._insert_after(after, "digest", tomlkit.string(str(digest)))
    text = tomlkit.dumps(document)
    sweep_writes(path.parent)
    try:
        write_atomic(path, text.encode(), mode=path.stat().st_mode & 0o777)
    except OSError as error:
        raise explain_os_error(error, f"pinning {name} in") from error
