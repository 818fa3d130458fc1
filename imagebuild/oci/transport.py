"""HTTP to one registry: addresses, TLS, redirects, authorisation, and bounded retries.

What a request means is :mod:`imagebuild.oci.registry`'s business; this module gets it there and back. Every failure is a
:class:`RegistryError` of one line. The credentials of a registry go to that registry (scheme, host and port) and to the
token service it names, never along a redirect; ``~/.netrc`` is not read.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import ipaddress
import json
import random
import re
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

import requests
import requests.adapters
import requests.auth
import urllib3.exceptions

import imagebuild
from imagebuild.errors import ConfigurationError, RemoteError
from imagebuild.oci.challenge import Challenge, merge_scopes, parse_challenges
from imagebuild.oci.credentials import DOCKER_HUB, HUB_NAMES, Credential, Credentials
from imagebuild.oci.model import Reference

Sleep = Callable[[float], None]
Clock = Callable[[], float]

ATTEMPTS = 5  # per request, the first included
_CONNECT_ATTEMPTS = 3  # where nothing answers at all: a wrong address should not take long to say so
_LONGEST_WAIT = 60.0  # seconds; a longer Retry-After is cut to this
_FIRST_WAIT = 0.5  # seconds, doubled each time, with full jitter
_REDIRECTS = 5
_RETRIED = frozenset({429, 500, 502, 503, 504})
_ERROR_BODY = 64 << 10  # bytes read of an error's body
_ERROR_TIME = 10.0  # seconds for them: the status says most of it
_TOKEN_BODY = 1 << 20
_BODY_TIME = 300.0  # seconds for a small body, whole: the timeout of a socket starts anew with every byte
_TOKEN_LIFETIME = 60.0  # seconds; distribution's default where expires_in is missing
_TOKEN = re.compile(r"[\x21-\x7e]+")
_OPENSSL_FRAME = re.compile(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$")
_CLIENT = "imagebuild"
_REPORT = "report it to the registry's operators"

_NETWORK = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class RegistryError(RemoteError):
    """A RemoteError that remembers the HTTP status (0: no answer), the registry's error codes, and its Retry-After."""

    def __init__(
        self, message: str, hint: str = "", *, status: int = 0, codes: frozenset[str] = frozenset(), retry_after: float | None = None
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.codes = codes
        self.retry_after = retry_after  # seconds


class _TooSlowError(Exception):
    """A body that goes on coming after its time is over."""


class _NoNetrc(requests.auth.AuthBase):
    """Authorisation is set per request; having *some* auth object keeps requests from looking into ~/.netrc."""

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        return request


class _Session(requests.Session):
    """Leaves redirects to us: requests would follow, or only parse, them by other rules, and read their bodies whole."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # requests' signature
        return None


class _TrustingAdapter(requests.adapters.HTTPAdapter):
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


class Transport:
    """A connection to the registry ``host``.

    ``insecure`` allows plain HTTP where the host does not speak TLS; None allows that for loopback addresses only, as
    docker does. Certificates are always checked. ``credentials`` None is anonymous.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        insecure: bool | None = None,
        ca_file: Path | None = None,
        sleep: Sleep = time.sleep,
        clock: Clock = time.time,
        timeout: tuple[float, float] = (10.0, 60.0),
    ) -> None:
        self.host = Reference.parse(f"{host}/a/b").registry
        if self.host != host and host not in HUB_NAMES:
            raise ConfigurationError(f"not a registry host: {host!r}", "expected HOST or HOST:PORT, without a repository")
        self._address = "registry-1.docker.io" if self.host == DOCKER_HUB else host
        self._credentials = credentials
        self._may_be_plain = _is_loopback(host) if insecure is None else insecure
        self._sleep, self._clock, self._timeout = sleep, clock, timeout
        self._scheme = "" if self._may_be_plain else "https"
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._asked_credential = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._session = _Session()
        self._session.auth = _NoNetrc()
        self._session.headers.clear()
        if ca_file is not None:
            self._session.mount("https://", _TrustingAdapter(ca_file))

    @property
    def has_credential(self) -> bool:
        """Whether this user is somebody to the registry (asks the credential helper)."""
        return self._find_credential() is not None

    # --- requests --------------------------------------------------------------------------------------------------

    def resolve(self, location: str, base: str = "/") -> str:
        """A ``Location`` or link as an absolute address; ``base`` is the address or path of the request it answers."""
        try:
            origin = urlsplit(self._origin())
            address = urlsplit(urljoin(urljoin(self._origin(), base), location))
            _ = address.port  # raises for a port that is not a number
        except ValueError:
            raise RegistryError(f"{self.host} answered with an address that is none: {location[:200]!r}", _REPORT) from None
        if address.scheme == "http" and origin.scheme == "https" and address.hostname == origin.hostname:
            # A registry behind a TLS proxy that does not know it: the same host, over the connection we trust.
            address = address._replace(scheme="https", netloc=origin.netloc)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise RegistryError(f"{self.host} answered with an address that is none: {location[:200]!r}", _REPORT)
        if address.scheme == "http" and origin.scheme == "https":
            raise RegistryError(f"{self.host} leads to an unencrypted address on {address.hostname}", _REPORT)
        return urlunsplit(address._replace(fragment=""))

    def is_here(self, url: str) -> bool:
        """Whether ``url`` is on the registry itself: the same scheme, host and port."""
        return _origin_of(urlsplit(url)) == _origin_of(urlsplit(self._origin()))

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        target: str,
        *,
        scopes: Sequence[str],
        doing: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Path | None = None,
        accept: frozenset[int] = frozenset({200}),
        retry: bool = True,
    ) -> Iterator[requests.Response]:
        """Send a request and give its streaming answer when the status is in ``accept``; else raise RegistryError.

        ``target`` is a path of the registry or an absolute address. ``doing`` is the part of a message that says what was
        tried (``repository: get manifest latest``). ``retry=False`` sends the body once only.
        """
        response = self._send_patiently(method, target, tuple(scopes), dict(headers or {}), body, accept, doing, retry)
        try:
            yield response
        finally:
            _release(response)

    def fetch(
        self,
        target: str,
        *,
        scopes: Sequence[str],
        doing: str,
        limit: int,
        headers: Mapping[str, str] | None = None,
        accept: frozenset[int] = frozenset({200}),
        seconds: float = _BODY_TIME,
    ) -> tuple[requests.Response, bytes]:
        """GET a small body, whole; one cut short is asked for again. RegistryError for more than ``limit`` bytes or ``seconds``."""
        waits, deadline = _Waits(self, _CONNECT_ATTEMPTS), time.monotonic() + seconds
        while True:
            with self.request("GET", target, scopes=scopes, doing=doing, headers=headers, accept=accept) as response:
                try:
                    data = _read_body(response, limit + 1, deadline)
                except _TooSlowError:
                    response.close()
                    raise RegistryError(
                        f"{self.host}: {doing}: the answer was not whole in time",
                        "run it again; if it stays, " + _REPORT,
                    ) from None
                except _NETWORK as error:
                    failure = self.explain(error, doing)
                    if not waits.wait(failure):
                        raise failure from error
                    continue
            if len(data) > limit:
                raise RegistryError(f"{self.host}: {doing}: the answer is larger than {limit >> 10} KiB", "name an image")
            return response, data

    def explain(self, error: Exception, doing: str) -> RegistryError:
        """A failure of the network as one line and a hint."""
        text = _flatten(str(error))
        where = f"{self.host}: {doing}"
        if "CERTIFICATE_VERIFY_FAILED" in text:
            return RegistryError(
                f"{where}: the certificate is not trusted ({_reason(error)})",
                "give the authority's PEM file (the ca-file setting or REQUESTS_CA_BUNDLE), or correct the host name",
            )
        if isinstance(error, requests.exceptions.ProxyError):
            return RegistryError(f"{where}: the proxy refused ({_reason(error)})", "check HTTPS_PROXY and NO_PROXY")
        if isinstance(error, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
            return RegistryError(f"{where}: no answer in time", f"check that {self._address} can be reached, or name a mirror")
        if isinstance(error, (requests.exceptions.SSLError, urllib3.exceptions.SSLError)):
            return RegistryError(
                f"{where}: no TLS connection ({_reason(error)})", "check the address; a registry without TLS has to be allowed as insecure"
            )
        if "IncompleteRead" in text or "IncompleteRead" in repr(error):
            return RegistryError(f"{where}: the answer was cut short", "run it again; if it stays, look at the proxies on the way")
        return RegistryError(
            f"{where}: no connection ({_reason(error)})", f"check the address {self._address} and the network, or name a mirror"
        )

    def pause(self, attempt: int, failure: RegistryError) -> None:
        """Wait before attempt ``attempt + 2``: as long as Retry-After says (at most a minute), else 0.5, 1, 2 s with jitter."""
        if failure.retry_after is not None:
            # A little over, so that many machines told the same moment do not come back in the same moment.
            self._sleep(min(failure.retry_after, _LONGEST_WAIT) + random.uniform(0, 0.5))
        else:
            self._sleep(random.uniform(0.1, _FIRST_WAIT * 2 ** min(attempt, 6)))

    # --- one request, its retries, redirects -----------------------------------------------------------------------

    def _send_patiently(
        self,
        method: str,
        target: str,
        scopes: tuple[str, ...],
        headers: dict[str, str],
        body: bytes | Path | None,
        accept: frozenset[int],
        doing: str,
        retry: bool,
    ) -> requests.Response:
        waits = _Waits(self, ATTEMPTS if retry else 1)
        while True:
            try:
                response = self._send_authorised(method, self.resolve(target), scopes, headers, body, doing, retry)
            except _NETWORK as error:
                failure = self.explain(error, doing)
                if _is_final(error) or not waits.wait(failure, _CONNECT_ATTEMPTS if _never_connected(error) else ATTEMPTS):
                    raise failure from error
                continue
            if response.status_code in accept:
                return response
            failure = self._explain_status(response, doing)
            _release(response)
            if response.status_code not in _RETRIED or not waits.wait(failure):
                raise failure

    def _send_authorised(
        self,
        method: str,
        url: str,
        scopes: tuple[str, ...],
        headers: dict[str, str],
        body: bytes | Path | None,
        doing: str,
        resend: bool,
    ) -> requests.Response:
        """One exchange, and again after a 401: with a token, or with a new one in place of one that may have expired."""
        fresh = False
        for _ in range(3):
            authorisation = self._authorise(scopes, doing) if self.is_here(url) else ""
            response = self._send_following(method, url, headers, authorisation, body)
            if response.status_code != 401 or not self.is_here(response.url) or fresh:
                return response
            challenge = self._choose_challenge(response)
            if challenge is None:
                return response
            self._challenge = challenge
            if challenge.scheme == "basic":
                if authorisation or self._find_credential() is None:
                    return response
            else:
                with _closing_on_failure(response):
                    self._obtain_token(scopes, challenge, doing)
            fresh = True
            if not resend:
                return response
            _release(response)
        return response

    def _send_following(
        self, method: str, url: str, headers: dict[str, str], authorisation: str, body: bytes | Path | None
    ) -> requests.Response:
        """Send and follow redirects; the authorisation stays behind when one leaves the registry."""
        for _ in range(_REDIRECTS + 1):
            sent = {"User-Agent": f"{_CLIENT}/{imagebuild.__version__}", "Accept-Encoding": "identity", **headers}
            if authorisation and self.is_here(url):
                sent["Authorization"] = authorisation
            with _open_body(body) as data:
                response = self._session.request(
                    method,
                    url,
                    headers=sent,
                    data=data,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    proxies=_choose_proxies(url),
                )
            location = response.headers.get("Location")
            followed = (301, 302, 303, 307, 308) if method in ("GET", "HEAD") else (307, 308)
            if response.status_code not in followed or not location:
                return response
            _release(response)
            url = self.resolve(location, response.url)
        raise RegistryError(f"{self.host}: more than {_REDIRECTS} redirects, the last to {urlsplit(url).hostname}", _REPORT)

    def _explain_status(self, response: requests.Response, doing: str) -> RegistryError:
        status = response.status_code
        codes, said = _read_errors(response)
        foreign = "" if self.is_here(response.url) else f" from {urlsplit(response.url).hostname}"
        message = f"{self.host}: {doing}: HTTP {status}{foreign}{f': {said}' if said else ''}"
        if status == 401:
            again = " again: the login kept for it was not accepted" if self._credential is not None else ""
            hint = f"run `docker login {self.host}`{again}"
        elif status == 403:
            hint = f"ask for access to the repository, or run `docker login {self.host}` as a user who has it"
        elif status == 404:
            hint = "check the name of the repository and of the tag or digest"
        elif status == 413:
            hint = "the registry, or a proxy before it, limits the size of an upload: raise that limit"
        elif status == 429:
            hint = "the registry limits requests: wait, log in for a higher limit, or name a mirror"
        elif status >= 500:
            hint = "the registry has a failure: run again later; what is there already is not sent again"
        else:
            hint = "check the address and what the registry supports"
        wait = _parse_retry_after(response.headers.get("Retry-After"), self._clock())
        return RegistryError(message, hint, status=status, codes=codes, retry_after=wait)

    # --- addresses -------------------------------------------------------------------------------------------------

    def _origin(self) -> str:
        if not self._scheme:
            self._scheme = self._probe_scheme()
        return f"{self._scheme}://{self._address}"

    def _probe_scheme(self) -> str:
        """https, unless the host allowed to be plain does not speak TLS."""
        try:
            address = f"https://{self._address}/v2/"
            self._session.get(address, stream=True, allow_redirects=False, timeout=self._timeout, proxies=_choose_proxies(address)).close()
        except requests.exceptions.SSLError as error:
            return "https" if "CERTIFICATE_VERIFY_FAILED" in str(error) else "http"
        except requests.RequestException:
            return "http"
        return "https"

    # --- authorisation ---------------------------------------------------------------------------------------------

    def _find_credential(self) -> Credential | None:
        if not self._asked_credential:
            self._credential = self._credentials.find(self.host) if self._credentials is not None else None
            self._asked_credential = True
        return self._credential

    def _choose_challenge(self, response: requests.Response) -> Challenge | None:
        """Bearer before Basic; urllib3 has joined several headers with commas."""
        offered = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        for scheme in ("bearer", "basic"):
            for challenge in offered:
                if challenge.scheme == scheme and (scheme == "basic" or challenge.parameters.get("realm")):
                    return challenge
        return None

    def _authorise(self, scopes: tuple[str, ...], doing: str) -> str:
        """The Authorization header for ``scopes``, as far as the registry has said what it wants; else nothing."""
        if self._challenge is None:
            return ""
        if self._challenge.scheme == "basic":
            credential = self._find_credential()
            return _encode_basic(credential) if credential is not None else ""
        known = self._tokens.get(scopes)
        if known is not None and known[1] > self._clock():
            return f"Bearer {known[0]}"
        # The scopes of the request that was challenged are not those of this one.
        bare = {name: value for name, value in self._challenge.parameters.items() if name != "scope"}
        return f"Bearer {self._obtain_token(scopes, Challenge('bearer', bare), doing)}"

    def _obtain_token(self, scopes: tuple[str, ...], challenge: Challenge, doing: str) -> str:
        """A token by GET, or with an identity token by POST (distribution: token and OAuth2 specifications)."""
        credential = self._find_credential()
        if credential is not None and credential.registry_token:
            self._tokens[scopes] = (credential.registry_token, float("inf"))
            return credential.registry_token
        try:
            realm = urlsplit(challenge.parameters["realm"])
            _ = realm.port  # raises for a port that is not a number
        except ValueError:
            realm = urlsplit("")
        if realm.scheme not in ("http", "https") or not realm.hostname:
            raise RegistryError(f"{self.host}: {doing}: the address of its token service is none", _REPORT)
        if realm.scheme == "http" and self._scheme == "https" and not _is_loopback(realm.hostname):
            raise RegistryError(f"{self.host}: {doing}: its token service is not encrypted ({realm.hostname})", _REPORT)
        if credential is not None and realm.scheme == "http" and not self._is_own_machine(realm.hostname):
            raise RegistryError(
                f"{self.host}: {doing}: its token service is another host, without encryption ({realm.hostname}): no login is sent there",
                f"tell the registry's operators to name it by https; or run `docker logout {self.host}` and pull without a login",
            )
        merged = merge_scopes(scopes, challenge.parameters.get("scope", ""))
        service = challenge.parameters.get("service", "")
        fields = [("service", service)] if service else []
        headers = {"Accept": "application/json", "User-Agent": f"{_CLIENT}/{imagebuild.__version__}"}
        data: list[tuple[str, str]] | None = None
        if credential is not None and credential.identity_token:
            data = [
                ("grant_type", "refresh_token"),
                *fields,
                ("client_id", _CLIENT),
                ("scope", " ".join(merged)),
                ("refresh_token", credential.identity_token),
            ]
            fields = []
        else:
            fields += [("scope", scope) for scope in merged]
            if credential is not None:
                fields += [("client_id", _CLIENT), ("account", credential.username)]
                headers["Authorization"] = _encode_basic(credential)
        document = self._ask_token_service(urlunsplit(realm), fields, data, headers, f"{doing}: token from {realm.hostname}")
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise RegistryError(f"{self.host}: {doing}: {realm.hostname} answered without a token", _REPORT)
        lifetime = document.get("expires_in")
        if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or lifetime <= 0:
            lifetime = _TOKEN_LIFETIME
        # Counted from now, not from issued_at: the two clocks may differ. A tenth is kept back for the way there.
        self._tokens[scopes] = (token, self._clock() + lifetime * 0.9)
        return token

    def _is_own_machine(self, name: str) -> bool:
        """Whether ``name`` is the registry's host, or this machine as the registry is: what plain HTTP says to one, the other may hear."""
        own = urlsplit(f"//{self._address}").hostname
        return name == own or (_is_loopback(self._address) and _is_loopback(f"[{name}]" if ":" in name else name))

    def _ask_token_service(
        self, realm: str, fields: list[tuple[str, str]], data: list[tuple[str, str]] | None, headers: dict[str, str], doing: str
    ) -> dict[str, Any]:
        waits = _Waits(self, ATTEMPTS)
        while True:
            try:
                with self._session.request(
                    "GET" if data is None else "POST",
                    realm,
                    params=fields,
                    data=data,
                    headers=headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    proxies=_choose_proxies(realm),
                ) as response:
                    if response.status_code == 200:
                        document = json.loads(_read_body(response, _TOKEN_BODY, time.monotonic() + _BODY_TIME))
                        return document if isinstance(document, dict) else {}
                    failure = self._explain_status(response, doing)
            except _TooSlowError:
                raise RegistryError(
                    f"{self.host}: {doing}: the answer was not whole in time",
                    "run it again; if it stays, " + _REPORT,
                ) from None
            except (ValueError, RecursionError) as error:
                if isinstance(error, requests.RequestException):
                    raise self.explain(error, doing) from error
                raise RegistryError(f"{self.host}: {doing}: the answer is not JSON", "check the address or the mirror") from None
            except _NETWORK as error:
                failure = self.explain(error, doing)
                if _is_final(error) or not waits.wait(failure, _CONNECT_ATTEMPTS if _never_connected(error) else ATTEMPTS):
                    raise failure from error
                continue
            if response.status_code not in _RETRIED or not waits.wait(failure):
                raise failure


class _Waits:
    """How often a request was tried, and the pauses between."""

    def __init__(self, transport: Transport, attempts: int) -> None:
        self._transport, self._attempts, self._made = transport, attempts, 1

    def wait(self, failure: RegistryError, attempts: int = ATTEMPTS) -> bool:
        """Pause before the next attempt; False when there is none left."""
        if self._made >= min(self._attempts, attempts):
            return False
        self._transport.pause(self._made - 1, failure)
        self._made += 1
        return True


@contextlib.contextmanager
def _open_body(body: bytes | Path | None) -> Iterator[bytes | BinaryIO | None]:
    # requests would send an empty file chunked, which some registries refuse.
    if isinstance(body, Path) and body.stat().st_size:
        with body.open("rb") as stream:
            yield stream
    else:
        yield b"" if isinstance(body, Path) else body


def _choose_proxies(url: str) -> dict[str, str] | None:
    """The environment's proxies, but none for loopback addresses, as every Go client has it."""
    name = urlsplit(url).hostname or ""
    return {"no_proxy": name} if _is_loopback(f"[{name}]" if ":" in name else name) else None


def read_length(response: requests.Response) -> int | None:
    """Content-Length in bytes; None when it is missing or not a number."""
    text = response.headers.get("Content-Length", "").strip()
    return int(text) if text.isdecimal() and len(text) < 19 else None


@contextlib.contextmanager
def _closing_on_failure(response: requests.Response) -> Iterator[None]:
    try:
        yield
    except BaseException:
        response.close()
        raise


def _release(response: requests.Response) -> None:
    """Close, and where little or nothing is left to read, read it, so that the connection serves again."""
    length = read_length(response)
    if response.request.method == "HEAD" or (length is not None and length <= _ERROR_BODY):
        with contextlib.suppress(*_NETWORK):
            response.raw.read(_ERROR_BODY)
    response.close()


def _read_body(response: requests.Response, limit: int, deadline: float) -> bytes:
    """Up to ``limit`` bytes; a body shorter than its Content-Length raises urllib3's ProtocolError, one that is still coming at
    ``deadline`` (of the monotonic clock) :class:`_TooSlowError`."""
    chunks, left = [], limit
    # read1 gives what has arrived; read would wait for all of it.
    while left and (chunk := response.raw.read1(left, decode_content=True)):
        chunks.append(chunk)
        left -= len(chunk)
        if time.monotonic() > deadline:
            raise _TooSlowError
    return b"".join(chunks)


def _read_errors(response: requests.Response) -> tuple[frozenset[str], str]:
    """The codes and one line of distribution-spec's error document, or of whatever a proxy put in its place."""
    try:
        data = _read_body(response, _ERROR_BODY, time.monotonic() + _ERROR_TIME)
    except (*_NETWORK, _TooSlowError):
        data = b""
    codes: set[str] = set()
    said: list[str] = []
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
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


def _is_final(error: BaseException) -> bool:
    """Whether trying again cannot help: a certificate that is not trusted, an address that is none, a body that is gone."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader, FileNotFoundError, PermissionError)):
        return True
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _never_connected(error: BaseException) -> bool:
    inner = error.args[0] if error.args else None
    return isinstance(getattr(inner, "reason", None), urllib3.exceptions.NewConnectionError)


def _parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds from now, of either form (RFC 9110 section 10.2.3); None when it says nothing usable."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, moment - now)


def _encode_basic(credential: Credential) -> str:
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


def _origin_of(address: SplitResult) -> tuple[str, str, int]:
    return address.scheme, address.hostname or "", address.port or (443 if address.scheme == "https" else 80)


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
