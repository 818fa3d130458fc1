"""Source trees: what counts in the hash, and wheels whose bytes depend on nothing else."""

from __future__ import annotations

import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.inputs.localpackage import build_local_wheel
from imagebuild.lock.inputs.sourcetree import hash_tree

CUTOFF = "2026-10-01T00:00:00Z"
FLIT = (
    '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
    '[project]\nname = "my_tools"\nversion = "1.0"\ndescription = "d"\n'
)


def make_package(folder: Path, build: str = FLIT) -> Path:
    (folder / "my_tools").mkdir(parents=True)
    (folder / "pyproject.toml").write_text(build)
    (folder / "my_tools/__init__.py").write_text('"""Tools."""\n__version__ = "1.0"\n')
    (folder / "my_tools/run.sh").write_text("#!/bin/sh\n")
    (folder / "my_tools/run.sh").chmod(0o755)
    return folder


def test_what_is_left_out_of_the_hash(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    before = hash_tree(folder)
    for path in (
        "my_tools/__pycache__/x.pyc",
        ".git/HEAD",
        "build/lib/x.py",
        "dist/x.whl",
        "my_tools.egg-info/PKG-INFO",
        ".venv/x",
        ".DS_Store",
        "my_tools/x.py~",
        "my_tools/.x.py.swp",
        ".mypy_cache/x",
        ".ruff_cache/x",
        "my_tools/#x#",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("x")
    os.utime(folder / "pyproject.toml", (1, 1))
    (folder / "my_tools/__init__.py").chmod(0o600)
    assert hash_tree(folder) == before


def test_what_changes_the_hash(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    seen = {hash_tree(folder)}

    def changed() -> None:
        now = hash_tree(folder)
        assert now not in seen
        seen.add(now)

    (folder / "my_tools/run.sh").chmod(0o644)
    changed()
    (folder / "my_tools/run.sh").rename(folder / "my_tools/ran.sh")
    changed()
    (folder / "my_tools/build").mkdir()
    (folder / "my_tools/build/x.py").write_text("")
    changed()
    (folder / "my_tools/link").symlink_to("ran.sh")
    changed()
    (folder / "my_tools/__init__.py").write_text("other")
    changed()


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.text("abc/", min_size=1, max_size=5).filter(lambda p: p.strip("/") == p and "//" not in p), st.binary(max_size=6), max_size=4
    )
)
def test_equal_hashes_mean_equal_trees(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    written: dict[str, bytes] = {}
    for path, data in files.items():
        target = one / path
        if any(parent.is_file() for parent in target.parents) or target.is_dir():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        written[path] = data
    for path in reversed(list(written)):
        (two / path).parent.mkdir(parents=True, exist_ok=True)
        (two / path).write_bytes(written[path])
    assert hash_tree(one) == hash_tree(two)
    (two / "zz").write_bytes(b"")
    assert hash_tree(one) != hash_tree(two)


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "nowhere"])
def test_links_out_of_the_tree_are_refused(tmp_path: Path, target: str) -> None:
    folder = make_package(tmp_path / "p")
    (tmp_path / "outside").write_text("secret")
    (folder / "my_tools/link").symlink_to(target)
    with pytest.raises(LockError, match="not in the package"):
        hash_tree(folder)


def test_same_tree_same_bytes(tmp_path: Path) -> None:
    one = make_package(tmp_path / "here/p")
    first = build_local_wheel(one, tmp_path / "cache1", CUTOFF)
    two = tmp_path / "elsewhere/other-name"
    shutil.copytree(one, two, copy_function=shutil.copyfile)
    (two / "my_tools/run.sh").chmod(0o700)
    (two / "my_tools/__init__.py").chmod(0o600)
    (two / "my_tools/__pycache__").mkdir()
    (two / "my_tools/__pycache__/x.pyc").write_bytes(b"x")
    old = os.umask(0o077)
    try:
        second = build_local_wheel(two, tmp_path / "cache2", CUTOFF)
    finally:
        os.umask(old)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.sha256, first.tree, first.name, first.version) == (second.sha256, second.tree, "my-tools", "1.0")
    with zipfile.ZipFile(first.path) as archive:
        entries = archive.infolist()
        assert archive.testzip() is None
        assert [item.filename.partition("/")[0] for item in entries[-3:]] == ["my_tools-1.0.dist-info"] * 3
        assert {item.date_time for item in entries} == {(1980, 1, 1, 0, 0, 0)}
        assert {item.compress_type for item in entries} == {zipfile.ZIP_STORED}
        modes = {item.filename: stat.S_IMODE(item.external_attr >> 16) for item in entries}
        assert modes["my_tools/run.sh"] == 0o755
        assert {mode for name, mode in modes.items() if name != "my_tools/run.sh"} == {0o644}
        assert b"Generator: imagebuild" in archive.read("my_tools-1.0.dist-info/WHEEL")


