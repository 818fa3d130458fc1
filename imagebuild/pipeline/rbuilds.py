"""R packages built from source inside a base, by the docker engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from imagebuild.base.model import Base
from imagebuild.config import Team
from imagebuild.engine.options import DockerOptions
from imagebuild.files import scratch_folder
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.addons.rlang.sourcepackage import BuildRPackage, RSourceOrder


def make_r_builder(workspace: Workspace, team: Team, base: Base, options: DockerOptions) -> BuildRPackage:
    """What builds a source package inside ``base``: the docker engine, which is looked for when something is to be built."""

    def build(order: RSourceOrder, folder: Path) -> Path:
        from imagebuild.engine.aptsources import prepare_apt_secrets
        from imagebuild.engine.rpackage import build_r_package

        with scratch_folder(workspace.cache) as secrets:
            return build_r_package(
                order,
                folder,
                base=base,
                layout=workspace.layout.folder,
                system=team.source.system,
                secrets=prepare_apt_secrets(base, secrets) if team.source.system else None,
                options=options,
            )

    return build
