"""A workspace of its own for a benchmark: the project's bases and caches, teams made on the spot, imagebuild run as users run it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.starter.place import find_starter
from imagebuild.workspace import Workspace

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Run:
    """What a program left behind; ``status`` is None for one that was stopped at its time limit."""

    status: int | None
    seconds: float
    stdout: str
    stderr: str

    @property
    def message(self) -> str:
        """The error and its hint, or the last line it wrote."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        told = [line for line in lines if line.startswith(("error: ", "hint: "))]
        return "\n".join(told or lines[-1:])


def run_limited(command: Sequence[str], limit: float, *, cwd: Path | None = None, environment: Mapping[str, str] | None = None) -> Run:
    """Run ``command`` and what it starts for at most ``limit`` seconds."""
    started = time.monotonic()
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        status: int | None
        try:
            stdout, stderr = process.communicate(timeout=limit)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            status = None
    return Run(status, round(time.monotonic() - started, 1), stdout, stderr)


class Scratch:
    """A folder with images/ and lockfiles/ and a registry layout that begins with the project's starter base, by hard links."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        project = Workspace(PROJECT)
        digest = find_starter(project.layout)
        if digest is None:
            raise SystemExit("the starter base is not built here: run imagebuild base build starter")
        self.base_digest = digest
        self.cache = project.cache
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(PROJECT / "images/catalogue.toml", self.root / "images/catalogue.toml")
        registry = self.root / ".imagebuild/registry"
        if not registry.exists() or find_starter(Workspace(self.root).layout) != digest:
            shutil.rmtree(registry, ignore_errors=True)
            shutil.copytree(project.layout.folder, registry, copy_function=os.link)

    def write_team(self, name: str, files: Mapping[str, str], table: str = "") -> Path:
        """``images/NAME`` with ``files``; no lock is left of an earlier run."""
        folder = self.root / "images" / name
        shutil.rmtree(folder, ignore_errors=True)
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        budget = '\n[budget]\ncompressed = "20 GiB"\ninstalled = "60 GiB"\n'
        (folder / "team.toml").write_text(f'base = "starter"\n{table}{budget}')
        self.lockfile(name).unlink(missing_ok=True)
        return folder

    def lockfile(self, name: str) -> Path:
        """The team's lock."""
        return self.root / "lockfiles" / f"pylock.{name}.toml"

    def imagebuild(self, *arguments: str, limit: float) -> Run:
        """The command line as installed beside this Python, on this workspace and the project's caches."""
        program = str(Path(sys.executable).with_name("imagebuild"))
        return run_limited([program, *arguments, "--root", str(self.root), "--cache-dir", str(self.cache)], limit, cwd=self.root)


def team_name(text: str) -> str:
    """A name that a team may have, of any text."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
