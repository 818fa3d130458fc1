"""Debian's root file system, as mmdebstrap makes it: a tar.

``python -m imagebuild.starter.debian TEAM... [--quiet-after FILE]`` makes it for the run that follows; ``make image`` calls that on a fresh
machine while the environment is being installed: when FILE is there, the run itself says what it waits for. So this imports nothing but the
standard library and what does not either.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from imagebuild.children import Child, require_space
from imagebuild.engine.machinesources import SUITE, read_machine_sources
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError
from imagebuild.files import exclusive, scratch_folder, write_atomic
from imagebuild.starter.lockfile import read_cutoff

PACKAGES = ("ca-certificates", "python3", "tini")
_FRESH_SECONDS = 3600  # one made beforehand is used for so long: later Debian may have newer packages
_ROOM = 800 << 20  # bytes of mmdebstrap's own folder, in TMPDIR (727 MiB at its largest, with Debian 12)
_ROOM_BESIDE = 600 << 20  # bytes of the two tars and the layer
_LEAST_ROOM = 8 << 20
_BEAT = 8  # seconds
_SILENCE = 600.0  # seconds; a slow mirror sends the largest package in less
_DOING = "making the starter base"
# dpkg's own defaults, and it does not wait for the disk after each file: after a crash none of this is used.
_ENVIRONMENT = {
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
    "DPKG_FORCE": "security-mac,downgrade,unsafe-io",
    # Else Debian's py3compile leaves the bytecode of its own modules as it is where importing them wrote it in time, in another form.
    "PYTHONDONTWRITEBYTECODE": "1",
}


def _find_tool() -> str | None:
    return shutil.which("mmdebstrap", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/sbin")


class DebianRoot:
    """A root file system that is being made, here or by another process."""

    def __init__(self, cache: Path, folder: Path, epoch: int, report: Callable[[str], None]) -> None:
        self._cache, self._epoch, self._report = cache, epoch, report
        self._target, self._log = folder / "raw.tar", folder / "log"
        self._process: Child | None = None
        self._quiet_after: Path | None = None
        self._shown = ""
        self._began = self._said = 0.0  # set where no command's display says that it still goes on

    def begin(self) -> None:
        """Start mmdebstrap, unless another process has made the tar or is at it."""
        with exclusive(_lock_path(self._cache), wait=False) as free:
            if free and not self._take():
                self._start()

    def wait(self) -> Path:
        """The tar, when it is whole. Errors say how to get mmdebstrap, or what apt said."""
        if self._process is None and not self._target.exists():
            with exclusive(_lock_path(self._cache)):
                if not self._take():  # the other one failed
                    self._start()
        if self._process is not None:
            status = self._process.wait(_SILENCE, self._watch)
            self._process = None
            if status != 0:
                raise _explain_failure(self._log.read_text("utf-8", errors="replace"), status)
        return self._target

    def make(self, quiet_after: Path | None = None) -> None:
        """Begin and wait, whatever others do: for whoever holds the lock. It says that it goes on until ``quiet_after`` is there."""
        self._quiet_after = quiet_after
        self._start()
        self._began = self._said = time.monotonic()
        try:
            self.wait()
        finally:
            self._show("")

    def stop(self) -> None:
        """End what :meth:`begin` started and nobody waited for."""
        if self._process is not None:
            self._process.stop()

    def keep(self) -> None:
        """Leave the tar, which is whole, for another process."""
        kept, note = _kept_paths(self._cache)
        note.unlink(missing_ok=True)
        self._target.rename(kept)
        write_atomic(note, json.dumps(self._describe(kept)).encode())

    def _take(self) -> bool:
        kept, note = _kept_paths(self._cache)
        fits = self.is_kept()
        try:
            note.unlink()
            if fits:
                kept.rename(self._target)
            else:
                kept.unlink()
        except OSError:
            return False
        return fits

    def is_kept(self) -> bool:
        """Whether one that was made beforehand is there, as this one would be, and not too old."""
        kept, note = _kept_paths(self._cache)
        try:
            fits = json.loads(note.read_bytes()) == self._describe(kept)
            return fits and time.time() - note.stat().st_mtime < _FRESH_SECONDS
        except (OSError, ValueError):
            return False

    def _describe(self, tar: Path) -> dict[str, object]:
        return {"command": _make_command("mmdebstrap", Path("TAR")), "epoch": self._epoch, "bytes": tar.stat().st_size}

    def _start(self) -> None:
        tool = _find_tool()
        if tool is None:
            raise ConfigurationError(
                "mmdebstrap is not installed, and the starter base is made with it",
                "run: sudo apt-get install mmdebstrap (or choose a base of your registry in team.toml)",
            )
        self._report(f"base starter: fetching Debian {SUITE} with {', '.join(PACKAGES)} (once on this machine, about a minute)")
        environment = {**os.environ, **_ENVIRONMENT, "SOURCE_DATE_EPOCH": str(self._epoch)}
        own, beside = Path(tempfile.gettempdir()), self._target.parent
        shared = own.stat().st_dev == beside.stat().st_dev
        require_space(own, _ROOM + (_ROOM_BESIDE >> 1 if shared else 0), _DOING)
        require_space(beside, _ROOM_BESIDE, _DOING)
        self._process = Child(_make_command(tool, self._target), environment=environment, log=self._log)

    def _watch(self) -> None:
        if self._quiet_after is not None and self._quiet_after.exists():
            self._show("")
        elif self._began and time.monotonic() - self._said > _BEAT:
            self._said = time.monotonic()
            self._show(f"base starter: fetching Debian {SUITE}: {self._said - self._began:.0f} s")
        for folder in (Path(tempfile.gettempdir()), self._target.parent):  # apt waits for ever where it cannot write
            require_space(folder, _LEAST_ROOM, _DOING)

    def _show(self, line: str) -> None:
        """That it goes on; on a terminal in the place of the line before, and an empty one takes that away."""
        if line == self._shown:
            return
        self._shown = line
        if sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb":
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
        elif line:
            self._report(line)


@contextlib.contextmanager
def make_debian(cache: Path, epoch: int, report: Callable[[str], None]) -> Iterator[DebianRoot]:
    """Begin Debian's root file system, its times no later than ``epoch`` (seconds since 1970); the tar goes away with the block."""
    with scratch_folder(cache) as folder:
        debian = DebianRoot(cache, folder, epoch, report)
        try:
            debian.begin()
            yield debian
        finally:
            debian.stop()


