"""A registry over HTTP (distribution-spec v1.1) as a store.

What is kept to: manifests byte for byte; every byte checked against its digest; one POST and one PUT per upload, streamed
from disk; three answers about presence, of which unknown is never taken for absent; a refused mount is reported, never
turned into a copy.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.http.retry import TIMEOUTS
from imagebuild.oci.challenge import pull_scopes, push_scopes
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
from imagebuild.oci.listing import DEFAULT_LIMITS, ListingLimits, iterate_pages, read_names, read_referrers
from imagebuild.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.presence import find_blob, send_head
from imagebuild.oci.session import read_digest, read_length, read_type
from imagebuild.oci.store import MountAnswer
from imagebuild.oci.transport import Transport
from imagebuild.oci.upload import mount_blob, upload_blob

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
        timeout: tuple[float, float] = TIMEOUTS,
        page_size: int = _PAGE_SIZE,
        listing: ListingLimits = DEFAULT_LIMITS,
    ) -> None:
        self._transport = Transport(
            host, credentials=credentials, insecure=insecure, ca_file=ca_file, sleep=sleep, clock=clock, timeout=timeout
        )
        self._page_size, self._listing = page_size, listing

    @property
    def label(self) -> str:
        """The registry's host."""
        return self._transport.host

    @property
    def registry_host(self) -> str:
        """The registry's host."""
        return self._transport.host

    def image_name(self, repository: str) -> str:
        """``host/repository``."""
        return f"{self.label}/{repository}"

    # --- manifests -------------------------------------------------------------------------------------------------

    def head_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """One HEAD; a GET where the registry does not do HEAD, or answers it without type, size and digest."""
        wanted = parse_reference(reference)
        check_name(repository)
        doing = f"{repository}: head manifest {reference}"
        target = f"/v2/{repository}/manifests/{reference}"
        status, response = send_head(self._transport, target, repository, pull_scopes(repository), doing, {"Accept": _ACCEPT})
        if status == 404:
            return None
        media_type, digest, size = read_type(response), read_digest(response), read_length(response)
        complete = status == 200
        if complete and digest is not None and wanted is not None and digest != wanted:
            raise IntegrityError(f"{self.label}: {doing}: the registry names {digest}", WRONG_BYTES)
        if complete and media_type in IMAGE_TYPES and size and (digest or wanted):
            return Descriptor(media_type, digest or wanted or "", size)
        manifest = self.get_manifest(repository, reference)
        return None if manifest is None else manifest.descriptor

    def get_manifest(self, repository: str, reference: str) -> RawManifest | None:
        """The bytes as received, checked against the digest asked for and the one the registry names."""
        check_name(repository)
        wanted = parse_reference(reference)
        doing = f"{repository}: get manifest {reference}"
        response, data = self._transport.fetch(
            f"/v2/{repository}/manifests/{reference}",
            scopes=pull_scopes(repository),
            doing=doing,
            limit=MANIFEST_LIMIT,
            headers={"Accept": _ACCEPT},
            accept=frozenset({200, 404}),
        )
        if response.status_code == 404:
            return None
        found = Digest.of(data)
        for expected in (wanted, read_digest(response)):
            if expected is not None and found != expected:
                raise IntegrityError(f"{self.label}: {doing}: the bytes have digest {found} instead of {expected}", WRONG_BYTES)
        return check_manifest(data, read_type(response))

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:
        """PUT by tag, or without one by digest; IntegrityError when the registry stored something else."""
        check_name(repository, tag)
        digest = manifest.digest
        doing = f"{repository}: put manifest {tag or digest}"
        with self._transport.request(
            "PUT",
            f"/v2/{repository}/manifests/{tag or digest}",
            scopes=push_scopes(repository),
            doing=doing,
            headers={"Content-Type": manifest.media_type},
            body=manifest.data,
            accept=frozenset({200, 201, 202}),
        ) as response:
            stored = read_digest(response)
        if stored is not None and stored != digest:
            raise IntegrityError(
                f"{self.label}: {doing}: the registry stored {stored} instead of {digest}", "use a registry that stores manifests unchanged"
            )
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
                    f"{self.label} does not delete manifests (HTTP {error.status}); nothing was removed from {repository}",
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

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """HEAD, with the fallbacks of :meth:`head_manifest`."""
        return find_blob(self._transport, repository, digest, pull_scopes(repository))

    @contextlib.contextmanager
    def open_blob(self, repository: str, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Stream a blob; a connection that breaks is taken up again where it broke (Range), a bounded number of times."""
        download = Download(self._transport, repository, descriptor, pull_scopes(repository))
        with open_verified(download.read, descriptor, f"{self.label}/{repository}", WRONG_BYTES, download.close) as stream:
            yield stream

    def answers_ranges(self, repository: str, descriptor: Descriptor) -> bool:
        """GET with the first and the last byte as two ranges; what comes is not read."""
        check_name(repository)
        with self._transport.request(
            "GET",
            f"/v2/{repository}/blobs/{descriptor.id}",
            scopes=pull_scopes(repository),
            doing=f"{repository}: get two ranges of {descriptor.digest}",
            headers={"Range": f"bytes=0-0,{descriptor.size - 1}-{descriptor.size - 1}"},
            accept=frozenset({200, 206, 400, 416}),
        ) as response:
            kind: str = response.headers.get("Content-Type", "")
            return response.status_code == 206 and kind.lower().startswith("multipart/byteranges")

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """A blob in memory, verified."""
        where = f"{self.label}/{repository}"
        check_small(descriptor, where)
        with self.open_blob(repository, descriptor) as stream:
            return check_bytes(stream.read(), descriptor, where, WRONG_BYTES)

    def put_blob(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
        """POST and one PUT with Content-Length; an upload that breaks is begun anew, a bounded number of times."""
        upload_blob(self._transport, repository, descriptor, source)

    def mount_blob(self, repository: str, digest: Digest, source_repository: str) -> MountAnswer:
        """Ask for a cross-repository mount. Not done when the registry won't (202, 400, 401, 403, 404, 405)."""
        check_name(repository)
        check_name(source_repository)
        if repository == source_repository:
            return MountAnswer(self.has_blob(repository, digest))
        try:
            return MountAnswer(mount_blob(self._transport, repository, digest, source_repository))
        except RegistryError as error:
            if error.status in _REFUSED_MOUNT:
                return MountAnswer(False, error)
            raise

    # --- listings --------------------------------------------------------------------------------------------------

    def list_tags(self, repository: str) -> Iterator[str]:
        """All tags, page by page (``Link: <...>; rel="next"``); none when the repository is absent."""
        check_name(repository)
        doing = f"{repository}: list tags"
        return self._list_pages(f"/v2/{repository}/tags/list", "tags", pull_scopes(repository), doing, absent_is_empty=True)

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
        doing = f"{repository}: list the referrers of {digest}"
        entries: list[dict[str, Any]] = []
        for page in iterate_pages(
            self._transport,
            f"/v2/{repository}/referrers/{Digest(digest)}",
            lambda response, data: read_referrers(response, data, f"{self.label}: {doing}"),
            scopes=pull_scopes(repository),
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

    def _list_pages(self, target: str, field: str, scopes: tuple[str, ...], doing: str, *, absent_is_empty: bool) -> Iterator[str]:
        where = f"{self.label}: {doing}"
        for page in iterate_pages(
            self._transport,
            f"{target}?n={self._page_size}",
            lambda response, data: None if response.status_code == 404 else read_names(data, field, where),
            scopes=scopes,
            doing=doing,
            accept=frozenset({200, 404}) if absent_is_empty else frozenset({200}),
            limits=self._listing,
        ):
            yield from page or ()
