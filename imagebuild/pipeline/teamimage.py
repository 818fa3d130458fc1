"""A team's image: found under its plan's tag, or built and pushed."""

from __future__ import annotations

from typing import Any

from imagebuild import annotations as names
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Manifest
from imagebuild.oci.tags import resolve_tag
from imagebuild.pipeline.buildoptions import BuildOptions, check_options
from imagebuild.pipeline.planning import Plan, write_recipe
from imagebuild.tagforms import attested_tag, retired_tag
from imagebuild.workspace import Workspace


def find_image(workspace: Workspace, plan: Plan) -> Digest | None:
    """The digest the target has under the recipe's tag: one HEAD. Not knowing is an error, never 'absent'.

    A registry takes no manifest without its blobs and serves none that rotted; of a layout folder both are looked at.
    """
    return _find_tag(workspace, plan, plan.recipe.tag)


def bring_back(workspace: Workspace, plan: Plan) -> Digest | None:
    """Give the recipe's tag back to its image, where that was retired and is not removed yet; None where it was not.

    ``retired-TAG`` is left for the next ``imagebuild retire``: who may push may not always delete.
    """
    target, tag = workspace.target, retired_tag(plan.recipe.tag)
    digest = _find_tag(workspace, plan, tag)
    raw = target.get_manifest(plan.repository, digest) if digest is not None else None
    if raw is None or raw.parse().annotations.get(names.VERSION) != plan.recipe.tag:
        return None
    workspace.report(f"{plan.team.name}: {plan.recipe.tag} was retired, and is brought back")
    return target.put_manifest(plan.repository, raw, plan.recipe.tag)


def _find_tag(workspace: Workspace, plan: Plan, tag: str) -> Digest | None:
    digest = resolve_tag(workspace.target, plan.repository, tag)
    if digest is None or (workspace.target is workspace.layout and not _is_whole(workspace.layout, plan.repository, digest)):
        return None
    return digest


def _is_whole(layout: LayoutStore, repository: str, digest: Digest) -> bool:
    """Whether the folder has what was built here: manifest, config and the team's layers (the base's may lie elsewhere)."""
    raw = layout.get_manifest(repository, digest)
    manifest = raw.parse() if raw is not None else None
    if not isinstance(manifest, Manifest) or not manifest.layers:
        return False
    own = manifest.layers[-names.count_team_layers(manifest.annotations, len(manifest.layers)) :]
    files = [(layout.local_file(item.id), item.size) for item in (manifest.config, *own)]
    return all(file is not None and file.stat().st_size == size for file, size in files)


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
    if digest is not None and (not options.attest or target.head_manifest(plan.repository, attested_tag(plan.recipe.tag)) is not None):
        write_recipe(workspace, plan)
        return {**result, "digest": str(digest), "built": False}
    from imagebuild.pipeline.pushing import build_image

    image, digest, sparse, reused = build_image(workspace, plan, options)
    if options.attest:
        result["attested"] = attested_tag(plan.recipe.tag)
    return {
        **result,
        **reused,
        "digest": str(digest),
        "built": True,
        "compressed": image.compressed,
        "installed": image.installed,
        "packages": len(plan.lock.packages),
        **({"addons": len(plan.recipe.addons)} if plan.recipe.addons else {}),
        **({"layers": len(image.layers)} if plan.recipe.layers else {}),
        "sparse": sparse,
    }
