"""The pages of a registry's listing (distribution-spec v1.1, ``Link: <...>; rel="next"``), bounded as a whole.

A page has its own limit in bytes; a listing has one in pages, in entries and in time, so that neither endless pages nor a page that
comes a byte at a time keeps anybody waiting for ever.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import requests

from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import OCI_INDEX
from imagebuild.oci.session import read_type
from imagebuild.oci.transport import Transport

_PAGE_LIMIT = 8 << 20  # bytes of one page
Entry = TypeVar("Entry")

_REPORT = "report it to the registry's operators"


class ListingLimits(msgspec.Struct, frozen=True):
    """What one listing may take. ``seconds`` counts the time spent on requests, not what the caller does between two pages."""

    pages: int = 10_000
    entries: int = 1_000_000
    seconds: float = 300.0


DEFAULT_LIMITS = ListingLimits()


def iterate_pages(
    transport: Transport,
    target: str,
    decode: Callable[[requests.Response, bytes], Sequence[Entry] | None],
    *,
    scopes: Sequence[str],
    doing: str,
    accept: frozenset[int],
    headers: Mapping[str, str] | None = None,
    limits: ListingLimits,
) -> Iterator[Sequence[Entry] | None]:
    """What ``decode`` makes of each page, from ``target`` on. A page that it makes None of is the last.

    RegistryError for a page on another host, a circle of pages, and a listing beyond ``limits``.
    """
    url, seen, entries, seconds = transport.resolve(target), set[str](), 0, 0.0
    while True:
        if not transport.is_here(url):
            raise RegistryError(f"{transport.host}: {doing}: its next page is on another host ({urlsplit(url).hostname})", _REPORT)
        if url in seen or len(seen) >= limits.pages:
            raise RegistryError(f"{transport.host}: {doing}: its pages lead in a circle", _REPORT)
        seen.add(url)
        if seconds >= limits.seconds:
            raise RegistryError(f"{transport.host}: {doing}: the list was not complete within {limits.seconds:.0f} seconds", _REPORT)
        started = time.monotonic()
        response, data = transport.fetch(
            url, scopes=scopes, doing=doing, limit=_PAGE_LIMIT, headers=headers, accept=accept, seconds=limits.seconds - seconds
        )
        seconds += time.monotonic() - started
        page = decode(response, data)
        entries += len(page or ())
        if entries > limits.entries:
            raise RegistryError(f"{transport.host}: {doing}: the list has more than {limits.entries} entries", _REPORT)
        yield page
        following = response.links.get("next", {}).get("url")
        if page is None or not following:
            return
        url = transport.resolve(following, response.url)


def read_names(data: bytes, field: str, where: str) -> list[str]:
    """The names of one page (``tags``, ``repositories``); RegistryError, which begins with ``where``, for anything else."""
    document: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
    names = document.get(field, []) if isinstance(document, dict) else 0
    names = [] if names is None else names  # distribution says null for none
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise RegistryError(f"{where}: the answer is not a list of {field}", "check the address or the mirror")
    return names


def read_referrers(response: requests.Response, data: bytes, where: str) -> list[dict[str, Any]] | None:
    """The entries of one page; None where it is not an index, such as a proxy's HTML page."""
    if response.status_code != 200 or read_type(response) != OCI_INDEX:
        return None
    document: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
    found = (document.get("manifests") or []) if isinstance(document, dict) else 0
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise RegistryError(f"{where}: the answer is not an index", _REPORT)
    return found
