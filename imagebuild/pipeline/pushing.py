"""From a plan to a pushed image: build, check, push, and what travels with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild import annotations as names
from imagebuild.engine.image import DerivedImage, derive_attested_index, derive_image
from imagebuild.errors import RemoteError, UsageError
from imagebuild.files import scratch_folder, write_atomic
from imagebuild.layer.model import Layer
from imagebuild.oci.model import Digest, Platform
from imagebuild.pipeline.bases import open_base_store
from imagebuild.pipeline.building import adapt_context, build_direct_layer, build_docker_layer, prepare_context
from imagebuild.pipeline.lockuse import report_missing_programs
from imagebuild.pipeline.planning import Plan, bring_back, find_image, write_recipe
from imagebuild.pipeline.sizing import find_last_image, measure_size, predict_size
from imagebuild.size.budget import require_budget, require_prediction
from imagebuild.size.model import encode_size_report
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.engine.buildx import Statement
    from imagebuild.oci.copy import CopyPlan


class BuildOptions(msgspec.Struct, frozen=True):
    """How to build and push; nothing here changes the image."""

    copy_base: bool = False  # copy base layers that the target lacks and cannot mount
    builder: str | None = None  # of buildx
    network: str | None = None  # of the docker engine's apt step
    push: bool = False  # BuildKit pushes the layer (docker engine, a registry)
    attest: tuple[str, ...] = ()  # docker's attestations, pushed beside the image
    companions: bool = True  # lock, recipe, SBOM and provenance, as referrers


def check_options(workspace: Workspace, plan: Plan, options: BuildOptions) -> None:
    """UsageError for what only the docker engine, or only a registry, can do."""
    asked = [f"--{name}" for name in ("push", "attest") if getattr(options, name)]
    if asked and plan.recipe.engine != "docker":
        raise UsageError(f"{asked[0]} is the docker engine's, and {plan.team.name} is built by the direct engine", "add --engine docker")
    if options.push and not workspace.host:
        raise UsageError("--push needs a registry", "add --registry HOST/NAMESPACE")


def build_image(workspace: Workspace, plan: Plan, options: BuildOptions) -> tuple[DerivedImage, Digest, bool]:
    """Build with the recipe's engine, check, push: the image, its digest, and whether the base's layers were left out."""
    from imagebuild.oci.copy import copy_blobs, plan_copy

    base, recipe = plan.base, plan.recipe
    report_missing_programs(workspace, plan.team, base, plan.lock)
    last = find_last_image(workspace, plan)
    require_prediction(predict_size(workspace, plan, last))
    target = workspace.target
    source = open_base_store(workspace, base)
    # A layout folder may be sparse: base blobs it lacks stay where they are unless a copy is asked for.
    sparse = target is workspace.layout and source is not target and not options.copy_base

    def plan_base_copy() -> CopyPlan | None:
        return None if sparse else plan_copy(source, base.repository, target, plan.repository, base.manifest.layers)

    copy_plan = None if options.push else plan_base_copy()  # a builder that pushes brings the base's layers along
    if copy_plan is not None and copy_plan.to_copy and not options.copy_base:
        copy_blobs(copy_plan, False, workspace.report)  # raises: says what would be copied
    folder, wheels = prepare_context(workspace, plan, builder=options.builder, network=options.network)
    repaired = adapt_context(workspace, plan, folder, wheels, docker=recipe.engine == "docker")
    with scratch_folder(workspace.cache) as scratch:
        found: dict[str, str] = {}
        system: dict[str, str] = {}
        layer: Layer
        if recipe.engine == "docker":
            made = build_docker_layer(
                workspace,
                plan,
                folder,
                scratch / "layer",
                builder=options.builder,
                network=options.network,
                push=options.push,
                attest=options.attest,
            )
            layer, statements = made.layer, made.statements
            if made.layer.system is not None:
                system = made.layer.system.versions
                found[names.SYSTEM] = msgspec.json.encode(system, order="sorted").decode()
        else:
            layer, statements = build_direct_layer(workspace, plan, wheels, scratch / "layer"), ()
            repaired = layer.repaired
        size = measure_size(plan, layer, last)
        write_atomic(folder / "size.json", encode_size_report(size))
        for note in size.notes:
            workspace.report(f"{plan.team.name}: {note}")
        require_budget(size)
        image = derive_team_image(plan, layer, found)
        if options.push:
            copy_plan = plan_base_copy()
        if copy_plan is not None:
            copy_blobs(copy_plan, options.copy_base, workspace.report)
        workspace.report(f"{plan.team.name}: pushing to {target.image_name(plan.repository)}:{recipe.tag}")
        target.put_blob(plan.repository, image.layer, layer.blob)
    target.put_blob(plan.repository, image.config_descriptor, image.config)
    if statements:
        _push_attested(workspace, plan, image, statements)
    if options.companions:
        attach_companions(workspace, plan, image, wheels, system, repaired)
    digest = target.put_manifest(plan.repository, image.manifest, recipe.tag)
    return image, digest, sparse


def derive_team_image(plan: Plan, layer: Layer, found: dict[str, str]) -> DerivedImage:
    """Config and manifest around the plan's finished layer; ``found``: annotations known only after the build."""
    recipe = plan.recipe
    sizes = {names.DELTA_COMPRESSED: str(layer.size), names.DELTA_INSTALLED: str(layer.installed)}
    return derive_image(
        plan.base.manifest,
        plan.base.config_data,
        layer,
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
        plan.base, plan.lock, plan.recipe, repository=repository, digest=digest, wheels=wheels, system=system, repaired=repaired
    )
    try:
        attach_artifacts(target, repository, image.manifest.descriptor, artifacts)
    except RemoteError as error:
        raise RemoteError(
            f"what travels with the image was not taken, and so its tag was not pushed: {error.message}",
            f"{error.hint}; a registry that takes no OCI artifacts: add --no-companions",
            error.details,
        ) from error


def attested_tag(tag: str) -> str:
    """Where the index of an image and its attestations is; the image's own tag and digest are as without them."""
    return f"{tag}-attested"


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


def run_plan(workspace: Workspace, plan: Plan, options: BuildOptions) -> dict[str, Any]:
    """Build and push unless the target has the tag; what was done, as plain values (sizes in bytes)."""
    check_options(workspace, plan, options)
    target = workspace.target
    budget = plan.team.table.budget
    result: dict[str, Any] = {
        "team": plan.team.name,
        "image": target.image_name(plan.repository),
        "tag": plan.recipe.tag,
        "engine": plan.recipe.engine,
        "base": f"{plan.base.name} {plan.base.pinned}",
        "budget": f"{budget.compressed} stored, {budget.installed} unpacked",
    }
    digest = find_image(workspace, plan) or bring_back(workspace, plan)
    if digest is not None and (not options.attest or target.head_manifest(plan.repository, attested_tag(plan.recipe.tag))[1] is not None):
        write_recipe(workspace, plan)
        return {**result, "digest": str(digest), "built": False}
    image, digest, sparse = build_image(workspace, plan, options)
    if options.attest:
        result["attested"] = attested_tag(plan.recipe.tag)
    return {
        **result,
        "digest": str(digest),
        "built": True,
        "compressed": image.layer.size,
        "installed": image.installed,
        "packages": len(plan.lock.packages),
        "sparse": sparse,
    }
