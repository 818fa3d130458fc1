"""The repository's history, through git itself: which files changed, and what a file was. Nothing is ever written."""

from __future__ import annotations

import subprocess
from pathlib import Path

from imagebuild.errors import ConfigurationError, UsageError


def list_changed_files(root: Path, since: str) -> tuple[str, ...]:
    """Paths below ``root`` that differ between where HEAD and ``since`` parted and HEAD, as git names them."""
    _check_revision(root, since)
    text = _run(root, "diff", "--name-only", "--no-renames", "--relative", "-z", f"{since}...HEAD")
    return tuple(item for item in text.decode(errors="surrogateescape").split("\0") if item)


def read_file(root: Path, revision: str, path: str) -> bytes | None:
    """A file below ``root`` as it was; None where it was not."""
    _check_revision(root, revision)
    done = _start(root, "show", f"{revision}:./{path}")
    return done.stdout if done.returncode == 0 else None


def _check_revision(root: Path, text: str) -> None:
    """A revision is one that git knows, and no option in disguise."""
    if text.startswith("-") or _start(root, "rev-parse", "--quiet", "--verify", f"{text}^{{commit}}").returncode:
        raise UsageError(f"git knows no commit {text!r} in {root}", "fetch it first (in CI: check out with the whole history)")


def _run(root: Path, *arguments: str) -> bytes:
    done = _start(root, *arguments)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise ConfigurationError(f"git {arguments[0]} failed: {said[-1]}", "check out with the whole history (fetch-depth: 0)")
    return done.stdout


def _start(root: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(root), *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError:
        raise ConfigurationError("git is not installed", "install it; only `imagebuild ci` needs it") from None
