"""Tokens of a registry: where its token service is, what it is asked, and what it answers (distribution: token and OAuth2)."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec

import imagebuild
from imagebuild.oci.challenge import Challenge, merge_scopes
from imagebuild.oci.credentials import Credential
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.session import is_loopback

_CLIENT = "imagebuild"
USER_AGENT = f"{_CLIENT}/{imagebuild.__version__}"
_LIFETIME = 60.0  # seconds; distribution's default where expires_in is missing
_TOKEN = re.compile(r"[\x21-\x7e]+")
_REPORT = "report it to the registry's operators"


class TokenRequest(msgspec.Struct, frozen=True):
    """A GET with a query, or where there is a ``form``, a POST."""

    query: list[tuple[str, str]]
    form: list[tuple[str, str]] | None
    headers: dict[str, str]

    @property
    def method(self) -> str:
        """``GET`` or ``POST``."""
        return "GET" if self.form is None else "POST"


def encode_basic(credential: Credential) -> str:
    """The Authorization header of user and password (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()


def locate_token_service(challenge: Challenge, where: str, *, encrypted: bool) -> SplitResult:
    """The challenge's realm. RegistryError for one that is not a URL of HTTP, and for plain HTTP from a registry that is ``encrypted``."""
    try:
        realm = urlsplit(challenge.parameters["realm"])
        _ = realm.port  # raises for a port that is not a number
    except ValueError:
        realm = urlsplit("")
    if realm.scheme not in ("http", "https") or not realm.hostname:
        raise RegistryError(f"{where}: the registry names no valid URL for its token service", _REPORT)
    if realm.scheme == "http" and encrypted and not is_loopback(realm.hostname):
        raise RegistryError(f"{where}: its token service is not encrypted ({realm.hostname})", _REPORT)
    return realm


def make_token_request(challenge: Challenge, scopes: Sequence[str], credential: Credential | None) -> TokenRequest:
    """By GET, or with an identity token by POST."""
    merged = merge_scopes(tuple(scopes), challenge.parameters.get("scope", ""))
    service = challenge.parameters.get("service", "")
    fields = [("service", service)] if service else []
    headers = {"Accept": "application/json", "User-Agent": USER_AGENT}
    if credential is not None and credential.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            *fields,
            ("client_id", _CLIENT),
            ("scope", " ".join(merged)),
            ("refresh_token", credential.identity_token),
        ]
        return TokenRequest([], form, headers)
    fields += [("scope", scope) for scope in merged]
    if credential is not None:
        fields += [("client_id", _CLIENT), ("account", credential.username)]
        headers["Authorization"] = encode_basic(credential)
    return TokenRequest(fields, None, headers)


def read_token(document: dict[str, Any], where: str, service: str) -> tuple[str, float]:
    """The token and the seconds it is good for; RegistryError for an answer without one."""
    token = document.get("token") or document.get("access_token")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise RegistryError(f"{where}: {service} answered without a token", _REPORT)
    lifetime = document.get("expires_in")
    if isinstance(lifetime, bool) or not isinstance(lifetime, (int, float)) or lifetime <= 0:
        lifetime = _LIFETIME
    return token, lifetime
