#!/usr/bin/env python3
"""Make a virtual environment, or bring it up to date: what a pip lock pins goes into it, and the project as an editable package.

    scripts/environment.py STAMP LOCK [pyproject.toml]

The environment is STAMP's folder; STAMP is written when all is there. pip asks an index for one package after the other and mostly waits:
several pips share the lock, whose packages do not depend on each other here (every one is pinned, no dependency is resolved). Where
packages come from is pip's own configuration, and each has to have the lock's hash. pip is the one that comes with this Python, unpacked
and not installed. Nothing is compiled: Python does that for what it imports.

Needs nothing but Python's standard library. What a killed run left unfinished is installed again; a second run waits for the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

SIDE_BY_SIDE = 3  # pips
NICE = 10  # beside it Debian is unpacked, by one process, which takes longer
INSTALL = ("install", "-qq", "--disable-pip-version-check", "--no-compile", "--no-deps")
SELF = "--side-by-side"  # how this script calls itself
NO_ENVIRONMENT, NO_PACKAGES = 3, 6  # exit codes, as imagebuild's own


@contextlib.contextmanager
def waiting_turn(folder: Path) -> Iterator[None]:
    """Only one process at a time is in the block; where the file system knows no locks, any."""
    place = os.open(folder, os.O_RDONLY)
    os.set_inheritable(place, True)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def is_fresh(stamp: Path, inputs: Sequence[Path]) -> bool:
    """Whether the stamp is younger than all inputs, as make sees it."""
    return stamp.exists() and all(path.stat().st_mtime <= stamp.stat().st_mtime for path in inputs)


def find_pip_wheel() -> Path | None:
    """The wheel that ``python -m venv`` would install: in ensurepip, or in the distribution's folder of wheels."""
    try:
        import ensurepip
    except ImportError:  # Debian has it in python3-venv
        return None
    folders = (sysconfig.get_config_var("WHEEL_PKG_DIR"), Path(ensurepip.__file__).parent / "_bundled")
    return next((wheel for folder in folders if folder for wheel in sorted(Path(folder).glob("pip-*.whl"))), None)


def forget_unfinished(folder: Path) -> None:
    """Of packages that a killed pip left: INSTALLER is written after all files, and without it pip would take them for installed."""
    for info in folder.glob("lib/python*/site-packages/*.dist-info"):
        if not (info / "INSTALLER").exists():
            shutil.rmtree(info)


def split_lock(text: str, count: int) -> list[str]:
    """A lock's requirements dealt out among ``count`` texts."""
    lines = text.replace("\\\n", " ").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    return ["\n".join(pins[start::count]) + "\n" for start in range(min(count, len(pins)))]


class Pip:
    """pip, unpacked in ``folder``, for the environment that ``python`` belongs to."""

    def __init__(self, folder: Path, python: Path) -> None:
        paths = (str(folder / "pip"), os.environ.get("PYTHONPATH", ""))
        self._environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._folder, self._python = folder, python

    def install(self, *arguments: str) -> bool:
        """One pip, which may ask for a password, and whose errors are seen; whether it succeeded."""
        return self._run("-m", "pip", *INSTALL, *arguments)

    def install_lock(self, lock: Path) -> bool:
        """Several pips, of which nothing is seen, or else one."""
        parts = []
        for number, text in enumerate(split_lock(lock.read_text("utf-8"), SIDE_BY_SIDE)):
            parts.append(self._folder / f"part-{number}.txt")
            parts[-1].write_text(text, "utf-8")
        return self._run(__file__, SELF, *map(str, parts), seen=False) or self.install("--require-hashes", "-r", str(lock))

    def _run(self, *arguments: str, seen: bool = True) -> bool:
        stream = None if seen else subprocess.DEVNULL
        done = subprocess.run(
            [str(self._python), *arguments],
            env=self._environment,
            close_fds=False,  # nor the lock's: it is held until the last pip has ended, however this process ends
            stdin=stream,
            stdout=stream,
            stderr=stream,
            check=False,
        )
        return done.returncode == 0


def run_side_by_side(parts: Sequence[str]) -> int:
    """In the environment's own Python: a pip for each part of a lock, all forked from one that has loaded itself; an exit code."""
    with contextlib.suppress(ImportError):
        import pip._internal.commands.install  # noqa: F401
    children = []
    for part in parts:
        child = os.fork()
        if child == 0:
            sys.argv = ["pip", *INSTALL, "--no-input", "--require-hashes", "-r", part]
            runpy.run_module("pip", run_name="__main__", alter_sys=True)  # ends this process
        children.append(child)
    return max(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children)


def fail(code: int, error: str, hint: str) -> int:
    print(f"error: {error}\nhint: {hint}", file=sys.stderr)
    return code


def update(folder: Path, inputs: Sequence[Path]) -> int:
    """Make the environment or what it lacks; an exit code."""
    python = folder / "bin" / "python"
    wheel = find_pip_wheel()
    made = wheel is not None
    if made and not os.access(python, os.X_OK):
        made = subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=False).returncode == 0
    if wheel is None or not made:
        hint = "on Debian and Ubuntu: sudo apt-get install python3-venv"
        return fail(NO_ENVIRONMENT, f"{sys.executable} cannot make a virtual environment", hint)
    forget_unfinished(folder)
    with tempfile.TemporaryDirectory(prefix="imagebuild-pip-") as name:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(Path(name, "pip"))
        pip = Pip(Path(name), python)
        for path in inputs:
            project = ("--no-build-isolation", "--editable", str(path.parent))
            if not (pip.install_lock(path) if path.suffix == ".lock" else pip.install(*project)):
                hint = "packages come from where pip is pointed (python3 -m pip config list); is that in reach? then run it again"
                return fail(NO_PACKAGES, f"pip could not install what {path} asks for", hint)
    return 0


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == SELF:
        return run_side_by_side(arguments[1:])
    os.nice(NICE)
    stamp, *inputs = map(Path, arguments)
    with waiting_turn(stamp.parent.parent):
        if is_fresh(stamp, inputs):  # another run did it meanwhile
            return 0
        code = update(stamp.parent, inputs)
        if code == 0:
            stamp.touch()
        return code


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
