"""Kubeflow's jupyter-web-app form, ``spawner_ui_config.yaml``: the whole file, or our part of a file that is there.

Options are bare strings. The page shows what stands before a reference's second colon, so a tag shows and a digest does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.offers import Offer, SpawnerForm, list_offers
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.emit.prewarm.scheduling import describe_affinity, describe_tolerations, explain_pool, name_pool
from imagebuild.oci.model import Reference
from imagebuild.servers import SERVERS

GPU = "nvidia.com/gpu"


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
    if merge is not None:
        from imagebuild.emit.forms.kubeflowmerge import merge_spawner_form

        warnings = merge_spawner_form(merge, every, pools)
        return SpawnerForm(merge.render(), warnings)
    warnings = warn_of_names(offers, {"hideRegistry": True})
    # hideRegistry, hideTag and the rest are read before the images, so that a person finds the switches first.
    form = {
        "allowCustomImage": Note(("Only what is listed: other images have no lock, no budget and are on no node.",), False),
        "hideRegistry": True,
        "hideTag": Note(("The page cuts references at colons: repository:tag@sha256:... shows as repository:tag@sha256.",), False),
        "imagePullPolicy": Note(
            ("A digest cannot go stale: what the node has is what is asked for.",), {"readOnly": True, "value": "IfNotPresent"}
        ),
    }
    for kind, server in SERVERS.items():
        key, group = server.form_key, [offer for offer in offers if offer.entry.kind == kind]
        if group or key == "image":  # the page hides the other two when they are left out, and fails without this one
            form[key] = Note(describe_group(server.title, group), _list_options([offer.reference for offer in group]))
    form |= describe_rest(pools)
    comment = (
        "Written by imagebuild catalogue --format kubeflow: the jupyter-web-app's whole spawner_ui_config.yaml. To keep a file of",
        "your own up to date instead: imagebuild catalogue --format kubeflow --merge FILE.",
        *(f"Warning: {warning}" for warning in warnings),
    )
    return SpawnerForm(render_documents([Document(comment, {"spawnerFormDefaults": form})]), warnings)


def show_option(option: str, hide_registry: bool, hide_tag: bool) -> str:
    """What the page shows of an option: of the parts between its colons the first two, the second as its tag."""
    name, *rest = option.split(":")
    parts = name.split("/")
    if hide_registry and len(parts) > 1 and "." in parts[0]:
        del parts[0]
    return "/".join(parts) + (f":{rest[0]}" if rest and not hide_tag else "")


def warn_of_names(offers: Sequence[Offer], form: Mapping[str, Any]) -> tuple[str, ...]:
    """What people will not see of an image by this form's ``hideRegistry`` and ``hideTag``, and what helps."""
    hide_registry, hide_tag = bool(form.get("hideRegistry")), bool(form.get("hideTag"))
    shown = [(offer.entry.kind, show_option(str(offer.reference), hide_registry, hide_tag)) for offer in offers]
    count = Counter(shown)

    def find_alike(has_port: bool) -> str:
        teams = {
            offer.entry.team
            for offer, name in zip(offers, shown, strict=True)
            if count[name] > 1 and (":" in offer.reference.registry) is has_port
        }
        return f", so images of {', '.join(sorted(teams))} look alike" if teams else ""

    warnings = []
    ports = {offer.reference.registry: name for offer, (_, name) in zip(offers, shown, strict=True) if ":" in offer.reference.registry}
    if ports:
        host, name = min(ports.items())
        warnings.append(
            f"{host} has a port, and the form cuts references at colons: it shows {name} and no tag{find_alike(True)}; a registry name "
            "without a port (--pull-from) shows both, and the pointer over an image shows its whole reference"
        )
    alike = find_alike(False)
    if alike:
        warnings.append(f"the form has hideTag: true{alike}; hideTag: false tells them apart")
    return tuple(warnings)


def describe_group(server: str, group: Sequence[Offer]) -> tuple[str, ...]:
    """Comment lines: the images of one kind of server, by team."""
    if not group:
        return (f"{server}: no team has one",)
    return (f"{server}:", *(f"  {offer.entry.team}: {offer.title}" for offer in group))


def _list_options(references: Sequence[Reference]) -> dict[str, Any]:
    options = [str(reference) for reference in references]
    return {"value": options[0] if options else "", "options": options}


def describe_rest(pools: Sequence[Pool]) -> dict[str, Any]:
    """The sections the page reads without asking whether they are there."""
    volume = {
        "mount": "/home/jovyan",
        "newPvc": {
            "metadata": {"name": "{notebook-name}-workspace"},
            "spec": {"resources": {"requests": {"storage": "20Gi"}}, "accessModes": ["ReadWriteOnce"]},
        },
    }
    return {
        "cpu": {"readOnly": False, "value": "1", "limitFactor": "1.2"},
        "memory": {"readOnly": False, "value": "4.0Gi", "limitFactor": "1.2"},
        "gpus": {"readOnly": False, "value": {"vendor": "", "vendors": list_vendors(pools), "num": "none"}},
        "workspaceVolume": {"readOnly": False, "value": volume},
        "dataVolumes": {"readOnly": False, "value": []},
        "affinityConfig": Note(("The pools of images/pools.toml.",), {"readOnly": False, "value": "", "options": list_affinities(pools)}),
        "tolerationGroup": {"readOnly": False, "value": "", "options": list_tolerations(pools)},
        "shm": Note(("PyTorch's data loaders need more than a container's 64 MiB of /dev/shm.",), {"readOnly": False, "value": True}),
        "configurations": {"readOnly": False, "value": []},
        "environment": {"readOnly": False, "value": {}},
    }


def list_vendors(pools: Sequence[Pool]) -> list[dict[str, str]]:
    """``gpus.vendors`` of the form: NVIDIA's GPUs, and what else the pools' notebooks ask for (MIG slices)."""
    devices = sorted({GPU, *(pool.notebook.resource for pool in pools if pool.notebook.gpu)})
    return [{"limitsKey": name, "uiName": _name_device(name)} for name in devices]


def _name_device(resource: str) -> str:
    return "NVIDIA" if resource == GPU else resource.removeprefix("nvidia.com/").replace("mig-", "MIG ")


def list_affinities(pools: Sequence[Pool]) -> list[dict[str, Any]]:
    """``affinityConfig.options`` of the form: one a pool."""
    return [{"configKey": pool.name, "displayName": _label_pool(pool), "affinity": describe_affinity(pool)} for pool in pools]


def list_tolerations(pools: Sequence[Pool]) -> list[dict[str, Any]]:
    """``tolerationGroup.options`` of the form: one for each pool whose nodes have taints."""
    return [
        {"groupKey": pool.name, "displayName": _label_pool(pool), "tolerations": describe_tolerations(pool)}
        for pool in pools
        if pool.tolerations
    ]


def _label_pool(pool: Pool) -> str:
    return f"{name_pool(pool)}: {explain_pool(pool)}"
