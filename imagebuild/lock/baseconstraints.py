"""The constraints that a base sets for pip itself (PIP_CONSTRAINT), and what of a lock they do not allow.

A lock does not keep to them: its packages are installed without a resolver. In a notebook pip reads them beside the image's own,
and refuses whatever needs a package on which the two disagree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from imagebuild.base.model import Base
from imagebuild.lock.inputs.requirements import applies
from imagebuild.text import name_some


def find_disallowed(base: Base, packages: Mapping[str, str]) -> list[str]:
    """A line for each constraints file of the base that one of ``packages`` (normalised name -> version) does not keep to."""
    lines = []
    for path in base.config.container.environment.get("PIP_CONSTRAINT", "").split():
        broken = [item for item in _read_constraints(base, path) if _breaks(item, packages)]
        if broken:
            held = name_some([f"{canonicalize_name(item.name)} {packages[canonicalize_name(item.name)]}" for item in broken])
            lines.append(
                f"the base {base.name} has constraints for pip ({path}) that do not allow {held}: pip in a notebook will refuse what needs "
                f"them. Put into requirements.in: {name_some([str(item) for item in broken])}"
            )
    return lines


def _read_constraints(base: Base, path: str) -> Iterator[Requirement]:
    """Those of a file that pip reads as requirements; a file that was not kept has none."""
    text = base.tree.read_text(base.tree.resolve(path)) if path.startswith("/") else None
    for line in (text or b"").decode("utf-8", "replace").splitlines():
        try:
            item = Requirement(line.partition("#")[0].strip())
        except InvalidRequirement:  # an option, a URL, an empty line
            continue
        if applies(item, base.interpreter.markers):
            yield item


def _breaks(item: Requirement, packages: Mapping[str, str]) -> bool:
    version = packages.get(canonicalize_name(item.name))
    return version is not None and not item.specifier.contains(version, prereleases=True)
