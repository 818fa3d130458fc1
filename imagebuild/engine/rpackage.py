"""Source archives of R packages built into binary ones inside the base (``R CMD INSTALL --build``), by any builder that buildx knows."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime
from pathlib import Path

from imagebuild.addons.rlang.facts import require_r
from imagebuild.base.model import Base
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.engine.insidebase import CONTEXT, WORK, BuildPlace, Product, build_file, render_stages

_MADE = "/packages"
_ERROR = re.compile(r"^ERROR: |: error: |(?:fatal|undefined).*: |^Error in |: command not found|: not found$")
_PRODUCT = Product(
    "*.tar.gz",
    "archives",
    lambda line: _ERROR.search(line) is not None,
    "compilers and headers are Debian packages: [source] system in team.toml; or use a repository that has binaries",
)


def render_r_dockerfile(base: Base, order: SourceOrder, system: tuple[str, ...]) -> str:
    """The Dockerfile. The source is unpacked to one path, which compilers write into what they make, and R's date is the order's."""
    r, name = shlex.quote(require_r(base).path), shlex.quote(order.name)
    unpack = f"{shlex.quote(base.interpreter.path)} -m tarfile -e"
    stamp = datetime.fromtimestamp(order.epoch, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    steps = [
        f"export HOME={WORK}/home TMPDIR={WORK}/tmp SOURCE_DATE_EPOCH={order.epoch} LC_ALL=C.UTF-8 TZ=UTC",
        f"export R_LIBS={WORK}/library R_LIBS_USER={WORK}/none R_ENVIRON_USER=/dev/null R_PROFILE_USER=/dev/null",
        "unset R_BUILD_ENVIRON R_CHECK_ENVIRON MAKEFLAGS R_MAKEVARS_USER",
        "umask 022",
        f"mkdir -p {WORK}/home {WORK}/tmp {WORK}/library {WORK}/source {WORK}/made {_MADE}",
        f'for file in {CONTEXT}/requires/*.tar.gz; do [ -e "$file" ] || continue; {unpack} "$file" {WORK}/library; done',
        f"{unpack} {CONTEXT}/{shlex.quote(order.archive.name)} {WORK}/source",
        f"chmod -R u+rwX {WORK}/source",
        f"find {WORK}/source/{name} -maxdepth 2 \\( -name configure -o -name cleanup \\) -exec chmod 0755 {{}} +",
        f"cd {WORK}/made",
        f"{r} CMD INSTALL --build --strip --no-test-load --library={WORK}/library --built-timestamp={shlex.quote(stamp)} "
        f"{WORK}/source/{name}",
        f"cp {WORK}/made/*.tar.gz {_MADE}/",
    ]
    return render_stages(base, system, steps, _MADE)


def build_r_package(order: SourceOrder, out: Path, place: BuildPlace) -> Path:
    """Build ``order``; the binary archive, in the folder ``out``. Errors: see :func:`build_file`."""
    return build_file(render_r_dockerfile(place.base, order, place.system), order, out, place, _PRODUCT)
