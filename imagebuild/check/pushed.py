"""An image where it was pushed, found by what people call it, and the base that it names."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import msgspec

from imagebuild import annotations as names
from imagebuild.errors import ConfigurationError, ImagebuildError, UsageError
from imagebuild.oci.model import Descriptor, Digest, ImageConfig, Index, Manifest, Platform, RawManifest, Reference
from imagebuild.oci.store import Presence, Store, explain_unknown

if TYPE_CHECKING:
    from imagebuild.base.model import Base
    from imagebuild.workspace import Workspace


class PushedImage(msgspec.Struct, frozen=True):
    """One image, read from its store: manifest and config, verified."""

    name: str  # as other tools know it, with tag or digest
    store: Store
    repository: str
    raw: RawManifest
    manifest: Manifest
    config: ImageConfig
    config_data: bytes

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        return self.raw.digest

    @property
    def notes(self) -> dict[str, str]:
        """Annotations, and labels where there is no annotation of the name (Docker manifests have none)."""
        return {**(self.config.container.labels or {}), **self.manifest.annotations}


def find_pushed_image(workspace: Workspace, asked: str, *, planned_tag: str = "", platform: str = "linux/amd64") -> PushedImage:
    """The image ``asked`` means: a team (``planned_tag`` of it, else its newest in the target), ``registry/repository:tag`` or
    ``@digest``, or ``repository:tag`` or ``@digest`` of the target. UsageError when there is none."""
    place, reference = _find_place(workspace, asked, planned_tag)
    store, repository = place
    raw = store.get_manifest(repository, reference)
    name = f"{store.image_name(repository)}{'@' if reference.startswith('sha256:') else ':'}{reference}"
    if raw is None:
        presence, _ = store.head_manifest(repository, reference)
        if presence is Presence.UNKNOWN:
            raise explain_unknown(store, name)
        raise UsageError(f"there is no {name}", "name a team, registry/repository:tag, or repository:tag of the target")
    parsed = raw.parse()
    if isinstance(parsed, Index):
        entry = parsed.select(Platform.parse(platform))
        raw = store.get_manifest(repository, entry.id)
        parsed = raw.parse() if raw is not None else parsed
    if raw is None or isinstance(parsed, Index):
        raise UsageError(f"{name} is an index without an image for {platform}", "name one image by its digest")
    config_data = store.read_blob(repository, parsed.config)
    return PushedImage(name, store, repository, raw, parsed, ImageConfig.parse(config_data), config_data)


def _find_place(workspace: Workspace, asked: str, planned_tag: str) -> tuple[tuple[Store, str], str]:
    from imagebuild.catalogue.entries import read_entries
    from imagebuild.config import list_teams

    teams: tuple[str, ...] = ()
    with contextlib.suppress(ConfigurationError):
        teams = list_teams(workspace.images)
    target = workspace.target
    if asked in teams:
        repository = workspace.repository(asked)
        if planned_tag:
            return (target, repository), planned_tag
        current = next((item for item in read_entries(target, teams=[repository]).entries if item.current), None)
        if current is None:
            raise UsageError(f"{target.image_name(repository)} has no image of team {asked}", f"run: imagebuild image {asked}")
        return (target, repository), str(current.digest)
    head, slash, _ = asked.partition("/")
    if slash and ("." in head or ":" in head or head == "localhost"):
        parsed = Reference.parse(asked)
        store: Store = workspace.registry_store(parsed.registry)
        repository = parsed.repository
    else:
        parsed = Reference.parse(f"localhost/{asked}")
        store, repository = target, parsed.repository
        if repository in teams:
            repository = workspace.repository(repository)
    reference = str(parsed.digest or parsed.tag)
    if not parsed.digest and not parsed.tag:
        raise UsageError(f"{asked!r} is no team here, and has neither a tag nor a digest", f"write {asked}:TAG or {asked}@sha256:...")
    return (store, repository), reference


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


def read_named_base(workspace: Workspace, image: PushedImage) -> NamedBase:
    """Read the base that the image's annotations name: from the cache, else by one pass over its layers."""
    from imagebuild.base.reading import read_base
    from imagebuild.engine.local import find_base

    try:
        source = find_base(workspace, image.notes)
        if source is None:
            return NamedBase("the image does not say what its base is")
        workspace.prepare()
        base = read_base(
            source.store,
            source.repository,
            source.digest,
            image.config.platform,
            name=image.notes.get(names.BASE, "") or "base",
            kind=image.notes.get(names.KIND, "jupyter"),
            reference=image.notes[names.BASE_NAME],
            registry="" if source.store is workspace.layout else source.store.label,
            cache=workspace.cache,
            report=workspace.report,
        )
    except ImagebuildError as error:
        return NamedBase(f"the base cannot be read: {error.message}")
    return NamedBase("", base.manifest, base.config, base)
