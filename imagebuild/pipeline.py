"""The main job, step after step: team -> base -> lock -> recipe -> layer -> image -> checks -> registry."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild import annotations as names
from imagebuild.base.catalogue import load_catalogue, require_pinned
from imagebuild.base.model import Base
from imagebuild.base.reading import encode_inventory, read_base, require_python
from imagebuild.check.budget import LastImage, compute_limits, list_absent, require_budget, require_prediction
from imagebuild.config import Team, load_team
from imagebuild.engine.image import DerivedImage, derive_attested_index, derive_image
from imagebuild.errors import BudgetError, ConfigurationError, LockError, RemoteError, UsageError
from imagebuild.files import exclusive, explain_os_error, scratch_folder, write_atomic
from imagebuild.layer.model import LAYER_MTIME, Layer
from imagebuild.layer.removal import find_removal, render_removal
from imagebuild.lock.model import Lock
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Manifest, Platform
from imagebuild.oci.store import Presence, Store, explain_unknown
from imagebuild.recipe import (
    REMOVAL_FILE,
    Recipe,
    make_recipe,
    render_dockerfile,
    render_installer,
    render_requirements,
    render_slimmer,
)
from imagebuild.size.model import SizeReport, encode_report
from imagebuild.starter.place import find_starter
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from imagebuild.check.twin import TwinReport
    from imagebuild.engine.bake import BakeTarget
    from imagebuild.engine.docker import DockerBuild, Statement
    from imagebuild.lock.model import LockedPackage
    from imagebuild.lock.source import BuildSource, SourceOrder
    from imagebuild.lock.upstream import Upstream
    from imagebuild.oci.copy import CopyPlan


class Plan(msgspec.Struct, frozen=True):
    """Everything decided before anything is built."""

    team: Team
    base: Base
    lock: Lock
    recipe: Recipe
    repository: str


def open_base(workspace: Workspace, name: str, platform: Platform) -> Base:
    """The catalogue's base ``name``, read (from the cache after the first time); an unpinned one is refused."""
    catalogue = load_catalogue(workspace.images / "catalogue.toml")
    entry = catalogue.get(name)
    workspace.prepare()
    if entry.build:
        given = workspace.bundled_base
        pinned = given[1] if given and given[0] == name else find_starter(workspace.layout) or _build_starter(workspace, platform)
        store: Store = workspace.layout
    else:
        pin = require_pinned(entry)
        assert pin is not None  # only a base that is built here has none
        pinned = pin
    located = entry.located(catalogue.mirrors if workspace.mirrors is None else workspace.mirrors)
    if not entry.build:
        store = workspace.registry_store(located.registry)
    return read_base(
        store,
        located.repository,
        pinned,
        platform,
        name=name,
        kind=entry.kind,
        reference=entry.annotation_name,
        registry=located.registry,
        cache=workspace.cache,
        report=workspace.report,
    )


def open_base_store(workspace: Workspace, base: Base) -> Store:
    """Where the base's layers are: its registry, or the layout folder for one that is built here or came with a bundle."""
    given = workspace.bundled_base
    return workspace.registry_store(base.registry) if base.registry and (not given or given[0] != base.name) else workspace.layout


def _build_starter(workspace: Workspace, platform: Platform) -> Digest:
    if workspace.offline:
        raise ConfigurationError(
            "the starter base is not built here yet, and --offline", "build it where there is a network, or bring a bundle"
        )
    from imagebuild.starter.build import build_starter

    return build_starter(workspace.layout, workspace.cache, platform, workspace.report)


class LockOptions(msgspec.Struct, frozen=True):
    """How to lock."""

    cutoff: str  # RFC 3339, UTC
    explicit_cutoff: bool = False  # asked for: an index that cannot apply it is an error
    upgrade: bool = False  # everything to the newest
    upgrade_packages: frozenset[str] = frozenset()  # only these, by normalised name
    resolver: str = "pip-tools"
    builder: str | None = None
    network: str | None = None


def find_lock(workspace: Workspace, team: Team) -> Lock | None:
    """The team's lock as it is, None when there is none that can be read: half a merge, a cut file."""
    from imagebuild.lock.lockfile import read_lock

    path = workspace.lockfile(team.name)
    try:
        return read_lock(path) if path.is_file() else None
    except LockError as error:  # locking anew is what repairs it
        workspace.report(f"{team.name}: {error.message}; locking without it")
        return None


