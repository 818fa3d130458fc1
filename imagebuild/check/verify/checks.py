"""``imagebuild verify``: is a pushed image what it should be? From the registry alone: nothing is run, nothing is unpacked.

One function a fact, each given the :class:`~imagebuild.check.verify.evidence.Evidence` and answering with a finding; one table says
what is asked. What cannot be known of an image is skipped with the reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import get_args

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import name_addon
from imagebuild.check.finding import SHOWN, Finding, Status, judge_culprits
from imagebuild.check.verify.agreement import check_bom, check_lock, check_provenance, check_recipe
from imagebuild.check.verify.chunked import judge_contents
from imagebuild.check.verify.evidence import Evidence
from imagebuild.check.verify.layerscan import CAPABILITY
from imagebuild.check.verify.secrets import find_secrets
from imagebuild.check.verify.startup import judge_startup_files
from imagebuild.errors import IntegrityError
from imagebuild.supply.properties import REPAIRED
from imagebuild.table import format_table
from imagebuild.wheel.record import describe_faults

# --- the image ----------------------------------------------------------------------------------------------------------


def check_layers(evidence: Evidence) -> Finding:
    """Exactly one layer, or as many as are noted, over the base that the annotations name, in the manifest and in the config."""
    base, image = evidence.base, evidence.image
    if base.manifest is None or base.config is None:
        return Finding("skipped", base.problem)
    mine, its = image.config.rootfs.diff_ids, base.config.rootfs.diff_ids
    culprits = []
    if evidence.common < len(base.layers):
        culprits.append(f"layer {evidence.common + 1} of the base is not in the image")
    added = len(image.manifest.layers) - evidence.common
    name = image.annotations.get(names.BASE_NAME, "")
    if not evidence.ours and not culprits:
        return Finding("skipped", f"made by another builder: {added} layers over {name}")
    wanted = names.count_team_layers(image.manifest.annotations, len(image.manifest.layers))
    if added != wanted:
        culprits.append(f"{added} layers over the base's {evidence.common}")
    if mine[: len(its)] != its:
        culprits.append("the config's diff_ids do not begin with the base's")
    if len(mine) != len(image.manifest.layers):
        culprits.append(f"{len(image.manifest.layers)} layers, {len(mine)} diff_ids")
    history = image.config.history
    filled = sum(1 for entry in history if not entry.get("empty_layer")) if history is not None else len(mine)
    if filled != len(mine):
        culprits.append(f"{filled} history entries with a layer, {len(mine)} diff_ids")
    said = "one layer" if wanted == 1 else f"{wanted} layers"
    return judge_culprits(culprits, f"{said} over {name}", f"not {said} over " + name.replace("{", "{{").replace("}", "}}"))


def check_digests(evidence: Evidence) -> Finding:
    """What each added layer unpacks to is what the config promises; sizes are those annotated."""
    culprits = [f"unpacks to {found}, and the config promises {promised}" for promised, found in evidence.diff_ids if promised != found]
    noted = evidence.image.annotations.get(names.DELTA_COMPRESSED, "")
    if noted and noted != str(evidence.facts.size):
        culprits.append(f"{evidence.facts.size} bytes as stored, annotated are {noted}")
    installed = sum(item.size for item in evidence.facts.files.values())
    noted = evidence.image.annotations.get(names.DELTA_INSTALLED, "")
    if noted and noted != str(installed):
        culprits.append(f"{installed} bytes of files, annotated are {noted}")
    return judge_culprits(
        culprits, f"{evidence.facts.entries} entries, {evidence.facts.uncompressed} bytes unpacked", "{count} digests or sizes differ"
    )


def check_form(evidence: Evidence) -> Finding:
    """Names in plain form, each once, parents first, files and folders only."""
    culprits = evidence.faults("form", "parent", "type", "folder", "end")
    if not evidence.ours and culprits:
        return Finding("skipped", "made by another builder, which follows rules of its own")
    return judge_culprits(culprits, "every entry keeps the rules", "{count} entries break the layer's rules")


def check_base_files(evidence: Evidence) -> Finding:
    """No file of the base changed or removed, but by a declared ``replace``."""
    if evidence.base.base is None:
        return Finding("skipped", evidence.base.problem)
    replaced = f"replaced as declared: {', '.join(sorted(evidence.replaced))}" if evidence.replaced else "no file of the base changed"
    return judge_culprits(evidence.faults("base", "whiteout"), replaced, "{count} changes to the base")


def check_home(evidence: Evidence) -> Finding:
    """Nothing where a volume, or the runtime, hides it."""
    return judge_culprits(evidence.faults("hidden"), "nothing under the home or /tmp", "{count} files hidden when it runs")


def check_privileges(evidence: Evidence) -> Finding:
    """No setuid, setgid or sticky bit and no file capability on what was added.

    A Debian package may not bring such a bit either, although the build lets apt install it. Its file capability is listed and passes: the
    team asked for the package by name, and a pod that allows no new privileges, as smoke runs it, gains nothing from it.
    """
    culprits = evidence.faults("mode")
    known = {line.partition(": ")[0] for line in culprits}
    owners = evidence.system.owners if evidence.system is not None else {}
    listed = []
    for path, which in evidence.facts.privileged.items():
        if which == CAPABILITY and path in owners:
            listed.append(f"{path}: {which}, of the Debian package {owners[path]}")
        elif path not in known:
            culprits.append(f"{path}: {which}")
    if culprits or not listed:
        return judge_culprits(culprits, "none", "{count} files with such a bit")
    return Finding("passed", f"none but {len(listed)} of Debian packages", tuple(sorted(listed)[:SHOWN]))


def check_writable(evidence: Evidence) -> Finding:
    """Nothing that anyone may write."""
    return judge_culprits(evidence.faults("writable"), "none", "{count} paths that anyone may write")


def check_start(evidence: Evidence) -> Finding:
    """USER, ENTRYPOINT, CMD and the working folder are the base's."""
    if evidence.base.config is None:
        return Finding("skipped", evidence.base.problem)
    mine, its = evidence.image.config.container, evidence.base.config.container
    pairs = (
        ("USER", mine.user, its.user),
        ("ENTRYPOINT", mine.entrypoint, its.entrypoint),
        ("CMD", mine.cmd, its.cmd),
        ("WORKDIR", mine.working_dir, its.working_dir),
    )
    culprits = [f"{name} is {_show(found)}, in the base {_show(wanted)}" for name, found, wanted in pairs if found != wanted]
    return judge_culprits(culprits, f"USER {mine.user or 'root'}, as in the base", "{count} differ from the base")


