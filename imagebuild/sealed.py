"""Cached values that carry their own checksum: what rotted on the disk reads as not there.

Apart from files.py, which runs before any library is installed (starter/debian.py).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Generic, Literal, TypeVar

import msgspec

from imagebuild.decoding import make_decoder, make_msgpack_decoder
from imagebuild.files import explain_os_error, write_unflushed

Sealed = TypeVar("Sealed", bound=msgspec.Struct)


class SealedCache(Generic[Sealed]):
    """Cache files of one kind, which say themselves whether they are whole.

    ``kind`` has a field ``check``: the SHA-256 of the value's encoding with that field empty. A file that is not there, was cut short,
    has rotted or was written by a version with another encoding counts as none.
    """

    def __init__(self, kind: type[Sealed], encoding: Literal["json", "msgpack"] = "json") -> None:
        self._encode = msgspec.json.encode if encoding == "json" else msgspec.msgpack.encode
        self._decoder = make_decoder(kind) if encoding == "json" else make_msgpack_decoder(kind)

    def seal(self, value: Sealed) -> Sealed:
        """``value`` with the ``check`` that belongs to it."""
        plain = msgspec.structs.replace(value, check="")
        return msgspec.structs.replace(value, check=hashlib.sha256(self._encode(plain)).hexdigest())

    def encode(self, value: Sealed) -> bytes:
        """The file of a value."""
        return self._encode(self.seal(value))

    def read(self, path: Path) -> Sealed | None:
        """The value that was kept at ``path``, with an empty ``check``; None where there is none, or it is damaged."""
        try:
            found = self._decoder.decode(path.read_bytes())
        except (OSError, UnicodeDecodeError, msgspec.MsgspecError):
            return None
        value = msgspec.structs.replace(found, check="")
        return value if found == self.seal(value) else None

    def write(self, path: Path, value: Sealed, *, doing: str) -> None:
        """Keep ``value`` at ``path``, without waiting for the disk; ConfigurationError, which names ``doing``, where that fails."""
        try:
            write_unflushed(path, self.encode(value))
        except OSError as error:
            raise explain_os_error(error, doing) from None
