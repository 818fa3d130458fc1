"""Our part of a jupyter-web-app's form that is there already: images, the pools' devices, affinities and tolerations."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from imagebuild.emit.forms.kubeflow import (
    GPU,
    describe_group,
    describe_rest,
    list_affinities,
    list_tolerations,
    list_vendors,
    warn_of_names,
)  # fmt: skip
from imagebuild.emit.forms.offers import Offer
from imagebuild.emit.manifest.merging import (
    EditedFile,
    append_items,
    arrange_items,
    drop_key,
    get_list,
    get_mapping,
    merge_items,
    rewrite_comment,
    set_value,
)  # fmt: skip
from imagebuild.emit.manifest.schemas import SPAWNER_DEFAULTS, check_shape
from imagebuild.emit.manifest.yaml import clean_comment
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Reference
from imagebuild.servers import SERVERS

_FILE = "spawner_ui_config.yaml"
_OWN_COMMENT = re.compile(r"(?P<indent> *)#   (?P<team>[^:\s]+): .* \([0-9]{4}q[1-4][^()]*\)\n")  # a line of describe_group's


def merge_spawner_form(file: EditedFile, offers: Sequence[Offer], pools: Sequence[Pool]) -> tuple[str, ...]:
    """``offers``: every image of the listed teams, those too that are no longer offered. Returns warnings.

    ConfigurationError for a file without such a form; a ConfigMap around it is taken too.
    """
    form = _merge_form(file, offers, pools)
    shown = [offer for offer in offers if offer.is_offered]
    return (*warn_of_names(shown, form), *_warn_of_devices(form, pools))


def _merge_form(file: EditedFile, offers: Sequence[Offer], pools: Sequence[Pool]) -> Any:
    """Returns what stands under ``spawnerFormDefaults`` by now."""
    for document in file.documents:
        if "spawnerFormDefaults" in document:
            form = get_mapping(document, "spawnerFormDefaults", file.name)
            _merge_defaults(form, offers, pools, file.name)
            return form
        data = document.get("data") if document.get("kind") == "ConfigMap" else None
        if isinstance(data, dict) and isinstance(data.get(_FILE), str):
            from ruamel.yaml.scalarstring import LiteralScalarString

            inner = EditedFile(data[_FILE], f"{file.name}: {_FILE}")
            form = _merge_form(inner, offers, pools)
            held = getattr(data[_FILE], "comment", None)
            data[_FILE] = LiteralScalarString(inner.render())
            data[_FILE].comment = held
            return form
    raise ConfigurationError(
        f"{file.name} has no spawnerFormDefaults", "merge into the jupyter-web-app's spawner_ui_config.yaml, or its ConfigMap"
    )


def _merge_defaults(form: Any, offers: Sequence[Offer], pools: Sequence[Pool], where: str) -> None:
    """Switches that are set stay set. Of the images only those of the teams' own repositories are touched."""
    check_shape(form, SPAWNER_DEFAULTS, f"{where}: spawnerFormDefaults")
    for key, value in (("allowCustomImage", False), ("hideRegistry", True), ("hideTag", False)):
        if key not in form:
            set_value(form, key, value)
    if "imagePullPolicy" not in form:
        set_value(form, "imagePullPolicy", {"readOnly": True, "value": "IfNotPresent"})
    ours, teams = {offer.reference.name for offer in offers}, {offer.entry.team for offer in offers}
    for kind, server in SERVERS.items():
        key, group = server.form_key, [offer for offer in offers if offer.is_offered and offer.entry.kind == kind]
        if group or key in form or key == "image":
            _merge_group(form, key, [str(offer.reference) for offer in group], ours, where)
        if key in form and key != next(iter(form)):
            lines = describe_group(server.title, group)[1:]
            rewrite_comment(form, key, functools.partial(_refresh_comment, lines=lines, teams=teams))
    _merge_vendors(form, pools, where)
    sections = (("affinityConfig", "configKey", list_affinities(pools)), ("tolerationGroup", "groupKey", list_tolerations(pools)))
    for key, name, items in sections:
        section = get_mapping(form, key, where)
        if "readOnly" not in section:
            set_value(section, "readOnly", False)
        if "value" not in section:
            set_value(section, "value", "")
        get_list(section, "options", where)
        merge_items(section, "options", items, name)


