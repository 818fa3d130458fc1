"""The two things that are compared, images by any name or lock files: each as a lock, with what is known beside it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import AddonLock
from imagebuild.catalogue.lookup import FoundImage, PreferTag, find_named_image
from imagebuild.decoding import load_json
from imagebuild.difference.addons import find_addon_licences, join_addons, read_sibling_locks
from imagebuild.errors import ImagebuildError, LockError, UsageError
from imagebuild.lock.file.lockfile import decode_lock, read_lock
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.model import Platform
from imagebuild.pipeline.sizesubject import find_image_lock
from imagebuild.size.image import measure_image
from imagebuild.size.measurement import NO_PACKAGE
from imagebuild.supply.referrers import BOM_TYPE, read_companions, read_image_addons, read_image_recipe
from imagebuild.workspace import Workspace

_NO_DIGEST = "sha256:" + "0" * 64


class Side(msgspec.Struct, frozen=True):
    """One of the two. ``lock`` was read where there is one, else made from the layers' RECORDs (``recorded``)."""

    name: str
    lock: Lock
    recorded: bool = False
    digest: str = ""
    base: str = ""  # in words
    base_digest: str = ""
    compressed: int = -1  # of the layer it adds, or of all above its base; -1: not known
    installed: int = -1
    licences: dict[str, str] = {}  # SHA-256 of a wheel in hex -> licence
    fetched: int = 0  # bytes of layers that had to be read


def read_side(
    workspace: Workspace, text: str, *, base: str = "", platform: Platform | None = None, prefer: PreferTag | None = None
) -> Side:
    """What ``text`` names; a team without an image counts with its lock."""
    path = Path(text)
    if path.suffix == ".toml" or path.is_file():
        return _read_file(workspace, path)
    try:
        image = find_named_image(workspace, text, platform, prefer)
    except UsageError:
        if re.fullmatch(r"[a-z0-9-]+", text) and workspace.lockfile(text).is_file():
            workspace.report(f"{text} has no image yet: its lock is compared")
            return _read_file(workspace, workspace.lockfile(text))
        raise
    return read_image_side(workspace, image, base)


def _read_file(workspace: Workspace, path: Path) -> Side:
    found = path if path.is_file() else workspace.root / path
    addons: tuple[AddonLock, ...] = ()
    if re.fullmatch(r"pylock\.[^.]+\.toml", found.name):
        lock = read_lock(found)
        addons = read_sibling_locks(found, lock.team)
    else:
        try:
            lock = decode_lock(found.read_bytes(), str(path))
        except OSError as error:
            raise LockError(f"{path} cannot be read: {error.strerror}", "name a lock file, a team, or an image") from None
    licences = {**find_kept_licences(workspace, lock), **find_addon_licences(addons)}
    return Side(str(path), join_addons(lock, addons), base=lock.base, base_digest=lock.base_digest, licences=licences)


