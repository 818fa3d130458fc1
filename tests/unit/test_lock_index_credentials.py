"""Where an index's user and password come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.errors import ConfigurationError
from imagebuild.lock.index.credentials import find_credentials, is_reference
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.upstream import Upstream
from tests.support.servers.index import FakeIndex


def index(reference: str, url: str = "https://pypi.corp.example/simple/") -> PackageIndex:
    return PackageIndex("corp", url, ("x",), reference=reference)


def test_what_is_a_reference() -> None:
    for text in ("netrc", "env:A,B_2", "env:TOKEN", "keyring:ci-reader"):
        assert is_reference(text)
    for text in ("", "env:", "env:A,B,C", "env:1A", "joe:hunter2", "keyring:", "keyring:a b", "hunter2", "netrc "):
        assert not is_reference(text)


def test_environment_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORP_USER", "joe")
    monkeypatch.setenv("CORP_PASSWORD", "pä:ss")
    assert find_credentials(index("env:CORP_USER,CORP_PASSWORD")) == ("joe", "pä:ss")
    assert find_credentials(index("env:CORP_PASSWORD")) == ("__token__", "pä:ss")
    monkeypatch.delenv("CORP_PASSWORD")
    with pytest.raises(ConfigurationError, match="'corp' takes its credentials from the environment, and CORP_PASSWORD is not set"):
        find_credentials(index("env:CORP_USER,CORP_PASSWORD"))


def test_the_keyring_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="no keyring command on PATH"):
        find_credentials(index("keyring:joe"))
    program = tmp_path / "keyring"
    program.write_text('#!/bin/sh\n[ "$1 $2 $3" = "get pypi.corp.example joe" ] && echo s3cret\n')
    program.chmod(0o755)
    assert find_credentials(index("keyring:joe")) == ("joe", "s3cret")
    with pytest.raises(ConfigurationError, match="no password of user 'ann' for package index 'corp'"):
        find_credentials(index("keyring:ann"))


def test_they_are_asked_for_once_and_only_where_the_index_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeIndex()
    fake.add("thing", "1.0")
    fake.password = "x"
    monkeypatch.setenv("CORP_TOKEN", "t0ken")
    with fake.serve() as url, Upstream(index("env:CORP_TOKEN", url), tmp_path) as upstream:
        page = upstream.read_project("thing")
        monkeypatch.delenv("CORP_TOKEN")
        assert page is not None
        upstream.download(page.files[0], tmp_path / "thing.whl")
    assert set(fake.authorizations) == {"Basic X190b2tlbl9fOnQwa2Vu"}
