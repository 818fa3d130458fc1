"""team.toml: what is accepted, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.config import load_team, parse_size
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.text import format_size


def write_team(root: Path, text: str, name: str = "alpha") -> Path:
    folder = root / name
    folder.mkdir()
    (folder / "team.toml").write_text(text)
    (folder / "requirements.in").write_text("six\n")
    return root


def test_every_key_has_a_default_but_base(tmp_path: Path) -> None:
    team = load_team(write_team(tmp_path, 'base = "starter"\n'), "alpha")
    assert (team.table.engine, str(team.platform), team.table.layer.codec.name, team.table.layer.codec.level) == (
        "auto",
        "linux/amd64",
        "zstd",
        3,
    )
    assert team.local_packages == ()


def test_local_packages_are_found_in_order(tmp_path: Path) -> None:
    write_team(tmp_path, 'base = "starter"\n')
    for name in ("b", "a", ".hidden"):
        (tmp_path / "alpha/packages" / name).mkdir(parents=True)
        (tmp_path / "alpha/packages" / name / "pyproject.toml").write_text("")
    assert [path.name for path in load_team(tmp_path, "alpha").local_packages] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ('base = "x"\nbudgets = 1\n', "unknown key budgets", "did you mean 'budget'?"),
        ('base = "x"\n[budget]\ncompresed = 1\n', "unknown key budget.compresed", "did you mean 'compressed'?"),
        ('base = "x"\n[[index]]\nname = "a"\nurl = "b"\nnmes = []\n', "unknown key index.nmes in [[index]] 'a'", "did you mean 'name"),
        ("engine = 'auto'\n", "base is missing", "docs/formats.md"),
        ('base = "x"\nengine = "podman"\n', "podman", "docs/formats.md"),
        ('base = "x"\n[budget]\ncompressed = "3 elephants"\n', "not a size: '3 elephants'", "MiB"),
        ('base = "x"\nplatform = "amd64"\n', "not a platform", "linux/amd64"),
        ('base = "x"\n[layer]\ncompression = "gzip"\nlevel = 9\n', "gzip has no level 9", "0 to 3"),
        ('base = "x"\n[env]\n"A B" = "c"\n', "not an environment variable's name", "letters"),
        ('base = "x"\n[[index]]\nname = "default"\nurl = "b"\n', "cannot be called 'default'", "another"),
        ('base = "x"\n[[index]]\nname = "url"\nurl = "b"\n', "cannot be called 'url'", "another"),
        (
            'base = "x"\n[[index]]\nname = "a"\nurl = "https://joe:s3cret@pypi.corp.example/simple/"\n',
            "[[index]] 'a': its url holds a password",
            "env:USER,PASSWORD",
        ),
        ('base = "x"\n[[index]]\nname = "a"\nurl = "https://[/"\n', "[[index]] 'a': its url is not a URL", "correct"),
        (
            'base = "x"\n[[index]]\nname = "a"\nurl = "https://pypi.corp.example/simple/"\ncredentials = "joe:s3cret"\n',
            "[[index]] 'a': credentials must say where they are, not what they are",
            "env:USER,PASSWORD",
        ),
        (
            'base = "x"\n[[index]]\nname = "a"\nurl = "https://a.example/"\nnames = ["x"]\nredirects = ["https://b.example"]\n',
            "[[index]] 'a': not a host: 'https://b.example'",
            "files.corp.example",
        ),
        (
            'base = "x"\n[[index]]\nname = "a"\nurl = "https://a.example/"\nnames = ["cosml-*"]\n'
            '[[index]]\nname = "b"\nurl = "https://b.example/"\ndefault = true\nnames = ["Cosml_Core"]\n',
            "cosml-core is claimed by two package indexes: a, b",
            "narrow the names",
        ),
        ('base = "x"\n[[index]]\nname = "a"\nurl = "ftp://a.example/"\nnames = ["x"]\n', "index 'a' is not http, https or file", "url"),
        (
            'base = "x"\n[[index]]\nname = "a"\nurl = "https://a.example/"\nnames = ["x"]\n[[index]]\nname = "b"\nurl = 1\n',
            "index.url: expected string, got whole number in [[index]] 'b'",
            "docs/formats.md",
        ),
        ('base = "x"\n[[index]]\nurl = "https://a.example/"\n', "index.name is missing in [[index]] number 1", "docs/formats.md"),
        ("base = \n", "not valid TOML", "correct that line"),
    ],
)
def test_a_wrong_file_is_told_what_is_wrong(tmp_path: Path, text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_team(write_team(tmp_path, text), "alpha")
    assert message in caught.value.message
    assert "team.toml" in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_an_unknown_team_names_the_closest(tmp_path: Path) -> None:
    write_team(tmp_path, 'base = "x"\n', "cosml")
    with pytest.raises(UsageError) as caught:
        load_team(tmp_path, "cosmll")
    assert "did you mean 'cosml'?" in caught.value.hint
    for name in ("../cosml", "", "A", "a--b", "a/b"):
        with pytest.raises(UsageError):
            load_team(tmp_path, name)


@pytest.mark.parametrize(("text", "size"), [("300 MiB", 300 << 20), ("1.5GB", 1_500_000_000), ("7", 7), (9, 9), ("2 kib", 2048)])
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@given(st.text(max_size=20))
def test_a_size_is_a_number_or_a_clear_error(text: str) -> None:
    try:
        size = parse_size(text)
    except ConfigurationError:
        return
    assert size >= 0


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 300 << 20, 7 << 30)] == ["0 B", "1023 B", "1.0 KiB", "300.0 MiB", "7.00 GiB"]


SHARED = """
[[index]]
name = "corp"
url = "https://pypi.corp.example/simple/"
names = ["cosml-*"]
credentials = "env:CORP_USER,CORP_PASSWORD"
"""
OWN = """
[[index]]
name = "own"
url = "https://ci@pypi.own.example/simple/"
names = ["own-*"]
"""


def test_shared_indexes_join_the_teams_own_and_the_machines(tmp_path: Path) -> None:
    (tmp_path / "indexes.toml").write_text(SHARED)
    team = load_team(write_team(tmp_path, 'base = "starter"\n' + OWN), "alpha")
    assert [(item.name, item.names, item.default) for item in team.indexes] == [
        ("own", ("own-*",), False),
        ("corp", ("cosml-*",), False),
        ("default", (), True),
    ]


@pytest.mark.parametrize(
    ("shared", "own", "expected"),
    [
        ("machine-index = false\n", "", ["own", "corp"]),
        ("machine-index = false\n", "machine-index = true\n", ["own", "corp", "default"]),
        ("", "machine-index = false\n", ["own", "corp"]),
    ],
)
def test_the_machines_own_index_can_be_ruled_out(tmp_path: Path, shared: str, own: str, expected: list[str]) -> None:
    (tmp_path / "indexes.toml").write_text(shared + SHARED)
    team = load_team(write_team(tmp_path, own + 'base = "starter"\n' + OWN), "alpha")
    assert [item.name for item in team.indexes] == expected


@pytest.mark.parametrize(
    ("shared", "own", "message"),
    [
        (SHARED, OWN.replace('"own"', '"corp"'), "images/indexes.toml has an index 'corp' too"),
        (SHARED + "default = true\n", OWN + "default = true\n", "two package indexes are the default: own and corp"),
        (SHARED.replace("//", "//u:p@"), OWN, "indexes.toml: .*'corp': its url holds a password"),
        (SHARED + SHARED, OWN, "two indexes have the same name"),
        ("machine_index = false\n", OWN, "unknown key machine_index"),
    ],
)
def test_what_is_wrong_between_the_two(tmp_path: Path, shared: str, own: str, message: str) -> None:
    (tmp_path / "indexes.toml").write_text(shared)
    with pytest.raises(ConfigurationError, match=message):
        load_team(write_team(tmp_path, 'base = "starter"\n' + own), "alpha")


def test_indexes_of_all_teams_are_checked_when_a_team_is_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = write_team(tmp_path / "images", 'base = "x"\n')
    (images / "indexes.toml").write_text('[[index]]\nname = "corp"\nurl = "https://a.example/"\nnames = ["x"]\nredirects = ["a b"]\n')
    with pytest.raises(ConfigurationError, match=r"indexes\.toml: \[\[index\]\] 'corp': not a host"):
        load_team(images, "alpha")
    (images / "indexes.toml").write_text('[[index]]\nname = "corp"\nurl = "https://a.example/"\n')
    with pytest.raises(ConfigurationError, match=r"images/indexes\.toml: package index 'corp' serves no names"):
        load_team(images, "alpha")
