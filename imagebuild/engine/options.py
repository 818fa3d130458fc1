"""How docker is asked to build, and with what; nothing here changes the image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec


class DockerOptions(msgspec.Struct, frozen=True):
    """What the user chose about the builder."""

    builder: str | None = None  # a name of ``docker buildx ls``; None for the default one
    network: str | None = None  # ``host`` where an apt step reaches no mirror through the builder's own network
    cache: bool = True  # False builds again what the builder has kept
    attest: tuple[str, ...] = ()  # which of provenance and sbom the builder is asked for

    @property
    def where(self) -> str:
        """The builder's name for a line of progress."""
        return f"builder {self.builder}" if self.builder else "docker"

    def arguments(self, *, network: bool = True) -> dict[str, object]:
        """Those of ``buildx build`` that say so; ``network=False`` where no step needs one."""
        chosen = self.network if network else None
        return {
            "builder": self.builder,
            "network": chosen,
            "allow": ["network.host"] if chosen == "host" else [],
            "cache": self.cache,
            "provenance": {"mode": "max"} if "provenance" in self.attest else False,
            "sbom": "sbom" in self.attest,
        }


DEFAULT_DOCKER = DockerOptions()


class BuildContext(msgspec.Struct, frozen=True):
    """What a team's build is given beside its recipe."""

    folder: Path  # with Dockerfile and wheels/
    layout: Path | None = None  # the layout folder that holds the base, where no registry does
    secrets: Mapping[str, Path] = {}  # files for the RUN's secret mounts, by id
