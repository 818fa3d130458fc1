"""HTTP to one registry: addresses, TLS, redirects, authorisation, and bounded retries.

What a request means is :mod:`imagebuild.oci.registry`'s business; this module gets it there and back. Every failure is a
:class:`RegistryError` of one line. The credentials of a registry go to that registry (scheme, host and port) and to the
token service it names, never along a redirect; ``~/.netrc`` is not read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

import requests
import requests.adapters
import requests.auth

from imagebuild.decoding import load_json
from imagebuild.errors import ConfigurationError
from imagebuild.http.retry import PASSING, REGISTRY, STALLED, TIMEOUTS, Attempts, Patience, compute_wait
from imagebuild.oci.challenge import Challenge, parse_challenges
from imagebuild.oci.credentials import DOCKER_HUB, HUB_NAMES, Credential, Credentials
from imagebuild.oci.failures import RegistryError, explain_network, explain_status, is_final, is_stall, never_connected
from imagebuild.oci.model import Reference
from imagebuild.oci.session import (
    NETWORK_ERRORS,
    NoNetrc,
    Session,
    TooSlowError,
    TrustingAdapter,
    choose_proxies,
    closing_on_failure,
    is_loopback,
    open_body,
    read_body,
    release,
)
from imagebuild.oci.token import USER_AGENT, TokenRequest, encode_basic, locate_token_service, make_token_request, read_token

Sleep = Callable[[float], None]
Clock = Callable[[], float]

_REDIRECTS = 5
_TOKEN_BODY = 1 << 20
_PROBE = 10.0  # seconds for a host near by to begin with TLS
_BODY_TIME = 300.0  # seconds for a small body, whole: the timeout of a socket starts anew with every byte
_REPORT = "report it to the registry's operators"


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
        timeout: tuple[float, float] = TIMEOUTS,
    ) -> None:
        self.host = Reference.parse(f"{host}/a/b").registry
        if self.host != host and host not in HUB_NAMES:
            raise ConfigurationError(f"not a registry host: {host!r}", "expected HOST or HOST:PORT, without a repository")
        self._address = "registry-1.docker.io" if self.host == DOCKER_HUB else host
        self._credentials = credentials
        self._may_be_plain = is_loopback(host) if insecure is None else insecure
        self._sleep, self._clock, self._timeout = sleep, clock, timeout
        self._patience = Patience(STALLED)
        self._scheme = "" if self._may_be_plain else "https"
        self._challenge: Challenge | None = None
        self._credential: Credential | None = None
        self._asked_credential = False
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}
        self._session = Session()
        self._session.auth = NoNetrc()
        self._session.headers.clear()
        if ca_file is not None:
            self._session.mount("https://", TrustingAdapter(ca_file))

    @property
    def has_credential(self) -> bool:
        """Whether there are credentials for the registry (asks the credential helper)."""
        return self._find_credential() is not None

    # --- requests --------------------------------------------------------------------------------------------------

    def resolve(self, location: str, base: str = "/") -> str:
        """A ``Location`` or link as an absolute address; ``base`` is the address or path of the request it answers."""
        try:
            origin = urlsplit(self._origin())
            address = urlsplit(urljoin(urljoin(self._origin(), base), location))
            _ = address.port  # raises for a port that is not a number
        except ValueError:
            raise RegistryError(f"{self.host} answered with an invalid URL: {location[:200]!r}", _REPORT) from None
        if address.scheme == "http" and origin.scheme == "https" and address.hostname == origin.hostname:
            # A registry behind a TLS proxy that does not know it: the same host, over the connection we trust.
            address = address._replace(scheme="https", netloc=origin.netloc)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise RegistryError(f"{self.host} answered with an invalid URL: {location[:200]!r}", _REPORT)
        if address.scheme == "http" and origin.scheme == "https":
            raise RegistryError(f"{self.host} redirects to an unencrypted URL on {address.hostname}", _REPORT)
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
            release(response)

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
        waits, deadline = Attempts(REGISTRY, self._sleep, REGISTRY.connect_attempts), time.monotonic() + seconds
        while True:
            with self.request("GET", target, scopes=scopes, doing=doing, headers=headers, accept=accept) as response:
                try:
                    data = read_body(response, limit + 1, deadline)
                except TooSlowError:
                    response.close()
                    raise RegistryError(
                        f"{self.host}: {doing}: the answer was not complete in time",
                        "run it again; if it fails again, " + _REPORT,
                    ) from None
                except NETWORK_ERRORS as error:
                    failure = self.explain(error, doing)
                    if self.is_worn_out(error, failure) or not waits.wait(failure.retry_after):
                        raise failure from error
                    continue
            if len(data) > limit:
                raise RegistryError(f"{self.host}: {doing}: the answer is larger than {limit >> 10} KiB", "name an image")
            return response, data

    def explain(self, error: Exception, doing: str) -> RegistryError:
        """A failure of the network as one line and a hint."""
        return explain_network(error, self.host, self._address, doing)

    def is_worn_out(self, error: BaseException, failure: RegistryError) -> bool:
        """Whether this registry has kept us waiting for nothing for too long, with ``error`` now; ``failure`` is marked as final then."""
        if is_stall(error) and not self._patience.spend(self._timeout[1]):
            failure.final = True
        return failure.final

    def pause(self, attempt: int, failure: RegistryError) -> None:
        """Wait before attempt ``attempt + 2``, by the rule for registries."""
        self._sleep(compute_wait(REGISTRY, attempt + 1, failure.retry_after))

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
        waits = Attempts(REGISTRY, self._sleep, 0 if retry else 1)
        while True:
            try:
                response = self._send_authorised(method, self.resolve(target), scopes, headers, body, doing, retry)
            except NETWORK_ERRORS as error:
                failure = self.explain(error, doing)
                hopeless = is_final(error) or self.is_worn_out(error, failure)
                if hopeless or not waits.wait(failure.retry_after, connected=not never_connected(error)):
                    raise failure from error
                continue
            if response.status_code in accept:
                self._patience.restore()
                return response
            failure = self._explain_status(response, doing)
            release(response)
            if response.status_code not in PASSING or not waits.wait(failure.retry_after):
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
                with closing_on_failure(response):
                    self._obtain_token(scopes, challenge, doing)
            fresh = True
            if not resend:
                return response
            release(response)
        return response

    def _send_following(
        self, method: str, url: str, headers: dict[str, str], authorisation: str, body: bytes | Path | None
    ) -> requests.Response:
        """Send and follow redirects; the authorisation stays behind when one leaves the registry."""
        for _ in range(_REDIRECTS + 1):
            sent = {"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers}
            if authorisation and self.is_here(url):
                sent["Authorization"] = authorisation
            with open_body(body) as data:
                response = self._session.request(
                    method,
                    url,
                    headers=sent,
                    data=data,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    proxies=choose_proxies(url),
                )
            location = response.headers.get("Location")
            followed = (301, 302, 303, 307, 308) if method in ("GET", "HEAD") else (307, 308)
            if response.status_code not in followed or not location:
                return response
            release(response)
            url = self.resolve(location, response.url)
        raise RegistryError(f"{self.host}: more than {_REDIRECTS} redirects, the last to {urlsplit(url).hostname}", _REPORT)

    def _explain_status(self, response: requests.Response, doing: str) -> RegistryError:
        foreign = "" if self.is_here(response.url) else urlsplit(response.url).hostname or ""
        return explain_status(response, self.host, foreign, doing, logged_in=self._credential is not None, now=self._clock())

    # --- addresses -------------------------------------------------------------------------------------------------

    def _origin(self) -> str:
        if not self._scheme:
            self._scheme = self._probe_scheme()
        return f"{self._scheme}://{self._address}"

    def _probe_scheme(self) -> str:
        """https, unless the host allowed to be plain does not speak TLS."""
        try:
            address = f"https://{self._address}/v2/"
            self._session.get(address, stream=True, allow_redirects=False, timeout=_PROBE, proxies=choose_proxies(address)).close()
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
            return encode_basic(credential) if credential is not None else ""
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
        where = f"{self.host}: {doing}"
        realm = locate_token_service(challenge, where, encrypted=self._scheme == "https")
        name = realm.hostname or ""
        if credential is not None and realm.scheme == "http" and not self._is_own_machine(name):
            raise RegistryError(
                f"{where}: its token service is on another host and not encrypted ({name}): no login is sent there",
                f"tell the registry's operators to name it by https; or run `docker logout {self.host}` and pull without a login",
            )
        asked = make_token_request(challenge, scopes, credential)
        document = self._ask_token_service(urlunsplit(realm), asked, f"{doing}: token from {name}")
        token, lifetime = read_token(document, where, name)
        # Counted from now, not from issued_at: the two clocks may differ. A tenth is kept back for the way there.
        self._tokens[scopes] = (token, self._clock() + lifetime * 0.9)
        return token

    def _is_own_machine(self, name: str) -> bool:
        """Whether ``name`` is the registry's host, or this machine as the registry is: what plain HTTP says to one, the other may hear."""
        own = urlsplit(f"//{self._address}").hostname
        return name == own or (is_loopback(self._address) and is_loopback(f"[{name}]" if ":" in name else name))

    def _ask_token_service(self, realm: str, asked: TokenRequest, doing: str) -> dict[str, Any]:
        waits = Attempts(REGISTRY, self._sleep)
        while True:
            try:
                with self._session.request(
                    asked.method,
                    realm,
                    params=asked.query,
                    data=asked.form,
                    headers=asked.headers,
                    stream=True,
                    allow_redirects=False,
                    timeout=self._timeout,
                    proxies=choose_proxies(realm),
                ) as response:
                    if response.status_code == 200:
                        document = load_json(read_body(response, _TOKEN_BODY, time.monotonic() + _BODY_TIME))
                        return document if isinstance(document, dict) else {}
                    failure = self._explain_status(response, doing)
            except TooSlowError:
                raise RegistryError(
                    f"{self.host}: {doing}: the answer was not complete in time",
                    "run it again; if it fails again, " + _REPORT,
                ) from None
            except ValueError as error:
                if isinstance(error, requests.RequestException):
                    raise self.explain(error, doing) from error
                raise RegistryError(f"{self.host}: {doing}: the answer is not JSON", "check the address or the mirror") from None
            except NETWORK_ERRORS as error:
                failure = self.explain(error, doing)
                hopeless = is_final(error) or self.is_worn_out(error, failure)
                if hopeless or not waits.wait(failure.retry_after, connected=not never_connected(error)):
                    raise failure from error
                continue
            if response.status_code not in PASSING or not waits.wait(failure.retry_after):
                raise failure


def _origin_of(address: SplitResult) -> tuple[str, str, int]:
    return address.scheme, address.hostname or "", address.port or (443 if address.scheme == "https" else 80)
