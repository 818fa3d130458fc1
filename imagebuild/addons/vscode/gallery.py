"""An Open VSX gallery: ``GET {base}/api/{publisher}/{name}[/{target platform}][/{version}]`` gives what it knows of one build.

What it says is believed only as far as it must be: where the file is, and its hash. All else is read from the file.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import msgspec

from imagebuild.addons.archives import KeptArchive, download_archive, download_unhashed
from imagebuild.addons.vscode.manifest import UNIVERSAL, is_extension_version
from imagebuild.addons.vscode.versions import parse_version
from imagebuild.decoding import make_decoder
from imagebuild.errors import ConfigurationError, LockError, RemoteError
from imagebuild.lock.index.client import Body, Elsewhere, IndexClient
from imagebuild.lock.index.redirects import find_origin
from imagebuild.lock.index.routing import PackageIndex

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_PAGE = 16 << 20  # bytes of an answer


class _Answer(msgspec.Struct, rename="camel"):
    version: str = ""
    target_platform: str = UNIVERSAL
    timestamp: str = ""
    pre_release: bool = False
    files: dict[str, str] = {}
    engines: dict[str, Any] = {}
    all_versions: dict[str, Any] = {}
    downloads: dict[str, Any] = {}


_ANSWERS = make_decoder(_Answer)


class GalleryBuild(msgspec.Struct, frozen=True):
    """One build of an extension, as its gallery lists it."""

    name: str  # in lower case
    version: str
    platform: str
    url: str
    sha256: str  # 64 hex digits; empty where the gallery gives none
    released: str  # RFC 3339; empty where the gallery does not say
    pre_release: bool
    engine: str  # engines.vscode; empty where the gallery does not say
    versions: tuple[str, ...]  # all that the gallery has, newest first

    @property
    def filename(self) -> str:
        """What the file is called here."""
        platform = "" if self.platform == UNIVERSAL else f"@{self.platform}"
        return f"{self.name}-{self.version}{platform}.vsix"


class Gallery:
    """One gallery, read over the network."""

    def __init__(self, index: PackageIndex, cache: Path) -> None:
        if index.address.startswith("file:"):
            raise ConfigurationError(
                f"package index {index.name!r} is a folder, and a gallery of extensions is asked over http",
                "put .vsix files into the team's extensions/ folder",
            )
        self.index = index
        self._cache = cache
        self._client = IndexClient(index)

    def close(self) -> None:
        """Let go of connections."""
        self._client.close()

    def find_build(self, asked: str, platforms: tuple[str, ...], version: str = "") -> GalleryBuild | None:
        """The build of ``asked`` (publisher.name) for the first of ``platforms`` that has one; the newest, or one ``version``."""
        for platform in platforms:
            found = self._read(asked, f"/{platform}" + (f"/{version}" if version else ""))
            # A gallery may answer with the build that it has; that is not the one that was asked for.
            if found is not None and found.platform == platform and (not version or found.version == version):
                return found
        return None

    def list_platforms(self, asked: str) -> tuple[str, ...] | None:
        """The platforms that an extension has builds for, as far as the gallery says; None where it has no such extension."""
        answer = self._request(asked, "")
        return tuple(sorted({answer.target_platform, *answer.downloads})) if answer is not None else None

    def download(self, build: GalleryBuild) -> KeptArchive:
        """The .vsix in the cache. IntegrityError when it is not the one that the gallery promises.

        A file whose hash is known may come from any host; one without from those alone that the index may redirect to.
        """
        if build.sha256:
            return download_archive(self._client, build.url, build.filename, self._cache, sha256=build.sha256, name=build.name)
        if not self.index.may_redirect(build.url):
            raise self._explain(build.name, "gives no hash, and the file is on another host")
        try:
            return download_unhashed(self._client, build.url, build.filename, self._cache)
        except LockError:
            raise self._explain(build.name, "lists a file that is gone") from None

    def _read(self, asked: str, rest: str) -> GalleryBuild | None:
        answer = self._request(asked, rest)
        if answer is None:
            return None
        url = urljoin(self.index.address, answer.files.get("download", ""))
        if not is_extension_version(answer.version) or find_origin(url) is None or not answer.files.get("download"):
            raise self._explain(asked, "sent an answer without a version, or without an http(s) address of the file")
        versions = [text for text in answer.all_versions if parse_version(text) is not None]
        return GalleryBuild(
            name=asked.lower(),
            version=answer.version,
            platform=answer.target_platform,
            url=url,
            sha256=self._read_hash(asked, answer.files.get("sha256", "")),
            released=_normalize_time(answer.timestamp),
            pre_release=answer.pre_release,
            engine=str(answer.engines.get("vscode", "")),
            versions=tuple(sorted(versions, key=lambda text: parse_version(text) or (), reverse=True)),
        )

    def _read_hash(self, asked: str, given: str) -> str:
        """The hash that a gallery gives: itself, or the address of a text with it; that address must be the gallery's own."""
        if not given or _HEX.fullmatch(given):
            return given.lower()
        url = urljoin(self.index.address, given)
        answer = self._client.read_page(url, {}, f"the hash of {asked}") if self.index.may_redirect(url) else Elsewhere(url)
        words = answer.data[:200].decode("ascii", "replace").split() if isinstance(answer, Body) else []
        if not words or not _HEX.fullmatch(words[0]):
            raise self._explain(asked, "has no usable hash where it says that it is")
        return words[0].lower()

    def _request(self, asked: str, rest: str) -> _Answer | None:
        publisher, _, name = asked.partition(".")
        url = urljoin(self.index.address, f"api/{publisher}/{name}{rest}")
        answer = self._client.read_page(url, {"Accept": "application/json"}, f"the extension {asked}")
        if answer is None:
            return None
        if isinstance(answer, Elsewhere):
            raise self._client.explain_redirect(answer, asked)
        if len(answer.data) > _PAGE:
            raise self._explain(asked, f"sent more than {_PAGE >> 20} MiB")
        try:
            return _ANSWERS.decode(answer.data)
        except msgspec.MsgspecError as error:
            raise self._explain(asked, f"sent an answer that cannot be read: {error}") from None

    def _explain(self, asked: str, why: str) -> RemoteError:
        return RemoteError(f"package index {self.index.name!r} {why} ({asked})", "its url must be that of an Open VSX gallery")


def _normalize_time(text: str) -> str:
    """``2026-10-01T08:00:00.123456Z`` in whole seconds, UTC; empty for anything else."""
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return ""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if moment.tzinfo is not None else ""
