"""A file becomes a blob of an image layout: as a second name of the same bytes, or as a copy; its digest is checked in both cases."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from pathlib import Path

from imagebuild import files
from imagebuild.errors import IntegrityError
from imagebuild.files import CHUNK
from imagebuild.oci.content import compute_file_digest
from imagebuild.oci.model import Descriptor, Digest
from imagebuild.progress import advance

# What os.link answers where two names for one file are not possible: another disk, a file system without links, a file
# of another user (fs.protected_hardlinks), too many links.
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS})


def link_file(source: Path, descriptor: Descriptor, path: Path) -> bool:
    """Give ``source`` a second name; False when the two folders cannot share a file."""
    real = source.resolve(strict=True)
    if real.stat().st_dev != path.parent.stat().st_dev:
        return False
    found, size = compute_file_digest(real)
    _check_source(source, descriptor, found, size)
    with real.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary = path.parent / f"{files.TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        os.link(real, temporary)
    except OSError as error:
        if error.errno in _NO_LINK:
            return False
        raise
    try:
        with contextlib.suppress(PermissionError):  # a private temporary file becomes a blob others may read
            temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)  # rename() leaves it where both names are one file already
    files.fsync_directory(path.parent)
    return True


def copy_file(source: Path, descriptor: Descriptor, path: Path) -> None:
    """Copy ``source`` to ``path``, which is there only when size and digest are right."""
    state, size = hashlib.sha256(), 0
    with source.open("rb") as stream, files.replacing(path) as target:
        while chunk := stream.read(CHUNK):
            state.update(chunk)
            size += len(chunk)
            target.write(chunk)
            advance(len(chunk))
        _check_source(source, descriptor, Digest("sha256:" + state.hexdigest()), size)


def _check_source(source: Path, descriptor: Descriptor, found: Digest, size: int) -> None:
    if (found, size) != (descriptor.id, descriptor.size):
        raise IntegrityError(
            f"{source} holds {size} bytes with digest {found}, not the {descriptor.size} of {descriptor.digest}",
            "it was changed or cut short after it was made; remove it and run again",
        )
