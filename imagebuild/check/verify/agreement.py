"""Does what travels with an image agree with what is in it: lock, recipe, SBOM, provenance?"""

from __future__ import annotations

import json

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import name_addon
from imagebuild.addons.unpacking import hash_tree
from imagebuild.check.finding import Finding, judge_culprits
from imagebuild.check.verify.evidence import Evidence
from imagebuild.check.verify.records import list_distributions
from imagebuild.decoding import Converter
from imagebuild.supply.properties import ADDON, ORIGIN
from imagebuild.text import count_things


def check_lock(evidence: Evidence) -> Finding:
    """The added layer holds the distributions of the lock, in its versions, and no others; and the add-ons' files, as locked."""
    if evidence.lock is None:
        lacking = "no lock that its annotation names travels with it" if evidence.ours else "made by another builder, without a lock"
        return Finding("skipped", lacking)
    wanted = {item.name: item.version for item in evidence.lock.packages}
    culprits = _compare(wanted, list_distributions(evidence.facts), "the lock")
    if evidence.base.base is not None and evidence.lock.base_fingerprint != evidence.base.base.inventory.fingerprint:
        culprits.append("the lock was made against another base")
    wrong, clause = _compare_addons(evidence)
    return judge_culprits([*culprits, *wrong], f"{len(wanted)} packages{clause}, as locked", "{count} packages are not as locked")


def _compare(wanted: dict[str, str], found: dict[str, str], by: str) -> list[str]:
    lines = [f"{name} {version}: in {by}, not in the layer" for name, version in wanted.items() if name not in found]
    lines += [f"{name} {version}: in the layer, not in {by}" for name, version in found.items() if name not in wanted]
    lines += [
        f"{name}: {found[name]} in the layer, {wanted[name]} in {by}"
        for name in wanted.keys() & found.keys()
        if found[name] != wanted[name]
    ]
    return lines


def _compare_addons(evidence: Evidence) -> tuple[list[str], str]:
    """Add-ons of the recipe whose files are not those of the archive that was locked, and a clause on all of them."""
    addons = evidence.recipe.addons if evidence.recipe is not None else ()
    culprits, files = [], 0
    for item in addons:
        prefix = f"{item.folder}/"
        own = {path.removeprefix(prefix): file.sha256.hex() for path, file in evidence.facts.files.items() if path.startswith(prefix)}
        files += len(own)
        if not own:
            culprits.append(f"{item.package} {item.version}: not in the layer")
        elif item.tree and hash_tree(own) != item.tree:
            culprits.append(f"{item.package} {item.version}: {item.folder} has other files than its archive")
    return culprits, f", and {count_things(len(addons), 'add-on')} of {count_things(files, 'file')}" if addons else ""


def check_recipe(evidence: Evidence) -> Finding:
    """The key, the tag and the annotations are those of the recipe that travels with the image."""
    if evidence.recipe is None:
        return Finding("skipped", "no recipe that its annotation names travels with it" if evidence.ours else "made by another builder")
    annotations = evidence.image.annotations
    labels = evidence.image.config.container.labels or {}
    culprits = [
        f"annotation {name} is {annotations.get(name, '')[:80]!r}"
        for name, value in evidence.recipe.labels.items()
        if annotations.get(name) != value
    ]
    culprits += [
        f"label {name} is {labels.get(name, '')[:80]!r}" for name, value in evidence.recipe.labels.items() if labels.get(name) != value
    ]
    if evidence.base.base is not None and evidence.recipe.base_digest != evidence.base.base.inventory.digest:
        culprits.append(f"the recipe is for base {evidence.recipe.base_digest}")
    return judge_culprits(culprits, f"{evidence.recipe.tag} is the recipe's", "{count} differ from the recipe")


def check_bom(evidence: Evidence) -> Finding:
    """The SBOM is about this image, and lists what is in it: added and base."""
    if not evidence.boms:
        return Finding("skipped", "no SBOM travels with it")
    lines: list[str] = []
    for document in evidence.boms:
        lines = _compare_bom(evidence, document)
        if not lines:
            return Finding("passed", f"{len(document.get('components') or [])} components, as found")
    return judge_culprits(lines, "", "{count} differ from the image")


def _compare_bom(evidence: Evidence, document: dict[str, object]) -> list[str]:
    try:
        components = _COMPONENTS.convert(document.get("components") or [])
        about = _METADATA.convert(document.get("metadata") or {}).component.hashes
    except msgspec.ValidationError as error:
        return [f"the SBOM is malformed: {error}"]
    lines = [] if evidence.image.digest.hex in {item.content for item in about} else ["the SBOM is about another image"]
    python = [item for item in components if item.purl.startswith(("pkg:pypi/", "pkg:generic/")) and not item.addon]
    added = {item.name: item.version for item in python if item.origin == "added"}
    lines += _compare(added, list_distributions(evidence.facts), "the SBOM")
    brought = {name_addon(item.addon, item.name): item.version for item in components if item.addon}
    wanted = {item.package: item.version for item in evidence.recipe.addons} if evidence.recipe is not None else brought
    lines += _compare(brought, wanted, "the SBOM")
    if evidence.base.base is not None:
        present = {item.name: item.version for item in evidence.base.base.inventory.distributions if item.name not in evidence.replaced}
        below = {item.name: item.version for item in python if item.origin == "base"}
        lines += [line.replace("the layer", "the base") for line in _compare(below, present, "the SBOM")]
    return lines


class _Hash(msgspec.Struct):
    content: str = ""


class _Property(msgspec.Struct):
    name: str = ""
    value: str = ""


class _Component(msgspec.Struct):
    name: str = ""
    version: str = ""
    purl: str = ""
    hashes: list[_Hash] = []
    properties: list[_Property] = []

    @property
    def origin(self) -> str:
        return self._find(ORIGIN)

    @property
    def addon(self) -> str:
        """The kind of add-on that it is; empty for anything else."""
        return self._find(ADDON)

    def _find(self, name: str) -> str:
        return next((item.value for item in self.properties if item.name == name), "")


class _Metadata(msgspec.Struct):
    component: _Component = msgspec.field(default_factory=lambda: _Component())


_COMPONENTS = Converter(list[_Component])
_METADATA = Converter(_Metadata)


def check_provenance(evidence: Evidence) -> Finding:
    """A provenance statement names this image as its subject and the recipe's key."""
    if not evidence.statements:
        return Finding("skipped", "no provenance travels with it")
    key = evidence.image.annotations.get(names.KEY, "")
    for document in evidence.statements:
        subjects = document.get("subject") if isinstance(document.get("subject"), list) else []
        digests = {str((item.get("digest") or {}).get("sha256", "")) for item in subjects or [] if isinstance(item, dict)}
        if evidence.image.digest.hex in digests and (not key or key in json.dumps(document)):
            return Finding("passed", str(document.get("predicateType", "")))
    return Finding("failed", "no statement is about this image")
