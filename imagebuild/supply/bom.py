"""The image's bill of materials: CycloneDX 1.6 (JSON), base and delta, by cyclonedx-python-lib.

Deterministic: the serial number is derived from the image's digest, the time is the lock's cutoff, everything is sorted by
the library. What distinguishes base from delta is the property ``dev.imagebuild:origin``.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from imagebuild import __version__
from imagebuild.addons.model import Addon, AddonLock, list_needs, name_addon
from imagebuild.base.model import OperatingSystem, SystemInventory, SystemPackage
from imagebuild.oci.model import Digest
from imagebuild.supply.addons import is_direct, make_addon_purl, read_addon_licence
from imagebuild.supply.bundled import BundledComponent
from imagebuild.supply.licences import Licence
from imagebuild.supply.packages import Package
from imagebuild.supply.systempackages import make_system_purl

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.dependency import Dependency
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from packageurl import PackageURL

REPAIRED = "dev.imagebuild:record-repaired"  # how many rows of the wheel's RECORD were wrong
ORIGIN = "dev.imagebuild:origin"  # base | added
ADDON = "dev.imagebuild:addon"  # r | vscode: what kind of add-on it is
INDEX = "dev.imagebuild:index"  # the package index, by name
WHEEL = "dev.imagebuild:wheel"  # the wheel's file name
DIRECT = "dev.imagebuild:direct"  # true: somebody asked for it by name
LOCATION = "dev.imagebuild:location"  # where a base's distribution, or an add-on, lies
INSTALLER = "dev.imagebuild:installer"


class BomSubject(msgspec.Struct, frozen=True):
    """The image and its base, as the BOM's own components."""

    repository: str
    tag: str
    digest: Digest
    created: str  # RFC 3339
    base_name: str
    base_digest: Digest  # of the platform's manifest
    platform: str
    base_pinned: str = ""  # what the base's name names: an index, or the same manifest


def render_bom(
    subject: BomSubject,
    packages: Sequence[Package],
    system: Mapping[str, str] | None = None,
    repaired: Mapping[str, int] | None = None,
    below: SystemInventory | None = None,
    addons: Sequence[AddonLock] = (),
) -> bytes:
    """The BOM's JSON. ``system``: Debian packages of the delta -> version; ``repaired``: package -> wrong rows of its wheel's RECORD;
    ``below``: what the base has besides Python's packages; ``addons``: their locks. Of a Debian package that both have, the delta's counts.
    """
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    below = below or SystemInventory()
    image = _describe_image(subject.repository, subject.tag, subject.digest, subject.platform)
    base = _describe_image(subject.base_name, "", subject.base_digest, subject.platform)
    if subject.base_pinned and subject.base_pinned != subject.base_digest:
        base.properties.add(Property(name="dev.imagebuild:pinned", value=subject.base_pinned))
    base.properties.add(Property(name=ORIGIN, value="base"))
    components = {item.name: _describe_package(item, (repaired or {}).get(item.name, 0)) for item in packages}
    added = [SystemPackage("deb", name.partition(":")[0], version) for name, version in sorted((system or {}).items())]
    system_components = [_describe_system(item, below.os, "added") for item in added]
    hidden = {item.name for item in added}
    base_components = [_describe_system(item, below.os, "base") for item in below.packages if item.kind != "deb" or item.name not in hidden]
    # The base needs what it has; the image needs the base and what was asked for by name.
    direct = [components[item.name] for item in packages if item.direct]
    brought = {name_addon(lock.kind, item.name): _describe_addon(lock, item) for lock in addons for item in lock.addons}
    direct += [brought[name_addon(lock.kind, item.name)] for lock in addons for item in lock.addons if is_direct(lock, item)]
    dependencies = [
        _point(image, [base, *direct, *system_components]),
        _point(base, [*(components[item.name] for item in packages if item.origin == "base"), *base_components]),
        *(_point(components[item.name], [components[name] for name in item.requires]) for item in packages),
        *(_point(brought[name], [brought[other] for other in needs]) for name, needs in list_needs(addons).items()),
        *(_point(item, []) for item in (*system_components, *base_components)),
    ]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, str(subject.digest)),
        metadata=BomMetaData(
            timestamp=datetime.fromisoformat(subject.created),
            component=image,
            tools=None,
        ),
        components=[base, *components.values(), *brought.values(), *system_components, *base_components],
        dependencies=dependencies,
    )
    bom.metadata.tools.components.add(Component(name="imagebuild", version=__version__, type=ComponentType.APPLICATION))
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string().encode()


