"""One blob to a registry (distribution-spec v1.1, Pushing blobs): one POST and one PUT, or a mount of another repository's blob.

One PUT is what every registry takes. Where it broke on the way, a large file goes in chunks, so that the next break costs one of them; a
registry that takes no chunks (or none of that size: GHCR's limit is 4 MiB) gets one PUT again.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from imagebuild.errors import IntegrityError
from imagebuild.oci.challenge import pull_scopes, push_scopes
from imagebuild.oci.content import check_name
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import Descriptor, Digest
from imagebuild.oci.presence import find_blob
from imagebuild.oci.session import read_digest
from imagebuild.oci.transport import Transport

_UPLOADS = 3  # times an upload is begun
_CHUNK = 16 << 20  # bytes; a registry may ask for more (OCI-Chunk-Min-Length)
_RESUMES = 5  # times in a row that a chunked upload is taken up again without a byte of progress
_NO_CHUNKS = frozenset({400, 404, 405, 411, 413, 415, 416, 501})  # what registries answer that take no chunks, or not these
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")
_REMADE = "it was changed or cut short after it was made; remove it and run again"
_REPORT = "report it to the registry's operators"


def upload_blob(transport: Transport, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
    """Store a blob unless it is there; an upload that breaks is begun anew, a bounded number of times."""
    check_name(repository)
    size = len(source) if isinstance(source, bytes) else _measure(source)
    if size != descriptor.size:
        name = "the data" if isinstance(source, bytes) else source
        raise IntegrityError(f"{name} for {descriptor.digest} has {size} bytes instead of {descriptor.size}", _REMADE)
    chunked = False
    for attempt in range(_UPLOADS):
        # Asked each time: the answer to an upload may have been lost after the bytes had arrived.
        if find_blob(transport, repository, descriptor.id, push_scopes(repository)):
            return
        try:
            if chunked and isinstance(source, Path):
                _send_in_chunks(transport, repository, descriptor, source)
            else:
                _send(transport, repository, descriptor, source)
            return
        except RegistryError as error:
            # A PUT that broke, or that a proxy gave up, is not begun at its first byte again; where chunks are refused, it is.
            broke = error.status in (0, 408) or error.status >= 500
            chunked = broke and not chunked and isinstance(source, Path) and size > _CHUNK
            if "DIGEST_INVALID" in error.codes:
                raise IntegrityError(f"{error.message}: what was sent is not {descriptor.digest}", _REMADE) from error
            # 404: the upload was forgotten (a registry of several instances); 401: its token ran out.
            passing = error.status in (0, 401, 404, 408, 429) or error.status >= 500
            if error.final or not passing or attempt + 1 == _UPLOADS:
                raise
            transport.pause(attempt, error)


def mount_blob(transport: Transport, repository: str, digest: Digest, source_repository: str) -> bool:
    """Ask for a mount from another repository. False when the registry opens an upload instead (202); RegistryError when it refuses."""
    doing = f"{repository}: mount {digest} of {source_repository}"
    scopes = (*push_scopes(repository), *pull_scopes(source_repository))
    target = f"/v2/{repository}/blobs/uploads/?mount={quote(Digest(digest), safe='')}&from={quote(source_repository, safe='')}"
    with transport.request(
        "POST", target, scopes=scopes, doing=doing, headers={"Content-Length": "0"}, body=b"", accept=frozenset({201, 202})
    ) as response:
        if response.status_code == 201:
            return True
        location, asked = response.headers.get("Location"), response.url
    if location:  # the registry opened an upload instead; nobody will fill it
        with (
            contextlib.suppress(RegistryError),
            transport.request(
                "DELETE",
                transport.resolve(location, asked),
                scopes=scopes,
                doing=f"{repository}: cancel upload",
                accept=frozenset({200, 202, 204}),
                retry=False,
            ),
        ):
            pass
    return False


def _open_upload(transport: Transport, repository: str, scopes: tuple[str, ...], doing: str) -> tuple[str, int]:
    """Where the bytes go, and the smallest chunk that is taken there."""
    with transport.request(
        "POST",
        f"/v2/{repository}/blobs/uploads/",
        scopes=scopes,
        doing=doing,
        headers={"Content-Length": "0"},
        body=b"",
        accept=frozenset({202}),
    ) as response:
        location = response.headers.get("Location")
        asked, smallest = response.url, response.headers.get("OCI-Chunk-Min-Length", "")
    if not location:
        raise RegistryError(f"{transport.host}: {doing}: the registry gave no URL for the upload", _REPORT, status=202)
    return transport.resolve(location, asked), int(smallest) if smallest.isdecimal() and len(smallest) < 10 else 0


def _send(transport: Transport, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
    scopes, doing = push_scopes(repository), f"{repository}: upload {descriptor.digest}"
    location, _ = _open_upload(transport, repository, scopes, doing)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
    _finish(transport, location, descriptor, source, headers, scopes, doing)


def _finish(
    transport: Transport,
    location: str,
    descriptor: Descriptor,
    body: Path | bytes,
    headers: dict[str, str],
    scopes: tuple[str, ...],
    doing: str,
) -> None:
    """The PUT that ends an upload, with all its bytes or none."""
    with transport.request(
        "PUT",
        _add_digest(location, descriptor.id),
        scopes=scopes,
        doing=doing,
        headers=headers,
        body=body,
        accept=frozenset({200, 201, 204}),
        retry=False,
    ) as response:
        stored = read_digest(response)
    if stored is not None and stored != descriptor.id:
        raise IntegrityError(f"{transport.host}: {doing}: the registry stored {stored}", _REMADE)


def _send_in_chunks(transport: Transport, repository: str, descriptor: Descriptor, source: Path) -> None:
    """PATCH after PATCH; one that broke is taken up where the registry says it got to. RegistryError with status 0 to begin anew."""
    scopes, doing = push_scopes(repository), f"{repository}: upload {descriptor.digest} in chunks"
    location, smallest = _open_upload(transport, repository, scopes, doing)
    sent, failures, length = 0, 0, max(_CHUNK, smallest)
    with source.open("rb") as stream:
        while sent < descriptor.size:
            stream.seek(sent)
            chunk = stream.read(length)
            try:
                location = _send_chunk(transport, location, sent, chunk, scopes, doing)
                sent, failures = sent + len(chunk), 0
            except RegistryError as error:
                if error.status in _NO_CHUNKS:
                    raise RegistryError(f"{error.message}; it takes no chunks", error.hint) from error
                failures += 1
                passing = error.status in (0, 408, 429) or error.status >= 500
                if error.final or not passing or failures > _RESUMES:
                    raise
                transport.pause(failures - 1, error)
                location, there = _ask_progress(transport, location, scopes, doing)
                if not sent <= there <= sent + len(chunk):
                    raise RegistryError(f"{transport.host}: {doing}: the registry lost count of what it has", _REPORT) from error
                failures = failures if there == sent else 0
                sent = there
    headers = {"Content-Type": "application/octet-stream", "Content-Length": "0"}
    _finish(transport, location, descriptor, b"", headers, scopes, doing)


def _send_chunk(transport: Transport, location: str, start: int, chunk: bytes, scopes: tuple[str, ...], doing: str) -> str:
    """Where the next one goes. What the answer's Range says is not looked at: with ECR it stays what it was at first."""
    headers = {
        "Content-Type": "application/octet-stream",
        "Content-Length": str(len(chunk)),
        "Content-Range": f"{start}-{start + len(chunk) - 1}",
    }
    with transport.request(
        "PATCH", location, scopes=scopes, doing=doing, headers=headers, body=chunk, accept=frozenset({202}), retry=False
    ) as response:
        return transport.resolve(response.headers.get("Location") or location, response.url)


def _ask_progress(transport: Transport, location: str, scopes: tuple[str, ...], doing: str) -> tuple[str, int]:
    """Where an upload goes on, and how many bytes have arrived."""
    with transport.request("GET", location, scopes=scopes, doing=doing, accept=frozenset({202, 204})) as response:
        found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
        last = int(found[1]) if found else 0
        return transport.resolve(response.headers.get("Location") or location, response.url), last + 1 if last else 0


def _measure(source: Path) -> int:
    """The file's size in bytes, after making sure that it can be read."""
    try:
        with source.open("rb") as stream:
            return os.fstat(stream.fileno()).st_size
    except OSError as error:
        raise IntegrityError(f"cannot read {source} to send it: {error.strerror}", "run again") from None


def _add_digest(location: str, digest: Digest) -> str:
    """The upload's address with ``digest`` beside whatever query it came with, which is kept to the letter (it may be signed)."""
    address = urlsplit(location)
    query = f"{address.query}&" if address.query else ""
    return urlunsplit(address._replace(query=f"{query}digest={quote(digest, safe='')}"))
