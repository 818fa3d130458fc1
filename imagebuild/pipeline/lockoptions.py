"""How a team is locked."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec

from imagebuild.engine.options import DockerOptions


class LockOptions(msgspec.Struct, frozen=True):
    """How to lock."""

    cutoff: str  # RFC 3339, UTC
    explicit_cutoff: bool = False  # asked for: an index that cannot apply it is an error
    upgrade: bool = False  # everything to the newest
    upgrade_packages: frozenset[str] = frozenset()  # only these, by normalised name
    resolver: str = "pip-tools"
    builder: str | None = None
    network: str | None = None
    seconds: float = 120  # how long a resolver may look
    upgrade_addons: frozenset[str] = frozenset()  # and these: r:data.table, vscode:ms-python.python

    @property
    def docker(self) -> DockerOptions:
        """What is built from source is built so."""
        return DockerOptions(self.builder, self.network)

    def find_cutoff(self, cooldown: int) -> str:
        """The cutoff of a team that waits so many days; one that was asked for stays as it is."""
        return self.cutoff if self.explicit_cutoff else subtract_days(self.cutoff, cooldown)


def subtract_days(moment: str, days: int) -> str:
    """An RFC 3339 time so many days before another."""
    earlier = datetime.fromisoformat(moment) - timedelta(days=days)
    return earlier.strftime("%Y-%m-%dT%H:%M:%SZ")
