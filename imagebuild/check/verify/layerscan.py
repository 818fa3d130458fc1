"""One pass over a layer's tar: what is in it, said as facts that the checks of ``verify`` are made of.

Memory holds one line per entry (path, digest, size) and the small files that are read as text; contents go by in pieces.
"""

from __future__ import annotations

import contextlib
import hashlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO, cast

import msgspec

from imagebuild.base.model import Entry
from imagebuild.check.verify.chunked import ChunkedAudit, ChunkedFacts, is_chunked
from imagebuild.check.verify.secrets import OVERLAP, find_secret_name, find_secrets, find_setting, is_settings, is_text
from imagebuild.check.verify.startup import SUFFIXES
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.layer.dpkg import STATUS, SystemFiles, is_dpkg_list, read_system_files
from imagebuild.layer.invariants import AddedLayers, Fault, read_tar_entries
from imagebuild.layer.tar.flow import BackgroundDigest, ChunkConsumer, read_ahead
from imagebuild.layer.tar.reading import is_decompression_error
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.model import Descriptor
from imagebuild.oci.store import Store
from imagebuild.supply.bundled import is_bundled_sbom
from imagebuild.wheel.installed import is_site_folder, parse_info_path

TEXT_LIMIT = 64 << 20  # bytes; a RECORD, a package's list or dpkg's status is never larger
TEXTS_LIMIT = 512 << 20  # bytes of all of them, in one layer
CAPABILITY = "a file capability"
_CAPABILITY = "SCHILY.xattr.security.capability"  # capabilities(7), as tar archives of layers carry them


class NoTree:
    """The tree of a base that is not known: empty."""

    def get(self, path: str) -> Entry | None:  # noqa: ARG002
        return None

    def resolve(self, path: str) -> str:
        return path

    def under(self, folder: str) -> Iterator[Entry]:  # noqa: ARG002
        return iter(())

    def read_text(self, path: str) -> bytes | None:  # noqa: ARG002
        return None


class ScannedEntry(msgspec.Struct, frozen=True, gc=False):
    """A regular file of the layer."""

    sha256: bytes  # 32 bytes
    size: int


class ScannedLayer(msgspec.Struct):
    """What one pass found. Paths are absolute."""

    size: int = 0  # bytes as stored
    diff_id: str = ""
    uncompressed: int = 0
    entries: int = 0
    texts: int = 0  # bytes of what is kept of them
    faults: list[Fault] = []
    files: dict[str, ScannedEntry] = {}
    records: dict[str, bytes] = {}  # path of a RECORD -> its text
    metadata: dict[str, bytes] = {}  # path of a METADATA -> its text
    sboms: dict[str, bytes] = {}  # path of an SBOM in a .dist-info (PEP 770) -> its text
    startup_files: dict[str, bytes] = {}  # *.pth and *.start directly in a site folder -> text
    secrets: dict[str, list[str]] = {}  # path -> what it looks like
    privileged: dict[str, str] = {}  # path of a file with a setuid or setgid bit or a capability, whoever brought it -> which
    unread: int = 0  # files whose content was not searched: binaries
    lists: dict[str, bytes] = {}  # dpkg's
    status: bytes = b""
    chunked: ChunkedFacts | None = None  # where it has a table of contents

    @property
    def system(self) -> SystemFiles | None:
        """What apt did in this layer, as the dpkg status says; None when it did nothing."""
        texts = {path: data.decode("utf-8", "replace") for path, data in self.lists.items()}
        sizes = {path: item.size for path, item in self.files.items()}
        return read_system_files(texts, self.status.decode("utf-8", "replace"), sizes)