def _show(value: object) -> str:
    return json.dumps(value) if value else "nothing"


def check_environment(evidence: Evidence) -> Finding:
    """The base's variables, and those the recipe adds; no token in one, nor in a label or the history."""
    image = evidence.image.config.container
    culprits = [f"{kind} in the image's config" for kind in find_secrets(evidence.image.config_data)]
    if evidence.base.config is None or evidence.recipe is None:
        if culprits:
            return judge_culprits(culprits, "", "{count} secrets in the config")
        return Finding("skipped", evidence.base.problem or "no recipe travels with the image: what was added is not known")
    wanted = {**evidence.base.config.container.environment, **evidence.recipe.environment}
    found = image.environment
    changed = sorted(name for name in {*wanted, *found} if wanted.get(name) != found.get(name))
    culprits += [f"{name}: neither as in the base nor as the recipe says" for name in changed]
    return judge_culprits(culprits, f"the base's, and {len(evidence.recipe.environment)} of the recipe", "{count} are wrong")


# --- what is installed --------------------------------------------------------------------------------------------------


def check_records(evidence: Evidence) -> Finding:
    """Every installed file has the hash of its RECORD, and none is in no RECORD."""
    audit = evidence.records
    if not evidence.facts.records and not audit.faults:
        return Finding("skipped", "no distribution with a RECORD was added")
    text = f"{audit.checked} files of {len(evidence.facts.records)} distributions have their RECORD's hash"
    found = judge_culprits(audit.faults, f"{text}; {audit.unhashed} need no hash (bytecode)", "{count} files are not as recorded")
    return (
        msgspec.structs.replace(found, details=(*found.details, *_list_repaired(evidence)[:SHOWN])) if found.status == "passed" else found
    )


def _list_repaired(evidence: Evidence) -> list[str]:
    """The wheels whose own RECORD was wrong, as the SBOM has it."""
    lines = []
    for document in evidence.boms:  # what travels with an image is anybody's JSON
        for component in _list_mappings(document.get("components")):
            for item in _list_mappings(component.get("properties")):
                if item.get("name") == REPAIRED and re.fullmatch(r"[1-9][0-9]{0,6}", str(item.get("value"))):
                    count = describe_faults(int(str(item["value"])))
                    lines.append(f"the wheel of {component.get('name')} {component.get('version')}: {count}; the image's is right")
    return lines


