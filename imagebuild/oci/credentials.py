"""Who this user is to a registry: ``~/.docker/config.json`` and the credential helpers it names.

The same file docker, skopeo (as a fallback) and crane read, so that ``docker login HOST`` is all a user does. Secrets are
never part of a message, and no ``repr`` shows one.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.decoding import load_json
from imagebuild.errors import ConfigurationError

DOCKER_HUB = "docker.io"
_HUB_KEY = "https://index.docker.io/v1/"
HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_PLAIN_PATHS = frozenset({"", "v1", "v2"})  # what may follow the host in a key and still mean the whole host
_HELPER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HELPER_TIMEOUT = 30.0  # seconds; a helper may ask a cloud for a token, or a person for a password
_REPAIR = "repair it, or remove it and run `docker login` again"


class Credential(msgspec.Struct, frozen=True):
    """One of: user name and password; an identity token (OAuth2 refresh token); a registry token (sent as it is)."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""

    def __repr__(self) -> str:
        return f"Credential({self.username!r}, ...)"

    def __rich_repr__(self) -> Any:
        yield self.username


class Credentials:
    """Credentials by registry host, looked up only when a registry asks for some."""

    def __init__(self, document: dict[str, Any], path: Path | None = None, *, timeout: float = _HELPER_TIMEOUT) -> None:
        """``document`` is the parsed ``config.json``; ``path`` is where it was read, for messages."""
        self._path = path or Path("config.json")
        self._timeout = timeout
        self._auths = self._mapping(document, "auths")
        self._helpers = self._mapping(document, "credHelpers")
        store = document.get("credsStore") or ""
        if not isinstance(store, str):
            raise self._malformed("credsStore is not a string")
        self._store = store

    def __repr__(self) -> str:
        return f"Credentials({str(self._path)!r})"

    @classmethod
    def load(cls, folder: Path | None = None, *, timeout: float = _HELPER_TIMEOUT) -> Credentials:
        """Read ``config.json`` of ``folder`` (default: ``$DOCKER_CONFIG``, else ``~/.docker``); without one, no credentials."""
        if folder is None:
            configured = os.environ.get("DOCKER_CONFIG")
            folder = Path(configured) if configured else Path(os.path.expanduser("~")) / ".docker"  # noqa: PTH111  # no error without a home
        path = folder / "config.json"
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return cls({}, path, timeout=timeout)
        except OSError as error:
            raise ConfigurationError(f"cannot read {path}: {error.strerror}", "give this user read access, or set DOCKER_CONFIG") from None
        try:
            document = load_json(data) if data.strip() else {}
        except ValueError as error:
            # ValueError of JSON names line and column; the text itself may hold a secret and stays out.
            where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "not UTF-8 JSON"
            raise ConfigurationError(f"{path} is not valid JSON ({where})", _REPAIR) from None
        if not isinstance(document, dict):
            raise ConfigurationError(f"{path} is not a JSON object", _REPAIR)
        return cls(document, path, timeout=timeout)

    def find(self, host: str) -> Credential | None:
        """The credential for a registry host (with its port, if it has one); None means anonymous.

        Order as docker's: the host's own helper, then the general one, then what the file itself holds.
        """
        names = HUB_NAMES if host in HUB_NAMES else frozenset({host})
        for key, helper in self._helpers.items():
            if _host_of(key) in names:
                return self._ask_helper(helper, key)
        if self._store:
            found = self._ask_helper(self._store, _HUB_KEY if host in HUB_NAMES else host)
            if found is not None:
                return found
        for key in sorted(self._auths, key=lambda key: (key not in names and key != _HUB_KEY, key)):
            if _host_of(key) in names:
                found = self._read_entry(key, self._auths[key])
                if found is not None:
                    return found
        return None

    def _mapping(self, document: dict[str, Any], name: str) -> dict[str, Any]:
        value = document.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._malformed(f"{name} is not an object")
        return value

    def _read_entry(self, key: str, entry: Any) -> Credential | None:
        if not isinstance(entry, dict):
            raise self._malformed(f"auths[{key!r}] is not an object")
        fields = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken", "registrytoken")}
        for name, value in fields.items():
            if not isinstance(value, str):
                raise self._malformed(f"{name} of auths[{key!r}] is not a string")
        username, password = fields["username"], fields["password"]
        if fields["auth"]:
            try:
                text = base64.b64decode(fields["auth"], validate=True).decode().rstrip("\0")
            except (binascii.Error, ValueError):
                raise self._malformed(f"auth of auths[{key!r}] is not base64 of user:password") from None
            username, colon, password = text.partition(":")
            if not colon:
                raise self._malformed(f"auth of auths[{key!r}] is not base64 of user:password")
        found = Credential(username, password, fields["identitytoken"], fields["registrytoken"])
        return None if found == Credential() else found

    def _ask_helper(self, name: Any, server: str) -> Credential | None:
        """docker-credential-helpers' protocol: the server on stdin, JSON on stdout."""
        if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
            raise self._malformed("the name of a credential helper is not a plain word")
        program = f"docker-credential-{name}"
        binary = shutil.which(program)
        if binary is None:
            raise ConfigurationError(
                f"{self._path} asks for the credential helper {program}, which is not on PATH",
                f"install {program}, or take it out of that file and run `docker login {server}`",
            )
        try:
            done = subprocess.run([binary, "get"], input=server.encode(), capture_output=True, timeout=self._timeout, check=False)
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"{program} did not answer for {server} within {self._timeout:g} s",
                f"run `echo {server} | {program} get >/dev/null` and see what it waits for",
            ) from None
        except OSError as error:
            raise ConfigurationError(f"cannot run {binary}: {error.strerror}", "install it again") from None
        if done.returncode:
            text = (done.stdout + b" " + done.stderr).decode(errors="replace")
            if "credentials not found" in text.lower():
                return None
            # What it printed is left out: a broken helper may print what it keeps.
            raise ConfigurationError(
                f"{program} failed for {server} (exit {done.returncode})", f"run `echo {server} | {program} get` and see what it says"
            )
        try:
            answer = load_json(done.stdout)
            username, secret = answer["Username"], answer["Secret"]
        except (ValueError, KeyError, TypeError):
            username = secret = None
        if not isinstance(username, str) or not isinstance(secret, str):
            raise ConfigurationError(
                f"{program} answered for {server} with something other than Username and Secret", f"run `docker login {server}` again"
            )
        if not username and not secret:
            return None
        return Credential(identity_token=secret) if username == "<token>" else Credential(username, secret)

    def _malformed(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._path} is malformed: {what}", "repair it, or remove the entry and run `docker login` again")


def _host_of(key: str) -> str:
    """``host[:port]`` of a key such as ``https://index.docker.io/v1/``; empty for one that means a part of a host."""
    rest = key.partition("://")[2] if "://" in key else key
    host, _, path = rest.partition("/")
    return host if path.strip("/") in _PLAIN_PATHS else ""
