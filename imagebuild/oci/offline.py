"""A registry that may not be asked: every question is a RemoteError that says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from imagebuild.errors import RemoteError
from imagebuild.oci.model import Descriptor, Digest, RawManifest
from imagebuild.oci.store import MountAnswer


class OfflineStore:
    """:class:`imagebuild.oci.store.Store` of a registry that is out of reach on purpose."""

    def __init__(self, host: str) -> None:
        self.label = host

    @property
    def registry_host(self) -> str:
        """The host."""
        return self.label

    def image_name(self, repository: str) -> str:
        """``host/repository``."""
        return f"{self.label}/{repository}"

    def _refuse(self, what: str) -> NoReturn:
        raise RemoteError(
            f"--offline: {self.label} is not asked for {what}",
            "read the base where there is a network (imagebuild base inspect NAME), or bring its layers: imagebuild bundle --with-base",
        )

    def head_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """Refused."""
        self._refuse(f"{repository}:{reference}")

    def get_manifest(self, repository: str, reference: str) -> RawManifest | None:
        """Refused."""
        self._refuse(f"{repository}@{reference}")

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:  # noqa: ARG002
        """Refused."""
        self._refuse(repository)

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Refused."""
        self._refuse(f"{repository}@{digest}")

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Refused."""
        self._refuse(f"{repository}:{tag}")

    def sweep_blobs(self, candidates: Iterable[Digest]) -> int:  # noqa: ARG002
        """Refused."""
        self._refuse("blobs that nothing names")

    def local_file(self, digest: Digest) -> Path | None:  # noqa: ARG002
        """None: no blob of it is here."""
        return None

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Refused."""
        self._refuse(f"{repository}@{digest}")

    def open_blob(self, repository: str, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Refused."""
        self._refuse(f"{repository}@{descriptor.digest}")

    def answers_ranges(self, repository: str, descriptor: Descriptor) -> bool:
        """Refused."""
        self._refuse(f"ranges of {repository}@{descriptor.digest}")

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """Refused."""
        self._refuse(f"{repository}@{descriptor.digest}")

    def put_blob(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:  # noqa: ARG002
        """Refused."""
        self._refuse(repository)

    def mount_blob(self, repository: str, digest: Digest, source_repository: str) -> MountAnswer:  # noqa: ARG002
        """Refused."""
        self._refuse(f"{source_repository}@{digest}")

    def list_tags(self, repository: str) -> Iterator[str]:
        """Refused."""
        self._refuse(repository)

    def list_repositories(self, prefix: str = "") -> Iterator[str]:  # noqa: ARG002
        """Refused."""
        self._refuse("its catalogue")

    def list_referrers(self, repository: str, digest: Digest) -> list[dict[str, Any]] | None:
        """Refused."""
        self._refuse(f"the referrers of {repository}@{digest}")

    def find_referrers(self, digest: Digest) -> list[dict[str, Any]]:  # noqa: ARG002
        """Empty: a registry is not searched."""
        return []

    def lock_referrers(self) -> AbstractContextManager[bool]:
        """False: no lock."""
        return contextlib.nullcontext(False)
