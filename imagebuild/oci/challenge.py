"""``WWW-Authenticate`` headers (RFC 9110 section 11.6.1) and the scopes in them (distribution's token specification)."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SPACE = re.compile(r"[ \t]*")
_COMMAS = re.compile(r"[ \t,]*")
_NAME = re.compile(_TOKEN)
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*(?=[ \t]*(?:,|$))")
_PARAMETER = re.compile(rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))')
_ESCAPE = re.compile(r"\\(.)")
_LIMIT = 16 << 10  # characters; longer headers are not read


class Challenge(msgspec.Struct, frozen=True):
    """One way in which a server lets itself be convinced. ``scheme`` and the parameters' names are lower case."""

    scheme: str
    parameters: dict[str, str] = {}


def parse_challenges(header: str) -> tuple[Challenge, ...]:
    """Every challenge of a header, in its order; what is not in the grammar ends the list (never an error)."""
    found: list[Challenge] = []
    text, position = header[:_LIMIT], 0
    while True:
        position = _end(_COMMAS, text, position)
        scheme = _NAME.match(text, position)
        if scheme is None:
            return tuple(found)
        position = scheme.end()
        parameters: dict[str, str] = {}
        found.append(Challenge(scheme[0].lower(), parameters))
        start = _end(_SPACE, text, position)
        if start == position and start < len(text) and text[start] != ",":
            found.pop()  # a scheme is followed by a space, a comma or nothing
            return tuple(found)
        position = start
        # A lone token68 (Negotiate) has to be told from the first parameter.
        if not _PARAMETER.match(text, position) and (token := _TOKEN68.match(text, position)):
            position = token.end()
            continue
        while True:
            # ", name=value" belongs to this challenge; ", name" and ", name name=value" begin the next one.
            item = _PARAMETER.match(text, _end(_COMMAS, text, position))
            if item is None:
                break
            parameters.setdefault(item[1].lower(), _ESCAPE.sub(r"\1", item[2]) if item[2] is not None else item[3])
            position = item.end()


def pull_scopes(repository: str) -> tuple[str, ...]:
    """What reading a repository takes."""
    return (f"repository:{repository}:pull",)


def push_scopes(repository: str) -> tuple[str, ...]:
    """What writing to a repository takes."""
    return (f"repository:{repository}:pull,push",)


def merge_scopes(wanted: Iterable[str], asked: str) -> tuple[str, ...]:
    """``wanted`` in its order, with what a challenge's ``scope`` asks beyond it; actions on one resource are joined."""
    merged: dict[str, list[str]] = {}
    for scope in (*wanted, *asked.split()):
        resource, _, actions = scope.rpartition(":")
        known = merged.setdefault(resource, [])
        known.extend(action for action in actions.split(",") if action and action not in known)
    return tuple(f"{resource}:{','.join(actions)}" if resource else ",".join(actions) for resource, actions in merged.items())


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    found = pattern.match(text, position)
    return found.end() if found else position
