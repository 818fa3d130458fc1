"""References, challenges and scopes: text from people and servers."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imagebuild.errors import ConfigurationError, ImagebuildError
from imagebuild.oci.challenge import Challenge, merge_scopes, parse_challenges
from imagebuild.oci.content import check_name, parse_reference
from imagebuild.oci.model import Digest, Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

hosts = st.from_regex(
    r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?){1,3}(:[0-9]{1,5})?", fullmatch=True
) | st.sampled_from(["localhost", "localhost:5000", "[::1]:5000", "docker.io", "ghcr.io"])
parts = st.from_regex(r"[a-z0-9]{1,4}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
repositories = st.lists(parts, min_size=2, max_size=4).map("/".join)
tags = st.just("") | st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
digests = st.none() | st.binary(max_size=3).map(Digest.of)


@pytest.mark.slow
@given(hosts, repositories, tags, digests)
def test_a_reference_comes_back_from_its_text(host: str, repository: str, tag: str, digest: Digest | None) -> None:
    reference = Reference(host, repository, tag, digest)
    assert Reference.parse(str(reference)) == reference


@given(
    st.text()
    | st.text(alphabet="aA0.-_/:@[]", max_size=40)
    | st.builds("".join, st.lists(st.sampled_from(["a", "/", ":", "@", ".", DIGEST]), max_size=40)).map(lambda text: text[:400])
)
@example("a@" + DIGEST + "@" + DIGEST)
@example("a\n")
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ImagebuildError:
        return
    assert Reference.parse(str(reference)) == reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ubuntu", Reference("docker.io", "library/ubuntu")),
        ("ubuntu:22.04", Reference("docker.io", "library/ubuntu", "22.04")),
        ("docker.io/ubuntu", Reference("docker.io", "library/ubuntu")),
        ("index.docker.io/a/b", Reference("docker.io", "a/b")),
        ("a/b", Reference("docker.io", "a/b")),
        ("localhost/a", Reference("localhost", "a")),
        ("localhost:5000/a:t", Reference("localhost:5000", "a", "t")),
        ("[::1]:5000/a", Reference("[::1]:5000", "a")),
        (f"ghcr.io/a/b:t@{DIGEST}", Reference("ghcr.io", "a/b", "t", Digest(DIGEST))),
    ],
)
def test_references_as_docker_reads_them(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["a" * 60 + "!.x/b", "a." * 60 + "!/b", "a" + "-" * 60 + "!/b", "x.y/" + "a_" * 60, "x.y/" + "a-" * 60 + "!"]
)
def test_a_wrong_name_is_refused_at_once(text: str) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigurationError):
        Reference.parse(text)
    assert time.process_time() - begun < 0.5


@given(st.text(max_size=30))
def test_checked_names_are_safe_in_an_address(name: str) -> None:
    with contextlib.suppress(ImagebuildError):
        check_name(name)
        assert re.fullmatch(r"[a-z0-9._/-]+", name)
        assert not name.startswith("/")
        assert ".." not in name
    with contextlib.suppress(ImagebuildError):
        assert (parse_reference(name) is None) == (":" not in name)
        assert "/" not in name
        assert name


# --- WWW-Authenticate --------------------------------------------------------------------------------------------------

BEARER = Challenge("bearer", {"realm": "https://auth.example/token", "service": "r", "scope": "repository:a/b:pull,push"})


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", ()),
        (" , ,", ()),
        ("Basic", (Challenge("basic"),)),
        ('Basic realm="a, b=\\"c\\", Bearer"', (Challenge("basic", {"realm": 'a, b="c", Bearer'}),)),
        ('Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push"', (BEARER,)),
        ('bearer  Realm = "https://auth.example/token" , SERVICE=r,, scope="repository:a/b:pull,push" ,', (BEARER,)),
        ('Basic realm="x", Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push", Negotiate',
         (Challenge("basic", {"realm": "x"}), BEARER, Challenge("negotiate"))),
        ("Negotiate YWJj==, Basic realm=x", (Challenge("negotiate"), Challenge("basic", {"realm": "x"}))),
        ("Negotiate, NTLM", (Challenge("negotiate"), Challenge("ntlm"))),
        ('Bearer realm="unfinished', (Challenge("bearer"),)),
        ('Bearer realm="a",realm="b"', (Challenge("bearer", {"realm": "a"}),)),
        ('Bearer realm="",scope=""', (Challenge("bearer", {"realm": "", "scope": ""}),)),
    ],
)  # fmt: skip
def test_challenges(header: str, expected: tuple[Challenge, ...]) -> None:
    assert parse_challenges(header) == expected


@given(st.text() | st.text(alphabet='Ba ,="\\\t', max_size=60))
@example("a=" * 8000)
@example('Bearer realm="' + '\\"' * 8000)
@example("," * 20000)
def test_any_header_is_read(header: str) -> None:
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""


tokens = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)
quotable = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(tokens, st.dictionaries(tokens, quotable, min_size=1, max_size=4)), max_size=3))
def test_a_written_header_is_read_back(challenges: list[tuple[str, dict[str, str]]]) -> None:
    def quote(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    header = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quote(value)}" for name, value in values.items()) for scheme, values in challenges
    )
    assert parse_challenges(header) == tuple(Challenge(scheme, values) for scheme, values in challenges)


@pytest.mark.parametrize(
    ("wanted", "asked", "expected"),
    [
        (("repository:t:pull,push", "repository:s:pull"), "", ("repository:t:pull,push", "repository:s:pull")),
        (("repository:t:pull,push",), "repository:t:push,pull repository:s:pull", ("repository:t:pull,push", "repository:s:pull")),
        (("repository:a:pull",), "repository:library/a:pull", ("repository:a:pull", "repository:library/a:pull")),
        (("repository:a:pull",), "repository:a:push  odd", ("repository:a:pull,push", "odd")),
        (("registry:catalog:*",), "registry:catalog:*", ("registry:catalog:*",)),
    ],
)
def test_scopes_are_joined_and_keep_their_order(wanted: tuple[str, ...], asked: str, expected: tuple[str, ...]) -> None:
    assert merge_scopes(wanted, asked) == expected
