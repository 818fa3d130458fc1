"""Versions of other packagers as keys that sort as they order them: Debian's, rpm's, R's, Rust's. None for what is no such version."""

from __future__ import annotations

import re

_Key = tuple[object, ...]
_RPM_PART = re.compile(r"~|\^|[0-9]+|[A-Za-z]+")


def make_debian_key(text: str) -> _Key | None:
    """deb-version(7): epoch, upstream version, revision; ``~`` comes before the end, letters before all else."""
    match = re.fullmatch(r"(?:([0-9]+):)?([A-Za-z0-9.+:~-]+?)(?:-([A-Za-z0-9.+~]+))?", text)
    return None if match is None else (int(match[1] or 0), _split_debian(match[2]), _split_debian(match[3] or "0"))


def _split_debian(text: str) -> _Key:
    """Texts and numbers in turn. The last pair is empty and stands for the end, which a zero after a text equals."""
    key: list[object] = []
    for word, digits in re.findall(r"([^0-9]*)([0-9]*)", text):
        key += [(*(-1 if char == "~" else ord(char) if char.isalpha() else ord(char) + 256 for char in word), 0), int(digits or 0)]
    return tuple(key)


def make_rpm_key(text: str) -> _Key | None:
    """rpmvercmp, of epoch, version and release: ``~`` before the end, ``^`` after it, then letters, then numbers."""
    match = re.fullmatch(r"(?:([0-9]+):)?([^:\s-]+)(?:-([^:\s-]+))?", text)
    return None if match is None else (int(match[1] or 0), _split_rpm(match[2]), _split_rpm(match[3] or ""))


def _split_rpm(text: str) -> _Key:
    ranks: dict[str, tuple[int, object]] = {"~": (-1, 0), "^": (1, 0)}
    parts = [ranks.get(part) or ((3, int(part)) if part.isdigit() else (2, part)) for part in _RPM_PART.findall(text)]
    return (*parts, (0, 0))


def make_semver_key(text: str) -> _Key | None:
    """semver.org 2.0.0, as crates have it: a pre-release comes before its release, what follows ``+`` says nothing."""
    match = re.fullmatch(r"([0-9]+)\.([0-9]+)\.([0-9]+)(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?", text)
    if match is None:
        return None
    parts = [(0, int(part)) if part.isdigit() else (1, part) for part in (match[4] or "").split(".")]
    return (int(match[1]), int(match[2]), int(match[3]), (0, *parts) if match[4] else (1,))


def make_r_key(text: str) -> _Key | None:
    """``package_version`` of R: numbers between dots and hyphens."""
    return tuple(int(part) for part in re.split(r"[.-]", text)) if re.fullmatch(r"[0-9]+(?:[.-][0-9]+)*", text) else None
