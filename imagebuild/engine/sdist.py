"""Source archives built into wheels inside the base, by any builder that buildx knows, in stages that are thrown away.

Compilers and headers are installed there, so that none of them is in any image; what leaves the build is one wheel. Only
apt has a network: the build itself has none, and what it builds with lies beside the archive.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from imagebuild.base.model import Base
from imagebuild.engine.insidebase import CONTEXT, WORK, render_stages, run_inside
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import BuildError
from imagebuild.lock.wheels.sdist import SourceOrder

_SHOWN_LINES = 12  # of a build that failed


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


def build_source_wheel(
    order: SourceOrder,
    out: Path,
    *,
    base: Base,
    layout: Path,
    system: tuple[str, ...] = (),
    secrets: Mapping[str, Path] | None = None,
    options: DockerOptions,
) -> Path:
    """Build ``order`` inside ``base``; the wheel, in the folder ``out``.

    BuildError with the compiler's last words; ConfigurationError when docker, its engine, buildx or the builder is missing.
    """
    dockerfile = render_source_dockerfile(base, order.archive.name, order.epoch, system)
    try:
        result = run_inside(
            dockerfile, order.archive, order.requires, out, base=base, layout=layout, network=bool(system), secrets=secrets, options=options
        )
    except BuildError as error:
        raise _explain_failure(order, base, error) from None
    wheels = sorted(result.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"{order.name} {order.version}: its build made {len(wheels)} wheels, not one", "ask for another version")
    return wheels[0]


def _explain_failure(order: SourceOrder, base: Base, error: BuildError) -> BuildError:
    # Compilers, linkers and Python say "error:"; what pip says after it is that something failed.
    errors = [line.strip() for line in error.details if re.search(r"\b[Ee]rror: ", line) and not line.startswith(("ERROR: ", "note: "))]
    reason = errors[0] if errors else error.message.removeprefix("the build's RUN failed: ")
    return BuildError(
        f"{order.name} {order.version} cannot be built in base {base.name}: {reason}",
        "compilers and headers are Debian packages: [source] system in team.toml; Python ones: [source] requires",
        error.details[-_SHOWN_LINES:],
    )
