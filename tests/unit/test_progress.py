"""Progress as a person sees it: bars on a terminal (a real pseudo-terminal), lines elsewhere, nothing where it was not asked for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import click
import pytest

from imagebuild import progress
from imagebuild.commands import display
from imagebuild.commands.display import is_live
from imagebuild.commands.options import TeamRun
from imagebuild.workspace import Workspace

ROOT = Path(__file__).parents[2]
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"

# A command of ours in small: it reports, fetches for as long as it is told, and prints data.
PROGRAM = """
import sys, time
import click
from imagebuild import cli, progress
from imagebuild.commands.options import common_options, print_data
from imagebuild.errors import BuildError
from tests.support.watched import ThreadImports

@click.command()
@click.argument("seconds", type=float)
@click.option("--json", "as_json", is_flag=True)
@common_options
def small(workspace, seconds, as_json):
    if seconds:
        workspace.report("something first")
        with progress.step("fetching 8 of 9 wheels, 79.5 MiB", 80 << 20, report=workspace.report):
            for _ in range(20):
                time.sleep(seconds / 20)
                progress.advance(4 << 20)
    print_data('{"json": true}' if as_json else "the data")
    if seconds == 0.5:
        raise BuildError("it broke", "mend it")

watch = ThreadImports()
sys.meta_path.insert(0, watch)
cli.cli = small
try:
    cli.main()
finally:
    assert not watch.seen, watch.seen
    print("rich" in sys.modules, file=sys.stderr)
"""


def prepare(more: Mapping[str, str]) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "CI", "FORCE_COLOR", "COLUMNS", "LINES")}
    return {**plain, "TERM": "xterm", "PYTHONPATH": str(ROOT), **more}


def run_on_terminal(*arguments: str, columns: int = 100, interrupt: float = 0, **environment: str) -> tuple[int, str, str]:
    """Exit code, what the terminal got on stderr, and stdout, which is a pipe."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-c", PROGRAM, *arguments]
    process = subprocess.Popen(command, stdin=child, stdout=subprocess.PIPE, stderr=child, env=prepare(environment), cwd=ROOT)
    os.close(child)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                data = os.read(parent, 1 << 16)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            shown.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    if interrupt:
        deadline = time.monotonic() + 60
        while HIDE_CURSOR.encode() not in shown and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
    data = process.communicate()[0].decode()
    code = process.returncode
    reader.join(10)
    os.close(parent)
    return code, shown.decode(), data


def run_in_pipe(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=prepare(environment), cwd=ROOT)


def strip_codes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


@pytest.mark.slow
def test_a_terminal_gets_a_bar_that_is_taken_away_again() -> None:
    code, shown, data = run_on_terminal("2")
    assert (code, data) == (0, "the data\n")
    assert re.search(r"of 80\.0 MiB, \d+%, \d+\.\d MiB/s", strip_codes(shown))
    assert "━" in shown
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) > 0
    assert shown.rindex(SHOW_CURSOR) < shown.rindex("True")
    lines = [line.rpartition("\r")[2] for line in strip_codes(shown).replace("\r\n", "\n").split("\n")]
    assert lines[:2] == ["something first", "fetching 8 of 9 wheels, 79.5 MiB"]


@pytest.mark.slow
def test_a_narrow_terminal_gets_the_numbers_on_one_line() -> None:
    _, shown, _ = run_on_terminal("2", columns=30)
    drawn = [part for part in re.split(r"[\r\n]+", strip_codes(shown)) if " of 80.0 MiB" in part]
    assert drawn
    assert max(map(len, drawn)) <= 30


@pytest.mark.slow
def test_no_color_is_kept_to() -> None:
    _, shown, _ = run_on_terminal("2", NO_COLOR="1")
    assert "━" in shown
    assert not re.search(r"\x1b\[[0-9;]*(3[0-7]|9[0-7])m", shown)
    code, shown, _ = run_on_terminal("0.5", NO_COLOR="1")
    assert code != 0
    assert "error: it broke\r\nhint: mend it\r\n" in shown


