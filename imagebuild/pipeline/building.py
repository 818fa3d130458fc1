"""A plan's layers: its wheels, its build context, and either engine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imagebuild.dockerfile import ADDONS_FOLDER, render_requirements
from imagebuild.engine.options import DEFAULT_DOCKER, BuildContext, DockerOptions
from imagebuild.errors import ConfigurationError
from imagebuild.files import hash_file, scratch_folder, write_atomic
from imagebuild.layer.archivemember import ArchiveRequest
from imagebuild.layer.model import LAYER_MTIME, TeamLayers
from imagebuild.layer.removal import find_removal
from imagebuild.lock.index.routing import LOCAL_NAME
from imagebuild.pipeline.addons import fetch_addons
from imagebuild.pipeline.lockuse import build_local_wheels
from imagebuild.pipeline.planning import Plan, write_recipe
from imagebuild.pipeline.sdists import make_source_builder, remake_wheel
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.check.verify.twin import TwinReport
    from imagebuild.engine.bake import BakeTarget
    from imagebuild.engine.buildx import DockerBuild
    from imagebuild.layer.members import MemberSources
    from imagebuild.pipeline.mounting import LayerMounts


def fetch_team_wheels(
    workspace: Workspace,
    plan: Plan,
    docker: DockerOptions = DEFAULT_DOCKER,
    *,
    wanted: Collection[str] | None = None,
) -> dict[str, Path]:
    """Every wheel of the lock (or those ``wanted``) on this disk, verified: local packages built, the others fetched or found in the cache.

    ``docker``: how those are built again that are locked from a source archive.
    """
    from imagebuild.lock.wheels.fetching import fetch_wheels

    packages = tuple(item for item in plan.lock.packages if wanted is None or item.name in wanted)
    lock = msgspec.structs.replace(plan.lock, packages=packages)
    local = build_local_wheels(workspace, plan.team, lock) if any(item.index == LOCAL_NAME for item in packages) else {}
    build = make_source_builder(workspace, plan.team, plan.base, docker)
    return fetch_wheels(
        lock,
        lambda: plan.team.indexes,
        workspace.cache,
        local,
        workspace.report,
        remake=partial(remake_wheel, workspace, plan.team, plan.base, build),
        offline=workspace.offline,
    )


def link_files(files: Mapping[str, Path], folder: Path) -> None:
    """Have the files in ``folder``, by links where the disk allows."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in files.values():
        target = folder / path.name
        if target.exists() and target.stat().st_size == path.stat().st_size:
            continue
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def prepare_context(workspace: Workspace, plan: Plan, docker: DockerOptions = DEFAULT_DOCKER) -> tuple[Path, dict[str, Path]]:
    """The build's folder with Dockerfile, wheels and add-ons in it, and the wheels by package; ``docker``: for source archives."""
    folder = write_recipe(workspace, plan)
    wheels = fetch_team_wheels(workspace, plan, docker)
    link_files(wheels, folder / "wheels")
    if plan.addons:
        link_files(fetch_addons(workspace, plan.team, plan.base, plan.addons, docker), folder / "wheels" / ADDONS_FOLDER)
    return folder, wheels


def adapt_context(workspace: Workspace, plan: Plan, folder: Path, wheels: dict[str, Path], *, docker: bool) -> dict[str, int]:
    """Make a context that pip installs as the direct engine would, and report what is odd; package -> wrong rows of its wheel's RECORD.

    Wheels that leave files to others come without those, for pip would let the last one win. ``docker``: the context is
    built now. Then collisions are refused, and wheels whose RECORD is wrong get a true one, for pip takes theirs over; IntegrityError where
    images/policy.toml has ``strict-record``. The direct engine sees to that itself.
    """
    if not docker and not plan.recipe.files:
        return {}
    from imagebuild.wheel.collisions import SiteLayout, divide_wheels, write_adapted_wheel

    layout = SiteLayout(plan.base.interpreter.paths, plan.base.interpreter.version)
    found = find_repaired(workspace, plan, wheels) if docker else {}
    owned = divide_wheels(wheels, plan.recipe.files, layout, plan.recipe.slim)
    for pattern in owned.idle:
        workspace.report(
            f"warning: {plan.team.name}: [files] {pattern!r} decides nothing: no two packages bring such a path with different content"
        )
    hashes, texts = {}, {}
    for name in sorted({*owned.yielded, *found}):
        target = folder / "wheels" / wheels[name].name
        info, text = write_adapted_wheel(wheels[name], target, layout, owned.yielded.get(name, frozenset()))
        hashes[name] = hash_file(target)
        if text:
            texts[info] = text
    if hashes:
        write_atomic(folder / "wheels" / "requirements.txt", render_requirements(plan.lock, hashes).encode())
    if texts:
        write_atomic(folder / "wheels" / "entry_points.json", json.dumps(texts, sort_keys=True).encode())
    return found


def build_docker_layer(
    workspace: Workspace, plan: Plan, folder: Path, out: Path, options: DockerOptions, *, push: bool = False
) -> DockerBuild:
    """The layer by the docker engine, audited; ``folder`` is :func:`prepare_context`'s. ``push``: by the builder, to the target."""
    from imagebuild.engine.aptsources import prepare_apt_secrets
    from imagebuild.engine.buildx import PushTarget, build_layer_with_docker
    from imagebuild.layer.invariants import check_layers

    base, recipe = plan.base, plan.recipe
    with scratch_folder(workspace.cache) as scratch:
        secrets = prepare_apt_secrets(base, scratch) if recipe.system else {}
        target = PushTarget(workspace.target, plan.repository) if push else None
        context = BuildContext(folder, workspace.layout.folder, secrets)
        built = build_layer_with_docker(recipe, base, context, out, options, push=target, report=workspace.report)
    gone = frozenset(find_removal(base, recipe.replaced).owners)
    check_layers(TeamLayers((built.layer,)), base=base, extra=recipe.extra_files, whiteouts=gone, foreign=True, system=built.layer.system)
    return built


