"""BENCH_FOLDER, where benchmarks work: one at a time, and what they make there for a while goes with them."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from imagebuild.files import exclusive


@contextlib.contextmanager
def hold_folder() -> Iterator[Path]:
    """BENCH_FOLDER (default .imagebuild/bench) for this benchmark alone: two at once would remove each other's files.

    Ctrl-C, SIGTERM and a closed terminal end the block as other exceptions do, and then the benchmark, with one line and exit 130.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    root = Path(os.environ.get("BENCH_FOLDER", ".imagebuild/bench")).resolve()
    try:
        with exclusive(root / "bench.lock", wait=False) as held:
            if not held:
                sys.exit(f"another benchmark uses {root}: wait for its end, or name another folder in BENCH_FOLDER")
            yield root
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def fresh_folders(*folders: Path) -> Iterator[None]:
    """Nothing is in ``folders`` at the start, whatever a killed run left there, and they are gone at the end, however that comes."""
    for folder in folders:
        remove_folder(folder)
    try:
        yield
    finally:
        for folder in folders:
            remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """With all that is in it; what cannot be removed ends the benchmark."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():
            sys.exit(f"{folder} changes while it is removed: end what still writes there, and run it again")
    except OSError as error:
        sys.exit(f"{error.filename or folder} cannot be removed: {error.strerror}")
