"""How the tags of a team's repository are formed, and what a tag says.

``2026q4-3f9c1a7b2d4e`` is an image, ``keep-churn-q3`` a name for good; ``retired-`` stands before the tag of an image that will be removed;
others are nothing of ours.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from imagebuild.errors import UsageError
from imagebuild.oci.referrers import REFERRERS_TAG

IMAGE_TAG = re.compile(r"([0-9]{4})q([1-4])-[0-9a-f]{12}")
_KEPT = re.compile(r"keep-([a-z0-9]+(?:-[a-z0-9]+)*)")
_QUARTER = re.compile(r"([0-9]{4})q([1-4])")
_RETIRED = "retired-"
ATTESTED = "-attested"  # docker's attestations beside an image


def image_tag(quarter: str, key: str) -> str:
    """The tag of an image: its quarter and twelve digits of its recipe's key (``sha256:`` and 64 digits)."""
    return f"{quarter}-{key.removeprefix('sha256:')[:12]}"


def attested_tag(tag: str) -> str:
    """Where the index of an image and its attestations is; the image's own tag and digest are as without them."""
    return tag + ATTESTED


def kept_tag(name: str) -> str:
    """The tag of a name for good; UsageError for one that is not a name."""
    tag = f"keep-{name}"
    if not _KEPT.fullmatch(tag) or len(tag) > 128:
        raise UsageError(f"not a name for an environment: {name!r}", "lower-case letters, digits and single hyphens, as in churn-q3")
    if _QUARTER.fullmatch(name) or IMAGE_TAG.fullmatch(name):
        raise UsageError(f"{name!r} reads like a quarter or a tag", "choose one that says what it is for, as in churn-q3")
    return tag


def is_pinned_tag(tag: str) -> bool:
    """Whether ``tag`` is a name for good."""
    return _KEPT.fullmatch(tag) is not None


def name_kept(tag: str) -> str:
    """``churn-q3`` for ``keep-churn-q3``."""
    return tag.removeprefix("keep-")


def retired_tag(tag: str) -> str:
    """What an image's tag becomes for the days before it is removed."""
    return f"{_RETIRED}{tag}"


def parse_retired(tag: str) -> str:
    """The tag that ``tag`` was before the image was retired; "" when it does not say that."""
    was = tag.removeprefix(_RETIRED)
    return was if was != tag and IMAGE_TAG.fullmatch(was) else ""


def is_companion(tag: str, beside: Collection[str]) -> bool:
    """Whether ``tag`` holds what belongs to an image (referrers, signatures, attestations) and is not an image itself."""
    if REFERRERS_TAG.fullmatch(tag) is not None:
        return True
    image = tag.removesuffix(ATTESTED)
    return image != tag and (image in beside or retired_tag(image) in beside)


def count_quarters(quarter: str) -> int | None:
    """Quarters since the year 0, to compare by; None for what is not a quarter."""
    match = _QUARTER.fullmatch(quarter)
    return int(match[1]) * 4 + int(match[2]) - 1 if match else None
