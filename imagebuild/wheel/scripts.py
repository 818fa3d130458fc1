"""Command-line scripts as pip writes them: entry points, and ``#!python`` scripts of a wheel's ``.data`` folder.

The texts are pip's (26.x), because an image built by either engine must hold the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from imagebuild.errors import BuildError

_LONGEST_SHEBANG = 127  # the kernel's limit as distlib counts it: "#!", the path and a newline
_LONGEST_FIRST_LINE = 64 << 10
_TEMPLATE = """\
import sys
from {module} import {name}
if __name__ == '__main__':
    sys.argv[0] = sys.argv[0].removesuffix('.exe')
    sys.exit({function}())
"""
_OLD_TEMPLATE = _TEMPLATE.replace("    sys.argv[0] = sys.argv[0].removesuffix('.exe')\n", "")
_SECTIONS = ("console_scripts", "gui_scripts")
_SCRIPT_NAME = re.compile(r"[^\s\[=/\\#;\x00-\x1f][^\s=/\\\x00-\x1f]*")
_TARGET = re.compile(r"(?P<module>\w+(?:\.\w+)*):(?P<attribute>\w+(?:\.\w+)*)\s*(?:\[[^\]]*\])?")


def render_shebang(interpreter: str) -> bytes:
    """The first line of a generated script; through ``/bin/sh`` where the path is too long or holds a blank (as distlib does)."""
    quoted = f'"{interpreter}"' if " " in interpreter else interpreter
    raw = quoted.encode()
    if b" " not in raw and len(raw) + 3 <= _LONGEST_SHEBANG:
        return b"#!" + raw + b"\n"
    return b"#!/bin/sh\n'''exec' " + raw + b' "$0" "$@"\n' + b"' '''\n"


def script_form(python: str) -> int:
    """Which form entry points' scripts have: 0 is pip's; 1, for Python 3.8 that has no ``str.removesuffix``, goes without that line."""
    return int(python.startswith("3.8."))


def render_script(interpreter: str, module: str, attribute: str, form: int = 0) -> bytes:
    """The script of one entry point."""
    text = (_OLD_TEMPLATE if form else _TEMPLATE).format(module=module, name=attribute.partition(".")[0], function=attribute)
    return render_shebang(interpreter) + text.encode()


def parse_entry_points(text: str, wheel: str) -> dict[str, dict[str, str]]:
    """``entry_points.txt``'s two script sections: section -> name -> ``module:attribute``.

    A name that is not a plain file name, or a target that is not ``module:attribute``, raises BuildError.
    """
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    section = ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        if section not in found:
            continue
        name, _, value = (part.strip() for part in line.partition("="))
        target = _TARGET.fullmatch(value)
        if not _SCRIPT_NAME.fullmatch(name) or name in (".", "..") or name.startswith(".wh.") or target is None:
            raise BuildError(
                f"{wheel}: invalid script entry point: {line[:200]!r}", "it must read name = module:function; ask the package's maintainers"
            )
        found[section][name] = f"{target['module']}:{target['attribute']}"
    return found


def drop_entry_points(text: str, names: Collection[str]) -> str:
    """``entry_points.txt`` without the scripts ``names``."""
    kept = []
    section = ""
    for line in text.splitlines():
        plain = line.strip()
        if plain.startswith("[") and plain.endswith("]"):
            section = plain[1:-1]
        if section not in _SECTIONS or plain.startswith("#") or plain.partition("=")[0].strip() not in names:
            kept.append(f"{line}\n")
    return "".join(kept)


def version_entry_points(console: dict[str, str], python: str) -> dict[str, str]:
    """Give ``pip`` and ``easy_install`` the versioned names of this Python; pip special-cases the two names in any wheel."""
    major, minor = python.split(".")[:2]
    result = dict(console)
    if target := result.pop("pip", ""):
        result = {name: value for name, value in result.items() if not re.fullmatch(r"pip(\d+(\.\d+)?)?", name)}
        result |= {"pip": target, f"pip{major}": target, f"pip{major}.{minor}": target}
    if target := result.pop("easy_install", ""):
        result = {name: value for name, value in result.items() if not re.fullmatch(r"easy_install(-\d+\.\d+)?", name)}
        result |= {"easy_install": target, f"easy_install-{major}.{minor}": target}
    return result


def is_wrapper(filename: str, names: Iterable[str]) -> bool:
    """Whether a file of ``.data/scripts`` is setuptools' own wrapper for an entry point; pip leaves those out."""
    lower = filename.lower()
    if lower.endswith((".exe", ".pya")):
        filename = filename[:-4]
    elif lower.endswith("-script.py"):
        filename = filename[:-10]
    return filename in names


def rewrite_script(chunks: Iterator[bytes], interpreter: str, label: str) -> Iterator[bytes]:
    """The script's bytes with a first line ``#!python…`` replaced by the interpreter's path; other content passes unchanged."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= 8 and (not head.startswith(b"#!python") or b"\n" in head):
            break
        if len(head) > _LONGEST_FIRST_LINE:
            raise BuildError(f"{label}: the first line has no end", "the wheel is malformed")
    if head.startswith(b"#!python"):
        _, _, rest = head.partition(b"\n")
        head = b"#!" + interpreter.encode() + b"\n" + rest
    if head:
        yield head
    yield from chunks
