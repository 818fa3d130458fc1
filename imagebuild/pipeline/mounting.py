"""Layers that another team's image has already: mounted from its repository, so that their bytes are not sent again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from imagebuild.config import list_teams, load_team
from imagebuild.errors import ImagebuildError, RemoteError
from imagebuild.oci.model import Descriptor
from imagebuild.pipeline.planning import Plan
from imagebuild.text import count_things, format_size
from imagebuild.workspace import Workspace

_WORKERS = 8


def mount_team_layers(workspace: Workspace, plan: Plan, layers: Sequence[Descriptor]) -> frozenset[str]:
    """Digests of those of ``layers`` that the team's repository has, or has now: they need not be sent.

    Asked are the repositories of the teams whose layers may be the same: split, on the same base. A repository that does not answer, or a
    mount that is refused, costs no more than the bytes.
    """
    target, repository = workspace.target, plan.repository
    if not workspace.host or not layers:
        return frozenset()  # a layout folder keeps every blob once
    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mount") as pool:

        def find_present(place: str, wanted: Sequence[Descriptor]) -> list[Descriptor]:
            answers = pool.map(lambda item: target.has_blob(place, item.id), wanted)
            return [item for item, present in zip(wanted, answers, strict=True) if present]

        there = {item.digest for item in find_present(repository, layers)}
        mounted = 0
        for other in _list_repositories(workspace, plan):
            missing = [item for item in layers if item.digest not in there]
            if not missing:
                break
            with contextlib.suppress(RemoteError):
                for item in find_present(other, missing):
                    if target.mount_blob(repository, item.id, other).done:
                        there.add(item.digest)
                        mounted += item.size
    if mounted:
        present = f"{len(there)} of {count_things(len(layers), 'layer')} there already"
        workspace.report(f"{plan.team.name}: {present}, {format_size(mounted)} of them mounted from other teams' images")
    return frozenset(there)


def find_present_layers(workspace: Workspace, plan: Plan, layers: Sequence[Descriptor]) -> frozenset[str]:
    """Digests of those of ``layers`` that need not be made: the team's repository has them, or has them now.

    None in a layout folder, where a blob may have rotted and is compared when it is stored again.
    """
    if plan.recipe.layers:
        return mount_team_layers(workspace, plan, layers)
    found: set[str] = set()
    if workspace.host:
        with contextlib.suppress(RemoteError):  # pushed as usual: then it will tell
            found.update(item.digest for item in layers if workspace.target.has_blob(plan.repository, item.id))
    return frozenset(found)


def _list_repositories(workspace: Workspace, plan: Plan) -> Iterator[str]:
    """Of the other teams that split their layers on the plan's base; a team whose files are wrong is none of this one's business."""
    for name in list_teams(workspace.images):
        with contextlib.suppress(ImagebuildError):
            table = load_team(workspace.images, name).table
            if name != plan.team.name and table.layer.split and table.base == plan.team.table.base:
                yield workspace.repository(name)