@pytest.mark.slow
def test_the_cache_is_used_and_mended(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p")
    wheel = build_local_wheel(folder, tmp_path / "cache", CUTOFF)
    stamp = wheel.path.stat().st_mtime_ns
    assert build_local_wheel(folder, tmp_path / "cache", CUTOFF) == wheel
    assert wheel.path.stat().st_mtime_ns == stamp
    wheel.path.write_bytes(b"rot")
    again = build_local_wheel(folder, tmp_path / "cache", CUTOFF)
    assert again == wheel
    assert again.path.stat().st_size == wheel.size


def test_the_wheel_installs(tmp_path: Path) -> None:
    """pypa/installer checks every RECORD line."""
    from installer.sources import WheelFile

    wheel = build_local_wheel(make_package(tmp_path / "p"), tmp_path / "cache", CUTOFF)
    with WheelFile.open(wheel.path) as source:
        source.validate_record()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["hatchling", "setuptools"])
def test_other_backends(tmp_path: Path, backend: str) -> None:
    build = FLIT.replace("flit_core.buildapi", {"hatchling": "hatchling.build", "setuptools": "setuptools.build_meta"}[backend]).replace(
        "flit_core", backend
    )
    folder = make_package(tmp_path / "p", build)
    (tmp_path / ".gitignore").write_text("*.py\n")  # a parent's, which hatchling would honour
    wheel = build_local_wheel(folder, tmp_path / "cache", CUTOFF)
    assert wheel.filename.endswith("py3-none-any.whl")
    assert (wheel.name, wheel.version) == ("my-tools", "1.0")
    with zipfile.ZipFile(wheel.path) as archive:
        assert "my_tools/__init__.py" in archive.namelist()
    assert not (folder / "build").exists()
    assert not list(folder.glob("*.egg-info"))


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (
            FLIT.replace("flit_core.buildapi", "poetry.core.masonry.api"),
            "builds with poetry.core.masonry.api, which imagebuild does not have",
        ),
        (FLIT.replace('["flit_core"]', '["flit_core", "setuptools-scm"]'), "needs setuptools-scm to build"),
        (FLIT.replace('["flit_core"]', '["flit_core<1"]'), "needs flit_core<1 to build, and imagebuild has flit-core"),
        (FLIT.replace("[project]", 'backend-path = ["."]\n[project]'), "from its own tree"),
        (FLIT.replace('version = "1.0"\n', 'version = "one"\n'), "does not build: "),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path: Path, build: str, complaint: str) -> None:
    with pytest.raises(LockError, match=complaint):
        build_local_wheel(make_package(tmp_path / "p", build), tmp_path / "cache", CUTOFF)


def test_broken_projects(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"pyproject\.toml"):
        build_local_wheel(make_package(tmp_path / "p", "= nonsense"), tmp_path / "cache", CUTOFF)
    (tmp_path / "q").mkdir()
    with pytest.raises(LockError, match=r"no pyproject\.toml"):
        build_local_wheel(tmp_path / "q", tmp_path / "cache", CUTOFF)
    with pytest.raises(ConfigurationError, match="no package folder"):
        build_local_wheel(tmp_path / "none", tmp_path / "cache", CUTOFF)


@pytest.mark.slow
def test_a_wheel_that_is_not_pure_is_refused(tmp_path: Path) -> None:
    folder = make_package(tmp_path / "p", FLIT.replace("flit_core.buildapi", "setuptools.build_meta").replace("flit_core", "setuptools"))
    (folder / "setup.py").write_text(
        "from setuptools import setup\nfrom setuptools.dist import Distribution\n"
        "class Binary(Distribution):\n    def has_ext_modules(self):\n        return True\n"
        "setup(distclass=Binary)\n"
    )
    with pytest.raises(LockError, match="not a pure Python wheel"):
        build_local_wheel(folder, tmp_path / "cache", CUTOFF)
