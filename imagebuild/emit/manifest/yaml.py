"""YAML that reads the same to a YAML 1.1 parser (Kubernetes, PyYAML) and to a 1.2 one, with comments that say why."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import msgspec

# Plain only where no version of YAML could take it for something else than this string; quoted otherwise.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9._/-]*")
_WORDS = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})
# What any YAML version ends a line at, and what is not printable: neither may leave a comment (yaml 1.1, 4.1 and 4.2).
_BREAKS = re.compile(r"[^\x20-\x7e\xa0-\ud7ff\ue000-\ufdcf\ufdf0-\ufefe\uff00-\uffef]|[\u2028\u2029]")


class Note(msgspec.Struct, frozen=True):
    """A mapping's value with the comment lines that stand above its key (not for the first key of a list's item)."""

    comment: tuple[str, ...]
    value: Any


class Document(msgspec.Struct, frozen=True):
    """A mapping with the comment lines above it. Values: str, int, bool, None, lists, mappings, :class:`Note`."""

    comment: tuple[str, ...]
    value: dict[str, Any]


def render_documents(documents: Sequence[Document]) -> str:
    """The documents in one stream, ``---`` between them, keys in the order given, a line feed at the end."""
    from ruamel.yaml import YAML

    writer = YAML(pure=True)
    writer.default_flow_style = False
    writer.width = 1 << 20  # a reference broken over two lines is read back with a space in it
    parts = []
    for document in documents:
        stream = io.StringIO()
        writer.dump(convert_value(document.value, 0), stream)
        parts.append("".join(f"# {clean_comment(line)}".rstrip() + "\n" for line in document.comment) + stream.getvalue())
    return "---\n".join(parts)


def clean_comment(line: str) -> str:
    """Whatever text a comment line quotes, it stays one line and a comment."""
    return _BREAKS.sub(" ", line).rstrip()


def convert_value(value: Any, indent: int = 0) -> Any:
    """The same value as ruamel's round-trip types, which carry quotes and comments."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else DoubleQuotedScalarString(value)
    if isinstance(value, list | tuple):
        return CommentedSeq([convert_value(item, indent) for item in value])  # the dash stands where the key does
    if not isinstance(value, dict):
        return value
    mapping = CommentedMap()
    for key, item in value.items():
        name = convert_value(key, indent)
        if isinstance(item, Note):
            mapping[name] = convert_value(item.value, indent + 2)
            mapping.yaml_set_comment_before_after_key(name, before="\n".join(clean_comment(line) for line in item.comment), indent=indent)
        else:
            mapping[name] = convert_value(item, indent + 2)
    return mapping
