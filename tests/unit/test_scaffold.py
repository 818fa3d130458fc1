"""A new team's folder reads back as what was asked for, and nothing that is there is touched."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from imagebuild import __version__
from imagebuild.base.pins import load_catalogue
from imagebuild.config import load_team
from imagebuild.emit.prewarm.pools import load_pools
from imagebuild.errors import UsageError
from imagebuild.scaffold import repository
from imagebuild.scaffold.repository import FOLLOWING, OWN, Written, create_repository, upgrade_repository
from imagebuild.scaffold.team import create_team

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


# --- a whole repository ---------------------------------------------------------------------------------------------


def outcomes(written: list[Written]) -> dict[str, str]:
    return {item.path: item.outcome for item in written}


def bring_newer(monkeypatch: pytest.MonkeyPatch, folder: Path, change: tuple[str, str], name: str = "Makefile") -> None:
    """A newer version of the program, whose template of ``name`` has ``change`` made."""
    shutil.copytree(repository._TEMPLATE, folder)
    text = (folder / name).read_text()
    assert text.count(change[0]) == 1
    (folder / name).write_text(text.replace(*change))
    monkeypatch.setattr(repository, "_TEMPLATE", folder)


def test_an_empty_folder_becomes_a_repository(tmp_path: Path) -> None:
    written = outcomes(create_repository(tmp_path))
    assert set(written.values()) == {"made"}
    found = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path for path in found if not path.startswith(".scaffold/")} == set(written)
    assert {"images/catalogue.toml", "images/pools.toml", "lockfiles/.gitkeep", "Makefile", ".gitignore"} <= set(written)
    assert (tmp_path / "scripts/quarterly.sh").stat().st_mode & 0o111
    assert f"imagebuild=={__version__}\n" in (tmp_path / "imagebuild.txt").read_text()
    assert "starter" in load_catalogue(tmp_path / "images" / "catalogue.toml").bases
    load_pools(tmp_path / "images" / "pools.toml")
    create_team(tmp_path, "churn")
    with pytest.raises(UsageError, match="has images/ already"):
        create_repository(tmp_path)


def test_what_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("ours")
    (tmp_path / ".gitignore").write_text("*.log\n")
    written = outcomes(create_repository(tmp_path))
    assert {path for path, outcome in written.items() if outcome == "kept"} == {"README.md", ".gitignore"}
    assert (tmp_path / "README.md").read_text() == "ours"
    assert outcomes(upgrade_repository(tmp_path)).pop(".gitignore") == "same"
    assert (tmp_path / ".gitignore").read_text() == "*.log\n"


def test_the_same_version_again_changes_nothing(tmp_path: Path) -> None:
    create_repository(tmp_path)
    (tmp_path / "Makefile").write_text("# ours alone\n")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(outcomes(upgrade_repository(tmp_path)).values()) == {"same"}
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_newer_version_comes_and_edits_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    create_repository(root)
    makefile = root / "Makefile"
    makefile.write_text(makefile.read_text() + "\nours:\n\techo ours\n")
    (root / "scripts/quarterly.sh").unlink()
    bring_newer(monkeypatch, tmp_path / "newer", ("VENV := .venv", "VENV := .venv-of-version-2"))
    monkeypatch.setattr(repository, "__version__", "2.0")
    done = outcomes(upgrade_repository(root))
    assert done["Makefile"] == "merged"
    assert "VENV := .venv-of-version-2" in makefile.read_text()
    assert makefile.read_text().endswith("\nours:\n\techo ours\n")
    assert done["imagebuild.txt"] == "updated"
    assert "imagebuild==2.0\n" in (root / "imagebuild.txt").read_text()
    assert done["scripts/quarterly.sh"] == "removed"
    assert not (root / "scripts/quarterly.sh").exists()
    assert set(outcomes(upgrade_repository(root)).values()) == {"same", "removed"}


@pytest.mark.parametrize("git", [True, False])
def test_where_both_changed_a_line_the_file_stays_and_the_newer_one_is_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, git: bool
) -> None:
    root = tmp_path / "repository"
    create_repository(root)
    makefile = root / "Makefile"
    ours = makefile.read_text().replace("VENV := .venv", "VENV := /opt/venv")
    makefile.write_text(ours)
    if not git:
        monkeypatch.setattr(shutil, "which", lambda _: None)
    bring_newer(monkeypatch, tmp_path / "newer", ("VENV := .venv", "VENV := .venv-of-version-2"))
    for _ in range(2):
        assert outcomes(upgrade_repository(root))["Makefile"] == "conflict"
        assert makefile.read_text() == ours
        assert "VENV := .venv-of-version-2" in (root / "Makefile.new").read_text()
    makefile.write_text((root / "Makefile.new").read_text())  # they take it
    assert outcomes(upgrade_repository(root))["Makefile"] == "same"


def test_upgrading_what_was_never_made_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="was not made by imagebuild init"):
        upgrade_repository(tmp_path)


@pytest.mark.parametrize("path", [path for path in FOLLOWING if path.startswith((".github/", "scripts/"))])
def test_workflows_and_script_are_those_that_are_tested_here(path: str) -> None:
    template = repository._TEMPLATE / FOLLOWING[path]
    assert template.read_bytes() == (ROOT / path).read_bytes(), f"cp {path} {template.relative_to(ROOT)}"


def test_every_template_is_used() -> None:
    used = {repository._TEMPLATE / source for source in {**FOLLOWING, **OWN}.values() if source}
    assert used == {path for path in repository._TEMPLATE.rglob("*") if path.is_file()}
