"""The example teams of bases that cannot be pulled everywhere: their files are read as a team's are."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.base.pins import load_catalogue
from imagebuild.config import list_teams, load_team

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*/images"))


@pytest.mark.parametrize("images", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_an_example_team_can_be_read_and_its_base_is_in_the_catalogue(images: Path) -> None:
    (name,) = list_teams(images)
    assert name == images.parent.name
    team = load_team(images, name)
    base = load_catalogue(images / "catalogue.toml").get(team.table.base)
    assert (ROOT / base.description.rpartition("made by ")[2]).is_file()
    assert team.addon_kinds
