"""A new team's folder reads back as what was asked for, and nothing that is there is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.config import load_team
from imagebuild.errors import UsageError
from imagebuild.scaffold import create_team

ROOT = Path(__file__).parents[2]


def test_in_an_empty_place_there_is_a_catalogue_too(tmp_path: Path) -> None:
    made = create_team(tmp_path, "churn", title='Churn: "weekly" \\ models')
    assert [str(path.relative_to(tmp_path)) for path in made] == [
        "images/catalogue.toml", "images/churn/requirements.in", "images/churn/team.toml",
    ]  # fmt: skip
    team = load_team(tmp_path / "images", "churn")
    assert (team.table.base, team.table.display_name) == ("starter", 'Churn: "weekly" \\ models')


def test_beside_others_on_a_base_of_the_catalogue(tmp_path: Path) -> None:
    catalogue = tmp_path / "images" / "catalogue.toml"
    catalogue.parent.mkdir()
    text = (ROOT / "images" / "catalogue.toml").read_bytes()
    catalogue.write_bytes(text)
    create_team(tmp_path, "churn", base="jupyter-scipy")
    assert load_team(tmp_path / "images", "churn").table.base == "jupyter-scipy"
    assert catalogue.read_bytes() == text
    before = (tmp_path / "images/churn/team.toml").read_bytes()
    with pytest.raises(UsageError, match="already"):
        create_team(tmp_path, "churn")
    assert (tmp_path / "images/churn/team.toml").read_bytes() == before


def test_what_cannot_be_leaves_nothing(tmp_path: Path) -> None:
    for name in ("", "Churn", "../x", "a b", "-x"):
        with pytest.raises(UsageError, match="not a team name"):
            create_team(tmp_path, name)
    assert not (tmp_path / "images").exists()
    with pytest.raises(UsageError, match="no base 'starte'") as caught:
        create_team(tmp_path, "churn", base="starte")
    assert "starter" in caught.value.hint
    assert not (tmp_path / "images" / "churn").exists()
