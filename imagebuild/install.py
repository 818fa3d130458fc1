"""Starts pip in a container build. Runs in the base, as root, where nothing of imagebuild is: this file alone is mounted there.

``install.py FOLDER... -- ARGUMENTS``: the folders pip installs into, and what pip is told. For Python 3.8 and newer.

Two things would make pip leave another tree than the wheels say. A folder with the setgid bit (Debian's and conda's
often have it) hands its group and the bit on to what is made in it: the bit is off while pip works. And pip 26 lets
nothing be imported once it has begun to install, codecs neither, so sources that are not UTF-8 would get no bytecode:
all codecs are there from the start.
"""

import encodings
import encodings.aliases
import os
import runpy
import stat
import sys
from pathlib import Path
from typing import Dict, Iterable  # noqa: UP035 - for Python 3.8


def find_setgid_folders(roots: Iterable[str]) -> Dict[Path, int]:  # noqa: UP006
    """Folders at and below ``roots`` that hand their group on, and their modes."""
    found = {}
    for root in roots:
        for folder, _, _ in os.walk(root):
            mode = stat.S_IMODE(Path(folder).stat().st_mode)
            if mode & stat.S_ISGID:
                found[Path(folder)] = mode
    return found


def main() -> None:
    """Run pip; the process ends with pip's own status."""
    split = sys.argv.index("--")
    roots = sys.argv[1:split]
    sys.argv[1:] = sys.argv[split + 1 :]
    sys.path.pop(0)  # the folder with the wheels
    for name in set(encodings.aliases.aliases.values()):
        encodings.search_function(name)
    folders = find_setgid_folders(roots)
    try:
        for folder, mode in folders.items():
            folder.chmod(mode & ~stat.S_ISGID)
        runpy.run_module("pip", run_name="__main__", alter_sys=True)
    finally:
        for folder, mode in folders.items():
            folder.chmod(mode)


if __name__ == "__main__":
    main()
