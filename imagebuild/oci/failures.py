"""Failures of a registry in one line: a RegistryError from what the network, or an answer's status and body, says."""

from __future__ import annotations

import contextlib
import re
import time

import requests
import urllib3.exceptions

from imagebuild.decoding import load_json
from imagebuild.errors import RemoteError
from imagebuild.http.retry import parse_retry_after
from imagebuild.oci.session import ERROR_BODY, NETWORK_ERRORS, TooSlowError, read_body

_ERROR_TIME = 10.0  # seconds for an error's body: the status says most of it
_OPENSSL_FRAME = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")


class RegistryError(RemoteError):
    """A RemoteError that remembers the HTTP status (0: no answer), the registry's error codes, and its Retry-After."""

    def __init__(
        self, message: str, hint: str = "", *, status: int = 0, codes: frozenset[str] = frozenset(), retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.codes = codes
        self.retry_after = retry_after  # seconds
        self.final = False  # whether there is no patience for another attempt


def explain_network(error: Exception, host: str, reached: str, doing: str) -> RegistryError:
    """A failure of the network as one line and a hint; ``reached`` is the address that connections to ``host`` go to."""
    text = _flatten(str(error))
    where = f"{host}: {doing}"
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return RegistryError(
            f"{where}: the certificate is not trusted ({_reason(error)})",
            "give the authority's PEM file (--registry-ca or REQUESTS_CA_BUNDLE), or correct the host name",
        )
    if isinstance(error, requests.exceptions.ProxyError):
        return RegistryError(f"{where}: the proxy refused ({_reason(error)})", "check HTTPS_PROXY and NO_PROXY")
    if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
        return RegistryError(f"{where}: no answer in time", f"check that {reached} can be reached, or name a mirror")
    if isinstance(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
        return RegistryError(
            f"{where}: no TLS connection ({_reason(error)})", "check the address; a registry without TLS has to be allowed as insecure"
        )
    if "IncompleteRead" in text or "IncompleteRead" in repr(error):
        return RegistryError(f"{where}: the answer was cut short", "run it again; if it fails again, check the proxies on the way")
    return RegistryError(f"{where}: no connection ({_reason(error)})", f"check the address {reached} and the network, or name a mirror")


def explain_status(response: requests.Response, host: str, foreign_host: str, doing: str, *, logged_in: bool, now: float) -> RegistryError:
    """An answer with an error's status as one line and a hint. ``foreign_host`` is who gave it, where that is not ``host``."""
    status = response.status_code
    codes, said = _read_errors(response)
    foreign = f" from {foreign_host}" if foreign_host else ""
    message = f"{host}: {doing}: HTTP {status}{foreign}{f': {said}' if said else ''}"
    if status == 401:
        again = " again: the stored login was not accepted" if logged_in else ""
        hint = f"run `docker login {host}`{again}"
    elif status == 403:
        hint = f"ask for access to the repository, or run `docker login {host}` as a user who has it"
    elif status == 404:
        hint = "check the name of the repository and of the tag or digest"
    elif status == 413:
        hint = "the registry, or a proxy in front of it, limits the size of an upload: raise that limit"
    elif status == 429:
        hint = "the registry limits requests: wait, log in for a higher limit, or name a mirror"
    elif status >= 500:
        hint = "the registry failed: run it again later; blobs that arrived are not sent again"
    else:
        hint = "check the address and what the registry supports"
    wait = parse_retry_after(response.headers.get("Retry-After"), now)
    return RegistryError(message, hint, status=status, codes=codes, retry_after=wait)


def _read_errors(response: requests.Response) -> tuple[frozenset[str], str]:
    """The codes and one line of distribution-spec's error document, or of whatever a proxy put in its place."""
    try:
        data = read_body(response, ERROR_BODY, time.monotonic() + _ERROR_TIME)
    except (*NETWORK_ERRORS, TooSlowError):
        data = b""
    codes: set[str] = set()
    said: list[str] = []
    with contextlib.suppress(ValueError):
        document = load_json(data)
        if not isinstance(document, dict):
            document = {}
        errors = document.get("errors")
        for error in errors if isinstance(errors, list) else []:
            if isinstance(error, dict):
                code, text = error.get("code"), error.get("message")
                if isinstance(code, str):
                    codes.add(code)
                said.append(": ".join(part for part in (code, text) if isinstance(part, str) and part))
        if not said:  # token services and proxies
            texts = (document.get(name) for name in ("details", "error_description", "message", "error"))
            said += [text for text in texts if isinstance(text, str)][:1]
    if not said:
        said.append(_flatten(response.reason or ""))
    return frozenset(codes), _flatten("; ".join(part for part in said[:3] if part))


def _flatten(text: str) -> str:
    """One printable line of at most 300 characters."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= 300 else line[:297] + "..."


def _reason(error: BaseException) -> str:
    """The innermost cause in few words: requests wraps urllib3, which wraps the socket's or ssl's own error."""
    seen: BaseException = error
    for _ in range(10):
        inner = getattr(seen, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next((item for item in seen.args if isinstance(item, BaseException)), None)
        if inner is None:
            break
        seen = inner
    if isinstance(seen, OSError) and seen.strerror:
        return _OPENSSL_FRAME.sub("", _flatten(seen.strerror))
    return _flatten(str(seen).rpartition(": ")[2] or type(seen).__name__)


def is_final(error: BaseException) -> bool:
    """Whether trying again cannot help: a certificate that is not trusted, an invalid URL, a body that was already read."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, FileNotFoundError, PermissionError)):
        return True
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def is_stall(error: BaseException) -> bool:
    """Whether the other side took the connection and then said nothing until the time was over."""
    if isinstance(error, requests.ConnectTimeout):
        return False
    if isinstance(error, (requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)):
        return True
    # A body that is not taken: urllib3 and requests wrap the socket's own error.
    return any(isinstance(item, BaseException) and item is not error and is_stall(item) for item in error.args)


def never_connected(error: BaseException) -> bool:
    """Whether the request failed before there was a connection, so that the server has seen nothing of it."""
    inner = error.args[0] if error.args else None
    return isinstance(getattr(inner, "reason", None), urllib3.exceptions.NewConnectionError)
