"""What this machine and this configuration can do: facts as functions, and one table that says which are asked for.

Everything is only looked at. What the teams here need and is not there is a problem; what nobody needs is a note.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from imagebuild.config import Team, list_teams, load_team
from imagebuild.errors import ConfigurationError, ImagebuildError
from imagebuild.text import format_size
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.lock.index.routing import PackageIndex

Status = Literal["ok", "note", "problem"]
_LITTLE = 5 << 30  # bytes; a base of a few GiB is read through, members and wheels are kept


class Diagnosis(msgspec.Struct, frozen=True):
    """One line of the table. ``hint`` says what to do, where something is to be done."""

    subject: str
    status: Status
    text: str
    hint: str = ""


class Scene(msgspec.Struct, frozen=True):
    """What is looked at: the workspace and those of its teams that can be read."""

    workspace: Workspace
    teams: tuple[Team, ...]
    docker_needed: bool
    starter_needed: bool


def diagnose(workspace: Workspace) -> tuple[Diagnosis, ...]:
    """All findings, in the table's order. A look that fails is a finding, never an error."""
    findings, teams = _read_teams(workspace)
    scene = Scene(workspace, teams, any(_needs_docker(team) for team in teams), _needs_starter(workspace, teams))
    for look in _LOOKS:
        try:
            findings += list(look(scene))
        except ImagebuildError as error:
            findings.append(Diagnosis(look.__name__.removeprefix("_look_at_").replace("_", " "), "problem", error.message, error.hint))
    return tuple(findings)


def _read_teams(workspace: Workspace) -> tuple[list[Diagnosis], tuple[Team, ...]]:
    findings: list[Diagnosis] = []
    teams: list[Team] = []
    try:
        names = list_teams(workspace.images)
    except ConfigurationError as error:
        return [Diagnosis("teams", "note", error.message, "begin with: imagebuild init TEAM")], ()
    for name in names:
        try:
            teams.append(load_team(workspace.images, name))
        except ImagebuildError as error:
            findings.append(Diagnosis(f"team {name}", "problem", error.message, error.hint))
    missing = [team.name for team in teams if not workspace.lockfile(team.name).is_file()]
    text = f"{len(teams)} can be read" + (f", without a lock: {', '.join(missing)}" if missing else "")
    return [Diagnosis("teams", "ok", text), *findings], tuple(teams)


def _needs_docker(team: Team) -> bool:
    return bool(team.table.engine == "docker" or team.table.system.packages or team.table.source.packages)


def _needs_starter(workspace: Workspace, teams: tuple[Team, ...]) -> bool:
    from imagebuild.base.pins import load_catalogue

    try:
        bases = load_catalogue(workspace.images / "catalogue.toml").bases
    except ImagebuildError:
        return False
    return any(team.table.base in bases and bases[team.table.base].build for team in teams)


def _look_at_machine(scene: Scene) -> Iterator[Diagnosis]:
    from imagebuild.base.runtime import find_network_isolation, runs_here

    system = os.uname()
    version = ".".join(map(str, sys.version_info[:3]))
    yield Diagnosis("machine", "ok", f"{system.sysname} {system.machine}, Python {version}, {os.cpu_count()} processors")
    for platform in sorted({str(team.platform) for team in scene.teams}):
        if not runs_here(next(team.platform for team in scene.teams if str(team.platform) == platform)):
            yield Diagnosis(
                "interpreter", "note", f"programs of {platform} do not run here: no bytecode in its layers", "build on that platform"
            )
    if find_network_isolation():
        yield Diagnosis("namespaces", "ok", "the base's interpreter runs without network")
    else:
        yield Diagnosis("namespaces", "note", "none: the base's interpreter runs isolated, and sees the network", "allow user namespaces")


def _look_at_cache(scene: Scene) -> Iterator[Diagnosis]:
    folder = scene.workspace.cache
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Diagnosis("cache", "problem", f"{there} cannot be written to", "give --cache-dir a folder of yours")
        return
    free = shutil.disk_usage(there).free
    text = f"{folder}, {format_size(free)} free"
    yield Diagnosis("cache", "ok" if free > _LITTLE else "note", text, "" if free > _LITTLE else "a large base and its wheels need more")


