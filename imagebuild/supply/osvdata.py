"""Where OSV records lie: a folder or a zip on disk, or an internal mirror of the per-ecosystem ``all.zip``.

Taken: ``FOLDER/PyPI/all.zip`` (as the public bucket is laid out), ``FOLDER/all.zip``, ``FOLDER/PyPI/*.json``,
``FOLDER/*.json``, or a zip of such files; of system packages ``FOLDER/Debian/all.zip`` and its like beside them.
Everything is bounded; what cannot be read as a record is counted.
"""

from __future__ import annotations

import time
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

import msgspec

from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.http.retry import INDEX, PASSING, Attempts, parse_retry_after
from imagebuild.supply.osv import ECOSYSTEM, Affected, Record, decode_record
from imagebuild.supply.systempackages import Ecosystem

RECORD_LIMIT = 16 << 20  # bytes of one record
ARCHIVE_LIMIT = 1 << 30  # bytes of an all.zip
TOTAL_LIMIT = 8 << 30  # bytes of all records, unpacked
COUNT_LIMIT = 1_000_000
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError)


class OsvDataset(msgspec.Struct, frozen=True):
    """The records that affect PyPI packages, by normalised name."""

    source: str
    records: int  # all of them
    unreadable: tuple[str, ...]  # names of files that are not a record
    newest: str  # latest ``modified``: how old the data is, at least
    by_name: dict[str, tuple[tuple[Record, Affected], ...]]
    systems: dict[Ecosystem, dict[str, tuple[tuple[Record, Affected], ...]]] = {}  # those that the data has; of the names asked for

    def find(self, name: str) -> tuple[tuple[Record, Affected], ...]:
        """Records about the package, withdrawn ones left out."""
        return self.by_name.get(name, ())


def read_dataset(path: Path, systems: Mapping[Ecosystem, Collection[str]] | None = None) -> OsvDataset:
    """Read all of it, and of ``systems`` what is about those names; ConfigurationError when there is nothing of PyPI, IntegrityError
    beyond the limits."""
    from packaging.utils import canonicalize_name

    wanted = systems or {}
    found: dict[str, list[tuple[Record, Affected]]] = {}
    others: dict[Ecosystem, dict[str, list[tuple[Record, Affected]]]] = {}
    unreadable: list[str] = []
    newest, count, total = "", 0, 0
    for name, read in _list_files(path, sorted({item.folder for item in wanted})):
        count += 1
        data = read()
        total += len(data)
        if count > COUNT_LIMIT or total > TOTAL_LIMIT:
            raise IntegrityError(f"{path} holds more than any OSV data set does", "name the folder or zip of one ecosystem")
        try:
            record = decode_record(data)
        except msgspec.MsgspecError:
            unreadable.append(name)
            continue
        newest = max(newest, record.modified)
        if record.withdrawn:
            continue
        for affected in record.affected or ():
            if affected.package is not None and affected.package.ecosystem == ECOSYSTEM:
                found.setdefault(canonicalize_name(affected.package.name), []).append((record, affected))
            elif affected.package is not None:
                for ecosystem, names in wanted.items():
                    if ecosystem.holds(affected.package.ecosystem):
                        known = others.setdefault(ecosystem, {})
                        if affected.package.name in names:  # without the other releases' lists of versions, which are long
                            known.setdefault(affected.package.name, []).append((msgspec.structs.replace(record, affected=None), affected))
    if not found:
        raise ConfigurationError(
            f"{path} holds no OSV record about a {ECOSYSTEM} package",
            "name a folder with PyPI/all.zip, a folder of JSON records, or an all.zip",
        )
    return OsvDataset(
        str(path),
        count - len(unreadable),
        tuple(unreadable),
        newest,
        {name: tuple(items) for name, items in found.items()},
        {key: {name: tuple(items) for name, items in names.items()} for key, names in others.items()},
    )


