"""System packages (dpkg's, rpm's, conda's, R's) in the words of others: package URLs, and OSV's ecosystems."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imagebuild.base.model import OperatingSystem, SystemPackage

if TYPE_CHECKING:
    from packageurl import PackageURL

_VENDORS = {"rhel": "redhat"}  # namespaces of purl's rpm type where they are not the ID of os-release


def make_system_purl(item: SystemPackage, os: OperatingSystem) -> PackageURL:
    """As purl-spec has the types deb, rpm, conda and cran; ``upstream`` is the source package, as scanners look for it."""
    from packageurl import PackageURL

    if item.kind == "conda":
        return PackageURL("conda", None, item.name, item.version, {"subdir": item.architecture} if item.architecture else {})
    if item.kind == "cran":
        return PackageURL("cran", None, item.name, item.version)
    qualifiers = {"arch": item.architecture, "distro": f"{os.id}-{os.version}" if os.id and os.version else ""}
    qualifiers["upstream"] = f"{item.source or item.name}@{item.source_version}" if item.source_version else item.source
    version = item.version
    if item.kind == "rpm":
        qualifiers["epoch"], _, version = item.version.rpartition(":")
    namespace = _VENDORS.get(os.id, os.id) or ("debian" if item.kind == "deb" else None)
    return PackageURL(item.kind, namespace, item.name, version, {key: value for key, value in qualifiers.items() if value})
