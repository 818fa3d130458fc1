"""The image part of Kubeflow's jupyter-web-app form: ``spawner_ui_config.yaml``, section ``spawnerFormDefaults``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.emit.yaml import Document, Note, render_documents
from imagebuild.errors import UsageError
from imagebuild.oci.model import Reference

_GROUPS = (("jupyter", "image", "JupyterLab"), ("vscode", "imageGroupOne", "VS Code"), ("rstudio", "imageGroupTwo", "RStudio"))


class SpawnerForm(msgspec.Struct, frozen=True):
    """The YAML text, and what the reader of the command's output should know; the text says it too, in comments."""

    text: str
    warnings: tuple[str, ...]


def render_spawner_form(entries: Sequence[CatalogueEntry], *, registry_prefix: str = "") -> SpawnerForm:
    """The current image of every team, by kind of server; the first by team name is chosen beforehand.

    The same entries give the same bytes. No current image at all is a UsageError, one without a name to pull by a
    ConfigurationError (see ``registry_prefix`` in :func:`find_reference`).
    """
    current = sorted((entry for entry in entries if entry.current), key=lambda entry: entry.team)
    if not current:
        raise UsageError("there is no team image to offer in a form", "run imagebuild image TEAM first")
    offers = [(entry, find_reference(entry, registry_prefix)) for entry in current]
    warnings = tuple(
        f"the form will show {host} instead of the image's name: it cuts a reference at its first colon, and this registry has a port"
        for host in sorted({reference.registry for _, reference in offers if ":" in reference.registry})
    )
    # hideRegistry, hideTag and the rest are read before the images, so that a person finds the switches first.
    form: dict[str, Any] = {
        "allowCustomImage": Note(("Only what is listed: other images have no lock, no budget and are on no node.",), False),
        "hideRegistry": True,
        "hideTag": Note(("The page cuts references at colons: repository:tag@sha256:... shows as repository:tag@sha256.",), False),
        "imagePullPolicy": Note(
            ("A digest cannot go stale: what the node has is what is asked for.",), {"readOnly": True, "value": "IfNotPresent"}
        ),
    }
    for kind, key, server in _GROUPS:
        group = [(entry, reference) for entry, reference in offers if entry.kind == kind]
        if group or key == "image":  # the page hides the other two when they are left out, and fails without this one
            form[key] = Note(_describe_group(server, group), _list_options([reference for _, reference in group]))
    comment = (
        "Written by imagebuild catalogue --format kubeflow; don't edit. Merge into spawner_ui_config.yaml of the",
        "jupyter-web-app: these keys replace theirs, the other ones (cpu, memory, volumes, gpus, ...) stay.",
        *(f"Warning: {warning}" for warning in warnings),
    )
    return SpawnerForm(render_documents([Document(comment, {"spawnerFormDefaults": form})]), warnings)


def _describe_group(server: str, group: Sequence[tuple[CatalogueEntry, Reference]]) -> tuple[str, ...]:
    if not group:
        return (f"{server}: no team has one",)
    return (f"{server}:", *(f"  {entry.team}: {entry.title or entry.tag}, {entry.quarter}" for entry, _ in group))


def _list_options(references: Sequence[Reference]) -> dict[str, Any]:
    options = [str(reference) for reference in references]
    return {"value": options[0] if options else "", "options": options}
