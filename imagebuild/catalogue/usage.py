"""What clusters use, from dumps of their objects (:mod:`imagebuild.catalogue.clusterdump`).

Every string of every object counts, wherever it stands: an image's name in a pod, a stopped notebook, a CronJob that runs once a quarter,
an image volume, the digest in a pod's status, a manifest in an annotation, the ``imageConfig`` of a paused Workspace. So nothing that is
in use is missed because it is written in a new place; at worst an image stays that is only talked about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.catalogue.clusterdump import HINT, read_dump, walk_texts
from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.errors import ConfigurationError

_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_TAG = re.compile(r":([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})|\b([0-9]{4}q[1-4]-[0-9a-f]{12})\b")
_ID = re.compile(
    r"(?<![a-z0-9-])([a-z0-9]+(?:-[a-z0-9]+)*-[0-9a-f]{12})(?![0-9a-z])"
)  # our id in a WorkspaceKind: team, digits of the digest


class Usage(msgspec.Struct, frozen=True):
    """What dumps name, each with the first object that names it (``CronJob alice/train``), and how many objects of each kind there are."""

    digests: dict[str, str] = {}  # sha256:...
    tags: dict[str, str] = {}
    ids: dict[str, str] = {}  # cosml-3f9c1a7b2d4e: a team, and the first digits of a manifest's digest
    kinds: dict[str, int] = {}

    def find_user(self, entry: CatalogueEntry) -> str:
        """The object that names the image: by digest, by any of its tags, by our id; "" for none."""
        named = [self.digests.get(entry.digest, ""), self.ids.get(f"{entry.team}-{entry.digest.hex[:12]}", "")]
        return next((user for user in (*named, *(self.tags.get(tag, "") for tag in entry.tags)) if user), "")

    def find_user_of(self, team: str, digest: str, tags: Iterable[str]) -> str:
        """As :meth:`find_user`, for a manifest that no listing has any more."""
        named = [self.digests.get(digest, ""), self.ids.get(f"{team}-{digest.removeprefix('sha256:')[:12]}", "")]
        return next((user for user in (*named, *(self.tags.get(tag, "") for tag in tags)) if user), "")


def read_usage(paths: Sequence[Path], now: datetime, without: Collection[str] = (), *, alone: bool = False) -> Usage:
    """All files together; each dump of a cluster is complete by itself, or a ConfigurationError.

    ``alone``: lists of references and hubs' users count without a dump of a cluster beside them.
    """
    dumps = [read_dump(path, without, now) for path in paths]
    if dumps and not alone and not any(dump.whole for dump in dumps):
        raise ConfigurationError(
            f"{', '.join(map(str, paths))}: no dump of a cluster", f"{HINT}; where no cluster pulls from here, add --no-cluster"
        )
    digests: dict[str, str] = {}
    tags: dict[str, str] = {}
    ids: dict[str, str] = {}
    kinds: Counter[str] = Counter()
    for dump in dumps:
        kinds.update(dump.kinds)
        for user, text in _list_texts(dump.objects):
            for found in _DIGEST.findall(text):
                digests.setdefault(f"sha256:{found}", user)
            for written, plain in _TAG.findall(text):
                tags.setdefault(written or plain, user)
            for found in _ID.findall(text):
                ids.setdefault(found, user)
    return Usage(digests, tags, ids, dict(sorted(kinds.items())))


def _list_texts(objects: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """(the object, a string in it). A hidden value of a WorkspaceKind that no Workspace names is offered to nobody, and left out."""
    chosen = {text for item in objects if item.get("kind") == "Workspace" for text in walk_texts(item)}
    for item in objects:
        user = _name_object(item)
        shown = _drop_hidden(item, chosen) if item.get("kind") == "WorkspaceKind" else item
        yield from ((user, text) for text in walk_texts(shown))


def _name_object(item: dict[str, Any]) -> str:
    about = item.get("metadata")
    place = [str(about[key]) for key in ("namespace", "name") if about.get(key)] if isinstance(about, dict) else []
    name = "/".join(place) or str(item.get("name") or "")
    return f"{item.get('kind') or ('hub user' if item.get('name') else 'Pod')} {name}".strip()


def _drop_hidden(kind: dict[str, Any], chosen: Collection[str]) -> dict[str, Any]:
    """A WorkspaceKind without its hidden values; its annotations repeat what was applied, and are left out too."""

    def drop(value: Any) -> Any:
        if isinstance(value, list):
            return [drop(item) for item in value if not _is_hidden(item, chosen)]
        return {key: drop(item) for key, item in value.items() if key != "annotations"} if isinstance(value, dict) else value

    found = drop(kind)
    assert isinstance(found, dict)
    return found


def _is_hidden(item: Any, chosen: Collection[str]) -> bool:
    if not isinstance(item, dict) or item.get("id") in chosen:
        return False
    spawner = item.get("spawner")
    return isinstance(spawner, dict) and spawner.get("hidden") is True
