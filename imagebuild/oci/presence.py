"""Whether a registry has a manifest or a blob: HEAD, and what stands in for it where a registry does not do HEAD."""

from __future__ import annotations

import requests

from imagebuild.oci.challenge import push_scopes
from imagebuild.oci.content import check_name
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import Digest
from imagebuild.oci.transport import Transport

_ANSWERS = frozenset({200, 404, 405})


def find_blob(transport: Transport, repository: str, digest: Digest, scopes: tuple[str, ...]) -> bool:
    """Whether the blob is there; RegistryError where the answer says neither."""
    check_name(repository)
    target, doing = f"/v2/{repository}/blobs/{Digest(digest)}", f"{repository}: head blob {digest}"
    status, _ = send_head(transport, target, repository, scopes, doing, {})
    if status != 405:
        return status != 404
    # One byte is enough; an empty blob has none and answers 416.
    with transport.request(
        "GET", target, scopes=scopes, doing=doing, headers={"Range": "bytes=0-0"}, accept=frozenset({200, 206, 404, 416})
    ) as response:
        return response.status_code != 404


def send_head(
    transport: Transport, target: str, repository: str, scopes: tuple[str, ...], doing: str, headers: dict[str, str]
) -> tuple[int, requests.Response]:
    """HEAD that ends in 200, 404 or 405; the answer is for its headers only.

    A storage service that a redirect led to may refuse a HEAD with 403, its signed address being good for GET only:
    that counts as 405.
    """

    def ask(scopes: tuple[str, ...]) -> tuple[int, requests.Response]:
        with transport.request("HEAD", target, scopes=scopes, doing=doing, headers=headers, accept=_ANSWERS | {403}) as response:
            if response.status_code == 403 and transport.is_here(response.url):
                raise RegistryError(f"{transport.host}: {doing}: HTTP 403", f"run `docker login {transport.host}`", status=403)
            return 405 if response.status_code == 403 else response.status_code, response

    try:
        return ask(scopes)
    except RegistryError as error:
        if error.status not in (401, 403) or scopes == push_scopes(repository) or not transport.has_credential:
            raise
    # Some registries answer 404 for a repository that is not there yet only to those who may create it.
    return ask(push_scopes(repository))
