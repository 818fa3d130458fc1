"""Manifests by tag, kept by digest between runs: a listing that was made before costs one HEAD a tag.

A kept manifest is used only when its bytes have the digest that the registry names for the tag now. What a tag named last
time is remembered too, and only to choose the cheaper question: a tag that was never seen is fetched at once, without a HEAD.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from pathlib import Path
from types import TracebackType

import msgspec

from imagebuild.decoding import make_decoder
from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.files import write_atomic
from imagebuild.oci.content import check_manifest
from imagebuild.oci.model import Descriptor, RawManifest
from imagebuild.oci.store import Store


class _Kept(msgspec.Struct, frozen=True):
    """One manifest on the disk. ``data`` is base64 in JSON."""

    media_type: str
    data: bytes


_LISTING = make_decoder(tuple[dict[str, str], dict[str, _Kept]])


class ManifestReader:
    """Reads the manifests of one store; a context manager, because what was learnt is written once, at the end.

    ``cache`` None, or a layout folder (whose manifests are on this disk already), keeps nothing. Threads may share one.
    """

    def __init__(self, store: Store, cache: Path | None) -> None:
        self._store = store
        name = hashlib.sha256(store.label.encode()).hexdigest()[:16]
        self._file = None if cache is None or not store.registry_host else cache / "catalogue" / f"{name}.json"
        self._kept: dict[str, _Kept] = {}  # digest -> manifest
        self._seen: dict[str, str] = {}  # repository:tag -> digest
        self._changed = False
        self._lock = threading.Lock()

    def __enter__(self) -> ManifestReader:
        if self._file is not None:
            # A file that is damaged or gone is a cold start, and nothing worse: every manifest in it is checked.
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                self._seen, self._kept = _LISTING.decode(self._file.read_bytes())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is None or not self._changed:
            return
        named = set(self._seen.values())
        kept = {digest: manifest for digest, manifest in self._kept.items() if digest in named}
        with contextlib.suppress(OSError):  # a listing does not fail because it will not be quicker next time
            write_atomic(self._file, msgspec.json.encode((self._seen, kept)))

    def read(self, repository: str, tag: str) -> RawManifest:
        """The manifest that ``tag`` names now, verified. A tag that is gone is an error: it was listed a moment ago."""
        place = f"{repository}:{tag}"
        if place in self._seen:
            descriptor = self._store.head_manifest(repository, tag)
            kept = self._find_kept(descriptor) if descriptor is not None else None
            if kept is not None:
                self._remember(place, kept)
                return kept
        raw = self._store.get_manifest(repository, tag)
        if raw is None:
            raise RemoteError(
                f"{self._store.image_name(repository)}:{tag} was listed and no longer exists",
                "run the command again; if it fails again, push the image again",
            )
        self._remember(place, raw)
        return raw

    def _find_kept(self, descriptor: Descriptor) -> RawManifest | None:
        kept = self._kept.get(descriptor.digest)
        if kept is None or kept.media_type != descriptor.media_type:
            return None
        try:
            raw = check_manifest(kept.data, kept.media_type)
        except IntegrityError:
            return None
        return raw if raw.digest == descriptor.digest else None

    def _remember(self, place: str, raw: RawManifest) -> None:
        if self._file is None:
            return
        digest = str(raw.digest)
        with self._lock:
            kept = self._kept.get(digest)
            if self._seen.get(place) == digest and kept is not None and kept.data == raw.data:
                return
            self._seen[place], self._kept[digest] = digest, _Kept(raw.media_type, raw.data)
            self._changed = True
