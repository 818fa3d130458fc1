"""What the commands share: their options, what they print, and the only look at the clock."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imagebuild import progress
from imagebuild.commands.display import Display, paused_display, print_progress
from imagebuild.commands.troubleshooting import PAGE, add_reference, find_anchor, is_debugging
from imagebuild.errors import ImagebuildError, UsageError, make_printable

if TYPE_CHECKING:
    from datetime import datetime

    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.jobs.slots import Jobs
    from imagebuild.workspace import Workspace

Command = Callable[..., None]


def print_data(text: str | bytes, *, nl: bool = True) -> None:
    """Data on stdout. A reader that has seen enough (``| head``) stops the printing and not the work."""
    try:
        with paused_display():
            click.echo(text, nl=nl)
    except BrokenPipeError:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())
        os.close(silence)


def say(*lines: str) -> None:
    """Lines on stderr, as far as it takes them: a full disk behind it must not change the exit code."""
    with contextlib.suppress(OSError), paused_display():
        for line in itertools.chain.from_iterable(map(add_reference, lines)):
            shown = "\n".join(map(make_printable, line.split("\n")))
            click.echo(_colour(shown), err=True, color=False if os.environ.get("NO_COLOR") else None)


def _colour(line: str) -> str:
    """``error:`` in red, a hint dim; a stream that is not a terminal gets it plain."""
    word, colon, _ = line.partition(":")
    if colon and word == "error":
        return click.style(f"{word}:", fg="red", bold=True) + line[len(word) + 1 :]
    return click.style(line, dim=True) if colon and word == "hint" else line


def print_error(error: ImagebuildError) -> None:
    """What is wrong, the details, and what to do next, on stderr; with --debug the traceback before it, and where to read on."""
    debug = is_debugging()
    if debug and (error.__traceback__ or error.__cause__):
        say("".join(traceback.format_exception(error)).rstrip())
    say(f"error: {error.message}", *error.details, *([f"hint: {error.hint}"] if error.hint else []))
    if debug:
        say(f"see: {PAGE}#{find_anchor(error)}")


def explain_exception(error: Exception) -> ImagebuildError:
    """Whatever a command ended with, as an error of ours; one that nobody foresaw is a defect."""
    if isinstance(error, ImagebuildError):
        return error
    if isinstance(error, click.ClickException):
        return UsageError(error.format_message(), "imagebuild --help, or imagebuild COMMAND --help")
    if isinstance(error, OSError):
        from imagebuild.files import explain_os_error

        made: ImagebuildError = explain_os_error(error, "working")
    else:
        text = "this is a defect of imagebuild; run it again with --debug and report what it prints"
        made = ImagebuildError(f"unexpected {type(error).__name__}: {error}", text)
    made.__cause__ = error
    return made


def read_clock() -> str:
    """The cutoff of a lock that is made now. No other function asks what day it is."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def parse_date(text: str) -> str:
    """A date or an RFC 3339 time as ``YYYY-MM-DDTHH:MM:SSZ``; a date means its first second, in UTC."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a date: {text!r}", "write 2026-10-01 or 2026-10-01T00:00:00Z") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_moment(text: str) -> datetime:
    """A point in time; a date alone means the whole day, so its last second in UTC."""
    from datetime import datetime, timedelta

    moment = datetime.fromisoformat(parse_date(text))
    return moment + timedelta(days=1, seconds=-1) if len(text) <= len("2026-10-01") else moment


def common_options(function: Command) -> Command:
    """The options that mean the same everywhere; the command gets them as one ``workspace``."""

    @click.option("--root", type=click.Path(path_type=Path), default=Path(), help="The folder with images/ and lockfiles/ (default: here).")
    @click.option(
        "--cache-dir",
        type=click.Path(path_type=Path),
        envvar="IMAGEBUILD_CACHE",
        help="Where wheels, members and bases are kept (default: .imagebuild/cache).",
    )
    @click.option(
        "--registry",
        envvar="IMAGEBUILD_REGISTRY",
        default="",
        help="HOST[/NAMESPACE] to push to and read from (default: .imagebuild/registry).",
    )
    @click.option(
        "--registry-ca",
        type=click.Path(path_type=Path),
        envvar="IMAGEBUILD_REGISTRY_CA",
        help="Certificates to trust for registries (PEM).",
    )
    @click.option(
        "--jobs",
        type=click.IntRange(1, 4096),
        envvar="IMAGEBUILD_JOBS",
        help="CPUs to keep busy at most (default: those this process may use).",
    )
    @click.option("--quiet", is_flag=True, help="No progress lines.")
    @click.option("--debug", is_flag=True, help="With an error: its traceback, and the heading of the docs that describes it.")
    @functools.wraps(function)
    def wrapped(
        root: Path,
        cache_dir: Path | None,
        registry: str,
        registry_ca: Path | None,
        jobs: int | None,
        quiet: bool,
        debug: bool,  # noqa: ARG001 - is_debugging
        **arguments: Any,
    ) -> None:
        from imagebuild.workspace import Workspace

        workspace = Workspace(root, cache_dir, registry, registry_ca=registry_ca, quiet=quiet, jobs=jobs or 0)
        workspace.tell = print_progress
        with Display(quiet=quiet):
            function(workspace=workspace, **arguments)

    return wrapped


pull_option = click.option(
    "--pull-from",
    metavar="HOST[/PREFIX]",
    default="",
    help="A mirror that the cluster pulls from: it replaces the registry's host, before the repository's whole path.",
)


def json_option(help: str = "The result as JSON.") -> Callable[[Command], Command]:
    """``--json``, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help=help)


