"""A registry over HTTP (distribution-spec v1.1) as a store.

What is kept to: manifests byte for byte; every byte checked against its digest; one POST and one PUT per upload, streamed
from disk; three answers about presence, of which unknown is never taken for absent; a refused mount is reported, never
turned into a copy.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit, urlunsplit

import requests

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.content import (
    IMAGE_TYPES,
    MANIFEST_LIMIT,
    check_bytes,
    check_manifest,
    check_name,
    check_small,
    open_verified,
    parse_reference,
)
from imagebuild.oci.credentials import Credentials
from imagebuild.oci.download import WRONG_BYTES, Download
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.listing import DEFAULT_LIMITS, ListingLimits, iterate_pages
from imagebuild.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.session import read_length
from imagebuild.oci.store import Presence
from imagebuild.oci.transport import Transport

_ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))
_PAGE_SIZE = 1000  # entries asked for, the most that ECR and distribution take; registries may give fewer
_UPLOADS = 3  # times an upload is begun
_ABSENT = frozenset({404})
_NO_REFERRERS = frozenset({400, 404, 405, 406, 501})  # what registries without the referrers API answer
_REFUSED_MOUNT = frozenset({400, 401, 403, 404, 405})
_REMADE = "it was changed or cut short after it was made; remove it and run again"
_REPORT = "report it to the registry's operators"


class RegistryStore:
    """:class:`imagebuild.oci.store.Store` on the registry ``host`` (``docker.io``, ``ghcr.io``, ``localhost:5000``).

    ``credentials`` None is anonymous (:meth:`Credentials.load` reads the user's). ``insecure`` True allows plain HTTP where
    the host has no TLS, None does so for loopback only. ``ca_file`` is trusted in addition to the usual authorities.
    ``sleep`` and ``clock`` are for tests.
    """

    def __init__(
        self,
        host: str,
        *,
        credentials: Credentials | None = None,
        insecure: bool | None = None,
        ca_file: Path | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.time,
        timeout: tuple[float, float] = (10.0, 60.0),
        page_size: int = _PAGE_SIZE,
        listing: ListingLimits = DEFAULT_LIMITS,
    ) -> None:
        self._transport = Transport(
            host, credentials=credentials, insecure=insecure, ca_file=ca_file, sleep=sleep, clock=clock, timeout=timeout
        )
        self._page_size, self._listing = page_size, listing
        self._failures = threading.local()  # a pool of threads asks many questions at once

    @property
    def label(self) -> str:
        """The registry's host."""
        return self._transport.host

    @property
    def registry_host(self) -> str:
        """The registry's host."""
        return self._transport.host

    @property
    def last_failure(self) -> RegistryError | None:
        """Why this thread's last answer was UNKNOWN, or its last mount was refused in words."""
        failure: RegistryError | None = getattr(self._failures, "last", None)
        return failure

    def image_name(self, repository: str) -> str:
        """``host/repository``."""
        return f"{self.label}/{repository}"

    # --- manifests -------------------------------------------------------------------------------------------------

    def head_manifest(self, repository: str, reference: str) -> tuple[Presence, Descriptor | None]:
        """One HEAD; a GET where the registry does not do HEAD, or answers it without type, size and digest."""
        wanted = parse_reference(reference)
        try:
            return self._find_manifest(repository, reference, wanted)
        except RegistryError as error:
            self._failures.last = error
            return Presence.UNKNOWN, None

    def get_manifest(self, repository: str, reference: str) -> RawManifest | None:
        """The bytes as received, checked against the digest asked for and the one the registry names."""
        check_name(repository)
        wanted = parse_reference(reference)
        doing = f"{repository}: get manifest {reference}"
        response, data = self._transport.fetch(
            f"/v2/{repository}/manifests/{reference}",
            scopes=_pull(repository),
            doing=doing,
            limit=MANIFEST_LIMIT,
            headers={"Accept": _ACCEPT},
            accept=frozenset({200, 404}),
        )
        if response.status_code == 404:
            return None
        found = Digest.of(data)
        for expected in (wanted, _read_digest(response)):
            if expected is not None and found != expected:
                raise IntegrityError(f"{self.label}: {doing}: the bytes have digest {found} instead of {expected}", WRONG_BYTES)
        return check_manifest(data, _read_type(response))

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:
        """PUT by tag, or without one by digest; IntegrityError when the registry stored something else."""
        check_name(repository, tag)
        digest = manifest.digest
        doing = f"{repository}: put manifest {tag or digest}"
        with self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{tag or digest}",
            scopes=_push(repository),
            doing=doing,
            headers={"Content-Type": manifest.media_type},
            body=manifest.data,
            accept=frozenset({200, 201, 202}),
        ) as response:
            stored = _read_digest(response)
        if stored is not None and stored != digest:
            raise IntegrityError(f"{self.label}: {doing}: the registry stored {stored} instead of {digest}", "use one that keeps manifests")
        return digest

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """DELETE by digest. 405 and UNSUPPORTED are what registries answer where deletion is switched off or not theirs to do."""
        check_name(repository)
        doing = f"{repository}: delete manifest {digest}"
        scopes = (f"repository:{repository}:pull,delete",)
        try:
            with self._transport.request(
                "DELETE",
                f"/v2/{repository}/manifests/{Digest(digest)}",
                scopes=scopes,
                doing=doing,
                accept=frozenset({200, 202, 204, 404}),
            ) as response:
                return response.status_code != 404
        except RegistryError as error:
            if error.status in (405, 501) or "UNSUPPORTED" in error.codes:
                raise RemoteError(
                    f"{self.label} deletes no manifests (HTTP {error.status}); nothing was removed from {repository}",
                    "allow it (in distribution: storage.delete.enabled), or remove the images with the registry's own tools",
                ) from error
            raise

    def delete_tag(self, repository: str, tag: str) -> bool:
        """DELETE by tag (distribution-spec v1.1, Deleting tags): a registry may answer that it does not do so.

        distribution before version 3 takes the tag for a wrong digest (400, DIGEST_INVALID).
        """
        check_name(repository, tag)
        try:
            with self._transport.request(
                "DELETE",
                f"/v2/{repository}/manifests/{tag}",
                scopes=(f"repository:{repository}:pull,delete",),
                doing=f"{repository}: delete tag {tag}",
                accept=frozenset({200, 202, 204, 404}),
            ):
                return True
        except RegistryError as error:
            if error.status in (400, 405, 501) or "UNSUPPORTED" in error.codes:
                return False
            raise

    def sweep_blobs(self, candidates: Iterable[Digest]) -> int:  # noqa: ARG002
        """0: a registry removes what nothing names when its operators have it do so."""
        return 0

    # --- blobs -----------------------------------------------------------------------------------------------------

    def local_file(self, digest: Digest) -> Path | None:  # noqa: ARG002
        """None: no blob of it is a file here."""
        return None

    def has_blob(self, repository: str, digest: Digest) -> Presence:
        """HEAD, with the fallbacks of :meth:`head_manifest`."""
        try:
            return self._find_blob(repository, digest, _pull(repository))
        except RegistryError as error:
            self._failures.last = error
            return Presence.UNKNOWN

    @contextlib.contextmanager
    def open_blob(self, repository: str, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Stream a blob; a connection that breaks is taken up again where it broke (Range), a bounded number of times."""
        download = Download(self._transport, repository, descriptor, _pull(repository))
        with open_verified(download.read, descriptor, f"{self.label}/{repository}", WRONG_BYTES, download.close) as stream:
            yield stream

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """A blob in memory, verified."""
        where = f"{self.label}/{repository}"
        check_small(descriptor, where)
        with self.open_blob(repository, descriptor) as stream:
            return check_bytes(stream.read(), descriptor, where, WRONG_BYTES)

    def put_blob(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
        """POST and one PUT with Content-Length; an upload that breaks is begun anew, a bounded number of times."""
        check_name(repository)
        size = len(source) if isinstance(source, bytes) else _measure(source)
        if size != descriptor.size:
            name = "the data" if isinstance(source, bytes) else source
            raise IntegrityError(f"{name} for {descriptor.digest} has {size} bytes instead of {descriptor.size}", _REMADE)
        for attempt in range(_UPLOADS):
            # Asked each time: the answer to an upload may have been lost after the bytes had arrived.
            if self._find_blob(repository, descriptor.id, _push(repository)) is Presence.EXISTS:
                return
            try:
                self._upload(repository, descriptor, source)
                return
            except RegistryError as error:
                if "DIGEST_INVALID" in error.codes:
                    raise IntegrityError(f"{error.message}: what was sent is not {descriptor.digest}", _REMADE) from error
                # 404: the upload was forgotten (a registry of several instances); 401: its token ran out.
                passing = error.status in (0, 401, 404, 408, 429) or error.status >= 500
                if not passing or attempt + 1 == _UPLOADS:
                    raise
                self._transport.pause(attempt, error)

    def mount_blob(self, repository: str, digest: Digest, source_repository: str) -> bool:
        """Ask for a cross-repository mount. False when the registry won't (202, 400, 401, 403, 404, 405)."""
        check_name(repository)
        check_name(source_repository)
        if repository == source_repository:
            return self._find_blob(repository, digest, _pull(repository)) is Presence.EXISTS
        doing = f"{repository}: mount {digest} of {source_repository}"
        self._failures.last = None
        scopes = (*_push(repository), *_pull(source_repository))
        target = f"/v2/{repository}/blobs/uploads/?mount={quote(Digest(digest), safe='')}&from={quote(source_repository, safe='')}"
        try:
            with self._transport.request(
                "POST", target, scopes=scopes, doing=doing, headers={"Content-Length": "0"}, body=b"", accept=frozenset({201, 202})
            ) as response:
                if response.status_code == 201:
                    return True
                location, asked = response.headers.get("Location"), response.url
        except RegistryError as error:
            if error.status in _REFUSED_MOUNT:
                self._failures.last = error
                return False
            raise
        if location:  # the registry opened an upload instead; nobody will fill it
            with (
                contextlib.suppress(RegistryError),
                self._transport.request(
                    "DELETE",
                    self._transport.resolve(location, asked),
                    scopes=scopes,
                    doing=f"{repository}: cancel upload",
                    accept=frozenset({200, 202, 204}),
                    retry=False,
                ),
            ):
                pass
        return False

    # --- listings --------------------------------------------------------------------------------------------------

    def list_tags(self, repository: str) -> Iterator[str]:
        """All tags, page by page (``Link: <...>; rel="next"``); none when the repository is absent."""
        check_name(repository)
        return self._list_pages(f"/v2/{repository}/tags/list", "tags", _pull(repository), f"{repository}: list tags", absent_is_empty=True)

    def list_repositories(self, prefix: str = "") -> Iterator[str]:
        """``/v2/_catalog``; RemoteError where the registry has none or keeps it to itself."""
        try:
            scopes = ("registry:catalog:*",)
            for name in self._list_pages("/v2/_catalog", "repositories", scopes, "list repositories", absent_is_empty=False):
                if name.startswith(prefix):
                    yield name
        except RegistryError as error:
            if error.status in (401, 403, 404, 405):
                raise RemoteError(
                    f"{self.label} does not list its repositories (HTTP {error.status})",
                    "name the repositories; most hosted registries have no list",
                ) from error
            raise

    def list_referrers(self, repository: str, digest: Digest) -> list[dict[str, Any]] | None:
        """``/v2/<name>/referrers/<digest>``, all pages: the entries as they are; None where the registry has no such API."""
        check_name(repository)
        doing = f"{repository}: list what refers to {digest}"
        entries: list[dict[str, Any]] = []
        for page in iterate_pages(
            self._transport,
            f"/v2/{repository}/referrers/{Digest(digest)}",
            lambda response, data: self._read_referrers(response, data, doing),
            scopes=_pull(repository),
            doing=doing,
            headers={"Accept": OCI_INDEX},
            accept=frozenset({200}) | _NO_REFERRERS,
            limits=self._listing,
        ):
            if page is None:
                return None
            entries += page
        return entries

    def find_referrers(self, digest: Digest) -> list[dict[str, Any]]:  # noqa: ARG002
        """Empty: a registry is not searched."""
        return []

    def lock_referrers(self) -> contextlib.AbstractContextManager[bool]:
        """False: a tag has no lock."""
        return contextlib.nullcontext(False)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _find_manifest(self, repository: str, reference: str, wanted: Digest | None) -> tuple[Presence, Descriptor | None]:
        check_name(repository)
        doing = f"{repository}: head manifest {reference}"
        target = f"/v2/{repository}/manifests/{reference}"
        status, response = self._head(target, repository, _pull(repository), doing, {"Accept": _ACCEPT})
        if status == 404:
            return Presence.ABSENT, None
        media_type, digest, size = _read_type(response), _read_digest(response), read_length(response)
        complete = status == 200
        if complete and digest is not None and wanted is not None and digest != wanted:
            raise IntegrityError(f"{self.label}: {doing}: the registry names {digest}", WRONG_BYTES)
        if complete and media_type in IMAGE_TYPES and size and (digest or wanted):
            return Presence.EXISTS, Descriptor(media_type, digest or wanted or "", size)
        manifest = self.get_manifest(repository, reference)
        return (Presence.ABSENT, None) if manifest is None else (Presence.EXISTS, manifest.descriptor)

    def _find_blob(self, repository: str, digest: Digest, scopes: tuple[str, ...]) -> Presence:
        check_name(repository)
        target, doing = f"/v2/{repository}/blobs/{Digest(digest)}", f"{repository}: head blob {digest}"
        status, _ = self._head(target, repository, scopes, doing, {})
        if status != 405:
            return Presence.ABSENT if status == 404 else Presence.EXISTS
        # One byte tells as much; an empty blob has none and answers 416.
        with self._transport.request(
            "GET", target, scopes=scopes, doing=doing, headers={"Range": "bytes=0-0"}, accept=frozenset({200, 206, 404, 416})
        ) as response:
            return Presence.ABSENT if response.status_code == 404 else Presence.EXISTS

    def _head(
        self, target: str, repository: str, scopes: tuple[str, ...], doing: str, headers: dict[str, str]
    ) -> tuple[int, requests.Response]:
        """HEAD that ends in 200, 404 or 405; the answer is for its headers only.

        A storage service that a redirect led to may refuse a HEAD with 403, its signed address being good for GET only:
        that counts as 405.
        """
        answers = frozenset({200, 404, 405})

        def ask(scopes: tuple[str, ...]) -> tuple[int, requests.Response]:
            with self._transport.request("HEAD", target, scopes=scopes, doing=doing, headers=headers, accept=answers | {403}) as response:
                if response.status_code == 403 and self._transport.is_here(response.url):
                    raise RegistryError(f"{self.label}: {doing}: HTTP 403", f"run `docker login {self.label}`", status=403)
                return 405 if response.status_code == 403 else response.status_code, response

        try:
            return ask(scopes)
        except RegistryError as error:
            if error.status not in (401, 403) or scopes == _push(repository) or not self._transport.has_credential:
                raise
        # Some registries answer 404 for a repository that is not there yet only to those who may create it.
        return ask(_push(repository))

    def _upload(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
        scopes, doing = _push(repository), f"{repository}: upload {descriptor.digest}"
        with self._transport.request(
            "POST",
            f"/v2/{repository}/blobs/uploads/",
            scopes=scopes,
            doing=doing,
            headers={"Content-Length": "0"},
            body=b"",
            accept=frozenset({202}),
        ) as response:
            location = response.headers.get("Location")
            asked = response.url
        if not location:
            raise RegistryError(f"{self.label}: {doing}: the registry named no place to send it to", _REPORT, status=202)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
        with self._transport.request(
            "PUT",
            _add_digest(self._transport.resolve(location, asked), descriptor.id),
            scopes=scopes,
            doing=doing,
            headers=headers,
            body=source,
            accept=frozenset({200, 201, 204}),
            retry=False,
        ) as response:
            stored = _read_digest(response)
        if stored is not None and stored != descriptor.id:
            raise IntegrityError(f"{self.label}: {doing}: the registry stored {stored}", _REMADE)

    def _list_pages(self, target: str, field: str, scopes: tuple[str, ...], doing: str, *, absent_is_empty: bool) -> Iterator[str]:
        for page in iterate_pages(
            self._transport,
            f"{target}?n={self._page_size}",
            lambda response, data: None if response.status_code == 404 else self._read_names(data, field, doing),
            scopes=scopes,
            doing=doing,
            accept=frozenset({200, 404}) if absent_is_empty else frozenset({200}),
            limits=self._listing,
        ):
            yield from page or ()

    def _read_referrers(self, response: requests.Response, data: bytes, doing: str) -> list[dict[str, Any]] | None:
        """The entries of one page; None where it is no index, as a proxy's page of HTML is none."""
        if response.status_code != 200 or _read_type(response) != OCI_INDEX:
            return None
        document: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(data)
        found = (document.get("manifests") or []) if isinstance(document, dict) else 0
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise RegistryError(f"{self.label}: {doing}: the answer is not an index", _REPORT)
        return found

    def _read_names(self, data: bytes, field: str, doing: str) -> list[str]:
        document: Any = None
        with contextlib.suppress(ValueError, RecursionError):
            document = json.loads(data)
        names = document.get(field, []) if isinstance(document, dict) else 0
        names = [] if names is None else names  # distribution says null for none
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RegistryError(f"{self.label}: {doing}: the answer is not a list of {field}", "check the address or the mirror")
        return names


def _measure(source: Path) -> int:
    """The file's size in bytes, after making sure that it can be read."""
    try:
        with source.open("rb") as stream:
            return os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise IntegrityError(f"cannot read {source} to send it: {error.strerror}", "run again") from None


def _pull(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull",)


def _push(repository: str) -> tuple[str, ...]:
    return (f"repository:{repository}:pull,push",)


def _read_type(response: requests.Response) -> str:
    return response.headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _read_digest(response: requests.Response) -> Digest | None:
    """Docker-Content-Digest, where it is there and a SHA-256."""
    text = response.headers.get("Docker-Content-Digest", "").strip()
    if not text.startswith("sha256:"):
        return None
    return Digest(text)


def _add_digest(location: str, digest: Digest) -> str:
    """The upload's address with ``digest`` beside whatever query it came with, which is kept to the letter (it may be signed)."""
    address = urlsplit(location)
    query = f"{address.query}&" if address.query else ""
    return urlunsplit(address._replace(query=f"{query}digest={quote(digest, safe='')}"))
