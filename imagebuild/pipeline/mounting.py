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


class LayerMounts:
    """Where a team's layers may be already, for one build: in its own repository, or in those of teams whose layers may be the same.

    Those are the teams that split their layers too, on the same base; they are listed once. A repository that does not answer, or a mount
    that is refused, costs no more than the bytes; one that did not answer is not asked again.
    """

    def __init__(self, workspace: Workspace, plan: Plan) -> None:
        self._workspace, self._plan = workspace, plan
        self._others: list[str] | None = None
        self._lacking: set[str] = set()  # digests that the team's own repository did not have: nobody else pushes there

    def find_present(self, layers: Sequence[Descriptor]) -> frozenset[str]:
        """Digests of those of ``layers`` that need not be made: the team's repository has them, or has them now.

        None in a layout folder, where a blob may have rotted and is compared when it is stored again.
        """
        if self._plan.recipe.layers:
            return self.mount(layers)
        found: set[str] = set()
        if self._workspace.host:
            with contextlib.suppress(RemoteError):  # pushed as usual: then it will tell
                found.update(item.digest for item in layers if self._workspace.target.has_blob(self._plan.repository, item.id))
        return frozenset(found)

    def mount(self, layers: Sequence[Descriptor]) -> frozenset[str]:
        """Digests of those of ``layers`` that the team's repository has, or has now, mounted from others: they need not be sent."""
        target, repository = self._workspace.target, self._plan.repository
        if not self._workspace.host or not layers:
            return frozenset()  # a layout folder keeps every blob once
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mount") as pool:

            def find_held(place: str, wanted: Sequence[Descriptor]) -> list[Descriptor]:
                answers = pool.map(lambda item: target.has_blob(place, item.id), wanted)
                return [item for item, present in zip(wanted, answers, strict=True) if present]

            there = {item.digest for item in find_held(repository, [item for item in layers if item.digest not in self._lacking])}
            mounted = 0
            others = self._list_others()
            for other in tuple(others):
                missing = [item for item in layers if item.digest not in there]
                if not missing:
                    break
                try:
                    for item in find_held(other, missing):
                        if target.mount_blob(repository, item.id, other).done:
                            there.add(item.digest)
                            mounted += item.size
                except RemoteError:
                    others.remove(other)
        self._lacking.update(item.digest for item in layers if item.digest not in there)
        if mounted:
            present = f"{len(there)} of {count_things(len(layers), 'layer')} there already"
            line = f"{present}, {format_size(mounted)} of them mounted from other teams' images"
            self._workspace.report(f"{self._plan.team.name}: {line}")
        return frozenset(there)

    def _list_others(self) -> list[str]:
        """Repositories of the other teams that split their layers on the plan's base, but those that did not answer."""
        if self._others is None:
            self._others = list(_list_repositories(self._workspace, self._plan))
        return self._others


def _list_repositories(workspace: Workspace, plan: Plan) -> Iterator[str]:
    """Of the other teams that split their layers on the plan's base; a team whose files are wrong is none of this one's business."""
    for name in list_teams(workspace.images):
        with contextlib.suppress(ImagebuildError):
            table = load_team(workspace.images, name).table
            if name != plan.team.name and table.layer.split and table.base == plan.team.table.base:
                yield workspace.repository(name)
