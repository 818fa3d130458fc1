"""Package indexes by name: the one place that knows an index's address, and which names may come from where.

A lock, a message and every other module speak of an index by its name. The address of the default one is the machine's
own pip configuration; others are written in ``images/indexes.toml`` and ``team.toml``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

import msgspec

from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.index.redirects import find_origin, is_downgrade

DEFAULT_NAME = "default"
LOCAL_NAME = "local"  # what a lock says of a wheel built from the team's own source tree
URL_NAME = "url"  # what a lock says of a wheel that requirements.in names by its address
INDEX_KINDS = ("pypi", "cran", "openvsx")  # Python packages (PEP 503), R packages, VS Code extensions
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")
_CONFIGURATION_SECONDS = 60


class PackageIndex(msgspec.Struct, frozen=True):
    """One package index: a simple repository (PEP 503, PEP 691), or by its ``kind`` a CRAN-like repository or an Open VSX gallery.

    ``repr`` and ``str`` never show address or secrets.
    """

    name: str
    url: (
        str  # of the simple API's (the repository's, the gallery's) root; http, https or file; user:password@ is accepted and never printed
    )
    names: tuple[str, ...] = ()  # fnmatch patterns over normalised names: these come from here and nowhere else
    default: bool = False  # serves every name that no other index claims
    username: str = ""
    password: str = ""
    certificate: str = ""  # file of the authorities to trust, "" for the machine's own
    reference: str = ""  # where the credentials are: netrc, env:USER,PASSWORD, keyring:USER (lock/index/credentials.py)
    redirects: tuple[str, ...] = ()  # other hosts (``host`` or ``host:port``) that its pages may redirect to
    local: bool = False  # source trees and wheels by URL may have names that this index claims
    file: str = ""  # where its table is written, for messages
    kind: str = "pypi"  # what it serves: one of INDEX_KINDS

    def __repr__(self) -> str:
        return f"PackageIndex(name={self.name!r}, names={self.names!r}, default={self.default})"

    __str__ = __repr__

    @property
    def address(self) -> str:
        """The address without credentials, ending in a slash."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(SplitResult(parts.scheme, host, parts.path.rstrip("/") + "/", parts.query, ""))

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, given apart or in the address; None leaves it to netrc."""
        if self.username or self.password:
            return self.username, self.password
        user, separator, _host = urlsplit(self.url).netloc.rpartition("@")
        if not separator:
            return None
        name, _colon, word = user.partition(":")
        return unquote(name), unquote(word)

    def claims(self, name: str) -> bool:
        """Whether one of this index's patterns matches a normalised name."""
        return any(fnmatchcase(name, normalize_pattern(pattern)) for pattern in self.names)

    def may_redirect(self, url: str) -> bool:
        """Whether a page of this index may come from ``url``: the index's own scheme, host and port, or a host named in ``redirects``.

        A host that is named may not take an index from https to http.
        """
        own, other = find_origin(self.address), find_origin(url)
        if other is None or own is None:
            return False
        if own == other:
            return True
        if is_downgrade(self.address, other):
            return False
        return any(find_origin(f"{other.scheme}://{host}/") == other for host in self.redirects)


# Stands for no index: what a lock names by address has its own, and only netrc, which goes by host, has credentials for it.
ADDRESSES = PackageIndex(URL_NAME, "https://localhost/")


def normalize_pattern(pattern: str) -> str:
    """A pattern as it is compared with normalised names: ``Cosml_*`` means ``cosml-*``."""
    return re.sub(r"[-_.]+", "-", pattern).lower()


