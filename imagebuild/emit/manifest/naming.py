"""Names that Kubernetes takes."""

from __future__ import annotations

import hashlib
import re

from imagebuild.errors import ConfigurationError

LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")  # a DNS label (RFC 1123), but for its length
_NAME_LIMIT = 52  # leaves room for what Kubernetes appends within 63 characters


def make_name(prefix: str, text: str) -> str:
    """A DNS-1123 label; two texts never share one, since what had to be changed carries a hash of the original."""
    plain = f"{prefix}-{text}"
    if len(plain) <= _NAME_LIMIT and LABEL.fullmatch(plain):
        return plain
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    kept = re.sub(r"[^a-z0-9]+", "-", plain.lower())[: _NAME_LIMIT - 9].strip("-")
    return f"{kept}-{mark}"


def check_namespace(namespace: str) -> None:
    """ConfigurationError for what is not a namespace's name."""
    if len(namespace) > 63 or not LABEL.fullmatch(namespace):
        raise ConfigurationError(f"not a namespace: {namespace!r}", "at most 63 lower-case letters, digits and hyphens")
