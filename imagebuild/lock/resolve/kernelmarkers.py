"""Markers that ask for the kernel (``platform_release``, ``platform_version``): they describe the machine that locks, never the node."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from packaging.markers import Marker

from imagebuild.errors import LockError

KERNEL = ("platform_release", "platform_version")
_MENTION = re.compile("|".join(KERNEL))
_LITERAL = re.compile(r'"([^"]*)"|\'([^\']*)\'')
_SAMPLES = ("", "0", "99999", "~")  # lower and higher than any kernel says, as versions and as texts


def depends_on_kernel(marker: Marker | None, environment: Mapping[str, str], extra: str = "") -> bool:
    """Whether the marker's answer on this base changes with the kernel: ``sys_platform == 'win32' and platform_release >= '10'`` does
    not."""
    text = str(marker or "")
    if marker is None or not _MENTION.search(text):
        return False
    values = {*_SAMPLES, *(one or other for one, other in _LITERAL.findall(text))}
    answers = {
        marker.evaluate({**environment, "extra": extra, **dict(zip(KERNEL, pair, strict=True))})
        for pair in itertools.product(sorted(values), repeat=len(KERNEL))
    }
    return len(answers) > 1


def refuse_kernel(who: str, marker: Marker) -> LockError:
    """``who``: a line of requirements.in, or a package with its need."""
    return LockError(
        f"{who}: the marker {marker} depends on the kernel of the machine that locks, not of the node that runs the image",
        "remove that part of the marker, or use sys_platform or python_version; if a package has it: [resolve] exclude in team.toml",
    )
