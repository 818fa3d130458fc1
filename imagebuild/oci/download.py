"""One blob from a registry: a connection that breaks is taken up again where it broke, a bounded number of times."""

from __future__ import annotations

import contextlib
import re

import requests
import urllib3.exceptions

from imagebuild.errors import IntegrityError
from imagebuild.http.pace import Pace
from imagebuild.oci.content import check_name
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.model import Descriptor
from imagebuild.oci.session import read_length
from imagebuild.oci.transport import Transport

_RESUMES = 5  # times in a row that a download is taken up again without a byte of progress
_RESUMES_IN_ALL = 50
_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(?:\d+|\*)")
WRONG_BYTES = "the registry, or a cache in front of it, serves wrong content: run it again; if it fails again, push the image again"


class Download:
    """The bytes of one blob, over as many requests as it takes."""

    def __init__(self, transport: Transport, repository: str, descriptor: Descriptor, scopes: tuple[str, ...]) -> None:
        check_name(repository)
        self._transport, self._descriptor, self._scopes = transport, descriptor, scopes
        self._target = f"/v2/{repository}/blobs/{descriptor.id}"
        self._doing = f"{repository}: get blob {descriptor.digest}"
        self._stack = contextlib.ExitStack()
        self._response: requests.Response | None = None
        self._offset = self._failures = self._failures_in_all = 0
        self._pace = Pace()

    def read(self, count: int) -> bytes:
        """Up to ``count`` next bytes; empty at the end of a whole blob."""
        while True:
            try:
                if self._response is None:
                    self._response = self._open()
                data = self._read_some(self._response, count)
                if data or self._offset >= self._descriptor.size:
                    self._offset += len(data)
                    self._failures = 0 if data else self._failures
                    return data
                failure = RegistryError(
                    f"{self._transport.host}: {self._doing}: cut short at {self._offset} of {self._descriptor.size} bytes",
                    "run it again; if it fails again, check the registry's storage and the proxies in front of it",
                )
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                if self._offset >= self._descriptor.size:
                    return b""
                failure = self._transport.explain(error, f"{self._doing}: cut short at {self._offset} of {self._descriptor.size} bytes")
                if self._transport.is_worn_out(error, failure):
                    raise failure from error
            self.close()
            self._failures += 1
            self._failures_in_all += 1
            if self._failures >= _RESUMES or self._failures_in_all >= _RESUMES_IN_ALL:
                raise failure
            self._transport.pause(self._failures - 1, failure)

    def _read_some(self, response: requests.Response, count: int) -> bytes:
        def read() -> bytes:
            data: bytes = response.raw.read1(count, decode_content=False)
            return data

        return self._pace.read(read)

    def close(self) -> None:
        """Let go of the connection."""
        self._stack.close()
        self._response = None

    def _open(self) -> requests.Response:
        self._pace = Pace()
        headers = {"Range": f"bytes={self._offset}-"} if self._offset else {}
        request = self._transport.request(
            "GET", self._target, scopes=self._scopes, doing=self._doing, headers=headers, accept=frozenset({200, 206})
        )
        response = self._stack.enter_context(request)
        start = 0
        if response.status_code == 206:
            found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
            start = int(found[1]) if found else self._offset
            if start > self._offset:
                raise RegistryError(
                    f"{self._transport.host}: {self._doing}: the registry sent another range than the one requested", "run again"
                )
        length = read_length(response)
        if length is not None and start + length > self._descriptor.size:
            raise IntegrityError(
                f"{self._transport.host}: {self._doing}: the registry has {start + length} bytes instead of {self._descriptor.size}",
                WRONG_BYTES,
            )
        while start < self._offset:  # no Range here: read over what is known already
            skipped = response.raw.read(min(self._offset - start, 1 << 20), decode_content=False)
            if not skipped:
                raise urllib3.exceptions.ProtocolError("cut short again")
            start += len(skipped)
        return response
