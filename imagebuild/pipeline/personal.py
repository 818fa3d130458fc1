"""A user's own packages on top of a team's image: resolved against all that is in it, pinned and hashed for pip."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.model import Base, Distribution
from imagebuild.config import Team
from imagebuild.errors import ImagebuildError, LockError
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.requirements import REQUIREMENTS
from imagebuild.pipeline.bases import open_base
from imagebuild.pipeline.lockuse import read_team_lock
from imagebuild.text import format_size
from imagebuild.workspace import Workspace

_MARK = "image-of-a-team"  # stands for the image in the resolver's sentences


class PersonalLayer(msgspec.Struct, frozen=True):
    """What a user's requirements add to the image of a team."""

    team: str
    added: tuple[LockedPackage, ...]
    satisfied: tuple[str, ...]  # name==version that the image has and the requirements use

    def render(self) -> str:
        """The file for pip: every package pinned and hashed, without URLs."""
        lines = [
            f"# What a personal requirements file adds to the image of team {self.team}: pip install --user -r THIS",
            "# Made by imagebuild personal; change the requirements file, not this.",
        ]
        return "\n".join(lines) + "\n" + "".join(_render(item) for item in self.added)

    def describe(self) -> list[str]:
        """Lines for people."""
        size = format_size(sum(item.size for item in self.added))
        unpacked = format_size(sum(item.installed_size for item in self.added))
        lines = [f"adds {len(self.added)} packages to {self.team}'s image: {size} to fetch, {unpacked} in the home folder"]
        lines += [f"  + {item.name} {item.version}  (asked for by {', '.join(item.via) or 'nothing'})" for item in self.added]
        lines += [f"  = {item.replace('==', ' ')}  (in the image)" for item in self.satisfied]
        return lines if self.added else [f"nothing to add: {self.team}'s image has it all", *lines[1:]]


def _render(package: LockedPackage) -> str:
    return f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n"


def resolve_personal(workspace: Workspace, team: Team, requirements: Path, *, cutoff: str, resolver: str = "pip-tools") -> PersonalLayer:
    """Resolve a user's file against base and lock of ``team``. LockError says in a sentence what the image cannot give."""
    from imagebuild.lock.compiling import compile_lock
    from imagebuild.lock.request import LockRequest

    base = open_base(workspace, team.table.base, team.platform)
    lock = read_team_lock(workspace, team, base)
    image = describe_team_image(base, lock, lambda item: _read_metadata(item, team.indexes, workspace.cache))
    workspace.report(f"{team.name}: resolving {requirements.name} against {len(image.inventory.distributions)} packages")
    try:
        request = LockRequest(
            team=team.name,
            base=image,
            requirements=requirements,
            local_packages=(),
            indexes=team.indexes,
            cutoff=cutoff,
            explicit_cutoff=False,
            root=requirements.resolve().parent,
            cache=workspace.cache,
            report=lambda line: workspace.report(_name_image(line, team.name)),
            resolver=resolver,
            protect=team.protect,
        )
        found = compile_lock(request)
    except LockError as error:
        raise _explain(error, team.name, requirements.name) from None
    packages = tuple(
        msgspec.structs.replace(item, via=tuple(requirements.name if name == REQUIREMENTS else name for name in item.via))
        for item in found.packages
    )
    return PersonalLayer(team.name, packages, found.satisfied)


def describe_team_image(base: Base, lock: Lock, read_metadata: Callable[[LockedPackage], bytes]) -> Base:
    """The image as if it were a base: what the base has and the lock does not replace, and what the lock adds."""
    locked = {item.name: item for item in lock.packages}
    kept = [item for item in base.inventory.distributions if item.name not in locked]
    added = [_describe_package(item, base, read_metadata(item)) for item in lock.packages]
    distributions = tuple(sorted([*kept, *added], key=lambda item: item.name))
    return msgspec.structs.replace(base, name=_MARK, inventory=msgspec.structs.replace(base.inventory, distributions=distributions))


def _describe_package(package: LockedPackage, base: Base, metadata: bytes) -> Distribution:
    from imagebuild.supply.packages import parse_metadata

    headers = parse_metadata(metadata)
    return Distribution(
        name=package.name,
        version=package.version,
        location=base.interpreter.paths["purelib"],
        installer="imagebuild",
        requires=tuple(" ".join(str(line).split()) for line in headers.get_all("Requires-Dist", [])),
        extras=tuple(str(extra) for extra in headers.get_all("Provides-Extra", [])),
    )


def _read_metadata(package: LockedPackage, indexes: Sequence[PackageIndex], cache: Path) -> bytes:
    """METADATA of a locked wheel: kept here, or asked of its index; empty where neither has it (then its extras are unknown)."""
    from imagebuild.lock.index.metadatacache import recall_metadata
    from imagebuild.lock.index.upstream import Upstream

    found = recall_metadata(cache, package.sha256)
    index = next((item for item in indexes if item.name == package.index), None)
    if found or index is None:
        return found
    with contextlib.suppress(ImagebuildError), Upstream(index, cache) as upstream:
        page = upstream.read_project(package.name)
        file = next((item for item in page.files if item.filename == package.filename), None) if page else None
        if file is not None and file.sha256 == package.sha256:
            return upstream.read_metadata(file)
    return b""


def _name_image(text: str, team: str) -> str:
    return text.replace(f"the base {_MARK}", f"the image of {team}").replace(f"base {_MARK}", f"the image of {team}").replace(_MARK, team)


def _explain(error: LockError, team: str, file: str) -> LockError:
    """The same sentence about the image and the user's file, and what a user (and not its team) can do."""
    message, hint, *details = (_name_image(text, team).replace(REQUIREMENTS, file) for text in (error.message, error.hint, *error.details))
    if _MARK in error.message:
        hint = f"ask for what the image has, or have the team take it up: images/{team}/{REQUIREMENTS}"
    return LockError(message, hint, tuple(details))
