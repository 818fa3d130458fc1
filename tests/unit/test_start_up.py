"""The program starts in a fraction of a second: it loads what a run needs, and nothing that only other runs do."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from imagebuild.commands.image import BUILD_MODULES
from tests.support.startup import find_unwanted, list_loaded


@pytest.mark.parametrize("arguments", [["--version"], ["completion", "bash"], ["image", "--help"], ["lock", "--help"]])
def test_what_says_something_of_itself_loads_neither_library_nor_workspace(arguments: list[str]) -> None:
    _, loaded = list_loaded(arguments)
    completes = frozenset({"click.shell_completion"} if arguments[0] == "completion" else ())
    assert find_unwanted(loaded, completes) == []
    assert {"imagebuild.workspace", "msgspec"} & loaded == set()


def test_the_help_of_all_commands_loads_no_library() -> None:
    said, loaded = list_loaded(["--help"])
    assert "retire" in said
    assert find_unwanted(loaded) == []


def test_what_decides_whether_there_is_something_to_do_loads_nothing_that_does_it() -> None:
    """The modules of that path alone; tests/integration/test_start_up.py looks at a whole run."""
    modules = ("commands.image", "pipeline.cacheplaces", "pipeline.planning", "pipeline.teamimage", "lock.inputs.freshness")
    code = f"import sys, {', '.join(f'imagebuild.{name}' for name in modules)}; print(*sys.modules, sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "imagebuild.recipe" in loaded
    assert find_unwanted(set(loaded)) == []


def test_a_library_and_a_part_that_builds_are_both_seen() -> None:
    loaded = {"imagebuild.pipeline.pushing", "requests.adapters", "json", "click.core"}
    assert find_unwanted(loaded) == ["imagebuild.pipeline.pushing: for an image that is built", "requests: a library"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_teams_need_is_loaded_once_where_their_processes_follow_one_another(jobs: int) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from imagebuild.commands.options import TeamRun; from imagebuild.workspace import Workspace\n"
        "loaded = lambda team: 'colorsys' in sys.modules\n"
        f"print(dict(TeamRun(('blue', 'red')).side_by_side(Workspace(Path(), jobs={jobs}), loaded, ('colorsys',))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{dict.fromkeys(('blue', 'red'), jobs == 1)}\n"


def test_what_every_build_loads_is_there() -> None:
    assert [name for name in BUILD_MODULES if importlib.util.find_spec(name) is None] == []
