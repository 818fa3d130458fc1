"""From a plan to a pushed image: build, check, push, and what travels with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild import annotations as names
from imagebuild.base.model import Base
from imagebuild.engine.image import DerivedImage, derive_attested_index, derive_image
from imagebuild.errors import RemoteError
from imagebuild.files import scratch_folder, write_atomic
from imagebuild.layer.model import TeamLayers
from imagebuild.layer.readers import GUEST_READERS, names_guests
from imagebuild.oci.copy import CopyPlan, copy_blobs, plan_copy
from imagebuild.oci.model import Digest, Platform
from imagebuild.pipeline.bases import open_base_store
from imagebuild.pipeline.building import adapt_context, build_direct_layers, build_docker_layer, prepare_context
from imagebuild.pipeline.buildoptions import BuildOptions
from imagebuild.pipeline.lockuse import warn_of_lock
from imagebuild.pipeline.mounting import LayerMounts
from imagebuild.pipeline.planning import Plan, write_recipe
from imagebuild.pipeline.sharing import build_shared_layers, open_members
from imagebuild.pipeline.sizing import find_last_image, measure_size, predict_size
from imagebuild.progress import step
from imagebuild.size.budget import require_budget, require_prediction
from imagebuild.size.model import encode_size_report
from imagebuild.tagforms import attested_tag
from imagebuild.text import format_size
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.engine.buildx import Statement
    from imagebuild.layer.membercache import SharedMembers
    from imagebuild.size.budget import LastImage


LARGE_LAYER = 8 * 10**9  # bytes as stored; over that a push may meet a registry's limit


class BuiltLayers(msgspec.Struct, frozen=True):
    """The layers of either engine, and what was learnt while they were made."""

    made: TeamLayers
    folder: Path  # Dockerfile and build context
    wheels: dict[str, Path]  # by package
    repaired: dict[str, int]  # package -> wrong rows of its wheel's RECORD
    system: dict[str, str] = {}  # Debian packages that apt installed -> version
    knows_system: bool = False  # whether ``system`` was looked for
    statements: tuple[Statement, ...] = ()  # of the builder, about its own image
    prepared: int | None = None  # packages that were made for them, by the direct engine; the others were there
    shared: SharedMembers | None = None  # to be given what this build made

    @property
    def annotations(self) -> dict[str, str]:
        """Those known only after the build."""
        return {names.SYSTEM: msgspec.json.encode(self.system, order="sorted").decode()} if self.knows_system else {}


def build_image(workspace: Workspace, plan: Plan, options: BuildOptions) -> tuple[DerivedImage, Digest, bool, dict[str, Any]]:
    """Build with the recipe's engine, check, push: image, digest, whether the base's layers were left out, and what was reused."""
    warn_of_lock(workspace, plan.team, plan.base, plan.lock)
    last = find_last_image(workspace, plan)
    require_prediction(predict_size(workspace, plan, last))
    copying = BaseCopy(workspace, plan, options)
    copying.check()
    mounts = LayerMounts(workspace, plan)
    with scratch_folder(workspace.cache) as scratch:
        built = build_team_layers(workspace, plan, options, mounts, scratch / "layer")
        check_size(workspace, plan, built, last)
        image = derive_team_image(plan, built.made, built.annotations)
        copying.run()
        push_layers(workspace, plan, image, built.made, mounts)
    digest = push_manifests(workspace, plan, image, built, options)
    reused: dict[str, Any] = {} if built.prepared is None else {"prepared": built.prepared}
    if built.shared is not None:
        reused["members"] = {**built.shared.count(), "given": built.shared.push()}
    return image, digest, copying.sparse, reused


def push_layers(workspace: Workspace, plan: Plan, image: DerivedImage, made: TeamLayers, mounts: LayerMounts) -> None:
    """The team's layers, lowest first; of several those are sent that no repository of a team has that splits its layers too."""
    target, repository = workspace.target, plan.repository
    line = f"{plan.team.name}: pushing to {target.image_name(repository)}:{plan.recipe.tag}"
    with step(line, image.compressed, report=workspace.report):
        new = [(descriptor, layer.blob) for descriptor, layer in zip(image.layers, made.layers, strict=True) if layer.blob is not None]
        there = mounts.mount([item for item, _ in new]) if plan.recipe.layers else frozenset[str]()
        for descriptor, blob in new:
            if descriptor.digest not in there:
                target.put_blob(repository, descriptor, blob)