class UnroutedError(LockError):
    """A name that no index may serve. ``details``: who needs it."""

    def __init__(self, name: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(
            f"no package index may serve {name}",
            "let the names of an [[index]] match it, or allow this machine's own index for it: machine-index = true",
            details,
        )
        self.name = name


def validate_indexes(indexes: Sequence[PackageIndex]) -> None:
    """ConfigurationError unless names are unique and fit, URLs are usable, and no kind has two defaults or double claims."""
    seen: set[str] = set()
    for index in indexes:
        if not _NAME.fullmatch(index.name) or index.name in (LOCAL_NAME, URL_NAME):
            raise ConfigurationError(
                f"not a name for a package index: {index.name!r}",
                f"use lower-case letters, digits, - and _; {LOCAL_NAME!r} and {URL_NAME!r} are taken",
            )
        if index.name in seen:
            raise ConfigurationError(f"two package indexes are named {index.name!r}", "give each its own name")
        seen.add(index.name)
        if urlsplit(index.url).scheme not in ("http", "https", "file"):
            raise ConfigurationError(f"the address of package index {index.name!r} is not http, https or file", "correct its url")
        if not index.default and not index.names:
            raise ConfigurationError(f"package index {index.name!r} serves no names", 'say which names come from it: names = ["cosml-*"]')
    for kind in INDEX_KINDS:
        _check_claims([index for index in indexes if index.kind == kind])


def _check_claims(indexes: Sequence[PackageIndex]) -> None:
    """Of indexes of one kind: at most one default, and no name claimed twice."""
    defaults = [index.name for index in indexes if index.default]
    if len(defaults) > 1:
        raise ConfigurationError(f"two package indexes are the default: {' and '.join(defaults)}", "leave default = true to one of them")
    for number, index in enumerate(indexes):
        for other in indexes[number + 1 :]:
            if shared := find_shared_claim(index, other):
                raise _doubly_claimed(shared, (index, other))


def find_shared_claim(one: PackageIndex, other: PackageIndex) -> str:
    """A pattern of one index that the other claims as well: the same one, or a plain name within a pattern; "" for none that is seen.

    Two patterns that merely overlap are found when a name matches both (:func:`route_name`).
    """
    for index, second in ((one, other), (other, one)):
        for pattern in map(normalize_pattern, index.names):
            if pattern in map(normalize_pattern, second.names) or (not set("*?[") & set(pattern) and second.claims(pattern)):
                return pattern
    return ""


def _doubly_claimed(name: str, indexes: Sequence[PackageIndex]) -> ConfigurationError:
    files = " or ".join(dict.fromkeys(index.file for index in indexes if index.file))
    return ConfigurationError(
        f"{name} is claimed by two package indexes: {', '.join(index.name for index in indexes)}",
        f"narrow the names of one of them{f' in {files}' if files else ''}",
    )


def route_name(name: str, indexes: Sequence[PackageIndex]) -> PackageIndex:
    """The one index that a normalised name may come from. Two that claim it is a ConfigurationError, none a LockError."""
    claiming = [index for index in indexes if index.claims(name)]
    if len(claiming) > 1:
        raise _doubly_claimed(name, claiming)
    if claiming:
        return claiming[0]
    for index in indexes:
        if index.default:
            return index
    raise UnroutedError(name)


def default_index() -> PackageIndex:
    """The index this machine's pip uses (PIP_INDEX_URL, pip.conf, or pip's own), named ``default``."""
    settings = _read_pip_settings()
    return PackageIndex(
        DEFAULT_NAME, settings.get("index-url") or _read_builtin_address(), default=True, certificate=settings.get("cert", "")
    )


def _read_pip_settings() -> dict[str, str]:
    """pip's options for ``install``, merged as pip does: global, then install, then the environment."""
    done = _ask_python("-m", "pip", "--disable-pip-version-check", "--no-input", "config", "list")
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise ConfigurationError(f"cannot read pip's configuration: {last}", "run: pip config debug")
    return parse_pip_settings(done.stdout)


def _ask_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run of this Python in a process of its own, for a thread must not load pip; ``-P``: nothing is taken from the current folder."""
    command = [sys.executable, "-P", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=_CONFIGURATION_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigurationError(f"cannot read pip's configuration: {type(error).__name__}", "run: pip config list") from None


def parse_pip_settings(text: str) -> dict[str, str]:
    """What ``pip config list`` prints -> option -> value."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in text.splitlines():
        key, separator, value = line.partition("=")
        section, dot, option = key.rpartition(".")
        if separator and dot and section in found:
            try:
                found[section][option] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue
    return {**found["global"], **found["install"], **found[":env:"]}


def _read_builtin_address() -> str:
    """The address pip itself falls back to, asked of pip so that no file of ours names it."""
    done = _ask_python("-c", "from pip._internal.models.index import PyPI; print(PyPI.simple_url)")
    if done.returncode != 0:
        raise ConfigurationError("pip does not say which index is its default", "set index-url in pip's configuration")
    return done.stdout.strip()
