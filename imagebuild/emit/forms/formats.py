"""The forms by the name of their format: what ``imagebuild catalogue --format`` takes.

To add one: write its module, and a row in :data:`FORMS`. The command's choices, options and help follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:  # the command line reads the table at every start
    from imagebuild.catalogue.entries import CatalogueEntry
    from imagebuild.emit.forms.offers import SpawnerForm
    from imagebuild.emit.manifest.merging import EditedFile
    from imagebuild.emit.prewarm.pools import Pool

Choice = Literal["namespace", "team_label"]


class FormRequest(msgspec.Struct, frozen=True):
    """What a form is made of. ``merge``: a file to merge into; ``namespace``: empty for the format's own."""

    entries: Sequence[CatalogueEntry]
    pools: Sequence[Pool] = ()
    registry_prefix: str = ""
    teams: tuple[str, ...] = ()
    namespace: str = ""
    team_label: str = ""
    merge: EditedFile | None = None


class Form(msgspec.Struct, frozen=True):
    """One format. ``render`` imports its module, for one form at most is made in a run; ``takes``: option -> what it says to this form."""

    render: Callable[[FormRequest], SpawnerForm]
    takes: dict[Choice, str] = {}


def _render_kubeflow(request: FormRequest) -> SpawnerForm:
    from imagebuild.emit.forms.kubeflow import render_spawner_form

    return render_spawner_form(
        request.entries, registry_prefix=request.registry_prefix, pools=request.pools, teams=request.teams, merge=request.merge
    )


def _render_workspacekind(request: FormRequest) -> SpawnerForm:
    from imagebuild.emit.forms.workspacekind import render_workspace_kinds

    return render_workspace_kinds(
        request.entries,
        registry_prefix=request.registry_prefix,
        pools=request.pools,
        teams=request.teams,
        namespace=request.namespace or "kubeflow-workspaces",
        team_label=request.team_label,
        merge=request.merge,
    )


def _render_kubespawner(request: FormRequest) -> SpawnerForm:
    from imagebuild.emit.forms.kubespawner import render_profiles

    return render_profiles(
        request.entries, registry_prefix=request.registry_prefix, pools=request.pools, teams=request.teams, merge=request.merge
    )


def _render_imagestream(request: FormRequest) -> SpawnerForm:
    from imagebuild.emit.forms.imagestream import render_image_streams

    return render_image_streams(
        request.entries,
        registry_prefix=request.registry_prefix,
        pools=request.pools,
        teams=request.teams,
        namespace=request.namespace,
        merge=request.merge,
    )


FORMS: dict[str, Form] = {
    "kubeflow": Form(_render_kubeflow),
    "workspacekind": Form(
        _render_workspacekind,
        {
            "namespace": "the namespace of its icons",
            "team_label": "a namespace with this label sees the images of the team it names, and no others",
        },
    ),
    "kubespawner": Form(_render_kubespawner),
    "imagestream": Form(_render_imagestream, {"namespace": "that of the streams"}),
}


def list_takers(choice: Choice) -> list[str]:
    """The forms that an option is for."""
    return [name for name, form in FORMS.items() if choice in form.takes]


def describe_choice(choice: Choice) -> str:
    """The option's help."""
    return "; ".join(f"{name}: {FORMS[name].takes[choice]}" for name in list_takers(choice)) + "."


def render_form(name: str, request: FormRequest) -> SpawnerForm:
    """The form as YAML. Errors: :func:`imagebuild.emit.forms.offers.list_offers`, and a file to merge into that is of another kind."""
    from imagebuild.emit.manifest.naming import check_namespace

    if request.namespace:
        check_namespace(request.namespace)
    return FORMS[name].render(request)
