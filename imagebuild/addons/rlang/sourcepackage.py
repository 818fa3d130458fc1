"""R packages that a repository has as source only: built inside the base, and locked as the binary archive that comes out.

How a build is done is a function given from outside (the docker engine's); here is decided what is built with what beside it, whether
it was built before, and the bytes of the archive.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from imagebuild.addons.archives import KeptArchive, archive_path, recall_archive
from imagebuild.addons.rlang.control import Description
from imagebuild.addons.unpacking import ArchiveFile, open_archive
from imagebuild.base.sourceorder import BuildSource, SourceOrder, compute_epoch
from imagebuild.decoding import make_decoder
from imagebuild.errors import BuildError
from imagebuild.files import exclusive, explain_os_error, scratch_folder, write_atomic

_FORMAT = 1  # of a build: raise it when the same order would give other bytes


class _Note(msgspec.Struct, frozen=True):
    filename: str
    sha256: str


_NOTE = make_decoder(_Note)


class RSourceBuilds:
    """Builds of one run, kept from run to run."""

    def __init__(self, cache: Path, base_digest: str, build: BuildSource | None, report: Callable[[str], object]) -> None:
        self._cache, self._base_digest = cache, base_digest
        self._build, self._report = build, report

    def make(self, description: Description, archive: KeptArchive, requires: Sequence[KeptArchive]) -> KeptArchive:
        """The binary archive that ``archive`` gives. ``requires``: the binary archives it is built with."""
        name, version = description.name, description.version
        hashes = [archive.sha256, *sorted(item.sha256 for item in requires)]
        epoch = compute_epoch(description.published_at)
        key = hashlib.sha256(msgspec.json.encode([_FORMAT, hashes, self._base_digest, epoch])).hexdigest()
        note = self._cache / "source" / f"r-{key}.json"
        try:
            with exclusive(self._cache / "source" / f"r-{key}.lock"):
                kept = self._recall(note)
                if kept is not None:
                    return kept
                if self._build is None:
                    raise BuildError(
                        f"{name} {version} is source only, and nothing here can build it", "use a repository that has binaries of it"
                    )
                self._report(f"building {name} {version} from source, inside the base")
                order = SourceOrder(name, version, archive.path, tuple(item.path for item in requires), epoch)
                with scratch_folder(self._cache) as folder:
                    data = repack_archive(self._build(order, folder), name)
                filename, sha256 = archive.path.name, hashlib.sha256(data).hexdigest()
                path = archive_path(self._cache, sha256, filename)
                write_atomic(path, data)
                write_atomic(note, msgspec.json.encode(_Note(filename, sha256)))
                return KeptArchive(path, sha256)
        except OSError as error:
            raise explain_os_error(error, f"building {name}") from None

    def _recall(self, note: Path) -> KeptArchive | None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, msgspec.ValidationError):
            found = _NOTE.decode(note.read_bytes())
            return recall_archive(found.sha256, found.filename, self._cache)
        return None


def repack_archive(path: Path, name: str) -> bytes:
    """The same package in canonical form: sorted, without dates and owners, its files below ``name/``, not compressed within the gzip."""
    buffer = io.BytesIO()
    with open_archive(path, path.name, f"{name}/") as files, tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as target:
        for file in files:
            target.addfile(_describe_entry(file, name), io.BytesIO(b"".join(file.open())))
    return gzip.compress(buffer.getvalue(), compresslevel=0, mtime=0)


def _describe_entry(file: ArchiveFile, name: str) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(f"{name}/{file.path}")
    entry.size, entry.mode = file.size, file.mode
    return entry
