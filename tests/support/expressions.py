"""GitHub's expressions, ``${{ }}`` and ``if:``, as far as our workflows use them; whatever else they come to use is an error here.

https://docs.github.com/actions/reference/workflows-and-actions/expressions: texts are compared without regard to case, ``&&`` and
``||`` give one of their sides, and a condition without a status function counts only while nothing has failed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<text>'(?:[^']|'')*')|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)|(?P<sign>&&|\|\||==|!=|[!().,]))")
_PLACE = re.compile(r"\$\{\{(.*?)\}\}", re.DOTALL)
_STATUS = re.compile(r"\b(?:success|failure|always|cancelled)\s*\(")


class UnknownExpressionError(Exception):
    """Something that our workflows did not use when this was written, or a value that the test did not give."""


class _Parser:
    def __init__(self, text: str, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]]) -> None:
        self.text, self.contexts, self.functions = text, contexts, functions
        self.tokens: list[tuple[str, str]] = []
        place = 0
        while text[place:].strip():
            match = _TOKEN.match(text, place)
            if match is None:
                raise UnknownExpressionError(f"{text[place:]!r} in {text!r}")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            place = match.end()

    def take(self, *signs: str) -> str:
        """The next token if it is one of these signs."""
        if self.tokens and self.tokens[0][0] == "sign" and self.tokens[0][1] in signs:
            return self.tokens.pop(0)[1]
        return ""

    def parse(self) -> Any:
        found = self.either()
        if self.tokens:
            raise UnknownExpressionError(f"{self.tokens[0][1]!r} in {self.text!r}")
        return found

    def either(self) -> Any:
        found = self.both()
        while self.take("||"):
            other = self.both()
            found = found or other
        return found

    def both(self) -> Any:
        found = self.compared()
        while self.take("&&"):
            other = self.compared()
            found = found and other
        return found

    def compared(self) -> Any:
        found = self.single()
        sign = self.take("==", "!=")
        if not sign:
            return found
        one, other = (value.lower() if isinstance(value, str) else value for value in (found, self.single()))
        return (one == other) == (sign == "==")

    def single(self) -> Any:
        if self.take("!"):
            return not self.single()
        if self.take("("):
            found = self.either()
            if not self.take(")"):
                raise UnknownExpressionError(self.text)
            return found
        kind, word = self.tokens.pop(0) if self.tokens else ("", "")
        if kind == "text":
            return word[1:-1].replace("''", "'")
        if kind != "name":
            raise UnknownExpressionError(self.text)
        if self.take("("):
            return self.call(word)
        if word not in self.contexts:
            raise UnknownExpressionError(f"the context {word} in {self.text!r}")
        return self.walk(word, self.contexts[word])

    def call(self, name: str) -> Any:
        if name not in self.functions:
            raise UnknownExpressionError(f"the function {name} in {self.text!r}")
        values = []
        while not self.take(")"):
            values.append(self.either())
            self.take(",")
        return self.functions[name](*values)

    def walk(self, path: str, value: Any) -> Any:
        while self.take("."):
            key = self.tokens.pop(0)[1]
            path = f"{path}.{key}"
            if not isinstance(value, Mapping) or key not in value:
                raise UnknownExpressionError(f"{path} has no value in this test")
            value = value[key]
        return value


def evaluate(text: str, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] | None = None) -> Any:
    """The value of one expression."""
    return _Parser(text, contexts, {"fromJSON": json.loads, "format": str.format, **(functions or {})}).parse()


def substitute(text: str, contexts: Mapping[str, Any], functions: Mapping[str, Callable[..., Any]] | None = None) -> str:
    """``text`` with every ``${{ }}`` in its place as a text."""
    return _PLACE.sub(lambda match: str(evaluate(match[1], contexts, functions)), text)


def is_met(condition: str, contexts: Mapping[str, Any], results: list[str]) -> bool:
    """Whether an ``if:`` holds; ``results``: how what came before ended (success, failure, skipped). No run here is ever cancelled."""
    functions: dict[str, Callable[[], bool]] = {
        "success": lambda: all(result == "success" for result in results),
        "failure": lambda: "failure" in results,
        "always": lambda: True,
        "cancelled": lambda: False,
    }
    inner = _PLACE.fullmatch(condition.strip())
    text = inner[1] if inner else condition
    if not _STATUS.search(text) and not functions["success"]():
        return False
    return bool(evaluate(text, contexts, functions)) if text.strip() else True
