"""The Dockerfile that says the same as a recipe, and the files of its build context.

For BuildKit and for people: the direct engine never reads it. It needs no network unless the recipe has Debian packages.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from imagebuild import annotations as names
from imagebuild.base.model import Base, Interpreter
from imagebuild.lock.file.model import Lock
from imagebuild.recipe import CONSTRAINTS_PATH, REMOVAL_FILE, Recipe, created_epoch

ADDONS_FILE = "addons.json"  # of the context, beside the wheels: what is unpacked where
ADDONS_FOLDER = "addons"  # of the context: the archives
_PACKAGE = Path(__file__).parent
_CONTEXT = "/run/imagebuild"  # where the build context with the wheels is mounted, during the RUN only


def render_requirements(lock: Lock, hashes: Mapping[str, str] | None = None) -> str:
    """The lock as pip reads it with ``--require-hashes``. ``hashes``: by name, of wheels that are not those of the lock (hex)."""
    found = hashes or {}
    return "".join(f"{item.name}=={item.version} --hash=sha256:{found.get(item.name, item.sha256)}\n" for item in lock.packages)


def render_installer() -> str:
    """The program that starts pip in the build: ``install.py`` of the context, beside the wheels."""
    return (_PACKAGE / "payload" / "pip_run.py").read_text(encoding="utf-8")


def render_slimmer() -> str:
    """What the installer needs beside it when the recipe says ``slim``: ``slim.py`` of the context."""
    return (_PACKAGE / "wheel" / "slim.py").read_text(encoding="utf-8")


def render_unpacker() -> str:
    """The program that unpacks add-ons in the build: ``addons.py`` of the context."""
    return (_PACKAGE / "payload" / "addons_run.py").read_text(encoding="utf-8")


def render_addons(recipe: Recipe, folders: Mapping[str, str]) -> str:
    """What that program is to do. ``folders``: by add-on as accounts name it, with the base's links followed."""
    items = [
        {"file": f"{ADDONS_FOLDER}/{item.filename}", "sha256": item.sha256, "strip": item.strip, "folder": folders[item.package]}
        for item in recipe.addons
    ]
    return json.dumps(items, indent=1) + "\n"


def find_install_folders(interpreter: Interpreter) -> list[str]:
    """The folders pip installs into; none lies in another."""
    paths = sorted({interpreter.paths[name] for name in ("purelib", "platlib", "scripts", "data", "include")})
    return [path for path in paths if not any(path != other and path.startswith(other.rstrip("/") + "/") for other in paths)]


def _quote(text: str) -> str:
    """A double-quoted Dockerfile word: backslash, quote and dollar escaped (no variable is ever meant)."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("\n", " ")
    return f'"{escaped}"'


def render_dockerfile(recipe: Recipe, base: Base) -> str:
    """The Dockerfile of the recipe. It needs one named build context, ``wheels``, and no network.

    ``base.reference`` may be a layout folder's; docker then needs a context of that name (docs/formats.md).
    """
    python = shlex.quote(base.interpreter.path)
    epoch = created_epoch(recipe.created)
    folders = " ".join(shlex.quote(folder) for folder in find_install_folders(base.interpreter))
    removal = f"--removal={_CONTEXT}/{REMOVAL_FILE} " if recipe.replace else ""
    slim = f"--slim={','.join(recipe.slim)} " if recipe.slim else ""
    pip = (
        f"{python} {_CONTEXT}/install.py {removal}{slim}{folders} -- --isolated --no-cache-dir --disable-pip-version-check install "
        f"--no-index --find-links {_CONTEXT} --no-deps --require-hashes --only-binary :all: --break-system-packages "
        "--root-user-action ignore --no-warn-script-location"
    )
    if recipe.replace:
        pip += " --ignore-installed"  # what is replaced has no files any more, but still its empty .dist-info folder
    steps = [
        f"export HOME={_CONTEXT}-home TMPDIR=/dev/shm SOURCE_DATE_EPOCH={epoch} PIP_CONFIG_FILE=/dev/null PYTHONDONTWRITEBYTECODE=1",
        "unset PIP_CONSTRAINT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_REQUIREMENT PIP_TARGET PIP_USER",
        "umask 022",
        *render_apt_steps(recipe.system),
        f"{pip} -r {_CONTEXT}/requirements.txt",
    ]
    if recipe.addons:
        steps.append(f"{python} {_CONTEXT}/addons.py {_CONTEXT}/{ADDONS_FILE}")
    if recipe.constraints:
        folder = CONSTRAINTS_PATH.rpartition("/")[0]
        steps += [f"mkdir -p {folder}", f"cp {_CONTEXT}/constraints.txt {CONSTRAINTS_PATH}", f"chmod 0644 {CONSTRAINTS_PATH}"]
    lines = [
        f"# Team {recipe.team}, {recipe.tag}. Rendered by imagebuild from the team's lock; do not edit.",
        f"# Build it by hand, from this folder: docker buildx build --build-context wheels=wheels {build_context_option(base)}.",
        f"FROM {docker_reference(base)}",
        "USER root",
        f"RUN {render_mounts(recipe.system)} \\",
        "    set -eu; \\\n    " + "; \\\n    ".join(steps),
    ]
    lines += [f"ENV {name}={_quote(value)}" for name, value in sorted(recipe.environment.items())]
    # One RUN makes one layer, with the same files.
    lines += [f"LABEL {name}={_quote(value)}" for name, value in sorted(recipe.labels.items()) if name != names.LAYERS]
    # Verbatim: a name would fail under runAsNonRoot where the base gives a number.
    lines.append(f"USER {base.inventory.user.config or '0'}")
    return "\n".join(lines) + "\n"


APT_MOUNT = "/run/imagebuild-apt"  # the machine's apt sources, where the base has none: secrets, seen by the RUN only
APT_SECRETS = {"apt-sources": "sources.list", "apt-keyring": "keyring.gpg", "apt-auth": "auth.conf", "apt-ca": "ca.pem"}
_APT_WASTE = ("/var/lib/apt/lists", "/var/cache/apt", "/var/log/apt", "/var/cache/ldconfig")


def render_mounts(system: tuple[str, ...]) -> str:
    """The RUN's network and mounts. With system packages: a network, the optional secrets, and memory over what apt litters."""
    wheels = f"--mount=type=bind,from=wheels,target={_CONTEXT}"
    if not system:
        return f"--network=none {wheels}"
    return f"{wheels} \\\n    {render_apt_mounts()}"


