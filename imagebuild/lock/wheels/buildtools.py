"""What a source tree of the team builds with, when that is not here: its build requirements, resolved through the team's indexes.

Wheels only, by the lock's own cutoff, into an environment of this machine's Python that is gone after the build. The wheel that
comes out is pure Python, so the Python that runs the backend does not decide what is in it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import sys_tags

from imagebuild.base.model import Interpreter
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.inputs.localpackage import BuildTools
from imagebuild.lock.inputs.requirements import DirectRequirement
from imagebuild.lock.resolve.candidates import Choice
from imagebuild.lock.resolve.explaining import find_causes
from imagebuild.lock.resolve.resolution import make_scratch, parse_pins, write_inputs
from imagebuild.lock.resolve.routedindex import RoutedIndex
from imagebuild.lock.resolve.uv import find_uv, run_uv
from imagebuild.lock.wheels.fetching import is_cached

_SECONDS = 300


def make_build_tools(indexes: Callable[[], Sequence[PackageIndex]], cutoff: str, cache: Path, report: Callable[[str], None]) -> BuildTools:
    """How to make an environment with some requirements. ``indexes`` is called when the first one is asked for."""

    def prepare(label: str, requires: Sequence[str], folder: Path) -> Path:
        program = find_uv()
        if program is None:
            raise LockError("uv is not installed beside imagebuild", "pip install uv")
        report(f"{label}: fetching what it builds with: {', '.join(requires) or 'nothing'}")
        wheels = _fetch_wheels(program, label, requires, indexes(), cutoff, cache, report)
        return _make_environment(program, label, wheels, folder)

    return prepare


def describe_this_python() -> Interpreter:
    """The Python that runs this program, as far as a resolver and wheel tags go."""
    return Interpreter(
        path=sys.executable,
        executable=sys.executable,
        version=platform.python_version(),
        implementation=sys.implementation.name,
        cache_tag=sys.implementation.cache_tag or "",
        magic="",
        environment="venv",
        prefix=sys.prefix,
        base_prefix=sys.base_prefix,
        paths={},
        markers={key: str(value) for key, value in default_environment().items()},
        tags=tuple(str(tag) for tag in sys_tags()),
        libc=" ".join(platform.libc_ver()),
    )


def _parse(label: str, lines: Sequence[str]) -> tuple[DirectRequirement, ...]:
    found = []
    for number, line in enumerate(lines, 1):
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            raise ConfigurationError(
                f"{label}: {line!r} is not a requirement", "correct [build-system] requires in its pyproject.toml"
            ) from None
        if requirement.url:
            raise LockError(f"{label} needs {requirement.name} by URL to build", "publish a wheel of it on an index")
        found.append(DirectRequirement(number, line, requirement))
    return tuple(found)


def _fetch_wheels(
    program: str,
    label: str,
    lines: Sequence[str],
    indexes: Sequence[PackageIndex],
    cutoff: str,
    cache: Path,
    report: Callable[[str], None],
) -> list[Path]:
    """The wheels of the requirements and of all they need, verified, in the wheel cache."""
    python = describe_this_python()
    choice = Choice(python.tags, python.version, cutoff)
    with contextlib.ExitStack() as stack:
        upstreams = {index.name: stack.enter_context(Upstream(index, cache)) for index in indexes}
        policy = stack.enter_context(RoutedIndex(indexes, upstreams, choice, {}, {}, {}, cache, report))
        scratch = Path(stack.enter_context(make_scratch(cache))).resolve()
        write_inputs(scratch, _parse(label, lines), {}, (), {})
        outcome = run_uv(program, python, platform.machine(), scratch, policy.url)
        policy.raise_failure()
        if not outcome.succeeded:
            causes = [f"{cause.name}{cause.specifier}" for cause in find_causes(outcome.log)]
            raise LockError(
                f"{label} needs {' and '.join(causes[:3]) or ', '.join(lines)} to build, and the team's indexes have no wheels that fit",
                "publish wheels of it, or widen [build-system] requires in its pyproject.toml",
            )
        paths = []
        for pin in parse_pins(outcome.output):
            candidates = policy.ask_candidates(pin.name)
            upstream = upstreams[candidates.index]
            file = upstream.complete(candidates.wheels[pin.version])
            path = wheel_cache_path(cache, file.sha256, file.filename)
            if not is_cached(path, file.sha256):
                upstream.download(file, path)
            paths.append(path)
        return paths


def _make_environment(program: str, label: str, wheels: Sequence[Path], folder: Path) -> Path:
    """A virtual environment in ``folder`` with exactly these wheels; its Python."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), "LC_ALL": "C.UTF-8", "TMPDIR": str(folder.parent)}
    common = ["--no-config", "--no-cache", "--offline", "--quiet", "--color", "never"]
    python = folder / "bin" / "python"
    commands = [[program, "venv", *common, "--no-python-downloads", "--python", sys.executable, str(folder)]]
    if wheels:
        paths = [os.fspath(path) for path in wheels]
        commands.append([program, "pip", "install", *common, "--no-index", "--no-deps", "--no-build", "--python", str(python), *paths])
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False, cwd=folder.parent)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines() or ["uv said nothing"]
            raise LockError(f"{label}: what it builds with cannot be installed: {said[-1]}", "see the lines above", tuple(said[-8:]))
    return python
