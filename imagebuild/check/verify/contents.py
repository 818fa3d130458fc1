"""The packages of an image, for an audit: of a team's lock before anything is built, or of a pushed image as it is."""

from __future__ import annotations

from imagebuild import annotations as names
from imagebuild.base.model import Base, SystemPackage
from imagebuild.base.reading import BaseNames, read_base
from imagebuild.base.systempackages import parse_status
from imagebuild.catalogue.lookup import FoundImage
from imagebuild.check.verify.evidence import Evidence, gather_evidence
from imagebuild.errors import ImagebuildError
from imagebuild.supply.addons import list_addon_packages
from imagebuild.supply.bundled import read_bundled
from imagebuild.supply.licences import read_licence
from imagebuild.supply.packages import Package, describe_distribution, list_required, parse_metadata
from imagebuild.supply.systempackages import ImageSystem
from imagebuild.workspace import Workspace


def list_image_packages(workspace: Workspace, image: FoundImage) -> tuple[tuple[Package, ...], ImageSystem, tuple[str, ...]]:
    """What is installed, of Python and of the system, read from the layers and not from what travels along; and what could not be
    looked at."""
    evidence = gather_evidence(workspace, image)
    unchecked = []
    if evidence.base.base is not None:
        system = ImageSystem(evidence.base.base.inventory.system, _list_added_system(evidence))
        return join_packages(evidence, evidence.base.base), system, ()
    try:  # without a base: all of it, as if it were one
        workspace.prepare()
        whole = read_base(
            image.store,
            image.repository,
            image.digest,
            image.config.platform,
            BaseNames(image.annotations.get(names.BASE, "") or "image", "jupyter", image.name, image.store.registry_host),
            cache=workspace.cache,
            report=workspace.report,
        )
    except ImagebuildError as error:
        unchecked.append(f"the base: {evidence.base.problem}; {error.message}")
        return join_packages(evidence, None), ImageSystem(added=_list_added_system(evidence)), tuple(unchecked)
    if whole.inventory.interpreter is None:
        unchecked.append("the image has no Python on its PATH: what is installed elsewhere was not looked for")
    return _list_base_packages(whole, frozenset()), ImageSystem(whole.inventory.system), tuple(unchecked)


def _list_added_system(evidence: Evidence) -> tuple[SystemPackage, ...]:
    """The Debian packages that the layer's own lists name, with their sources by its status."""
    names = evidence.system.versions if evidence.system is not None else {}
    return tuple(item for item in parse_status(evidence.facts.status.decode("utf-8", "replace")) if item.name in names)


def _list_base_packages(base: Base, without: frozenset[str]) -> tuple[Package, ...]:
    present = {item.name for item in base.inventory.distributions}
    markers = base.inventory.interpreter.markers if base.inventory.interpreter is not None else {}
    return tuple(describe_distribution(base, item, present, markers) for item in base.inventory.distributions if item.name not in without)


def join_packages(evidence: Evidence, base: Base | None) -> tuple[Package, ...]:
    """The base's packages and those whose metadata is in the added layers, by name."""
    from packaging.utils import canonicalize_name

    locked = {item.name: item for item in evidence.lock.packages} if evidence.lock is not None else {}
    read = {path.rpartition("/")[0]: parse_metadata(data) for path, data in evidence.facts.metadata.items()}
    added = {str(canonicalize_name(str(item.get("Name", "")))): item for item in read.values()}
    folders = {str(canonicalize_name(str(item.get("Name", "")))): folder for folder, item in read.items()}
    below = _list_base_packages(base, frozenset(added)) if base is not None else ()
    present = {*added, *(item.name for item in below)}
    markers = base.inventory.interpreter.markers if base is not None and base.inventory.interpreter is not None else {}
    found = list(below)
    for name, item in added.items():
        lock = locked.get(name)
        found.append(
            Package(
                name=name,
                version=str(item.get("Version", "")),
                origin="added",
                licence=read_licence(item),
                requires=list_required((str(line) for line in item.get_all("Requires-Dist", [])), present, markers),
                index=lock.index if lock is not None else "",
                direct=lock is not None and "requirements.in" in lock.via,
                bundled=read_bundled(
                    ((path, data) for path, data in evidence.facts.sboms.items() if path.startswith(f"{folders[name]}/sboms/")), name
                ),
            )
        )
    return tuple(sorted([*found, *list_addon_packages(evidence.addons)], key=lambda item: item.name))