class BaseCopy:
    """The base's layers, which the target must have before the manifest that names them."""

    def __init__(self, workspace: Workspace, plan: Plan, options: BuildOptions) -> None:
        self._workspace, self._plan, self._options = workspace, plan, options
        self._source = open_base_store(workspace, plan.base)
        target = workspace.target
        # A layout folder may be sparse: base blobs it lacks stay where they are unless a copy is asked for.
        self.sparse = target is workspace.layout and self._source is not target and not options.copy_base
        self._plan_made: CopyPlan | None = None

    def check(self) -> None:
        """Before anything is built: raise where layers would have to be copied and nobody asked for it, and say how many bytes."""
        if self._options.push:
            return  # a builder that pushes brings the base's layers along
        self._plan_made = self._make_plan()
        if self._plan_made is not None and self._plan_made.to_copy and not self._options.copy_base:
            copy_blobs(self._plan_made, False, self._workspace.report)

    def run(self) -> None:
        """Mount or copy what the target still lacks."""
        if self._options.push:
            self._plan_made = self._make_plan()
        if self._plan_made is not None:
            copy_blobs(self._plan_made, self._options.copy_base, self._workspace.report)

    def _make_plan(self) -> CopyPlan | None:
        if self.sparse:
            return None
        base, target = self._plan.base, self._workspace.target
        return plan_copy(self._source, base.repository, target, self._plan.repository, base.manifest.layers)


def build_team_layers(workspace: Workspace, plan: Plan, options: BuildOptions, mounts: LayerMounts, out: Path) -> BuiltLayers:
    """The layers by the recipe's engine, in the file ``out`` and, where there are several, beside it."""
    if plan.recipe.engine != "docker":
        return _build_directly(workspace, plan, options, mounts, out)
    folder, wheels = prepare_context(workspace, plan, options.source_docker)
    repaired = adapt_context(workspace, plan, folder, wheels, docker=True)
    made = build_docker_layer(workspace, plan, folder, out, options.docker, push=options.push)
    system = made.layer.system
    versions = system.versions if system is not None else {}
    layers = TeamLayers((made.layer,))
    return BuiltLayers(layers, folder, wheels, repaired, versions, system is not None, made.statements)


def _build_directly(workspace: Workspace, plan: Plan, options: BuildOptions, mounts: LayerMounts, out: Path) -> BuiltLayers:
    """By the direct engine, where asked with members of a registry. With [files] the context needs every wheel, to adapt it."""
    from imagebuild.layer.members import MemberSources

    shared = open_members(workspace, options.cache) if options.cache else None
    if shared is not None and not plan.recipe.files:
        folder = write_recipe(workspace, plan)
        made, wheels, prepared = build_shared_layers(workspace, plan, folder, out, shared, mounts, options)
    else:
        folder, wheels = prepare_context(workspace, plan, options.source_docker)
        adapt_context(workspace, plan, folder, wheels, docker=False)
        sources = MemberSources(shared)
        made = build_direct_layers(workspace, plan, wheels, out, options.source_docker, sources, mounts)
        prepared = len(sources.prepared)
    if shared is not None and (line := shared.summarise()):
        workspace.report(f"{plan.team.name}: {line}")
    return BuiltLayers(made, folder, wheels, made.repaired, prepared=prepared, shared=shared)


def check_size(workspace: Workspace, plan: Plan, built: BuiltLayers, last: LastImage | None) -> None:
    """Write size.json beside the Dockerfile, tell what is odd, and refuse layers over the budget."""
    size = measure_size(plan, built.made, last)
    write_atomic(built.folder / "size.json", encode_size_report(size))
    for note in size.notes:
        workspace.report(f"{plan.team.name}: {note}")
    require_budget(size)
    if workspace.host and (warning := describe_large_layer(max(layer.size for layer in built.made.layers))):
        workspace.report(f"warning: {plan.team.name}: {warning}")
    if not plan.recipe.codec.single and (warning := describe_guest_base(plan.base)):
        workspace.report(f"warning: {plan.team.name}: {warning}")


