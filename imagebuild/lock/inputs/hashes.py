"""``--hash`` of requirement lines: which files of a package may be locked.

As pip has it (Hash-checking mode): a file must have one of the hashes of its line, and where several lines and constraints name one
package, a hash that all of them allow. Unlike there, one hashed line asks for no hashes of the others: a lock has them all. pip-compile
reads these options and drops them, and so does ``uv pip compile``; here they hold for either resolver.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from imagebuild.errors import IntegrityError
from imagebuild.lock.inputs.requirements import DirectRequirement, applies


class AllowedHashes(msgspec.Struct, frozen=True):
    """The SHA-256 digests (hex) that the files of one package may have, and the lines that say so."""

    digests: frozenset[str]
    lines: tuple[str, ...]  # requirements.in line 2


def join_hashes(lines: Iterable[DirectRequirement], environment: Mapping[str, str]) -> dict[str, AllowedHashes]:
    """Name -> what all lines with hashes, of those that apply to the base, allow."""
    found: dict[str, AllowedHashes] = {}
    for item in lines:
        if not item.hashes or not applies(item.requirement, environment):
            continue
        known = found.get(item.name)
        if known is None:
            found[item.name] = AllowedHashes(item.hashes, (item.where,))
        else:
            found[item.name] = AllowedHashes(known.digests & item.hashes, (*known.lines, item.where))
    return found


def check_hashes(files: Mapping[str, tuple[str, str]], allowed: Mapping[str, AllowedHashes]) -> None:
    """IntegrityError for a file that its lines do not allow. ``files``: package -> (file name, SHA-256 in hex)."""
    for name, (filename, sha256) in files.items():
        found = allowed.get(name)
        if found is not None and sha256 not in found.digests:
            raise IntegrityError(
                f"{filename} is not what {' and '.join(found.lines)} allows: its hash is not among the {len(found.digests)} there",
                "find out which file is intended; if it is this one, add its hash there",
                (f"--hash=sha256:{sha256}",),
            )