def scan_layer(
    store: Store,
    repository: str,
    descriptor: Descriptor,
    *,
    added: AddedLayers,
    home: str,
    replaceable: frozenset[str] = frozenset(),
    system: SystemFiles | None = None,
) -> ScannedLayer:
    """Stream one layer, to its end, onto those in ``added``.

    IntegrityError when its bytes are not the descriptor's, or no compressed tar.
    """
    facts = ScannedLayer(size=descriptor.size)
    digest = BackgroundDigest()
    audit = ChunkedAudit() if is_chunked(descriptor) else None
    try:
        with contextlib.ExitStack() as stack:
            stored = stack.enter_context(store.open_blob(repository, descriptor))
            feeds = [stack.enter_context(digest)]
            if audit is not None:
                stored = audit.watch(stored)
                feeds.append(stack.enter_context(ChunkConsumer(audit.read)))
            chunks = stack.enter_context(read_ahead(open_decompressed(stored, descriptor.compression)))
            facts.faults = list(
                read_tar_entries(
                    _watch(chunks, feeds),
                    added=added,
                    home=home,
                    replaceable=replaceable,
                    system=system,
                    visit=lambda archive, entry, path: _visit(facts, archive, entry, path),
                )
            )
            while stored.read(CHUNK):  # after the compressed stream: the store verifies at the end of the blob
                pass
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise IntegrityError(f"the layer {descriptor.digest} cannot be read as a tar: {error}", "push the image again") from None
    except Exception as error:
        # zstandard's and isal's errors have no common base; anything else passes as it is.
        if not is_decompression_error(error):
            raise
        raise IntegrityError(f"the layer {descriptor.digest} cannot be decompressed: {error}", "push the image again") from None
    facts.diff_id, facts.uncompressed = f"sha256:{digest.sha256}", digest.count
    facts.chunked = audit.finish(descriptor) if audit is not None else None
    return facts


def _watch(chunks: Iterator[bytes], feeds: Sequence[Callable[[bytes], None]]) -> Iterator[bytes]:
    for chunk in chunks:
        for feed in feeds:
            feed(chunk)
        yield chunk


def _visit(facts: ScannedLayer, archive: tarfile.TarFile, entry: tarfile.TarInfo, path: str) -> None:
    facts.entries += 1
    if reason := find_secret_name(path):
        facts.secrets.setdefault(path, []).append(reason)
    if entry.mode & 0o6000 and not (entry.isdir() or entry.issym()):
        facts.privileged[path] = f"setuid or setgid ({entry.mode & 0o7777:o})"
    if _CAPABILITY in entry.pax_headers:
        facts.privileged[path] = f"{facts.privileged[path]}, {CAPABILITY}" if path in facts.privileged else CAPABILITY
    if not entry.isreg() or path.rpartition("/")[2].startswith(".wh."):
        return
    stream = cast(BinaryIO, archive.extractfile(entry))
    keep = _keeper(facts, path) if entry.size <= TEXT_LIMIT else None
    settings = (is_settings(path) or path == STATUS) and entry.size <= TEXT_LIMIT
    if keep is not None or settings:
        facts.texts += entry.size
        if facts.texts > TEXTS_LIMIT:
            raise IntegrityError(f"{path}: the layer holds more metadata than is allowed", "do not trust its source")
    digest = hashlib.sha256()
    found: set[str] = set()
    kept: list[bytes] = []
    tail = b""
    searched: bool | None = None
    while piece := stream.read(CHUNK):
        digest.update(piece)
        if searched is None:
            searched = is_text(piece[:8192])
        if searched:
            found.update(find_secrets(tail + piece if tail else piece))
            tail = piece[-OVERLAP:] if len(piece) == CHUNK else b""
        if keep is not None or settings:
            kept.append(piece)
    facts.files[path] = ScannedEntry(digest.digest(), entry.size)
    facts.unread += searched is False
    text = b"".join(kept)
    if keep is not None:
        keep[path] = text
    if path == STATUS:
        facts.status = text
    elif settings and (reason := find_setting(text)):
        found.add(reason)
    if found:
        facts.secrets.setdefault(path, []).extend(sorted(found))


def _keeper(facts: ScannedLayer, path: str) -> dict[str, bytes] | None:
    """Where the text of ``path`` is kept, if it is one of the files that are read."""
    info = parse_info_path(path)
    if info is not None and info.file in ("RECORD", "METADATA"):
        return facts.records if info.file == "RECORD" else facts.metadata
    if is_bundled_sbom(path):
        return facts.sboms
    if path.endswith(SUFFIXES) and is_site_folder(posixpath.dirname(path)):
        return facts.startup_files
    return facts.lists if is_dpkg_list(path) else None
