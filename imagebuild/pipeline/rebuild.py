"""``verify --rebuild``: the image once more, from the lock and the recipe that travel with it, and the digests compared."""

from __future__ import annotations

import contextlib
from itertools import zip_longest
from pathlib import Path

from imagebuild import annotations as names
from imagebuild.addons.model import place_addons
from imagebuild.check.finding import SHOWN, Finding
from imagebuild.check.verify.evidence import Evidence
from imagebuild.config import Team, TeamTable, list_teams, load_team
from imagebuild.engine.image import DerivedImage
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import ConfigurationError, ImagebuildError
from imagebuild.files import scratch_folder
from imagebuild.layer.model import LAYER_FORMAT, TeamLayers
from imagebuild.pipeline.building import adapt_context, build_direct_layers, build_docker_layer, prepare_context
from imagebuild.pipeline.planning import Plan
from imagebuild.pipeline.pushing import derive_team_image
from imagebuild.workspace import Workspace


def rebuild_image(workspace: Workspace, evidence: Evidence, *, builder: str | None = None) -> Finding:
    """Build the image's layers again and compare diff_ids, layers and manifest. Nothing is pushed.

    The wheels come from the indexes that the team's files name here, else from this machine's own; the team's own packages
    from their source trees. Skipped where one of these, the lock or the recipe is missing.
    """
    base, lock, recipe = evidence.base.base, evidence.lock, evidence.recipe
    if lock is None or recipe is None:
        return Finding("skipped", "lock and recipe do not travel with the image")
    if base is None:
        return Finding("skipped", evidence.base.problem)
    if recipe.layer_format != LAYER_FORMAT:
        return Finding("skipped", f"it has layer format {recipe.layer_format}, and this version builds {LAYER_FORMAT}")
    team = _find_team(workspace, lock.team, lock.base)
    local = {item.name for item in lock.packages if item.index == "local"}
    if local and not team.local_packages:
        return Finding("skipped", f"the source of {', '.join(sorted(local))} is not here: run it in the team's checkout")
    if place_addons(evidence.addons) != recipe.addons:
        return Finding("skipped", "the locks of its add-ons do not travel with the image")
    plan = Plan(team, base, lock, recipe, evidence.image.repository, evidence.addons)
    try:
        docker = DockerOptions(builder)
        folder, wheels = prepare_context(workspace, plan, docker)
        adapt_context(workspace, plan, folder, wheels, docker=recipe.engine == "docker")
        with scratch_folder(workspace.cache) as scratch:
            if recipe.engine == "docker":
                layer = build_docker_layer(workspace, plan, folder, scratch / "layer", docker).layer
                made = TeamLayers((layer,))
            else:
                made = build_direct_layers(workspace, plan, wheels, scratch / "layer", docker)
            noted = evidence.image.manifest.annotations.get(names.SYSTEM)
            image = derive_team_image(plan, made, {} if noted is None else {names.SYSTEM: noted})
    except ImagebuildError as error:
        return Finding("failed", f"it cannot be built again: {error.message}", error.details)
    return _compare(evidence, made, image)


def _compare(evidence: Evidence, made: TeamLayers, image: DerivedImage) -> Finding:
    count = len(made.layers)
    promised = evidence.image.config.rootfs.diff_ids[-count:]
    built = tuple(layer.diff_id for layer in made.layers)
    if built != promised:
        details = [
            line
            for one, other in zip_longest(built, promised, fillvalue="none")
            if one != other
            for line in (f"built {one}", f"pushed {other}")
        ]
        return Finding("failed", "another layer", tuple(details[:SHOWN]))
    if image.manifest.digest == evidence.image.digest:
        return Finding("passed", f"the same, bit for bit: {image.manifest.digest}")
    for layer, stored in zip(made.layers, evidence.image.manifest.layers[-count:], strict=True):
        if layer.digest != stored.digest:  # the content is the same; compressors of two versions write other bytes
            text = f"the same layer{'s' * (count > 1)} by diff_id, compressed by another version"
            return Finding("passed", text, (f"diff_id {layer.diff_id}", f"built {layer.digest}", f"pushed {stored.digest}"))
    text = f"the same layer{'s' * (count > 1)} in another image"
    return Finding("failed", text, (f"built {image.manifest.digest}", f"pushed {evidence.image.digest}"))


def _find_team(workspace: Workspace, name: str, base: str) -> Team:
    """The team of this checkout, or one that knows no more than its name."""
    with contextlib.suppress(ConfigurationError):
        if name in list_teams(workspace.images):
            return load_team(workspace.images, name)
    return Team(name, TeamTable(base=base), Path(), ())