def resolve_team(workspace: Workspace, team: Team, base: Base, before: Lock | None, options: LockOptions) -> Lock:
    """Compile the team's lock and write nothing; versions of ``before`` stay unless ``options`` say otherwise."""
    from imagebuild.lock.compiling import compile_lock

    require_python(base)
    existing = None if options.upgrade else before
    if existing is not None and options.upgrade_packages:
        unknown = options.upgrade_packages - {item.name for item in existing.packages}
        if unknown:
            raise UsageError(
                f"the lock of {team.name} has no {', '.join(sorted(unknown))} to upgrade",
                "--upgrade-package takes names that are locked; what is new comes from requirements.in by itself",
            )
        stay = tuple(item for item in existing.packages if item.name not in options.upgrade_packages)
        existing = msgspec.structs.replace(existing, packages=stay)
    workspace.report(
        f"{team.name}: resolving against {base.name} (Python {base.interpreter.version}, {len(base.inventory.distributions)} packages)"
    )
    return compile_lock(
        team=team.name,
        base=base,
        requirements=team.requirements,
        local_packages=team.local_packages,
        indexes=team.indexes,
        cutoff=options.cutoff,
        explicit_cutoff=options.explicit_cutoff,
        root=workspace.root,
        cache=workspace.cache,
        report=workspace.report,
        existing=existing,
        resolver=options.resolver,
        source=team.source,
        replace=team.table.replace,
        protect=team.protect,
        build_source=make_source_builder(workspace, team, base, builder=options.builder, network=options.network),
    )


def lock_team(workspace: Workspace, team: Team, base: Base, options: LockOptions) -> Lock:
    """Compile and write the team's lock. When nothing it decides has changed, the file (and its cutoff) stays."""
    from imagebuild.lock.lockfile import write_lock

    path = workspace.lockfile(team.name)
    before = find_lock(workspace, team)
    with exclusive(workspace.cache / f"lock-{team.name}.lock"):
        lock = resolve_team(workspace, team, base, before, options)
        # The base's inventory beside the lock: a review sees what a new base changes.
        inventory = workspace.root / "lockfiles" / "bases" / f"{base.name}.json"
        text = encode_inventory(base.inventory)
        if not inventory.is_file() or inventory.read_bytes() != text:
            write_atomic(inventory, text)
        if before is not None and not options.explicit_cutoff and msgspec.structs.replace(lock, cutoff=before.cutoff) == before:
            workspace.report(f"{team.name}: {path.name} is up to date ({len(before.packages)} packages)")
            return before
        try:
            write_lock(path, lock)
        except OSError as error:
            raise explain_os_error(error, f"writing {path.name}") from None
    workspace.report(f"{team.name}: wrote {path.relative_to(workspace.root)} ({len(lock.packages)} packages)")
    return lock


def read_team_lock(workspace: Workspace, team: Team, base: Base) -> Lock:
    """The team's lock when it is there, whole, this team's, and fresh; else a LockError that says how to get a new one."""
    from imagebuild.lock.inputs import check_lock_fresh
    from imagebuild.lock.lockfile import read_lock
    from imagebuild.lock.replacement import check_replaced

    path = workspace.lockfile(team.name)
    hint = f"run: imagebuild lock {team.name}"
    if not path.is_file():
        raise LockError(f"{path.relative_to(workspace.root)} is missing", hint)
    lock = read_lock(path)
    if lock.team != team.name:
        raise LockError(f"{path.relative_to(workspace.root)} is the lock of team {lock.team}", hint)
    check_lock_fresh(lock, base, team.requirements, team.local_packages, workspace.root)
    check_replaced(base, lock, team.table.replace, team.protect)
    return lock


def build_local_wheels(workspace: Workspace, team: Team, lock: Lock) -> dict[str, Path]:
    """The wheels of the team's source trees, by name: those a bundle brought, or built (again)."""
    from imagebuild.lock.buildtools import make_build_tools
    from imagebuild.lock.fetching import find_wheel
    from imagebuild.lock.localpackage import build_local_wheel

    if workspace.offline:
        brought = {item.name: find_wheel(item, workspace.cache) for item in lock.packages if item.tree}
        if all(brought.values()):
            return {name: path for name, path in brought.items() if path is not None}
    tools = make_build_tools(lambda: team.indexes, lock.cutoff, workspace.cache, workspace.report)
    wheels = (build_local_wheel(folder, workspace.cache, lock.cutoff, tools) for folder in team.local_packages)
    return {wheel.name: wheel.path for wheel in wheels}