def _list_files(path: Path, systems: Collection[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        if path.is_dir():
            main = next((file for file in (path / ECOSYSTEM / "all.zip", path / "all.zip") if file.is_file()), None)
            if main is not None:
                yield from _list_archive(main)
            else:
                yield from _list_folder(path, path / ECOSYSTEM if (path / ECOSYSTEM).is_dir() else path)
            for name in systems:
                if (path / name / "all.zip").is_file():
                    yield from _list_archive(path / name / "all.zip")
                elif main is not None or (path / ECOSYSTEM).is_dir():  # else all of the folder was listed
                    yield from _list_folder(path, path / name)
        elif path.is_file():
            yield from _list_archive(path)
        else:
            raise ConfigurationError(f"there is no OSV data at {path}", "download it once (PyPI/all.zip), and name its folder with --osv")
    except OSError as error:
        raise ConfigurationError(
            f"the OSV data cannot be read: {error}", "check that the folder exists and that this user may read it"
        ) from None


def _list_folder(path: Path, folder: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    for file in sorted(folder.rglob("*.json")):
        yield str(file.relative_to(path)), lambda file=file: _read_file(file)  # type: ignore[misc]


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        return _check_size(path.name, stream.read(RECORD_LIMIT + 1))


def _list_archive(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir() and info.filename.endswith(".json"):
                    yield info.filename, lambda info=info: _read_member(archive, info)  # type: ignore[misc]
    except _BROKEN_ZIP as error:
        raise IntegrityError(f"{path} is not a readable zip: {error}", "download it again") from None


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(info) as stream:
            return _check_size(info.filename, stream.read(RECORD_LIMIT + 1))
    except _BROKEN_ZIP as error:
        raise IntegrityError(f"{archive.filename} is damaged at {info.filename}: {error}", "download it again") from None


def _check_size(name: str, data: bytes) -> bytes:
    if len(data) > RECORD_LIMIT:
        raise IntegrityError(
            f"the OSV record {name} has more than {RECORD_LIMIT >> 20} MiB", "no OSV record is that large; check where it comes from"
        )
    return data


def fetch_dataset(
    url: str, cache: Path, report: Callable[[str], None], systems: Collection[str] = (), sleep: Callable[[float], object] = time.sleep
) -> Path:
    """``URL/PyPI/all.zip`` of an internal mirror, kept in the cache and asked for again only when it changed. The folder that holds
    ``PyPI/all.zip``, and ``NAME/all.zip`` of those ``systems`` that the mirror has.

    What passes by itself is asked for again, as with a package index; RemoteError when it does not pass.
    """
    import hashlib

    if not url.startswith(("https://", "http://")):
        raise ConfigurationError(f"not the URL of an OSV mirror: {url!r}", "write https://HOST/PATH, the folder that holds PyPI/all.zip")
    folder = cache / "osv" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]
    for name in (ECOSYSTEM, *sorted(systems)):
        _fetch_archive(f"{url.rstrip('/')}/{quote(name)}/all.zip", folder / name, report, Attempts(INDEX, sleep), needed=name == ECOSYSTEM)
    return folder


class _PassingError(Exception):
    """A failure that another attempt may not meet."""

    def __init__(self, failure: RemoteError, retry_after: float | None = None, *, connected: bool = True) -> None:
        super().__init__()
        self.failure, self.retry_after, self.connected = failure, retry_after, connected


def _fetch_archive(address: str, folder: Path, report: Callable[[str], None], attempts: Attempts, *, needed: bool) -> None:
    while True:
        try:
            return _fetch_once(address, folder, report, needed=needed)
        except _PassingError as error:
            if not attempts.wait(error.retry_after, connected=error.connected):
                raise error.failure from None


def _fetch_once(address: str, folder: Path, report: Callable[[str], None], *, needed: bool) -> None:
    import requests

    from imagebuild.files import explain_os_error, replacing, write_atomic

    archive, mark = folder / "all.zip", folder / "etag"
    known = mark.read_text() if archive.is_file() and mark.is_file() else ""
    shown = address.rpartition("@")[2] if "@" in address else address
    try:
        with requests.get(address, headers={"If-None-Match": known} if known else {}, stream=True, timeout=(10, 60)) as answer:
            if answer.status_code == 304 and known:
                return
            if answer.status_code == 404 and not needed:
                report(f"{shown}: missing, so those packages are not looked up")
                archive.unlink(missing_ok=True)
                return
            if answer.status_code != 200:
                hint = "check that the mirror has PyPI/all.zip; or name a copy with --osv"
                failure = RemoteError(f"{shown}: HTTP {answer.status_code}", hint)
                if answer.status_code in PASSING:
                    raise _PassingError(failure, parse_retry_after(answer.headers.get("Retry-After"), time.time()))
                raise failure
            report(f"fetching {shown}")
            size = 0
            with replacing(archive) as stream:
                for chunk in answer.iter_content(1 << 20):
                    size += len(chunk)
                    if size > ARCHIVE_LIMIT:
                        raise IntegrityError(
                            f"{shown} is larger than {ARCHIVE_LIMIT >> 30} GiB", "no OSV data set is that large; check the mirror"
                        )
                    stream.write(chunk)
                stream.flush()
                if not zipfile.is_zipfile(stream):
                    raise IntegrityError(f"{shown} is not a zip", "perhaps it is a proxy's page; check the mirror")
            write_atomic(mark, answer.headers.get("ETag", "").encode("latin-1", "replace"))
    except requests.RequestException as error:
        failure = RemoteError(
            f"{shown} cannot be fetched: {type(error).__name__}", "check that the mirror is reachable; or name a copy on disk with --osv"
        )
        if isinstance(error, (requests.exceptions.SSLError, requests.exceptions.InvalidURL)):
            raise failure from None  # asking again does not help
        raise _PassingError(failure, connected="NewConnectionError" not in repr(error)) from None
    except OSError as error:
        raise explain_os_error(error, "keeping the OSV data") from None
