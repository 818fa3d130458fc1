"""Wheels that pip installs although their RECORD or their zip is odd, beside what pip itself makes of them: real ones and made ones."""

from __future__ import annotations

import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild.layer.member import build_member
from imagebuild.layer.model import Codec, Member
from tests.support.builders import make_host_interpreter, make_wheel
from tests.support.tools import need_index
from tests.support.trees import USUAL, MemoryTree

pytestmark = pytest.mark.integration


def build(wheel: Path, package: str, version: str, cache: Path) -> Member:
    return build_member(
        wheel,
        package=package,
        version=version,
        interpreter=make_host_interpreter(),
        tree=MemoryTree(USUAL),
        codec=Codec(),
        compiler=None,
        cache=cache,
        home="/home/jovyan",
    )


def install_with_pip(wheel: Path, folder: Path) -> dict[str, int]:
    """``pip install --target``: site-packages paths -> sizes, without what pip adds itself."""
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, timeout=300)
    own = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
    found = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    return {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in found
        if not path.relative_to(folder).as_posix().startswith("bin/")
    }


def list_member(member: Member) -> dict[str, int]:
    own = ("INSTALLER", "REQUESTED", "RECORD")
    return {
        fact.path.partition("-packages/")[2]: fact.size
        for fact in member.files
        if "-packages/" in fact.path and fact.path.rpartition("/")[2] not in own
    }


def change_record(tmp_path: Path, change: Callable[[str], str]) -> Path:
    with zipfile.ZipFile(make_wheel(tmp_path / "honest")) as archive:
        text = archive.read("demo-1.0.dist-info/RECORD").decode()
    return make_wheel(tmp_path, record=change(text).encode())


def append_bytes(tmp_path: Path) -> Path:
    wheel = make_wheel(tmp_path)
    wheel.write_bytes(wheel.read_bytes() + b"\n\n")
    return wheel


def repeat_file(tmp_path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return make_wheel(tmp_path, files={"demo/__init__.py": b"x = 1\n"}, extra=[("demo/__init__.py", b"x = 1\n")])


ODD: dict[str, Callable[[Path], Path]] = {
    "plain": make_wheel,
    "bytes after the zip": append_bytes,
    "a path twice, the same content": repeat_file,
    "a row of a folder": lambda tmp: change_record(tmp, lambda text: text + "demo-1.0.dist-info/licenses/,sha256=x,0\n"),
    "a row of no file": lambda tmp: change_record(tmp, lambda text: text + "demo/_core.c,sha256=x,7\n"),
    "rows without sizes": lambda tmp: change_record(
        tmp, lambda text: "\n".join(line.rpartition(",")[0] + "," for line in text.splitlines())
    ),
    "lines that end in CRLF": lambda tmp: change_record(tmp, lambda text: text.replace("\n", "\r\n")),
    "a row with a backslash": lambda tmp: change_record(tmp, lambda text: text.replace("demo/__init__", "demo\\__init__", 1)),
    "a wrong hash": lambda tmp: change_record(tmp, lambda text: text.replace("sha256=", "sha256=A", 1)),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_wheel_gives_what_pip_gives(tmp_path: Path, case: str) -> None:
    wheel = ODD[case](tmp_path)
    assert list_member(build(wheel, "demo", "1.0", tmp_path / "cache")) == install_with_pip(wheel, tmp_path / "pip")


def test_the_real_sentry_cli(tmp_path: Path) -> None:
    """Its newest release lists files with hashes that are not theirs."""
    need_index("sentry-cli")
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--dest", str(tmp_path)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "sentry-cli==3.8.2"], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    member = build(wheel, "sentry-cli", "3.8.2", tmp_path / "cache")
    assert member.repaired > 0
    assert list_member(member) == install_with_pip(wheel, tmp_path / "pip")
