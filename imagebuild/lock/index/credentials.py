"""Who we are to a package index: found where its ``credentials`` say, never in a file of the repository.

``env:USER,PASSWORD`` names two environment variables (``env:TOKEN`` one, for the user ``__token__``), ``keyring:USER`` asks the
keyring command, ``netrc`` and nothing leave it to netrc. This module alone reads the environment for them.
"""

from __future__ import annotations

import netrc
import os
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from imagebuild.errors import ConfigurationError
from imagebuild.lock.index.routing import PackageIndex

_REFERENCE = re.compile(r"netrc|env:[A-Za-z_][A-Za-z0-9_]*(?:,[A-Za-z_][A-Za-z0-9_]*)?|keyring:[^\s:,]+")
_TOKEN_USER = "__token__"
_KEYRING_SECONDS = 60


def is_reference(text: str) -> bool:
    """Whether a text says where credentials are, in one of the forms above."""
    return _REFERENCE.fullmatch(text) is not None


def find_credentials(index: PackageIndex) -> tuple[str, str] | None:
    """User and password, or None for netrc; ConfigurationError when they are not where the index says."""
    kind, _colon, place = index.reference.partition(":")
    if kind == "env":
        return _read_environment(index.name, place)
    if kind == "keyring":
        return place, _ask_keyring(index, place)
    return index.credentials


def find_netrc_entry(host: str, *, default: bool) -> tuple[str, str] | None:
    """User and password that netrc (``NETRC``, else ``~/.netrc``, ``~/_netrc``) has for a host.

    ``default``: whether its ``default`` entry, which stands for every host there is, counts too. A file that cannot be read has none.
    """
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    try:
        path = next((path for path in (Path(place).expanduser() for place in places) if path.exists()), None)
        hosts = netrc.netrc(path).hosts if path is not None else {}
    except (netrc.NetrcParseError, OSError, UnicodeDecodeError, RuntimeError):
        return None
    entry = hosts.get(host) or (hosts.get("default") if default else None)
    if entry is None:
        return None
    login, account, password = entry
    return login or account or "", password or ""


def _read_environment(name: str, place: str) -> tuple[str, str]:
    user_variable, comma, password_variable = place.rpartition(",")
    missing = [variable for variable in (user_variable, password_variable) if variable and not os.environ.get(variable)]
    if missing:
        raise ConfigurationError(
            f"package index {name!r} takes its credentials from the environment, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not set",
            "set what its credentials name, in CI as a secret",
        )
    return os.environ[user_variable] if comma else _TOKEN_USER, os.environ[password_variable]


def _ask_keyring(index: PackageIndex, user: str) -> str:
    """By the index's address, then by its host, as pip asks."""
    program = shutil.which("keyring")
    if program is None:
        raise ConfigurationError(
            f"package index {index.name!r} takes its credentials from the keyring, and there is no keyring command on PATH",
            "install keyring, or let credentials name environment variables: env:USER,PASSWORD",
        )
    for service in (index.address, urlsplit(index.address).netloc):
        try:
            done = subprocess.run(
                [program, "get", service, user], stdin=subprocess.DEVNULL, capture_output=True, timeout=_KEYRING_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            break
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.decode("utf-8", "replace").rstrip("\r\n")
    raise ConfigurationError(
        f"the keyring has no password of user {user!r} for package index {index.name!r}", "store it: keyring set ADDRESS USER"
    )