def render_apt_mounts() -> str:
    """The mounts of a RUN that installs Debian packages: memory over what apt litters, and the optional secrets."""
    # apt fetches as a user of its own, so the secrets are readable; they are gone with the RUN.
    secrets = [f"--mount=type=secret,id={name},target={APT_MOUNT}/{file},mode=0444" for name, file in APT_SECRETS.items()]
    waste = [f"--mount=type=tmpfs,target={folder}" for folder in _APT_WASTE]
    return " \\\n    ".join([*waste, *secrets])


def render_apt_steps(system: tuple[str, ...]) -> list[str]:
    """Shell steps that install Debian packages and leave nothing behind but what dpkg keeps."""
    if not system:
        return []
    names = " ".join(shlex.quote(name) for name in system)
    return [
        "export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8",
        "touch /dev/shm/started",
        "set -- -o DPkg::Options::=--log=/dev/null -o DPkg::Options::=--force-confold -o APT::Update::Error-Mode=any",
        f"if [ -s {APT_MOUNT}/sources.list ]; then . /etc/os-release; "
        f'sed "s/@SUITE@/$VERSION_CODENAME/g" {APT_MOUNT}/sources.list > /dev/shm/sources.list; '
        f'set -- "$@" -o Dir::Etc::SourceList=/dev/shm/sources.list -o Dir::Etc::SourceParts=/dev/null; fi',
        f'if [ -s {APT_MOUNT}/auth.conf ]; then set -- "$@" -o Dir::Etc::netrc={APT_MOUNT}/auth.conf; fi',
        f'if [ -s {APT_MOUNT}/ca.pem ]; then set -- "$@" -o Acquire::https::CAInfo={APT_MOUNT}/ca.pem; fi',
        'apt-get "$@" -qq update',
        f'apt-get "$@" -qq -y --no-install-recommends install {names}',
        "find /var/log -type f -newer /dev/shm/started -delete",
        "rm -f /var/cache/debconf/*-old /var/lib/dpkg/*-old /dev/shm/started /dev/shm/sources.list",
    ]


def docker_reference(base: Base) -> str:
    """What FROM names: the pinned digest, as docker spells it."""
    if base.registry:
        return f"{base.registry}/{base.repository}@{base.pinned}"
    return f"localhost/{base.repository}@{base.pinned}"


def build_context_option(base: Base) -> str:
    """The further ``--build-context`` a base in a layout folder needs; empty for one in a registry."""
    if base.registry:
        return ""
    return f"--build-context {docker_reference(base)}=oci-layout://$LAYOUT@{base.pinned} "