def choose_engine(asked: str, system: Sequence[str], replace: Sequence[str] = ()) -> str:
    """``direct`` or ``docker``: ``auto`` is decided by the inputs alone, never by what the machine happens to have.

    A lock holds wheels only, so what is left to decide is whether system packages are asked for.
    """
    if asked == "auto":
        asked = "docker" if system else "direct"
    if asked == "docker" and "pip" in replace:
        raise ConfigurationError("the docker engine installs with the base's pip, which cannot replace itself", "use --engine direct")
    if asked == "direct" and system:
        raise ConfigurationError(f"the direct engine cannot install system packages ({', '.join(system)})", "use --engine docker or auto")
    return asked


def plan_image(workspace: Workspace, team_name: str, *, cutoff: str, locked: bool = False, engine: str | None = None) -> Plan:
    """Everything up to the recipe. A missing lock is made (refused when ``locked``); a stale one is always refused.

    ``engine`` (direct, docker, auto) goes before the team's own.
    """
    from imagebuild.lock.lockfile import lock_digest

    team = load_team(workspace.images, team_name)
    table = team.table
    chosen = choose_engine(engine or table.engine, table.system.packages, table.replace)
    if workspace.offline and table.system.packages:
        raise ConfigurationError(
            f"team {team_name} has system packages, which apt fetches while it builds: not with --offline", "build it online"
        )
    base = open_base(workspace, table.base, team.platform)
    require_python(base)
    if locked or workspace.offline or workspace.lockfile(team_name).is_file():
        lock = read_team_lock(workspace, team, base)
    else:
        lock = lock_team(workspace, team, base, LockOptions(cutoff))
    recipe = make_recipe(
        base,
        lock,
        lock_digest(lock),
        engine=chosen,
        codec=table.layer.codec,
        environment=table.env,
        personal_constraints=table.personal_constraints,
        title=table.display_name or team_name,
        description=table.description,
        owners=table.owners,
        system=table.system.packages,
        slim=table.slim,
    )
    return Plan(team, base, lock, recipe, workspace.repository(team_name))


def find_image(workspace: Workspace, plan: Plan) -> Digest | None:
    """The digest the target has under the recipe's tag: one HEAD. Not knowing is an error, never 'absent'.

    A registry takes no manifest without its blobs and serves none that rotted; of a layout folder both are looked at.
    """
    presence, descriptor = workspace.target.head_manifest(plan.repository, plan.recipe.tag)
    if presence is Presence.UNKNOWN:
        raise explain_unknown(workspace.target, f"{plan.repository}:{plan.recipe.tag}")
    if descriptor is None or (workspace.target is workspace.layout and not _is_whole(workspace.layout, plan.repository, descriptor.id)):
        return None
    return descriptor.id


def _is_whole(layout: LayoutStore, repository: str, digest: Digest) -> bool:
    """Whether the folder has what was built here: manifest, config and the topmost layer (the base's may lie elsewhere)."""
    raw = layout.get_manifest(repository, digest)
    manifest = raw.parse() if raw is not None else None
    if not isinstance(manifest, Manifest) or not manifest.layers:
        return False
    files = [(layout.blob_file(item.id), item.size) for item in (manifest.config, manifest.layers[-1])]
    return all(file is not None and file.stat().st_size == size for file, size in files)


def write_recipe(workspace: Workspace, plan: Plan) -> Path:
    """The Dockerfile and what its build context needs (but the wheels), under .imagebuild/builds; the folder."""
    folder = workspace.state / "builds" / plan.team.name / plan.recipe.tag
    files = {
        "Dockerfile": render_dockerfile(plan.recipe, plan.base),
        "recipe.json": msgspec.json.format(plan.recipe.encode(), indent=2).decode() + "\n",
        "wheels/requirements.txt": render_requirements(plan.lock),
        "wheels/install.py": render_installer(),
    }
    if plan.recipe.slim:
        files["wheels/slim.py"] = render_slimmer()
    if plan.recipe.constraints:
        files["wheels/constraints.txt"] = plan.recipe.constraints
    if plan.recipe.replace:
        files[f"wheels/{REMOVAL_FILE}"] = render_removal(find_removal(plan.base, plan.recipe.replaced))
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            write_atomic(path, text.encode())
    return folder


