"""Builds inside a base whose image is thrown away: apt in one stage's first RUN, the build without a network in its second, and nothing
but what it made in the last stage."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.model import Base
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.dockerfile import docker_reference, render_apt_mounts, render_apt_steps
from imagebuild.engine.buildx import connect_docker, list_secrets, run_build
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import BuildError

CONTEXT = "/run/imagebuild"  # the source archive; in requires/ what it is built with
WORK = "/tmp/imagebuild-source"  # the same in every build: compilers write it into what they make
_READ_LINES = 60  # of a build that failed: looked through for the reason
_SHOWN_LINES = 12  # of it


class BuildPlace(msgspec.Struct, frozen=True):
    """Where a source archive is built."""

    base: Base
    layout: Path  # the layout folder that holds the base, where no registry does
    options: DockerOptions
    system: tuple[str, ...] = ()  # Debian packages for the build
    secrets: Mapping[str, Path] = {}  # apt's, by id


class Product(msgspec.Struct, frozen=True):
    """What a build is to make, and what is said of one that fails."""

    pattern: str  # of the file's name
    title: str  # of several: wheels
    is_reason: Callable[[str], bool]  # whether a line of the output says what is wrong
    hint: str


def render_stages(base: Base, system: Sequence[str], steps: Sequence[str], made: str) -> str:
    """The Dockerfile: ``system`` by apt, then the shell's ``steps`` without a network; the image is the folder ``made``."""
    lines = [f"FROM {docker_reference(base)} AS build", "USER root"]
    if system:
        lines.append(f"RUN {render_apt_mounts()} \\\n    set -eu; \\\n    " + "; \\\n    ".join(render_apt_steps(tuple(system))))
    lines.append(f"RUN --network=none --mount=type=bind,from=source,target={CONTEXT} \\\n    set -eu; \\\n    " + "; \\\n    ".join(steps))
    return "\n".join([*lines, "FROM scratch", f"COPY --from=build {made}/ /"]) + "\n"


def build_file(dockerfile: str, order: SourceOrder, out: Path, place: BuildPlace, product: Product) -> Path:
    """Run the build of ``order``; the one file that it made, in the folder ``out``.

    BuildError with the reason out of its last words; ConfigurationError when docker, its engine, buildx or the builder is missing.
    """
    try:
        made = _run_inside(dockerfile, order, out, place)
    except BuildError as error:
        reasons = [line.strip() for line in error.details if product.is_reason(line)]
        reason = reasons[0] if reasons else error.message.removeprefix("the build's RUN failed: ")
        raise BuildError(
            f"{order.name} {order.version} cannot be built in base {place.base.name}: {reason}", product.hint, error.details[-_SHOWN_LINES:]
        ) from None
    found = sorted(made.glob(product.pattern))
    if len(found) != 1:
        raise BuildError(f"{order.name} {order.version}: its build made {len(found)} {product.title}, not one", "ask for another version")
    return found[0]


def _run_inside(dockerfile: str, order: SourceOrder, out: Path, place: BuildPlace) -> Path:
    """The folder, in the folder ``out``, with what the build made. BuildError with the last lines of a RUN that failed."""
    client, base = connect_docker(), place.base
    with tempfile.TemporaryDirectory(dir=out, prefix="context-") as name:
        context = Path(name)
        _lay_out(order.archive, order.requires, context)
        file = context / "Dockerfile"
        file.write_text(dockerfile, encoding="utf-8")
        contexts = {"source": str(context)}
        if not base.registry:
            contexts[docker_reference(base)] = f"oci-layout://{place.layout}@{base.pinned}"
        result = out / "made"
        arguments = {
            "context_path": context,
            "file": file,
            "build_contexts": contexts,
            "secrets": list(list_secrets(place.secrets)),
            "platforms": [str(base.inventory.platform)],
            "output": {"type": "local", "dest": str(result)},
            **place.options.arguments(network=bool(place.system)),
        }
        run_build(client, arguments, place.options.builder, _READ_LINES)
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
