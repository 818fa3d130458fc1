"""The dynamic section of an ELF file: what it loads, and where it looks first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import msgspec


class ElfFile(msgspec.Struct, frozen=True):
    """What matters of one ELF file's dynamic section."""

    machine: tuple[int, str]  # class (32 or 64) and e_machine: (64, "EM_X86_64")
    interpreter: str  # the loader of a program, "" of a shared object
    needed: tuple[str, ...]  # DT_NEEDED
    folders: tuple[str, ...]  # RPATH or RUNPATH as written, $ORIGIN not replaced


def read_elf(stream: BinaryIO) -> ElfFile | None:
    """None for anything that is not a well-formed ELF file; ``stream`` can be sought in."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    if stream.read(4) != b"\x7fELF":
        return None
    try:
        elf: Any = ELFFile(stream)
        interpreter, needed, folders = "", [], []
        for segment in elf.iter_segments():
            kind = segment["p_type"]
            if kind == "PT_INTERP":
                interpreter = segment.get_interp_name()
            elif kind == "PT_DYNAMIC":
                for tag in segment.iter_tags():
                    if tag.entry.d_tag == "DT_NEEDED":
                        needed.append(tag.needed)
                    elif tag.entry.d_tag == "DT_RUNPATH":
                        folders.append(tag.runpath)
                    elif tag.entry.d_tag == "DT_RPATH":
                        folders.append(tag.rpath)
        machine = (elf.elfclass, str(elf["e_machine"]))
    except (ELFError, ValueError, KeyError, AttributeError, UnicodeDecodeError, OverflowError, MemoryError):
        return None
    return ElfFile(machine, interpreter, tuple(needed), tuple(part for text in folders for part in text.split(":") if part))


def read_elf_file(path: Path) -> ElfFile | None:
    """The same of a file on this disk."""
    with path.open("rb") as stream:
        return read_elf(stream)


def read_needed_versions(stream: BinaryIO) -> tuple[str, ...]:
    """The versions of symbols that an ELF file needs of its libraries (``GLIBC_2.34``), sorted; none of one that cannot be read."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    found: set[str] = set()
    try:
        elf: Any = ELFFile(stream)
        for section in elf.iter_sections():
            if isinstance(section, GNUVerNeedSection):
                for _library, versions in section.iter_versions():
                    found.update(str(version.name) for version in versions)
    except (ELFError, ValueError, KeyError, AttributeError, UnicodeDecodeError, OverflowError, MemoryError):
        return ()
    return tuple(sorted(found))
