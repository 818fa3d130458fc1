"""One session of HTTP: no netrc, no redirects of its own, a custom authority beside the public ones; bodies within bytes and time."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Digest
from imagebuild.progress import advance

NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)
ERROR_BODY = 64 << 10  # bytes read of an error's body


class TooSlowError(Exception):
    """A body that goes on coming after its time is over."""


class NoNetrc(requests.auth.AuthBase):
    """Authorisation is set per request; having *some* auth object keeps requests from looking into ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class Session(requests.Session):
    """Leaves redirects to us: requests would follow, or only parse, them by other rules, and read their bodies whole."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # requests' signature
        return None


class TrustingAdapter(requests.adapters.HTTPAdapter):
    """Trusts a custom authority in addition to the public ones (blobs may be redirected to a public host)."""

    def __init__(self, ca_file: Path) -> None:
        try:
            self._context = ssl.create_default_context()
            self._context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"cannot use the certificate file {ca_file}: {error.strerror or error}", "it must be PEM") from None
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(*args, ssl_context=self._context, **kwargs)


class _CountedFile(io.FileIO):
    """A file that is sent: what is read of it counts as progress."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(-1 if size is None else size)
        advance(len(data))
        return data


@contextlib.contextmanager
def open_body(body: bytes | Path | None) -> Iterator[bytes | BinaryIO | None]:
    """A body as requests takes it: a file as an open stream of known length."""
    # requests would send an empty file chunked, which some registries refuse.
    if isinstance(body, Path) and body.stat().st_size:
        with _CountedFile(body) as stream:
            yield cast("BinaryIO", stream)
    else:
        yield b"" if isinstance(body, Path) else body


def choose_proxies(url: str) -> dict[str, str] | None:
    """The environment's proxies, but none for loopback addresses, as every Go client has it."""
    name = urlsplit(url).hostname or ""
    return {"no_proxy": name} if is_loopback(f"[{name}]" if ":" in name else name) else None


def read_length(response: requests.Response) -> int | None:
    """Content-Length in bytes; None when it is missing or not a number."""
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if text.isdecimal() and len(text) < 19 else None


def read_type(response: requests.Response) -> str:
    """Content-Type without its parameters, in lower case; empty when it is missing."""
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def read_digest(response: requests.Response) -> Digest | None:
    """Docker-Content-Digest, where it is there and a SHA-256."""
    text = response.headers.get("Docker-Content-Digest", "").strip()
    if not text.startswith("sha256:"):
        return None
    return Digest(text)


@contextlib.contextmanager
def closing_on_failure(response: requests.Response) -> Iterator[None]:
    """Close ``response`` when the block raises; otherwise it stays open."""
    try:
        yield
    except BaseException:
        response.close()
        raise


def release(response: requests.Response) -> None:
    """Close, and where little or nothing is left to read, read it, so that the connection serves again."""
    length = read_length(response)
    if response.request.method == "HEAD" or (length is not None and length <= ERROR_BODY):
        with contextlib.suppress(*NETWORK_ERRORS):
            response.raw.read(ERROR_BODY)
    response.close()


def read_body(response: requests.Response, limit: int, deadline: float) -> bytes:
    """Up to ``limit`` bytes; a body shorter than its Content-Length raises urllib3's ProtocolError, one that is still coming at
    ``deadline`` (of the monotonic clock) :class:`TooSlowError`."""
    chunks, left = [], limit
    # read1 gives what has arrived; read would wait for all of it.
    while left and (chunk := response.raw.read1(left, decode_content=True)):
        chunks.append(chunk)
        left -= len(chunk)
        if time.monotonic() > deadline:
            raise TooSlowError
    return b"".join(chunks)


def is_loopback(host: str) -> bool:
    """Whether ``host`` (``HOST[:PORT]``) is this machine by its name: ``localhost``, 127.0.0.0/8 or ::1."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
