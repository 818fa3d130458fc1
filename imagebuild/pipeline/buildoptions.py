"""How a team's image is built and pushed."""

from __future__ import annotations

import msgspec

from imagebuild.engine.options import DockerOptions
from imagebuild.errors import UsageError
from imagebuild.pipeline.cacheplaces import NO_CACHE, CacheTable
from imagebuild.pipeline.planning import Plan
from imagebuild.workspace import Workspace


class BuildOptions(msgspec.Struct, frozen=True):
    """How to build and push; nothing here changes the image."""

    copy_base: bool = False  # copy base layers that the target lacks and cannot mount
    builder: str | None = None  # of buildx
    network: str | None = None  # of the docker engine's apt step
    push: bool = False  # BuildKit pushes the layer (docker engine, a registry)
    attest: tuple[str, ...] = ()  # docker's attestations, pushed beside the image
    cache: CacheTable = NO_CACHE  # members from and for a registry (direct engine)
    companions: bool = True  # lock, recipe, SBOM and provenance, as referrers

    @property
    def docker(self) -> DockerOptions:
        """Those of the docker engine, for the image's layer."""
        return DockerOptions(self.builder, self.network, attest=self.attest)

    @property
    def source_docker(self) -> DockerOptions:
        """The same for source archives, which nobody attests."""
        return DockerOptions(self.builder, self.network)


def check_options(workspace: Workspace, plan: Plan, options: BuildOptions) -> None:
    """UsageError for what only the docker engine, or only a registry, can do."""
    asked = [f"--{name}" for name in ("push", "attest") if getattr(options, name)]
    if asked and plan.recipe.engine != "docker":
        raise UsageError(f"{asked[0]} is the docker engine's, and {plan.team.name} is built by the direct engine", "add --engine docker")
    if options.push and not workspace.host:
        raise UsageError("--push needs a registry", "add --registry HOST/NAMESPACE")
