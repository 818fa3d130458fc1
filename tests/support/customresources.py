"""A custom resource against its definition's schema, as the API server checks it: JSON schema, lists that are maps, and rules in CEL."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any

jsonschema: Any = importlib.import_module("jsonschema")
cel: Any = importlib.import_module("cel")

compile_rule = functools.cache(cel.compile)


def check_object(schema: dict[str, Any], value: Any, before: Any = None) -> None:
    """``before``: what it replaces; without it rules about ``oldSelf`` do not count. ValidationError, or AssertionError with the rules."""
    jsonschema.Draft202012Validator(schema).validate(value)
    problems = list(find_problems(schema, value, before, ""))
    assert not problems, problems


def find_problems(schema: dict[str, Any], value: Any, before: Any, path: str) -> Iterator[str]:
    """Of a value that its JSON schema takes: the rules it breaks, with their paths."""
    for rule in schema.get("x-kubernetes-validations", []):
        if ("oldSelf" not in rule["rule"] or before is not None) and not _holds(rule["rule"], value, before):
            yield f"{path}: {rule.get('message', rule['rule'])}"
    if isinstance(value, dict):
        old = before if isinstance(before, dict) else {}
        for key, item in value.items():
            inner = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
            if isinstance(inner, dict):
                yield from find_problems(inner, item, old.get(key), f"{path}.{key}")
    elif isinstance(value, list):
        yield from _find_list_problems(schema, value, before, path)


def _find_list_problems(schema: dict[str, Any], value: list[Any], before: Any, path: str) -> Iterator[str]:
    keys = schema.get("x-kubernetes-list-map-keys", []) if schema.get("x-kubernetes-list-type") == "map" else []
    names = [tuple(item.get(key) for key in keys) if keys else () for item in value]
    if keys and len(set(names)) < len(names):
        yield f"{path}: two items with one {', '.join(keys)}"
    # Items of a map are the same item when their keys are; those of other lists have no one before them.
    old = {tuple(item.get(key) for key in keys): item for item in before or []} if keys else {}
    for name, item in zip(names, value, strict=True):
        if "items" in schema:
            yield from find_problems(schema["items"], item, old.get(name), f"{path}[{', '.join(map(str, name))}]")


def _holds(rule: str, value: Any, before: Any) -> bool:
    return compile_rule(rule).execute({"self": value, "oldSelf": before}) is True
