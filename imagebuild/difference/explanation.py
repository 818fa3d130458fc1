"""Why a team's tag is what it is: the inputs of its recipe beside those of the team's last image."""

from __future__ import annotations

from typing import Any

import msgspec

from imagebuild import annotations as names
from imagebuild.catalogue.lookup import FoundImage
from imagebuild.lock.file.changes import LockChanges, compare_locks, list_rules
from imagebuild.lock.file.model import Lock
from imagebuild.recipe import Recipe

# Other inputs imply these: a change of these alone is not listed.
_DERIVED = {
    names.CREATED,
    names.VERSION,
    names.KEY,
    names.LOCK,
    names.PACKAGES,
    names.ADDONS,
    names.BASE_DIGEST,
    names.QUARTER,
    names.FORMAT,
    names.LAYERS,
}
_SHOWN = 60  # characters of a value


class Reason(msgspec.Struct, frozen=True):
    """One input that is another one."""

    input: str
    before: str
    after: str
    details: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """``tag`` is what would be built now; ``last`` what was pushed, empty for nothing."""

    team: str
    tag: str
    last: str
    last_digest: str
    reasons: tuple[Reason, ...]
    complete: bool  # the last image's recipe was there; else only its annotations were
    pushed: bool  # the tag is the last image's


def explain_recipe(recipe: Recipe, lock: Lock, last: FoundImage | None, last_recipe: Recipe | None, last_lock: Lock | None) -> Explanation:
    """Compare the planned recipe with that of the last image, as far as that is known."""
    if last is None:
        return Explanation(recipe.team, recipe.tag, "", "", (Reason("image", "", recipe.tag, ("nothing was pushed before",)),), True, False)
    tag = last.annotations.get(names.VERSION, last.name)
    reasons = _compare_packages(recipe, lock, last, last_recipe, last_lock)
    if last_recipe is not None:
        reasons += _compare_recipes(last_recipe, recipe)
    else:
        reasons += _compare_mappings("label", {k: last.annotations.get(k, "") for k in recipe.annotations}, recipe.annotations)
        old = last.annotations.get(names.BASE_DIGEST, "")
        new = recipe.annotations.get(names.BASE_DIGEST, "")
        reasons += [Reason("base", old, new)] if old != new else []
    return Explanation(recipe.team, recipe.tag, tag, str(last.digest), tuple(reasons), last_recipe is not None, tag == recipe.tag)


def _compare_packages(recipe: Recipe, lock: Lock, last: FoundImage, last_recipe: Recipe | None, last_lock: Lock | None) -> list[Reason]:
    old, new = last.annotations.get(names.LOCK, ""), recipe.annotations.get(names.LOCK, "")
    if last_lock is None:
        if last_recipe is not None and last_recipe.packages != recipe.packages:
            return [Reason("packages", old, new, _compare_files(last_recipe, recipe))]
        return [Reason("lock", old, new)] if old != new else []
    reasons = []
    changed = sorted({*last_lock.inputs, *lock.inputs} - {key for key in lock.inputs if last_lock.inputs.get(key) == lock.inputs[key]})
    if changed:
        reasons.append(Reason("input files", "", "", tuple(f"{name} changed" for name in changed)))
    reasons += [Reason(name, one, other) for name, one, other in list_rules(last_lock, lock) if one != other]
    changes = compare_locks(last_lock, lock)
    if changes.packages:
        reasons.append(Reason("packages", str(len(last_lock.packages)), str(len(lock.packages)), list_package_changes(changes)))
    elif old != new and not changed:
        reasons.append(Reason("lock", old, new, tuple(f"{fact.name}: {fact.before} > {fact.after}" for fact in changes.facts)))
    return reasons


def list_package_changes(changes: LockChanges) -> tuple[str, ...]:
    """One line for each package that was added, removed or changed."""
    lines = []
    for item in changes.packages:
        versions = " > ".join(side.version for side in (item.before, item.after) if side is not None)
        lines.append(f"{item.name} {versions} {item.kind}{', asked for' if item.direct else ''}")
    return tuple(lines)


def _compare_files(before: Recipe, after: Recipe) -> tuple[str, ...]:
    old, new = dict(before.packages), dict(after.packages)
    gone = [f"{name} gone" for name in old if name not in new]
    return (*gone, *(f"{name} {'other bytes' if name in old else 'new'}" for name, sha256 in new.items() if old.get(name) != sha256))


def _compare_recipes(before: Recipe, after: Recipe) -> list[Reason]:
    """Every field but the packages, which the locks describe better."""
    reasons = []
    old, new = msgspec.to_builtins(before, enc_hook=str), msgspec.to_builtins(after, enc_hook=str)
    for field in msgspec.structs.fields(Recipe):
        name = field.name
        one, other = old.get(name), new.get(name)
        if one == other or name in ("packages", "addons", "constraints", "annotations", "environment"):
            continue
        if name == "layers":
            one, other = str(len(before.layers) or 1), str(len(after.layers) or 1)
            if one == other:  # then it is the packages in them, which are compared by themselves
                continue
        reasons.append(Reason(_NAMES.get(name, name), _show(one), _show(other)))
    reasons += _compare_mappings("environment", before.environment, after.environment)
    reasons += _compare_mappings("label", before.annotations, after.annotations)
    if bool(before.constraints) != bool(after.constraints):
        reasons.append(Reason("personal-constraints", str(bool(before.constraints)).lower(), str(bool(after.constraints)).lower()))
    return reasons


_NAMES = {
    "base_digest": "base",
    "created": "cutoff",
    "codec": "compression",
    "system": "system packages",
    "layer_format": "layer format",
    "format": "recipe format",
    "scripts": "form of scripts",
    "slim_rules": "rules of slim",
    "files": "owners of files",
}


def _compare_mappings(what: str, before: dict[str, str], after: dict[str, str]) -> list[Reason]:
    keys = sorted({*before, *after} - _DERIVED)
    return [
        Reason(f"{what} {_shorten_key(key)}", _show(before.get(key, "")), _show(after.get(key, "")))
        for key in keys
        if before.get(key, "") != after.get(key, "")
    ]


def _shorten_key(key: str) -> str:
    return key.removeprefix(names.PREFIX).removeprefix("org.opencontainers.image.")


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return str(value)


def format_explanation(item: Explanation) -> str:
    """The explanation as text: the tag, and a line for each input that changed."""
    if item.pushed:
        lines = [f"{item.team}: {item.tag} is the team's last image, {item.last_digest[:19]}: nothing changed"]
    elif not item.last:
        lines = [f"{item.team}: {item.tag} would be the team's first image"]
    else:
        lines = [f"{item.team}: {item.tag} would be built; the last image is {item.last}, {item.last_digest[:19]}"]
    for reason in item.reasons if item.last else ():
        values = f"{_cut(reason.before) or '-'} > {_cut(reason.after) or '-'}" if reason.before or reason.after else ""
        lines.append(f"  {reason.input:<22}  {values}".rstrip())
        lines += [f"    {detail}" for detail in reason.details]
    if item.last and not item.reasons and not item.pushed:
        lines.append("  no input that is known here: another version of imagebuild made it")
    if not item.complete and not item.pushed:
        lines.append("note: the last image travels without its recipe; only its labels could be compared")
    return "\n".join(lines) + "\n"


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    if flat.startswith("sha256:") and len(flat) == 71:
        return flat[:19]
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"
