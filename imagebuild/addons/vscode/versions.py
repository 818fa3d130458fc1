"""Versions of extensions, and which VS Code an extension runs on (``engines.vscode``), by the rules of VS Code itself."""

from __future__ import annotations

import re

_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?:-([0-9A-Za-z.-]+))?(?:\+.*)?")
_ENGINE = re.compile(r"(\^|>=)?(\d{1,9}|x)\.(\d{1,9}|x)\.(\d{1,9}|x)(?:-.*)?")


def parse_version(text: str) -> tuple[int, int, int, bool, str] | None:
    """A semantic version as what sorts (semver.org 2.0, but for the parts of a pre-release); None for anything else."""
    match = _VERSION.fullmatch(text)
    if match is None:
        return None
    return int(match[1]), int(match[2]), int(match[3]), match[4] is None, match[4] or ""


def fits_engine(engine: str, version: str) -> bool:
    """Whether VS Code ``version`` runs an extension that asks for ``engine``: ``*``, ``1.75.0``, ``^1.75.0``, ``>=1.75.0``, ``1.75.x``.

    As VS Code has it: any other form fits nothing, and what was made for 0.x fits 1.x unless it asks for one exact version.
    """
    if engine.strip() == "*":
        return True
    match, own = _ENGINE.fullmatch(engine.strip()), parse_version(version)
    if match is None or own is None:
        return False
    sign, parts = match[1], match.groups()[1:4]
    wanted = [0 if part == "x" else int(part) for part in parts]
    exact = [part != "x" for part in parts]
    if sign == ">=":
        return list(own[:3]) >= wanted
    if sign == "^":
        exact[2] = False
        exact[1] = exact[1] and wanted[0] == 0
    if own[0] == 1 and wanted[0] == 0 and not all(exact):
        return True
    for have, want, must in zip(own[:3], wanted, exact, strict=True):
        if have != want:
            return have > want and not must
    return True
