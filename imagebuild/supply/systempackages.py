"""System packages (dpkg's, rpm's, conda's, R's) in the words of others: package URLs, and OSV's ecosystems."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild.base.model import OperatingSystem, SystemInventory, SystemPackage
from imagebuild.supply.packages import Origin
from imagebuild.supply.versions import make_debian_key, make_r_key, make_rpm_key, make_semver_key

if TYPE_CHECKING:
    from packageurl import PackageURL

_VENDORS = {"rhel": "redhat"}  # namespaces of purl's rpm type where they are not the ID of os-release


class Ecosystem(msgspec.Struct, frozen=True):
    """Where OSV has system packages."""

    folder: str  # of its bucket
    release: str  # what ``affected.package.ecosystem`` begins with

    def holds(self, ecosystem: str) -> bool:
        """Whether a record of that ecosystem is about this release: Ubuntu's main archive, any repository of Red Hat's."""
        rest = ecosystem.removeprefix(self.release)
        return ecosystem.startswith(self.release) and (rest in ("", ":LTS") or rest.startswith("::"))

    @property
    def parse(self) -> Callable[[str], Any]:
        """Its versions as keys that sort."""
        return {"Red Hat": make_rpm_key, "CRAN": make_r_key, "crates.io": make_semver_key}.get(self.folder, make_debian_key)


CRATES = Ecosystem("crates.io", "crates.io")  # what wheels bundle of Rust


class SystemSubject(msgspec.Struct, frozen=True):
    """What a record may be about: a source package of Debian or Ubuntu, a binary one elsewhere."""

    name: str
    version: str
    origin: Origin


class ImageSystem(msgspec.Struct, frozen=True):
    """An image's system packages: those of its base, and those that apt added or replaced."""

    below: SystemInventory = SystemInventory()
    added: tuple[SystemPackage, ...] = ()

    def list_subjects(self) -> dict[Ecosystem, tuple[SystemSubject, ...]]:
        """What can be looked up, by ecosystem; each source package once."""
        hidden = {(item.kind, item.name) for item in self.added}
        packages = [("base", item) for item in self.below.packages if (item.kind, item.name) not in hidden]
        found: dict[Ecosystem, dict[SystemSubject, None]] = {}
        for origin, item in (*packages, *(("added", item) for item in self.added)):
            ecosystem = find_ecosystem(item, self.below.os)
            if ecosystem is not None:
                debian = item.kind == "deb"
                name, version = (item.source or item.name, item.source_version or item.version) if debian else (item.name, item.version)
                found.setdefault(ecosystem, {})[SystemSubject(name, version, "added" if origin == "added" else "base")] = None
        return {key: tuple(items) for key, items in found.items()}

    def describe_uncovered(self) -> tuple[str, ...]:
        """What OSV has no data of, in lines."""
        counts: dict[str, int] = {}
        for item in (*self.below.packages, *self.added):
            if find_ecosystem(item, self.below.os) is None:
                what = item.kind if item.kind == "conda" else f"{item.kind} ({self.below.os.id} {self.below.os.version})"
                counts[what] = counts.get(what, 0) + 1
        return tuple(f"{count} packages of {what}: OSV has no such data" for what, count in sorted(counts.items()))


def find_ecosystem(item: SystemPackage, os: OperatingSystem) -> Ecosystem | None:
    """Where OSV has the package; None where it has nothing of the kind."""
    major = os.version.partition(".")[0]
    match item.kind, os.id:
        case "cran", _:
            return Ecosystem("CRAN", "CRAN")
        case "deb", "debian" if major:
            return Ecosystem("Debian", f"Debian:{major}")
        case "deb", "ubuntu" if os.version:
            return Ecosystem("Ubuntu", f"Ubuntu:{os.version}")
        case "rpm", "rhel" if major:
            return Ecosystem("Red Hat", f"Red Hat:enterprise_linux:{major}")
    return None


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
