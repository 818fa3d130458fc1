"""What doctor finds in a checkout's own files, without any part of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.diagnosis import diagnose
from imagebuild.workspace import Workspace

TEAM = 'base = "{base}"\n[[index]]\nname = "corp"\nurl = "{url}"\ndefault = true\n'
CATALOGUE = """
[base.here]
build = "starter"
kind = "jupyter"
[base.loose]
reference = "localhost:9/ml/base"
tag = "v1"
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for team, base in (("one", "here"), ("two", "loose"), ("three", "absent")):
        folder = tmp_path / "images" / team
        folder.mkdir(parents=True)
        (folder / "team.toml").write_text(TEAM.format(base=base, url=tmp_path.as_uri()))
        (folder / "requirements.in").write_text("")
    (tmp_path / "images" / "catalogue.toml").write_text(CATALOGUE)
    return Workspace(tmp_path, tmp_path / "cache")


def test_each_base_of_a_team_is_ready_or_a_problem_with_its_command(workspace: Workspace) -> None:
    found = {item.subject: item for item in diagnose(workspace) if item.subject.startswith("base ")}
    assert {name: (item.status, item.text) for name, item in found.items()} == {
        "base here": ("ok", "is built here"),
        "base loose": ("problem", "is not pinned"),
        "base absent": ("problem", f"there is no base 'absent' in {workspace.root}/images/catalogue.toml"),
    }
    assert found["base loose"].hint == "run: imagebuild base pin loose"


def test_teams_that_cannot_be_read_are_named_beside_those_that_can(workspace: Workspace) -> None:
    (workspace.root / "images" / "two" / "team.toml").write_text("base = 1\n")
    found = {item.subject: item for item in diagnose(workspace)}
    assert (found["teams"].status, found["teams"].text) == ("ok", "2 can be read, without a lock: one, three")
    assert found["team two"].status == "problem"