def _look_at_registry(scene: Scene) -> Iterator[Diagnosis]:
    workspace = scene.workspace
    if not workspace.host:
        yield Diagnosis("registry", "ok", f"none given: images go to {workspace.layout.label}")
        return
    repository = workspace.repository(scene.teams[0].name if scene.teams else "imagebuild-doctor")
    count = sum(1 for _ in workspace.target.list_tags(repository))
    from imagebuild.oci.credentials import Credentials

    login = "with a login" if Credentials.load().find(workspace.host) else "without a login"
    yield Diagnosis("registry", "ok", f"{workspace.host} answers {login}; {repository} has {count} tags; pushing is known when it is done")


def _look_at_ranges(scene: Scene) -> Iterator[Diagnosis]:
    """Whether nodes can fetch parts of zstd:chunked layers from the registry; asked of an image that is there."""
    from imagebuild.oci.model import Manifest
    from imagebuild.oci.referrers import REFERRERS_TAG

    workspace = scene.workspace
    teams = [team for team in scene.teams if team.table.layer.codec.chunked]
    if not workspace.host or not teams:
        return
    repository = workspace.repository(teams[0].name)
    tag = next((tag for tag in workspace.target.list_tags(repository) if not REFERRERS_TAG.fullmatch(tag)), "")
    raw = workspace.target.get_manifest(repository, tag) if tag else None
    manifest = raw.parse() if raw is not None else None
    if not isinstance(manifest, Manifest) or not manifest.layers:
        yield Diagnosis("partial pulls", "note", f"whether {workspace.host} answers ranges is known when {repository} has an image")
    elif workspace.target.answers_ranges(repository, manifest.layers[-1]):
        yield Diagnosis("partial pulls", "ok", f"{workspace.host} answers two ranges in one request")
    else:
        yield Diagnosis(
            "partial pulls",
            "note",
            f"{workspace.host} does not answer two ranges in one request: nodes fetch zstd:chunked layers whole",
            'leave [layer] format = "zstd:chunked" out, or serve the layers from a registry that does',
        )


def _look_at_bases(scene: Scene) -> Iterator[Diagnosis]:
    from imagebuild.base.pins import load_catalogue

    if not scene.teams:
        return
    catalogue = load_catalogue(scene.workspace.images / "catalogue.toml")
    for name in sorted({team.table.base for team in scene.teams}):
        subject = f"base {name}"
        try:
            base = catalogue.get(name)
            if base.build:
                yield Diagnosis(subject, "ok", "is built here")
                continue
            if base.digest is None:
                yield Diagnosis(subject, "problem", "is not pinned", f"run: imagebuild base pin {name}")
                continue
            located = base.located(catalogue.mirrors)
            store = scene.workspace.registry_store(located.registry)
            if store.head_manifest(located.repository, base.digest) is not None:
                yield Diagnosis(subject, "ok", f"{located.name}, as pinned")
            else:
                yield Diagnosis(subject, "problem", f"{located.name} has no {base.digest}", f"run: imagebuild base pin {name}")
        except ImagebuildError as error:
            yield Diagnosis(subject, "problem", error.message, error.hint)


def _look_at_mirrors(scene: Scene) -> Iterator[Diagnosis]:
    """Each of ``[mirrors]``: whether it answers, and has the bases that teams read through it."""
    from imagebuild.base.pins import load_catalogue

    if not scene.teams:
        return
    catalogue = load_catalogue(scene.workspace.images / "catalogue.toml")
    wanted = [catalogue.bases[name] for name in sorted({team.table.base for team in scene.teams} & set(catalogue.bases))]
    for source, target in catalogue.mirrors.items():
        subject = f"mirror {source}"
        through = [
            base
            for base in wanted
            if not base.build and base.digest and base.located({}) != base.located({source: target}) == base.located(catalogue.mirrors)
        ]
        if not through:
            yield Diagnosis(subject, "note", f"{target}: no team here has a pinned base of {source}")
        for base in through:
            located = base.located({source: target})
            assert base.digest is not None
            try:
                store = scene.workspace.registry_store(located.registry)
                found = store.head_manifest(located.repository, base.digest)
            except ImagebuildError as error:
                hint = error.hint or "see whether that host can be reached from here"
                yield Diagnosis(subject, "problem", error.message, f"{hint}; [mirrors] is in {catalogue.path}")
                continue
            if found is not None:
                yield Diagnosis(subject, "ok", f"{target} has {base.name}, as pinned")
            else:
                origin = base.located({})
                copy = f"skopeo copy --all docker://{origin.name}@{base.digest} docker://{located.name}:{located.tag}"
                yield Diagnosis(subject, "problem", f"{target} answers and has no copy of {base.name}", f"copy it there: {copy}")


