"""The zip of a wheel, as an attacker may have written it: which entries are refused, and why (PKWARE APPNOTE; pip's own rules)."""

from __future__ import annotations

import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

from imagebuild.errors import BuildError, IntegrityError

BAD_WHEEL = "the wheel is malformed or hostile; pin another version, or ask the package's maintainers"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_UTF8_NAME = 0x800
_UNREADABLE = {0x1: "encrypted", 0x20: "a patch", 0x40: "encrypted strongly", 0x2000: "hidden"}  # APPNOTE 4.4.4
_LONGEST_PATH = 4096  # bytes; Linux' PATH_MAX
_CONTROL = re.compile(r"[\0-\x1f\x7f]")


def find_overlap(infos: Iterable[zipfile.ZipInfo]) -> str:
    """An entry that shares bytes with another, which is how a small zip unpacks to petabytes; "" where none does."""
    end = 0
    for info in sorted(infos, key=lambda item: item.header_offset):
        if info.header_offset < end:
            return info.filename
        end = info.header_offset + LOCAL_HEADER.size + len(encode_name(info)) + info.compress_size
    return ""


def find_blocked_folder(files: Iterable[str]) -> str:
    """A file whose path other files need as a folder; "" where there is none."""
    names = set(files)
    for name in files:
        folder = name.rpartition("/")[0]
        while folder:
            if folder in names:
                return folder
            folder = folder.rpartition("/")[0]
    return ""


def find_name_fault(info: zipfile.ZipInfo) -> str:
    """Why an entry's name may not become a path in an image; "" when it may."""
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    rules = (
        (not info.flag_bits & _UTF8_NAME and not name.isascii(), "its name is not marked as UTF-8"),
        (
            name != info.filename or _CONTROL.search(name) is not None,
            "its name holds a NUL or another control character",
        ),
        ("\\" in name, "its name holds a backslash"),
        (name.startswith("/"), "its path is absolute"),
        (".." in parts, "its path climbs with '..'"),
        ("" in parts or "." in parts, "its path is not in plain form"),
        # A letter has four bytes at most.
        (len(name) > 63 and any(len(part.encode()) > 255 for part in parts), "a part of its path is longer than a file system takes"),
        (len(name.encode()) > _LONGEST_PATH, "its path is longer than a system takes"),
        (any(part.startswith(".wh.") for part in parts), "a name beginning with .wh. would delete a file of the image"),
    )
    return next((why for wrong, why in rules if wrong), "")


def find_kind_fault(info: zipfile.ZipInfo) -> str:
    """Why an entry may not be in a wheel, by its mode, flags or compression; "" when it may be."""
    mode = info.external_attr >> 16
    if stat.S_ISLNK(mode):
        return "it is a symbolic link"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR) or (stat.S_ISDIR(mode) and not info.orig_filename.endswith("/")):
        return "it is not a regular file"
    if mode & 0o7000:
        return "it has a setuid, setgid or sticky bit"
    for flag, what in _UNREADABLE.items():
        if info.flag_bits & flag:
            return f"it is {what}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"compression method {info.compress_type} is not one that wheels use"
    return ""


def encode_name(info: zipfile.ZipInfo) -> bytes:
    """The name as the zip has it, in its own encoding."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")


def open_zip(path: Path, label: str) -> tuple[zipfile.ZipFile, int]:
    """The zip and a descriptor of its file; IntegrityError or BuildError name ``label``."""
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise IntegrityError(f"{label} is not a zip archive: {error}", "remove the file; it is fetched again") from None
    except UnicodeDecodeError:
        raise BuildError(f"{label}: a name in the zip's directory is not UTF-8", BAD_WHEEL) from None
    except FileNotFoundError:
        raise BuildError(f"{label}: there is no such file: {path}", "fetch the lock's wheels first") from None
    return archive, os.open(path, os.O_RDONLY)
