"""What ``slim`` in team.toml leaves out of the installed wheels: which files, and how RECORD stays true.

Both engines use it: the direct one before it writes a member, the docker one after pip has installed. There it runs in the base,
where nothing of imagebuild is: standard library only, for Python 3.8 and newer.
"""

import csv
import os
import site
import sys
from pathlib import Path
from typing import Callable, Iterable, Set  # noqa: UP035 - for Python 3.8

RULES = 1  # part of an image's key where slim is set: raise it whenever another file would be left out
SLIM_KINDS = ("headers", "pyi", "static-libs", "tests")
TESTS_BYTECODE = "tests-bytecode"  # what ``bytecode = "imported"`` adds to them: the .pyc of what ``tests`` would leave out
_SUFFIXES = {
    "headers": (".h", ".hh", ".hpp", ".hxx", ".cuh", ".pxd"),
    "pyi": (".pyi",),
    "static-libs": (".a", ".la", ".lib", ".o"),
}
_USES_STUB = b"attach_stub"  # lazy_loader reads the .pyi beside such a module while the program runs


def find_slim_kind(row: str) -> str:
    """Which of SLIM_KINDS a file is, by its name as RECORD has it; empty for a file that always stays.

    ``tests``: anything below a folder of that name. The .dist-info folder, and scripts, stay.
    """
    parts = row.split("/")
    if parts[0].endswith(".dist-info"):
        return ""
    if parts[0] != ".." and "tests" in parts[:-1]:
        return "tests"
    return next((kind for kind, suffixes in _SUFFIXES.items() if row.endswith(suffixes)), "")


def is_tests_bytecode(row: str) -> bool:
    """Whether a file is bytecode of a test package, which no notebook imports."""
    return row.endswith(".pyc") and find_slim_kind(row) == "tests"


def choose_dropped(rows: Iterable[str], kinds: Iterable[str], read: Callable[[str], bytes]) -> Set[str]:  # noqa: UP006
    """The files of one wheel that go. ``rows``: all its names as RECORD has them; ``read`` gives a file's content by that name."""
    names, wanted = set(rows), set(kinds)
    dropped = {row for row in names if find_slim_kind(row) in wanted or (TESTS_BYTECODE in wanted and is_tests_bytecode(row))}
    needed = {row for row in dropped if row.endswith(".pyi") and row[:-1] in names - dropped and _USES_STUB in read(row[:-1])}
    return dropped - needed


def slim_installed(roots: Iterable[str], before: Set[str], kinds: Iterable[str]) -> None:  # noqa: UP006
    """Drop files of the distributions under ``roots`` whose .dist-info folder is not in ``before``: all files and folders there were.

    What a package carries inside itself is no distribution: Python does not look there. What was there before stays, whoever
    lists it now.
    """
    sites = {os.path.realpath(folder) for folder in [*sys.path, *site.getsitepackages()]}
    for root in roots:
        for folder, _, files in os.walk(root):
            if not folder.endswith(".dist-info") or folder in before or "RECORD" not in files:
                continue
            if str(Path(folder).parent.resolve()) in sites:
                _slim_distribution(Path(folder), before, kinds)


def _slim_distribution(info: Path, before: Set[str], kinds: Iterable[str]) -> None:  # noqa: UP006
    home = info.parent
    with (info / "RECORD").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.reader(stream) if row]
    dropped = choose_dropped((row[0] for row in rows), kinds, lambda name: (home / name).read_bytes())
    for name in sorted(dropped):
        path = Path(os.path.normpath(home / name))
        if str(path) in before:
            continue
        path.unlink(missing_ok=True)  # two distributions may list one file
        parent = path.parent
        while str(parent) not in before and parent.is_dir() and not any(parent.iterdir()):  # a folder that pip made for these files alone
            parent.rmdir()
            parent = parent.parent
    if dropped:
        with (info / "RECORD").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(row for row in rows if row[0] not in dropped)
