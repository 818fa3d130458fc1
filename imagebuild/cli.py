"""The command line: one thin function per command. stdout is data, stderr is progress; exit codes are in errors.py."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from imagebuild import __version__
from imagebuild.errors import ConfigurationError, ImagebuildError, UsageError

if TYPE_CHECKING:
    from types import FrameType

    from imagebuild.catalogue.entries import CatalogueListing
    from imagebuild.workspace import Workspace

Command = Callable[..., None]


def _print(text: str | bytes, *, nl: bool = True) -> None:
    """Data on stdout. A reader that has seen enough (``| head``) stops the printing and not the work."""
    try:
        click.echo(text, nl=nl)
    except BrokenPipeError:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, sys.stdout.fileno())
        os.close(silence)


def _now() -> str:
    """The only look at the clock: the cutoff of a lock that is made today."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def common_options(function: Command) -> Command:
    """The options that mean the same everywhere; the command gets them as one ``workspace``."""

    @click.option("--root", type=click.Path(path_type=Path), default=Path(), help="The folder with images/ and lockfiles/ (default: here).")
    @click.option(
        "--cache-dir", type=click.Path(path_type=Path), envvar="IMAGEBUILD_CACHE", help="Where wheels, members and bases are kept."
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
    @click.option("--quiet", is_flag=True, help="No progress lines.")
    @click.option("--debug", is_flag=True, help="Show a traceback with an error.")
    @functools.wraps(function)
    def wrapped(
        root: Path, cache_dir: Path | None, registry: str, registry_ca: Path | None, quiet: bool, debug: bool, **arguments: Any
    ) -> None:
        from imagebuild.workspace import Workspace

        click.get_current_context().meta["debug"] = debug
        function(workspace=Workspace(root, cache_dir, registry, registry_ca=registry_ca, quiet=quiet), **arguments)

    return wrapped


pull_option = click.option(
    "--pull-from", metavar="HOST/NAMESPACE", default="", help="Where the cluster pulls from, if not from --registry (a mirror)."
)


engine_option = click.option(
    "--engine",
    type=click.Choice(["direct", "docker", "auto"]),
    help="Instead of the team's own (auto: docker for [system] packages).",
)
network_option = click.option(
    "--build-network",
    "network",
    type=click.Choice(["host"]),
    help="For an apt step that reaches no mirror through the builder's own network.",
)
builder_option = click.option("--builder", metavar="NAME", help="The buildx builder of the docker engine (docker buildx ls).")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
def cli() -> None:
    """One pinned, locked, budgeted notebook image per team."""


def _teams(workspace: Workspace, teams: tuple[str, ...], everyone: bool) -> tuple[str, ...]:
    from imagebuild.config import list_teams

    if everyone == bool(teams):
        raise UsageError("name at least one team, or give --all", f"teams here: {', '.join(list_teams(workspace.images)) or 'none'}")
    return list_teams(workspace.images) if everyone else teams


@contextlib.contextmanager
def _naming(team: str, chosen: tuple[str, ...]) -> Iterator[None]:
    """Where a command has several teams, its error says which one it is about."""
    try:
        yield
    except ImagebuildError as error:
        if len(chosen) > 1:
            error.message = f"{team}: {error.message}"
        raise


@cli.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option("--copy-base", is_flag=True, help="Copy base layers the target lacks and cannot mount.")
@click.option("--locked", is_flag=True, help="Refuse to make a missing lock (for CI).")
@click.option("--load", is_flag=True, help="Also put the image into the local Docker, ready for `docker run TEAM:TAG`.")
@engine_option
@builder_option
@network_option
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
@common_options
def image(
    workspace: Workspace,
    teams: tuple[str, ...],
    everyone: bool,
    copy_base: bool,
    locked: bool,
    load: bool,
    engine: str | None,
    builder: str | None,
    network: str | None,
    as_json: bool,
) -> None:
    """Build, check and push the image of TEAMS: the whole pipeline."""
    from imagebuild import pipeline
    from imagebuild.config import format_size
    from imagebuild.files import exclusive

    results = []
    chosen = _teams(workspace, teams, everyone)
    if load:
        from imagebuild.engine.local import connect_engine, load_image

        connect_engine().close()  # before anything is built, not after
    for team in chosen:
        started = time.monotonic()
        workspace.prepare()
        # A second run of the same team waits, then finds the tag.
        with _naming(team, chosen), exclusive(workspace.state / f"image-{team}.lock"):
            plan = pipeline.plan_image(workspace, team, cutoff=_now(), locked=locked, engine=engine or "")
            result = pipeline.run_plan(workspace, plan, copy_base=copy_base, builder=builder, network=network)
            if load:
                loaded = load_image(workspace, plan.repository, result["digest"], f"{team}:{result['tag']}")
                result = {**result, "loaded": loaded.name, "loaded_bytes": loaded.size}
        seconds = time.monotonic() - started
        results.append({**result, "seconds": round(seconds, 2)})
        if not as_json:
            _print(f"{result['image']}:{result['tag']}")
            _print(f"  digest    {result['digest']}")
            _print(f"  base      {result['base']}")
            if result["built"]:
                size = f"{format_size(result['compressed'])} stored, {format_size(result['installed'])} unpacked"
                _print(f"  layer     {size}, {result['packages']} packages; budget {result['budget']}")
                if result["sparse"]:
                    _print("  sparse    the base's layers are not in this folder; add --copy-base for a complete copy")
            if load:
                how = f"{format_size(result['loaded_bytes'])} handed over" if result["loaded_bytes"] else "it was there"
                _print(f"  loaded    docker run {result['loaded']}  ({how})")
            _print(f"  {'built in' if result['built'] else 'there already,'} {seconds:.1f} s")
    if as_json:
        _print(json.dumps(results, indent=2))


@cli.command()
@click.option("--twin", metavar="TEAM", required=True, help="Build TEAM's layer with both engines and compare them path by path.")
@builder_option
@click.option("--json", "as_json", is_flag=True, help="The figures and the first 50 differences as JSON.")
@common_options
def verify(workspace: Workspace, twin: str, builder: str | None, as_json: bool) -> None:
    """Prove that both engines build the same layer; exit 8 with the differences when they do not."""
    import msgspec

    from imagebuild import pipeline
    from imagebuild.check.twin import require_twins
    from imagebuild.config import format_size
    from imagebuild.files import exclusive

    workspace.prepare()
    with exclusive(workspace.state / f"image-{twin}.lock"):
        plan = pipeline.plan_image(workspace, twin, cutoff=_now(), engine="docker")
        report = pipeline.build_twins(workspace, plan, builder=builder)
    if as_json:
        _print(msgspec.json.format(msgspec.json.encode(report), indent=2))
    require_twins(report, twin)
    if not as_json:
        _print(
            f"{twin}: both engines build the same layer: {report.files} files ({report.bytecode} of bytecode, {report.records} RECORDs), "
            f"{format_size(report.bytes)}, {report.folders} folders"
        )


@cli.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option("--check", is_flag=True, help="Only say whether the lock is fresh; exit 4 when it is not.")
@click.option("--upgrade", is_flag=True, help="Take the newest versions instead of keeping those of the lock.")
@click.option(
    "--resolver", type=click.Choice(["pip-tools", "uv"]), default="pip-tools", show_default=True, help="uv is faster; the lock says which."
)
@click.option("--as-of", metavar="DATE", help="Only files uploaded until this date (2026-10-01 or RFC 3339).")
@common_options
def lock(
    workspace: Workspace, teams: tuple[str, ...], everyone: bool, check: bool, upgrade: bool, resolver: str, as_of: str | None
) -> None:
    """Compile the lock of TEAMS, or check it."""
    from imagebuild import pipeline
    from imagebuild.config import load_team

    cutoff = parse_date(as_of) if as_of else _now()
    chosen = _teams(workspace, teams, everyone)
    for name in chosen:
        with _naming(name, chosen):
            team = load_team(workspace.images, name)
            base = pipeline.open_base(workspace, team.table.base, team.platform)
            if check:
                pipeline.read_team_lock(workspace, team, base)
                _print(f"{name}: {workspace.lockfile(name).name} is fresh")
                continue
            made = pipeline.lock_team(
                workspace, team, base, cutoff=cutoff, explicit_cutoff=as_of is not None, upgrade=upgrade, resolver=resolver
            )
        for item in made.packages:
            _print(f"{item.name}=={item.version}  ({item.index}; asked for by {', '.join(item.via) or 'nothing'})")


def parse_date(text: str) -> str:
    """A date or an RFC 3339 time as ``YYYY-MM-DDTHH:MM:SSZ``; a date means its first second, in UTC."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"not a date: {text!r}", "write 2026-10-01 or 2026-10-01T00:00:00Z") from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@cli.command()
@click.argument("team")
@common_options
def render(workspace: Workspace, team: str) -> None:
    """Print TEAM's Dockerfile."""
    from imagebuild import pipeline
    from imagebuild.recipe import render_dockerfile

    plan = pipeline.plan_image(workspace, team, cutoff=_now(), locked=True)
    _print(render_dockerfile(plan.recipe, plan.base), nl=False)


@cli.command()
@click.argument("teams", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="Every team under images/.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), default=Path("docker-bake.json"), show_default=True, help="The file to write."
)
@click.option("--push", is_flag=True, help="BuildKit pushes to --registry by itself (a builder that is not of type docker).")
@common_options
def bake(workspace: Workspace, teams: tuple[str, ...], everyone: bool, output: Path, push: bool) -> None:
    """Write a docker-bake.json that `docker buildx bake` builds TEAMS from, on any builder."""
    from imagebuild import pipeline
    from imagebuild.engine.bake import render_bake
    from imagebuild.files import write_atomic

    if push and not workspace.host:
        raise UsageError("--push needs to know where to", "add --registry HOST/NAMESPACE")
    targets = []
    chosen = _teams(workspace, teams, everyone)
    for team in chosen:
        workspace.prepare()
        with _naming(team, chosen):
            plan = pipeline.plan_image(workspace, team, cutoff=_now(), locked=True, engine="docker")
            targets.append(pipeline.prepare_bake(workspace, plan))
    write_atomic(output, render_bake(targets, root=workspace.root, results=workspace.state / "bake", push=push).encode())
    _print(f"{output}: {len(targets)} targets; in {workspace.root}: docker buildx bake -f {output.resolve()}")


@cli.group()
def base() -> None:
    """The catalogue of bases: list, pin, inspect, build."""


@base.command("list")
@click.option("--json", "as_json", is_flag=True)
@common_options
def base_list(workspace: Workspace, as_json: bool) -> None:
    """The bases of images/catalogue.toml, and which are pinned."""
    from imagebuild.base.catalogue import load_catalogue

    catalogue = load_catalogue(workspace.images / "catalogue.toml")
    rows = []
    for entry in catalogue.bases.values():
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "reference": "" if entry.build else str(entry.reference),
                "digest": str(entry.digest or ""),
                "build": entry.build,
                "from": "" if entry.build else entry.located(catalogue.mirrors).name,
                "description": entry.description,
            }
        )
    if as_json:
        _print(json.dumps(rows, indent=2))
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        state = "built here" if row["build"] else (row["digest"][:19] if row["digest"] else "UNPINNED")
        place = f"imagebuild base build {row['name']}" if row["build"] else row["reference"]
        through = f"  (read from {row['from']})" if not row["reference"].startswith(row["from"]) else ""
        _print(f"{row['name']:<{width}}  {row['kind']:<7}  {state:<19}  {place}{through}")


