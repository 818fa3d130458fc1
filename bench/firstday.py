"""The first day of somebody with nothing but the README: a bare Debian with git, make and Python, a clone, the README's commands.

    python -m bench.firstday        # as root, with docker and mmdebstrap

Prints each command with what comes, how long it took and how many CPU seconds; ends with 1 where lines differ from those that the
README shows.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from imagebuild.engine.machinesources import SUITE, read_machine_sources
from tests.support.actions import hand_over_pip, list_pip_files, run_container
from tests.support.pages import Shown, mask, read_page
from tests.support.tools import need, need_docker, need_root
from tests.support.workspaces import PROJECT

PACKAGES = "ca-certificates,git,make,python3,python3-venv"
FOLDER = "/home/you/imagebuild"
# What the README leaves out: how far it is, how long it took, and what is installed for a user who is root.
_LEFT_OUT = re.compile(r"\S.*: \d+ s$|working: |preparing packages: |.*[KMG]iB of .* [\d.]+ [KMG]iB/s|installing mmdebstrap |  built in ")


def list_commands(page: str) -> list[Shown]:
    """The README's own ``$ make image`` blocks, also those that a test leaves out because they take a machine of their own."""
    commands = read_page(page.replace("<!-- not run -->\n", ""))
    return [item for item in commands if isinstance(item, Shown) and item.command.startswith("make image")]


def select_lines(text: str) -> list[str]:
    """What a run printed, masked, without lines that the README leaves out."""
    return [mask(line) for line in text.splitlines() if not _LEFT_OUT.match(line)]


@contextlib.contextmanager
def make_machine(folder: Path) -> Iterator[str]:
    """A bare Debian as an image of the local Docker, until the block ends; its name."""
    tar = folder / "debian.tar"
    include = f"--include={PACKAGES}"
    command = [need("mmdebstrap"), "--quiet", "--variant=minbase", include, "--format=tar", SUITE, str(tar), *read_machine_sources()]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    name = f"imagebuild-first-day:{uuid.uuid4().hex[:12]}"
    subprocess.run([need_docker(), "import", str(tar), name], check=True, capture_output=True)
    tar.unlink()
    try:
        yield name
    finally:
        subprocess.run([need_docker(), "rmi", name], check=False, capture_output=True)


@contextlib.contextmanager
def prepare_clone(folder: Path) -> Iterator[str]:
    """A container of such a machine with a clone of this repository's last commit in :data:`FOLDER`, until the block ends; its id."""
    origin = folder / "origin"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(PROJECT), str(origin)], check=True)
    with make_machine(folder) as image, run_container(image, list_mounts(origin), hand_over_pip(os.environ)) as container:
        run_inside(container, f"mkdir -p /home/you && git clone --quiet /origin {FOLDER}")
        yield container


def list_mounts(origin: Path) -> list[str]:
    """``origin``, the repository to clone, and what reaches this machine's package indexes and Debian mirror."""
    apt = Path("/etc/apt/apt.conf.d")
    settings = [path for path in apt.glob("*") if re.search(r"^\s*Acquire::", path.read_text(errors="replace"), re.MULTILINE)]
    return [f"{origin}:/origin:ro", *list_pip_files(), *(f"{path}:{path}:ro" for path in sorted(settings))]


def run_inside(container: str, script: str, folder: str = "/") -> str:
    """What a line of shell prints on both streams, in one order; it must succeed."""
    command = [need_docker(), "exec", "--workdir", folder, container, "bash", "-c", f"exec 2>&1; {script}"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{script}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def compare(item: Shown, text: str) -> list[str]:
    """What differs between the lines that the README shows and those that came, masked: ``- shown``, ``+ came``."""
    shown, come = select_lines("\n".join(item.lines)), select_lines(text)
    if shown == come:
        return []
    return [*(f"- {line}" for line in shown if line not in come), *(f"+ {line}" for line in come if line not in shown)] or ["another order"]


def main() -> int:
    need_root()
    faults = 0
    with tempfile.TemporaryDirectory(prefix="imagebuild-first-day-") as name, prepare_clone(Path(name)) as container:
        for item in list_commands((PROJECT / "README.md").read_text("utf-8")):
            began = time.monotonic()
            *lines, used = run_inside(container, f"TIMEFORMAT='%U %S'; time {item.command}", FOLDER).splitlines()
            taken = f"# {time.monotonic() - began:.1f} s, {sum(map(float, used.split())):.0f} CPU seconds"
            print(f"$ {item.command}", *lines, taken, sep="\n", flush=True)
            differences = compare(item, "\n".join(lines))
            faults += bool(differences)
            print("".join(f"# {line}\n" for line in differences), end="")
    print(f"# {faults} commands differ from the README" if faults else "# as the README shows")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