@pytest.mark.slow
def test_errors_are_red_and_hints_dim_on_a_terminal_alone() -> None:
    code, shown, _ = run_on_terminal("0.5")
    assert code != 0
    assert re.search(r"\x1b\[31m\x1b\[1merror:\x1b\[0m it broke", shown)
    assert "\x1b[2mhint: mend it\x1b[0m" in shown
    assert "error: it broke\nhint: mend it\n" in run_in_pipe("0.5").stderr


@pytest.mark.slow
def test_an_interrupt_gives_the_cursor_back() -> None:
    code, shown, _ = run_on_terminal("60", interrupt=1)
    assert code == 130
    assert shown.count(HIDE_CURSOR) == shown.count(SHOW_CURSOR) > 0
    assert "interrupted; nothing half-written was kept" in shown[shown.rindex(SHOW_CURSOR) :]


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_quiet_is_quiet(terminal: bool) -> None:
    shown = run_on_terminal("1", "--quiet")[1] if terminal else run_in_pipe("1", "--quiet").stderr
    assert shown.strip() == "False"


@pytest.mark.slow
def test_json_is_unaffected() -> None:
    assert run_on_terminal("1", "--json")[2] == '{"json": true}\n'
    assert run_in_pipe("1", "--json").stdout == '{"json": true}\n'


def test_nothing_to_do_loads_nothing_to_draw_with() -> None:
    assert run_on_terminal("0")[1].strip() == "False"


@pytest.mark.slow
def test_elsewhere_there_are_plain_lines_and_no_long_silence(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(display, "SILENCE", 0.3)
    monkeypatch.setattr(display, "_WORTH_A_SUMMARY", 0.5)
    with display.Display():
        with progress.step("fetching wheels", 80 << 20, report=display.print_progress):
            progress.advance(20 << 20)
            time.sleep(1)
        display.print_progress("resolving")
        time.sleep(1)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "fetching wheels"
    assert re.fullmatch(r"fetching wheels: 20\.0 MiB of 80\.0 MiB, 25%, \d+\.\d MiB/s", lines[1])
    assert any(re.fullmatch(r"fetching wheels: .*, \d s", line) for line in lines), "how long it took, and how fast"
    assert re.fullmatch(r"resolving: \d s", lines[-1])
    assert not any("\x1b" in line for line in lines)
    assert display.SILENCE < 10


def test_a_forked_process_has_no_display_and_no_steps() -> None:
    with display.Display(), progress.step("parent's", 10):
        pid = os.fork()
        if not pid:
            clean = display._current is None and progress.find_current() is None
            progress.advance(1)
            os._exit(0 if clean else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert progress.find_current() is not None


def test_of_several_teams_it_says_how_many_are_done(tmp_path: Path) -> None:
    workspace, seen = Workspace(tmp_path, jobs=1), []
    with click.Context(click.Command("image")):
        for _ in TeamRun(("blue", "green", "red")).side_by_side(workspace, str.upper):
            step = progress.find_current()
            assert step is not None
            seen.append(f"{step.line}: {step.describe()}")
    assert seen[-1] == "done: 3 of 3 teams"
    assert progress.find_current() is None


def test_what_streams_past_counts_for_the_innermost_step_of_its_unit() -> None:
    progress.advance(5)  # nothing is under way
    with progress.step("outer", 100) as outer, progress.step("members", 3, "packages") as members:
        progress.advance(10)
        progress.advance(1, "packages")
        with progress.step("inner", 50) as inner:
            progress.advance(7)
    assert (outer.done, members.done, inner.done) == (10, 1, 7)
    assert members.describe() == "1 of 3 packages"
    assert progress.find_current() is None


@pytest.mark.parametrize(
    ("environment", "terminal", "live"),
    [
        ({"TERM": "xterm-256color"}, True, True),
        ({"TERM": "xterm-256color"}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({}, True, False),
        ({"TERM": "xterm", "CI": "true"}, True, False),
    ],
)
def test_where_lines_can_be_drawn_over(environment: dict[str, str], terminal: bool, live: bool) -> None:
    assert is_live(environment, terminal) is live
