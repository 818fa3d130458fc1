"""Packages whose work is done by a program that no wheel brings: said when the team locks, not when a user clicks.

Python metadata has no field for it (PEP 725 is a draft), so the packages are a table: Jupyter extensions and proxies first of all,
which install and load without an error and fail in the notebook.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import msgspec

from imagebuild.base.model import Base


class NeededProgram(msgspec.Struct, frozen=True):
    """A program to be found on PATH, and the Debian package that has it ("" where Debian has none)."""

    program: str
    system: str


_GIT = NeededProgram("git", "git")
_CODE_SERVER = NeededProgram("code-server", "")
_JAVA = NeededProgram("java", "default-jre-headless")
PROGRAMS = {
    "gitpython": _GIT,  # its import fails without
    "jupyter-codeserver-proxy": _CODE_SERVER,
    "jupyter-remote-desktop-proxy": NeededProgram("vncserver", "tigervnc-standalone-server"),
    "jupyter-rsession-proxy": NeededProgram("rserver", ""),
    "jupyter-vscode-proxy": _CODE_SERVER,
    "jupyterlab-git": _GIT,
    "jupyterlab-latex": NeededProgram("xelatex", "texlive-xetex"),
    "jupyterlab-slurm": NeededProgram("squeue", "slurm-client"),
    "nbgitpuller": _GIT,
    "pyspark": _JAVA,
    "sparkmonitor": _JAVA,
}


def find_missing_programs(base: Base, packages: Iterable[str], system: Collection[str] = ()) -> list[str]:
    """A line for each program that one of ``packages`` (normalised names) needs and the base lacks; ``system``: what apt adds."""
    wanted: dict[NeededProgram, list[str]] = {}
    for name in sorted(packages):
        if name in PROGRAMS:
            wanted.setdefault(PROGRAMS[name], []).append(name)
    added = {item.partition("=")[0].partition(":")[0] for item in system}
    lines = []
    for need, names in wanted.items():
        if need.system in added or has_program(base, need.program):
            continue
        how = f'; [system] packages = ["{need.system}"] adds it' if need.system else "; choose a base that has it"
        lines.append(f"{' and '.join(names)} need{'s' * (len(names) == 1)} the program {need.program}, which {base.name} lacks{how}")
    return lines


def has_program(base: Base, program: str) -> bool:
    """Whether the base's PATH finds it: a file that may be executed, or a link."""
    entries = (base.tree.get(base.tree.resolve(f"{folder.rstrip('/')}/{program}")) for folder in base.inventory.path)
    return any(item is not None and (item.type == "symlink" or (item.type == "file" and item.mode & 0o111)) for item in entries)
