"""What of a base's VS Code a lock of extensions may rely on."""

from __future__ import annotations

import msgspec

from imagebuild.addons.vscode.manifest import UNIVERSAL
from imagebuild.base.model import Base, VSCodeFacts
from imagebuild.errors import ConfigurationError

_MACHINES = {"amd64": "x64", "arm64": "arm64", "arm": "armhf"}


def require_vscode(base: Base) -> VSCodeFacts:
    """The base's code-server; ConfigurationError for a base without one."""
    found = base.inventory.vscode
    if isinstance(found, msgspec.UnsetType):
        raise ConfigurationError(
            f"the base {base.name!r} has no code-server (no lib/vscode/product.json), and the team asks for VS Code extensions",
            "choose a base with VS Code, or leave [vscode] and extensions/ out",
        )
    if not found.version:
        raise ConfigurationError(
            f"the base {base.name!r} does not say which VS Code it has: {found.folder}/../product.json", "choose another base"
        )
    return found


def name_platform(base: Base) -> str:
    """The base's target platform, as VS Code names it: linux-x64, alpine-arm64."""
    interpreter = base.inventory.interpreter
    system = "alpine" if interpreter is not None and interpreter.libc.startswith("musl") else "linux"
    machine = base.inventory.platform.architecture
    return f"{system}-{_MACHINES.get(machine, machine)}"


def list_platforms(base: Base) -> tuple[str, ...]:
    """The target platforms whose builds run on the base, best first."""
    return (name_platform(base), UNIVERSAL)


def describe_vscode(base: Base) -> dict[str, str]:
    """Every fact by its name: VS Code's version, the folder of its own extensions, the platform, and ``extension NAME`` for each it has."""
    found = require_vscode(base)
    extensions = {f"extension {item.name}": item.version for item in found.extensions}
    return {"vscode": found.version, "folder": found.folder, "platform": name_platform(base), **extensions}
