"""Where a redirect points: its origin as the request would be sent, for judging it before it is followed.

An origin is compared as the request would be sent: requests and urllib3 parse both sides, so that no spelling (case, default
port, user info, IDNA, backslashes) means one host here and another one on the wire.
"""

from __future__ import annotations

from urllib.parse import urljoin

import msgspec

_STATUSES = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port (RFC 6454): lower case, IDNA-encoded, the port always given."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}" + (f":{self.port}" if self.port != _PORTS[self.scheme] else "")


def find_origin(url: str) -> Origin | None:
    """The origin that a request for an http(s) address goes to; None for any other address."""
    from urllib3.util import parse_url

    normal = normalize_url(url)
    if normal is None:
        return None
    parts = parse_url(normal)
    return Origin(str(parts.scheme), str(parts.host).rstrip("."), parts.port or _PORTS[str(parts.scheme)])


def normalize_url(url: str) -> str | None:
    """An http(s) address as it is sent, without user info and fragment; None for what cannot be sent."""
    import requests
    from urllib3.util import parse_url

    if url.partition(":")[0].lower() not in _PORTS:
        return None
    try:
        parts = parse_url(requests.Request("GET", url).prepare().url or "")
    except (requests.RequestException, ValueError):
        return None
    if parts.scheme not in _PORTS or not parts.host:
        return None
    return parts._replace(auth=None, fragment=None).url


def find_location(status: int, location: str | None) -> str | None:
    """The text of a redirect's Location header, which http.client reads as Latin-1; None when the answer is not a redirect."""
    if status not in _STATUSES or not location:
        return None
    return location.encode("latin-1", "replace").decode("utf-8", "replace")


def resolve_location(url: str, location: str) -> str | None:
    """Where the Location header of an answer from ``url`` points (RFC 9110, section 10.2.2), normalised; None for what is not http(s)."""
    try:
        return normalize_url(urljoin(url, location))
    except ValueError:
        return None


def is_downgrade(url: str, target: Origin) -> bool:
    """Whether a redirect from ``url`` to ``target`` gives up encryption."""
    return target.scheme == "http" and url.lower().startswith("https:")
