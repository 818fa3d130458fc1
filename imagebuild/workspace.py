"""Where things are: the folder with images/ and lockfiles/, the cache, and the place images are pushed to."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from imagebuild.errors import ConfigurationError, UsageError, make_printable
from imagebuild.files import exclusive, explain_os_error, sweep_temporaries
from imagebuild.jobs.slots import Jobs
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.oci.place import Place
from imagebuild.oci.store import Store
from imagebuild.progress import print_line

_TARGET = re.compile(
    r"(?P<host>[A-Za-z0-9.-]+(?::[0-9]+)?|\[[0-9a-fA-F:]+\](?::[0-9]+)?)(?:/(?P<namespace>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*))?"
)


class Workspace:
    """One run's settings. ``registry`` is ``HOST[/NAMESPACE]``, or empty for the layout folder; ``jobs``: CPUs, 0 for all there are."""

    def __init__(
        self,
        root: Path,
        cache: Path | None = None,
        registry: str = "",
        *,
        registry_ca: Path | None = None,
        quiet: bool = False,
        jobs: int = 0,
    ) -> None:
        self.root = root.resolve()
        self.state = self.root / ".imagebuild"
        self.cache = (cache or self.state / "cache").resolve()
        self.registry_ca = registry_ca
        self.quiet = quiet
        self.jobs = Jobs.here(jobs)
        self.tell: Callable[[str], object] = print_line
        self.offline = False  # no package index and no registry but the target is asked for anything
        self.bundled_base: tuple[str, Digest] | None = None  # name and pin of a base whose layers came with a bundle
        self.base_places: tuple[Sequence[Place], Place | None] | None = None  # to take what other machines read of bases from, and give to
        self.mirrors: dict[str, str] | None = None  # the site's own, instead of those of a bundle's catalogue
        match = _TARGET.fullmatch(registry) if registry else None
        if registry and match is None:
            raise UsageError(f"not a registry: {registry!r}", "write --registry HOST/NAMESPACE, as in registry.example.com:5000/ml")
        self.host = match["host"] if match else ""
        self.namespace = (match["namespace"] or "") if match else ""

    @property
    def images(self) -> Path:
        """The folder of teams, the catalogue and the pools."""
        if not (self.root / "images").is_dir():
            raise ConfigurationError(
                f"{self.root} has no images/ folder", "run this in a checkout with images/ and lockfiles/, or give --root"
            )
        return self.root / "images"

    def lockfile(self, team: str) -> Path:
        """``lockfiles/pylock.<team>.toml``."""
        return self.root / "lockfiles" / f"pylock.{team}.toml"

    def addon_lockfile(self, kind: str, team: str) -> Path:
        """``lockfiles/<kind>.<team>.toml``: the team's R packages (``r``) or VS Code extensions (``vscode``)."""
        return self.root / "lockfiles" / f"{kind}.{team}.toml"

    def adopt(self, project: Path) -> None:
        """Take images/ and lockfiles/ from ``project``; state and cache stay where they are."""
        self.root = project.resolve()

    def report(self, line: str) -> None:
        """Progress, one line, on stderr or to ``tell``; nothing under --quiet. A closed stderr is ignored."""
        if not self.quiet:
            self.tell(make_printable(line))

    def prepare(self) -> None:
        """Make the state and cache folders, and sweep what killed runs left; an unwritable place is a clear error."""
        try:
            for folder in (self.state, self.cache):
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK | os.X_OK):
                    raise PermissionError(13, "Permission denied", str(folder))
                sweep_temporaries(folder)
            for name in ("resolve", "pages", "metadata"):
                sweep_temporaries(self.cache / name)
        except OSError as error:
            raise explain_os_error(error, "preparing the work folders") from None

    @functools.cached_property
    def layout(self) -> LayoutStore:
        """The image layout folder, ``.imagebuild/registry``."""
        return LayoutStore(self.state / "registry")

    @functools.cache  # noqa: B019 - one workspace a process
    def registry_store(self, host: str) -> Store:
        """The client of one registry host, the same object each time: base and target may share it."""
        if self.offline and host != self.host:
            from imagebuild.oci.offline import OfflineStore

            return OfflineStore(host)
        from imagebuild.oci.credentials import Credentials
        from imagebuild.oci.registry import RegistryStore

        return RegistryStore(host, credentials=Credentials.load(), ca_file=self.registry_ca)

    @property
    def target(self) -> Store:
        """Where images go."""
        return self.registry_store(self.host) if self.host else self.layout

    def building(self, team: str) -> AbstractContextManager[bool]:
        """Held by whoever builds, checks or retires the team's image: one at a time."""
        return exclusive(self.state / f"image-{team}.lock")

    def repository(self, team: str) -> str:
        """The team's repository in the target."""
        return f"{self.namespace}/{team}" if self.namespace else team
