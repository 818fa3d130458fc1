"""Wheels and R packages built from source archives inside a base, by the docker engine."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from imagebuild.base.model import Base
from imagebuild.base.sourceorder import BuildSource, SourceOrder
from imagebuild.config import Team
from imagebuild.engine.options import DockerOptions
from imagebuild.files import scratch_folder
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.engine.insidebase import BuildPlace
    from imagebuild.lock.file.model import LockedPackage
    from imagebuild.lock.index.upstream import Upstream


def make_source_builder(workspace: Workspace, team: Team, base: Base, options: DockerOptions) -> BuildSource:
    """What builds a source archive inside ``base``: the docker engine, which is looked for when something is to be built."""
    if team.source.packages:  # requests are answered, and wheels made again, in threads: none is to load these
        for name in ("imagebuild.engine.aptsources", "imagebuild.engine.sdist", "imagebuild.lock.wheels.sdist"):
            importlib.import_module(name)

    def build(order: SourceOrder, folder: Path) -> Path:
        from imagebuild.engine.sdist import build_source_wheel

        with _open_place(workspace, team, base, options) as place:
            return build_source_wheel(order, folder, place)

    return build


def make_r_builder(workspace: Workspace, team: Team, base: Base, options: DockerOptions) -> BuildSource:
    """The same for the source archive of an R package."""

    def build(order: SourceOrder, folder: Path) -> Path:
        from imagebuild.engine.rpackage import build_r_package

        with _open_place(workspace, team, base, options) as place:
            return build_r_package(order, folder, place)

    return build


@contextlib.contextmanager
def _open_place(workspace: Workspace, team: Team, base: Base, options: DockerOptions) -> Iterator[BuildPlace]:
    """The base with the team's ``[source] system``; apt's secrets go with the block."""
    from imagebuild.engine.aptsources import prepare_apt_secrets
    from imagebuild.engine.insidebase import BuildPlace

    system = team.source.system
    with scratch_folder(workspace.cache) as secrets:
        yield BuildPlace(base, workspace.layout.folder, options, system, prepare_apt_secrets(base, secrets) if system else {})


def remake_wheel(
    workspace: Workspace, team: Team, base: Base, build: BuildSource, package: LockedPackage, upstreams: Mapping[str, Upstream]
) -> Path:
    """A wheel locked from a source archive, built again."""
    from imagebuild.lock.wheels.fetching import fetch_build_wheels
    from imagebuild.lock.wheels.sdist import SourceWheels

    sources = SourceWheels(
        team.source,
        base_digest=str(base.inventory.digest),
        cache=workspace.cache,
        build=build,
        fetch=lambda wheels: fetch_build_wheels(wheels, upstreams, workspace.cache),
        report=workspace.report,
    )
    return sources.remake_wheel(package, upstreams[package.index])
