"""What a package index says about a project: its page, as HTML (PEP 503) or JSON (PEP 691), with PEP 592, 629, 658, 700, 714 and 792."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin, urlsplit

import msgspec

from imagebuild.decoding import check_depth

JSON_TYPE = "application/vnd.pypi.simple.v1+json"
HTML_TYPE = "application/vnd.pypi.simple.v1+html"
STATUSES = ("archived", "quarantined", "deprecated")  # PEP 792; "active" needs no word
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ProjectFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """One file of a project, as its index lists it. Empty means that the index does not say."""

    filename: str
    url: str  # absolute, without fragment
    sha256: str = ""  # 64 hex digits
    size: int = 0  # bytes
    upload_time: str = ""  # RFC 3339, UTC, whole seconds
    requires_python: str = ""
    yanked: bool = False
    yanked_reason: str = ""
    has_metadata: bool = False  # PEP 658: the METADATA file is served beside it
    metadata_sha256: str = ""


class ProjectPage(msgspec.Struct, frozen=True):
    """All files of one project on one index, no two of one name."""

    name: str
    files: tuple[ProjectFile, ...]
    status: str = ""  # PEP 792: archived, quarantined, deprecated; "" for active, and where the index does not say
    status_reason: str = ""


def parse_time(text: object) -> str:
    """An RFC 3339 time as UTC with whole seconds (``2026-10-01T00:00:00Z``), or "" when it is not one."""
    if not isinstance(text, str) or not text:
        return ""
    try:
        value = datetime.fromisoformat(text)
        if value.tzinfo is None:
            value = value.replace(tzinfo=UTC)
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if value.year >= 1000 else ""
    except (ValueError, OverflowError):
        return ""


def parse_json_page(name: str, data: bytes, url: str) -> ProjectPage:
    """PEP 691 and 700. A file entry that makes no sense is left out; a page that makes none raises ValueError."""
    try:
        page = msgspec.json.decode(data)
        check_depth(page)
    except RecursionError:
        raise ValueError("malformed JSON: nested too deeply") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError(f"malformed JSON: {error}") from None
    if not isinstance(page, dict) or not isinstance(page.get("files"), list):
        raise ValueError("no list of files")
    meta = page.get("meta")
    version = meta.get("api-version") if isinstance(meta, dict) else None
    _check_api_version(version)
    files = (_read_json_file(entry, url) for entry in page["files"])
    state = page.get("project-status")
    state = state if isinstance(state, dict) else {}
    return _make_page(name, (item for item in files if item is not None), state.get("status"), state.get("reason"))


def _make_page(name: str, files: Iterable[ProjectFile], status: object, reason: object) -> ProjectPage:
    """The first of two files of one name counts; of the statuses those that PEP 792 has."""
    found: dict[str, ProjectFile] = {}
    for file in files:
        found.setdefault(file.filename, file)
    known = status if isinstance(status, str) and status in STATUSES else ""
    return ProjectPage(name, tuple(found.values()), known, reason[:200] if known and isinstance(reason, str) else "")


def _check_api_version(version: object) -> None:
    """PEP 629: a page of another major version must not be read."""
    if isinstance(version, str) and version.partition(".")[0] not in ("", "1"):
        raise ValueError(f"version {version[:20]!r} of the index's interface is not supported")


def _read_json_file(entry: object, url: str) -> ProjectFile | None:
    if not isinstance(entry, dict):
        return None
    filename, address = entry.get("filename"), entry.get("url")
    if not isinstance(filename, str) or not isinstance(address, str) or not _is_plain_name(filename):
        return None
    hashes = entry.get("hashes")
    size = entry.get("size")
    python = entry.get("requires-python")
    yanked = entry.get("yanked", False)
    advertised = entry.get("core-metadata", entry.get("dist-info-metadata", False))
    joined = _join(url, address)
    if joined is None:
        return None
    return ProjectFile(
        filename,
        joined,
        sha256=_read_sha256(hashes),
        size=size if isinstance(size, int) and not isinstance(size, bool) and size > 0 else 0,
        upload_time=parse_time(entry.get("upload-time")),
        requires_python=python if isinstance(python, str) else "",
        yanked=yanked is True or isinstance(yanked, str),
        yanked_reason=yanked if isinstance(yanked, str) else "",
        has_metadata=advertised is True or isinstance(advertised, dict),
        metadata_sha256=_read_sha256(advertised),
    )


def _read_sha256(hashes: object) -> str:
    value = hashes.get("sha256") if isinstance(hashes, Mapping) else None
    return value.lower() if isinstance(value, str) and _SHA256.fullmatch(value.lower()) else ""


def _is_plain_name(filename: str) -> bool:
    """A file name and nothing else: it becomes a path on this machine."""
    return bool(filename) and "/" not in filename and "\\" not in filename and not filename.startswith(".") and filename.isprintable()


def _join(base: str, address: str) -> str | None:
    """An absolute http(s) or file address; a page from the network may not name files of this machine."""
    try:
        joined = urljoin(base, address)
        scheme = urlsplit(joined).scheme
        origin = urlsplit(base).scheme
    except ValueError:
        return None
    if scheme in ("http", "https") or (scheme == "file" and origin == "file"):
        return joined.partition("#")[0]
    return None


class _PageParser(HTMLParser):
    """Collects anchors of a PEP 503 page."""

    def __init__(self, url: str) -> None:
        super().__init__(convert_charrefs=True)
        self.base = url
        self.files: list[ProjectFile] = []
        self.version: str | None = None
        self.status: str | None = None
        self.reason: str | None = None
        self._based = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(reversed(attrs))  # the first of two equal attributes counts
        if tag == "base" and not self._based and values.get("href"):
            with contextlib.suppress(ValueError):
                self.base = urljoin(self.base, str(values["href"]))
            self._based = True
        elif tag == "meta" and values.get("name") == "pypi:repository-version":
            self.version = values.get("content")
        elif tag == "meta" and values.get("name") == "pypi:project-status":
            self.status = values.get("content")
        elif tag == "meta" and values.get("name") == "pypi:project-status-reason":
            self.reason = values.get("content")
        elif tag == "a" and values.get("href"):
            found = self._read_anchor(values)
            if found is not None:
                self.files.append(found)

    def _read_anchor(self, values: dict[str, str | None]) -> ProjectFile | None:
        href = str(values["href"])
        address = _join(self.base, href)
        if address is None:
            return None
        fragment = href.partition("#")[2]
        try:
            filename = unquote(urlsplit(address).path.rpartition("/")[2])
        except ValueError:
            return None
        if not _is_plain_name(filename):
            return None
        algorithm, _separator, value = fragment.partition("=")
        advertised = values.get("data-core-metadata", values.get("data-dist-info-metadata", ""))
        kind, _separator, digest = (advertised or "").partition("=")
        return ProjectFile(
            filename,
            address,
            sha256=_read_sha256({algorithm: value}),
            requires_python=values.get("data-requires-python") or "",
            yanked="data-yanked" in values,
            yanked_reason=values.get("data-yanked") or "",
            has_metadata=bool(advertised) and advertised != "false",
            metadata_sha256=_read_sha256({kind: digest}),
        )


def parse_html_page(name: str, text: str, url: str) -> ProjectPage:
    """PEP 503, with the attributes of PEP 592, 658 and 714. Never fails on odd markup; ValueError on a newer version."""
    parser = _PageParser(url)
    with contextlib.suppress(AssertionError):  # html.parser on "<![" of an unknown kind
        parser.feed(text)
        parser.close()
    _check_api_version(parser.version)
    return _make_page(name, parser.files, parser.status, parser.reason)
