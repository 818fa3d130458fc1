"""pip-tools as the resolver: pip-compile under the base's own interpreter, with nothing of this machine's Python or configuration."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from imagebuild.base.model import Interpreter, Runtime
from imagebuild.errors import BuildError, LockError
from imagebuild.lock.inputs.requirements import REQUIREMENTS, applies
from imagebuild.lock.resolve.resolution import CONSTRAINTS, LOCAL, OUTPUT, RESOLVE_SECONDS, Outcome, SearchTimeoutError, read_outcome

_ROOT_TOOL = "pip-tools"
# pip-compile reads sys.argv and looks for its files in the working folder.
_CODE = """
import os, sys
os.chdir(sys.argv[1])
sys.argv = ["pip-compile", *sys.argv[2:]]
from piptools.scripts.compile import cli
try:
    cli()
except Exception as error:
    import json, traceback
    causes = getattr(error.__cause__, "causes", None)
    if causes is None:
        traceback.print_exc()
    for item in causes or ():
        parent = item.parent
        line = ["", ""] if parent is None else [str(parent.name), str(parent.version)]
        print("imagebuild-cause:", json.dumps([*line, str(item.requirement)]))
    print(f"imagebuild-error: {type(error).__name__}: {error}")
    sys.exit(2)
"""


def find_tools(interpreter: Interpreter) -> dict[str, importlib.metadata.Distribution] | None:
    """pip-tools and all it needs under the base's Python, from our own environment; None when something doesn't fit it."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [_ROOT_TOOL]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return None
        python = (distribution.metadata.get_all("Requires-Python") or [""])[0]
        try:
            if not SpecifierSet(python).contains(interpreter.version, prereleases=True):
                return None
        except InvalidSpecifier:
            return None
        found[name] = distribution
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if applies(requirement, interpreter.markers):
                wanted.append(canonicalize_name(requirement.name))
    return found


def link_tools(tools: Mapping[str, importlib.metadata.Distribution], folder: Path) -> None:
    """A folder for sys.path that holds these distributions and nothing else, by symlinks."""
    folder.mkdir()
    for name, distribution in tools.items():
        parts = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        if not parts:
            raise LockError(
                f"the installation of {name} beside imagebuild has no list of its files", f"pip install --force-reinstall {name}"
            )
        for part in sorted(parts):
            source = Path(str(distribution.locate_file(part)))
            target = folder / part
            if source.exists() and not target.is_symlink() and not part.endswith(".pth"):
                target.symlink_to(source.resolve())


def run_pip_tools(
    runtime: Runtime, tools: Mapping[str, importlib.metadata.Distribution], folder: Path, url: str, seconds: float = RESOLVE_SECONDS
) -> Outcome:
    """pip-compile in ``folder`` (see :func:`write_inputs`), without hashing and without any configuration of this machine."""
    link_tools(tools, folder / "tools")
    (folder / "home").mkdir()
    arguments = [
        str(folder), "--no-config", "--no-header", "--annotate", "--annotation-style", "split", "--no-emit-options", "--no-emit-index-url",
        "--no-emit-trusted-host", "--no-emit-find-links", "--strip-extras", "--allow-unsafe", "--resolver", "backtracking",
        "--cache-dir", str(folder / "cache"), "--index-url", url,
        "--pip-args", f"--only-binary :all: --retries 0 --timeout {RESOLVE_SECONDS} --no-input --disable-pip-version-check --no-color",
        "--constraint", CONSTRAINTS, "--output-file", OUTPUT, REQUIREMENTS, LOCAL,
    ]  # fmt: skip
    start = time.monotonic()
    try:
        done = _run(runtime, arguments, folder, seconds)
    except BuildError:
        if time.monotonic() - start >= seconds:
            raise SearchTimeoutError from None
        raise
    return read_outcome(folder, done.returncode, done.stdout, done.stderr)


def _run(runtime: Runtime, arguments: Sequence[str], folder: Path, seconds: float) -> subprocess.CompletedProcess[bytes]:
    return runtime.run(
        _CODE,
        *arguments,
        path=[folder / "tools"],
        network=True,
        environment={
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "home"),
            "PIP_CONFIG_FILE": os.devnull,
            "COLUMNS": "400",
            "NO_PROXY": "*",
        },
        timeout=seconds,
    )