def _list_mappings(value: object) -> list[dict[str, object]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def check_secrets(evidence: Evidence) -> Finding:
    """No credentials: files named so, tokens and private keys in texts, passwords in settings.

    What a wheel of an index brings was published there before (a test's key, an example): it is listed and does not fail. Without a
    lock that is believed of recorded files in a test folder only.
    """
    published = {item.name: item.index != "local" for item in evidence.lock.packages} if evidence.lock is not None else None
    wrong = {fault.partition(": ")[0] for fault in evidence.records.faults}
    culprits: list[str] = []
    listed: list[str] = []
    folders = {
        f"{item.folder}/": name_addon(lock.kind, item.name) for lock in evidence.addons for item in lock.addons if item.index != "local"
    }
    for path, kinds in evidence.facts.secrets.items():
        addon = next((name for folder, name in folders.items() if path.startswith(folder)), "")
        owner = addon or evidence.records.owners.get(path, "").rpartition("-")[0].replace("_", "-").replace(".", "-").lower()
        line = f"{path}: {', '.join(kinds)}"
        known = (
            bool(addon) or published.get(owner, False) if published is not None else bool(owner) and ("/test/" in path or "/tests/" in path)
        )
        if known and path not in wrong:
            listed.append(f"{line} (published in {owner})")
        else:
            culprits.append(line)
    if culprits:
        return judge_culprits(culprits, "", "{count} files look like credentials")
    searched = len(evidence.facts.files) - evidence.facts.unread
    return Finding("passed", f"none in {searched} text files; {evidence.facts.unread} binaries not searched", tuple(sorted(listed)[:SHOWN]))


def check_startup_files(evidence: Evidence) -> Finding:
    """See :func:`imagebuild.check.verify.startup.judge_startup_files`; the Python is the base's, else the lock's."""
    base = evidence.base.base
    interpreter = base.inventory.interpreter if base is not None else None
    python = interpreter.version if interpreter is not None else evidence.lock.python if evidence.lock is not None else ""
    return judge_startup_files(evidence.facts.startup_files, python, evidence.allowed_startup)


# --- the table ----------------------------------------------------------------------------------------------------------


class Check(msgspec.Struct, frozen=True):
    """One line of the table."""

    name: str
    find: Callable[[Evidence], Finding]


CHECKS = (
    Check("one layer over the base", check_layers),
    Check("diff_id and sizes", check_digests),
    Check("layer rules", check_form),
    Check("files of the base", check_base_files),
    Check("nothing under the home", check_home),
    Check("RECORD", check_records),
    Check("secrets", check_secrets),
    Check("setuid", check_privileges),
    Check("world-writable", check_writable),
    Check(".pth", check_startup_files),
    Check("user and start command", check_start),
    Check("environment", check_environment),
    Check("lock", check_lock),
    Check("recipe", check_recipe),
    Check("SBOM", check_bom),
    Check("provenance", check_provenance),
)


class VerifyRow(msgspec.Struct, frozen=True):
    """One answer, with the check's name."""

    check: str
    status: Status
    text: str
    details: tuple[str, ...] = ()


class VerifyReport(msgspec.Struct, frozen=True):
    """All of it."""

    image: str
    digest: str
    rows: tuple[VerifyRow, ...]

    def count(self, status: Status) -> int:
        """How many ended so."""
        return sum(row.status == status for row in self.rows)

    def raise_failures(self, *, strict: bool = False) -> None:
        """IntegrityError that names every failed check (``strict``: and every skipped one); nothing when there is none."""
        wrong = [row.check for row in self.rows if row.status == "failed" or (strict and row.status == "skipped")]
        if wrong:
            raise IntegrityError(
                f"{self.image} failed {len(wrong)} of {len(self.rows)} checks: {', '.join(wrong)}",
                "do not run it before you know why; `imagebuild image TEAM` builds it from the team's files",
            )


def verify_evidence(evidence: Evidence, further: Sequence[VerifyRow] = ()) -> VerifyReport:
    """Ask everything in the table; ``further`` rows come after."""
    rows = []
    for item in CHECKS:
        found = item.find(evidence)
        rows.append(VerifyRow(item.name, found.status, found.text, found.details))
    if evidence.facts.chunked is not None:
        found = judge_contents(evidence.facts.chunked)
        rows.append(VerifyRow("zstd:chunked", found.status, found.text, found.details))
    return VerifyReport(evidence.image.name, str(evidence.image.digest), (*rows, *further))


def format_verify_report(report: VerifyReport) -> str:
    """The table, one line a check, and a line that sums it up."""
    rows = []
    for row in report.rows:
        rows += [(row.check, row.status, row.text), *(("", "", detail) for detail in row.details)]
    lines = [f"{report.image}", f"  digest  {report.digest}", *format_table(rows, least=(0, 7))]
    counts = ", ".join(f"{report.count(status)} {status}" for status in get_args(Status) if report.count(status))
    return "\n".join([*lines, counts]) + "\n"


def encode_verify_report(report: VerifyReport) -> str:
    """The report as JSON: its fields, and ``ok``."""
    return json.dumps({**msgspec.to_builtins(report), "ok": not report.count("failed")}, indent=2) + "\n"
