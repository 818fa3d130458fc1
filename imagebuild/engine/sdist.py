"""Source archives built into wheels inside the base, by any builder that buildx knows, in stages that are thrown away.

Compilers and headers are installed there, so that none of them is in any image; what leaves the build is one wheel. Only
apt has a network: the build itself has none, and what it builds with lies beside the archive.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from imagebuild.base.model import Base
from imagebuild.dockerfile import docker_reference, render_apt_mounts, render_apt_steps
from imagebuild.engine.buildx import connect_docker, list_secrets, run_build
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import BuildError
from imagebuild.lock.wheels.sdist import SourceOrder

_READ_LINES, _SHOWN_LINES = 60, 12  # of a build that failed: looked through, and shown
_CONTEXT = "/run/imagebuild"
_WORK = "/tmp/imagebuild-source"  # the same in every build: compilers write it into what they make


def render_source_dockerfile(base: Base, archive: str, epoch: int, system: tuple[str, ...]) -> str:
    """The Dockerfile: apt in one stage's first RUN, the build in its second, and nothing but the wheel in the last stage."""
    python = shlex.quote(base.interpreter.path)
    unpack = "zipfile" if archive.endswith(".zip") else "tarfile"
    pip = f"{python} -m pip --isolated --disable-pip-version-check --no-cache-dir"
    common = "--no-index --no-deps"
    steps = [
        f"export HOME={_WORK}/home TMPDIR={_WORK}/tmp SOURCE_DATE_EPOCH={epoch} PIP_CONFIG_FILE=/dev/null PYTHONHASHSEED=0 LC_ALL=C.UTF-8",
        "unset PIP_CONSTRAINT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_REQUIREMENT PIP_TARGET PIP_USER",
        "umask 022",
        f"mkdir -p {_WORK}/home {_WORK}/tmp {_WORK}/env {_WORK}/source /wheels",
        f"set -- {_CONTEXT}/requires/*.whl",
        f'if [ -e "$1" ]; then {pip} install -q {common} --root-user-action ignore --no-compile --target {_WORK}/env "$@"; fi',
        f"{python} -m {unpack} -e {_CONTEXT}/{shlex.quote(archive)} {_WORK}/source",
        f"cd {_WORK}/source/*/",
        f"PYTHONPATH={_WORK}/env PATH={_WORK}/env/bin:$PATH {pip} wheel -v {common} --no-build-isolation -w /wheels .",
    ]
    lines = [f"FROM {docker_reference(base)} AS build", "USER root"]
    if system:
        lines.append(f"RUN {render_apt_mounts()} \\\n    set -eu; \\\n    " + "; \\\n    ".join(render_apt_steps(system)))
    lines.append(f"RUN --network=none --mount=type=bind,from=source,target={_CONTEXT} \\\n    set -eu; \\\n    " + "; \\\n    ".join(steps))
    return "\n".join([*lines, "FROM scratch", "COPY --from=build /wheels/ /"]) + "\n"


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
    client = connect_docker()
    with tempfile.TemporaryDirectory(dir=out, prefix="context-") as name:
        context = Path(name)
        _lay_out(order, context)
        dockerfile = context / "Dockerfile"
        dockerfile.write_text(render_source_dockerfile(base, order.archive.name, order.epoch, system), encoding="utf-8")
        contexts = {"source": str(context)}
        if not base.registry:
            contexts[docker_reference(base)] = f"oci-layout://{layout}@{base.pinned}"
        result = out / "wheels"
        arguments = {
            "context_path": context,
            "file": dockerfile,
            "build_contexts": contexts,
            "secrets": list(list_secrets(secrets or {})),
            "platforms": [str(base.inventory.platform)],
            "output": {"type": "local", "dest": str(result)},
            **options.arguments(network=bool(system)),
        }
        try:
            run_build(client, arguments, options.builder, _READ_LINES)
        except BuildError as error:
            raise _explain_failure(order, base, error) from None
    wheels = sorted(result.glob("*.whl"))
    if len(wheels) != 1:
        raise BuildError(f"{order.name} {order.version}: its build made {len(wheels)} wheels, not one", "ask for another version")
    return wheels[0]


def _lay_out(order: SourceOrder, context: Path) -> None:
    """The archive, and beside it what it builds with."""
    (context / "requires").mkdir()
    for path in (order.archive, *order.requires):
        target = context / ("requires" if path is not order.archive else ".") / path.name
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)


def _explain_failure(order: SourceOrder, base: Base, error: BuildError) -> BuildError:
    # Compilers, linkers and Python say "error:"; what pip says after it is that something failed.
    told = [line.strip() for line in error.details if re.search(r"\b[Ee]rror: ", line) and not line.startswith(("ERROR: ", "note: "))]
    reason = told[0] if told else error.message.removeprefix("the build's RUN failed: ")
    return BuildError(
        f"{order.name} {order.version} cannot be built in base {base.name}: {reason}",
        "compilers and headers are Debian packages: [source] system in team.toml; Python ones: [source] requires",
        error.details[-_SHOWN_LINES:],
    )
