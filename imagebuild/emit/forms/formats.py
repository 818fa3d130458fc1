"""The forms by the name of their format: what ``imagebuild catalogue --format`` takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.offers import SpawnerForm
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.emit.manifest.naming import check_namespace
from imagebuild.emit.prewarm.pools import Pool, load_pools

FormName = Literal["kubeflow", "workspacekind", "kubespawner", "imagestream"]
FORMS: tuple[FormName, ...] = get_args(FormName)


class FormOptions(msgspec.Struct, frozen=True):
    """What the command's options say. ``merge``: a file to merge into; ``namespace``: empty for the format's own."""

    registry_prefix: str = ""
    teams: tuple[str, ...] = ()
    namespace: str = ""
    team_label: str = ""
    merge: Path | None = None


def read_pools(path: Path) -> tuple[Pool, ...]:
    """The pools that forms offer: none where there is no such file."""
    return load_pools(path).pools if path.is_file() else ()


def render_form(name: FormName, entries: Sequence[CatalogueEntry], pools: Sequence[Pool], options: FormOptions) -> SpawnerForm:
    """The form as YAML. Errors: :func:`imagebuild.emit.forms.offers.list_offers`, and a file to merge into that is none of its kind."""
    if options.namespace:
        check_namespace(options.namespace)
    prefix, teams = options.registry_prefix, options.teams
    merge = EditedFile.read(options.merge) if options.merge is not None else None
    if name == "kubeflow":
        from imagebuild.emit.forms.kubeflow import render_spawner_form

        return render_spawner_form(entries, registry_prefix=prefix, pools=pools, teams=teams, merge=merge)
    if name == "workspacekind":
        from imagebuild.emit.forms.workspacekind import render_workspace_kinds

        place = options.namespace or "kubeflow-workspaces"
        return render_workspace_kinds(
            entries, registry_prefix=prefix, pools=pools, teams=teams, namespace=place, team_label=options.team_label, merge=merge
        )
    if name == "kubespawner":
        from imagebuild.emit.forms.kubespawner import render_profiles

        return render_profiles(entries, registry_prefix=prefix, pools=pools, teams=teams, merge=merge)
    from imagebuild.emit.forms.imagestream import render_image_streams

    return render_image_streams(entries, registry_prefix=prefix, pools=pools, teams=teams, namespace=options.namespace, merge=merge)