def make_source_builder(
    workspace: Workspace, team: Team, base: Base, *, builder: str | None = None, network: str | None = None
) -> BuildSource:
    """What builds a source archive inside ``base``: the docker engine, which is looked for when something is to be built."""

    def build(order: SourceOrder, folder: Path) -> Path:
        from imagebuild.engine.aptsources import prepare_apt_secrets
        from imagebuild.engine.source import build_source_wheel

        with scratch_folder(workspace.cache) as secrets:
            return build_source_wheel(
                order,
                folder,
                base=base,
                layout=workspace.layout.folder,
                system=team.source.system,
                secrets=prepare_apt_secrets(base, secrets) if team.source.system else None,
                builder=builder,
                network=network,
            )

    return build


def remake_wheel(
    workspace: Workspace, team: Team, base: Base, build: BuildSource, package: LockedPackage, upstreams: Mapping[str, Upstream]
) -> Path:
    """A wheel locked from a source archive, built again."""
    from imagebuild.lock.fetching import fetch_build_wheels
    from imagebuild.lock.source import SourceWheels

    sources = SourceWheels(
        team.source,
        base_digest=str(base.inventory.digest),
        cache=workspace.cache,
        build=build,
        fetch=lambda wheels: fetch_build_wheels(wheels, upstreams, workspace.cache),
        report=workspace.report,
    )
    return sources.remake_wheel(package, upstreams[package.index])


def fetch_team_wheels(workspace: Workspace, plan: Plan, *, builder: str | None = None, network: str | None = None) -> dict[str, Path]:
    """Every wheel of the lock on this disk, verified: local packages built, the others fetched or found in the cache.

    ``builder`` and ``network`` are the docker engine's, for those that are locked from a source archive.
    """
    from imagebuild.lock.fetching import fetch_wheels

    local = build_local_wheels(workspace, plan.team, plan.lock)
    build = make_source_builder(workspace, plan.team, plan.base, builder=builder, network=network)
    return fetch_wheels(
        plan.lock,
        plan.team.indexes,
        workspace.cache,
        local,
        workspace.report,
        remake=partial(remake_wheel, workspace, plan.team, plan.base, build),
        offline=workspace.offline,
    )


def _link_wheels(wheels: dict[str, Path], folder: Path) -> None:
    for path in wheels.values():
        target = folder / path.name
        if target.exists() and target.stat().st_size == path.stat().st_size:
            continue
        target.unlink(missing_ok=True)
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def prepare_context(
    workspace: Workspace, plan: Plan, *, builder: str | None = None, network: str | None = None
) -> tuple[Path, dict[str, Path]]:
    """The build's folder with Dockerfile and wheels in it, and the wheels by package."""
    folder = write_recipe(workspace, plan)
    wheels = fetch_team_wheels(workspace, plan, builder=builder, network=network)
    _link_wheels(wheels, folder / "wheels")
    return folder, wheels


def build_docker_layer(
    workspace: Workspace,
    plan: Plan,
    folder: Path,
    out: Path,
    *,
    builder: str | None = None,
    network: str | None = None,
    cache: bool = True,
    push: bool = False,
    attest: Sequence[str] = (),
) -> DockerBuild:
    """The layer by the docker engine, audited; ``folder`` is :func:`prepare_context`'s. ``push``: by the builder, to the target."""
    from imagebuild.engine.aptsources import prepare_apt_secrets
    from imagebuild.engine.docker import PushTarget, build_layer_with_docker
    from imagebuild.layer.audit import audit_layer

    base, recipe = plan.base, plan.recipe
    with scratch_folder(workspace.cache) as secrets:
        built = build_layer_with_docker(
            recipe,
            base,
            plan.lock,
            folder,
            layout=workspace.layout.folder,
            out=out,
            builder=builder,
            network=network,
            secrets=prepare_apt_secrets(base, secrets) if recipe.system else None,
            cache=cache,
            push=PushTarget(workspace.target, plan.repository) if push else None,
            attest=attest,
            report=workspace.report,
        )
    gone = frozenset(find_removal(base, recipe.replaced).owners)
    audit_layer(built.layer, base=base, extra=recipe.extra_files, whiteouts=gone, foreign=True, system=built.layer.system)
    return built