def describe_guest_base(base: Base) -> str:
    """What a layer of many frames may come to on a base that is made for Kata or Confidential Containers; empty for other bases."""
    if not names_guests([base.name, *(base.config.container.labels or ())]):  # values are prose, which may speak of other confidences
        return ""
    return (
        f"the base {base.name} tells of Kata or Confidential Containers by its name or a label's. {GUEST_READERS}: set single-stream = "
        "true in [layer] for them (imagebuild verify --first-frame checks an image)"
    )


def describe_large_layer(size: int) -> str:
    """What may happen to a push of so many bytes, and what helps; empty for a layer that every registry takes."""
    if size <= LARGE_LAYER:
        return ""
    return (
        f"the layer takes {format_size(size)} as stored; ghcr.io takes 10 GB a layer and 10 minutes an upload, and other registries and "
        f"proxies have such limits too. `imagebuild size` shows what it is made of; split = true in [layer] makes several layers of it, "
        f"and a base that has the largest packages leaves them out"
    )


def push_manifests(workspace: Workspace, plan: Plan, image: DerivedImage, built: BuiltLayers, options: BuildOptions) -> Digest:
    """Config, attestations and referrers, and last the tag, so that it never names an image that is not all there."""
    target, repository = workspace.target, plan.repository
    target.put_blob(repository, image.config_descriptor, image.config)
    if built.statements:
        _push_attested(workspace, plan, image, built.statements)
    if options.companions:
        attach_companions(workspace, plan, image, built.wheels, built.system, built.repaired)
    return target.put_manifest(repository, image.manifest, plan.recipe.tag)


def derive_team_image(plan: Plan, made: TeamLayers, found: dict[str, str]) -> DerivedImage:
    """Config and manifest around the plan's finished layers; ``found``: annotations known only after the build."""
    recipe = plan.recipe
    sizes = {names.DELTA_COMPRESSED: str(made.size), names.DELTA_INSTALLED: str(made.installed)}
    return derive_image(
        plan.base.manifest,
        plan.base.config_data,
        made,
        created=recipe.created,
        created_by=f"imagebuild {recipe.tag}: {len(plan.lock.packages)} wheels of team {recipe.team}",
        environment=recipe.environment,
        labels=recipe.labels,
        annotations={**recipe.labels, **sizes, **found},
    )


def attach_companions(
    workspace: Workspace, plan: Plan, image: DerivedImage, wheels: dict[str, Path], system: dict[str, str], repaired: dict[str, int]
) -> None:
    """What travels with the image, before the tag: whoever finds an image by its tag finds these as well."""
    from imagebuild.oci.referrers import attach_artifacts
    from imagebuild.supply.referrers import make_companions

    target, repository = workspace.target, plan.repository
    digest = target.put_manifest(repository, image.manifest)
    artifacts = make_companions(
        plan.base,
        plan.lock,
        plan.recipe,
        repository=repository,
        digest=digest,
        wheels=wheels,
        system=system,
        repaired=repaired,
        addons=plan.addons,
    )
    try:
        attach_artifacts(target, repository, image.manifest.descriptor, artifacts)
    except RemoteError as error:
        raise RemoteError(
            f"what travels with the image was not taken, and so its tag was not pushed: {error.message}",
            f"{error.hint}; a registry that takes no OCI artifacts: add --no-companions",
            error.details,
        ) from error


def _push_attested(workspace: Workspace, plan: Plan, image: DerivedImage, statements: Sequence[Statement]) -> None:
    target, repository, tag = workspace.target, plan.repository, plan.recipe.tag
    name = f"{target.image_name(repository)}@{tag}" if workspace.host else f"{repository}@{tag}"
    platform = Platform.parse(plan.recipe.platform)
    made = derive_attested_index(image.manifest, platform, name, [(item.predicate_type, item.data) for item in statements])
    for descriptor, data in made.blobs:
        target.put_blob(repository, descriptor, data)
    target.put_manifest(repository, image.manifest)
    target.put_manifest(repository, made.attestation)
    target.put_manifest(repository, made.index, attested_tag(tag))
