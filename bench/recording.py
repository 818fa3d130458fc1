"""The README's `make image` commands on a clean machine as a picture that plays: docs/first-day.svg.

    python -m bench.recording                       # as root, with docker and mmdebstrap
    python -m bench.recording --cast FILE           # keep the recording (asciicast v2) as well
    python -m bench.recording --from FILE           # draw one that was kept

A bare Debian in a container, a clone of this repository, and the commands, one after the other, on a terminal. Nothing that they print is
changed. It ends with 1 where a text names what belongs to this machine: a host of its package indexes or Debian mirror, or a folder.
"""

from __future__ import annotations

import argparse
import codecs
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.firstday import FOLDER, list_commands, prepare_clone
from bench.screen import Cast, list_frames, parse_cast, render_svg
from tests.support.actions import hand_over_pip, list_pip_files
from tests.support.tools import need_docker, need_root
from tests.support.workspaces import PROJECT

PICTURE = PROJECT / "docs" / "first-day.svg"
TITLE = "A terminal on a clean Debian 12: make image TEAM=cosml sets itself up, builds and pushes the image; run again, it finds the tag"
_COLUMNS, _ROWS = 116, 32
_PLAYS = 20.0  # seconds, however long it took
_FRAMES = 80  # at most, in that time
_REST = 6.0  # seconds that the last frame stays besides


def record(container: str, commands: Sequence[str]) -> Cast:
    """Run the commands on a terminal in the container; what it showed."""
    events: list[tuple[float, str]] = []
    began = time.monotonic()
    for command in commands:
        events.append((time.monotonic() - began, f"$ {command}\r\n"))
        events += [(when - began, data) for when, data in _run_on_terminal(container, command)]
        events.append((time.monotonic() - began, "\r\n"))
    return Cast(_COLUMNS, _ROWS, tuple(events))


def _run_on_terminal(container: str, command: str) -> Iterator[tuple[float, str]]:
    """When (monotonic) something was written, and what; the command must succeed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, _COLUMNS, 0, 0))
    inside = f"stty cols {_COLUMNS} rows {_ROWS}; {command}"
    words = [need_docker(), "exec", "--interactive", "--tty", "--env", "TERM=xterm", "--workdir", FOLDER, container, "bash", "-c", inside]
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    try:
        while True:
            if not select.select([master], [], [], 1.0)[0]:
                if process.poll() is not None:
                    break
                continue
            try:
                data = os.read(master, 1 << 16)
            except OSError:  # the other end is closed
                break
            yield time.monotonic(), decoder.decode(data)
    finally:
        os.close(master)
    if process.wait():
        sys.exit(f"{command}: exit {process.returncode}")


def list_private_texts() -> set[str]:
    """What no picture may show: hosts that this machine's pip and apt are pointed to, and where the clone came from."""
    paths = [Path(mount.split(":")[0]) for mount in list_pip_files()]
    paths += [path for folder in ("/etc/apt/sources.list.d", "/etc/apt/apt.conf.d") for path in Path(folder).glob("*")]
    texts = [path.read_text("utf-8", "replace") for path in (*paths, Path("/etc/apt/sources.list")) if path.is_file()]
    hosts = {host for text in (*texts, *hand_over_pip(os.environ).values()) for host in re.findall(r"://(?:[^/\s@]*@)?([\w.-]+)", text)}
    return {*hosts - {"localhost", "127.0.0.1"}, str(PROJECT), "/origin"}


def make_recording() -> Cast:
    """The README's commands in a machine of their own."""
    need_root()
    with tempfile.TemporaryDirectory(prefix="imagebuild-recording-") as name, prepare_clone(Path(name)) as container:
        return record(container, [item.command for item in list_commands((PROJECT / "README.md").read_text("utf-8"))])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cast", type=Path, help="write the recording here")
    parser.add_argument("--from", dest="source", type=Path, help="draw this recording")
    options = parser.parse_args()
    cast = parse_cast(options.source.read_text("utf-8")) if options.source else make_recording()
    if options.cast:
        options.cast.write_text(cast.dump(), "utf-8")
    took = cast.events[-1][0]
    frames = list_frames(cast, took / _FRAMES)
    private = sorted(text for text in list_private_texts() if any(text in frame.text() for frame in frames))
    if private:
        print(f"the recording names what belongs to this machine: {', '.join(private)}", file=sys.stderr)
        return 1
    PICTURE.write_text(render_svg(frames, cast.columns, TITLE, speed=took / _PLAYS, rest=_REST), "utf-8")
    print(frames[-1].text())
    print(f"# {PICTURE.relative_to(PROJECT)}: {PICTURE.stat().st_size >> 10} KiB, {len(frames)} frames of {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
