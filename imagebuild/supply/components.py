"""The components of an image's SBOM: images, Python's packages, add-ons, packages of the system.

Apart from bom.py, which loads cyclonedx-python-lib only where an SBOM is made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.spdx import is_supported_id
from packageurl import PackageURL

from imagebuild.addons.model import Addon, AddonLock
from imagebuild.base.model import OperatingSystem, SystemPackage
from imagebuild.oci.model import Digest
from imagebuild.supply.addons import is_direct, make_addon_purl, read_addon_licence
from imagebuild.supply.bundled import BundledComponent
from imagebuild.supply.licences import Licence
from imagebuild.supply.packages import Package
from imagebuild.supply.properties import ADDON, DIRECT, INDEX, INSTALLER, LOCATION, ORIGIN, REPAIRED, WHEEL
from imagebuild.supply.systempackages import make_system_purl


def describe_image(name: str, tag: str, digest: Digest, platform: str) -> Component:
    """An image, or a base, by its name; ``platform`` as in ``linux/amd64``."""
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


def describe_package(item: Package, repaired: int) -> Component:
    """A distribution of Python; ``repaired``: wrong rows of its wheel's RECORD."""
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


def describe_addon(lock: AddonLock, item: Addon) -> Component:
    """An R package or a VS Code extension."""
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
    return Component(
        name=item.name,
        version=item.version or None,
        type=ComponentType.LIBRARY,
        purl=PackageURL.from_string(item.purl) if item.purl else None,
        bom_ref=f"{owner}#{item.purl or f'{item.name}@{item.version}'}",
    )


def describe_system(item: SystemPackage, os: OperatingSystem, origin: str) -> Component:
    """A package of Debian, Conda and so on; ``origin``: base or added."""
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
    if licence.expression:
        if is_supported_id(licence.expression):
            return [DisjunctiveLicense(id=licence.expression)]
        return [LicenseExpression(licence.expression)]
    return [DisjunctiveLicense(name=licence.text)] if licence.text else []
