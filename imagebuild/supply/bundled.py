"""What wheels carry of others' code, by the SBOMs in their ``.dist-info/sboms`` (PEP 770): CycloneDX or SPDX, as JSON.

cryptography says there which OpenSSL it links, pydantic-core which crates, and auditwheel which libraries it copied in.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator

import msgspec

from imagebuild.base.model import Tree
from imagebuild.decoding import make_decoder

SBOM_LIMIT = 16 << 20  # bytes of one
_COUNT_LIMIT = 20_000  # components of one


class BundledComponent(msgspec.Struct, frozen=True, order=True):
    """One component that a package brings inside; ``purl`` is its package URL without qualifiers, "" where the SBOM gives none."""

    name: str
    version: str
    purl: str = ""


class Bundled(msgspec.Struct, frozen=True):
    """All of a package's."""

    components: tuple[BundledComponent, ...] = ()
    unread: tuple[str, ...] = ()  # names of SBOMs that are neither


class _Component(msgspec.Struct):
    name: str
    version: str = ""
    purl: str = ""


class _Reference(msgspec.Struct, rename="camel"):
    reference_type: str = ""
    reference_locator: str = ""


class _Package(msgspec.Struct, rename="camel"):
    name: str
    version_info: str = ""
    external_refs: list[_Reference] = []


class _Document(msgspec.Struct, rename="camel"):
    bom_format: str = ""
    spdx_version: str = ""
    components: list[_Component] = []
    packages: list[_Package] = []


_DOCUMENT = make_decoder(_Document)


def read_bundled(documents: Iterable[tuple[str, bytes]], own: str) -> Bundled:
    """Of (name, text) pairs; the package itself (``own``, normalised), and crates of its own source tree, are left out."""
    found: set[BundledComponent] = set()
    unread: list[str] = []
    for name, data in documents:
        try:
            document = _DOCUMENT.decode(data)
        except msgspec.MsgspecError:
            document = _Document()
        if (document.bom_format != "CycloneDX" and not document.spdx_version) or len(data) > SBOM_LIMIT:
            unread.append(name)
            continue
        parts = [*document.components, *(_read_spdx(item) for item in document.packages)]
        found |= set(_clean(parts[:_COUNT_LIMIT], own))
    return Bundled(tuple(sorted(found)), tuple(unread))


def _read_spdx(item: _Package) -> _Component:
    purl = next((ref.reference_locator for ref in item.external_refs if ref.reference_type == "purl"), "")
    return _Component(item.name, item.version_info, purl)


def _clean(parts: Iterable[_Component], own: str) -> Iterator[BundledComponent]:
    from packageurl import PackageURL
    from packaging.utils import canonicalize_name

    for item in parts:
        try:
            parsed = PackageURL.from_string(item.purl) if item.purl else None
        except ValueError:
            parsed = None
        if parsed is None:
            if canonicalize_name(item.name) != own:
                yield BundledComponent(item.name, item.version)
        elif not (parsed.type == "pypi" and canonicalize_name(parsed.name) == own) and "=file:" not in item.purl:
            version = parsed.version or item.version
            yield BundledComponent(item.name, version, str(PackageURL(parsed.type, parsed.namespace, parsed.name, version or None)))


def is_bundled_sbom(path: str) -> bool:
    """Whether the path (of a wheel, or in an image) is one of these SBOMs."""
    folder, _, name = path.rpartition("/")
    return folder.endswith(".dist-info/sboms") and name.endswith(".json")


def read_wheel_bundled(archive: zipfile.ZipFile, own: str) -> Bundled:
    """Of an open wheel that was verified before."""
    wanted = [item for item in archive.infolist() if item.filename.count("/") == 2 and is_bundled_sbom(item.filename)]
    return read_bundled(((item.filename.rpartition("/")[2], _read_member(archive, item)) for item in wanted), own)


def _read_member(archive: zipfile.ZipFile, item: zipfile.ZipInfo) -> bytes:
    with archive.open(item) as stream:
        return stream.read(SBOM_LIMIT + 1)


def read_tree_bundled(tree: Tree, folder: str, own: str) -> Bundled:
    """Of a distribution of the base, whose ``.dist-info`` is ``folder``."""
    paths = [item.path for item in tree.under(f"{folder}/sboms") if is_bundled_sbom(item.path)]
    return read_bundled(((path.rpartition("/")[2], tree.read_text(path) or b"") for path in paths), own)
