"""Unpacks add-ons in a container build. Runs in the base, as root, where nothing of imagebuild is: this file alone is mounted there.

``addons.py FILE``: FILE is JSON, a list of ``file`` (a .vsix or .tar.gz beside FILE), ``sha256``, ``strip`` (the folder in it whose
contents are taken) and ``folder`` (where they go; it must not be there). For Python 3.8 and newer.

Each file is root's, 0755 where its owner may execute it and 0644 otherwise; folders are 0755. Nothing else than plain files is taken.
"""

import hashlib
import json
import os
import shutil
import stat
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, Iterator, Tuple  # noqa: UP035 - for Python 3.8

Entry = Tuple[str, bool, Callable[[], BinaryIO]]  # noqa: UP006


def list_zip(archive: zipfile.ZipFile) -> Iterator[Entry]:
    """Name, whether it may be executed, and the content of each file."""
    for info in archive.infolist():
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise SystemExit(f"{info.filename} is not a plain file")
        if not info.filename.endswith("/"):
            yield info.filename, bool(mode & stat.S_IXUSR), lambda info=info: archive.open(info)  # type: ignore[misc]


def list_tar(archive: tarfile.TarFile) -> Iterator[Entry]:
    """The same of a tar."""
    for entry in archive:
        if not (entry.isreg() or entry.isdir()):
            raise SystemExit(f"{entry.name} is not a plain file")
        if entry.isreg():
            name = entry.name[2:] if entry.name.startswith("./") else entry.name
            yield name, bool(entry.mode & stat.S_IXUSR), lambda entry=entry: archive.extractfile(entry)  # type: ignore[misc]


def make_folder(folder: Path) -> None:
    """``folder`` and what it lies in, each new one root's and 0755, whatever the setgid bit of its parent says."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir()
    os.chown(folder, 0, 0)
    folder.chmod(0o755)


def unpack(entries: Iterator[Entry], strip: str, folder: Path) -> None:
    """Write the entries below ``strip`` into ``folder``."""
    for name, executable, read in entries:
        if not name.startswith(strip):
            continue
        parts = name[len(strip) :].split("/")
        if any(part in ("", ".", "..") for part in parts):
            raise SystemExit(f"{name} is not a plain path")
        target = folder.joinpath(*parts)
        make_folder(target.parent)
        with read() as source, open(target, "xb") as copy:  # noqa: PTH123 - x: nothing is overwritten
            shutil.copyfileobj(source, copy)
        os.chown(target, 0, 0)
        target.chmod(0o755 if executable else 0o644)


def install(item: Dict[str, Any], here: Path) -> None:  # noqa: UP006
    """Unpack one add-on."""
    path, folder = here / item["file"], Path(item["folder"])
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    if digest.hexdigest() != item["sha256"]:
        raise SystemExit(f"{item['file']} is not the file that was locked")
    if os.path.lexists(folder):
        raise SystemExit(f"{folder} is in the base already")
    if path.name.endswith(".vsix"):
        with zipfile.ZipFile(path) as archive:
            unpack(list_zip(archive), item["strip"], folder)
    else:
        with tarfile.open(path, "r:gz") as tar:
            unpack(list_tar(tar), item["strip"], folder)


def main() -> None:
    """Unpack them all, in their order."""
    listing = Path(sys.argv[1])
    for item in json.loads(listing.read_text(encoding="utf-8")):
        install(item, listing.parent)


if __name__ == "__main__":
    main()