def _refresh_comment(text: str, *, lines: Sequence[str], teams: set[str]) -> str:
    """The list of images above a group, where this program wrote one: the lines of these teams anew; others stay."""
    found = [match for match in _OWN_COMMENT.finditer(text) if match["team"] in teams]
    if not found:
        return text
    listed = "".join(f"{found[0]['indent']}# {clean_comment(line)}\n" for line in lines)
    rest = _OWN_COMMENT.sub(lambda match: "" if match["team"] in teams else match[0], text[found[0].start() :])
    return text[: found[0].start()] + listed + rest


def _merge_vendors(form: Any, pools: Sequence[Pool], where: str) -> None:
    """The pools' devices, so that they can be chosen; a vendor that is there keeps its name."""
    if form.get("gpus") is None:
        set_value(form, "gpus", describe_rest(pools)["gpus"])
        return
    gpus = get_mapping(form, "gpus", where)
    value = get_mapping(gpus, "value", f"{where}: gpus")
    for key, plain in (("vendor", ""), ("num", "none")):
        if key not in value:
            set_value(value, key, plain)
    held = get_list(value, "vendors", f"{where}: gpus")
    present = {str(item.get("limitsKey")) for item in held if isinstance(item, dict)}
    wanted = [vendor for vendor in list_vendors(pools) if vendor["limitsKey"] != GPU or _asks_gpu(pools)]
    append_items(value, "vendors", [vendor for vendor in wanted if vendor["limitsKey"] not in present])


def _warn_of_devices(form: Mapping[str, Any], pools: Sequence[Pool]) -> tuple[str, ...]:
    gpus = form["gpus"]
    if not gpus.get("readOnly") or not any(pool.notebook.gpu for pool in pools):
        return ()
    return ("gpus is readOnly in the form: nobody can choose the devices of the pools; readOnly: false lets them",)


def _asks_gpu(pools: Sequence[Pool]) -> bool:
    return any(pool.notebook.gpu and pool.notebook.resource == GPU for pool in pools)


def _merge_group(form: Any, key: str, wanted: Sequence[str], ours: set[str], where: str) -> None:
    """An option of ours takes the place of the one it follows: of the same image, else the next of its repository."""
    group = get_mapping(form, key, where)
    present = [str(option) for option in get_list(group, "options", where)]
    others = [option for option in present if _find_name(option) not in ours]
    if not others and not wanted and key != "image":
        drop_key(form, key)  # an empty group is a button that leads nowhere
        return
    plan = _place_options(present, wanted, ours)
    if [option for option, _ in plan] != present:
        held = group["options"]
        plain = [(held[place] if place is not None and present[place] == option else option, place) for option, place in plan]
        arrange_items(group, "options", plain)
    options = [str(option) for option in group["options"]]
    chosen = str(group.get("value") or "")
    if chosen not in options:
        same = [option for option in wanted if _find_name(option) == _find_name(chosen)]
        set_value(group, "value", [*same, *wanted, *options, ""][0])


def _place_options(present: Sequence[str], wanted: Sequence[str], ours: set[str]) -> list[tuple[str, int | None]]:
    """(option, the place it has or takes over; None for a new one, which comes after the last of its repository)."""
    fresh = [option for option in wanted if option not in present]
    stale = [place for place, option in enumerate(present) if _find_name(option) in ours and option not in wanted]
    taken: dict[int, str] = {}
    for same_image in (True, False):
        for place in stale:
            old = present[place]
            heir = next((new for new in fresh if _find_name(new) == _find_name(old) and (not same_image or _same_digest(new, old))), None)
            if place not in taken and heir is not None:
                taken[place] = heir
                fresh.remove(heir)
    plan: list[tuple[str, int | None]] = [
        (taken.get(place, option), place) for place, option in enumerate(present) if place not in stale or place in taken
    ]
    for option in fresh:
        own = [number for number, (other, _) in enumerate(plan, 1) if _find_name(other) == _find_name(option)]
        plan.insert(own[-1] if own else len(plan), (option, None))
    return plan


def _same_digest(one: str, other: str) -> bool:
    return one.partition("@")[2] == other.partition("@")[2] != ""


def _find_name(option: str) -> str:
    """Registry and repository of a reference; empty for an invalid one."""
    try:
        return Reference.parse(option.strip()).name
    except ConfigurationError:
        return ""
