"""The wheel in an environment of its own, and a repository that it makes: the round of somebody who has no clone of this one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from imagebuild import __version__
from tests.support.tools import need
from tests.support.workspaces import PROJECT, Built, LayoutImage

pytestmark = pytest.mark.integration


def run(command: list[str], folder: Path, **environment: str) -> str:
    """A program's stdout, with nothing of this clone on its way."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("IMAGEBUILD_", "PYTHON", "VIRTUAL_ENV", "MAKE"))}
    done = subprocess.run(command, cwd=folder, env={**clean, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def tools(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel and what it asks for, as requirements.lock pins it."""
    folder = tmp_path_factory.mktemp("environment")
    run([sys.executable, "-m", "venv", str(folder)], folder)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile", "--no-deps"]
    run([*install, "--require-hashes", "-r", str(PROJECT / "requirements.lock")], folder)
    run([*install, str(program)], folder)
    run([python, "-m", "pip", "check"], folder)
    return folder / "bin"


def test_the_wheel_has_every_file_of_the_program(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        packed = {name for name in archive.namelist() if name.startswith("imagebuild/")}
    listed = run([need("git"), "ls-files", "-z", "imagebuild"], PROJECT).split("\0")
    tracked = {name for name in listed if name and (PROJECT / name).is_file()}
    assert tracked - packed == {"imagebuild/starter/requirements.in"}, "that one is for imagebuild's own developers"


def test_a_repository_of_ones_own(tools: Path, built: Built, tmp_path: Path) -> None:
    """init, a team, make image twice, an upgrade; the starter base and the wheels that the session has are shared."""
    make, git = need("make"), need("git")
    program = str(tools / "imagebuild")
    path = f"{tools}:{os.environ['PATH']}"
    root = tmp_path / "ours"
    root.mkdir()
    assert __version__ in run([program, "--version"], root)
    made = run([program, "init"], root)
    assert "images/catalogue.toml" in made
    run([git, "init", "-q", "."], root)
    assert ".imagebuild" not in run([git, "status", "--short", "--untracked-files=all"], root)
    run([program, "init", "churn"], root)
    (root / "images/churn/requirements.in").write_text("cloudpickle==3.*\n")
    shutil.copytree(built.checkout.layout, root / ".imagebuild" / "registry", copy_function=os.link)

    def image(**more: str) -> str:
        return run([make, "image", "TEAM=churn"], root, PATH=path, IMAGEBUILD_CACHE=str(built.checkout.cache), **more)

    first = image()
    assert "built in" in first
    name = first.splitlines()[0].partition("registry:")[2]
    headers = LayoutImage.named(root / ".imagebuild" / "registry", name).read_headers()
    assert any(path.endswith("/cloudpickle/__init__.py") for path in headers)
    assert "there already" in image()
    run([program, "lock", "churn", "--check", "--cache-dir", str(built.checkout.cache)], root)
    assert run([make, "check"], root, PATH=path, IMAGEBUILD_CACHE=str(built.checkout.cache)).startswith("churn: ")
    upgraded = run([program, "init", "--upgrade"], root)
    assert {line.split("  ")[-1].strip() for line in upgraded.splitlines()} == {"is up to date"}


def test_the_makefile_says_what_is_missing(tools: Path, tmp_path: Path) -> None:
    run([str(tools / "imagebuild"), "init"], tmp_path)
    cases = ((["image", "IMAGEBUILD=no-such-program", "TEAM=churn"], "make .venv/.installed"), (["image"], "make image TEAM="))
    for arguments, hint in cases:
        done = subprocess.run([need("make"), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["error", "hint"]
        assert hint in done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_with_what_it_is_given(tools: Path, shell: str, tmp_path: Path) -> None:
    """The shell's own parser takes the script; bash, which can be asked, gives the words too."""
    script = tmp_path / f"completion.{shell}"
    script.write_text(run([str(tools / "imagebuild"), "completion", shell], tmp_path))
    run([need(shell), "-n", str(script)], tmp_path)
    if shell == "bash":
        typed = "COMP_WORDS=(imagebuild si); COMP_CWORD=1; COMP_TYPE=9; _imagebuild_completion imagebuild"
        code = f'source "{script}"; {typed}; echo "${{COMPREPLY[@]}}"'
        assert run([need(shell), "-c", code], tmp_path, PATH=f"{tools}:{os.environ['PATH']}").strip() == "size"
