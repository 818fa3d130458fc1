"""The command line as the tests run it: a module of ours or of a library that is loaded in a thread ends the run with an error.

Two threads that load parts of one package in different order wait for each other, and Python ends one of them with a
``_DeadlockError`` (seen once in CI with urllib3). So what threads need is loaded before they start; the standard library, whose late
imports are not ours, does not count.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

LOADED_IN_A_THREAD = 97  # exit code


class ThreadImports(MetaPathFinder):
    """Notes what is looked for in other threads than the main one, and finds nothing itself."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:  # noqa: ARG002
        if threading.current_thread() is not threading.main_thread() and fullname.partition(".")[0] not in sys.stdlib_module_names:
            self.seen.append(f"{fullname} in thread {threading.current_thread().name}")
        return None


def main() -> None:
    """Run the command line with this process's arguments. Exit code LOADED_IN_A_THREAD after a late import, else its own."""
    watch = ThreadImports()
    sys.meta_path.insert(0, watch)
    from imagebuild.cli import main as run

    try:
        run()
    finally:
        if watch.seen:
            print("loaded in a thread: " + ", ".join(watch.seen), file=sys.stderr, flush=True)
            sys.stdout.flush()
            os._exit(LOADED_IN_A_THREAD)


if __name__ == "__main__":
    main()
