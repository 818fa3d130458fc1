"""R packages and VS Code extensions in what is said of an image: package URLs, licences, packages for an audit, provenance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imagebuild.addons.model import Addon, AddonLock, name_addon
from imagebuild.lock.index.routing import LOCAL_NAME
from imagebuild.supply.licences import Licence, read_licence_text
from imagebuild.supply.packages import Package

if TYPE_CHECKING:
    from packageurl import PackageURL


def make_addon_purl(kind: str, item: Addon, **qualifiers: str) -> PackageURL:
    """``pkg:cran/data.table@1.15.4``, ``pkg:vscode-extension/ms-python/python@2026.2.0?platform=linux-x64`` (purl-spec).

    A file of the team's own is ``generic``: a scanner must not look its name up in public places.
    """
    from packageurl import PackageURL

    if item.index == LOCAL_NAME:
        return PackageURL("generic", None, item.name, item.version, qualifiers)
    if kind == "r":
        return PackageURL("cran", None, item.name, item.version, qualifiers)
    publisher, _, name = item.name.partition(".")
    platform = {"platform": item.platform} if item.platform else {}
    return PackageURL("vscode-extension", publisher, name, item.version, {**platform, **qualifiers})


def read_addon_licence(item: Addon) -> Licence:
    """What its metadata says, as an SPDX expression where it can be read as one."""
    return read_licence_text(item.licence)


def is_direct(lock: AddonLock, item: Addon) -> bool:
    """Whether the team itself asks for it, and not add-ons alone."""
    return bool(set(item.via) - {other.name for other in lock.addons})


def list_addon_packages(locks: Sequence[AddonLock]) -> tuple[Package, ...]:
    """The add-ons as an audit has packages: by the names that accounts have."""
    return tuple(
        Package(
            name=name_addon(lock.kind, item.name),
            version=item.version,
            origin="added",
            licence=read_addon_licence(item),
            requires=tuple(name_addon(lock.kind, name) for name in item.needs),
            sha256=item.sha256,
            filename=item.filename,
            index=item.index,
            direct=is_direct(lock, item),
        )
        for lock in locks
        for item in lock.addons
    )


def describe_dependencies(locks: Sequence[AddonLock]) -> list[dict[str, Any]]:
    """Provenance: the archives, and the source archives that some were built from."""
    found = []
    for lock in locks:
        for item in lock.addons:
            files = [(item.filename, item.sha256), *([(item.source.filename, item.source.sha256)] if item.source is not None else [])]
            for filename, sha256 in files:
                uri = str(make_addon_purl(lock.kind, item, file_name=filename))
                found.append({"name": item.name, "uri": uri, "digest": {"sha256": sha256}, "annotations": {"index": item.index}})
    return found