def _make_command(tool: str, target: Path) -> list[str]:
    # verbose, so that it is heard at work
    include = f"--include={','.join(PACKAGES)}"
    return [tool, "--verbose", "--variant=minbase", include, "--format=tar", SUITE, str(target), *read_machine_sources()]


def _explain_failure(log: str, status: int) -> BuildError:
    lines = [line for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "Err:"))] or lines[-1:]
    detail = re.sub(r"https?://\S+", "<mirror>", errors[0]) if errors else f"exit status {status}"
    return BuildError(
        f"mmdebstrap could not make the root file system: {detail}", "check this machine's apt sources and network, then run it again"
    )


def _lock_path(cache: Path) -> Path:
    return cache / "starter-root.lock"


def _kept_paths(cache: Path) -> tuple[Path, Path]:
    return cache / "starter-root.tar", cache / "starter-root.json"


# --- beforehand -----------------------------------------------------------------------------------------------------


def needs_starter(images: Path, teams: Sequence[str]) -> bool:
    """Whether one of the teams builds on a base that is made here; files that cannot be read are reported elsewhere."""
    try:
        bases = tomllib.loads((images / "catalogue.toml").read_text("utf-8"))["base"]
        tables = [tomllib.loads((images / team / "team.toml").read_text("utf-8")) for team in teams]
        return any(bases[table["base"]].get("build") == "starter" for table in tables)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def install_tool() -> None:
    """mmdebstrap from the machine's own apt, where that is possible without asking: as root."""
    if _find_tool() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        print("installing mmdebstrap (once)", file=sys.stderr, flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for words in (["update"], ["install", "-y", "--no-install-recommends", "mmdebstrap"]):
            subprocess.run(["apt-get", "-qq", *words], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def main(arguments: Sequence[str]) -> int:
    """Install mmdebstrap and make the tar if the teams need it. A failure is left to the run that follows: it tries again."""
    import argparse

    parser = argparse.ArgumentParser(prog="imagebuild.starter.debian")
    parser.add_argument("teams", metavar="TEAM", nargs="*")
    parser.add_argument("--quiet-after", metavar="FILE", type=Path, help="say nothing more when it is there")
    options = parser.parse_args(arguments)
    state = Path(".imagebuild")
    if not needs_starter(Path("images"), options.teams) or (state / "registry" / "blobs").exists():
        return 0
    cache = Path(os.environ.get("IMAGEBUILD_CACHE") or state / "cache")
    with contextlib.suppress(ImagebuildError, OSError, ValueError):
        epoch = int(datetime.fromisoformat(read_cutoff().replace("Z", "+00:00")).timestamp())
        with exclusive(_lock_path(cache)):
            install_tool()
            with scratch_folder(cache) as folder:
                debian = DebianRoot(cache, folder, epoch, lambda line: print(line, file=sys.stderr, flush=True))
                try:
                    if not debian.is_kept():
                        debian.make(options.quiet_after)
                        debian.keep()
                finally:
                    debian.stop()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