platform_option = click.option(
    "--platform", default="linux/amd64", show_default=True, help="The platform of the image, where a name is an index."
)
every_team_option = click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
engine_option = click.option(
    "--engine",
    type=click.Choice(["direct", "docker", "auto"]),
    help="Overrides the team's own (auto: docker for [system] packages).",
)
network_option = click.option(
    "--build-network",
    "network",
    type=click.Choice(["host"]),
    help="For an apt step that reaches no mirror through the builder's own network.",
)
builder_option = click.option("--builder", metavar="NAME", help="The buildx builder of the docker engine (docker buildx ls).")


def choose_teams(workspace: Workspace, teams: tuple[str, ...], everyone: bool) -> tuple[str, ...]:
    """``teams``, or with ``everyone`` all teams of the workspace; UsageError for both and for neither."""
    from imagebuild.config import list_teams

    if everyone == bool(teams):
        raise UsageError("name at least one team, or give --all", f"teams here: {', '.join(list_teams(workspace.images)) or 'none'}")
    return list_teams(workspace.images) if everyone else teams


class TeamRun:
    """The teams a command was asked for: of several, one that fails does not stop the others.

    Its error is printed at once and names it; :meth:`finish` then fails with the exit code of the first.
    """

    def __init__(self, teams: tuple[str, ...]) -> None:
        self.teams = teams
        self.failures: dict[str, ImagebuildError] = {}

    @contextlib.contextmanager
    def each(self, team: str) -> Iterator[None]:
        """Around one team's work. A single team's error passes as it is."""
        try:
            yield
        except ImagebuildError as error:
            if len(self.teams) == 1:
                raise
            self.failures[team] = error
            error.message = f"{team}: {error.message}"
            print_error(error)

    def side_by_side(self, workspace: Workspace, work: Callable[[str], Any], modules: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
        """(team, what ``work`` gives of it) in the teams' order, of those that did not fail; several are worked on at once, as --jobs says.

        ``work`` runs in a process of its own then: what it gives is what JSON can hold, and it prints nothing on stdout. ``modules``: what
        ``work`` loads late; where processes follow one another, it is loaded before they are forked.
        """
        if len(self.teams) == 1:
            yield self.teams[0], work(self.teams[0])
            return
        from imagebuild.jobs.sidebyside import run_side_by_side

        for name in modules if len(self.teams) > workspace.jobs.workers else ():
            importlib.import_module(name)

        def begin(team: str, jobs: Jobs, say: Callable[[str], object]) -> Any:
            workspace.jobs = jobs
            workspace.tell = lambda line: say(line if f"{team}: " in line else f"{team}: {line}")
            with _explaining():
                return work(team)

        def ended(team: str, result: Any) -> None:
            progress.advance(1, "teams")
            if isinstance(result, ImagebuildError):
                result.message = f"{team}: {result.message}"
                print_error(result)

        tasks = {team: functools.partial(begin, team) for team in self.teams}
        with progress.step("done", len(self.teams), "teams"):
            for team, result in run_side_by_side(tasks, workspace.jobs.workers, workspace.report, ended):
                if isinstance(result, ImagebuildError):
                    self.failures[team] = result
                else:
                    yield team, result

    def finish(self) -> None:
        """Raise what the command ends with, if a team failed."""
        if self.failures:
            first = next(iter(self.failures.values()))
            raise type(first)(
                f"{len(self.failures)} of {len(self.teams)} teams failed: {', '.join(self.failures)}",
                "see the lines above" if len(self.failures) == len(self.teams) else "the others are done; fix what failed and run it again",
            )


@contextlib.contextmanager
def _explaining() -> Iterator[None]:
    """Any other exception becomes an error of ours, for the process that waits; with --debug its traceback is printed."""
    try:
        yield
    except Exception as error:
        if is_debugging():
            say(traceback.format_exc().rstrip())
        failure = explain_exception(error)
        if failure is error:
            raise
        raise failure from error


def read_entries_of(workspace: Workspace, *, as_of: str = "", everything: bool = False) -> CatalogueListing:
    """The images of the teams that have a folder here; with ``everything`` those of the registry's own list as well.

    By team, not by listing the registry: many have no catalogue to list, or show one only to administrators. ``as_of``: as
    it was at the end of that day.
    """
    from imagebuild.catalogue.entries import read_catalogue
    from imagebuild.config import list_teams

    moment = parse_moment(as_of) if as_of else None
    teams = None if everything else [workspace.repository(team) for team in list_teams(workspace.images)]
    listing = read_catalogue(workspace.target, workspace.namespace, teams, cache=workspace.cache, as_of=moment)
    for team in listing.undecided:
        say(f"warning: {team} has two images with the newest cutoff; the one marked current is the first by tag")
    return listing