def prepare_bake(workspace: Workspace, plan: Plan) -> BakeTarget:
    """The team's build as a target of docker-bake.json: context, wheels and apt's secrets lie ready under .imagebuild/builds."""
    from imagebuild.engine.aptsources import prepare_apt_secrets
    from imagebuild.engine.bake import BakeTarget
    from imagebuild.engine.docker import make_build_inputs

    folder, _ = prepare_context(workspace, plan)
    secrets = prepare_apt_secrets(plan.base, folder / "secrets") if plan.recipe.system else None
    inputs = make_build_inputs(plan.recipe, plan.base, context=folder, layout=workspace.layout.folder, secrets=secrets)
    return BakeTarget(plan.recipe, inputs, folder, f"{workspace.host}/{plan.repository}" if workspace.host else plan.repository)


def build_direct_layer(workspace: Workspace, plan: Plan, wheels: dict[str, Path], out: Path, *, workers: int = 2) -> Layer:
    """The layer by the direct engine, audited."""
    from imagebuild.layer.assembly import build_layer
    from imagebuild.layer.audit import TarAudit, audit_layer

    single = plan.recipe.codec.single
    removal = find_removal(plan.base, plan.recipe.replaced)
    gone = frozenset(removal.owners)
    audit = TarAudit(plan.base, plan.recipe.extra_files, gone)
    layer = build_layer(
        [(wheels[item.name], item) for item in plan.lock.packages],
        base=plan.base,
        codec=plan.recipe.codec,
        cache=workspace.cache,
        extra=plan.recipe.extra_files,
        mtime=LAYER_MTIME,
        slim=plan.recipe.slim,
        workers=workers,
        out=out,
        inspect=None if single else audit.read,
        removal=removal,
        report=workspace.report,
    )
    if single:
        audit_layer(layer, base=plan.base, extra=plan.recipe.extra_files, whiteouts=gone)
    else:
        audit.finish()
    return layer


def build_twins(workspace: Workspace, plan: Plan, *, builder: str | None = None) -> TwinReport:
    """Build ``plan``'s layer with both engines and compare the two; nothing is pushed."""
    from imagebuild.check.twin import compare_layers

    if plan.recipe.system:
        raise ConfigurationError(
            f"team {plan.team.name} has system packages, which only the docker engine installs: there is no twin",
            "verify a team without [system] packages",
        )
    folder, wheels = prepare_context(workspace, plan)
    with scratch_folder(workspace.cache) as scratch:
        docker = build_docker_layer(workspace, plan, folder, scratch / "docker.layer", builder=builder).layer
        direct = build_direct_layer(workspace, plan, wheels, scratch / "direct.layer")
        workspace.report(f"{plan.team.name}: comparing the two layers")
        (scratch / "kept").mkdir()
        return compare_layers(direct, docker, base=plan.base, scratch=scratch / "kept")


def find_last_image(workspace: Workspace, plan: Plan) -> LastImage | None:
    """The newest image of the team that is not this one; asked for only where the budget limits growth."""
    if plan.team.table.budget.rules.growth is None:
        return None
    from imagebuild.catalogue.entries import read_entries

    entries = read_entries(workspace.target, teams=[plan.repository]).entries
    entry = next((item for item in entries if item.tag != plan.recipe.tag), None)
    return None if entry is None else LastImage(entry.tag, entry.delta_compressed or None, entry.delta_installed or None)


def _judge(plan: Plan, report: SizeReport, last: LastImage | None) -> SizeReport:
    packages = {item.name: item.installed for item in report.packages}
    rules = plan.team.table.budget.rules
    limits = compute_limits(rules, compressed=report.compressed, installed=report.installed, packages=packages, last=last)
    return msgspec.structs.replace(report, limits=limits, notes=(*report.notes, *list_absent(rules, packages)))


