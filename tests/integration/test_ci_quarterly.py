"""A quarter's update of one team by the script that CI calls: a real repository and base, and an index that got a newer version."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagebuild.catalogue.description import find_commit
from tests.support import images
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.workspaces import PROJECT
from tests.support.worlds import World, push_small_base

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def index() -> SlowIndex:
    return SlowIndex()


@pytest.fixture(scope="module")
def world(hub: Registry, index: SlowIndex, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A repository whose team is locked to the one version there was."""
    folder = tmp_path_factory.mktemp("quarterly")
    base = push_small_base(images.debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs"), folder, hub)
    publish(index, folder, "alpha", "1.0")
    with index.serve() as url:
        world = World(folder / "world", base, url, warm=False)
        world.run("lock", "blue", "--as-of", "2026-07-01").succeeded()
        world.write(".gitignore", ".imagebuild/\nno-docker-config\n")
        git(world, "init", "-q", "-b", "main")
        git(world, "config", "user.name", "tester")
        git(world, "config", "user.email", "tester@example.com")
        git(world, "add", "-A")
        git(world, "commit", "-qm", "before")
        yield world


def git(world: World, *arguments: str) -> str:
    done = subprocess.run([need("git"), "-C", str(world.root), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_script(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = world.root / ".imagebuild" / "program"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagebuild.cli "$@"\n')
    program.chmod(0o755)
    environment = {**world.environment(), "IMAGEBUILD": str(program), "PATH": os.environ["PATH"]}
    script = str(PROJECT / "scripts" / "quarterly.sh")
    return subprocess.run(["bash", script, *arguments], cwd=world.root, env=environment, capture_output=True, text=True, check=False)


def test_a_quarter_is_a_commit_a_report_and_a_patch_that_applies_elsewhere(world: World, index: SlowIndex, tmp_path: Path) -> None:
    before = git(world, "rev-parse", "HEAD").strip()
    done = run_script(world, "blue", "2026-10-01")  # there is nothing new yet
    assert done.returncode == 0, done.stderr
    assert "blue: nothing changed until 2026-10-01" in done.stdout
    assert git(world, "status", "--porcelain") == ""
    assert git(world, "branch", "--format=%(refname:short)").split() == ["main"]

    publish(index, tmp_path, "alpha", "1.1")
    done = run_script(world, "blue", "2026-10-01")
    assert done.returncode == 0, done.stderr
    assert git(world, "branch", "--show-current").strip() == "images/blue-2026q4"
    assert git(world, "show", "--format=", "--name-only", "HEAD").split() == ["lockfiles/pylock.blue.toml"]
    report = (world.root / ".imagebuild/quarterly/blue.md").read_text()
    assert "| alpha | 1.0 | 1.1 |" in report.replace("&#45;", "-")
    assert "| blue |" in report
    world.run("lock", "blue", "--check", "--offline").succeeded()
    # What `catalogue show` prints finds the commit a lock was made in, also when it was replaced since.
    found = subprocess.run(
        find_commit("blue", "2026-07-01T00:00:00Z"), shell=True, cwd=world.root, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == before

    # What writes to the repository takes the patch, and nothing of it outside the two folders.
    patch = world.root / ".imagebuild/quarterly/blue.patch"
    file = ".github/workflows/x.yml"
    evil = f"diff --git a/{file} b/{file}\nnew file mode 100644\n--- /dev/null\n+++ b/{file}\n@@ -0,0 +1 @@\n+evil\n"
    patch.write_text(f"{patch.read_text()}\n{evil}")
    git(world, "switch", "-q", "--detach", before)
    git(world, "apply", "--index", "--include=images/*", "--include=lockfiles/*", str(patch))
    assert git(world, "diff", "--cached", "--name-only").split() == ["lockfiles/pylock.blue.toml"]
    git(world, "commit", "-qm", "applied")
    assert git(world, "diff", "--stat", "images/blue-2026q4") == ""

    # An older date proposes no older versions.
    done = run_script(world, "blue", "2026-07-01")
    assert done.returncode == 0, done.stderr
    assert "blue: the lock has files until 2026-10-01T00:00:00Z already: not until 2026-07-01" in done.stdout
    assert "blue: nothing changed until 2026-10-01T00:00:00Z" in done.stdout
    assert git(world, "diff", "--stat", "images/blue-2026q4") == ""

    teams = world.run("ci", "teams", "--since", before, "--json").succeeded().out
    assert teams == '["blue"]\n'
    assert world.run("ci", "teams", "--since", "HEAD").succeeded().out == ""
    assert world.run("ci", "teams", "--since", "0" * 40).succeeded().out == "blue\n"
    world.run("ci", "teams", "--since", "nothing").refused(2, "no commit 'nothing'", "whole history")
    world.run("ci", "teams", "--since", "--output=x").refused(2, "no commit")


def test_what_is_not_committed_stops_it(world: World) -> None:
    world.write("images/blue/requirements.in", "alpha<2\n")
    done = run_script(world, "blue")
    assert done.returncode == 2
    assert "not committed" in done.stderr
    assert run_script(world, "../x").returncode == 2
    assert run_script(world, "blue", "soon").returncode == 2
