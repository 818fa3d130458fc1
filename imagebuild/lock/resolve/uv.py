"""uv as the resolver: ``uv pip compile`` for the base's Python, from this machine's own uv."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path

from imagebuild.base.model import Interpreter
from imagebuild.lock.inputs.requirements import REQUIREMENTS
from imagebuild.lock.resolve.resolution import CONSTRAINTS, LOCAL, OUTPUT, RESOLVE_SECONDS, Outcome, SearchTimeoutError, read_outcome


def find_uv() -> str | None:
    """The uv beside us, or None."""
    if importlib.util.find_spec("uv") is None:
        return None
    from uv import find_uv_bin

    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return None


def run_uv(
    program: str, interpreter: Interpreter, platform_machine: str, folder: Path, url: str, seconds: float = RESOLVE_SECONDS
) -> Outcome:
    """``uv pip compile`` for the base's full Python version; the routed index has judged the tags already."""
    (folder / "home").mkdir(exist_ok=True)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform_machine, platform_machine)
    libc = "unknown-linux-musl" if interpreter.libc.startswith("musl") else "manylinux_2_40"
    command = [
        program, "pip", "compile", "--no-config", "--no-header", "--annotation-style", "split", "--no-progress", "--color", "never",
        "--cache-dir", str(folder / "cache"), "--python", sys.executable, "--python-version", interpreter.version, "--no-python-downloads",
        "--python-platform", f"{machine}-{libc}", "--default-index", url, "--no-build", "--strip-extras", "--quiet",
        "--constraint", CONSTRAINTS, "--output-file", OUTPUT, REQUIREMENTS, LOCAL,
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder / "home"), "LC_ALL": "C.UTF-8", "UV_HTTP_RETRIES": "0", "NO_PROXY": "*",
        "UV_HTTP_TIMEOUT": str(RESOLVE_SECONDS),
    }  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise SearchTimeoutError from None
    return read_outcome(folder, done.returncode, done.stdout, done.stderr)
