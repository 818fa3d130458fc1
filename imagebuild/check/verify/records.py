"""Installed distributions against their own RECORDs (packaging.python.org, Recording installed projects)."""

from __future__ import annotations

import base64
import binascii
import csv
import posixpath

import msgspec

from imagebuild.base.model import Tree
from imagebuild.check.verify.layerscan import ScannedLayer
from imagebuild.layer.dpkg import SystemFiles
from imagebuild.supply.packages import parse_metadata
from imagebuild.wheel.installed import is_in_site


class RecordAudit(msgspec.Struct):
    """What comparing found. ``owners``: path -> the distribution that lists it."""

    owners: dict[str, str] = {}
    faults: list[str] = []
    checked: int = 0  # files whose hash was compared
    unhashed: int = 0  # files listed without a hash: bytecode, RECORD itself


def list_distributions(facts: ScannedLayer) -> dict[str, str]:
    """Normalised name -> version of every distribution whose metadata is in the layer."""
    from packaging.utils import canonicalize_name

    found = {}
    for data in facts.metadata.values():
        headers = parse_metadata(data)
        found[str(canonicalize_name(str(headers.get("Name", ""))))] = str(headers.get("Version", ""))
    return found


def audit_records(facts: ScannedLayer, tree: Tree, system: SystemFiles | None = None, addons: tuple[str, ...] = ()) -> RecordAudit:
    """Every file that a RECORD of the layer lists, and every file of the layer under a site folder, against each other.

    A listed file that is not in the layer may be the base's own, with the same content. ``system`` owns what apt installed; ``addons``:
    folders, each with a slash at its end, whose files no RECORD lists.
    """
    audit = RecordAudit()
    resolved: dict[str, str] = {}
    for path, text in facts.records.items():
        info = posixpath.dirname(path)
        site, dist = posixpath.dirname(info), posixpath.basename(info).removesuffix(".dist-info")
        try:
            rows = list(csv.reader(text.decode("utf-8").splitlines()))
        except (UnicodeDecodeError, csv.Error) as error:
            audit.faults.append(f"{path}: cannot be read: {error}")
            continue
        for row in rows:
            if row:
                _check_row(audit, facts, tree, resolved, site, dist, row)
    for path in facts.files:
        if path in audit.owners or not is_in_site(path) or path.startswith(addons) or (system is not None and system.owns(path)):
            continue
        folder, cache, name = path.rpartition("/__pycache__/")
        source = f"{folder}/{name.partition('.')[0]}.py" if cache and name.endswith(".pyc") else ""
        if source not in audit.owners:
            audit.faults.append(f"{path}: in no RECORD")
    return audit


def _check_row(audit: RecordAudit, facts: ScannedLayer, tree: Tree, resolved: dict[str, str], site: str, dist: str, row: list[str]) -> None:
    wanted = posixpath.normpath(posixpath.join(site, row[0]))
    folder, name = posixpath.split(wanted)
    if folder not in resolved:
        resolved[folder] = tree.resolve(folder)
    path = posixpath.join(resolved[folder], name)
    audit.owners[path] = dist
    promised = row[1] if len(row) > 1 else ""
    found = facts.files.get(path)
    if not promised:
        audit.unhashed += 1
        if not (path.endswith(".pyc") or name in ("RECORD", "RECORD.jws", "RECORD.p7s")):
            audit.faults.append(f"{path}: the RECORD of {dist} gives no hash")
        return
    algorithm, _, text = promised.partition("=")
    try:
        digest = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        digest = b""
    if algorithm != "sha256" or len(digest) != 32:
        audit.faults.append(f"{path}: the RECORD of {dist} gives no SHA-256")
        return
    if found is None:
        below = tree.get(path)
        if below is None or below.type != "file" or below.sha256 != digest.hex():
            audit.faults.append(f"{path}: listed in the RECORD of {dist}, and missing")
        return
    audit.checked += 1
    if found.sha256 != digest:
        audit.faults.append(f"{path}: not as in the RECORD of {dist}")
