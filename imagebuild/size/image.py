"""The account of an image in any registry: its layers above its base, by the packages that list their files."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from email.parser import HeaderParser

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from imagebuild import annotations as names
from imagebuild.addons.model import PlacedArchive
from imagebuild.base.inventory import decode_inventory
from imagebuild.base.sites import find_sites
from imagebuild.base.tree import SqliteTree
from imagebuild.catalogue.lookup import FoundImage
from imagebuild.decoding import load_json
from imagebuild.errors import ConfigurationError
from imagebuild.layer.dpkg import STATUS, is_dpkg_list, read_system_files
from imagebuild.layer.model import LayerFile
from imagebuild.layer.reading import read_record
from imagebuild.lock.file.model import Lock
from imagebuild.size.baselayers import BaseLayers, find_base_layers
from imagebuild.size.measurement import FindContents, MeasuredPackage, summarise_files
from imagebuild.size.model import SizeReport
from imagebuild.size.needs import SOURCE
from imagebuild.size.scan import Scan, scan_layers
from imagebuild.supply.referrers import read_image_recipe
from imagebuild.wheel.installed import NO_SITES, is_record
from imagebuild.wheel.sizes import classify_path
from imagebuild.workspace import Workspace

_CONDA = re.compile(r"(?P<prefix>/.+)/conda-meta/[^/]+\.json")


class _Owned(msgspec.Struct):
    """One package found in the layers."""

    version: str
    hashes: dict[str, str]  # path -> SHA-256 in hex, or empty
    needs: tuple[str, ...] = ()


def find_owners(scan: Scan, addons: Sequence[PlacedArchive] = ()) -> dict[str, _Owned]:
    """The packages of the layers by label: Python distributions by name, others as ``NAME (conda)`` and ``NAME (apt)``; ``addons``."""
    found: dict[str, _Owned] = {}
    for item in addons:
        found[item.package] = _Owned(item.version, {path: "" for path in scan.files if path.startswith(f"{item.folder}/")})
    taken = tuple(f"{item.folder}/" for item in addons)
    for path, text in scan.texts.items():
        if path.startswith(taken):
            continue  # what an add-on brings along is a part of it
        if is_record(path, scan.sites):
            record = read_record(path, text, scan.sites)
            needs = _read_needs(scan.texts.get(path.replace("/RECORD", "/METADATA"), ""))
            twice = found[record.name].hashes if record.name in found else {}  # in a virtual environment as well
            found[record.name] = _Owned(record.version, {**twice, **record.hashes}, needs)
        elif match := _CONDA.fullmatch(path):
            document = _read_json(text)
            listed = document.get("files")
            files = [str(item) for item in listed] if isinstance(listed, list) else []
            if document.get("name"):
                label = f"{document['name']} (conda)"
                found[label] = _Owned(str(document.get("version", "")), {f"{match['prefix']}/{item}": "" for item in files})
    lists = {path: text for path, text in scan.texts.items() if is_dpkg_list(path)}
    system = read_system_files(lists, scan.texts.get(STATUS, ""), {path: file.size for path, file in scan.files.items()})
    if system is not None:
        by_package: dict[str, dict[str, str]] = defaultdict(dict)
        for path, name in system.owners.items():
            by_package[name][path] = ""
        found.update({f"{name} (apt)": _Owned(version, by_package[name]) for name, version in system.versions.items()})
    return found


def _read_json(text: str) -> dict[str, object]:
    try:
        document = load_json(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _read_needs(metadata: str) -> tuple[str, ...]:
    """Names that a distribution requires when no extra is asked for; markers of platform and Python are not judged."""
    needed = set()
    for line in HeaderParser().parsestr(metadata, headersonly=True).get_all("Requires-Dist", []):
        try:
            requirement = Requirement(str(line))
        except InvalidRequirement:
            continue
        if "extra" not in str(requirement.marker or ""):
            needed.add(str(canonicalize_name(requirement.name)))
    return tuple(sorted(needed))


def measure_image(
    workspace: Workspace, image: FoundImage, *, base: str = "", lock: Lock | None = None, report: Callable[[str], object] = str
) -> SizeReport:
    """Read the image's layers above its base and account for every byte. ``lock``: the image's own, where it is at hand."""
    below = find_base_layers(workspace, image, base)
    contents = _find_base_contents(workspace, below)
    sizes = contents.list_hashed_sizes() if contents is not None else frozenset[int]()
    layers = image.manifest.layers[below.layers :]
    sites = _find_sites(workspace, image, below, contents)
    scan = scan_layers(image.store, image.repository, layers, sizes=sizes, sites=sites, report=report)
    return _account(image, below, scan, lock, contents.find_contents if contents is not None else None)


def _account(image: FoundImage, below: BaseLayers, scan: Scan, lock: Lock | None, find: FindContents | None) -> SizeReport:
    recipe = read_image_recipe(image.store, image.repository, image.digest)
    owned = find_owners(scan, recipe.addons if recipe is not None else ())
    owners = {path: (label, sha256) for label, item in owned.items() for path, sha256 in item.hashes.items() if path in scan.files}
    stored: dict[str, float] = defaultdict(float)
    files = []
    for path, file in scan.files.items():
        package, _ = owners.get(path, ("", ""))
        stored[package] += file.stored
        files.append(LayerFile(path, file.size, package, classify_path(path), file.sha256))
    via = _find_askers(image, owned, lock)
    present = {label: item for label, item in owned.items() if label in stored}
    packages = {
        label: MeasuredPackage(item.version, round(stored[label]), item.needs, via.get(label, ())) for label, item in present.items()
    }
    compressed = sum(layer.size for layer in image.manifest.layers[below.layers :])
    made = summarise_files(
        files, packages, subject=image.name, compressed=compressed, base=below.name, base_found=below.found, find_contents=find
    )
    return msgspec.structs.replace(
        made,
        digest=str(image.digest),
        layers=len(image.manifest.layers) - below.layers,
        hidden=scan.hidden,
        fetched=scan.fetched,
        notes=below.notes,
    )


def _find_askers(image: FoundImage, owned: Mapping[str, _Owned], lock: Lock | None) -> dict[str, tuple[str, ...]]:
    """Who asked for each package: the lock's word, else the image's own annotations and the METADATA files."""
    if lock is not None:
        return {item.name: item.via for item in lock.packages}
    direct = set(_read_json(image.annotations.get(names.PACKAGES, "{}")))
    askers: dict[str, list[str]] = defaultdict(list)
    for name, item in owned.items():
        for needed in item.needs:
            askers[needed].append(name)
    return {name: (*((SOURCE,) if name in direct else ()), *sorted(askers.get(name, ()))) for name in owned}


def _find_sites(workspace: Workspace, image: FoundImage, below: BaseLayers, tree: SqliteTree | None) -> frozenset[str]:
    """Where the distributions of ``image`` count, by what the cache knows of the base's Python, without a request."""
    path = workspace.cache / "bases" / below.digest.removeprefix("sha256:") / "inventory.json"
    with contextlib.suppress(OSError, ConfigurationError):
        return find_sites(decode_inventory(path.read_bytes()), tree, image.config.container.environment)
    return NO_SITES


def _find_base_contents(workspace: Workspace, below: BaseLayers) -> SqliteTree | None:
    """What the cache knows of the base's files, without a request."""
    path = workspace.cache / "bases" / below.digest.removeprefix("sha256:") / "tree.sqlite"
    return SqliteTree(path) if below.digest and path.is_file() else None
