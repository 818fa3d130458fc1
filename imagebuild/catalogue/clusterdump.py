"""Reading what was gathered of a cluster, of a JupyterHub, or by hand.

A dump is what kubectl prints, between two lines of our own that say when it was begun, what the cluster has and was asked for, and that
kubectl came to its end (:mod:`imagebuild.catalogue.clusterkinds`). A plain ``kubectl get -o json`` is read as well: of it nobody knows
what was asked for, so each kind that it has no object of has to be answered for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.catalogue.clusterkinds import BEGIN, END, find_lacking, find_unasked, group_resources
from imagebuild.decoding import check_depth
from imagebuild.errors import ConfigurationError
from imagebuild.text import name_some

HINT = "write it again with the command that imagebuild retire --print-kubectl prints, and check that it succeeded"
HUB_USER, REFERENCE = "JupyterHub user", "reference"  # kinds of what is not an object of a cluster
_REFERENCE = re.compile(r"(?=.*[:@-])[A-Za-z0-9][A-Za-z0-9._:/@-]*")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)")
# Keys of times that had come when the dump was made. Others (an expiry, a deletion's deadline) may lie ahead of it.
_PAST = frozenset(
    {
        *("creationTimestamp", "time", "lastTransitionTime", "lastProbeTime", "lastUpdateTime", "lastHeartbeatTime", "lastScheduleTime"),
        *("lastSuccessfulTime", "startTime", "startedAt", "finishedAt", "completionTime", "last_activity", "created", "started"),
    }
)
_SKEW = timedelta(hours=1)  # that two machines' clocks may differ by
_PAGE = 50  # users of one page, as JupyterHub comes; its most is 200


class ClusterDump(msgspec.Struct, frozen=True):
    """What one file says. ``whole``: it is of a cluster, not a list of references or a hub's users, which add to one."""

    objects: tuple[dict[str, Any], ...]
    whole: bool
    warnings: tuple[str, ...] = ()  # what could make it say less than there is


def read_dump(path: Path, without: frozenset[str], now: datetime, max_age: timedelta) -> ClusterDump:
    """Read one file: a dump, a plain kubectl list, the users of a JupyterHub (``GET /hub/api/users``), or one reference a line.

    ConfigurationError when it is cut short, a page of several, empty, older than ``max_age``, or lacks a kind that ``without`` (resources)
    does not excuse.
    """
    try:
        data = path.read_bytes()
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", HINT) from None
    if data.lstrip()[:1] not in (b"{", b"["):
        found, taken = _read_references(path, data), changed
    else:
        found, taken = _read_json(path, data, without, now, changed)
    if taken > now + _SKEW:
        raise ConfigurationError(
            f"{path} is of {taken:%Y-%m-%d %H:%M} UTC, which is in the future", "set the clock of this machine, or of the one that wrote it"
        )
    if now - taken > max_age:
        raise ConfigurationError(
            f"{path} is too old: it was taken at {taken:%Y-%m-%d %H:%M} UTC; it does not show what came into use since",
            f"{HINT}; if nothing has changed since, add --max-age",
        )
    return found


