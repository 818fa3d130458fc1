"""``index.json`` of an image layout: which manifest a tag names. Its entries are plain JSON, so that what other tools put there survives
our writing it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from imagebuild import files
from imagebuild.annotations import REF_NAME
from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.encoding import encode_json
from imagebuild.oci.model import DESCRIPTOR, OCI_INDEX, Descriptor, Digest

_LIMIT = 256 << 20  # bytes; a million tags

Entry = dict[str, Any]


class LayoutIndex:
    """The file ``index.json`` in ``folder``. Whoever changes it holds the folder's lock."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "index.json"

    def read(self) -> dict[str, Any]:
        """The document, whose ``manifests`` is a list of objects; an empty one where the file is not there yet."""
        try:
            with self.path.open("rb") as stream:
                data = stream.read(_LIMIT + 1)
        except FileNotFoundError:
            return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
        except OSError as error:
            raise explain_unreadable(error) from error
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"it is not JSON ({error})") from None
        if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
            raise self._damaged("it has no list of manifests")
        if not all(isinstance(item, dict) for item in document["manifests"]):
            raise self._damaged("an entry is not an object")
        return document

    def entries(self) -> list[Entry]:
        """The descriptors as they are written there."""
        found: list[Entry] = self.read()["manifests"]
        return found

    def write(self, document: dict[str, Any]) -> None:
        """Replace the file in one step."""
        files.write_atomic(self.path, encode_json(document))

    def remove(self, chosen: Callable[[Entry], bool]) -> bool:
        """Take the ``chosen`` entries away; False, and nothing written, where there are none."""
        document = self.read()
        kept = [item for item in document["manifests"] if not chosen(item)]
        removed = len(kept) < len(document["manifests"])
        if removed:
            self.write({**document, "manifests": kept})
        return removed

    def replace(self, name: str, entry: Entry) -> None:
        """Make ``entry`` the last one, in place of those called ``name``."""
        document = self.read()
        kept = [item for item in document["manifests"] if name_of(item) != name]
        self.write({**document, "manifests": [*kept, entry]})

    def find(self, name: str) -> Descriptor | None:
        """What the first entry called ``name`` describes."""
        for item in self.entries():
            if name_of(item) == name:
                try:
                    descriptor = DESCRIPTOR.convert(item)
                    Digest(descriptor.digest)
                except (msgspec.ValidationError, IntegrityError) as error:
                    raise self._damaged(f"its entry {name} is not a descriptor ({error})") from None
                return descriptor
        return None

    def names(self) -> Iterator[tuple[str, str]]:
        """Repository and tag of every entry that has both, in the file's order."""
        for item in self.entries():
            repository, colon, tag = name_of(item).rpartition(":")
            if colon and repository and tag:
                yield repository, tag

    def _damaged(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"{self.path} is damaged: {what}",
            "restore it from a copy; or move the folder away and build again (nothing in it is needed to do so)",
        )


def name_of(item: Entry) -> str:
    """``repository:tag`` of an entry; empty where it has none."""
    found = item.get("annotations")
    name = found.get(REF_NAME) if isinstance(found, dict) else None
    return name if isinstance(name, str) else ""


def explain_unreadable(error: OSError) -> RemoteError:
    """A file of the layout that this user may not read, or that the disk does not give."""
    return RemoteError(f"cannot read {error.filename}: {error.strerror}", "give this user read access to the folder")
