"""What a cluster uses, from ``kubectl get notebooks,pods,daemonsets -A -o json``.

Every string of a dump counts, wherever it stands: an image's name in a pod, a stopped notebook or an image volume, the digest in a
pod's status, a manifest in an annotation. So nothing that is in use is missed because it is written in a new place; at worst an image
stays that is only talked about.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.errors import ConfigurationError

_HINT = "make it anew: kubectl get notebooks,pods,daemonsets -A -o json > FILE (and see that kubectl ended well)"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r":([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})")


class Usage(msgspec.Struct, frozen=True):
    """Digests and tags that dumps name, and how many objects of each kind they hold."""

    digests: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()
    kinds: dict[str, int] = {}

    def covers(self, entry: CatalogueEntry) -> bool:
        """Whether the image is named, by digest or by any of its tags."""
        return entry.digest in self.digests or bool(self.tags.intersection(entry.tags))


def read_usage(paths: Sequence[Path]) -> Usage:
    """All dumps together. One that is not whole (cut short, a page of several, empty, without a pod) is a ConfigurationError."""
    digests: set[str] = set()
    tags: set[str] = set()
    kinds: Counter[str] = Counter()
    for path in paths:
        items = _read_items(path)
        here = Counter(str(item.get("kind") or "Pod") for item in items)
        if not here["Pod"]:
            raise ConfigurationError(f"{path} has no pod: it is not what runs in a cluster", _HINT)
        kinds += here
        for text in _walk(items):
            digests.update(_DIGEST.findall(text))
            tags.update(_TAG.findall(text))
    return Usage(frozenset(digests), frozenset(tags), dict(sorted(kinds.items())))


def _read_items(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", _HINT) from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is not JSON, or was cut short", _HINT) from None
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list) or not str(document.get("kind", "")).endswith("List"):
        raise ConfigurationError(f"{path} is not a list of objects as kubectl prints it", _HINT)
    notes = document.get("metadata") or {}
    if not isinstance(notes, dict) or notes.get("continue") or notes.get("remainingItemCount"):
        raise ConfigurationError(f"{path} is one page of several", _HINT)
    if not items or not all(isinstance(item, dict) for item in items):
        raise ConfigurationError(f"{path} is empty: nothing can be said about what is in use", _HINT)
    return items


def _walk(value: Any) -> Iterator[str]:
    """Every string in it, keys as well."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list):
            pending += found