def _point(item: Component, needed: Sequence[Component]) -> Dependency:
    from cyclonedx.model.dependency import Dependency

    return Dependency(item.bom_ref, [Dependency(other.bom_ref) for other in needed])


def _describe_image(name: str, tag: str, digest: Digest, platform: str) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    qualifiers = {"arch": platform.partition("/")[2].partition("/")[0]}
    where, slash, last = name.partition(":")[0].rpartition("/") if name.startswith("layout:") else name.rpartition("/")
    if name.startswith("layout:"):  # a base that was built here lies in no registry
        where, slash, last = "", "", name.removeprefix("layout:").rpartition(":")[0].rpartition("/")[2]
    last, _, own_tag = last.partition(":")
    if slash:
        qualifiers["repository_url"] = f"{where}/{last}"
    if tag or own_tag:
        qualifiers["tag"] = tag or own_tag
    purl = PackageURL("oci", None, last, str(digest), qualifiers)  # purl-spec, oci: the version is the digest
    return Component(
        name=name,
        version=tag or str(digest),
        type=ComponentType.CONTAINER,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.hex)],
    )


def _describe_package(item: Package, repaired: int) -> Component:
    from packageurl import PackageURL

    # Of the team's own packages no public index has the name: a scanner must not look them up there.
    purl = PackageURL("generic" if item.index == "local" else "pypi", None, item.name, item.version)
    notes = {
        ORIGIN: item.origin,
        INDEX: item.index,
        WHEEL: item.filename,
        DIRECT: "true" if item.direct else "",
        LOCATION: item.location,
        INSTALLER: item.installer,
        REPAIRED: str(repaired or ""),
    }
    return _make_library(purl, item.name, item.version, item.sha256, item.licence, notes, item.bundled.components)


def _describe_addon(lock: AddonLock, item: Addon) -> Component:
    purl = make_addon_purl(lock.kind, item)
    notes = {ORIGIN: "added", ADDON: lock.kind, INDEX: item.index, LOCATION: item.folder, DIRECT: "true" if is_direct(lock, item) else ""}
    return _make_library(purl, item.name, item.version, item.sha256, read_addon_licence(item), notes)


def _make_library(
    purl: PackageURL,
    name: str,
    version: str,
    sha256: str,
    licence: Licence,
    notes: Mapping[str, str],
    bundled: Sequence[BundledComponent] = (),
) -> Component:
    """``sha256`` is empty where there is no archive; empty ``notes`` are left out."""
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=str(purl),
        purl=purl,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=sha256)] if sha256 else [],
        licenses=_describe_licence(licence),
        properties=[Property(name=key, value=value) for key, value in notes.items() if value],
        components=[_describe_bundled(part, str(purl)) for part in bundled],
    )


def _describe_bundled(item: BundledComponent, owner: str) -> Component:
    """A part of ``owner``: two packages may bundle the same, so the reference has both."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    return Component(
        name=item.name,
        version=item.version or None,
        type=ComponentType.LIBRARY,
        purl=PackageURL.from_string(item.purl) if item.purl else None,
        bom_ref=f"{owner}#{item.purl or f'{item.name}@{item.version}'}",
    )


def _describe_system(item: SystemPackage, os: OperatingSystem, origin: str) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    purl = make_system_purl(item, os)
    return Component(
        name=item.name,
        version=item.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        properties=[Property(name=ORIGIN, value=origin)],
    )


def _describe_licence(licence: Licence) -> list[DisjunctiveLicense | LicenseExpression]:
    from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
    from cyclonedx.spdx import is_supported_id

    if licence.expression:
        if is_supported_id(licence.expression):
            return [DisjunctiveLicense(id=licence.expression)]
        return [LicenseExpression(licence.expression)]
    return [DisjunctiveLicense(name=licence.text)] if licence.text else []
