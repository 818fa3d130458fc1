"""What a wheel needs, and what of it a resolver may see."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

from imagebuild.lock.inputs.metadata import read_requires, strip_addresses


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("evil @ https://x.example/evil-1.0-py3-none-any.whl", "evil"),
        ("evil@git+https://x.example/evil", "evil"),
        ("Evil[a,b] @ https://x.example/e.whl ; python_version > '3'", 'Evil[a,b]; python_version > "3"'),
        ("evil\n  @ https://x.example/e.whl", "evil"),
        ("evil\r\n\t@\r\n https://x.example/e.whl", "evil"),
    ],
)
def test_an_address_becomes_a_name(line: str, expected: str) -> None:
    metadata = f"Metadata-Version: 2.1\nName: a\nrequires-dist: {line}\nRequires-Dist: b>=1\n\nText\n".encode()
    stripped = strip_addresses(metadata)
    assert b"://" not in stripped
    assert [str(item) for item in read_requires(stripped)] == [expected, "b>=1"]


def test_what_is_no_address_stays() -> None:
    metadata = b"Metadata-Version: 2.1\nName: a\nAuthor-email: a@b.example\nRequires-Dist: b>=1\n\nSee https://x.example\n"
    assert strip_addresses(metadata) == metadata


@given(st.text(alphabet="ab@:/ \t\r\n[];>=1.'", max_size=60))
def test_no_address_passes(text: str) -> None:
    metadata = strip_addresses(f"Name: x\nRequires-Dist: {text} @ https://h/x\nRequires-Dist: last\n".encode())
    for requirement in read_requires(metadata):
        assert requirement.url is None
        assert canonicalize_name(requirement.name)
