"""JupyterHub on Kubernetes: KubeSpawner's ``profile_list``, as ``singleuser.profileList`` of the zero-to-jupyterhub chart's values.

A profile per team, with two choices in it: which of the team's images, and where it runs. A server that was started with a
choice needs that choice to start again, so the image before the current one is still among them. KubeSpawner's page takes texts as HTML.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.offers import Offer, SpawnerForm, list_offers
from imagebuild.emit.forms.wording import clip, join_parts
from imagebuild.emit.manifest.merging import EditedFile, append_items, get_list, get_mapping, merge_items, set_value
from imagebuild.emit.manifest.schemas import PROFILES, check_shape
from imagebuild.emit.manifest.yaml import Document, Note, render_documents
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.emit.prewarm.quantities import parse_quantity
from imagebuild.emit.prewarm.scheduling import describe_node_terms, describe_tolerations, explain_pool, name_pool
from imagebuild.errors import ConfigurationError
from imagebuild.servers import SERVERS


def render_profiles(
    entries: Sequence[CatalogueEntry],
    *,
    registry_prefix: str = "",
    pools: Sequence[Pool] = (),
    teams: Sequence[str] = (),
    merge: EditedFile | None = None,
) -> SpawnerForm:
    """Values for the chart, or ``merge`` with our profiles in it (values, or what is under KubeSpawner's own ``profile_list``).

    The same input gives the same bytes. Errors: :func:`list_offers`.
    """
    offers = [offer for offer in list_offers(entries, registry_prefix, teams) if offer.standing != "retired"]
    own = list(dict.fromkeys(offer.entry.team for offer in sorted(offers, key=lambda offer: offer.entry.kind != "jupyter")))
    profiles = [describe_profile([offer for offer in offers if offer.entry.team == team], pools) for team in own]
    other = sorted({f"{offer.entry.team} ({SERVERS[offer.entry.kind].title})" for offer in offers if offer.entry.kind != "jupyter"})
    warnings: tuple[str, ...] = (
        (f"JupyterHub starts jupyterhub-singleuser, which an image for another server needs to have: {', '.join(other)}",) if other else ()
    )
    images = len({str(offer.reference) for offer in offers})
    if merge is not None:
        warnings += _warn_of_pulls(merge.documents[0], images)
        _merge_profiles(merge, profiles)
        return SpawnerForm(merge.render(), warnings)
    warnings += _warn_of_pulls({}, images)
    comment = (
        "Written by imagebuild catalogue --format kubespawner: values for the zero-to-jupyterhub chart (helm upgrade --values FILE).",
        "The images must have JupyterHub's jupyterhub-singleuser. To keep values of your own up to date: --merge FILE.",
        *(f"Warning: {warning}" for warning in warnings),
    )
    storage = {
        "extraVolumes": [{"name": "dshm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}}],
        "extraVolumeMounts": [{"name": "dshm", "mountPath": "/dev/shm"}],
    }
    values = {
        "storage": Note(("PyTorch's data loaders need more than a container's 64 MiB of /dev/shm.",), storage),
        "profileList": profiles,
    }
    return SpawnerForm(render_documents([Document(comment, {"singleuser": values})]), warnings)


def _warn_of_pulls(document: Mapping[str, Any], images: int) -> tuple[str, ...]:
    """The chart's pre-pullers know ``singleuser.profileList`` alone, and pull its images unless the values tell them not to."""
    if "profile_list" in document or "KubeSpawner" in document:
        return ()
    values = document.get("jupyterhub") if isinstance(document.get("jupyterhub"), dict) else document
    puller = (values or {}).get("prePuller")
    puller = puller if isinstance(puller, dict) else {}
    parts = [part for part in ("hook", "continuous") if not _is_off(puller.get(part))]
    if not parts or puller.get("pullProfileListImages") is False:
        return ()
    return (
        f"the chart's pre-pullers ({', '.join(f'prePuller.{part}' for part in parts)}) pull all {images} images of these profiles on every "
        "user node, one after the other; prePuller.pullProfileListImages: false leaves that to imagebuild prewarm, pool by pool",
    )


def _is_off(section: Any) -> bool:
    return isinstance(section, dict) and section.get("enabled") is False


def describe_profile(offers: Sequence[Offer], pools: Sequence[Pool]) -> dict[str, Any]:
    """One team's profile. ``offers``: the team's, the current one first."""
    entry = offers[0].entry
    packages = [f"{name} {version}" for name, version in entry.packages.items()]
    description = clip(entry.description, 300) or f"The environment of {entry.team}"
    if packages:
        description = join_parts(f"{description.rstrip('.')}. With ", packages, 600)
    options: dict[str, Any] = {
        "image": {"display_name": "Environment", "choices": {_name_choice(offer): _describe_choice(offer) for offer in offers}}
    }
    if pools:
        places: dict[str, Any] = {"any": {"display_name": "Any node", "default": True, "kubespawner_override": {}}}
        places |= {pool.name: _describe_place(pool) for pool in pools}
        options["pool"] = {"display_name": "Where", "choices": places}
    return {
        "display_name": html.escape(clip(entry.title, 80) or entry.team),
        "description": html.escape(description),
        "slug": _slug(entry.team),
        "kubespawner_override": {"image": str(offers[0].reference), "image_pull_policy": "IfNotPresent"},
        "profile_options": options,
    }


def _slug(team: str) -> str:
    return f"imagebuild-{team}"


def _name_choice(offer: Offer) -> str:
    """By digest, so that a choice never comes to mean another image."""
    return f"{offer.entry.quarter}-{offer.entry.digest.hex[:12]}"


def _describe_choice(offer: Offer) -> dict[str, Any]:
    entry = offer.entry
    kept = f", kept as {', '.join(entry.kept)}" if entry.kept else ""
    what = {"current": " (current)", "previous": " (the one before)"}.get(offer.standing, "")
    return {
        "display_name": html.escape(clip(f"{entry.quarter}{what}{kept}", 128)),
        "default": offer.standing == "current",
        "kubespawner_override": {"image": str(offer.reference)},
    }


def _describe_place(pool: Pool) -> dict[str, Any]:
    """KubeSpawner merges mappings into what is configured and replaces lists; sizes are bytes or powers of 1024."""
    notebook = pool.notebook
    cpu = float(parse_quantity(str(notebook.cpu), pool.name))
    memory = int(parse_quantity(notebook.memory, pool.name))
    size = f"{memory >> 30}G" if memory % (1 << 30) == 0 else memory
    override: dict[str, Any] = {"node_affinity_required": describe_node_terms(pool)}
    if pool.tolerations:
        override["tolerations"] = describe_tolerations(pool)
    override |= {"cpu_guarantee": cpu, "cpu_limit": cpu, "mem_guarantee": size, "mem_limit": size}
    if notebook.gpu:
        override["extra_resource_limits"] = {notebook.resource: str(notebook.gpu)}
    return {"display_name": html.escape(clip(f"{name_pool(pool)}: {explain_pool(pool)}", 200)), "kubespawner_override": override}


def _merge_profiles(file: EditedFile, profiles: Sequence[dict[str, Any]]) -> None:
    """Ours are known by their slug; a profile of another slug is not touched, nor is that of a team that is not listed."""
    document = file.documents[0]
    if len(file.documents) > 1:
        raise ConfigurationError(f"{file.name} holds several documents", "merge into the values of one chart")
    if "profile_list" in document:
        parent, key = document, "profile_list"
    elif "KubeSpawner" in document:
        parent, key = get_mapping(document, "KubeSpawner", file.name), "profile_list"
    else:
        outer = get_mapping(document, "jupyterhub", file.name) if "jupyterhub" in document else document  # as a subchart
        parent, key = get_mapping(outer, "singleuser", file.name), "profileList"
    held = parent.get(key)
    if isinstance(held, dict):  # KubeSpawner 6 and newer take a mapping by slug as well
        for profile in profiles:
            set_value(held, profile["slug"], profile)
        return
    get_list(parent, key, file.name)
    check_shape(parent[key], PROFILES, f"{file.name}: {key}")
    present = {profile.get("slug") for profile in parent[key] if isinstance(profile, dict)}
    merge_items(parent, key, [profile for profile in profiles if profile["slug"] in present], "slug")
    append_items(parent, key, [profile for profile in profiles if profile["slug"] not in present])
