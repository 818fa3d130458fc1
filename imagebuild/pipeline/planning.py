"""Everything decided before anything is built: the plan, and the files that say it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from imagebuild.addons.model import AddonLock
from imagebuild.base.inventory import require_python
from imagebuild.base.model import Base
from imagebuild.config import Team, load_team
from imagebuild.dockerfile import (
    ADDONS_FILE,
    render_addons,
    render_dockerfile,
    render_installer,
    render_requirements,
    render_slimmer,
    render_unpacker,
)
from imagebuild.errors import ConfigurationError
from imagebuild.files import write_atomic
from imagebuild.layer.placement import find_addon_folders
from imagebuild.layer.removal import find_removal, render_removal
from imagebuild.lock.file.model import Lock
from imagebuild.pipeline.addons import use_addon_locks
from imagebuild.pipeline.bases import do_nothing, open_base
from imagebuild.pipeline.lockoptions import LockOptions
from imagebuild.pipeline.lockuse import lock_team, prefetch_wheels, read_team_lock
from imagebuild.recipe import REMOVAL_FILE, ImageOptions, Recipe, make_recipe
from imagebuild.workspace import Workspace


class Plan(msgspec.Struct, frozen=True):
    """Everything decided before anything is built."""

    team: Team
    base: Base
    lock: Lock
    recipe: Recipe
    repository: str
    addons: tuple[AddonLock, ...] = ()  # one lock for each kind that the team has


def choose_engine(asked: str, system: Sequence[str], replace: Sequence[str] = (), *, split: bool = False) -> str:
    """``direct`` or ``docker``: ``auto`` is decided by the inputs alone, never by what the machine happens to have.

    A lock holds wheels only, so what is left to decide is whether system packages are asked for.
    """
    if asked == "auto":
        asked = "docker" if system else "direct"
    if asked == "docker" and "pip" in replace:
        raise ConfigurationError("the docker engine installs with the base's pip, which cannot replace itself", "use --engine direct")
    if asked == "direct" and system:
        raise ConfigurationError(f"the direct engine cannot install system packages ({', '.join(system)})", "use --engine docker or auto")
    if asked == "docker" and split:
        why = f", and it is needed for the system packages ({', '.join(system)})" if system else ""
        raise ConfigurationError(
            f"the docker engine makes one layer, and [layer] asks for split = true{why}",
            "leave split out of team.toml" + (", or [system]" if system else ", or use --engine direct"),
        )
    return asked


def plan_image(
    workspace: Workspace, team_name: str, *, cutoff: str, locked: bool = False, engine: str | None = None, prefetch: bool = True
) -> Plan:
    """Everything up to the recipe. A missing lock is made (refused when ``locked``); a stale one is always refused.

    ``engine`` (direct, docker, auto) goes before the team's own; ``prefetch``: fetch wheels while a base is built.
    """
    from imagebuild.lock.file.lockfile import lock_digest

    team = load_team(workspace.images, team_name)
    table = team.table
    chosen = choose_engine(engine or table.engine, table.system.packages, team.replace, split=table.layer.split)
    if workspace.offline and table.system.packages:
        raise ConfigurationError(
            f"team {team_name} has system packages, which apt fetches while it builds: not with --offline", "build it online"
        )
    meanwhile = partial(prefetch_wheels, workspace, team) if prefetch else do_nothing
    base = open_base(workspace, table.base, team.platform, meanwhile=meanwhile)
    require_python(base)
    if locked or workspace.offline or workspace.lockfile(team_name).is_file():
        lock = read_team_lock(workspace, team, base)
    else:
        lock = lock_team(workspace, team, base, LockOptions(cutoff))
    addons = use_addon_locks(workspace, team, base, LockOptions(cutoff), locked=locked)
    absent = sorted(set(team.files.values()) - {item.name for item in lock.packages})
    if absent:
        raise ConfigurationError(
            f"{team.requirements.parent / 'team.toml'}: [files] names {absent[0]}, which is not in the lock",
            "name a package that is locked",
        )
    options = ImageOptions(
        engine=chosen,
        codec=table.layer.codec,
        environment=table.env,
        personal_constraints=table.personal_constraints,
        title=table.display_name or team_name,
        description=table.description,
        owners=table.owners,
        system=table.system.packages,
        slim=table.left_out,
        files=team.files,
        split=table.layer.split,
    )
    recipe = make_recipe(base, lock, lock_digest(lock), options, addons)
    return Plan(team, base, lock, recipe, workspace.repository(team_name), addons)


def plan_twins(workspace: Workspace, team_name: str, *, cutoff: str) -> Plan:
    """The plan that both engines build for a comparison: the docker engine's, which has one layer where the team splits its packages."""
    split = load_team(workspace.images, team_name).table.layer.split
    return plan_image(workspace, team_name, cutoff=cutoff, engine="direct" if split else "docker")


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
    if plan.recipe.addons:
        files["wheels/addons.py"] = render_unpacker()
        files[f"wheels/{ADDONS_FILE}"] = render_addons(plan.recipe, find_addon_folders(plan.base, plan.recipe.addons))
    if plan.recipe.replace:
        files[f"wheels/{REMOVAL_FILE}"] = render_removal(find_removal(plan.base, plan.recipe.replaced))
    for name, text in files.items():
        path = folder / name
        if not path.is_file() or path.read_text() != text:
            write_atomic(path, text.encode())
    return folder
