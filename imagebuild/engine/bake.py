"""docker-bake.json: every team's build as a target, for ``docker buildx bake`` on any builder (docs.docker.com, Bake file reference)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.engine.buildx import BuildInputs
from imagebuild.recipe import Recipe

_LAYOUT = "oci-layout://"


class BakeTarget(msgspec.Struct, frozen=True):
    """One team's build. ``image`` is the name without the tag."""

    recipe: Recipe
    inputs: BuildInputs
    context: Path
    image: str


def render_bake(targets: Sequence[BakeTarget], *, root: Path, results: Path, push: bool) -> str:
    """The file's text; bake is to be started in ``root``, and paths under it are relative.

    Results are image layout folders under ``results``, or with ``push`` images that BuildKit pushes itself.
    """
    document = {
        "group": {"default": {"targets": [item.recipe.team for item in targets]}},
        "target": {item.recipe.team: _render_target(item, root, results, push) for item in targets},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _render_target(target: BakeTarget, root: Path, results: Path, push: bool) -> dict[str, Any]:
    recipe, inputs = target.recipe, target.inputs
    destination = {"type": "registry"} if push else {"type": "oci", "tar": "false", "dest": _relate(str(results / recipe.team), root)}
    rendered: dict[str, Any] = {
        "context": _relate(str(target.context), root),
        "dockerfile": "Dockerfile",
        "contexts": {name: _relate(place, root) for name, place in inputs.contexts.items()},
        "args": inputs.arguments,
        "platforms": [recipe.platform],
        "tags": [f"{target.image}:{recipe.tag}"],
        "labels": {name: _escape(value) for name, value in sorted(recipe.labels.items())},
        "annotations": [_escape(f"manifest:{name}={value}") for name, value in sorted(recipe.labels.items())],
        "output": [",".join(f"{name}={value}" for name, value in {**destination, **inputs.output}.items())],
        # Attestations would make an index of the image; ask for them: --set '*.attest=type=provenance,mode=max'
        "attest": ["type=provenance,disabled=true", "type=sbom,disabled=true"],
    }
    if inputs.secrets:
        rendered["secret"] = [item.replace(f"src={root}{os.sep}", "src=") for item in inputs.secrets]
    return rendered


def _relate(place: str, root: Path) -> str:
    """A path, or a layout's address, relative to ``root`` when it is under it."""
    scheme, path = (_LAYOUT, place.removeprefix(_LAYOUT)) if place.startswith(_LAYOUT) else ("", place)
    return scheme + path.removeprefix(f"{root}{os.sep}")


def _escape(text: str) -> str:
    """Bake reads every string as a template: ``${`` and ``%{`` begin an expression unless doubled."""
    return text.replace("${", "$${").replace("%{", "%%{")
