"""Starts pip in a container build. Runs in the base, as root, where nothing of imagebuild is: this file alone is mounted there.

``install.py [--removal=FILE] [--slim=KIND,...] FOLDER... -- ARGUMENTS``: the folders pip installs into, and what pip is told. For
Python 3.8 and newer. With ``--slim`` the file ``slim.py`` lies beside this one, and takes such files away again once pip is done.

Two things would make pip leave another tree than the wheels say. A folder with the setgid bit (Debian's and conda's
often have it) hands its group and the bit on to what is made in it: the bit is off while pip works. And pip 26 lets
nothing be imported once it has begun to install, codecs neither, so sources that are not UTF-8 would get no bytecode:
all codecs are there from the start.

Scripts are those of pip 26 whatever pip the base has, so that both engines write the same bytes.

FILE is JSON: ``files`` are deleted before pip starts, so that it finds none of what it is to replace; ``folders`` (deepest
first) are deleted afterwards where they are empty, and keep their mode and owner where they are not.

A script that another package owns must not be written: its entry point was taken out of the wheel. What entry_points.txt was lies in
``entry_points.json`` beside this file, by .dist-info folder, and is put back once pip is done.
"""

import base64
import contextlib
import csv
import encodings
import encodings.aliases
import hashlib
import importlib
import json
import os
import runpy
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Dict, Iterable, List, Set  # noqa: UP035 - for Python 3.8

# distlib's form of imagebuild.wheel.scripts' template, which cannot be imported here.
SCRIPT = """\
import sys
from %(module)s import %(import_name)s
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit(%(func)s())
"""
OLD_SCRIPT = SCRIPT.replace("    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n", "")  # for Python 3.8, which has no removesuffix


def choose_script_template() -> None:
    """Have pip before 26 write an entry point's script as the direct engine does: as later ones do, but for Python 3.8."""
    with contextlib.suppress(ImportError):  # a pip without distlib has the later form
        scripts = importlib.import_module("pip._vendor.distlib.scripts")
        scripts.ScriptMaker.script_template = SCRIPT if hasattr(str, "removesuffix") else OLD_SCRIPT


def find_setgid_folders(roots: Iterable[str]) -> Dict[Path, int]:  # noqa: UP006
    """Folders at and below ``roots`` that hand their group on, and their modes."""
    found = {}
    for root in roots:
        for folder, _, _ in os.walk(root):
            mode = stat.S_IMODE(Path(folder).stat().st_mode)
            if mode & stat.S_ISGID:
                found[Path(folder)] = mode
    return found


def list_paths(roots: Iterable[str]) -> Set[str]:  # noqa: UP006
    """Every file and folder at and below ``roots``."""
    found = set()
    for root in roots:
        for folder, _, files in os.walk(root):
            found.add(folder)
            found.update(f"{folder}/{name}" for name in files)
    return found


def restore_entry_points(texts: Dict[str, str], sites: Iterable[str]) -> None:  # noqa: UP006
    """Write ``entry_points.txt`` of these .dist-info folders as it was, and its row in RECORD."""
    for name, text in texts.items():
        for info in {Path(site, name) for site in sites}:
            if not info.is_dir():
                continue
            data = text.encode()
            (info / "entry_points.txt").write_bytes(data)
            with (info / "RECORD").open(newline="", encoding="utf-8") as stream:
                rows = [row for row in csv.reader(stream) if row and row[0] != name + "/entry_points.txt"]
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            rows.append([name + "/entry_points.txt", "sha256=" + digest, str(len(data))])
            with (info / "RECORD").open("w", newline="", encoding="utf-8") as stream:
                csv.writer(stream).writerows(sorted(rows))


def main() -> None:
    """Run pip; the process ends with pip's own status."""
    split = sys.argv.index("--")
    roots = sys.argv[1:split]
    removal: Dict[str, List[str]] = {"files": [], "folders": []}  # noqa: UP006
    if roots[0].startswith("--removal="):
        removal = json.loads(Path(roots.pop(0)[len("--removal=") :]).read_text(encoding="utf-8"))
    sys.argv[1:] = sys.argv[split + 1 :]
    kinds = roots.pop(0)[len("--slim=") :].split(",") if roots[0].startswith("--slim=") else []
    slim = importlib.import_module("slim") if kinds else None
    changed = Path(__file__).with_name("entry_points.json")
    texts = json.loads(changed.read_text(encoding="utf-8")) if changed.is_file() else {}
    sys.path.pop(0)  # the folder with the wheels
    for name in set(encodings.aliases.aliases.values()):
        encodings.search_function(name)
    choose_script_template()
    folders = find_setgid_folders(roots)
    for name in removal["files"]:
        Path(name).unlink()
    # What may go when it is empty is not the base's own any more: of a package that comes back, slimming looks at it.
    before = {path for path in list_paths(roots) if os.path.realpath(path) not in removal["folders"]} if slim else set()
    try:
        for folder, mode in folders.items():
            folder.chmod(mode & ~stat.S_ISGID)
        try:
            runpy.run_module("pip", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            if end.code or not (slim or texts):
                raise
        restore_entry_points(texts, [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
        if slim:
            slim.slim_installed(roots, before, kinds)
    finally:
        for name in removal["folders"]:
            if not os.listdir(name):  # noqa: PTH208
                Path(name).rmdir()
        for folder, mode in folders.items():
            if folder.is_dir():
                folder.chmod(mode)


if __name__ == "__main__":
    main()
