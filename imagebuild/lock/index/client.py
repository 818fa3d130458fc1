"""Requests to one package index: retries, limits, credentials for its own host only, and every failure in one line."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import msgspec
import requests
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url
from urllib3.exceptions import HTTPError, ReadTimeoutError

from imagebuild import __version__
from imagebuild.errors import RemoteError
from imagebuild.files import CHUNK
from imagebuild.http.pace import Pace
from imagebuild.http.retry import INDEX, PASSING, STALLED, TIMEOUTS, Patience, compute_wait, parse_retry_after
from imagebuild.lock.index.credentials import find_credentials, find_netrc_entry
from imagebuild.lock.index.redirects import Origin, find_location, find_origin, is_downgrade, resolve_location
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.oci.session import closing_on_failure

ATTEMPTS = INDEX.attempts
PAGE_LIMIT = 64 << 20
_REDIRECTS = 10  # in one chain
_SHORT = 64 << 10  # bytes of a redirect's body that are read, so that the connection serves again
_PIECE = 128 << 10  # of a body: small enough to stop soon where the network is slow


class CutShortError(Exception):
    """A body that ended early; worth another try."""


class Body(msgspec.Struct, frozen=True):
    """A whole answer. ``data`` is empty when ``unchanged`` (304: what was kept is still right)."""

    data: bytes
    content_type: str
    url: str  # after redirects
    headers: Mapping[str, str]
    unchanged: bool = False


class _LeftIndexError(Exception):
    """A page's redirect may not be followed; ``target``: where it points."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


class Elsewhere(msgspec.Struct, frozen=True):
    """A page that redirects to where the index may not redirect to."""

    target: str  # scheme, host and port, for messages: https://pypi.example, http://10.0.0.7:8080


