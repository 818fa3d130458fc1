"""This machine's apt sources, handed to a build as secrets when the base has none of its own.

The starter base holds no registry's address, so an apt step in it needs apt sources from outside: the same
as this machine's own. Secrets are seen by the RUN alone; neither layer, history nor build arguments ever hold them.
"""

from __future__ import annotations

import re
from pathlib import Path

from imagebuild.base.model import Base, Tree
from imagebuild.dockerfile import APT_MOUNT, APT_SECRETS
from imagebuild.engine.machinesources import SUITE, read_machine_sources
from imagebuild.errors import ConfigurationError
from imagebuild.files import write_atomic

_SECRET_LIMIT = 500_000  # bytes; BuildKit takes no larger secret
_AUTHORITIES = ("etc/ssl/certs/ca-certificates.crt", "etc/pki/tls/certs/ca-bundle.crt")


def has_apt_sources(tree: Tree) -> bool:
    """Whether apt in this base knows where packages come from."""
    named = tree.get(tree.resolve("/etc/apt") + "/sources.list")
    if named is not None and (named.type == "symlink" or named.size):
        return True
    return any(item.path.endswith((".list", ".sources")) and item.size for item in tree.under("/etc/apt/sources.list.d"))


def prepare_apt_secrets(base: Base, folder: Path, *, machine: Path = Path("/")) -> dict[str, Path]:
    """Secret files by id, written to ``folder`` (0600); empty for a base that has its own sources.

    ``machine`` is the root that /etc/apt is read from. ConfigurationError for a base without apt, and when base and
    machine know of no source.
    """
    if not any(base.tree.get(f"{base.tree.resolve(place)}/apt-get") for place in ("/usr/bin", "/bin")):
        raise ConfigurationError(
            f"base {base.name} has no apt-get, and [system] packages are Debian's", "leave [system] out, or choose a Debian or Ubuntu base"
        )
    if has_apt_sources(base.tree):
        return {}
    apt = machine / "etc/apt"
    lines = read_machine_sources(apt)
    if not lines:
        raise ConfigurationError(
            f"base {base.name} has no apt sources, and this machine has no Debian ones to hand in",
            "build on a Debian machine, or choose a base with sources of its own",
        )
    text, keyring = rewrite_sources(lines, machine)
    parts = {"apt-sources": text.encode(), "apt-keyring": keyring, "apt-auth": _read_login(apt), "apt-ca": b""}
    if "https://" in text:
        parts["apt-ca"] = next(((machine / name).read_bytes() for name in _AUTHORITIES if (machine / name).is_file()), b"")
    secrets = {}
    for name, data in parts.items():
        if data and len(data) < _SECRET_LIMIT:
            secrets[name] = folder / name
            write_atomic(secrets[name], data, mode=0o600)
    return secrets


def rewrite_sources(lines: list[str], machine: Path) -> tuple[str, bytes]:
    """sources.list with ``@SUITE@`` for the suite (the base knows its own) and one keyring instead of the machine's files."""
    keyring = b""
    text = "".join(re.sub(rf"(?<= ){SUITE}(?=[ -])", "@SUITE@", line) + "\n" for line in lines)
    for name in sorted(set(re.findall(r"signed-by=([^\]\s]+)", text))):
        path = machine / name.lstrip("/")
        data = path.read_bytes() if path.is_file() else b""
        if data and not data.startswith(b"-----BEGIN"):  # binary keyrings may follow one another; an armoured one stays the base's
            keyring += data
            text = text.replace(f"signed-by={name}]", f"signed-by={APT_MOUNT}/{APT_SECRETS['apt-keyring']}]")
    return text, keyring


def _read_login(apt: Path) -> bytes:
    texts = []
    for path in (apt / "auth.conf", *sorted(apt.glob("auth.conf.d/*.conf"))):
        try:
            texts.append(path.read_bytes().rstrip() + b"\n")
        except OSError:  # absent, or for root's eyes only: then apt on this machine could not log in for this user either
            continue
    return b"".join(texts)
