"""A package that needs a program is told of where the base lacks it."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.base.model import Entry
from imagebuild.lock.programs import PROGRAMS, find_missing_programs
from tests.support.builders import make_base
from tests.support.trees import MemoryTree, file, link

LINE = 'jupyterlab-git and nbgitpuller need the program git, which scipy lacks; [system] packages = ["git"] adds it'


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ((), False),
        ((Entry("/usr/bin/git", "file", 0o644, 0, 0),), False),
        ((Entry("/usr/bin/git", "dir", 0o755, 0, 0),), False),
        ((Entry("/opt/bin/git", "file", 0o755, 0, 0),), False),  # not on PATH
        ((Entry("/usr/bin/git", "file", 0o755, 0, 0),), True),
        ((link("/usr/local/bin/git", "/etc/alternatives/git"),), False),
        (
            (link("/usr/local/bin/git", "/etc/alternatives/git"), link("/etc/alternatives/git", "/opt/git"), file("/opt/git", mode=0o755)),
            True,
        ),
    ],
)
def test_a_base_with_and_without_git(entries: tuple[Entry, ...], found: bool) -> None:
    base = msgspec.structs.replace(make_base(), tree=MemoryTree(entries))
    assert find_missing_programs(base, ["pandas", "nbgitpuller", "jupyterlab-git"]) == ([] if found else [LINE])


def test_what_apt_adds_is_there() -> None:
    assert find_missing_programs(make_base(), ["jupyterlab-git"], ("git=1:2.39.5-0+deb12u2",)) == []
    assert find_missing_programs(make_base(), ["jupyterlab-git"], ("graphviz",)) != []


def test_a_program_debian_does_not_have() -> None:
    (line,) = find_missing_programs(make_base(), ["jupyter-vscode-proxy"])
    assert line == "jupyter-vscode-proxy needs the program code-server, which scipy lacks; choose a base that has it"


def test_the_table_has_normalised_names() -> None:
    from packaging.utils import canonicalize_name

    assert [name for name in PROGRAMS if name != canonicalize_name(name)] == []
