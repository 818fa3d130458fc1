"""An OCI image layout folder (image-spec, image-layout.md) as a store: images without a server.

One folder holds all repositories: a tag is an entry of ``index.json`` whose annotation
``org.opencontainers.image.ref.name`` is ``repository:tag``, so that ``skopeo inspect oci:FOLDER:repository:tag`` reads
it. The store is sparse: a manifest may name blobs that lie elsewhere (a base's), and then :meth:`LayoutStore.has_blob`
says ABSENT. Any number of processes may write at once: blobs are renamed into place under their digest, and
``index.json`` is replaced under a lock.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from imagebuild import files
from imagebuild.annotations import REF_NAME
from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.blobfiles import copy_file, link_file
from imagebuild.oci.content import (
    IMAGE_TYPES,
    MANIFEST_LIMIT,
    check_bytes,
    check_manifest,
    check_name,
    check_small,
    compute_file_digest,
    open_verified,
    parse_reference,
)
from imagebuild.oci.encoding import describe, encode_json
from imagebuild.oci.layoutindex import LayoutIndex, explain_unreadable, name_of
from imagebuild.oci.model import OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.oci.store import MountAnswer

LAYOUT_VERSION = "1.0.0"


class LayoutStore:
    """:class:`imagebuild.oci.store.Store` in ``folder``, which is created by the first write."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._index = LayoutIndex(self.folder)
        self._prepared = False

    @property
    def label(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def registry_host(self) -> str:
        """Empty: no registry."""
        return ""

    def image_name(self, repository: str) -> str:
        """``oci:folder:repository``, as skopeo and podman take it (add ``:tag``)."""
        return f"oci:{self.folder}:{repository}"

    # --- manifests -------------------------------------------------------------------------------------------------

    def head_manifest(self, repository: str, reference: str) -> Descriptor | None:
        """The entry of ``index.json``, or for a digest the blob; None too when a tag's manifest blob is gone."""
        digest = parse_reference(reference)
        if digest is not None:
            manifest = self.get_manifest(repository, reference)
            return None if manifest is None else manifest.descriptor
        descriptor = self._find_tag(repository, reference)
        if descriptor is None:
            return None
        try:
            size = self._blob_path(descriptor.id).stat().st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_unreadable(error) from error
        if size != descriptor.size:
            raise self._damaged(descriptor.id, f"has {size} bytes instead of {descriptor.size}")
        return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)

    def get_manifest(self, repository: str, reference: str) -> RawManifest | None:
        """The manifest's bytes; a tag's media type is the one ``index.json`` gives."""
        digest = parse_reference(reference)
        served = ""
        if digest is None:
            descriptor = self._find_tag(repository, reference)
            if descriptor is None:
                return None
            digest, served = descriptor.id, descriptor.media_type
        path = self._blob_path(digest)
        try:
            with path.open("rb") as stream:
                data = stream.read(MANIFEST_LIMIT + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise explain_unreadable(error) from error
        if len(data) > MANIFEST_LIMIT:
            raise IntegrityError(f"{self.label}: {digest} is larger than any manifest", "name a manifest, not a layer")
        if Digest.of(data) != digest:
            raise self._damaged(digest, "holds other bytes")
        return check_manifest(data, served)

    def put_manifest(self, repository: str, manifest: RawManifest, tag: str = "") -> Digest:
        """Write the blob, then the tag's entry; an entry of the same name is replaced in the same step."""
        check_name(repository, tag)
        if len(manifest.data) > MANIFEST_LIMIT:
            raise IntegrityError(f"a manifest of {len(manifest.data)} bytes for {repository}", "registries take at most 4 MiB")
        self.put_blob(repository, manifest.descriptor, manifest.data)
        if tag:
            name = f"{repository}:{tag}"
            entry = {**describe(manifest.descriptor), "annotations": {REF_NAME: name}}
            with self._writing("tagging an image in"), self._exclusive():
                self._index.replace(name, entry)
        return manifest.digest

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        """Remove the repository's entries for it from ``index.json``; the blobs stay where they are, for others may use them."""
        check_name(repository)
        wanted = str(Digest(digest))
        with self._writing("removing an image from"), self._exclusive():
            return self._index.remove(lambda item: item.get("digest") == wanted and name_of(item).rpartition(":")[0] == repository)

    def delete_tag(self, repository: str, tag: str) -> bool:
        """Remove the tag's entry from ``index.json``; a manifest that no entry names any more stays under its digest."""
        check_name(repository, tag)
        wanted = f"{repository}:{tag}"
        with self._writing("taking a tag from"), self._exclusive():
            self._index.remove(lambda item: name_of(item) == wanted)
        return True

    def sweep_blobs(self, candidates: Iterable[Digest]) -> int:
        """Remove those of ``candidates`` that nothing in the folder names any more; bytes freed.

        Nothing may be writing images into the folder meanwhile: a writer counts on blobs it has found. IntegrityError, and nothing
        removed, when a manifest that is named cannot be read: what it names is not known then.
        """
        freed = 0
        with self._writing("sweeping"), self._exclusive():
            named = self._find_named()
            for digest in candidates:
                path = self._blob_path(digest)
                if digest not in named and path.is_file():
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    # --- blobs -----------------------------------------------------------------------------------------------------

    def local_file(self, digest: Digest) -> Path | None:
        """Where the blob lies on the disk (its bytes are not checked here), None when it is absent."""
        path = self._blob_path(digest)
        return path if path.is_file() else None

    def has_blob(self, repository: str, digest: Digest) -> bool:
        """Whether the blob's file is there; all repositories share them."""
        check_name(repository)
        try:
            self._blob_path(digest).stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise explain_unreadable(error) from error
        return True

    @contextlib.contextmanager
    def open_blob(self, repository: str, descriptor: Descriptor) -> Iterator[BinaryIO]:
        """Stream the blob's file; a wrong size is reported before the first byte, a wrong digest before the last."""
        check_name(repository)
        hint = self._repair_hint(descriptor.id)
        with self._open(descriptor) as raw, open_verified(raw.read, descriptor, self.label, hint) as stream:
            yield stream

    def answers_ranges(self, repository: str, descriptor: Descriptor) -> bool:  # noqa: ARG002
        """False: nothing is served."""
        return False

    def read_blob(self, repository: str, descriptor: Descriptor) -> bytes:
        """The blob's bytes, verified."""
        check_name(repository)
        check_small(descriptor, self.label)
        with self._open(descriptor) as raw:
            return check_bytes(raw.read(descriptor.size + 1), descriptor, self.label, self._repair_hint(descriptor.id))

    def put_blob(self, repository: str, descriptor: Descriptor, source: Path | bytes) -> None:
        """Store a blob after checking its size and digest.

        A file on the same disk becomes a second name of the same bytes (``source`` must not be changed in place
        afterwards: write anew and rename, as :mod:`imagebuild.files` does); elsewhere it is copied. A blob that lies there
        already with other bytes (a rotten disk, another tool's half-written file) is replaced.
        """
        check_name(repository)
        path = self._blob_path(descriptor.id)
        with self._writing("storing a blob in"):
            if isinstance(source, bytes):
                check_bytes(source, descriptor, "blob to store", "this is a defect of imagebuild: please report it")
                # Small enough to compare: a manifest whose bytes rotted on the disk is healed by putting it again.
                if not (path.is_file() and path.stat().st_size == descriptor.size and path.read_bytes() == source):
                    files.write_atomic(path, source)
                return
            if path.is_file() and compute_file_digest(path) == (descriptor.id, descriptor.size):
                return
            if not link_file(source, descriptor, path):
                copy_file(source, descriptor, path)

    def mount_blob(self, repository: str, digest: Digest, source_repository: str) -> MountAnswer:
        """Done when the folder has the blob: repositories share them."""
        check_name(source_repository)
        return MountAnswer(self.has_blob(repository, digest))

    # --- listings --------------------------------------------------------------------------------------------------

    def list_tags(self, repository: str) -> Iterator[str]:
        """Tags in the order of ``index.json``, each once."""
        check_name(repository)
        tags = (tag for name, tag in self._index.names() if name == repository)
        return iter(dict.fromkeys(tags))

    def list_repositories(self, prefix: str = "") -> Iterator[str]:
        """Repositories that have a tag, sorted."""
        return iter(sorted({name for name, _ in self._index.names() if name.startswith(prefix)}))

    def list_referrers(self, repository: str, digest: Digest) -> list[dict[str, Any]] | None:  # noqa: ARG002
        """None: the list is the index under the fallback tag."""
        return None

    @contextlib.contextmanager
    def lock_referrers(self) -> Iterator[bool]:
        """One lock for the folder."""
        with files.exclusive(self.folder / ".referrers.lock"):
            yield True

    def find_referrers(self, digest: Digest) -> list[dict[str, Any]]:
        """The untagged entries of ``index.json`` whose manifest has ``digest`` as its subject: where oras puts referrers."""
        found = []
        for item in self._index.entries():
            if name_of(item) or item.get("mediaType") != OCI_MANIFEST or not isinstance(item.get("digest"), str):
                continue
            try:
                raw = self.get_manifest("x", str(Digest(item["digest"])))
                document = json.loads(raw.data) if raw is not None else {}
            except IntegrityError:
                continue  # another tool's, and nothing of ours
            subject = document.get("subject")
            if isinstance(subject, dict) and subject.get("digest") == digest:
                kind = document.get("artifactType") or (document.get("config") or {}).get("mediaType", "")
                found.append({**item, "artifactType": kind, "annotations": document.get("annotations") or {}})
        return found

    # --- inside ----------------------------------------------------------------------------------------------------

    def _find_named(self) -> set[str]:
        """Every digest that the index leads to, by manifests of whatever kind. A manifest that is not here (sparse) leads nowhere."""
        pending = [item for item in self._index.entries() if isinstance(item.get("digest"), str)]
        named: set[str] = set()
        while pending:
            item = pending.pop()
            digest = item["digest"]
            if digest in named:
                continue
            named.add(digest)
            if item.get("mediaType") not in IMAGE_TYPES:
                continue
            raw = self.get_manifest("x", str(Digest(digest)))
            document = json.loads(raw.data) if raw is not None else {}
            parts = [document.get("config"), document.get("subject"), *(document.get("layers") or []), *(document.get("manifests") or [])]
            pending += [part for part in parts if isinstance(part, dict) and isinstance(part.get("digest"), str)]
        return named

    def _blob_path(self, digest: Digest) -> Path:
        return self.folder / "blobs" / "sha256" / Digest(digest).hex

    def _find_tag(self, repository: str, tag: str) -> Descriptor | None:
        check_name(repository, tag)
        return self._index.find(f"{repository}:{tag}")

    @contextlib.contextmanager
    def _open(self, descriptor: Descriptor) -> Iterator[io.FileIO]:
        path = self._blob_path(descriptor.id)
        try:
            raw = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise RemoteError(
                f"{self.label} does not hold the blob {descriptor.digest}",
                "the folder is sparse: a base's blobs stay where the base is unless --copy-base is given",
            ) from None
        except OSError as error:
            raise explain_unreadable(error) from error
        with raw:
            size = os.fstat(raw.fileno()).st_size
            if size != descriptor.size:
                raise self._damaged(descriptor.id, f"has {size} bytes instead of {descriptor.size}")
            yield raw

    def _exclusive(self) -> contextlib.AbstractContextManager[bool]:
        """Held by whoever changes ``index.json``."""
        return files.exclusive(self.folder / ".lock")

    @contextlib.contextmanager
    def _writing(self, doing: str) -> Iterator[None]:
        try:
            if not self._prepared:
                self._prepare()
                self._prepared = True
            yield
        except OSError as error:
            raise files.explain_os_error(error, f"{doing} {self.label}") from error

    def _prepare(self) -> None:
        blobs = self.folder / "blobs" / "sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        files.sweep_temporaries(self.folder)
        files.sweep_temporaries(blobs)
        marker = self.folder / "oci-layout"
        with self._exclusive():
            if not marker.exists():
                files.write_atomic(marker, encode_json({"imageLayoutVersion": LAYOUT_VERSION}))
            if not self._index.path.exists():
                self._index.write(self._index.read())
        try:
            found = json.loads(marker.read_bytes())
            version = found["imageLayoutVersion"]
        except (ValueError, KeyError, TypeError):
            raise IntegrityError(f"{marker} is damaged", f'write {{"imageLayoutVersion":"{LAYOUT_VERSION}"}} to it') from None
        if version != LAYOUT_VERSION:
            raise IntegrityError(
                f"{self.label} is an image layout of version {version!r}", f"imagebuild reads version {LAYOUT_VERSION} only"
            )

    def _repair_hint(self, digest: Digest) -> str:
        return f"remove {self._blob_path(digest)} and run again"

    def _damaged(self, digest: Digest, what: str) -> IntegrityError:
        return IntegrityError(f"{self.label}: blob {digest} {what}", self._repair_hint(digest))
