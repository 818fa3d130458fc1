"""Worlds to break: a small base with a real Python, and a folder as a user has it (images/, lockfiles/, .imagebuild/).

A :class:`World` has one team on a base of about 30 MB; its index and its registry may misbehave (:mod:`tests.support.servers`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest

from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest
from imagebuild.oci.referrers import REFERRERS_TAG
from tests.support import images
from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.workspaces import PROJECT, Done, ProjectFolder

NOBODY_LISTENS = "http://127.0.0.1:9/simple/"
NOTHING: Mapping[str, str | None] = MappingProxyType({})
BASE_REPOSITORY = images.REPOSITORY
_KEPT = re.compile(
    r"\.?/?(?:bin|sbin|lib|lib64|usr/lib64(?:/.*)?|usr/bin|usr/bin/python3[^/]*|usr/lib|usr/lib/python3/dist-packages(?:/six.*)?|etc/(?:passwd|group)"
    r"|usr|usr/local(?:/.*)?|home|tmp|etc|usr/lib/python3(?:\.[0-9]+)?(?:/.*)?|usr/lib/[^/]+-linux-gnu(?:/[^/]*\.so[^/]*)?|etc/ld\.so\.conf.*)"
)
_LEFT_OUT = re.compile(r".*/(?:test|tests|idlelib|tkinter|lib2to3|pydoc_data|ensurepip|__pycache__)(?:/.*)?|.*/lib(?:icu|perl|db-5)[^/]*")


# --- the base -------------------------------------------------------------------------------------------------------


@functools.cache
def make_small_layer(rootfs: Path) -> bytes:
    """Of a Debian root file system what its Python needs, and one installed distribution, ``basekit 1.5``."""
    found = []
    with tarfile.open(rootfs) as archive:
        for info in archive:
            if not _KEPT.fullmatch(info.name) or _LEFT_OUT.fullmatch(info.name) or info.size > 8 << 20:
                continue
            stream = archive.extractfile(info) if info.isreg() else None
            found.append((info, stream.read() if stream is not None else b""))
    folder = "usr/lib/python3/dist-packages/basekit-1.5.dist-info"
    metadata = b"Metadata-Version: 2.1\nName: basekit\nVersion: 1.5\n"
    record = f"{folder}/METADATA,,\n{folder}/INSTALLER,,\n{folder}/RECORD,,\n".replace("usr/lib/python3/dist-packages/", "").encode()
    for name, data in (("METADATA", metadata), ("INSTALLER", b"pip\n"), ("RECORD", record)):
        found.append(images.entry(f"{folder}/{name}", data))
    return images.make_layer(found)


@dataclass(frozen=True)
class SmallBase:
    """Where the base lies."""

    registry: Registry
    digest: Digest
    layer: Digest  # of its one layer, as stored
    folder: Path  # of the layout it was made in
    cache: Path  # a cache folder in which it has been read

    @property
    def host(self) -> str:
        return self.registry.host


def push_small_base(rootfs: Path, folder: Path, registry: Registry, more: Sequence[bytes] = ()) -> SmallBase:
    """Make the base, with ``more`` layers over it, and push it to ``registry`` with skopeo."""
    store = LayoutStore(folder / "layout")
    raw = images.push_image(
        store,
        [make_small_layer(rootfs), *more],
        {"User": "1000", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan"], "Cmd": ["python3"]},
        compression="zstd",
    )
    subprocess.run(
        [need("skopeo"), "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false",
         f"oci:{folder / 'layout'}:{BASE_REPOSITORY}:1", f"docker://{registry.host}/{BASE_REPOSITORY}:1"],
        check=True, capture_output=True,
    )  # fmt: skip
    manifest = raw.parse()
    return SmallBase(registry, raw.digest, manifest.layers[0].id, folder / "layout", folder / "cache")  # type: ignore[union-attr]


# --- the folder -----------------------------------------------------------------------------------------------------


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another file system
        shutil.copy2(source, target, follow_symlinks=False)


class World(ProjectFolder):
    """A folder with one team, ``blue``, that asks for ``alpha``."""

    def __init__(self, root: Path, base: SmallBase, index_url: str, *, mirror: str = "", warm: bool = True) -> None:
        self.python = sys.executable
        self.root = root
        self.base = base
        self.index_url = index_url
        root.mkdir(parents=True)
        (root / "images").mkdir()
        mirrors = f'\n[mirrors]\n"{base.host}" = "{mirror}"\n' if mirror else ""
        self.write(
            "images/catalogue.toml",
            f'[base.tiny]\nreference = "{base.host}/{BASE_REPOSITORY}"\ntag = "1"\ndigest = "{base.digest}"\n{mirrors}',
        )
        self.add_team("blue", "alpha\n")
        self.state = root / ".imagebuild"
        self.cache = self.state / "cache"
        if warm:  # the base has been read before; a test may replace these files, but must not write into them
            self.cache.mkdir(parents=True)
            shutil.copytree(base.cache / "bases", self.cache / "bases", symlinks=True, copy_function=_link_or_copy)

    @property
    def lockfile(self) -> Path:
        return self.root / "lockfiles" / "pylock.blue.toml"

    def add_team(self, team: str, requirements: str, settings: str = "") -> None:
        index = f'[[index]]\nname = "fake"\nurl = "{self.index_url}"\ndefault = true\n'
        self.write(f"images/{team}/team.toml", f'base = "tiny"\n{settings}{index}')
        self.write(f"images/{team}/requirements.in", requirements)

    def add_package(self, team: str = "blue", name: str = "own_kit", body: str = "x = 1\n") -> Path:
        """An internal package as a source tree; its folder."""
        folder = f"images/{team}/packages/{name}"
        self.write(
            f"{folder}/pyproject.toml",
            '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\ndescription = "a test"\n',
        )
        self.write(f"{folder}/{name}.py", f'"""A test."""\n{body}')
        return self.root / folder

    def command(self, *arguments: str) -> list[str]:
        root = [] if "--root" in arguments else ["--root", str(self.root)]
        return [self.python, "-m", "tests.support.watched", *arguments, *root]

    def environment(self, more: Mapping[str, str | None] = NOTHING) -> dict[str, str]:
        """This process's, without what would change the program's ways; a value of None removes."""
        found = {key: value for key, value in os.environ.items() if not key.startswith(("IMAGEBUILD_", "PIP_"))}
        found["PYTHONPATH"] = str(PROJECT)
        found["DOCKER_CONFIG"] = str(self.root / "no-docker-config")
        for key, value in more.items():
            if value is None:
                found.pop(key, None)
            else:
                found[key] = value
        return found

    def start(self, *arguments: str, before: Sequence[str] = (), environment: Mapping[str, str | None] = NOTHING) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*before, *self.command(*arguments)], env=self.environment(environment), cwd="/", stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="surrogateescape", start_new_session=True,
        )  # fmt: skip

    def finish(self, process: subprocess.Popen[str], started: float, timeout: float = 60) -> Done:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s:\n{out}{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - started)

    def run(
        self, *arguments: str, before: Sequence[str] = (), timeout: float = 60, environment: Mapping[str, str | None] = NOTHING
    ) -> Done:
        started = time.monotonic()
        return self.finish(self.start(*arguments, before=before, environment=environment), started, timeout)

    # -- what is on the disk

    def leftovers(self) -> list[str]:
        """Temporary files anywhere in the folder: none after a run that ended by itself."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.name.startswith(".tmp"))

    def tags(self, team: str = "blue") -> list[str]:
        """The images that the layout folder's index names; not the lists of what refers to one."""
        return [tag for tag in LayoutStore(self.state / "registry").list_tags(team) if not REFERRERS_TAG.fullmatch(tag)]

    def nothing_made(self) -> None:
        """No image, no half-written file."""
        assert self.tags() == []
        assert self.leftovers() == []

    def forget_image(self, *, members: bool = False) -> None:
        """Remove what was pushed, and the members it was made of, so that the next run makes it again."""
        shutil.rmtree(self.state / "registry", ignore_errors=True)
        if members:
            shutil.rmtree(self.cache / "members", ignore_errors=True)
            shutil.rmtree(self.cache / "local", ignore_errors=True)

    def kept_wheels(self) -> list[str]:
        return sorted(path.name for path in (self.cache / "wheels").rglob("*.whl")) if self.cache.is_dir() else []


_READ: dict[Digest, Path] = {}  # base -> the cache in which this session has read it


def push_read_base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> SmallBase:
    """The base, pushed, and read once in a session into a cache that worlds copy."""
    folder = tmp_path_factory.mktemp("base")
    found = push_small_base(images.debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs"), folder, registry)
    if found.digest not in _READ:
        reader = World(folder / "reader", found, NOBODY_LISTENS, warm=False)
        reader.run("base", "inspect", "tiny", "--cache-dir", str(found.cache)).succeeded()
        _READ[found.digest] = found.cache
    return dataclasses.replace(found, cache=_READ[found.digest])
