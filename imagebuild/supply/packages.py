"""Every Python distribution of an image, with what an SBOM and an audit say of it: the base's, and those that were added."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import IntegrityError
from imagebuild.lock.file.model import Lock
from imagebuild.supply.bundled import Bundled, read_tree_bundled, read_wheel_bundled
from imagebuild.supply.licences import Licence, read_licence

_METADATA_LIMIT = 16 << 20
_NAME = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)")  # how a requirement begins (PEP 508)

Origin = Literal["base", "added"]


class Package(msgspec.Struct, frozen=True):
    """One distribution. ``requires`` are normalised names of packages of the same image that it needs."""

    name: str  # normalised (PEP 503)
    version: str
    origin: Origin
    licence: Licence = Licence()
    requires: tuple[str, ...] = ()
    sha256: str = ""  # of the wheel; a base's wheels are not known
    filename: str = ""  # the wheel's
    index: str = ""
    direct: bool = False  # asked for in requirements.in, or one of the team's own packages
    location: str = ""  # the base's: where it lies
    installer: str = ""
    bundled: Bundled = Bundled()  # others' code inside, by its own SBOMs

    @property
    def is_addon(self) -> bool:
        """Whether it is an R package or a VS Code extension, not a distribution of Python."""
        return ":" in self.name


def list_packages(base: Base, lock: Lock, wheels: Mapping[str, Path]) -> tuple[Package, ...]:
    """Base and lock together, by name; ``wheels`` are the lock's, on this disk. Of two of one name, the added one counts."""
    locked = {item.name: item for item in lock.packages}
    markers = base.inventory.interpreter.markers if base.inventory.interpreter is not None else {}
    present = {*locked, *(item.name for item in base.inventory.distributions)}
    found = [describe_distribution(base, item, present, markers) for item in base.inventory.distributions if item.name not in locked]
    for item in lock.packages:
        with open_wheel(wheels[item.name]) as archive:
            headers, bundled = read_wheel_metadata(archive), read_wheel_bundled(archive, item.name)
        requires = list_required((str(line) for line in headers.get_all("Requires-Dist", [])), present, markers)
        found.append(
            Package(
                name=item.name,
                version=item.version,
                origin="added",
                licence=read_licence(headers),
                requires=tuple(sorted({*requires, *(name for name in item.dependencies if name in present)} - {item.name})),
                sha256=item.sha256,
                filename=item.filename,
                index=item.index,
                direct="requirements.in" in item.via or item.index == "local",
                bundled=bundled,
            )
        )
    return tuple(sorted(found, key=lambda item: item.name))


def describe_distribution(base: Base, item: Distribution, present: Iterable[str], markers: Mapping[str, str]) -> Package:
    """One distribution that the base has installed; its licence is read from the metadata kept with the tree."""
    folder = f"{item.location.rstrip('/')}/{item.metadata}"
    names = ("METADATA",) if item.metadata.endswith(".dist-info") else ("PKG-INFO", "")
    data = next(
        (text for name in names if item.metadata and (text := base.tree.read_text(f"{folder}/{name}".rstrip("/"))) is not None), b""
    )
    return Package(
        name=item.name,
        version=item.version,
        origin="base",
        licence=read_licence(parse_metadata(data)),
        requires=tuple(name for name in list_required(item.requires, present, markers) if name != item.name),
        location=item.location,
        installer=item.installer,
        bundled=read_tree_bundled(base.tree, folder, item.name) if item.metadata.endswith(".dist-info") else Bundled(),
    )


def parse_metadata(data: bytes) -> Message:
    """The headers of core metadata (METADATA, PKG-INFO)."""
    return BytesHeaderParser(policy=compat32).parsebytes(data)


@contextlib.contextmanager
def open_wheel(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """A wheel that was verified before, for its documents; IntegrityError where they cannot be read."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            yield archive
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise IntegrityError(f"{wheel.name} has no readable METADATA: {error}", "pin another version of the package") from None


def read_wheel_metadata(archive: zipfile.ZipFile) -> Message:
    """The METADATA of an open wheel; KeyError without one."""
    name = next((item for item in archive.namelist() if item.count("/") == 1 and item.endswith(".dist-info/METADATA")), None)
    if name is None:
        raise KeyError("METADATA")
    with archive.open(name) as stream:
        return parse_metadata(stream.read(_METADATA_LIMIT))


def list_required(lines: Iterable[str], present: Iterable[str], markers: Mapping[str, str]) -> tuple[str, ...]:
    """The packages among ``present`` that ``Requires-Dist`` lines ask for without any extra, under the base's own markers."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    known = frozenset(present)
    found: set[str] = set()
    for line in lines:
        name = _NAME.match(line)
        if name is not None and canonicalize_name(name[1]) not in known:
            continue  # most are: parsing them all takes longer than all the rest
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # old metadata; what a resolver could not read asks for nothing
        if wanted.marker is None or wanted.marker.evaluate({**markers, "extra": ""}):
            found.add(canonicalize_name(wanted.name))
    return tuple(sorted(found & known))
