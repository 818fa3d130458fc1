"""Every way a command can end, each with its own exit code.

An error is two lines for the person who reads it: ``message`` says what is wrong, ``hint`` what to do next. Library
code raises these; :mod:`imagebuild.commands.options` prints them, and :mod:`imagebuild.cli` turns them into an exit status. A
traceback means a defect of imagebuild (exit 1).
"""

from __future__ import annotations

import sys
from typing import ClassVar

LONGEST = 500  # characters of one text


class ImagebuildError(Exception):
    """Base of all expected failures. ``details`` are further lines, printed between message and hint.

    What others wrote (a name, another program's output) may be of any length and hold anything: of a text over :data:`LONGEST` the
    middle is left out, a line end becomes a space, and what does not print is written as an escape. ``origin``: the module that made
    the error, as ``imagebuild.lock.proving``.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "", details: tuple[str, ...] = ()) -> None:
        self.message = _shorten(message)
        self.hint = _shorten(hint)
        self.details = tuple(map(_shorten, details))
        self.origin = self._find_origin()
        super().__init__(self.message)

    def _find_origin(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_locals.get("self") is self:  # the constructors of this error
            frame = frame.f_back
        return str(frame.f_globals["__name__"])


def make_printable(text: str) -> str:
    """One line of what prints, with whatever else there is escaped (``\\x1b``): no text moves a cursor or hides another."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else " " if letter in "\n\t" else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def _shorten(text: str) -> str:
    text = make_printable(text)
    if len(text) <= LONGEST:
        return text
    end = LONGEST // 3
    return f"{text[: LONGEST - end - 5]} ... {text[-end:]}"


class UsageError(ImagebuildError):
    """The command line asks for something that does not exist (unknown team, unknown base)."""

    exit_code = 2


class ConfigurationError(ImagebuildError):
    """A file under ``images/`` or the machine's configuration is wrong or incomplete."""

    exit_code = 3


class LockError(ImagebuildError):
    """A lock is unsatisfiable, stale, missing, or against policy."""

    exit_code = 4


class BudgetError(ImagebuildError):
    """The layer is larger than the team's budget, or its size is unknown."""

    exit_code = 5


class RemoteError(ImagebuildError):
    """A registry or a package index refused, failed, or could not be reached."""

    exit_code = 6


class BuildError(ImagebuildError):
    """The image could not be built from valid inputs."""

    exit_code = 7


class IntegrityError(ImagebuildError):
    """Bytes are not what they were promised to be: a hash, a layer rule, drift."""

    exit_code = 8
