"""Where an image's base ends: by what was asked, by its annotation, or by the layers it shares with a base that is known here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

import msgspec

from imagebuild import annotations as names
from imagebuild.catalogue.lookup import FoundImage, find_named_image, read_image
from imagebuild.engine.dockerd import find_base
from imagebuild.errors import ImagebuildError, UsageError
from imagebuild.oci.content import check_manifest
from imagebuild.oci.model import Descriptor, ImageConfig, Manifest
from imagebuild.workspace import Workspace


class BaseLayers(msgspec.Struct, frozen=True):
    """The base of an image: its lowest ``layers`` layers."""

    name: str
    found: str  # "--base", "annotation", "label", "common layers", "nothing"
    layers: int
    digest: str = ""  # of its manifest, where that is known
    manifest: Manifest | None = None
    notes: tuple[str, ...] = ()


def count_common_contents(image: FoundImage, manifest: Manifest, config: ImageConfig) -> int:
    """How many of the image's lowest layers are those of another: by content, however they are compressed."""
    own = _pair(image.manifest.layers, image.config)
    other = _pair(manifest.layers, config)
    count = 0
    for (digest, content), (base_digest, base_content) in zip(own, other, strict=False):
        if digest != base_digest and (not content or content != base_content):
            break
        count += 1
    return count


def _pair(layers: Sequence[Descriptor], config: ImageConfig) -> list[tuple[str, str]]:
    contents = config.rootfs.diff_ids if len(config.rootfs.diff_ids) == len(layers) else ("",) * len(layers)
    return [(layer.digest, content) for layer, content in zip(layers, contents, strict=True)]


def find_base_layers(workspace: Workspace, image: FoundImage, asked: str = "") -> BaseLayers:
    """The base of ``image``; ``asked`` is what ``--base`` names, and must be it: UsageError when its layers are not the lowest."""
    if asked:
        base = find_named_image(workspace, asked, image.config.platform)
        common = count_common_contents(image, base.manifest, base.config)
        if common != len(base.manifest.layers):
            raise UsageError(
                f"{asked} is not the base of {image.name}: {common} of its {len(base.manifest.layers)} layers are below it",
                "leave --base out to see which base the image names",
            )
        return BaseLayers(asked, "--base", common, str(base.digest), base.manifest)
    notes: list[str] = []
    own = image.manifest.annotations
    found = _find_noted(workspace, image, own, "annotation", notes)
    if found is None and names.FORMAT in own and image.manifest.layers:  # ours: the base and the team's layers
        name = f"{own.get(names.BASE_NAME, '')}@{own.get(names.BASE_DIGEST, '')}"
        count = len(image.manifest.layers)
        return BaseLayers(name, "annotation", count - names.count_team_layers(own, count), notes=tuple(notes))
    if found is None:
        # Labels are inherited: what they say may be true of the base, and not of this image. So the one with more layers counts.
        labels: list[str] = []
        noted = _find_noted(workspace, image, image.config.container.labels or {}, "label", labels)
        known = _find_known(workspace, image)
        found = max((item for item in (known, noted) if item is not None), key=lambda item: item.layers, default=None)
        notes += labels if found is None else []
    if found is not None:
        return msgspec.structs.replace(found, notes=tuple(notes))
    notes.append("no base is known: all its layers are counted; name it with --base")
    return BaseLayers("(none known)", "nothing", 0, notes=tuple(notes))


def _find_noted(workspace: Workspace, image: FoundImage, annotations: Mapping[str, str], how: str, notes: list[str]) -> BaseLayers | None:
    """The base that annotations or labels name, if it is there and its layers are the image's lowest; else ``notes`` gets the reason."""
    name = f"{annotations.get(names.BASE_NAME, '')}@{annotations.get(names.BASE_DIGEST, '')}"
    try:
        source = find_base(workspace, dict(annotations))
        if source is None:
            return None
        base = read_image(source.store, source.repository, str(source.digest), name, image.config.platform)
    except ImagebuildError as error:
        notes.append(f"the base that the image names, {name}, cannot be read: {error.message}")
        return None
    common = count_common_contents(image, base.manifest, base.config)
    if common == len(base.manifest.layers):
        return BaseLayers(name, how, common, str(base.digest), base.manifest)
    notes.append(f"the image names {name} as its base, but has other lower layers")
    return None


def _find_known(workspace: Workspace, image: FoundImage) -> BaseLayers | None:
    """Of the bases that were read here the one with most layers in common, if all of its own are."""
    best: BaseLayers | None = None
    for folder in sorted((workspace.cache / "bases").glob("*/manifest.json")):
        with contextlib.suppress(OSError, ImagebuildError, msgspec.MsgspecError):
            manifest = check_manifest(folder.read_bytes()).parse()
            if not isinstance(manifest, Manifest):
                continue
            config = ImageConfig.parse(folder.with_name("config.json").read_bytes())
            common = count_common_contents(image, manifest, config)
            if common == len(manifest.layers) > (best.layers if best else 0):
                digest = f"sha256:{folder.parent.name}"
                best = BaseLayers(digest, "common layers", common, digest, manifest)
    return best
