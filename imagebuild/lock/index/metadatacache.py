"""METADATA and installed size of wheels that were read before, by the wheel's hash: ``cache/metadata/<sha256>.json``."""

from __future__ import annotations

from pathlib import Path

import msgspec

from imagebuild.sealed import SealedCache


class KeptMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """What decides a resolution must not rot unseen, so it is sealed."""

    metadata: str = ""  # base64 by msgspec would need bytes; METADATA is UTF-8 text with rare stray bytes
    installed_size: int = -1
    check: str = ""


_METADATA = SealedCache(KeptMetadata)


def recall_metadata(cache: Path, sha256: str) -> bytes:
    """The METADATA kept of the wheel with this hash; empty where none is, or it is damaged."""
    return recall(cache, sha256).metadata.encode("utf-8", "surrogateescape")


def recall(cache: Path, sha256: str) -> KeptMetadata:
    """All that is kept of the wheel with this hash (\"\" for an unknown one): a value with nothing in it where that is nothing."""
    return (_METADATA.read(_locate(cache, sha256)) if sha256 else None) or KeptMetadata()


def remember(cache: Path, sha256: str, metadata: bytes, installed_size: int) -> None:
    """Keep both, where the hash is known."""
    try:
        text = metadata.decode("utf-8")
    except UnicodeDecodeError:
        return  # rare and old: read again next time
    if sha256:
        _METADATA.write(_locate(cache, sha256), KeptMetadata(text, installed_size), doing="keeping a wheel's metadata")


def _locate(cache: Path, sha256: str) -> Path:
    return cache / "metadata" / f"{sha256}.json"
