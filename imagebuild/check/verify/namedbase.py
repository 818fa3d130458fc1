"""The base that an image names, read whole: what a pushed image is compared with."""

from __future__ import annotations

import msgspec

from imagebuild import annotations as names
from imagebuild.base.model import Base
from imagebuild.catalogue.lookup import FoundImage
from imagebuild.errors import ImagebuildError
from imagebuild.oci.model import Descriptor, ImageConfig, Manifest
from imagebuild.workspace import Workspace


class NamedBase(msgspec.Struct, frozen=True):
    """The base that an image names. Without ``base``, ``problem`` says why; the layers may be known all the same."""

    problem: str = ""
    manifest: Manifest | None = None
    config: ImageConfig | None = None
    base: Base | None = None  # read whole: its tree, its distributions

    @property
    def layers(self) -> tuple[Descriptor, ...]:
        """Its layers, lowest first."""
        return self.manifest.layers if self.manifest is not None else ()


def read_named_base(workspace: Workspace, image: FoundImage) -> NamedBase:
    """Read the base that the image's annotations (or labels) name: from the cache, else by one pass over its layers.

    Labels are inherited, and may be true of an image below this one: they count where the base's layers are the lowest.
    """
    from imagebuild.base.reading import BaseNames, read_base
    from imagebuild.engine.dockerd import find_base

    try:
        source = find_base(workspace, image.annotations)
        if source is None:
            return NamedBase("the image does not say what its base is")
        workspace.prepare()
        base = read_base(
            source.store,
            source.repository,
            source.digest,
            image.config.platform,
            BaseNames(
                image.annotations.get(names.BASE, "") or "base",
                image.annotations.get(names.KIND, "jupyter"),
                image.annotations[names.BASE_NAME],
                source.store.registry_host,
            ),
            cache=workspace.cache,
            report=workspace.report,
        )
    except ImagebuildError as error:
        return NamedBase(f"the base cannot be read: {error.message}")
    if not is_ours(image) and count_common_digests(image, base.manifest.layers) < len(base.manifest.layers):
        return NamedBase(f"its labels name {base.reference} as the base, but its lower layers are others")
    return NamedBase("", base.manifest, base.config, base)


def is_ours(image: FoundImage) -> bool:
    """Whether imagebuild made it: said by the manifest. A label may be another image's, below."""
    return names.FORMAT in image.manifest.annotations


def count_common_digests(image: FoundImage, layers: tuple[Descriptor, ...]) -> int:
    """How many layers, from the lowest, are the same bytes."""
    pairs = zip(image.manifest.layers, layers, strict=False)
    same = next((number for number, (mine, its) in enumerate(pairs) if mine.digest != its.digest), None)
    return min(len(image.manifest.layers), len(layers)) if same is None else same
