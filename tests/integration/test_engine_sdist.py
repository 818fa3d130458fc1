"""A package that is source only, with a C extension: built inside the base by a real engine, installed by either engine."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuild.base.sourceorder import SourceOrder
from imagebuild.config import load_team
from imagebuild.engine.aptsources import prepare_apt_secrets
from imagebuild.engine.insidebase import BuildPlace
from imagebuild.engine.options import DockerOptions
from imagebuild.engine.sdist import build_source_wheel
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.file.model import LockedPackage
from imagebuild.lock.inputs.localpackage import repack_wheel
from imagebuild.pipeline.bases import open_base
from imagebuild.workspace import Workspace
from tests.support.servers.index import FakeIndex
from tests.support.tools import need_docker
from tests.support.workspaces import Built, Checkout, LayoutImage

pytestmark = pytest.mark.integration

_FILES = {
    "setup.py": """\
from setuptools import Extension, setup
setup(name="fast-sum", version="1.0", py_modules=["fast_sum"], ext_modules=[Extension("_fast_sum", ["fast_sum.c"])],
      install_requires=["six"])
""",
    "fast_sum.py": "from _fast_sum import add\n",
    "fast_sum.c": """\
#include <Python.h>
static PyObject *add(PyObject *self, PyObject *args) {
    long a, b;
    if (!PyArg_ParseTuple(args, "ll", &a, &b)) return NULL;
    return PyLong_FromLong(a + b);
}
static PyMethodDef methods[] = {{"add", add, METH_VARARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_fast_sum", "", -1, methods};
PyMODINIT_FUNC PyInit__fast_sum(void) { return PyModule_Create(&module); }
""",
}
_COMPILERS = '[source]\npackages = ["fast_sum"]\nsystem = ["gcc", "libc6-dev", "python3-dev"]\n'


def make_archive(**changed: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in {**_FILES, **changed}.items():
            data = text.encode()
            info = tarfile.TarInfo(f"fast_sum-1.0/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


@dataclass(frozen=True)
class Team:
    """A team that asks for fast-sum, locked, and the index it comes from."""

    checkout: Checkout
    index: FakeIndex
    progress: str

    @property
    def package(self) -> LockedPackage:
        lock = read_lock(self.checkout.root / "lockfiles" / "pylock.sums.toml")
        return next(item for item in lock.packages if item.name == "fast-sum")

    def forget_wheel(self) -> Path:
        """The built wheel is not in the cache any more; where it was."""
        path = self.checkout.cache / "wheels" / self.package.sha256 / self.package.filename
        path.unlink()
        return path


@pytest.fixture(scope="module")
def team(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """``sums``: the private index has the archive alone, and the machine's own has what it is built with."""
    need_docker()
    checkout = built.checkout.fork(tmp_path_factory.mktemp("source"))
    index = FakeIndex()
    index.add_file("fast-sum", "fast_sum-1.0.tar.gz", make_archive())
    with index.serve() as address:
        checkout.write("images/sums/requirements.in", "fast-sum\n")
        table = f'base = "starter"\n[[index]]\nname = "corp"\nurl = "{address}"\nnames = ["fast-*"]\n'
        checkout.write("images/sums/team.toml", table)
        checkout.run("lock", "sums").refused(4, "fast-sum 1.0 on package index 'corp' is source only", hint=r"\[source\] packages")
        checkout.write("images/sums/team.toml", f"{table}{_COMPILERS}")
        yield Team(checkout, index, checkout.run("lock", "sums").succeeded().err)


def test_the_lock_holds_the_wheel_the_archive_and_what_it_takes_to_build(team: Team) -> None:
    assert "building fast-sum 1.0 from source, inside the base" in team.progress
    package = team.package
    assert package.filename == "fast_sum-1.0-cp311-cp311-linux_x86_64.whl"
    assert (package.index, package.dependencies) == ("corp", ("six",) if "six" in package.dependencies else ())
    assert package.source is not None
    assert package.source.filename == "fast_sum-1.0.tar.gz"
    assert {item.name for item in package.source.requires} >= {"setuptools", "wheel"}
    assert {item.index for item in package.source.requires} == {"default"}


def test_locking_again_builds_nothing_and_changes_nothing(team: Team) -> None:
    file = team.checkout.root / "lockfiles" / "pylock.sums.toml"
    before, packages = file.read_bytes(), read_lock(file).packages
    try:
        for resolver in ("pip-tools", "uv"):
            said = team.checkout.run("lock", "sums", "--resolver", resolver).succeeded().err
            assert "building fast-sum" not in said
            assert read_lock(file).packages == packages
            assert resolver == "uv" or file.read_bytes() == before
    finally:
        file.write_bytes(before)


def test_the_direct_engine_installs_it_and_no_compiler(team: Team) -> None:
    result = team.checkout.image("sums", "--load")
    assert result["engine"] == "direct"
    names = LayoutImage.named(team.checkout.layout, f"sums:{result['tag']}").read_headers()
    assert [name for name in names if name.endswith("/_fast_sum.cpython-311-x86_64-linux-gnu.so")]
    assert not [name for name in names if "gcc" in name or "setuptools" in name or name.startswith("tmp/")]
    docker = need_docker()
    try:
        said = subprocess.run(
            [docker, "run", "--rm", "--network=none", result["loaded"], "python3", "-c", "import fast_sum; print(fast_sum.add(40, 2))"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.stdout.strip() == "42", said.stderr
    finally:
        subprocess.run([docker, "image", "rm", "-f", result["loaded"]], capture_output=True, check=False)


def test_both_engines_install_the_same(team: Team) -> None:
    assert "both engines build the same layer" in team.checkout.run("verify", "--twin", "sums").succeeded().out


def test_two_builds_give_the_same_wheel(team: Team, tmp_path: Path) -> None:
    workspace = Workspace(team.checkout.root, team.checkout.cache, quiet=True)
    found = load_team(workspace.images, "sums")
    base = open_base(workspace, "starter", found.platform)
    package = team.package
    assert package.source is not None
    wheels = team.checkout.cache / "wheels"
    order = SourceOrder(
        "fast-sum",
        "1.0",
        wheels / package.source.sha256 / package.source.filename,
        tuple(wheels / item.sha256 / item.filename for item in package.source.requires),
        1714557600,
    )
    made = []
    for number in range(2):
        (folder := tmp_path / str(number)).mkdir()
        secrets = prepare_apt_secrets(base, folder / "secrets")
        place = BuildPlace(base, workspace.layout.folder, DockerOptions(cache=False), found.source.system, secrets)
        wheel = build_source_wheel(order, folder, place)
        made.append(repack_wheel(wheel.read_bytes(), "fast-sum"))
    assert made[0] == made[1]


def test_on_another_machine_it_is_built_again_from_the_locked_archive(team: Team, tmp_path: Path) -> None:
    path = team.forget_wheel()
    (note,) = (team.checkout.cache / "source").glob("[0-9a-f]*.json")
    note.unlink()
    fork = team.checkout.fork(tmp_path)
    fork.edit("images/sums/team.toml", 'base = "starter"', 'base = "starter"\ndisplay-name = "again"')
    done = fork.run("image", "sums", "--json").succeeded()
    assert "building fast-sum 1.0 from source, inside the base" in done.err
    assert done.result["built"] is True
    assert path.is_file()


def test_an_archive_that_was_replaced_is_refused(team: Team, tmp_path: Path) -> None:
    package = team.package
    assert package.source is not None
    team.forget_wheel()
    kept = team.checkout.cache / "wheels" / package.source.sha256 / package.source.filename
    original = kept.read_bytes()
    kept.unlink()
    (note,) = (team.checkout.cache / "source").glob("[0-9a-f]*.json")
    note.unlink()
    team.index.add_file("fast-sum", "fast_sum-1.0.tar.gz", make_archive(**{"fast_sum.py": "import os\n"}))
    fork = team.checkout.fork(tmp_path)
    fork.edit("images/sums/team.toml", 'base = "starter"', 'base = "starter"\ndisplay-name = "replaced"')
    try:
        fork.run("image", "sums").refused(8, r"now has another file fast_sum-1\.0\.tar\.gz than the locked one", "expected sha256")
        assert not kept.exists()
    finally:
        team.index.add_file("fast-sum", "fast_sum-1.0.tar.gz", original)


def test_a_build_that_fails_says_the_compiler_s_word(team: Team, tmp_path: Path) -> None:
    fork = team.checkout.fork(tmp_path)
    team.index.add_file("fast-broken", "fast_broken-1.0.tar.gz", make_archive(**{"setup.py": _FILES["setup.py"].replace("sum", "broken")}))
    fork.write("images/sums/requirements.in", "fast-broken\n")
    fork.edit("images/sums/team.toml", '["fast_sum"]', '["fast-broken"]')
    fork.run("lock", "sums").refused(7, r"fast-broken 1\.0 cannot be built in base starter: .*fast_broken\.c", hint=r"\[source\] system")


def test_without_docker_it_is_told_so(team: Team, tmp_path: Path) -> None:
    fork = team.checkout.fork(tmp_path)
    alone = Checkout(fork.root, tmp_path / "cache", {"PATH": "/nonexistent"})
    alone.run("lock", "sums").refused(3, "there is no docker client")