def prepare_bake(workspace: Workspace, plan: Plan) -> BakeTarget:
    """The team's build as a target of docker-bake.json: context, wheels and apt's secrets lie ready under .imagebuild/builds."""
    from imagebuild.engine.aptsources import prepare_apt_secrets
    from imagebuild.engine.bake import BakeTarget
    from imagebuild.engine.buildx import make_build_inputs

    if plan.recipe.codec.chunked:
        raise ConfigurationError(
            f'team {plan.team.name} has [layer] format = "zstd:chunked", which BuildKit does not write',
            f"build it with imagebuild image {plan.team.name}, which packs the docker engine's layer itself",
        )
    folder, wheels = prepare_context(workspace, plan)
    adapt_context(workspace, plan, folder, wheels, docker=True)
    secrets = prepare_apt_secrets(plan.base, folder / "secrets") if plan.recipe.system else {}
    inputs = make_build_inputs(plan.recipe, plan.base, BuildContext(folder, workspace.layout.folder, secrets))
    return BakeTarget(plan.recipe, inputs, folder, f"{workspace.host}/{plan.repository}" if workspace.host else plan.repository)


def build_direct_layers(
    workspace: Workspace,
    plan: Plan,
    wheels: Mapping[str, Path],
    out: Path,
    docker: DockerOptions = DEFAULT_DOCKER,
    sources: MemberSources | None = None,
    mounts: LayerMounts | None = None,
) -> TeamLayers:
    """The layers by the direct engine, audited; with ``mounts``, a layer that the target has is not made again.

    ``docker``: for source archives of R packages.
    """
    from imagebuild.layer.assembly import build_layers
    from imagebuild.layer.invariants import TarEntries, check_layers
    from imagebuild.layer.records import LayerRecords
    from imagebuild.supply.policy import read_policy

    single = plan.recipe.codec.single
    archives = fetch_addons(workspace, plan.team, plan.base, plan.addons, docker) if plan.addons else {}
    removal = find_removal(plan.base, plan.recipe.replaced)
    gone = frozenset(removal.owners)
    audit = TarEntries(plan.base, plan.recipe.extra_files, gone)
    records = None
    if mounts is not None and not single:
        records = LayerRecords(workspace.cache, plan.base, plan.recipe.codec, LAYER_MTIME, mounts.find_present, gone)
    made = build_layers(
        [(wheels[item.name], item) for item in plan.lock.packages],
        base=plan.base,
        groups=plan.recipe.layers,
        codec=plan.recipe.codec,
        cache=workspace.cache,
        extra=plan.recipe.extra_files,
        mtime=LAYER_MTIME,
        slim=plan.recipe.slim,
        files=plan.recipe.files,
        jobs=workspace.jobs,
        sources=sources,
        strict=read_policy(workspace.images).policy.strict_record,
        out=out,
        inspector=None if single else audit,
        records=records,
        removal=removal,
        addons=[ArchiveRequest(archives[item.package], item) for item in plan.recipe.addons],
        report=workspace.report,
    )
    if single:
        check_layers(made, base=plan.base, extra=plan.recipe.extra_files, whiteouts=gone)
    else:
        audit.finish()
    if records is not None:
        records.keep()
    return made


def find_repaired(workspace: Workspace, plan: Plan, wheels: dict[str, Path]) -> dict[str, int]:
    """Package -> wrong rows of its wheel's RECORD; each is reported, because the docker engine's pip says nothing.

    IntegrityError where images/policy.toml has ``strict-record``.
    """
    from imagebuild.supply.policy import read_policy
    from imagebuild.wheel.faults import find_record_faults
    from imagebuild.wheel.record import describe_repair, refuse_faults

    python = plan.base.interpreter.version
    counts = {
        item.name: find_record_faults(wheels[item.name], item.sha256, workspace.cache, python=python)
        for item in plan.lock.packages
        if item.name in wheels
    }
    found = {name: count for name, count in counts.items() if count}
    strict = read_policy(workspace.images).policy.strict_record
    for name, count in found.items():
        if strict:
            raise refuse_faults(wheels[name].name, count)
        workspace.report(f"note: {name}: {describe_repair(count)}")
    return found


def build_twins(workspace: Workspace, plan: Plan, docker: DockerOptions = DEFAULT_DOCKER) -> TwinReport:
    """Build ``plan``'s files with both engines and compare the two; nothing is pushed."""
    from imagebuild.check.verify.twin import compare_layers

    if plan.recipe.system:
        raise ConfigurationError(
            f"team {plan.team.name} has system packages, which only the docker engine installs: there is no twin",
            "verify a team without [system] packages",
        )
    folder, wheels = prepare_context(workspace, plan, docker)
    adapt_context(workspace, plan, folder, wheels, docker=True)
    with scratch_folder(workspace.cache) as scratch:
        built = build_docker_layer(workspace, plan, folder, scratch / "docker.layer", docker).layer
        direct = build_direct_layers(workspace, plan, wheels, scratch / "direct.layer", docker)
        workspace.report(f"{plan.team.name}: comparing the two layers")
        (scratch / "kept").mkdir()
        return compare_layers(direct, built, base=plan.base, scratch=scratch / "kept")
