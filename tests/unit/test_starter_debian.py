"""Debian's root file system, made beforehand or in the run itself. A small program stands in for mmdebstrap: when it runs is tested."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.errors import BuildError, ConfigurationError
from imagebuild.recipe import created_epoch
from imagebuild.starter import debian
from imagebuild.starter.lockfile import read_cutoff

ROOT = Path(__file__).parents[2]
SCRIPT = """#!/bin/sh
# mmdebstrap's arguments: four options, the suite, the target
echo once >>"$COUNT"
[ "$DPKG_FORCE $PYTHONDONTWRITEBYTECODE" = "security-mac,downgrade,unsafe-io 1" ] || exit 9
[ -z "$DELAY" ] || sleep "$DELAY"
[ -z "$FAIL" ] || { echo "E: Failed to fetch http://mirror.invalid/debian"; exit 25; } >&2
echo "tar of $SOURCE_DATE_EPOCH" >"$6"
"""
Counter = Callable[[], int]


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """A program named mmdebstrap before all others on PATH; how often it was run."""
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "mmdebstrap"
    tool.write_text(SCRIPT)
    tool.chmod(0o755)
    count = tmp_path / "count"
    count.touch()
    for name, value in (("PATH", f"{tool.parent}:{os.environ['PATH']}"), ("COUNT", str(count)), ("DELAY", ""), ("FAIL", "")):
        monkeypatch.setenv(name, value)
    return lambda: len(count.read_text().split())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one team on the starter base, as the current folder."""
    folder = tmp_path / "project"
    (folder / "images" / "cosml").mkdir(parents=True)
    (folder / "images" / "catalogue.toml").write_text('[base.starter]\nbuild = "starter"\n[base.scipy]\nimage = "r/scipy:1"\n')
    (folder / "images" / "cosml" / "team.toml").write_text('base = "starter"\n')
    monkeypatch.chdir(folder)
    monkeypatch.delenv("IMAGEBUILD_CACHE", raising=False)
    return folder


def read_debian(cache: Path, epoch: int, lines: list[str] | None = None) -> str:
    cache.mkdir(parents=True, exist_ok=True)
    with debian.make_debian(cache, epoch, (lines if lines is not None else []).append) as root:
        return root.wait().read_text()


def test_a_run_makes_its_own(tmp_path: Path, runs: Counter) -> None:
    lines: list[str] = []
    assert read_debian(tmp_path / "cache", 1_700_000_000, lines) == "tar of 1700000000\n"
    assert runs() == 1
    assert len(lines) == 1
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"starter-root.lock"}, "the tar goes away with the block"


def test_one_made_beforehand_is_taken_once(project: Path, runs: Counter) -> None:
    epoch = created_epoch(read_cutoff())
    assert debian.main(["cosml"]) == 0
    assert debian.main(["cosml"]) == 0, "the one that is there will do"
    assert runs() == 1
    cache = project / ".imagebuild" / "cache"
    assert read_debian(cache, epoch) == f"tar of {epoch}\n"
    assert runs() == 1
    assert {path.name for path in cache.iterdir()} == {"starter-root.lock"}
    read_debian(cache, epoch)
    assert runs() == 2


@pytest.mark.parametrize("spoil", ["epoch", "age", "bytes", "note"])
def test_one_that_does_not_fit_is_not_taken(project: Path, runs: Counter, spoil: str) -> None:
    epoch, cache = created_epoch(read_cutoff()), project / ".imagebuild" / "cache"
    debian.main(["cosml"])
    if spoil == "age":
        os.utime(cache / "starter-root.json", (time.time() - 3700,) * 2)
    elif spoil == "bytes":
        (cache / "starter-root.tar").write_text("cut")
    elif spoil == "note":
        (cache / "starter-root.json").write_text("{")
    wanted = epoch + (spoil == "epoch")
    assert read_debian(cache, wanted) == f"tar of {wanted}\n"
    assert runs() == 2


@pytest.mark.slow
def test_a_run_waits_for_the_one_under_way(project: Path, runs: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAY", "1")
    early = subprocess.Popen([sys.executable, "-m", "imagebuild.starter.debian", "cosml"], env={**os.environ, "PYTHONPATH": str(ROOT)})
    deadline = time.monotonic() + 30
    while not runs() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert read_debian(project / ".imagebuild" / "cache", created_epoch(read_cutoff())).startswith("tar of")
    assert early.wait() == 0
    assert runs() == 1


def test_a_failure_beforehand_is_told_by_the_run_that_follows(project: Path, runs: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAIL", "1")
    assert debian.main(["cosml"]) == 0
    with pytest.raises(BuildError, match=r"Failed to fetch <mirror>"):
        read_debian(project / ".imagebuild" / "cache", 1)
    assert runs() == 2


def test_what_nobody_waits_for_is_ended(tmp_path: Path, runs: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELAY", "30")
    (tmp_path / "cache").mkdir()
    started = time.monotonic()

    def interrupt() -> None:
        with debian.make_debian(tmp_path / "cache", 1, print):
            while not runs():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert time.monotonic() - started < 20


def test_without_mmdebstrap_the_run_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "_find_tool", lambda: None)
    with pytest.raises(ConfigurationError, match="mmdebstrap is not installed") as caught:
        read_debian(tmp_path / "cache", 1)
    assert "apt-get install mmdebstrap" in caught.value.hint


@pytest.mark.parametrize(
    ("catalogue", "team", "needed"),
    [
        ('[base.s]\nbuild = "starter"\n', 'base = "s"\n', True),
        ('[base.s]\nimage = "r/s:1"\n', 'base = "s"\n', False),
        ('[base.s]\nbuild = "starter"\n', 'base = "other"\n', False),
        ("base = 3\n", 'base = "s"\n', False),
        ("[base", 'base = "s"\n', False),
        ('[base.s]\nbuild = "starter"\n', "", False),
    ],
)
def test_only_teams_on_the_starter_base_need_it(tmp_path: Path, catalogue: str, team: str, needed: bool) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "catalogue.toml").write_text(catalogue)
    (tmp_path / "t" / "team.toml").write_text(team)
    assert debian.needs_starter(tmp_path, ["t"]) is needed
    assert debian.needs_starter(tmp_path, ["../nobody"]) is False


@pytest.mark.slow
def test_beforehand_it_says_that_it_still_goes_on(
    project: Path, runs: Counter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DELAY", "2")
    monkeypatch.setattr(debian, "_BEAT", 0.5)
    assert (debian.main(["cosml"]), runs()) == (0, 1)
    assert "base starter: fetching Debian bookworm: 1 s" in capfd.readouterr().err.splitlines()
    (project / ".imagebuild/cache/starter-root.json").unlink()
    assert debian.main(["cosml", "--quiet-after", "images/catalogue.toml"]) == 0
    assert len(capfd.readouterr().err.splitlines()) == 1, "the run that follows says the rest"
    assert (project / ".imagebuild/cache/starter-root.tar").is_file()
    assert debian._BEAT < 10


def test_a_layout_with_images_needs_nothing_beforehand(project: Path, runs: Counter) -> None:
    (project / ".imagebuild" / "registry" / "blobs").mkdir(parents=True)
    assert debian.main(["cosml"]) == 0
    assert runs() == 0


def test_it_starts_without_the_environment() -> None:
    code = "import sys, imagebuild.starter.debian; print(sorted({'msgspec', 'click', 'tomlkit'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
