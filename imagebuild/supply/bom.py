"""The image's bill of materials: CycloneDX 1.6 (JSON), base and delta, by cyclonedx-python-lib.

Deterministic: the serial number is derived from the image's digest, the time is the lock's cutoff, everything is sorted by
the library. What distinguishes base from delta is the property ``dev.imagebuild:origin``.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from imagebuild import __version__
from imagebuild.addons.model import AddonLock, list_needs, name_addon
from imagebuild.base.model import SystemInventory, SystemPackage
from imagebuild.oci.model import Digest
from imagebuild.supply.addons import is_direct
from imagebuild.supply.packages import Package
from imagebuild.supply.properties import ORIGIN

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.dependency import Dependency


class BomSubject(msgspec.Struct, frozen=True):
    """The image and its base, as the BOM's own components."""

    repository: str
    tag: str
    digest: Digest
    created: str  # RFC 3339
    base_name: str
    base_digest: Digest  # of the platform's manifest
    platform: str
    base_pinned: str = ""  # what the base's name names: an index, or the same manifest


def render_bom(
    subject: BomSubject,
    packages: Sequence[Package],
    system: Mapping[str, str] | None = None,
    repaired: Mapping[str, int] | None = None,
    below: SystemInventory | None = None,
    addons: Sequence[AddonLock] = (),
) -> bytes:
    """The BOM's JSON. ``system``: Debian packages of the delta -> version; ``repaired``: package -> wrong rows of its wheel's RECORD;
    ``below``: what the base has besides Python's packages; ``addons``: their locks. Of a Debian package that both have, the delta's counts.
    """
    from cyclonedx.model import Property
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion

    from imagebuild.supply.components import describe_addon, describe_image, describe_package, describe_system

    below = below or SystemInventory()
    image = describe_image(subject.repository, subject.tag, subject.digest, subject.platform)
    base = describe_image(subject.base_name, "", subject.base_digest, subject.platform)
    if subject.base_pinned and subject.base_pinned != subject.base_digest:
        base.properties.add(Property(name="dev.imagebuild:pinned", value=subject.base_pinned))
    base.properties.add(Property(name=ORIGIN, value="base"))
    components = {item.name: describe_package(item, (repaired or {}).get(item.name, 0)) for item in packages}
    added = [SystemPackage("deb", name.partition(":")[0], version) for name, version in sorted((system or {}).items())]
    system_components = [describe_system(item, below.os, "added") for item in added]
    hidden = {item.name for item in added}
    base_components = [describe_system(item, below.os, "base") for item in below.packages if item.kind != "deb" or item.name not in hidden]
    # The base needs what it has; the image needs the base and what was asked for by name.
    direct = [components[item.name] for item in packages if item.direct]
    brought = {name_addon(lock.kind, item.name): describe_addon(lock, item) for lock in addons for item in lock.addons}
    direct += [brought[name_addon(lock.kind, item.name)] for lock in addons for item in lock.addons if is_direct(lock, item)]
    dependencies = [
        _point(image, [base, *direct, *system_components]),
        _point(base, [*(components[item.name] for item in packages if item.origin == "base"), *base_components]),
        *(_point(components[item.name], [components[name] for name in item.requires]) for item in packages),
        *(_point(brought[name], [brought[other] for other in needs]) for name, needs in list_needs(addons).items()),
        *(_point(item, []) for item in (*system_components, *base_components)),
    ]
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, str(subject.digest)),
        metadata=BomMetaData(
            timestamp=datetime.fromisoformat(subject.created),
            component=image,
            tools=None,
        ),
        components=[base, *components.values(), *brought.values(), *system_components, *base_components],
        dependencies=dependencies,
    )
    bom.metadata.tools.components.add(Component(name="imagebuild", version=__version__, type=ComponentType.APPLICATION))
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string().encode()


def _point(item: Component, needed: Sequence[Component]) -> Dependency:
    from cyclonedx.model.dependency import Dependency

    return Dependency(item.bom_ref, [Dependency(other.bom_ref) for other in needed])
