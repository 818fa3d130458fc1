"""The artifacts that travel with an image as its referrers, and reading them back.

They are made of the lock, the recipe and the base alone: same image, same bytes, whoever pushes. The media types are those
that trivy (CycloneDX), docker and cosign (in-toto) look for; lock and recipe have types of ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.lockfile import format_addon_lock, parse_addon_lock
from imagebuild.addons.model import AddonLock, place_addons
from imagebuild.base.model import Base
from imagebuild.decoding import make_decoder
from imagebuild.errors import ImagebuildError
from imagebuild.lock.file.lockfile import decode_lock, format_lock, lock_digest
from imagebuild.lock.file.model import Lock
from imagebuild.oci.model import Digest, Manifest
from imagebuild.oci.referrers import Artifact, list_referrers, read_artifact
from imagebuild.oci.store import Store
from imagebuild.recipe import Recipe
from imagebuild.supply.bom import BomSubject, render_bom
from imagebuild.supply.packages import list_packages
from imagebuild.supply.provenance import PREDICATE_TYPE, render_provenance

_RECIPE = make_decoder(Recipe)

LOCK_TYPE = "application/vnd.imagebuild.lock.v1+toml"
ADDONS_TYPE = "application/vnd.imagebuild.addons.v1+toml"
RECIPE_TYPE = "application/vnd.imagebuild.recipe.v1+json"
BOM_TYPE = "application/vnd.cyclonedx+json"
STATEMENT_TYPE = "application/vnd.in-toto+json"
_PREDICATE = "in-toto.io/predicate-type"  # the annotation by which buildx and cosign distinguish statements


def make_companions(
    base: Base,
    lock: Lock,
    recipe: Recipe,
    *,
    repository: str,
    digest: Digest,
    wheels: Mapping[str, Path],
    system: Mapping[str, str],
    repaired: Mapping[str, int] | None = None,
    addons: Sequence[AddonLock] = (),
) -> tuple[Artifact, ...]:
    """All that travels with the image ``digest``: locks, recipe, SBOM, provenance. ``system``: Debian packages of the delta; ``repaired``:
    see :func:`~imagebuild.supply.bom.render_bom`.
    """
    subject = BomSubject(
        repository=repository,
        tag=recipe.tag,
        digest=digest,
        created=recipe.created,
        base_name=base.reference,
        base_digest=Digest(base.inventory.digest),
        platform=recipe.platform,
        base_pinned=str(base.pinned),
    )
    bom = render_bom(subject, list_packages(base, lock, wheels), system, repaired, base.inventory.system, addons)
    statement = render_provenance(subject, lock, recipe, lock_digest(lock), addons)
    predicate = {_PREDICATE: PREDICATE_TYPE}
    return (
        make_lock_artifact(lock),
        make_recipe_artifact(recipe),
        _make_artifact(BOM_TYPE, "sbom.cdx.json", bom, recipe.created),
        _make_artifact(STATEMENT_TYPE, "provenance.json", statement, recipe.created, predicate),
        *(_make_artifact(ADDONS_TYPE, f"{item.kind}.{item.team}.toml", format_addon_lock(item).encode(), item.cutoff) for item in addons),
    )


def _make_artifact(kind: str, name: str, data: bytes, created: str, notes: Mapping[str, str] | None = None) -> Artifact:
    return Artifact(kind, kind, data, {names.CREATED: created, **(notes or {})}, {names.TITLE: name, **(notes or {})})


def make_lock_artifact(lock: Lock) -> Artifact:
    """The lock, as ``lockfiles/pylock.<team>.toml`` has it."""
    return _make_artifact(LOCK_TYPE, f"pylock.{lock.team}.toml", format_lock(lock).encode(), lock.cutoff)


def make_recipe_artifact(recipe: Recipe) -> Artifact:
    """The recipe's canonical JSON: its SHA-256 is the image's key."""
    return _make_artifact(RECIPE_TYPE, "recipe.json", recipe.encode(), recipe.created)


def read_image_lock(store: Store, repository: str, digest: Digest) -> Lock | None:
    """The lock that the image ``digest`` was built from; None when it travels without one.

    Anyone who may push can attach a lock. The one that counts has the digest that the image's own annotation names, and that is
    part of the image's digest: it is proved, not believed.
    """
    manifest = _read_manifest(store, repository, digest)
    wanted = manifest.annotations.get(names.LOCK) if manifest is not None else None
    if wanted is None:
        return None
    for data in read_companions(store, repository, digest, LOCK_TYPE):
        try:
            lock = decode_lock(data, f"the lock attached to {digest}")
        except ImagebuildError:
            continue
        if lock_digest(lock) == wanted:
            return lock
    return None


def read_image_recipe(store: Store, repository: str, digest: Digest) -> Recipe | None:
    """The recipe of the image ``digest``, proved in the same way by the image's key; None without one."""
    manifest = _read_manifest(store, repository, digest)
    wanted = manifest.annotations.get(names.KEY) if manifest is not None else None
    if wanted is None:
        return None
    for data in read_companions(store, repository, digest, RECIPE_TYPE):
        if Digest.of(data) == wanted:
            try:
                return _RECIPE.decode(data)
            except msgspec.MsgspecError:
                return None  # of a newer version
    return None


def read_image_addons(store: Store, repository: str, digest: Digest, recipe: Recipe | None) -> tuple[AddonLock, ...]:
    """The locks of the image's add-ons, by kind: those that give what the proved recipe has, and no others."""
    if recipe is None or not recipe.addons:
        return ()
    found: dict[str, AddonLock] = {}
    for data in read_companions(store, repository, digest, ADDONS_TYPE):
        try:
            lock = parse_addon_lock(data)
        except ValueError:
            continue
        if place_addons([lock]) == tuple(item for item in recipe.addons if item.kind == lock.kind):
            found.setdefault(lock.kind, lock)
    return tuple(found[kind] for kind in sorted(found))


def read_companions(store: Store, repository: str, digest: Digest, artifact_type: str) -> list[bytes]:
    """The first blob of every artifact of that type about the image, each verified against its digest."""
    found = (read_artifact(store, repository, item, digest) for item in list_referrers(store, repository, digest, artifact_type))
    return [item[1] for item in found if item is not None]


def _read_manifest(store: Store, repository: str, digest: Digest) -> Manifest | None:
    raw = store.get_manifest(repository, digest)
    parsed = raw.parse() if raw is not None else None
    return parsed if isinstance(parsed, Manifest) else None
