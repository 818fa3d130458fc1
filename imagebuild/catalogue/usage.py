"""What clusters use, from dumps of their objects (:mod:`imagebuild.catalogue.clusterdump`).

Every string of every object counts, wherever it stands: an image's name in a pod, a stopped notebook, a CronJob that runs once a quarter,
an image volume, the digest in a pod's status, a manifest in an annotation, the ``imageConfig`` of a paused Workspace, the choice of a
JupyterHub user. So nothing that is in use is missed because it is written in a new place; at worst an image stays that is only talked
about. Digests, tags (``2026q4-3f9c1a7b2d4e``), and the ids of our forms (``churn-3f9c1a7b2d4e``) carry 12 hex digits at least that
nothing else has, and those are what is looked for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from imagebuild.catalogue.clusterdump import HINT, read_dump, walk_texts
from imagebuild.catalogue.clusterkinds import OFFERING
from imagebuild.errors import ConfigurationError
from imagebuild.tagforms import IMAGE_TAG
from imagebuild.text import name_some

MAX_AGE = timedelta(days=1)
_DIGITS = re.compile(r"[0-9a-f]{12,}")
_SHORT = 12  # hex digits that tags and ids carry


class ImageUser(msgspec.Struct, frozen=True, order=True):
    """An object that names an image."""

    kind: str
    name: str  # namespace/name

    def __str__(self) -> str:
        return f"{self.kind} {self.name}".rstrip()


class Usage(msgspec.Struct, frozen=True):
    """``users``: the first 12 hex digits of whatever is named -> who names it. ``kinds``: how many objects of each kind there are.

    ``clusters``: how many of the files are a cluster's. ``warnings``: what could make them say less than there is.
    """

    users: dict[str, frozenset[ImageUser]] = {}
    kinds: dict[str, int] = {}
    clusters: int = 0
    warnings: tuple[str, ...] = ()

    def find_users(self, digests: Iterable[str], tags: Iterable[str]) -> tuple[ImageUser, ...]:
        """Who names one of ``digests``, an id made of it, or one of ``tags``; sorted."""
        words = {digest.rpartition(":")[2][:_SHORT] for digest in digests}
        words |= {tag.rpartition("-")[2] for tag in tags if IMAGE_TAG.fullmatch(tag)}
        return tuple(sorted(set().union(*(self.users.get(word, ()) for word in words))))


def explain_users(users: Sequence[ImageUser]) -> str:
    """Why what they name stays."""
    real = [user for user in users if user.kind not in OFFERING]
    shown = name_some([str(user) for user in real or users], 2)
    return f"in use in a cluster: {shown}" if real else f"offered in a cluster: {shown}; take it out there first"


def read_usage(
    paths: Sequence[Path], now: datetime, without: frozenset[str] = frozenset(), *, max_age: timedelta = MAX_AGE, alone: bool = False
) -> Usage:
    """All files together; each is whole by itself, or a ConfigurationError (:func:`read_dump`).

    ``alone``: lists of references and hubs' users count without a dump of a cluster beside them.
    """
    dumps = [read_dump(path, without, now, max_age) for path in paths]
    if dumps and not alone and not any(dump.whole for dump in dumps):
        raise ConfigurationError(
            f"{', '.join(map(str, paths))}: none of them is the dump of a cluster",
            f"{HINT}; where no cluster pulls from here, add --no-cluster",
        )
    users: dict[str, set[ImageUser]] = {}
    kinds: Counter[str] = Counter()
    for item in (item for dump in dumps for item in dump.objects):
        user = _name_object(item)
        kinds[user.kind] += 1
        for text in walk_texts(item):
            for digits in _DIGITS.findall(f"{text} {unquote(text)}" if "%" in text else text):
                users.setdefault(digits[:_SHORT], set()).add(user)
    return Usage(
        {word: frozenset(found) for word, found in users.items()},
        dict(sorted(kinds.items())),
        sum(dump.whole for dump in dumps),
        tuple(warning for dump in dumps for warning in dump.warnings),
    )


def _name_object(item: dict[str, Any]) -> ImageUser:
    about = item.get("metadata")
    notes = about if isinstance(about, dict) else item
    return ImageUser(str(item.get("kind") or "object"), "/".join(str(notes[key]) for key in ("namespace", "name") if notes.get(key)))