@base.command("pin")
@click.argument("name")
@common_options
def base_pin(workspace: Workspace, name: str) -> None:
    """Resolve NAME's tag to a digest, as it is now, and write it into the catalogue."""
    from imagebuild.base.catalogue import load_catalogue, pin_base, resolve_pin

    path = workspace.images / "catalogue.toml"
    catalogue = load_catalogue(path)
    entry = catalogue.get(name)
    if entry.build:
        raise UsageError(f"base {name} is built here, it has no tag to pin", f"run: imagebuild base build {name}")
    if not entry.reference.tag:
        raise UsageError(f"base {name} names no tag, only a digest", "write `tag` into the catalogue, then pin it")
    located = entry.located(catalogue.mirrors)
    digest = resolve_pin(workspace.registry_store(located.registry), located, entry.reference.tag)
    pin_base(path, name, digest)
    before = "" if entry.digest in (None, digest) else f" (was {entry.digest})"
    _print(f"{name}: {entry.reference.tag} is {digest}{before}")


@base.command("inspect")
@click.argument("name")
@click.option("--platform", default="linux/amd64", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The whole inventory.")
@common_options
def base_inspect(workspace: Workspace, name: str, platform: str, as_json: bool) -> None:
    """What is in base NAME: its user, its Python, its packages."""
    from imagebuild import pipeline
    from imagebuild.base.reading import encode_inventory
    from imagebuild.config import format_size
    from imagebuild.oci.model import Platform

    found = pipeline.open_base(workspace, name, Platform.parse(platform)).inventory
    if as_json:
        _print(encode_inventory(found).decode(), nl=False)
        return
    user, python = found.user, found.interpreter
    _print(f"{name}  {found.digest}  {found.platform}")
    _print(f"  user          {user.config or '(root)'}: uid {user.uid}, gid {user.gid}, {user.name or 'no name'}, home {user.home}")
    if python is None:
        _print("  python        none: no team image can be built on it")
    else:
        managed = ", externally managed" if python.externally_managed else ""
        _print(f"  python        {python.path} {python.version} ({python.environment}{managed}), {python.libc}")
        _print(f"  packages to   {python.paths['purelib']}")
    for other in found.shadowed_interpreters:
        _print(f"  also on PATH  {other} (not used)")
    stored, unpacked = sum(item.size for item in found.layers), sum(item.uncompressed for item in found.layers)
    _print(f"  layers        {len(found.layers)}, {format_size(stored)} stored, {format_size(unpacked)} unpacked")
    _print(f"  packages      {len(found.distributions)}")
    _print(f"  fingerprint   {found.fingerprint}")


@base.command("build")
@click.argument("name", default="starter")
@click.option("--platform", default="linux/amd64", show_default=True)
@click.option("--refresh", is_flag=True, help="Build again with today's Debian packages.")
@click.option("--relock", is_flag=True, hidden=True, help="Resolve JupyterLab anew (working on imagebuild itself).")
@common_options
def base_build(workspace: Workspace, name: str, platform: str, refresh: bool, relock: bool) -> None:
    """Make the starter base from Debian packages, into the layout folder."""
    from imagebuild.base.catalogue import load_catalogue
    from imagebuild.oci.model import Platform
    from imagebuild.starter.build import build_starter, lock_starter

    entry = load_catalogue(workspace.images / "catalogue.toml").get(name)
    if not entry.build:
        raise UsageError(f"base {name} comes from a registry; there is nothing to build", f"run: imagebuild base inspect {name}")
    workspace.prepare()
    wanted = Platform.parse(platform)
    if relock:
        lock_starter(workspace.layout, workspace.cache, wanted, _now(), workspace.report)
    digest = build_starter(workspace.layout, workspace.cache, wanted, workspace.report, rebuild=refresh or relock)
    _print(f"{workspace.layout.image_name(entry.reference.repository)}:{entry.reference.tag}")
    _print(f"  digest    {digest}")


def _find_planned_tag(workspace: Workspace, team: str) -> str:
    """The tag that ``image TEAM`` would build now, if the target has it; else empty (also for what is no team)."""
    from imagebuild import pipeline
    from imagebuild.config import list_teams

    with contextlib.suppress(ImagebuildError):  # a stale lock, say: then the newest image pushed is what there is
        if team in list_teams(workspace.images):
            plan = pipeline.plan_image(workspace, team, cutoff=_now(), locked=True)
            return plan.recipe.tag if pipeline.find_image(workspace, plan) else ""
    return ""


@cli.command()
@click.argument("image", metavar="TEAM|REF")
@click.option("--run", "only", multiple=True, metavar="NAME", help="Only own-user, large-shm, random-uid or read-only; may be repeated.")
@click.option("--read-only", is_flag=True, help="Also with a read-only root.")
@click.option("--timeout", type=click.FloatRange(1), default=120, show_default=True, help="Seconds a server has to come up.")
@click.option("--kind", type=click.Choice(["jupyter", "vscode", "rstudio"]), help="What is served, if the image does not say.")
@click.option("--json", "as_json", is_flag=True, help="The table as JSON.")
@common_options
def smoke(
    workspace: Workspace,
    image: str,
    only: tuple[str, ...],
    read_only: bool,
    timeout: float,
    kind: Literal["jupyter", "vscode", "rstudio"] | None,
    as_json: bool,
) -> None:
    """Run an image as Kubernetes runs a notebook; exit 7 when something is wrong.

    TEAM is the team's image in the target (of its lock as it is, else the newest), REF an image of the local Docker or of a registry.
    """
    from imagebuild.check.pod import choose_runs
    from imagebuild.check.smoke import encode_report, format_report, smoke_image
    from imagebuild.check.subject import find_subject
    from imagebuild.engine.local import connect_engine

    runs = choose_runs(only, read_only=read_only)
    client = connect_engine()
    try:
        subject = find_subject(workspace, client, image, kind, _find_planned_tag(workspace, image))
        report = smoke_image(client, subject, runs, timeout=timeout, report=workspace.report)
    finally:
        client.close()
    _print(encode_report(report) if as_json else format_report(report), nl=False)
    report.raise_failures()


@cli.command()
@click.option("--format", "form", type=click.Choice(["table", "json", "kubeflow"]), default="table", show_default=True)
@pull_option
@common_options
def catalogue(workspace: Workspace, form: str, pull_from: str) -> None:
    """What can be spawned, read from what was pushed."""
    from imagebuild.catalogue.entries import encode_entries
    from imagebuild.config import format_size
    from imagebuild.emit.kubeflow import render_spawner_form

    listing = _read_entries(workspace)
    if form == "json":
        _print(encode_entries(listing).decode(), nl=False)
    elif form == "kubeflow":
        rendered = render_spawner_form(listing.entries, registry_prefix=pull_from)
        for warning in rendered.warnings:
            click.echo(f"warning: {warning}", err=True)
        _print(rendered.text, nl=False)
    else:
        for entry in listing.entries:
            mark = "*" if entry.current else " "
            size = format_size(entry.delta_compressed)
            _print(f"{mark} {entry.team:<16} {entry.tag:<22} {entry.created[:10]}  {size:>10}  on {entry.base}  {entry.title}")
        click.echo(f"{len(listing.entries)} images, {listing.foreign} foreign tags left out", err=True)


def _read_entries(workspace: Workspace) -> CatalogueListing:
    from imagebuild.catalogue.entries import read_entries
    from imagebuild.config import list_teams

    # By team, not by listing the registry: many have no catalogue to list, or show one only to administrators.
    listing = read_entries(workspace.target, teams=[workspace.repository(team) for team in list_teams(workspace.images)])
    for team in listing.undecided:
        _say(f"warning: {team} has two images with the newest cutoff; the one marked current is the first by tag")
    return listing


@cli.command()
@click.option("--pool", "only", multiple=True, help="Only this pool (may be given again).")
@click.option("--namespace", default="imagebuild-prewarm", show_default=True)
@pull_option
@common_options
def prewarm(workspace: Workspace, only: tuple[str, ...], namespace: str, pull_from: str) -> None:
    """One DaemonSet per GPU node pool that keeps the teams' current images on its nodes."""
    from imagebuild.emit.pools import load_pools
    from imagebuild.emit.prewarm import render_prewarm
    from imagebuild.toml import suggest

    file = load_pools(workspace.images / "pools.toml")
    known = [pool.name for pool in file.pools]
    for name in only:
        if name not in known:
            raise UsageError(f"there is no pool {name!r}", suggest(name, known))
    text = render_prewarm(
        [pool for pool in file.pools if not only or pool.name in only],
        _read_entries(workspace).entries,
        namespace=namespace,
        pause_image=file.pause_image,
        pull_secret=file.pull_secret,
        registry_prefix=pull_from,
    )
    _print(text, nl=False)


def _say(*lines: str) -> None:
    """Lines on stderr, as far as it takes them: a full disk behind it must not change the exit code."""
    with contextlib.suppress(OSError):
        for line in lines:
            click.echo(line, err=True)


def _print_error(error: ImagebuildError) -> None:
    _say(f"error: {error.message}", *error.details, *([f"hint: {error.hint}"] if error.hint else []))


class _StopError(BaseException):
    """A signal asked this process to end; like KeyboardInterrupt nothing but ``main`` catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _stop(number: int, _frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # asked again while it cleans up: it ends at once
    raise _StopError(number)


def main() -> None:
    """Entry point: errors become two lines and an exit code; a traceback only with --debug."""
    debug = "--debug" in sys.argv
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # under nohup SIGHUP stays ignored
            signal.signal(number, _stop)
    try:
        status = cli.main(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except ImagebuildError as error:
        if debug:
            raise
        _print_error(error)
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        _print(error.format_message())
        sys.exit(2)
    except click.ClickException as error:
        _say(f"error: {error.format_message()}", "hint: imagebuild --help, or imagebuild COMMAND --help")
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted; nothing half-written was kept")
        sys.exit(130)
    except _StopError as stop:
        _say(f"stopped by {signal.Signals(stop.number).name}; nothing half-written was kept")
        sys.exit(128 + stop.number)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        if debug:
            raise
        from imagebuild.files import explain_os_error

        _print_error(explain_os_error(error, "working"))
        sys.exit(ConfigurationError.exit_code)
    except Exception as error:  # a defect of ours
        if debug:
            raise
        _say(
            f"error: unexpected {type(error).__name__}: {error}",
            "hint: this is a defect of imagebuild; run it again with --debug and report what it prints",
        )
        sys.exit(1)


if __name__ == "__main__":
    main()
