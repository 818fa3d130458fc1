"""Exports, installed by the programs they are for: pip and uv, as they are, into an empty environment."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from imagebuild.errors import IntegrityError
from imagebuild.lock.exporting import export_pylock, export_requirements
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.localpackage import build_local_wheel
from imagebuild.lock.resolve.uv import find_uv
from tests.integration.test_lock_resolving import CUTOFF, lock_for
from tests.support.servers.index import FakeIndex, make_index
from tests.support.workspaces import Built

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Locked:
    """A lock of every kind of package: public, private, by address, and a source tree."""

    lock: Lock
    indexes: tuple[PackageIndex, ...]
    cache: Path
    local: dict[str, Path]
    public: FakeIndex


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Locked]:
    public, private = FakeIndex(), FakeIndex()
    public.add("alpha", "1.0", ["beta>=2", "cosml-core"])
    public.add("beta", "2.0")
    public.add("cosml-core", "99.0")
    private.add("cosml-core", "1.0")
    direct = public.add("direct", "2.0+corp.1")
    package = tmp_path / "project/packages/mine"
    (package / "mine").mkdir(parents=True)
    (package / "mine/__init__.py").write_text("")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n[project]\nname = "mine"\nversion = "0.1"\n'
    )
    with public.serve() as url, private.serve() as own:
        indexes = (make_index(own, "corp", ("cosml-*",)), make_index(url))
        address = url.replace("/simple/", f"/files/{direct.replace('+', '%2B')}")
        del public.files["direct"]
        digest = hashlib.sha256(public.bodies[direct]).hexdigest()
        lock = lock_for(tmp_path, f"alpha\ndirect @ {address}#sha256={digest}\n", indexes, packages=[package])
        wheel = build_local_wheel(package, tmp_path / "cache", CUTOFF)
        yield Locked(lock, indexes, tmp_path / "cache", {wheel.name: wheel.path}, public)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An empty virtual environment's Python."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    return tmp_path / "venv/bin/python"


def run(*command: str | Path, index: str = "") -> None:
    settings = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1", "NO_PROXY": "*"}
    settings |= {"PIP_INDEX_URL": index, "UV_NO_CACHE": "1", "UV_NO_CONFIG": "1"} if index else {"UV_NO_CACHE": "1", "UV_NO_CONFIG": "1"}
    done = subprocess.run([str(word) for word in command], env=settings, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def pip(python: Path, *arguments: str | Path, index: str = "") -> None:
    run(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", "install", *arguments, index=index)


def freeze(python: Path) -> dict[str, str]:
    code = "import importlib.metadata as m, json; print(json.dumps([(d.name, d.version) for d in m.distributions()]))"
    done = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True)
    return {canonicalize_name(name): version for name, version in json.loads(done.stdout)}


EXPECTED = {"alpha": "1.0", "beta": "2.0", "cosml-core": "1.0", "direct": "2.0+corp.1", "mine": "0.1"}


def test_plain_pip_takes_the_requirements(locked: Locked, environment: Path, tmp_path: Path) -> None:
    """pip looks on both indexes, where the public one has cosml-core 99.0: pin and hash decide."""
    text = export_requirements(locked.lock, locked.indexes, locked.cache, locked.local)
    (tmp_path / "requirements.txt").write_text(text)
    assert f"--extra-index-url {locked.indexes[0].address}\n" in text
    assert locked.indexes[1].address not in text, "the machine's own index is pip's own"
    pip(environment, "--require-hashes", "-r", tmp_path / "requirements.txt", index=locked.indexes[1].address)
    assert freeze(environment) == EXPECTED


def test_a_changed_file_is_refused_by_pip_too(locked: Locked, environment: Path, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(export_requirements(locked.lock, locked.indexes, locked.cache, locked.local))
    locked.public.add("beta", "2.0", extra=b"import os\n")
    with pytest.raises(AssertionError, match="THESE PACKAGES DO NOT MATCH THE HASHES"):
        pip(environment, "--require-hashes", "-r", tmp_path / "requirements.txt", index=locked.indexes[1].address)
    assert freeze(environment) == {}
    with pytest.raises(IntegrityError, match="now has another file beta-2"):
        export_pylock(locked.lock, locked.indexes, locked.cache, locked.local)


@pytest.mark.parametrize("tool", ["pip", "uv pip install", "uv pip sync"])
def test_pip_and_uv_install_the_pylock_as_it_is(locked: Locked, environment: Path, tmp_path: Path, tool: str) -> None:
    path = tmp_path / "pylock.toml"
    path.write_text(export_pylock(locked.lock, locked.indexes, locked.cache, locked.local))
    if tool == "pip":
        pip(environment, "-r", path)
    else:
        uv = find_uv()
        assert uv is not None
        arguments: list[str | Path] = ["install", "-r", path] if tool.endswith("install") else ["sync", path]
        run(uv, "pip", arguments[0], "--preview-features", "pylock", "--python", environment, *arguments[1:])
    assert freeze(environment) == EXPECTED


def test_the_command_line(built: Built, tmp_path: Path) -> None:
    checkout = built.checkout
    done = checkout.run("lock", "cosml", "--export", "requirements").succeeded()
    assert "pandas==2.2.3 \\\n    --hash=sha256:" in done.out
    checkout.run("lock", "cosml", "--export", "pylock", "-o", str(tmp_path / "pylock.toml")).succeeded()
    assert "[[packages.wheels]]" in (tmp_path / "pylock.toml").read_text()
    inside = checkout.root / "lockfiles/exported.toml"
    checkout.run("lock", "cosml", "--export", "pylock", "-o", str(inside)).refused(2, "does not belong in lockfiles/")
    assert not inside.exists()
    checkout.run("lock", "cosml", "-o", str(tmp_path / "x")).refused(2, "-o goes with --export")
