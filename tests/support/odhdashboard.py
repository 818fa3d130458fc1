"""What the dashboard of Open Data Hub and OpenShift AI reads of an ImageStream, rule by rule: written from its behaviour, not its code.

A stream here is what was applied; ``import_stream`` adds what OpenShift makes of it.
"""

from __future__ import annotations

import copy
import json
from typing import Any, Literal

Stream = dict[str, Any]
Standing = Literal["latest", "deprecated", "deleted", ""]
_ODH = "opendatahub.io/"
_LAST_IMAGE = "notebooks.opendatahub.io/last-image-selection"
_LAST_COMMIT = "notebooks.opendatahub.io/last-image-version-git-commit-selection"


def import_stream(stream: Stream, internal: str = "") -> Stream:
    """OpenShift's status: each tag imported; ``internal``: its own registry, where there is one."""
    done = copy.deepcopy(stream)
    done["status"] = {
        **({"dockerImageRepository": f"{internal}/odh/{stream['metadata']['name']}"} if internal else {}),
        "tags": [{"tag": tag["name"], "items": [{"dockerImageReference": tag["from"]["name"]}]} for tag in stream["spec"]["tags"]],
    }
    return done


def is_enabled(stream: Stream) -> bool:
    """Whether it is listed for a new workbench."""
    return bool(stream["metadata"].get("labels", {}).get(f"{_ODH}notebook-image") == "true")


def show_stream(stream: Stream) -> tuple[int, str, str]:
    """(order, name, description): streams are sorted by the first, 100 where it is missing."""
    notes = stream["metadata"].get("annotations", {})
    order = notes.get(f"{_ODH}notebook-image-order") or "100"
    name = notes.get(f"{_ODH}notebook-image-name") or stream["metadata"]["name"]
    return int(order), name, notes.get(f"{_ODH}notebook-image-desc", "")


def list_accelerators(stream: Stream) -> list[str]:
    """Resources that it is recommended for: JSON, and what is none is as good as nothing."""
    text = stream["metadata"].get("annotations", {}).get(f"{_ODH}recommended-accelerators")
    found = json.loads(text) if text else []
    return found if isinstance(found, list) else []


def _note(tag: Stream, name: str) -> str | None:
    found: str | None = tag.get("annotations", {}).get(_ODH + name)
    return found


def list_versions(stream: Stream) -> list[Stream]:
    """Tags that can be chosen, as they are listed: imported, with no word about being outdated; the recommended one first."""
    imported = {tag["tag"] for tag in stream["status"]["tags"]}
    tags = [tag for tag in stream["spec"]["tags"] if not _note(tag, "image-tag-outdated") and tag["name"] in imported]
    tags.sort(key=lambda tag: str(tag["name"]), reverse=True)
    return sorted(tags, key=lambda tag: _note(tag, "workbench-image-recommended") != "true")


def show_version(tag: Stream) -> tuple[str, str, list[str]]:
    """(its line, the software below it, the packages in its tooltip)."""
    commit = _note(tag, "notebook-build-commit")
    lists = [_read_list(_note(tag, name)) for name in ("notebook-software", "notebook-python-dependencies")]
    return f"{tag['name']} {f'({commit})' if commit else ''}".rstrip(), ", ".join(lists[0]), lists[1]


def _read_list(text: str | None) -> list[str]:
    found = []
    for item in json.loads(text or "[]"):
        version = item["version"].removeprefix("v")
        found.append(f"{item['name']} {'v' if version else ''}{version}".rstrip())
    return found


def start_workbench(stream: Stream, tag: Stream) -> dict[str, Any]:
    """The Notebook of a version: with the registry that is inside, or else with what the tag names, as the controller puts it in."""
    repository = stream["status"].get("dockerImageRepository")
    image = f"{repository}:{tag['name']}" if repository else tag["from"]["name"]
    notes = {_LAST_IMAGE: f"{stream['metadata']['name']}:{tag['name']}", _LAST_COMMIT: _note(tag, "notebook-build-commit") or ""}
    container = {"name": "workbench", "image": image}
    return {"metadata": {"name": "workbench", "annotations": notes}, "spec": {"template": {"spec": {"containers": [container]}}}}


def judge_workbench(notebook: dict[str, Any], streams: list[Stream]) -> Standing:
    """What stands beside a workbench's image."""
    image = notebook["spec"]["template"]["spec"]["containers"][0]["image"]
    notes = notebook["metadata"]["annotations"]
    selected, _, selected_tag = notes[_LAST_IMAGE].partition(":")
    name, colon, version = image.rpartition("/")[2].partition(":")
    if not colon:
        return "deleted"
    found = [(one, tag) for one in streams if one["metadata"]["name"] == name for tag in one["spec"]["tags"] if tag["name"] == version]
    if not found:
        own = [one for one in streams if one["metadata"]["name"] == selected]
        found = [(one, tag) for one in own for tag in one["spec"]["tags"] if tag["from"]["name"] == image]
    if not found:
        pulled = [one for one in streams for tag in one["status"]["tags"] if {"dockerImageReference": image} in tag["items"]]
        found = [(one, tag) for one in pulled for tag in one["spec"]["tags"] if tag["name"] == selected_tag]
    if not found:
        return "deleted"
    stream, tag = found[0]
    commits = [_note(one, "notebook-build-commit") for one in stream["spec"]["tags"]]
    if _note(tag, "image-tag-outdated") == "true" or notes[_LAST_COMMIT] not in commits:
        return "deprecated"
    return "latest" if _note(tag, "workbench-image-recommended") == "true" else ""
