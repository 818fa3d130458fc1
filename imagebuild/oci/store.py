"""What a place for images can do: a folder (:mod:`imagebuild.oci.layout`), a registry (:mod:`imagebuild.oci.registry`), or a registry
that may not be asked (:mod:`imagebuild.oci.offline`). Nothing outside of these asks which of them it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from imagebuild.errors import RemoteError
from imagebuild.oci.model import Descriptor, Digest, RawManifest


class MountAnswer(NamedTuple):
    """Whether a blob of another repository is there now, and what the place said where it refused in words."""

    done: bool
    refusal: RemoteError | None = None


class Store(Protocol):
    """Images by repository. All bytes handed out have been checked, or are checked while they are read.

    ``reference`` is a tag or a digest. Failures of a server are :class:`~imagebuild.errors.RemoteError`, wrong bytes
    :class:`~imagebuild.errors.IntegrityError`.
    """

    @property
    def label(self) -> str:
        """How to call this store in a message: a registry's host, or a folder's path."""

    @property
    def registry_host(self) -> str:
        """The host, with its port, of a registry; empty for a folder of this machine."""

    def image_name(self, repository: str) -> str:
        """The name other tools know ``repository`` by: ``host/repository``, or ``oci:folder:repository``."""

    def head_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """One HEAD; None when it is absent. RemoteError where the place does not say (a refusal, an outage): that is never absence."""

    def get_manifest(self, repository: str, reference: str) -> RawManifest | None:
        """The manifest's bytes, verified (against ``reference`` when that is a digest); None when it is absent."""

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:
        """Store the bytes as they are, under their digest and, if given, a tag."""

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove a manifest from the repository, and with it all its tags there; False when it was gone. RemoteError where
        nothing can be deleted. Blobs are left to the store's own sweep."""

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Take a tag away and leave the manifest; False where this place can only delete a manifest with all its tags. A tag that is not
        there is no error."""

    def sweep_blobs(self, candidates: Iterable[Digest]) -> int:
        """Remove those of ``candidates`` that nothing names any more, where that is ours to do; bytes freed. A registry sweeps itself."""

    def local_file(self, digest: Digest) -> Path | None:
        """Where a blob is a file of this machine (its bytes are not checked here); None where it is not."""

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the blob is there; RemoteError where the place does not say."""

    def open_blob(self, repository: str, descriptor: Descriptor) -> AbstractContextManager[BinaryIO]:
        """Stream a blob. Reading to the end raises IntegrityError unless size and digest are the descriptor's."""

    def answers_ranges(self, repository: str, descriptor: Descriptor) -> bool:
        """Whether two ranges of a blob come as two parts of one answer (RFC 9110, section 14), as partial pulls of zstd:chunked ask."""

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """A small blob (at most 32 MiB), whole and verified."""

    def put_blob(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
        """Store a blob from memory or from a file on disk; a no-op when it is there."""

    def mount_blob(self, repository: str, digest: Digest, source_repository: str) -> MountAnswer:
        """Make a blob of another repository of this store available, where the store does that."""

    def list_tags(self, repository: str) -> Iterator[str]:
        """All tags, in the store's order; none when the repository is absent."""

    def list_repositories(self, prefix: str = "") -> Iterator[str]:
        """Repositories whose name starts with ``prefix``; RemoteError when a registry has no catalogue to list."""

    def list_referrers(self, repository: str, digest: Digest) -> list[dict[str, Any]] | None:
        """The entries of the list of referrers that the place keeps by itself (the referrers API); None where it keeps none, and the list
        is the index under the fallback tag."""

    def find_referrers(self, digest: Digest) -> list[dict[str, Any]]:
        """Entries for manifests that name ``digest`` as their subject and that no list names; empty where the place cannot be searched."""

    def lock_referrers(self) -> AbstractContextManager[bool]:
        """Keep other writers from the fallback tags meanwhile; False where the place has no such lock."""
