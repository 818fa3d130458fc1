"""What starts pip in a build: run as the RUN runs it, with a pip of our own that tells what it sees."""

from __future__ import annotations

import ast
import base64
import csv
import hashlib
import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pip._vendor.distlib.scripts import ScriptMaker

from imagebuild.dockerfile import find_install_folders, render_installer
from imagebuild.payload import pip_run
from imagebuild.wheel.scripts import render_script, script_form
from tests.support.builders import make_host_interpreter

PIP = """
import json, os, stat, sys
modes = [stat.S_IMODE(os.stat(folder).st_mode) for folder in (sys.argv[-2], sys.argv[-1])]
loaded = [name in sys.modules for name in ("encodings.big5", "encodings.euc_jp", "encodings.koi8_r")]
print(json.dumps({"modes": modes, "loaded": loaded, "arguments": sys.argv[1:-2], "path": sys.path[0]}))
raise SystemExit(3)
"""


@pytest.mark.parametrize("outer", [0o2775, 0o755])
def test_pip_runs_with_all_codecs_and_no_folder_that_hands_its_group_on(tmp_path: Path, outer: int) -> None:
    context, library, inner = tmp_path / "context", tmp_path / "library", tmp_path / "library" / "inner"
    for folder in (context, inner, tmp_path / "site" / "pip"):
        folder.mkdir(parents=True)
    (tmp_path / "site" / "pip" / "__init__.py").write_text("")
    (tmp_path / "site" / "pip" / "__main__.py").write_text(PIP)
    (context / "install.py").write_text(render_installer())
    library.chmod(outer)
    inner.chmod(0o2750)
    done = subprocess.run(
        [sys.executable, context / "install.py", library, tmp_path / "missing", "--", "-q", "x", library, inner],
        env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    seen = json.loads(done.stdout)
    assert seen["modes"] == [outer & 0o777, 0o750]
    assert seen["loaded"] == [True, True, True]
    assert seen["arguments"] == ["-q", "x"]
    assert seen["path"] != str(context)
    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (library, inner)] == [outer, 0o2750]


PIP_THAT_INSTALLS = """
import pathlib, sysconfig
info = pathlib.Path(sysconfig.get_path("purelib"), "one-1.0.dist-info")
info.mkdir(parents=True)
(info / "entry_points.txt").write_text("[console_scripts]\\n")
(info / "RECORD").write_text("one-1.0.dist-info/RECORD,,\\none-1.0.dist-info/entry_points.txt,sha256=x,18\\none.py,sha256=y,0\\n")
"""


def test_entry_points_of_scripts_that_are_anothers_are_put_back(tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "install.py").write_text(render_installer())
    text = "[console_scripts]\nrun = one:main\n"
    (context / "entry_points.json").write_text(json.dumps({"one-1.0.dist-info": text, "absent-1.0.dist-info": text}))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (library,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (library / "pip").mkdir()
    (library / "pip" / "__init__.py").write_text("")
    (library / "pip" / "__main__.py").write_text(PIP_THAT_INSTALLS)
    subprocess.run([tmp_path / "venv" / "bin" / "python", context / "install.py", library, "--", "-q", "x"], check=True)
    info = library / "one-1.0.dist-info"
    assert (info / "entry_points.txt").read_text() == text
    digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
    with (info / "RECORD").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [
        ["one-1.0.dist-info/RECORD", "", ""],
        ["one-1.0.dist-info/entry_points.txt", f"sha256={digest}", str(len(text))],
        ["one.py", "sha256=y", "0"],
    ]


def test_it_reads_as_python_3_8() -> None:
    ast.parse(render_installer(), feature_version=(3, 8))


def test_the_folders_are_the_outermost_of_the_scheme() -> None:
    paths = {
        "purelib": "/opt/conda/lib/python3.11/site-packages", "platlib": "/opt/conda/lib/python3.11/site-packages",
        "scripts": "/opt/conda/bin", "data": "/opt/conda", "include": "/usr/include/python3.11",
    }  # fmt: skip
    assert find_install_folders(make_host_interpreter(paths=paths)) == ["/opt/conda", "/usr/include/python3.11"]


@pytest.mark.parametrize("python", ["3.8.20", "3.11.2"])
def test_an_older_pip_writes_the_scripts_that_the_direct_engine_writes(
    tmp_path: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the distlib of this Python's pip, whatever version that is."""
    before = ScriptMaker.script_template
    try:
        if python.startswith("3.8"):
            monkeypatch.setattr(pip_run, "SCRIPT", pip_run.OLD_SCRIPT)
        pip_run.choose_script_template()
        make: Any = ScriptMaker  # without types
        maker = make(None, str(tmp_path))
        maker.executable, maker.variants = "/usr/bin/python3", {""}
        (path,) = maker.make("tidy = tidy.cli:main.run")
        assert Path(path).read_bytes() == render_script("/usr/bin/python3", "tidy.cli", "main.run", script_form(python))
    finally:
        ScriptMaker.script_template = before
