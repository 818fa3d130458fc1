"""What a person sees who types something: the first day's commands, one example for each command, and what was meant."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from imagebuild.cli import COMMANDS, FIRST_DAY, cli, main
from imagebuild.commands.completion import VARIABLE
from imagebuild.commands.examples import EXAMPLES

ROOT = Path(__file__).parents[2]


def list_commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with its words."""
    if not isinstance(command, click.Group):
        yield words, command
        return
    if command.invoke_without_command:
        yield words, command
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from list_commands(inner, (*words, name))


ALL = dict(list_commands(cli))


def test_alone_it_shows_the_first_day_first() -> None:
    shown = CliRunner().invoke(cli, []).output
    lines = [line.split()[0] for line in shown.splitlines() if line.startswith("  ") and not line.startswith("   ") and line.split()]
    named = [word for word in lines if word in COMMANDS]
    assert named[: len(FIRST_DAY)] == list(FIRST_DAY)
    assert sorted(named) == sorted(COMMANDS)


def test_there_is_one_example_for_each_command_and_none_for_others() -> None:
    assert sorted(EXAMPLES) == sorted(" ".join(words) for words in ALL)


@pytest.mark.parametrize("words", sorted(ALL))
def test_the_example_is_shown_and_is_understood(words: tuple[str, ...]) -> None:
    example = EXAMPLES[" ".join(words)]
    assert f"  {example}\n" in CliRunner().invoke(cli, [*words, "--help"]).output
    plain = example.removeprefix('eval "$(').removesuffix(')"')
    program, *arguments = shlex.split(plain)
    assert program == "imagebuild"
    assert tuple(arguments[: len(words)]) == words
    ALL[words].make_context(" ".join(words), arguments[len(words) :])  # UsageError: an option or a value that is not known


@pytest.mark.parametrize("words", sorted(ALL))
def test_every_option_says_what_it_does(words: tuple[str, ...]) -> None:
    silent = [item.name for item in ALL[words].params if isinstance(item, click.Option) and not item.help and not item.show_default]
    assert silent == []


def run_main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    monkeypatch.setattr(sys, "argv", ["imagebuild", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("imag",), "'image'"),
        (("base", "inspct"), "'inspect'"),
        (("image", "--regstry", "x"), "--registry"),
        (("image", "cosm", "--root", str(ROOT)), "'cosml'"),
        (("init", "churn", "--base", "startr", "--root", str(ROOT)), "'starter'"),
        (("base", "pin", "startr", "--root", str(ROOT)), "'starter'"),
        (("completion", "bsh"), "'bash'"),
    ],
)
def test_what_was_meant_is_suggested(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], meant: str
) -> None:
    lines = run_main(monkeypatch, capsys, *arguments).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["error", "hint"]
    assert meant in " ".join(lines)


def test_nothing_is_suggested_for_what_is_like_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean" not in run_main(monkeypatch, capsys, "xyzzy")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    text = CliRunner().invoke(cli, ["completion", shell]).output
    assert f"{VARIABLE}={shell}_complete" in text
    assert "imagebuild" in text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("si", ["size"]),
        ("size c", ["cosml"]),
        ("base inspect st", ["starter"]),
        ("image --reg", ["--registry", "--registry-ca"]),
        ("size nob", []),
    ],
)
def test_words_are_completed_as_bash_asks(typed: str, expected: list[str]) -> None:
    words = ["imagebuild", *typed.split(" ")]
    environment = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'imagebuild'; from imagebuild.cli import main; main()"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert [line.partition(",")[2] for line in done.stdout.splitlines() if line] == expected


def test_a_shell_gets_no_error(tmp_path: Path) -> None:
    environment = {**os.environ, VARIABLE: "bash_complete", "COMP_WORDS": "imagebuild size ", "COMP_CWORD": "2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", "import sys; sys.argv[0] = 'imagebuild'; from imagebuild.cli import main; main()"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("", "")
