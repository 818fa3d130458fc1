"""Source archives built into wheels inside the base, by any builder that buildx knows, in stages that are thrown away.

Compilers and headers are installed there, so that none of them is in any image; what leaves the build is one wheel. Only
apt has a network: the build itself has none, and what it builds with lies beside the archive.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from imagebuild.base.model import Base
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.engine.insidebase import CONTEXT, WORK, BuildPlace, Product, build_file, render_stages

_PRODUCT = Product(
    "*.whl",
    "wheels",
    # Compilers, linkers and Python say "error:"; what pip says after it is that something failed.
    lambda line: re.search(r"\b[Ee]rror: ", line) is not None and not line.startswith(("ERROR: ", "note: ")),
    "compilers and headers are Debian packages: [source] system in team.toml; Python ones: [source] requires",
)


def render_source_dockerfile(base: Base, archive: str, epoch: int, system: tuple[str, ...]) -> str:
    """The Dockerfile: apt in one stage's first RUN, the build in its second, and nothing but the wheel in the last stage."""
    python = shlex.quote(base.interpreter.path)
    unpack = "zipfile" if archive.endswith(".zip") else "tarfile"
    pip = f"{python} -m pip --isolated --disable-pip-version-check --no-cache-dir"
    common = "--no-index --no-deps"
    steps = [
        f"export HOME={WORK}/home TMPDIR={WORK}/tmp SOURCE_DATE_EPOCH={epoch} PIP_CONFIG_FILE=/dev/null PYTHONHASHSEED=0 LC_ALL=C.UTF-8",
        "unset PIP_CONSTRAINT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_REQUIREMENT PIP_TARGET PIP_USER",
        "umask 022",
        f"mkdir -p {WORK}/home {WORK}/tmp {WORK}/env {WORK}/source /wheels",
        f"set -- {CONTEXT}/requires/*.whl",
        f'if [ -e "$1" ]; then {pip} install -q {common} --root-user-action ignore --no-compile --target {WORK}/env "$@"; fi',
        f"{python} -m {unpack} -e {CONTEXT}/{shlex.quote(archive)} {WORK}/source",
        f"cd {WORK}/source/*/",
        f"PYTHONPATH={WORK}/env PATH={WORK}/env/bin:$PATH {pip} wheel -v {common} --no-build-isolation -w /wheels .",
    ]
    return render_stages(base, system, steps, "/wheels")


def build_source_wheel(order: SourceOrder, out: Path, place: BuildPlace) -> Path:
    """Build ``order``; the wheel, in the folder ``out``. Errors: see :func:`build_file`."""
    return build_file(render_source_dockerfile(place.base, order.archive.name, order.epoch, place.system), order, out, place, _PRODUCT)
