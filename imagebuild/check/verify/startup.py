"""Files in a site folder that Python reads at every start: ``NAME.pth`` and ``NAME.start`` (docs.python.org, site; PEP 829).

A ``.pth`` adds folders to ``sys.path``, and its ``import`` lines are run: before Python 3.15 always, from 3.15 to 3.17 unless a
``.start`` of the same name lies beside it, from 3.18 on never. A ``.start`` names callables (``package.module:callable``), which
Python 3.15 and newer calls.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection, Iterator, Mapping

from imagebuild.check.finding import SHOWN, Finding, judge_culprits

SUFFIXES = (".pth", ".start")
_START_SINCE = (3, 15)
_IMPORTS_UNTIL = (3, 17)
_SHOWN_TEXT = 80

# What setuptools writes: its own switch, and the namespace packages of old. Whole lines, so that nothing can be added to one.
_KNOWN = re.compile(
    r"import os; ?var = 'SETUPTOOLS_USE_DISTUTILS'; ?enabled = os\.environ\.get\(var, '(?:local|stdlib)'\) == 'local'; ?"
    r"enabled and __import__\('_distutils_hack'\)(?:\.add_shim\(\))?; ?"
    r"|import sys, types, os;has_mfs = sys\.version_info > \(3, 5\);p = os\.path\.join\(sys\._getframe\(1\)\.f_locals\['sitedir'\], "
    r"\*\('[\w', ]+\)\);importlib = has_mfs and __import__\('importlib\.util'\);has_mfs and __import__\('importlib\.machinery'\);"
    r"m = has_mfs and sys\.modules\.setdefault\('[\w.]+', importlib\.util\.module_from_spec\(importlib\.machinery\.PathFinder\.find_spec"
    r"\('[\w.]+', \[os\.path\.dirname\(p\)\]\)\)\);m = m or sys\.modules\.setdefault\('[\w.]+', types\.ModuleType\('[\w.]+'\)\);"
    r"mp = \(m or \[\]\) and m\.__dict__\.setdefault\('__path__',\[\]\);\(p not in mp\) and mp\.append\(p\)"
    r"(?:;m and setattr\(sys\.modules\['[\w.]+'\], '\w+', m\))?"
)


def judge_startup_files(files: Mapping[str, bytes], python: str, allowed: Collection[str]) -> Finding:
    """No file that runs code at every start of ``python`` (``3.11.2``; "" when it is not known), or adds a folder from elsewhere.

    ``files``: path -> content, those directly in a site folder. Lines that setuptools itself writes, lines that this Python does not run,
    and files whose name is ``allowed`` are listed and pass.
    """
    version = tuple(int(part) for part in re.findall(r"\d+", python)[:2])
    culprits: list[str] = []
    listed: list[str] = []
    for path, data in files.items():
        named = path.rpartition("/")[2] in allowed
        starts = path.removesuffix(".pth") + ".start" in files
        found = _read_start(data, version) if path.endswith(".start") else _read_pth(data, version, starts)
        for harmless, line in found:
            (listed if named or harmless else culprits).append(f"{path}: {line}")
    if culprits:
        return judge_culprits(culprits, "", "{count} lines")
    return Finding("passed", f"{len(files)} such files, none with unexpected code", tuple(sorted(listed)[:SHOWN]))


def _read_pth(data: bytes, version: tuple[int, ...], starts: bool) -> Iterator[tuple[bool, str]]:
    """(harmless, what it does) of the lines that do something."""
    for line in data.decode("utf-8-sig", "replace").splitlines():
        shown = line[:_SHOWN_TEXT]
        if line.startswith(("import ", "import\t")):
            if version[:2] > _IMPORTS_UNTIL or (version >= _START_SINCE and starts):
                yield True, f"has code that Python {_name(version)} does not run: {shown}"
            else:
                yield _KNOWN.fullmatch(line.rstrip()) is not None, f"runs code: {shown}"
        elif posixpath.isabs(line) or ".." in line.split("/"):
            yield False, f"adds {shown}"


def _read_start(data: bytes, version: tuple[int, ...]) -> Iterator[tuple[bool, str]]:
    for line in data.decode("utf-8-sig", "replace").splitlines():
        entry = line.strip()
        if entry and not entry.startswith("#"):
            if version and version < _START_SINCE:
                yield True, f"names {entry[:_SHOWN_TEXT]}, which Python {_name(version)} does not call"
            else:
                yield False, f"calls {entry[:_SHOWN_TEXT]}"


def _name(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
