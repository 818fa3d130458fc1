"""One blob to a registry (distribution-spec v1.1, Pushing blobs): one POST and one PUT, or a mount of another repository's blob."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

from imagebuild.errors import IntegrityError
from imagebuild.oci.challenge import pull_scopes, push_scopes
from imagebuild.oci.content import check_name
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import Descriptor, Digest
from imagebuild.oci.presence import find_blob
from imagebuild.oci.session import read_digest
from imagebuild.oci.store import Presence
from imagebuild.oci.transport import Transport

_UPLOADS = 3  # times an upload is begun
_REMADE = "it was changed or cut short after it was made; remove it and run again"
_REPORT = "report it to the registry's operators"


def upload_blob(transport: Transport, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
    """Store a blob unless it is there; an upload that breaks is begun anew, a bounded number of times."""
    check_name(repository)
    size = len(source) if isinstance(source, bytes) else _measure(source)
    if size != descriptor.size:
        name = "the data" if isinstance(source, bytes) else source
        raise IntegrityError(f"{name} for {descriptor.digest} has {size} bytes instead of {descriptor.size}", _REMADE)
    for attempt in range(_UPLOADS):
        # Asked each time: the answer to an upload may have been lost after the bytes had arrived.
        if find_blob(transport, repository, descriptor.id, push_scopes(repository)) is Presence.EXISTS:
            return
        try:
            _send(transport, repository, descriptor, source)
            return
        except RegistryError as error:
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


def _send(transport: Transport, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
    scopes, doing = push_scopes(repository), f"{repository}: upload {descriptor.digest}"
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
        asked = response.url
    if not location:
        raise RegistryError(f"{transport.host}: {doing}: the registry gave no URL for the upload", _REPORT, status=202)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(descriptor.size)}
    with transport.request(
        "PUT",
        _add_digest(transport.resolve(location, asked), descriptor.id),
        scopes=scopes,
        doing=doing,
        headers=headers,
        body=source,
        accept=frozenset({200, 201, 204}),
        retry=False,
    ) as response:
        stored = read_digest(response)
    if stored is not None and stored != descriptor.id:
        raise IntegrityError(f"{transport.host}: {doing}: the registry stored {stored}", _REMADE)


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
