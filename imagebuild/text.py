"""Words and numbers for people: sizes, counts, the first of many, the nearest known word. One unit everywhere: KiB, MiB, GiB."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def format_size(size: int) -> str:
    """Bytes for people, in binary units with one decimal."""
    value = float(size)
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def format_change(size: int) -> str:
    """``+1.2 MiB``, ``-3.0 KiB``, ``0 B``."""
    return ("+" if size > 0 else "-" if size < 0 else "") + format_size(abs(size))


def count_things(number: int, one: str, many: str = "") -> str:
    """``1 blob``, ``2 blobs``; ``many`` where it is not the singular and an s."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def name_some(names: Sequence[str], most: int = 4) -> str:
    """The first few of a list with commas, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_lines(lines: Sequence[str], most: int) -> tuple[str, ...]:
    """The first ``most`` of some lines, and a last one that counts the others."""
    rest = len(lines) - most
    return (*lines[:most], f"and {rest} more") if rest > 0 else tuple(lines)


def shorten_digest(text: str) -> str:
    """``sha256:`` and twelve digits; anything else as it is."""
    return text[:19] if text.startswith("sha256:") else text


def name_quarter(moment: str) -> str:
    """``2026q4``, of a date or time that begins with ``2026-10``."""
    return f"{moment[:4]}q{(int(moment[5:7]) + 2) // 3}"


def suggest(word: str, known: list[str]) -> str:
    """``did you mean 'x'?`` for the closest known word, or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
