"""Index names, routing, and what of an address may be shown."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.errors import ConfigurationError
from imagebuild.lock.index.routing import (
    PackageIndex,
    UnroutedError,
    default_index,
    find_shared_claim,
    parse_pip_settings,
    route_name,
    validate_indexes,
)

PUBLIC = PackageIndex("default", "https://index.example/simple", default=True)
PRIVATE = PackageIndex("internal", "https://joe:p%40ss@pkgs.example/simple/", ("cosml-*", "Acme_*"))


def test_secrets_and_addresses_are_never_shown() -> None:
    index = PackageIndex("internal", "https://joe:hunter2@pkgs.example/simple", ("x",), username="joe", password="hunter2")
    for text in (repr(index), str(index), f"{index}", f"{(index,)}"):
        assert "hunter2" not in text
        assert "pkgs.example" not in text
        assert "joe" not in text


def test_credentials_are_split_from_the_address() -> None:
    assert PRIVATE.address == "https://pkgs.example/simple/"
    assert PRIVATE.credentials == ("joe", "p@ss")
    assert PUBLIC.credentials is None
    assert PUBLIC.address == "https://index.example/simple/"


@pytest.mark.parametrize(
    ("name", "index"), [("cosml-utils", "internal"), ("acme-x", "internal"), ("cosml", "default"), ("numpy", "default")]
)
def test_a_name_comes_from_one_index_only(name: str, index: str) -> None:
    assert route_name(name, (PUBLIC, PRIVATE)).name == index


def test_two_claims_on_a_name_are_refused() -> None:
    other = PackageIndex("other", "https://other.example/", ("cosml-utils",))
    with pytest.raises(ConfigurationError, match="cosml-utils is claimed by two package indexes: internal, other"):
        route_name("cosml-utils", (PUBLIC, PRIVATE, other))
    written = [msgspec.structs.replace(item, file=file) for item, file in ((PRIVATE, "images/indexes.toml"), (other, "images/a/team.toml"))]
    with pytest.raises(ConfigurationError) as caught:
        route_name("cosml-utils", written)
    assert caught.value.hint == "narrow the names of one of them in images/indexes.toml or images/a/team.toml"


def test_the_default_index_claims_names_as_any_other() -> None:
    """Before, ``names`` of the default index were ignored without a word."""
    public = PackageIndex("pub", "https://index.example/simple", ("cosml-core",), default=True)
    with pytest.raises(ConfigurationError, match=r"cosml-core is claimed by two package indexes: internal, pub"):
        route_name("cosml-core", (PRIVATE, public))
    with pytest.raises(ConfigurationError, match="cosml-core is claimed by two package indexes"):
        validate_indexes((PRIVATE, public))
    assert route_name("cosml-other", (PRIVATE, public)).name == "internal"
    assert route_name("numpy", (PRIVATE, public)).name == "pub"


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        (("cosml-*",), ("Cosml_*",), "cosml-*"),
        (("cosml-*",), ("cosml-core",), "cosml-core"),
        (("a", "b"), ("c", "b"), "b"),
        (("cosml-*",), ("*-utils",), ""),  # seen when a name matches both
        (("cosml",), ("cosml-*",), ""),
    ],
)
def test_what_two_indexes_both_claim(one: tuple[str, ...], other: tuple[str, ...], shared: str) -> None:
    first, second = PackageIndex("a", "https://a.example/", one), PackageIndex("b", "https://b.example/", other)
    assert find_shared_claim(first, second) == find_shared_claim(second, first) == shared


@pytest.mark.parametrize(
    ("url", "redirects", "allowed"),
    [
        ("https://pkgs.example/other/", (), True),
        ("https://PKGS.example:443/x/", (), True),
        ("https://pkgs.example./x/", (), True),
        ("https://joe:x@pkgs.example/x/", (), True),
        ("https://pkgs.example:8443/x/", (), False),
        ("http://pkgs.example/x/", (), False),
        ("http://pkgs.example/x/", ("pkgs.example",), False),  # named or not: never from https to http
        ("https://pkgs.example.evil.example/x/", (), False),
        ("https://pkgs.example@evil.example/x/", (), False),
        ("https://index.example/simple/x/", (), False),
        ("https://index.example/simple/x/", ("index.example",), True),
        ("https://index.example:8443/simple/x/", ("index.example",), False),
        ("https://index.example:8443/simple/x/", ("index.example:8443",), True),
        ("https://index.example:443/simple/x/", ("index.example:443",), True),
        ("file:///etc/passwd", (), False),
        ("ftp://pkgs.example/", ("pkgs.example",), False),
        ("https://[/", (), False),
        ("https:///x", (), False),
        ("//", (), False),
    ],
)
def test_where_a_page_may_redirect_to(url: str, redirects: tuple[str, ...], allowed: bool) -> None:
    assert msgspec.structs.replace(PRIVATE, redirects=redirects).may_redirect(url) is allowed


def test_without_a_default_some_names_have_no_index() -> None:
    validate_indexes((PRIVATE,))
    with pytest.raises(UnroutedError, match="no package index may serve numpy") as caught:
        route_name("numpy", (PRIVATE,))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "indexes",
    [
        (PUBLIC, PUBLIC),
        (PUBLIC, PackageIndex("b", "https://b.example/", default=True)),
        (PUBLIC, PackageIndex("url", "https://a.example/", ("x",))),
        (PUBLIC, PackageIndex("a", "https://a.example/")),
        (PUBLIC, PackageIndex("local", "https://a.example/", ("x",))),
        (PUBLIC, PackageIndex("a", "ftp://a.example/", ("x",))),
        (PUBLIC, PackageIndex("A b", "https://a.example/", ("x",))),
    ],
)
def test_unusable_sets_of_indexes_are_refused(indexes: tuple[PackageIndex, ...]) -> None:
    with pytest.raises(ConfigurationError):
        validate_indexes(indexes)


def test_pip_settings_merge_as_pip_does() -> None:
    text = "global.index-url='https://a.example'\n:env:.index-url='https://c.example'\ninstall.index-url='https://b.example'\nglobal.cert='/x'\nnonsense\n"
    assert parse_pip_settings(text) == {"index-url": "https://c.example", "cert": "/x"}
    assert parse_pip_settings("download.index-url='https://d.example'\n") == {}


@pytest.mark.slow
def test_the_default_index_is_pips_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple")
    assert default_index().address == "https://mirror.example/simple/"
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    from pip._internal.models.index import PyPI

    assert default_index().address == str(PyPI.simple_url) + "/"
