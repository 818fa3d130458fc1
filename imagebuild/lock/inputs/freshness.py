"""What a lock was made from, as hashes, and whether it still is that."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from imagebuild.base.model import Base
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.file.model import Lock
from imagebuild.lock.inputs.hashes import check_hashes, join_hashes
from imagebuild.lock.inputs.requirements import list_files, read_requirements
from imagebuild.lock.inputs.resolverules import NO_RULES, ResolveRules
from imagebuild.lock.inputs.sourcetree import hash_tree


def check_lock_fresh(
    lock: Lock, base: Base, requirements: Path, local_packages: Sequence[Path], root: Path, rules: ResolveRules = NO_RULES
) -> None:
    """LockError when an input or what the base is has changed since; a new base digest with the same fingerprint is fine."""
    hint = f"run: imagebuild lock {lock.team}"
    if lock.base != base.name:
        raise LockError(f"the lock of {lock.team} is for base {lock.base}, and the team now uses {base.name}", hint)
    platform = str(base.inventory.platform)
    if lock.platform != platform:
        raise LockError(f"the lock of {lock.team} is for {lock.platform}, and the image is for {platform}", hint)
    if lock.base_fingerprint != base.inventory.fingerprint:
        python = base.inventory.interpreter.version if base.inventory.interpreter else "none"
        what = f"Python {lock.python} became {python}" if python != lock.python else "its Python packages, paths or tags changed"
        raise LockError(f"base {base.name} changed since {lock.team} was locked: {what}", hint)
    now = hash_inputs(requirements, local_packages, root)
    changed = [f"{key} changed" for key in sorted(now) if key in lock.inputs and lock.inputs[key] != now[key]]
    changed += [f"{key} is new" for key in sorted(set(now) - set(lock.inputs))]
    changed += [f"{key} is gone" for key in sorted(set(lock.inputs) - set(now))]
    if (lock.exclude, lock.override) != (rules.excluded, rules.overriding):
        changed.append("[resolve] of team.toml changed")
    if changed:
        raise LockError(f"the lock of {lock.team} is stale: {'; '.join(changed)}", hint)
    _check_asked_hashes(lock, base, requirements, root)


def _check_asked_hashes(lock: Lock, base: Base, requirements: Path, root: Path) -> None:
    """IntegrityError for a locked file that --hash in requirements.in does not allow: the lock was changed by another hand."""
    if not any(b"--hash" in path.read_bytes() for path in list_files(requirements, root)):
        return
    asked = read_requirements(requirements, root)
    files = {item.name: (item.source or item) for item in lock.packages}
    check_hashes(
        {name: (file.filename, file.sha256) for name, file in files.items()},
        join_hashes((*asked.direct, *asked.constraints), base.interpreter.markers),
    )


def list_changed_inputs(lock: Lock, requirements: Path, local_packages: Sequence[Path], root: Path) -> list[str]:
    """Paths relative to ``root`` of the inputs that are new, gone or others since the lock was made, sorted."""
    now = hash_inputs(requirements, local_packages, root)
    return sorted(key for key in now.keys() | lock.inputs.keys() if now.get(key) != lock.inputs.get(key))


def hash_inputs(requirements: Path, local_packages: Sequence[Path], root: Path) -> dict[str, str]:
    """Path relative to ``root`` -> sha256 hex, of requirements.in, of each file it includes and of each source tree."""
    inputs = {_relate(path, root): hashlib.sha256(path.read_bytes()).hexdigest() for path in list_files(requirements, root)}
    for folder in local_packages:
        inputs[_relate(folder, root)] = hash_tree(folder)
    return dict(sorted(inputs.items()))


def _relate(path: Path, root: Path) -> str:
    try:
        return path.resolve().relative_to(root.resolve()).as_posix()
    except ValueError:
        raise ConfigurationError(f"{path} is not under {root}", "keep all inputs of a lock in the project's folder") from None