def walk_texts(value: Any) -> Iterator[str]:
    """Every string in it, keys as well."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple):
            pending += found


def _read_json(path: Path, data: bytes, without: frozenset[str], now: datetime, changed: datetime) -> tuple[ClusterDump, datetime]:
    """The dump, and when it was made: as it says, or else the older of the newest time in it and of ``changed``, the file's own. A copy is
    younger than what it holds, and in a quiet cluster nothing happens."""
    documents = _read_documents(path, data)
    users = _find_hub_users(path, documents)
    if users is not None:
        stopped = any(server.get("stopped") for user in users for server in user["servers"].values())
        warnings = () if stopped else (f"{path} names no stopped server: was the hub asked with include_stopped_servers?",)
        return ClusterDump(users, False, warnings), min(changed, _find_newest(users, now) or changed)
    begin = documents[0] if isinstance(documents[0], dict) and documents[0].get("kind") == BEGIN else None
    if begin is not None and (len(documents) != 3 or documents[-1] != {"kind": END}):
        raise ConfigurationError(f"{path} was cut short, or is several dumps: give one --in-use for each cluster", HINT)
    if begin is None and len(documents) != 1:
        raise ConfigurationError(f"{path} is not one list of objects as kubectl prints it", HINT)
    objects = tuple(_flatten(path, documents[1 if begin is not None else 0]))
    if not objects:
        raise ConfigurationError(f"{path} is empty: nothing can be said about what is in use", HINT)
    if begin is not None:
        taken = _parse_time(str(begin.get("taken")))
        if taken is None:
            raise ConfigurationError(f"{path} does not say when it was made", HINT)
        has, asked = (tuple(filter(None, str(begin.get(key, "")).split(","))) for key in ("has", "asked"))
        unasked = find_unasked(has, asked, without)
        if unasked:
            _refuse_lack(path, unasked)
        return ClusterDump(objects, True), taken
    lacking = find_lacking([(str(item.get("apiVersion", "")), str(item.get("kind", ""))) for item in objects], without)
    if lacking:
        _refuse_lack(path, [kind.resource for kind in lacking])
    spaces = {about.get("namespace") for item in objects if isinstance(about := item.get("metadata"), dict)} - {None, ""}
    warnings = (f"{path} holds the objects of one namespace, {spaces.pop()}: was kubectl asked with -A?",) if len(spaces) == 1 else ()
    newest = _find_newest(objects, now)
    if newest is None:
        raise ConfigurationError(f"{path} does not say when it was made", HINT)
    return ClusterDump(objects, True, warnings), min(changed, newest)


def _refuse_lack(path: Path, names: Sequence[str]) -> None:
    raise ConfigurationError(
        f"{path} has no {name_some(names)}: an image that only those use would be taken for unused",
        f"{HINT}; or, for kinds that this cluster lacks or has none of: --without {','.join(group_resources(names)[:14])}",
    )


def _read_documents(path: Path, data: bytes) -> list[Any]:
    """JSON documents, one after the other."""
    decoder, found, place = json.JSONDecoder(), [], 0
    try:
        text = data.decode("utf-8").strip()
        while place < len(text):
            document, place = decoder.raw_decode(text, place)
            check_depth(document)
            found.append(document)
            while place < len(text) and text[place].isspace():
                place += 1
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is not JSON, or was cut short", HINT) from None
    return found


def _flatten(path: Path, document: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list, and of lists in it; of a list of one kind (``PodList``), whose items do not say it, with that kind."""
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list) or not str(document.get("kind", "")).endswith("List"):
        raise ConfigurationError(f"{path} is not a list of objects as kubectl prints it", HINT)
    about = document.get("metadata") or {}
    if not isinstance(about, dict) or about.get("continue") or about.get("remainingItemCount"):
        raise ConfigurationError(f"{path} is one page of several", HINT)
    kind = str(document["kind"]).removesuffix("List")
    for item in items:
        if not isinstance(item, dict):
            raise ConfigurationError(f"{path} has an item that is not an object", HINT)
        if str(item.get("kind", "")).endswith("List") and isinstance(item.get("items"), list):
            yield from _flatten(path, item)
        else:
            yield {"kind": kind, "apiVersion": document.get("apiVersion", ""), **item} if kind and "kind" not in item else item


def _find_hub_users(path: Path, documents: Sequence[Any]) -> tuple[dict[str, Any], ...] | None:
    """The users of a JupyterHub, as one list, or as all of its pages one after the other; None for anything else."""
    pages = [document for document in documents if isinstance(document, dict) and "_pagination" in document]
    users: Any = documents[0]
    whole = len(documents) == 1
    if pages:
        users = [user for page in pages for user in page.get("items") or ()]
        last = pages[-1]["_pagination"]
        whole = len(pages) == len(documents) and isinstance(last, dict) and not last.get("next") and last.get("total") == len(users)
    elif isinstance(users, list) and len(users) % _PAGE == 0:
        whole = False  # as many as a page has, or none
    if not isinstance(users, list):
        return None
    if not all(isinstance(user, dict) and "name" in user and _is_mapping_of_mappings(user.get("servers")) for user in users):
        raise ConfigurationError(
            f"{path} is neither a list of objects as kubectl prints it nor a list of a hub's users with their servers", HINT
        )
    if not whole:
        raise ConfigurationError(
            f"{path} is empty, or one page of several of a hub's users",
            "ask with Accept: application/jupyterhub-pagination+json and append page after page, until next is null; "
            "for a cluster, imagebuild retire --print-kubectl",
        )
    return tuple({**user, "kind": HUB_USER} for user in users)


def _is_mapping_of_mappings(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, dict) for item in value.values())


def _read_references(path: Path, data: bytes) -> ClusterDump:
    lines = [line.partition("#")[0].strip() for line in data.decode("utf-8", "replace").splitlines()]
    references = [line for line in lines if line]
    if not references or not all(_REFERENCE.fullmatch(line) for line in references):
        raise ConfigurationError(f"{path} is neither JSON nor a list of references, one a line", HINT)
    return ClusterDump(tuple({"kind": REFERENCE, "name": line} for line in references), False)


def _find_newest(objects: Sequence[dict[str, Any]], now: datetime) -> datetime | None:
    """The latest time at which anything is said to have happened."""
    found: list[datetime] = []
    pending: list[Any] = list(objects)
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            for key, value in item.items():
                moment = _parse_time(value) if key in _PAST and isinstance(value, str) else None
                found += [moment] if moment is not None and moment <= now + _SKEW else []
            pending += [value for value in item.values() if isinstance(value, dict | list)]
        elif isinstance(item, list):
            pending += item
    return max(found, default=None)


def _parse_time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if _TIME.fullmatch(text) else None