def predict_size(workspace: Workspace, plan: Plan, last: LastImage | None) -> SizeReport:
    """What the plan's layer will add, from the lock and what is known of its wheels here; no index is asked."""
    from imagebuild.lock.shape import find_shapes
    from imagebuild.size.prediction import find_unknown, predict_report

    unknown = find_unknown(plan.lock)
    if unknown:
        raise BudgetError(
            f"the lock does not tell the size of {', '.join(unknown)}; nothing was built", f"lock again: imagebuild lock {plan.team.name}"
        )
    report = predict_report(
        plan.recipe.tag,
        plan.lock,
        find_shapes(plan.lock.packages, workspace.cache, tuple),
        plan.recipe.codec,
        bytecode=plan.base.runtime is not None,
        slim=plan.recipe.slim,
        extra=len(plan.recipe.constraints),
    )
    return _judge(plan, report, last)


def measure_size(plan: Plan, layer: Layer, last: LastImage | None) -> SizeReport:
    """What the finished layer adds."""
    from imagebuild.size.measurement import measure_layer

    return _judge(plan, measure_layer(layer, plan.lock, subject=plan.recipe.tag, tree=plan.base.tree), last)


class BuildOptions(msgspec.Struct, frozen=True):
    """How to build and push; nothing here changes the image."""

    copy_base: bool = False  # copy base layers that the target lacks and cannot mount
    workers: int = 2
    builder: str | None = None  # of buildx
    network: str | None = None  # of the docker engine's apt step
    push: bool = False  # BuildKit pushes the layer (docker engine, a registry)
    attest: tuple[str, ...] = ()  # docker's attestations, pushed beside the image
    companions: bool = True  # lock, recipe, SBOM and provenance, as referrers


def check_options(workspace: Workspace, plan: Plan, options: BuildOptions) -> None:
    """UsageError for what only the docker engine, or only a registry, can do."""
    asked = [f"--{name}" for name in ("push", "attest") if getattr(options, name)]
    if asked and plan.recipe.engine != "docker":
        raise UsageError(f"{asked[0]} is the docker engine's, and {plan.team.name} is built by the direct engine", "add --engine docker")
    if options.push and not workspace.host:
        raise UsageError("--push needs to know where to", "add --registry HOST/NAMESPACE")


def build_image(workspace: Workspace, plan: Plan, options: BuildOptions) -> tuple[DerivedImage, Digest, bool]:
    """Build with the recipe's engine, check, push: the image, its digest, and whether the base's layers were left out."""
    from imagebuild.oci.copy import copy_blobs, plan_copy

    base, recipe = plan.base, plan.recipe
    last = find_last_image(workspace, plan)
    require_prediction(predict_size(workspace, plan, last))
    target = workspace.target
    source = open_base_store(workspace, base)
    # A layout folder may be sparse: base blobs it lacks stay where they are unless a copy is asked for.
    sparse = target is workspace.layout and source is not target and not options.copy_base

    def plan_base_copy() -> CopyPlan | None:
        return None if sparse else plan_copy(source, base.repository, target, plan.repository, base.manifest.layers)

    copy_plan = None if options.push else plan_base_copy()  # a builder that pushes brings the base's layers along
    if copy_plan is not None and copy_plan.to_copy and not options.copy_base:
        copy_blobs(copy_plan, False, workspace.report)  # raises: says what would be copied
    folder, wheels = prepare_context(workspace, plan, builder=options.builder, network=options.network)
    with scratch_folder(workspace.cache) as scratch:
        found: dict[str, str] = {}
        system: dict[str, str] = {}
        layer: Layer
        if recipe.engine == "docker":
            made = build_docker_layer(
                workspace,
                plan,
                folder,
                scratch / "layer",
                builder=options.builder,
                network=options.network,
                push=options.push,
                attest=options.attest,
            )
            layer, statements = made.layer, made.statements
            if made.layer.system is not None:
                system = made.layer.system.versions
                found[names.SYSTEM] = msgspec.json.encode(system, order="sorted").decode()
        else:
            layer, statements = build_direct_layer(workspace, plan, wheels, scratch / "layer", workers=options.workers), ()
        size = measure_size(plan, layer, last)
        write_atomic(folder / "size.json", encode_report(size))
        for note in size.notes:
            workspace.report(f"{plan.team.name}: {note}")
        require_budget(size)
        image = derive_team_image(plan, layer, found)
        if options.push:
            copy_plan = plan_base_copy()
        if copy_plan is not None:
            copy_blobs(copy_plan, options.copy_base, workspace.report)
        workspace.report(f"{plan.team.name}: pushing to {target.image_name(plan.repository)}:{recipe.tag}")
        target.put_blob(plan.repository, image.layer, layer.blob)
    target.put_blob(plan.repository, image.config_descriptor, image.config)
    if statements:
        _push_attested(workspace, plan, image, statements)
    if options.companions:
        attach_companions(workspace, plan, image, wheels, system)
    digest = target.put_manifest(plan.repository, image.manifest, recipe.tag)
    return image, digest, sparse


