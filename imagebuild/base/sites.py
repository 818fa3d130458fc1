"""The folders in which a base's Python finds installed distributions: for :mod:`imagebuild.wheel.installed`, of layers above that base."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

from imagebuild.base.interpreter import python_path
from imagebuild.base.model import Inventory, Tree


def find_sites(inventory: Inventory, tree: Tree | None, environment: Mapping[str, str]) -> frozenset[str]:
    """The folders of ``sys.path`` that hold distributions, symlinks followed in ``tree``; none where the base has no Python.

    ``environment`` is the image's own: its PYTHONPATH counts, and the virtual environments on its PATH that the base's has not.
    """
    python = inventory.interpreter
    if python is None:
        return frozenset()
    folders = {python.paths["purelib"], python.paths["platlib"], *(item.location for item in inventory.distributions)}
    folders.update(python_path(environment))
    short = re.match(r"\d+\.\d+", python.version)
    for entry in {posixpath.normpath(part) for part in environment.get("PATH", "").split(":") if part.endswith("/bin")} - {*inventory.path}:
        folders.add(f"{posixpath.dirname(entry)}/lib/python{short[0] if short else ''}/site-packages")
    return frozenset(folders | {tree.resolve(folder) for folder in folders}) if tree is not None else frozenset(folders)
