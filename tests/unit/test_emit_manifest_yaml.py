"""What is written reads back the same under YAML 1.1 (PyYAML, as Kubernetes does) and 1.2 (ruamel)."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from imagebuild.emit.manifest.yaml import Document, Note, render_documents

yaml11: Any = importlib.import_module("yaml")

# YAML has no lone surrogates; JSON-like values are all that the emitters write.
TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    ["", "yes", "On", "NO", "y", "null", "~", "1e3", "0x1f", "1_000", "12:30:45", "10%", ".5", ".inf", "=", "<<", "-", "? a", "a: b"]
)
VALUES = st.recursive(
    TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.lists(TEXT, max_size=2), st.dictionaries(TEXT, VALUES, min_size=1, max_size=3)), min_size=1, max_size=3))
def test_any_value_survives_both_versions(documents: list[tuple[list[str], dict[str, Any]]]) -> None:
    text = render_documents([Document(tuple(comment), value) for comment, value in documents])
    expected = [value for _, value in documents]
    assert list(yaml11.safe_load_all(text)) == expected
    assert list(YAML(typ="safe", pure=True).load_all(text)) == expected


@pytest.mark.slow
@given(st.lists(TEXT, min_size=1, max_size=3), TEXT)
def test_a_comment_never_becomes_content(comment: list[str], inner: str) -> None:
    value = {"a": Note(tuple(comment), {"b": Note((inner,), ["x", {"c": "d", "e": Note((inner, inner), "f")}])}), "g": Note((inner,), 1)}
    text = render_documents([Document((inner,), value)])
    assert list(yaml11.safe_load_all(text)) == [{"a": {"b": ["x", {"c": "d", "e": "f"}]}, "g": 1}]


def test_comments_stand_above_their_key_at_its_depth() -> None:
    inner = {"name": "x", "image": Note(("why the image",), "z")}
    document = Document(("what this is",), {"spec": {"items": Note(("why", "these"), [inner])}})
    assert render_documents([document, Document((), {"a": "10%"})]) == (
        '# what this is\nspec:\n  # why\n  # these\n  items:\n  - name: x\n    # why the image\n    image: z\n---\na: "10%"\n'
    )