def derive_team_image(plan: Plan, layer: Layer, found: dict[str, str]) -> DerivedImage:
    """Config and manifest around the plan's finished layer; ``found``: annotations known only after the build."""
    recipe = plan.recipe
    sizes = {names.DELTA_COMPRESSED: str(layer.size), names.DELTA_INSTALLED: str(layer.installed)}
    return derive_image(
        plan.base.manifest,
        plan.base.config_data,
        layer,
        created=recipe.created,
        created_by=f"imagebuild {recipe.tag}: {len(plan.lock.packages)} wheels of team {recipe.team}",
        environment=recipe.environment,
        labels=recipe.labels,
        annotations={**recipe.labels, **sizes, **found},
    )


def attach_companions(workspace: Workspace, plan: Plan, image: DerivedImage, wheels: dict[str, Path], system: dict[str, str]) -> None:
    """What travels with the image, before the tag: whoever finds an image by its tag finds these as well."""
    from imagebuild.oci.referrers import attach_artifacts
    from imagebuild.supply.companions import make_companions

    target, repository = workspace.target, plan.repository
    digest = target.put_manifest(repository, image.manifest)
    artifacts = make_companions(plan.base, plan.lock, plan.recipe, repository=repository, digest=digest, wheels=wheels, system=system)
    try:
        attach_artifacts(target, repository, image.manifest.descriptor, artifacts)
    except RemoteError as error:
        raise RemoteError(
            f"what travels with the image was not taken, and so its tag was not pushed: {error.message}",
            f"{error.hint}; a registry that takes no OCI artifacts: add --no-companions",
            error.details,
        ) from error


def attested_tag(tag: str) -> str:
    """Where the index of an image and its attestations is; the image's own tag and digest are as without them."""
    return f"{tag}-attested"


def _push_attested(workspace: Workspace, plan: Plan, image: DerivedImage, statements: Sequence[Statement]) -> None:
    target, repository, tag = workspace.target, plan.repository, plan.recipe.tag
    name = f"{target.image_name(repository)}@{tag}" if workspace.host else f"{repository}@{tag}"
    platform = Platform.parse(plan.recipe.platform)
    made = derive_attested_index(image.manifest, platform, name, [(item.predicate_type, item.data) for item in statements])
    for descriptor, data in made.blobs:
        target.put_blob(repository, descriptor, data)
    target.put_manifest(repository, image.manifest)
    target.put_manifest(repository, made.attestation)
    target.put_manifest(repository, made.index, attested_tag(tag))


def run_plan(workspace: Workspace, plan: Plan, options: BuildOptions) -> dict[str, Any]:
    """Build and push unless the target has the tag; what was done, as plain values (sizes in bytes)."""
    check_options(workspace, plan, options)
    target = workspace.target
    budget = plan.team.table.budget
    result: dict[str, Any] = {
        "team": plan.team.name,
        "image": target.image_name(plan.repository),
        "tag": plan.recipe.tag,
        "engine": plan.recipe.engine,
        "base": f"{plan.base.name} {plan.base.pinned}",
        "budget": f"{budget.compressed} stored, {budget.installed} unpacked",
    }
    digest = find_image(workspace, plan)
    if digest is not None and (not options.attest or target.head_manifest(plan.repository, attested_tag(plan.recipe.tag))[1] is not None):
        write_recipe(workspace, plan)
        return {**result, "digest": str(digest), "built": False}
    image, digest, sparse = build_image(workspace, plan, options)
    if options.attest:
        result["attested"] = attested_tag(plan.recipe.tag)
    return {
        **result,
        "digest": str(digest),
        "built": True,
        "compressed": image.layer.size,
        "installed": image.installed,
        "packages": len(plan.lock.packages),
        "sparse": sparse,
    }
