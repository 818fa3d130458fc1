"""Shared by all tests: what they have in common, and what every error that a test provokes must be."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import types
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import settings

from imagebuild.errors import LONGEST, ImagebuildError

pytest_plugins = ("tests.support.skips", "tests.support.workspaces")  # the second: one build of the main job for all modules


def put_off(name: str, function: str) -> None:
    """Have a library wait until the one function that is used of it is called: what it loads takes seconds, and few tests call it."""

    def call(*arguments: object) -> object:
        if sys.modules.get(name) is stand_in:
            del sys.modules[name]
        return getattr(importlib.import_module(name), function)(*arguments)

    if name not in sys.modules and importlib.util.find_spec(name) is not None:
        stand_in = types.ModuleType(name)
        setattr(stand_in, function, call)
        sys.modules[name] = stand_in


put_off("rfc3987_syntax", "is_valid_syntax")  # of jsonschema, for the formats iri and iri-reference: a grammar that is compiled at import

# Tests start Python hundreds of times: modules are compiled once and kept in __pycache__, whatever this machine's setting is.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# `make test` hands its own flags and level on to every make below it, which would then print lines that no user sees.
for _name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES"):
    os.environ.pop(_name, None)

# How long one example takes is the machine's business: a timing is a benchmark, not a test.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


# What Hypothesis makes up must not look like one by chance: fields of a repr are ASCII words, and what follows is a value.
_REPR = re.compile(r"\b[A-Z]\w*\([a-z_]+=|\b[a-z_]{2,}=\(['\"(A-Z0-9]|<[\w.]+ object at 0x|\bStruct\b")


def find_repr(text: str) -> str:
    """Why a line is not one for people: too long, or an object's repr in it; "" when it is."""
    if len(text) > LONGEST:
        return f"{len(text)} characters: {text[:200]}"
    found = _REPR.search(text)
    return f"an object's repr: {text[max(0, found.start() - 40) : found.end() + 80]}" if found else ""


def watch_values(patch: pytest.MonkeyPatch, faults: list[str]) -> None:
    """From now on a Struct of ours that is put into a text, and has no words of its own, is a fault."""

    def formatted(value: msgspec.Struct, _spec: str) -> str:
        kind = type(value)
        plain = kind.__str__ is object.__str__ and "__repr__" not in vars(kind)  # one that is written hides what it must
        if plain and kind.__module__.startswith("imagebuild."):
            faults.append(f"a whole {kind.__name__} in a text: name one of its fields")
        return str(value)

    patch.setattr(msgspec.Struct, "__format__", formatted)


@pytest.fixture(autouse=True)
def _errors_are_for_people(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every error that a test makes us raise, with the values it has there, is checked as it is made; no text holds a whole Struct."""
    faults: list[str] = []
    plain = ImagebuildError.__init__

    def checked(self: ImagebuildError, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        faults.extend(f"{type(self).__name__}: {fault}" for line in (message, hint, *details) if (fault := find_repr(line)))
        plain(self, message, hint, details)

    monkeypatch.setattr(ImagebuildError, "__init__", checked)
    watch_values(monkeypatch, faults)
    yield
    assert not faults, faults[0]
