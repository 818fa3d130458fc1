"""GitHub's expressions, by the examples of its documentation."""

from __future__ import annotations

import pytest

from tests.support.expressions import UnknownExpressionError, evaluate, is_met, substitute

CONTEXTS = {
    "github": {"ref": "refs/heads/main", "event": {"before": ""}},
    "vars": {"HOST": "ghcr.io"},
    "needs": {"a": {"result": "failure"}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("github.ref == 'refs/heads/main'", True),
        ("github.ref == 'REFS/heads/MAIN'", True),
        ("vars.HOST != ''", True),
        ("!(vars.HOST == '') && 'it''s'", "it's"),
        ("github.event.before || 'none'", "none"),
        ("'a' == 'b' || 'c' == 'c' && vars.HOST", "ghcr.io"),
        ("format('{0} of {1}', vars.HOST, 'x')", "ghcr.io of x"),
        ("fromJSON('[\"blue\"]')", ["blue"]),
    ],
)
def test_values(text: str, expected: object) -> None:
    assert evaluate(text, CONTEXTS) == expected


@pytest.mark.parametrize(
    "text", ["github.sha", "secrets.TOKEN", "hashFiles('x')", "vars.HOST.x", "1 + 1", "'a' ==", "(vars.HOST", "vars.HOST x"]
)
def test_what_is_not_known_is_an_error(text: str) -> None:
    with pytest.raises(UnknownExpressionError):
        evaluate(text, CONTEXTS)


def test_a_text_with_expressions() -> None:
    assert substitute("at ${{ vars.HOST }}, ${{github.ref}}", CONTEXTS) == "at ghcr.io, refs/heads/main"
    with pytest.raises(UnknownExpressionError):
        substitute("${{ github.token }}", CONTEXTS)


def test_conditions_count_while_nothing_failed() -> None:
    assert is_met("", CONTEXTS, ["success"])
    assert not is_met("", CONTEXTS, ["success", "failure"])
    assert not is_met("vars.HOST != ''", CONTEXTS, ["failure"])
    assert not is_met("vars.HOST != ''", CONTEXTS, ["skipped"])
    assert is_met("!cancelled() && needs.a.result != 'skipped'", CONTEXTS, ["failure"])
    assert is_met("${{ failure() }}", CONTEXTS, ["failure"])
    assert not is_met("always() && vars.HOST == ''", CONTEXTS, [])
