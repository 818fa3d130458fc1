"""Teams side by side, from the command line: in order, each thing made once, one that fails or dies alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.fleetworlds import PACKAGES, TEAMS, MakeFleet, base, fleet_locks, index, index_url, make_fleet
from tests.support.servers.index import SlowIndex
from tests.support.servers.registry import registry

pytestmark = pytest.mark.integration
__all__ = ["base", "fleet_locks", "index", "index_url", "make_fleet", "registry"]  # fixtures


def list_images(text: str) -> list[str]:
    """The teams of the images that a run names on stdout, in its order."""
    return re.findall(r"(?m)^oci:\S+:(\w+):\S+$", text)


def wait_for_teams(process: subprocess.Popen[str]) -> None:
    """Until every team's process is at work."""
    assert process.stderr is not None
    seen: set[str] = set()
    while len(seen) < len(TEAMS):
        line = process.stderr.readline()
        assert line, "it ended before"
        seen |= {team for team in TEAMS if line.startswith(f"{team}: fetching")}


@pytest.mark.parametrize("jobs", ["1", "2", "5"])
def test_all_teams_in_order_and_everything_once(make_fleet: MakeFleet, index: SlowIndex, jobs: str) -> None:
    world = make_fleet()
    index.requests.clear()
    done = world.run("image", "--all", "--jobs", jobs).succeeded()
    assert list_images(done.out) == list(TEAMS)
    files = [path for path, _ in index.requests if path.startswith("/files/")]
    assert len(files) == len(set(files)) == PACKAGES  # whichever team was first
    built = [int(text) for text in re.findall(r"(\d+) of \d+ packages prepared", done.err)]
    assert sum(built) == PACKAGES
    assert len(list((world.cache / "members").iterdir())) == PACKAGES
    assert world.leftovers() == []
    # Every line of progress says whose it is.
    assert [line for line in done.err.splitlines() if not re.search(rf"\b({'|'.join(TEAMS)}): ", line)] == []


def test_jobs_change_no_byte(make_fleet: MakeFleet) -> None:
    found = []
    for jobs in ("1", "4"):
        world = make_fleet(f"world{jobs}")
        answers = json.loads(world.run("image", "--all", "--json", "--jobs", jobs).succeeded().out)
        found.append([(item["team"], item["tag"], item["digest"]) for item in answers])
    assert found[0] == found[1]
    assert [team for team, _, _ in found[0]] == list(TEAMS)


def test_locks_side_by_side(make_fleet: MakeFleet, fleet_locks: dict[str, str], tmp_path: Path) -> None:
    world = make_fleet(locked=False)
    report = tmp_path / "report.md"
    world.run("lock", "--all", "--jobs", "4", "--report", str(report)).succeeded()
    for team, text in fleet_locks.items():
        made = (world.root / f"lockfiles/pylock.{team}.toml").read_text()
        assert re.sub(r"cutoff = .*", "", made) == re.sub(r"cutoff = .*", "", text)
    titles = [team for line in report.read_text().splitlines() if line.startswith("#") for team in TEAMS if team in line]
    assert titles == list(TEAMS)
    checked = world.run("lock", "--all", "--check").succeeded()
    assert [line.partition(":")[0] for line in checked.out.splitlines()] == list(TEAMS)


def test_a_team_that_fails_stops_no_other(make_fleet: MakeFleet) -> None:
    world = make_fleet()
    world.write("images/green/requirements.in", "-e .\n")
    world.write("images/white/team.toml", 'base = "tiny"\nbugdet = 1\n')
    done = world.run("image", "--all", "--json", "--jobs", "3")
    assert done.code == 4  # of the first team that failed, whichever was first to fail
    assert sorted(line.split(":")[1] for line in done.lines("error: ")[:-1]) == [" green", " white"]
    assert done.lines("error: ")[-1] == "error: 2 of 4 teams failed: green, white"
    assert [(item["team"], item.get("exit_code")) for item in json.loads(done.out)] == [
        ("blue", None), ("red", None), ("green", 4), ("white", 3),
    ]  # fmt: skip


def test_a_team_whose_process_is_killed_stops_no_other(make_fleet: MakeFleet, index: SlowIndex) -> None:
    world = make_fleet()
    index.delay = 0.5
    try:
        process = world.start("image", "--all", "--jobs", "4")
        wait_for_teams(process)
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        os.kill(children[0], signal.SIGKILL)
        done = world.finish(process, time.monotonic())
    finally:
        index.delay = 0.0
    assert done.code == 7
    assert done.lines("error: ")[0] == "error: blue: its process was ended by SIGKILL"
    assert "--jobs 1" in done.hint
    assert list_images(done.out) == list(TEAMS[1:])
    world.run("image", "--all").succeeded()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_stopped_by_a_signal_all_stop(make_fleet: MakeFleet, index: SlowIndex, number: int, code: int) -> None:
    world = make_fleet()
    index.delay = 0.5
    try:
        process = world.start("image", "--all", "--jobs", "4")
        wait_for_teams(process)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)  # as a terminal does, as a CI does
        sent = time.monotonic()
        done = world.finish(process, sent)
    finally:
        index.delay = 0.0
    assert done.seconds < 15
    assert done.code == code, done.err
    assert re.search(r"(interrupted|stopped by SIG\w+); nothing half-written was kept$", done.err.strip())
    assert "Traceback" not in done.err
    assert [world.tags(team) for team in TEAMS] == [[]] * 4
    assert [name for name in world.leftovers() if "/wheels/" in name or "/members/" in name] == []
    world.run("image", "--all").succeeded()
