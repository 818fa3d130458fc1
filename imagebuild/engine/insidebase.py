"""Builds inside a base whose image is thrown away: apt in one stage's first RUN, the build without a network in its second, and nothing
but what it made in the last stage."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.base.model import Base
from imagebuild.dockerfile import docker_reference, render_apt_mounts, render_apt_steps
from imagebuild.engine.buildx import connect_docker, list_secrets, run_build
from imagebuild.engine.options import DockerOptions

CONTEXT = "/run/imagebuild"  # the source archive; in requires/ what it is built with
WORK = "/tmp/imagebuild-source"  # the same in every build: compilers write it into what they make
_READ_LINES = 60  # of a build that failed: looked through for the reason


def render_stages(base: Base, system: Sequence[str], steps: Sequence[str], made: str) -> str:
    """The Dockerfile: ``system`` by apt, then the shell's ``steps`` without a network; the image is the folder ``made``."""
    lines = [f"FROM {docker_reference(base)} AS build", "USER root"]
    if system:
        lines.append(f"RUN {render_apt_mounts()} \\\n    set -eu; \\\n    " + "; \\\n    ".join(render_apt_steps(tuple(system))))
    lines.append(f"RUN --network=none --mount=type=bind,from=source,target={CONTEXT} \\\n    set -eu; \\\n    " + "; \\\n    ".join(steps))
    return "\n".join([*lines, "FROM scratch", f"COPY --from=build {made}/ /"]) + "\n"


def run_inside(
    dockerfile: str,
    archive: Path,
    requires: Sequence[Path],
    out: Path,
    *,
    base: Base,
    layout: Path,
    network: bool,
    secrets: Mapping[str, Path] | None,
    options: DockerOptions,
) -> Path:
    """Run the build; the folder, in the folder ``out``, with what it made. ``network``: some step of it needs one.

    BuildError with the last words of a RUN that failed; ConfigurationError when docker, its engine, buildx or the builder is missing.
    """
    client = connect_docker()
    with tempfile.TemporaryDirectory(dir=out, prefix="context-") as name:
        context = Path(name)
        _lay_out(archive, requires, context)
        file = context / "Dockerfile"
        file.write_text(dockerfile, encoding="utf-8")
        contexts = {"source": str(context)}
        if not base.registry:
            contexts[docker_reference(base)] = f"oci-layout://{layout}@{base.pinned}"
        result = out / "made"
        arguments = {
            "context_path": context,
            "file": file,
            "build_contexts": contexts,
            "secrets": list(list_secrets(secrets or {})),
            "platforms": [str(base.inventory.platform)],
            "output": {"type": "local", "dest": str(result)},
            **options.arguments(network=network),
        }
        run_build(client, arguments, options.builder, _READ_LINES)
    return result


def _lay_out(archive: Path, requires: Sequence[Path], context: Path) -> None:
    """The archive, and beside it what it is built with."""
    (context / "requires").mkdir()
    for path in (archive, *requires):
        target = context / ("requires" if path is not archive else ".") / path.name
        try:
            os.link(path, target)
        except OSError:
            shutil.copyfile(path, target)
