"""The Kubernetes manifests that docs/ci.md shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

PAGE = Path(__file__).parents[2] / "docs" / "ci.md"


def read_manifests() -> list[dict[str, Any]]:
    """The YAML blocks of the page that are Kubernetes objects."""
    blocks = re.findall(r"^```yaml\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [found for text in blocks if "apiVersion" in (found := YAML(typ="safe").load(text))]
