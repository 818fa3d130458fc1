"""The command line: a table of the commands, and how errors and signals become lines and exit codes (errors.py)."""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from imagebuild import __version__
from imagebuild.commands.examples import EXAMPLES
from imagebuild.commands.options import explain_exception, print_data, print_error, say
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from types import FrameType

# In the order of --help. Each is the attribute of that name in imagebuild/commands/<name>.py, imported when it is asked for.
COMMANDS = (
    "init",
    "doctor",
    "image",
    "lock",
    "personal",
    "size",
    "diff",
    "explain",
    "render",
    "bake",
    "bundle",
    "base",
    "verify",
    "audit",
    "smoke",
    "catalogue",
    "keep",
    "retire",
    "prewarm",
    "notebook",
    "ci",
    "completion",
)
# Python's cycle collector, more seldom than by default: what a command makes it mostly keeps, and bills of materials took a third longer.
_COLLECTING = (50_000, 20, 50)
FIRST_DAY = ("doctor", "init", "image", "lock", "size")


class _Commands(click.Group):
    """A group whose commands are modules: start-up pays for one of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click calls it so
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(f"imagebuild.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        _add_examples(command, cmd_name)
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(f"no such command: {args[0]!r}" + (f"; did you mean {close[0]!r}?" if close else ""), ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rest = tuple(name for name in COMMANDS if name not in FIRST_DAY)
        for title, names in (("The first day", FIRST_DAY), ("Later", rest)):
            commands = [(name, command) for name in names if (command := self.get_command(ctx, name)) is not None]
            with formatter.section(title):
                formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in commands])


def _add_examples(command: click.Command, words: str) -> None:
    """The example of the command, or of each command in its group, at the end of its help."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            _add_examples(inner, f"{words} {name}")
    if words in EXAMPLES:
        command.epilog = f"\b\nExample:\n  {EXAMPLES[words]}"


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """One pinned, locked, budgeted notebook image per team."""


class _StopError(BaseException):
    """A signal asked this process to end; like KeyboardInterrupt nothing but ``main`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # asked again while it cleans up: it ends at once
    raise _StopError(number)


def _open_closed_streams() -> None:
    """A standard stream that was closed before the start (``2>&-``) is the null device: else the next file opened takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # as long as the process lives


def main() -> None:
    """Entry point: errors become two lines and an exit code, with --debug after a traceback."""
    _open_closed_streams()
    gc.set_threshold(*_COLLECTING)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup SIGHUP stays ignored
            signal.signal(number, _stop)
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except click.exceptions.NoArgsIsHelpError as error:
        print_data(error.format_message())
        sys.exit(UsageError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; nothing half-written was kept")
        sys.exit(130)
    except _StopError as stop:
        say(f"stopped by {signal.Signals(stop.number).name}; nothing half-written was kept")
        sys.exit(128 + stop.number)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        failure = explain_exception(error)
        print_error(failure)
        sys.exit(failure.exit_code)


if __name__ == "__main__":
    main()
