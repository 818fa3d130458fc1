"""R packages as archives, source and binary, made without R; and the shared objects in them."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Mapping, Sequence

from imagebuild.base.model import RFacts, RPackage

OWN, SITE = "/usr/lib/R/library", "/usr/lib/R/site-library"  # libraries of Debian's R
BUILT = "R 4.2.2; x86_64-pc-linux-gnu; 2024-05-01 10:00:00 UTC; unix"
BUILT_ANYWHERE = "R 4.2.2; ; 2024-05-01 10:00:00 UTC; unix"


def make_facts(*packages: RPackage) -> RFacts:
    """Debian's R 4.2.2 with these packages."""
    return RFacts("/usr/bin/R", "/usr/lib/R", "4.2.2", "x86_64-pc-linux-gnu", (SITE, OWN), SITE, packages)


def render_description(name: str, version: str, **fields: str) -> str:
    """A DESCRIPTION; keys are fields, ``published`` is Date/Publication."""
    given = {"Date/Publication" if key == "published" else key: value for key, value in fields.items()}
    texts = {"Package": name, "Version": version, "Title": "Test", "License": "GPL-3", **given}
    return "".join(f"{key}: {value}\n" for key, value in texts.items())


def pack(files: Mapping[str, bytes | str], *, executable: Sequence[str] = ()) -> bytes:
    """A .tar.gz of files by path."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755 if name in executable else 0o644
            archive.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), mtime=0)


def make_source(name: str, version: str, **fields: str) -> bytes:
    """A source archive of a package with one function, ``NAME_version()``."""
    function = f"{name.replace('.', '_')}_version"
    return pack(
        {
            f"{name}/DESCRIPTION": render_description(name, version, **fields),
            f"{name}/NAMESPACE": f"export({function})\n",
            f"{name}/R/code.R": f'{function} <- function() "{version}"\n',
        }
    )


def make_binary(name: str, version: str, *, built: str = BUILT, objects: Mapping[str, bytes] | None = None, **fields: str) -> bytes:
    """A binary archive as far as its files are looked at: R itself cannot load it."""
    files: dict[str, bytes | str] = {
        f"{name}/DESCRIPTION": render_description(name, version, **fields, Built=built),
        f"{name}/Meta/package.rds": b"\x1f\x8b",
    }
    return pack(files | {f"{name}/{path}": data for path, data in (objects or {}).items()})


def make_shared_object(*needed: str, runpath: str = "", machine: int = 62) -> bytes:
    """An ELF64 file with a dynamic section and nothing else; ``machine`` 62 is x86-64, 183 AArch64."""
    strings, offsets = b"\0", []
    for text in (*needed, *([runpath] if runpath else [])):
        offsets.append(len(strings))
        strings += text.encode() + b"\0"
    entries = [(1, offset) for offset in offsets[: len(needed)]]
    entries += [(29, offsets[-1])] if runpath else []
    start = 64 + 2 * 56
    table = start + 16 * (len(entries) + 3)
    entries += [(5, table), (10, len(strings)), (0, 0)]  # DT_STRTAB, DT_STRSZ, DT_NULL
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    size = table + len(strings)
    header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    segment = struct.pack("<IIQQQQQQ", 2, 6, start, start, start, len(dynamic), len(dynamic), 8)
    return header + load + segment + dynamic + strings
