"""scripts/environment.py with a real pip and wheels of a folder: installed by hash, killed, two at once, without what it needs."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.builders import make_wheel

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "environment.py"
NAMES = tuple(f"part{number}" for number in range(7))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a lock of seven small wheels, which are in its folder wheels."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    lines = ["# made by nobody\n"]
    for name in NAMES:
        wheel = make_wheel(wheels, name, "1.0", {f"{name}.py": b"X = 1\n"})
        lines.append(
            f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
        )
    (tmp_path / "requirements.lock").write_text("".join(lines))
    return tmp_path


def begin(project: Path, **more: str) -> subprocess.Popen[str]:
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(project / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, str(SCRIPT), ".venv/.installed", "requirements.lock"]
    return subprocess.Popen(
        command, cwd=project, env={**os.environ, **settings, **more}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit code, and what was said on stderr."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said.splitlines()


def list_installed(project: Path) -> list[str]:
    """The names that the environment's own Python can import, of those that the lock has."""
    code = f"import importlib\nfor name in {NAMES!r}:\n    importlib.import_module(name)\n    print(name)"
    done = subprocess.run([project / ".venv/bin/python", "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split()


@pytest.mark.slow
def test_what_is_locked_is_installed_and_only_with_its_hash(project: Path) -> None:
    assert finish(begin(project)) == (0, [])
    assert list_installed(project) == list(NAMES)
    assert not list(project.glob(".venv/lib/*/site-packages/pip*")), "pip itself is not in the lock"
    stamp = (project / ".venv/.installed").stat().st_mtime
    assert finish(begin(project, PIP_FIND_LINKS="/nowhere")) == (0, []), "fresh: nothing is asked for"
    lock = project / "requirements.lock"
    lock.write_text(lock.read_text().replace("part3==1.0", "part3==1.1"))
    os.utime(lock, (stamp + 5, stamp + 5))
    make_wheel(project / "wheels", "part3", "1.1", {"part3.py": b"X = 2\n"})
    code, said = finish(begin(project))
    assert code == 6
    assert any("THESE PACKAGES DO NOT MATCH THE HASHES" in line for line in said)
    assert said[-2:] == [
        "error: pip could not install what requirements.lock asks for",
        "hint: packages come from where pip is pointed (python3 -m pip config list); is that in reach? then run it again",
    ]
    assert (project / ".venv/.installed").stat().st_mtime == stamp, "the next make does it again"


@pytest.mark.slow
def test_after_a_kill_what_was_unfinished_is_installed_again(project: Path) -> None:
    assert finish(begin(project)) == (0, [])
    (site,) = project.glob(".venv/lib/*/site-packages")
    (site / "part2-1.0.dist-info" / "INSTALLER").unlink()  # as a pip leaves it that was killed before it was done
    (site / "part2.py").unlink()
    (project / ".venv/.installed").unlink()
    assert finish(begin(project)) == (0, [])
    assert list_installed(project) == list(NAMES)


@pytest.mark.slow
def test_it_may_be_killed_at_any_moment(project: Path) -> None:
    for delay in (0.3, 0.8, 1.3):
        process = begin(project)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert finish(begin(project)) == (0, [])
    assert list_installed(project) == list(NAMES)


@pytest.mark.slow
def test_two_at_once_make_one_environment(project: Path) -> None:
    processes = [begin(project) for _ in range(2)]
    assert [finish(process) for process in processes] == [(0, []), (0, [])]
    assert list_installed(project) == list(NAMES)


def test_without_ensurepip_it_says_which_package_has_it(project: Path) -> None:
    (project / "ensurepip.py").write_text("raise ImportError\n")
    assert finish(begin(project, PYTHONPATH=str(project))) == (
        3,
        [f"error: {sys.executable} cannot make a virtual environment", "hint: on Debian and Ubuntu: sudo apt-get install python3-venv"],
    )
    assert not (project / ".venv").exists()
