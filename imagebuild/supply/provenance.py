"""How an image came to be: an in-toto statement (v1) with SLSA provenance (v1) as its predicate.

No clock and no machine in it: two builds of the same image by the same version say the same. It is not signed here; whoever
may sign does, with ``cosign attest`` or ``cosign sign``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagebuild import __version__
from imagebuild.addons.model import AddonLock
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.encoding import encode_json
from imagebuild.oci.model import Digest
from imagebuild.recipe import Recipe
from imagebuild.supply.addons import describe_dependencies
from imagebuild.supply.bom import BomSubject

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:imagebuild:notebook-image:v1"  # docs/provenance.md says what its parameters mean


def render_provenance(subject: BomSubject, lock: Lock, recipe: Recipe, lock_digest: str, addons: Sequence[AddonLock] = ()) -> bytes:
    """The statement's JSON: subject is the image by repository and digest."""
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": subject.repository, "digest": {"sha256": subject.digest.hex}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "team": lock.team,
                    "tag": recipe.tag,
                    "base": lock.base,
                    "platform": recipe.platform,
                    "cutoff": lock.cutoff,
                    "system": list(recipe.system),
                },
                "internalParameters": {
                    "engine": recipe.engine,
                    "key": recipe.key,
                    "layerFormat": recipe.layer_format,
                    "resolver": lock.resolver,
                    "python": lock.python,
                },
                "resolvedDependencies": [*_list_dependencies(subject, lock, lock_digest), *describe_dependencies(addons)],
            },
            "runDetails": {
                "builder": {"id": f"urn:imagebuild:{recipe.engine}", "version": {"imagebuild": __version__}},
                "metadata": {"invocationId": recipe.key},
            },
        },
    }
    return encode_json(statement)


def _list_dependencies(subject: BomSubject, lock: Lock, lock_digest: str) -> list[dict[str, Any]]:
    return [
        {"name": "base", "uri": f"oci:{subject.base_name}", "digest": {"sha256": subject.base_digest.hex}},
        {"name": "lock", "uri": f"lockfiles/pylock.{lock.team}.toml", "digest": {"sha256": Digest(lock_digest).hex}},
        *({"name": "input", "uri": path, "digest": {"sha256": digest}} for path, digest in sorted(lock.inputs.items())),
        *(_describe_wheel(item.name, item.version, item.filename, item.sha256, item.index) for item in lock.packages),
        *(found for item in lock.packages for found in _list_sources(item)),
    ]


def _list_sources(item: LockedPackage) -> list[dict[str, Any]]:
    """Of a wheel that was built from a source archive: the archive, and the wheels that the build needed."""
    if item.source is None:
        return []
    archive = _describe_wheel(item.name, item.version, item.source.filename, item.source.sha256, item.index)
    return [
        archive,
        *(_describe_wheel(wheel.name, wheel.version, wheel.filename, wheel.sha256, wheel.index) for wheel in item.source.requires),
    ]


def _describe_wheel(name: str, version: str, filename: str, sha256: str, index: str) -> dict[str, Any]:
    from packageurl import PackageURL

    purl = PackageURL("generic" if index == "local" else "pypi", None, name, version, {"file_name": filename})
    return {"name": name, "uri": str(purl), "digest": {"sha256": sha256}, "annotations": {"index": index}}
