"""Kubeflow's jupyter-web-app form, ``spawner_ui_config.yaml``: the whole file, or our part of a file that is there.

Options are bare strings. The page shows what stands before a reference's second colon, so a tag shows and a digest does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.offers import Offer, SpawnerForm, list_offers, warn_of_ports
from imagebuild.emit.manifest.merging import EditedFile, append_items, drop_key, get_list, get_mapping, keep_items, merge_items, set_value
from imagebuild.emit.manifest.schemas import SPAWNER_DEFAULTS, check_shape
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.emit.prewarm.scheduling import describe_affinity, describe_tolerations, explain_pool, name_pool
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import Reference

_GROUPS = (("jupyter", "image", "JupyterLab"), ("vscode", "imageGroupOne", "VS Code"), ("rstudio", "imageGroupTwo", "RStudio"))
_FILE = "spawner_ui_config.yaml"
_PORT_WARNING = (
    "the form will show {host} instead of the image's name: it cuts a reference at its first colon, and this registry has a port"
)


def render_spawner_form(
    entries: Sequence[CatalogueEntry],
    *,
    registry_prefix: str = "",
    pools: Sequence[Pool] = (),
    teams: Sequence[str] = (),
    merge: EditedFile | None = None,
) -> SpawnerForm:
    """The current image of every team and those kept under a name, by kind of server; the first by team name is chosen beforehand.

    Without ``merge`` a whole file: the page fails without the sections that have nothing to do with images. With it, that
    file with our images, tolerations and affinities in it; a ConfigMap around the file is taken too. The same entries
    give the same bytes. Errors: :func:`list_offers`.
    """
    every = list_offers(entries, registry_prefix, teams)
    offers = [offer for offer in every if offer.is_offered]
    warnings = warn_of_ports(offers, _PORT_WARNING)
    if merge is not None:
        _merge_form(merge, offers, pools, {offer.reference.name for offer in every})
        return SpawnerForm(merge.render(), warnings)
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
        group = [offer for offer in offers if offer.entry.kind == kind]
        if group or key == "image":  # the page hides the other two when they are left out, and fails without this one
            form[key] = Note(_describe_group(server, group), _list_options([offer.reference for offer in group]))
    form |= _describe_rest(pools)
    comment = (
        "Written by imagebuild catalogue --format kubeflow: the jupyter-web-app's whole spawner_ui_config.yaml. To keep a file of",
        "your own up to date instead: imagebuild catalogue --format kubeflow --merge FILE.",
        *(f"Warning: {warning}" for warning in warnings),
    )
    return SpawnerForm(render_documents([Document(comment, {"spawnerFormDefaults": form})]), warnings)


def _describe_group(server: str, group: Sequence[Offer]) -> tuple[str, ...]:
    if not group:
        return (f"{server}: no team has one",)
    return (f"{server}:", *(f"  {offer.entry.team}: {offer.title}" for offer in group))


def _list_options(references: Sequence[Reference]) -> dict[str, Any]:
    options = [str(reference) for reference in references]
    return {"value": options[0] if options else "", "options": options}


def _describe_rest(pools: Sequence[Pool]) -> dict[str, Any]:
    """The sections the page reads without asking whether they are there."""
    volume = {
        "mount": "/home/jovyan",
        "newPvc": {
            "metadata": {"name": "{notebook-name}-workspace"},
            "spec": {"resources": {"requests": {"storage": "20Gi"}}, "accessModes": ["ReadWriteOnce"]},
        },
    }
    devices = sorted({"nvidia.com/gpu", *(pool.notebook.resource for pool in pools if pool.notebook.gpu)})
    vendors = [{"limitsKey": name, "uiName": _name_device(name)} for name in devices]
    return {
        "cpu": {"readOnly": False, "value": "1", "limitFactor": "1.2"},
        "memory": {"readOnly": False, "value": "4.0Gi", "limitFactor": "1.2"},
        "gpus": {"readOnly": False, "value": {"vendor": "", "vendors": vendors, "num": "none"}},
        "workspaceVolume": {"readOnly": False, "value": volume},
        "dataVolumes": {"readOnly": False, "value": []},
        "affinityConfig": Note(("The pools of images/pools.toml.",), {"readOnly": False, "value": "", "options": _list_affinities(pools)}),
        "tolerationGroup": {"readOnly": False, "value": "", "options": _list_tolerations(pools)},
        "shm": Note(("PyTorch's data loaders need more than a container's 64 MiB of /dev/shm.",), {"readOnly": False, "value": True}),
        "configurations": {"readOnly": False, "value": []},
        "environment": {"readOnly": False, "value": {}},
    }


def _name_device(resource: str) -> str:
    return "NVIDIA" if resource == "nvidia.com/gpu" else resource.removeprefix("nvidia.com/").replace("mig-", "MIG ")


def _list_affinities(pools: Sequence[Pool]) -> list[dict[str, Any]]:
    return [{"configKey": pool.name, "displayName": _label_pool(pool), "affinity": describe_affinity(pool)} for pool in pools]


def _list_tolerations(pools: Sequence[Pool]) -> list[dict[str, Any]]:
    return [
        {"groupKey": pool.name, "displayName": _label_pool(pool), "tolerations": describe_tolerations(pool)}
        for pool in pools
        if pool.tolerations
    ]


def _label_pool(pool: Pool) -> str:
    return f"{name_pool(pool)}: {explain_pool(pool)}"


def _merge_form(file: EditedFile, offers: Sequence[Offer], pools: Sequence[Pool], ours: set[str]) -> None:
    for document in file.documents:
        if "spawnerFormDefaults" in document:
            _merge_defaults(get_mapping(document, "spawnerFormDefaults", file.name), offers, pools, ours, file.name)
            return
        data = document.get("data") if document.get("kind") == "ConfigMap" else None
        if isinstance(data, dict) and isinstance(data.get(_FILE), str):
            from ruamel.yaml.scalarstring import LiteralScalarString

            inner = EditedFile(data[_FILE], f"{file.name}: {_FILE}")
            _merge_form(inner, offers, pools, ours)
            held = getattr(data[_FILE], "comment", None)
            data[_FILE] = LiteralScalarString(inner.render())
            data[_FILE].comment = held
            return
    raise ConfigurationError(
        f"{file.name} has no spawnerFormDefaults", "merge into the jupyter-web-app's spawner_ui_config.yaml, or its ConfigMap"
    )


def _merge_defaults(form: Any, offers: Sequence[Offer], pools: Sequence[Pool], ours: set[str], where: str) -> None:
    """Switches that are set stay set. Of the images only those of the teams' own repositories are touched."""
    check_shape(form, SPAWNER_DEFAULTS, f"{where}: spawnerFormDefaults")
    for key, value in (("allowCustomImage", False), ("hideRegistry", True), ("hideTag", False)):
        if key not in form:
            set_value(form, key, value)
    if "imagePullPolicy" not in form:
        set_value(form, "imagePullPolicy", {"readOnly": True, "value": "IfNotPresent"})
    for kind, key, _ in _GROUPS:
        wanted = [str(offer.reference) for offer in offers if offer.entry.kind == kind]
        if wanted or key in form or key == "image":
            _merge_group(form, key, wanted, ours, where)
    sections = (("affinityConfig", "configKey", _list_affinities(pools)), ("tolerationGroup", "groupKey", _list_tolerations(pools)))
    for key, name, items in sections:
        section = get_mapping(form, key, where)
        if "readOnly" not in section:
            set_value(section, "readOnly", False)
        if "value" not in section:
            set_value(section, "value", "")
        get_list(section, "options", where)
        merge_items(section, "options", items, name)


def _merge_group(form: Any, key: str, wanted: Sequence[str], ours: set[str], where: str) -> None:
    group = get_mapping(form, key, where)
    present = [str(option) for option in get_list(group, "options", where)]
    others = [option for option in present if _find_name(option) not in ours]
    if not others and not wanted and key != "image":
        drop_key(form, key)  # an empty group is a button that leads nowhere
        return
    # New ones first: the list is never empty in between, so that comments have something to hang on.
    append_items(group, "options", [option for option in wanted if option not in present])
    keep_items(group, "options", lambda option: str(option) in others or str(option) in wanted)
    options = [str(option) for option in group["options"]]
    chosen = str(group.get("value") or "")
    if chosen not in options:
        same = [option for option in wanted if _find_name(option) == _find_name(chosen)]
        set_value(group, "value", [*same, *wanted, *options, ""][0])


def _find_name(option: str) -> str:
    """Registry and repository of a reference; empty for what is none."""
    try:
        return Reference.parse(option.strip()).name
    except ConfigurationError:
        return ""
