"""Where a login comes from, and that it goes nowhere else."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import ConfigurationError
from imagebuild.oci.credentials import Credential, Credentials


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def write_helper(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder.mkdir(exist_ok=True)
    log = folder / "asked"
    helper = folder / f"docker-credential-{name}"
    helper.write_text(f'#!/bin/sh\nread -r server || true\necho "$1 $server" >> {log}\n{script}\n')
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return log


@pytest.mark.parametrize(
    ("key", "host"),
    [
        ("ghcr.io", "ghcr.io"),
        ("https://ghcr.io", "ghcr.io"),
        ("http://ghcr.io/", "ghcr.io"),
        ("https://ghcr.io/v2/", "ghcr.io"),
        ("localhost:5000", "localhost:5000"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("index.docker.io", "docker.io"),
        ("docker.io", "docker.io"),
        ("registry-1.docker.io", "docker.io"),
    ],
)
def test_forms_of_a_host(key: str, host: str) -> None:
    credentials = Credentials({"auths": {"other.example": {"auth": encode("x:y")}, key: {"auth": encode("ann:pa:ss")}}})
    assert credentials.find(host) == Credential("ann", "pa:ss")
    assert credentials.find("nobody.example") is None


def test_a_part_of_a_host_is_not_the_host() -> None:
    credentials = Credentials({"auths": {"quay.io/team": {"auth": encode("a:b")}, "quay.io:8443": {"auth": encode("a:b")}}})
    assert credentials.find("quay.io") is None


def test_the_exact_key_comes_first() -> None:
    auths = {"http://h.example": {"auth": encode("old:1")}, "h.example": {"auth": encode("new:2")}}
    assert Credentials({"auths": auths}).find("h.example") == Credential("new", "2")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"username": "u", "password": "p"}, Credential("u", "p")),
        ({"auth": encode("u:p"), "identitytoken": "it"}, Credential("u", "p", "it")),
        ({"registrytoken": "rt"}, Credential(registry_token="rt")),
        ({"auth": encode("u:p\0\0")}, Credential("u", "p")),
        ({}, None),
        ({"auth": "", "email": "x"}, None),
        ({"auth": None}, None),
    ],
)
def test_forms_of_an_entry(entry: dict[str, Any], expected: Credential | None) -> None:
    assert Credentials({"auths": {"h.example": entry}}).find("h.example") == expected


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "3", '{"auths": []}', '{"credHelpers": "x"}', '{"credsStore": 3}', '{"auths": {"h.example": 3}}',
        '{"auths": {"h.example": {"auth": "sEcReT!"}}}', '{"auths": {"h.example": {"auth": "c0VjUmVU"}}}',
        '{"auths": {"h.example": {"password": 3}}}',
        '{"credsStore": "../sEcReT"}', '{"credHelpers": {"h.example": 3}}', '{"sEcReT', "[" * 100_000,
    ],
    ids=lambda text: str(len(text)),  # the text itself would be part of tmp_path
)  # fmt: skip
def test_a_malformed_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        Credentials.load(tmp_path).find("h.example")
    assert str(tmp_path) in caught.value.message
    assert "sEcReT" not in caught.value.message + caught.value.hint
    assert "docker login" in caught.value.hint


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    document = json.dumps({"auths": {"h.example": {"auth": encode("a:b")}}})
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONFIG", raising=False)
    assert Credentials.load().find("h.example") is None
    (tmp_path / ".docker").mkdir()
    (tmp_path / ".docker" / "config.json").write_text(document)
    assert Credentials.load().find("h.example") == Credential("a", "b")
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "elsewhere"))
    assert Credentials.load().find("h.example") is None
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.json").write_text("  ")
    assert Credentials.load().find("h.example") is None


def test_helpers_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = """
        [ "$server" = one.example ] && echo '{"ServerURL":"x","Username":"h","Secret":"s"}' && exit
        echo "credentials not found in native keychain"; exit 1"""
    log = write_helper(tmp_path / "bin", "mine", answer, monkeypatch)
    auths = {"two.example": {"auth": encode("file:f")}, "three.example": {}}
    for document in ({"credsStore": "mine", "auths": auths}, {"credHelpers": {"one.example": "mine"}, "auths": auths}):
        credentials = Credentials(document)
        assert credentials.find("one.example") == Credential("h", "s")
        assert credentials.find("two.example") == Credential("file", "f")
        assert credentials.find("three.example") is None
    assert log.read_text().splitlines() == ["get one.example", "get two.example", "get three.example", "get one.example"]


def test_docker_hub_has_its_own_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = write_helper(tmp_path / "bin", "mine", 'echo \'{"Username":"<token>","Secret":"refresh"}\'', monkeypatch)
    assert Credentials({"credsStore": "mine"}).find("docker.io") == Credential(identity_token="refresh")
    assert log.read_text() == "get https://index.docker.io/v1/\n"


@pytest.mark.parametrize(
    "script",
    [
        "echo sEcReT; exit 3",
        "echo sEcReT",
        'echo \'{"Username": "sEcReT"}\'',
        "echo '[\"sEcReT\"]'",
        "exec sleep 20",
        'echo \'{"Username":1,"Secret":2}\'',
    ],
)
def test_a_helper_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    write_helper(tmp_path / "bin", "mine", script, monkeypatch)
    with pytest.raises(ConfigurationError, match="docker-credential-mine") as caught:
        Credentials({"credsStore": "mine"}, timeout=0.3).find("h.example")
    assert "sEcReT" not in caught.value.message + caught.value.hint


def test_a_helper_that_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="docker-credential-not-installed, which is not on PATH"):
        Credentials({"credHelpers": {"h.example": "not-installed"}}).find("h.example")


def test_nothing_shows_a_secret() -> None:
    credential = Credential("ann", "sEcReT", "sEcReT", "sEcReT")
    credentials = Credentials({"auths": {"h.example": {"username": "ann", "password": "sEcReT"}}})
    shown = f"{credential!r} {credential} {[credential]} {list(credential.__rich_repr__())} {credentials!r} {credentials}"
    assert "ann" in shown
    assert "sEcReT" not in shown


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["auth", "username", "h.example", "x"]), inner, max_size=3),
    max_leaves=8,
)


def judge(document: dict[str, Any]) -> Credential | str | None:
    """By docker's documentation of config.json: the credential for h.example, None for anonymous, "refused" for what cannot be it."""
    for name in ("auths", "credHelpers"):
        if not isinstance(document.get(name) or {}, dict) or (document.get(name) is not None and not isinstance(document[name], dict)):
            return "refused"
    if "h.example" in (document.get("credHelpers") or {}):
        return "refused"  # none of the names drawn is a helper on PATH
    auths = document.get("auths") or {}
    if "h.example" not in auths:
        return None
    entry = auths["h.example"]
    if not isinstance(entry, dict) or any(entry.get(name) and not isinstance(entry[name], str) for name in ("auth", "username")):
        return "refused"
    if entry.get("auth"):
        try:
            name, colon, password = base64.b64decode(entry["auth"], validate=True).decode().rstrip("\0").partition(":")
        except ValueError:
            return "refused"
        return (Credential(name, password) if name or password else None) if colon else "refused"
    return Credential(entry["username"]) if entry.get("username") else None


logins = st.builds(lambda user, password: encode(f"{user}:{password}"), st.sampled_from(["ann", ""]), st.sampled_from(["pw", "a:b", ""]))
entries = st.fixed_dictionaries({}, optional={"auth": logins | json_values, "username": st.just("joe") | json_values, "x": json_values})
hosts = st.dictionaries(st.sampled_from(["h.example", "other.example"]), entries | json_values, max_size=2)


@pytest.mark.slow
@given(st.fixed_dictionaries({}, optional={"auths": hosts | json_values, "HttpHeaders": json_values, "credHelpers": json_values}))
def test_any_document_is_read_as_docker_reads_it_or_refused(document: dict[str, Any]) -> None:
    expected = judge(document)
    try:
        found: Credential | str | None = Credentials(document).find("h.example")
    except ConfigurationError:
        found = "refused"
    assert found == expected, document
