"""RECORD (packaging.python.org, Recording installed projects): rows read and written, and what a wheel's own gets wrong.

pip and uv install wheels whose RECORD is wrong: what guards the bytes is the lock's hash of the archive and the zip's own CRCs. So what
is wrong is reported, and the image's RECORD is rendered from the true bytes.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import io
from collections.abc import Collection, Iterable

import msgspec

from imagebuild.errors import IntegrityError

HASHES = ("sha256", "sha384", "sha512")  # PEP 427: sha256 or better


class Promise(msgspec.Struct, frozen=True):
    """What a row says of a file, as written; empty where it says nothing."""

    hash: str = ""  # sha256=...
    size: str = ""

    @property
    def algorithm(self) -> str:
        """The hash's name, or ""."""
        return self.hash.partition("=")[0] if self.hash.partition("=")[2] else ""

    @property
    def sha256(self) -> str:
        """In hex; empty when the row has another kind of hash, or nonsense."""
        return decode_hash(self.hash)

    def fits(self, sha256: str, size: int) -> bool:
        """Whether a file of this hash (in hex) and size is what the row says, as far as it says anything."""
        return self.sha256 in ("", sha256) and self.size in ("", str(size))


class WheelRecord(msgspec.Struct, frozen=True):
    """A wheel's RECORD beside the files that the wheel has. ``faults``: what is wrong, by row or file."""

    promises: dict[str, Promise]
    faults: dict[str, str]


def decode_hash(text: str) -> str:
    """``sha256=<urlsafe base64>`` in hex; empty for anything else."""
    algorithm, _, value = text.partition("=")
    with contextlib.suppress(ValueError):
        digest = base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)) if algorithm == "sha256" else b""
        return digest.hex() if len(digest) == 32 else ""
    return ""


def encode_hash(digest: str) -> str:
    """The hash column of a SHA-256 in hex; empty for none."""
    return f"sha256={base64.urlsafe_b64encode(bytes.fromhex(digest)).decode().rstrip('=')}" if digest else ""


def render_record(rows: Iterable[tuple[str, str, int | None]]) -> bytes:
    """RECORD as pip writes it: CSV with CRLF, sorted; (name, sha256 in hex or empty, size or None) each.

    ``importlib.metadata`` and ``csv.reader`` give back the same names.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    for name, digest, size in sorted((name, digest, size) for name, digest, size in rows):
        writer.writerow((name, encode_hash(digest), "" if size is None else str(size)))
    return text.getvalue().encode("utf-8")


def read_wheel_record(text: str, files: Collection[str], info: str) -> WheelRecord:
    """Read the RECORD of a wheel with these ``files``; ``info`` is its ``.dist-info`` folder. Never fails: what is wrong is a fault."""
    exempt = {f"{info}/RECORD{ending}" for ending in ("", ".jws", ".p7s")}
    promises: dict[str, Promise] = {}
    faults: dict[str, str] = {}
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error:
        rows, faults["RECORD"] = [], "it is not CSV"
    for row in rows:
        name = row[0] if row else ""
        if not name or name in exempt:
            continue
        plain = name.replace("\\", "/")
        promise = Promise(row[1] if len(row) > 1 else "", row[2] if len(row) > 2 else "")
        if plain != name:
            faults[plain] = "its row has backslashes"
        if promises.setdefault(plain, promise) != promise:
            faults[plain] = "it has two rows that differ"
        elif plain not in files and plain not in exempt:
            faults[plain] = "its row names no file of the wheel"
        elif not promise.size:
            faults.setdefault(plain, "its row has no size")
    for name in files:
        if name in exempt:
            continue
        algorithm = promises.get(name, Promise()).algorithm
        if name not in promises:
            faults[name] = "it has no row"
        elif not algorithm:
            faults[name] = "its row has no hash"
        elif algorithm not in HASHES:
            faults[name] = f"its row has a hash by {algorithm[:20]!r}"
    return WheelRecord(promises, faults)


def describe_faults(count: int) -> str:
    """For a line about a wheel."""
    return f"{count} {'row' if count == 1 else 'rows'} of its RECORD {'is' if count == 1 else 'are'} wrong"


def describe_repair(count: int) -> str:
    """The same, and what was done about it."""
    return f"{describe_faults(count)}; the image's is made of the true bytes"


def refuse_faults(filename: str, count: int) -> IntegrityError:
    """The error of such a wheel under ``strict-record``."""
    return IntegrityError(
        f"{filename}: {describe_faults(count)}, and images/policy.toml has strict-record = true",
        "pin another version, or ask the package's maintainers",
    )