def _look_at_indexes(scene: Scene) -> Iterator[Diagnosis]:
    from imagebuild.lock.index.upstream import Upstream

    seen: set[str] = set()
    for team in scene.teams:
        try:
            indexes = team.indexes
        except ImagebuildError as error:
            yield Diagnosis(f"indexes of {team.name}", "problem", error.message, error.hint)
            continue
        for index in indexes:
            if index.address in seen:
                continue
            seen.add(index.address)
            # Any answer about a project will do, also that there is none; a private index is asked for a name of its own.
            project = "pip" if index.default or not index.names else index.names[0].replace("*", "x").replace("?", "x")
            try:
                with Upstream(index, scene.workspace.cache) as upstream:
                    upstream.read_project(project)
                    target = upstream.find_redirect(project)
                yield _judge_redirect(index, project, target) if target else Diagnosis(f"index {index.name}", "ok", "answers")
            except ImagebuildError as error:
                yield Diagnosis(f"index {index.name}", "problem", error.message, error.hint)


def _judge_redirect(index: PackageIndex, project: str, target: str) -> Diagnosis:
    """Of an index whose page of ``project`` redirects elsewhere; what it does not have may do so without harm."""
    text = f"redirects the page of {project} to {target}: the redirect is not followed, and {project} counts as missing there"
    host = target.partition("://")[2] or "HOST"
    own = f'if that is the index\'s own host, redirects = ["{host}"] in its [[index]]'
    if index.default:
        return Diagnosis(f"index {index.name}", "problem", text, f"give where it redirects to as its url, or, {own}")
    return Diagnosis(f"index {index.name}", "note", text, f"have it answer 404 instead (pypiserver: --disable-fallback), or, {own}")


def _look_at_docker(scene: Scene) -> Iterator[Diagnosis]:
    from imagebuild.engine.buildx import connect_docker
    from imagebuild.engine.dockerd import connect_engine

    for subject, connect in (("docker engine", connect_engine), ("buildx", connect_docker)):
        try:
            client = connect()
            if subject == "docker engine":
                client.close()  # type: ignore[union-attr]
            yield Diagnosis(subject, "ok", "answers")
        except ImagebuildError as error:
            if scene.docker_needed:
                yield Diagnosis(subject, "problem", error.message, error.hint)
            else:
                yield Diagnosis(subject, "note", "none; no team here needs it (smoke, --load and --engine docker do)")


def _look_at_tools(scene: Scene) -> Iterator[Diagnosis]:
    if shutil.which("mmdebstrap"):
        yield Diagnosis("mmdebstrap", "ok", "is there")
    elif scene.starter_needed:
        yield Diagnosis("mmdebstrap", "problem", "is missing, and the starter base is made with it", "apt-get install mmdebstrap")
    else:
        yield Diagnosis("mmdebstrap", "note", "is missing; no team here is on a base that is built here")
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=False)
        yield Diagnosis("git", "ok", done.stdout.strip().removeprefix("git version "))
    except FileNotFoundError:
        yield Diagnosis("git", "note", "is missing; only imagebuild ci needs it")


_LOOKS: tuple[Callable[[Scene], Iterator[Diagnosis]], ...] = (
    _look_at_machine,
    _look_at_cache,
    _look_at_registry,
    _look_at_ranges,
    _look_at_bases,
    _look_at_mirrors,
    _look_at_indexes,
    _look_at_docker,
    _look_at_tools,
)