class _Session(requests.Session):
    """Leaves redirects to us: even where it does not follow one, requests would parse it and read its whole body."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002  # requests' signature
        return None


class IndexClient:
    """HTTP to one index and to wherever its files are. Safe to share between threads.

    Credentials go to the index's own scheme, host and port only. Another host gets what netrc has for it by name, never netrc's
    ``default`` entry. A *page* that redirects elsewhere is never followed: whoever answers there decides what is installed, and it is not
    the index that the name was routed to (pypiserver, as installed, redirects what it lacks to the public index). A *file* may come from
    another host, as content delivery networks have it: its hash is on the page.
    """

    def __init__(self, index: PackageIndex, pause: Callable[[float], object] | None = None, *, agent: str = "") -> None:
        """``agent``: a User-Agent in place of ours, for servers that answer by it."""
        self.index = index
        self._agent = agent or f"imagebuild/{__version__}"
        self.stopped = threading.Event()
        self.pause = pause or self.stopped.wait
        self._patience = Patience(STALLED)
        self._guard = threading.Lock()
        self._session: requests.Session | None = None
        self._credentials: dict[Origin, tuple[str, str] | None] = {}

    def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            self._session.close()

    def read_body(self, url: str, headers: Mapping[str, str], limit: int, what: str) -> Body | None:
        """The whole answer to a GET; None for 404 or 410."""
        with self.send(url, headers, what, body=True, limit=limit) as answer:
            return self._read_answer(answer, headers, what)

    def _read_answer(self, answer: requests.Response, headers: Mapping[str, str], what: str) -> Body | None:
        if answer.status_code in (404, 410):
            return None
        if answer.status_code not in (200, 304) or (answer.status_code == 304 and "If-None-Match" not in headers):
            raise self.explain_refusal(answer.status_code, what)
        content_type = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return Body(answer.content, content_type, answer.url, answer.headers, answer.status_code == 304)

    def read_page(self, url: str, headers: Mapping[str, str], what: str) -> Body | Elsewhere | None:
        """A project page: the whole answer, None for 404 or 410, or where it redirects to, if it may not."""
        try:
            with self.send(url, headers, what, body=True, page=True) as answer:
                return self._read_answer(answer, headers, what)
        except _LeftIndexError as error:
            return Elsewhere(error.target)

    def open_page(self, url: str, headers: Mapping[str, str], what: str) -> requests.Response:
        """The answer to a GET by the rule of a page, its body not read; RemoteError where it redirects to where it may not."""
        try:
            return self.send(url, headers, what, page=True)
        except _LeftIndexError as error:
            raise self.explain_redirect(Elsewhere(error.target), what) from None

    def read_blocks(self, answer: requests.Response) -> Iterator[bytes]:
        """A body piece by piece; CutShortError when it ends early."""
        try:
            yield from _iterate(answer, _PIECE)
        except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as error:
            if self._is_worn_out(error):
                raise self._explain_stall() from None
            raise CutShortError(type(error).__name__) from None

    def send(
        self, url: str, headers: Mapping[str, str], what: str, *, body: bool = False, limit: int = PAGE_LIMIT, page: bool = False
    ) -> requests.Response:
        """GET with bounded retries on what passes by itself. With ``body``, the body has been read when this returns.

        Redirects of a ``page`` are followed within its index, those of anything else to any host, and none from https to http.
        """
        problem: RemoteError | None = None
        after = ""
        attempts = ATTEMPTS
        for attempt in range(ATTEMPTS):
            if attempt >= attempts or (attempt and self.stopped.is_set()):
                break
            if attempt:
                self.pause(compute_pause(attempt, after))
            after = ""
            try:
                answer = self._get(url, headers, what, page)
                if answer.status_code in PASSING:
                    problem, after = self.explain_refusal(answer.status_code, what), answer.headers.get("Retry-After", "")
                    answer.close()
                    continue
                if body:
                    with closing_on_failure(answer):
                        self._read_whole(answer, limit, what)
                self._patience.restore()
                return answer
            except requests.exceptions.SSLError:
                raise RemoteError(
                    f"this machine does not trust the certificate of package index {self.index.name!r}",
                    "hand in the authority that signed it: set cert in pip's configuration, or REQUESTS_CA_BUNDLE",
                ) from None
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
                raise RemoteError(
                    f"package index {self.index.name!r} gives an invalid URL for {what}", "report it to the index's operators"
                ) from None
            except (requests.RequestException, HTTPError, ConnectionError, TimeoutError) as error:
                if self._is_worn_out(error):
                    raise self._explain_stall() from None
                problem = RemoteError(
                    f"no network: package index {self.index.name!r} cannot be reached for {what} ({_name_cause(error)})",
                    "check the network and proxy of this machine, then run it again",
                )
                if "NewConnectionError" in repr(error) or isinstance(error, requests.ConnectTimeout):
                    attempts = INDEX.connect_attempts
        assert problem is not None
        raise problem

    def _is_worn_out(self, error: BaseException) -> bool:
        """Whether this index has kept us waiting for nothing for too long, with ``error`` now."""
        stalled = isinstance(error, (requests.ReadTimeout, ReadTimeoutError, TimeoutError))
        return stalled and not self._patience.spend(TIMEOUTS[1])

    def _explain_stall(self) -> RemoteError:
        return RemoteError(
            f"package index {self.index.name!r} takes requests and does not answer in time",
            "run it again; if it fails again, report it to the index's operators",
        )

    def _get(self, url: str, headers: Mapping[str, str], what: str, page: bool) -> requests.Response:
        """One GET, and those that its redirects lead to."""
        for _hop in range(_REDIRECTS + 1):
            answer = self._connect().get(
                url, headers=headers, stream=True, timeout=TIMEOUTS, auth=self._authorize(url), allow_redirects=False
            )
            location = find_location(answer.status_code, answer.headers.get("Location"))
            if location is None:
                return answer
            _release(answer)
            url = self._resolve(answer.url, location, what, page)
        raise RemoteError(f"package index {self.index.name!r} redirects in a circle for {what}", "report it to the index's operators")

    def _resolve(self, url: str, location: str, what: str, page: bool) -> str:
        """Where a redirect goes, when it may be followed."""
        target = resolve_location(url, location)
        origin = find_origin(target) if target is not None else None
        if target is None or origin is None:
            if page:
                raise _LeftIndexError("an address that is not http or https")
            raise RemoteError(
                f"package index {self.index.name!r} redirected {what} to an address that is not http or https",
                "report it to the index's operators",
            )
        if page and (not self.index.may_redirect(target) or is_downgrade(url, origin)):
            raise _LeftIndexError(str(origin))
        if is_downgrade(url, origin):
            raise RemoteError(
                f"package index {self.index.name!r} redirected {what} from https to {origin}, which is not encrypted",
                "nothing was requested there; report it to the index's operators",
            )
        return target

    def _read_whole(self, answer: requests.Response, limit: int, what: str) -> None:
        blocks: list[bytes] = []
        total = 0
        if answer.status_code == 200 or answer.status_code == 206:
            if answer.status_code == 200 and "Range" in answer.request.headers:
                answer.close()  # the server has no ranges: its whole body is read elsewhere, to disk
                return
            for block in _iterate(answer, CHUNK):
                total += len(block)
                if total > limit:
                    answer.close()
                    raise RemoteError(
                        f"package index {self.index.name!r} sent more than {limit >> 20} MiB for {what}",
                        "report it to the index's operators",
                    )
                blocks.append(block)
        answer._content = b"".join(blocks)  # what Response.content would do, with a limit
        answer._content_consumed = True  # type: ignore[attr-defined]
        answer.close()

    def _connect(self) -> requests.Session:
        if self._session is None:
            session = _Session()
            session.headers["User-Agent"] = self._agent
            adapter = HTTPAdapter(pool_connections=8, pool_maxsize=32)
            session.mount("https://", adapter)
            session.mount("http://", adapter)
            if self.index.certificate:
                session.verify = self.index.certificate
            self._session = session
        return self._session

    def _authorize(self, url: str) -> Callable[[requests.PreparedRequest], requests.PreparedRequest]:
        """What adds the Authorization header for this address, if anything does.

        Never None: requests would look into netrc by itself then, and take its ``default`` entry for any host.
        """
        found = self._find_credentials(url)
        user, password = found if found is not None else get_auth_from_url(url)
        return HTTPBasicAuth(user, password) if user or password else _add_nothing

    def _find_credentials(self, url: str) -> tuple[str, str] | None:
        origin = find_origin(url)
        if origin is None:
            return None  # no address: the request will say so
        with self._guard:
            if origin not in self._credentials:
                own = origin == find_origin(self.index.address)
                given = find_credentials(self.index) if own else None
                self._credentials[origin] = given or find_netrc_entry(origin.host, default=own)
            return self._credentials[origin]

    def explain_redirect(self, elsewhere: Elsewhere, what: str) -> RemoteError:
        """The error for a page that redirects to where the index may not redirect to, where it does not count as absent."""
        return RemoteError(
            f"package index {self.index.name!r} redirects {what} to {elsewhere.target}, which is not followed",
            f'if that host is meant, name it: redirects = ["HOST"] in the [[index]] {self.index.name!r}',
        )

    def explain_refusal(self, status: int, what: str) -> RemoteError:
        hint = {
            401: "it wants a user and password: put them in the machine's netrc, or say where they are with credentials in its [[index]]",
            403: "these credentials may not read it: ask the index's operators",
            429: "it limits requests: try again later",
        }.get(status, "try again later; if it fails again, report it to the index's operators")
        return RemoteError(f"package index {self.index.name!r} answered {status} for {what}", hint)


def _add_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def _iterate(answer: requests.Response, size: int) -> Iterator[bytes]:
    """A body as it arrives, decompressed; TimeoutError when it comes too slowly."""
    pace = Pace()

    def read() -> bytes:
        data: bytes = answer.raw.read1(size, decode_content=True)
        return data

    while data := pace.read(read):
        yield data


def _release(answer: requests.Response) -> None:
    """Read a redirect's short body, so that the connection can be used again; drop the connection where it is not short."""
    length = answer.headers.get("Content-Length", "")
    if length.isdigit() and int(length) <= _SHORT:
        with contextlib.suppress(HTTPError, OSError):
            answer.raw.read(_SHORT)
    answer.close()


def compute_pause(attempt: int, after: str) -> float:
    """Seconds to wait before attempt ``attempt + 1``, by the rule for indexes; ``after`` is the Retry-After header, or empty."""
    return compute_wait(INDEX, attempt, parse_retry_after(after or None, time.time()))


def _name_cause(error: Exception) -> str:
    """The kind of failure without the address that requests puts into its messages."""
    text = f"{error!r}"
    for sign, cause in (
        ("NameResolutionError", "its host name does not resolve"),
        ("Connection refused", "connection refused"),
        ("unreachable", "no route to it"),
        ("timed out", "timed out"),
        ("ProxyError", "the proxy refused"),
        ("IncompleteRead", "the body was cut short"),
        ("Connection reset", "connection reset"),
    ):
        if sign in text:
            return cause
    return type(error).__name__
