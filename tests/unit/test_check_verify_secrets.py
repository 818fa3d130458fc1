"""Credentials are known by the forms their issuers gave them; what only resembles one is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.check.verify.secrets import find_secret_name, find_secrets, find_setting, is_settings, is_text

# Put together here, so that no scanner takes this file for a leak.
LEAKS = {
    "an AWS access key": "AKIA" + "Z2J4" * 4,
    "a GitHub token": "gho" + "_" + "x1Y2" * 9,
    "a GitLab token": "glpat" + "-" + "x1Y2" * 5,
    "a Slack token": "xoxb" + "-" + "1234567890-" + "abcdefghij" * 3,
    "a Google API key": "AIza" + "x1Y2z" * 7,
    "a PyPI token": "pypi" + "-AgE" + "x1Y2z" * 12,
    "an npm token": "npm" + "_" + "x1Y2" * 9,
    "a Hugging Face token": "hf" + "_" + "ab" * 17,
    "an OpenAI key": "sk" + "-" + "a1" * 10 + "T3Blbk" + "FJ" + "b2" * 10,
    "an Anthropic key": "sk" + "-ant-api03-" + "a1b2" * 23,
    "a Stripe key": "sk" + "_live_" + "a1b2" * 6,
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----\n" + "MIIE" * 16,
}


@pytest.mark.parametrize("kind", LEAKS)
def test_each_form_is_found_wherever_it_lies(kind: str) -> None:
    for text in (LEAKS[kind], f'key = "{LEAKS[kind]}"\n', "x\n" * 1000 + LEAKS[kind] + "\n"):
        assert list(find_secrets(text.encode())) == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "IOSFODNN7EXAMPLE",  # the documentation's own
        "ghp" + "_tooshort",
        "xAKIA" + "Z2J4" * 4,
        "-----BEGIN " + "PRIVATE KEY-----",  # a parser's constant, without a key
        'if line == "-----BEGIN RSA ' + 'PRIVATE KEY-----":\n    return load(line)',
        "-----BEGIN PUBLIC KEY-----\n" + "MIIE" * 16,
        "hf_transformers_model_for_causal_lm_with_head",
        "npm_config_registry_url",
    ],
)
def test_what_only_looks_alike_is_left_alone(text: str) -> None:
    assert list(find_secrets(text.encode())) == []


def test_an_encrypted_or_escaped_key_is_a_key() -> None:
    head = "-----BEGIN RSA " + "PRIVATE KEY-----"
    assert list(find_secrets(f"{head}\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n{'MIIE' * 16}".encode()))
    assert list(find_secrets(f'{{"private_key": "{head}\\n{"MIIE" * 16}"}}'.encode()))


@pytest.mark.parametrize(
    ("path", "secret"),
    [
        ("/root/.netrc", True), ("/etc/.pypirc", True), ("/opt/.docker/config.json", True), ("/opt/.aws/credentials", True),
        ("/opt/id_ed25519", True), ("/opt/.git-credentials", True), ("/opt/id_rsa.pub", False), ("/opt/config.json", False),
        ("/usr/lib/python3/netrc.py", False), ("/x/credentials.py", False),
    ],
)  # fmt: skip
def test_names(path: str, secret: bool) -> None:
    assert bool(find_secret_name(path)) is secret


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[global]\nindex-url = https://user:" + "hunter2@pypi.corp.example/simple\n", True),
        ("index-url = https://pypi.corp.example/simple\n", False),
        ("index-url = https://user:${PASSWORD}@pypi.corp.example/simple\n", False),
        ("//registry.corp.example/:_authToken=" + "abcdef\n", True),
        ("_authToken=${NPM_TOKEN}\n", False),
        ("machine pypi.corp.example login me " + "password x\n", True),
        ("[install]\nno-cache-dir = true\n", False),
    ],
)
def test_settings(text: str, found: bool) -> None:
    assert bool(find_setting(text.encode())) is found


def test_which_files_are_settings_and_texts() -> None:
    assert is_settings("/etc/pip.conf")
    assert is_settings("/opt/.npmrc")
    assert not is_settings("/opt/pip.conf.py")
    assert is_text(b"import os\n")
    assert not is_text(b"\x7fELF\x02\x01\x01\0")


@given(st.binary(max_size=2000))
def test_any_bytes_are_looked_through(data: bytes) -> None:
    assert set(find_secrets(data)) <= set(LEAKS)
    assert isinstance(find_setting(data), str)