def read_image_side(workspace: Workspace, image: FoundImage, base: str = "") -> Side:
    """One image; its layers are read only where it travels without a lock."""
    annotations = image.annotations
    lock = find_image_lock(workspace, image)
    name = image.name
    below, below_digest = annotations.get(names.BASE, "") or annotations.get(names.BASE_NAME, ""), annotations.get(names.BASE_DIGEST, "")
    if lock is not None:
        stored, unpacked = (annotations.get(key, "") for key in (names.DELTA_COMPRESSED, names.DELTA_INSTALLED))
        recipe = read_image_recipe(image.store, image.repository, image.digest)
        addons = read_image_addons(image.store, image.repository, image.digest, recipe)
        return Side(
            name,
            join_addons(lock, addons),
            compressed=int(stored) if stored.isdecimal() else -1,
            installed=int(unpacked) if unpacked.isdecimal() else -1,
            licences=read_licences(image),
            digest=str(image.digest),
            base=below,
            base_digest=below_digest,
        )
    workspace.report(f"{name} travels without a lock: reading its layers")
    report = measure_image(workspace, image, base=base, report=workspace.report)
    packages = [
        LockedPackage(
            name=item.name,
            version=item.version,
            filename="",
            sha256="",
            size=item.compressed,
            installed_size=item.installed,
            index="",
            via=item.chain[-2:-1],
        )
        for item in report.packages
        if item.name != NO_PACKAGE
    ]
    made = Lock(
        team=annotations.get(names.TEAM, name),
        base=below or report.base,
        base_digest=below_digest,
        base_fingerprint=_NO_DIGEST,
        python=annotations.get(names.PYTHON, ""),
        platform=str(image.config.platform),
        inputs={},
        resolver="",
        cutoff=annotations.get(names.CREATED, "") or "1970-01-01T00:00:00Z",
        packages=tuple(sorted(packages, key=lambda item: item.name)),
    )
    return Side(
        name,
        made,
        recorded=True,
        digest=str(image.digest),
        base=made.base,
        base_digest=below_digest,
        compressed=report.compressed,
        installed=report.installed,
        fetched=report.fetched,
    )


def read_licences(image: FoundImage) -> dict[str, str]:
    """By the wheels' hashes, from the SBOM that travels with the image; nothing where there is none."""
    found: dict[str, str] = {}
    try:
        documents = [load_json(data) for data in read_companions(image.store, image.repository, image.digest, BOM_TYPE)]
    except (ImagebuildError, ValueError):
        return {}
    for document in documents:
        components = document.get("components") if isinstance(document, dict) else None
        for component in components if isinstance(components, list) else []:
            if not isinstance(component, dict):
                continue
            with_hash = [item.get("content", "") for item in component.get("hashes", []) if item.get("alg") == "SHA-256"]
            licence = " AND ".join(filter(None, map(_name_licence, component.get("licenses", []))))
            if licence:
                found.update(dict.fromkeys(with_hash, licence))
    return found


def _name_licence(entry: dict[str, object]) -> str:
    """CycloneDX: an expression, or a licence with an id or a name."""
    inner = entry.get("license")
    if isinstance(inner, dict):
        return str(inner.get("id") or inner.get("name") or "")
    return str(entry.get("expression") or "")


def find_kept_licences(workspace: Workspace, lock: Lock) -> dict[str, str]:
    """From the metadata kept of the wheels, or the wheels themselves, as far as they are here."""
    from imagebuild.lock.index.bodies import wheel_cache_path
    from imagebuild.lock.index.metadatacache import recall_metadata
    from imagebuild.supply.licences import read_licence
    from imagebuild.supply.packages import open_wheel, parse_metadata, read_wheel_metadata

    found = {}
    for package in lock.packages:
        data = recall_metadata(workspace.cache, package.sha256)
        wheel = wheel_cache_path(workspace.cache, package.sha256, package.filename)
        if not data and not wheel.is_file():
            continue
        if data:
            licence = read_licence(parse_metadata(data))
        else:
            with open_wheel(wheel) as archive:
                licence = read_licence(read_wheel_metadata(archive))
        if licence.expression or licence.text:
            found[package.sha256] = licence.expression or licence.text
    return found


def align_sides(before: Side, after: Side) -> tuple[Side, Side]:
    """Where one side knows no wheel hashes, version numbers stand for them on both: the same version counts as the same."""
    if not before.recorded and not after.recorded:
        return before, after
    return _forget_hashes(before), _forget_hashes(after)


def _forget_hashes(side: Side) -> Side:
    packages = tuple(msgspec.structs.replace(item, sha256=f"{item.name}=={item.version}", index="") for item in side.lock.packages)
    licences = {f"{item.name}=={item.version}": side.licences[item.sha256] for item in side.lock.packages if item.sha256 in side.licences}
    return msgspec.structs.replace(side, lock=msgspec.structs.replace(side.lock, packages=packages), licences=licences)
