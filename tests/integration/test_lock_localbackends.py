"""Source trees with build backends that are not here: fetched through the team's own index, the same tree gives the same wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from imagebuild.errors import LockError
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.localpackage import BuildTools, build_local_wheel
from imagebuild.lock.inputs.sourcetree import hash_tree
from imagebuild.lock.wheels.buildtools import make_build_tools
from tests.support.servers.index import FakeIndex, make_index
from tests.support.tools import ignore, need_index

pytestmark = pytest.mark.integration
CUTOFF = "2026-10-01T00:00:00Z"
PROJECT = '[project]\nname = "team-tools"\nversion = "1.2"\nrequires-python = ">=3.9"\ndependencies = ["pandas>=2"]\n'
POETRY = """[tool.poetry]
name = "team-tools"
version = "1.2"
description = ""
authors = []
[tool.poetry.dependencies]
python = ">=3.9"
pandas = ">=2"
"""
# In its own tree, with one more requirement that only the hook names.
OWN = """
from flit_core.buildapi import build_wheel
def get_requires_for_build_wheel(config_settings=None):
    return ["wheel"]
"""
BACKENDS = {
    "poetry": ('requires = ["poetry-core>=1.9,<2"]\nbuild-backend = "poetry.core.masonry.api"', POETRY),
    "pdm": ('requires = ["pdm-backend"]\nbuild-backend = "pdm.backend"', PROJECT),
    "uv": ('requires = ["uv_build<1"]\nbuild-backend = "uv_build"', PROJECT),
    "another-setuptools": ('requires = ["setuptools<70", "wheel"]\nbuild-backend = "setuptools.build_meta"', PROJECT),
    "its-own": ('requires = ["flit_core<3.10"]\nbuild-backend = "mine"\nbackend-path = ["tools"]', PROJECT),
}


@pytest.fixture(scope="module")
def index() -> PackageIndex:
    return need_index("poetry-core")


def make_tree(folder: Path, build: str, project: str) -> Path:
    layout = folder / ("src/team_tools" if "uv_build" in build else "team_tools")
    layout.mkdir(parents=True)
    (layout / "__init__.py").write_text('"""Tools of the team."""\n\n__version__ = "1.2"\n')
    (folder / "pyproject.toml").write_text(f"[build-system]\n{build}\n{project}")
    if "backend-path" in build:
        (folder / "tools").mkdir()
        (folder / "tools/mine.py").write_text(OWN)
        more = 'description = "Tools"\n[tool.flit.module]\nname = "team_tools"\n'
        (folder / "pyproject.toml").write_text(f"[build-system]\n{build}\n{project}{more}")
    return folder


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_backend_builds_the_same_wheel_twice(tmp_path: Path, index: PackageIndex, backend: str) -> None:
    one = make_tree(tmp_path / "one", *BACKENDS[backend])
    other = make_tree(tmp_path / "elsewhere" / "other", *BACKENDS[backend])
    for name in ("__pycache__/x.pyc", "build/lib/x.py", "dist/x.whl", ".git/HEAD", "team_tools.egg-info/PKG-INFO", ".venv/x"):
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_text("junk")
    assert hash_tree(one) == hash_tree(other)
    with pytest.raises(LockError, match="imagebuild"):
        build_local_wheel(one, tmp_path / "cache", CUTOFF)

    def tools(cache: Path) -> BuildTools:
        return make_build_tools(lambda: [index], CUTOFF, cache, ignore)

    first = build_local_wheel(one, tmp_path / "cache", CUTOFF, tools(tmp_path / "cache"))
    second = build_local_wheel(other, tmp_path / "cache2", CUTOFF, tools(tmp_path / "cache2"))
    assert (first.name, first.version, first.sha256) == ("team-tools", "1.2", second.sha256)
    with zipfile.ZipFile(first.path) as archive:
        assert "team_tools/__init__.py" in archive.namelist()
        metadata = archive.read("team_tools-1.2.dist-info/METADATA").decode()
    assert "Requires-Dist: pandas" in metadata
    assert build_local_wheel(one, tmp_path / "cache", CUTOFF) == first  # from the cache, with no index


def test_what_no_index_has_is_named(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "p", 'requires = ["no-such-backend>=2"]\nbuild-backend = "nope"', PROJECT)
    with FakeIndex().serve() as url:
        tools = make_build_tools(lambda: [make_index(url)], CUTOFF, tmp_path / "cache", ignore)
        with pytest.raises(LockError, match=r"^p needs no-such-backend.* to build, and the team's indexes have no wheels that fit$"):
            build_local_wheel(tree, tmp_path / "cache", CUTOFF, tools)
