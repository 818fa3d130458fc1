"""YAML documents of somebody else, changed in a few places: all other keys, their order, quotes and comments stay.

ruamel.yaml keeps a comment with the token before it, so the comment above the next section hangs on the last line of the value
before. Every change here moves that tail to the new last line.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from imagebuild.emit.manifest.yaml import convert_value
from imagebuild.errors import ConfigurationError

_DASH = re.compile(r"^( *)[^\s#-][^\n]*:[ ]*(?:#[^\n]*)?\n(?:[ ]*(?:#[^\n]*)?\n)*( *)- ", re.MULTILINE)


class EditedFile:
    """The documents of one file, as mappings that remember their comments."""

    def __init__(self, text: str, name: str) -> None:
        """ConfigurationError for what is no YAML, and for a document that is no mapping."""
        from ruamel.yaml import YAML

        self.name = name
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 20  # a reference broken over two lines is read back with a space in it
        indented = any(len(match[2]) > len(match[1]) for match in _DASH.finditer(text))
        self._yaml.indent(mapping=2, sequence=4 if indented else 2, offset=2 if indented else 0)
        start = re.match(r"((?:[ ]*(?:#[^\n]*)?\n)*)---", text)
        self._started = start is not None
        self._preamble = start[1] if start else ""  # ruamel drops comments above the first document's mark
        self.documents = self._load(text)
        lost = set(_list_comments(text)) - set(_list_comments(self.render()))
        if lost:  # ruamel.yaml has no place for some, as after a list in a list
            raise ConfigurationError(f"{name}: this comment would be lost: {min(lost)}", "move it above a key, or take it out")
        self.documents = self._load(text)  # writing them has left marks in them

    def _load(self, text: str) -> list[Any]:
        from ruamel.yaml.error import YAMLError

        try:
            loaded = [document for document in self._yaml.load_all(text[len(self._preamble) :]) if document is not None]
        except YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            where = f" line {mark.line + 1 + self._preamble.count(chr(10))}:" if mark is not None else ""
            problem = str(getattr(error, "problem", None) or "cannot be read").partition("\n")[0]
            raise ConfigurationError(
                f"{self.name}:{where} no YAML: {problem}", "merge into a file that kubectl or helm would take"
            ) from None
        if not loaded:
            hint = "leave --merge out for a new document; a shell's > FILE empties FILE first: --in-place"
            raise ConfigurationError(f"{self.name} is empty", hint)
        if not all(isinstance(document, dict) for document in loaded):
            raise ConfigurationError(f"{self.name} holds a document that is no mapping", "expected key: value lines")
        return loaded

    @classmethod
    def read(cls, path: Path) -> EditedFile:
        """ConfigurationError for a file that cannot be read."""
        from imagebuild.files import explain_os_error

        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path} is not UTF-8 text", "write it as UTF-8") from None
        except OSError as error:
            raise explain_os_error(error, f"reading {path}") from None

    def render(self) -> str:
        """The whole file."""
        stream = io.StringIO()
        self._yaml.explicit_start = self._started
        self._yaml.dump_all(self.documents, stream)
        return self._preamble + stream.getvalue()


def _list_comments(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.lstrip().startswith("#")]


def get_mapping(parent: Any, key: str, where: str) -> Any:
    """``parent[key]``, made where it is missing; ConfigurationError where something else stands there."""
    if parent.get(key) is None:
        set_value(parent, key, {})
    if not isinstance(parent[key], dict):
        raise ConfigurationError(f"{where}: {key} is no mapping", "merge into a document of that kind, or leave --merge out")
    return parent[key]


def get_list(parent: Any, key: str, where: str) -> Any:
    """The same for a list."""
    if parent.get(key) is None:
        set_value(parent, key, [])
    if not isinstance(parent[key], list):
        raise ConfigurationError(f"{where}: {key} is no list", "merge into a document of that kind, or leave --merge out")
    return parent[key]


def set_value(parent: Any, key: str, value: Any) -> None:
    """Set a mapping's key; a value that says the same already is left as it is written."""
    if key in parent:
        if strip_types(parent[key]) == strip_types(value):
            return
        tail = _take_tail(parent, key)
        parent[key] = convert_value(value)
        _put_tail(parent, key, tail)
        return
    last = next(reversed(parent), None)
    tail = "" if last is None else _take_tail(parent, last)
    parent[key] = convert_value(value)
    _open(parent)
    _put_tail(parent, key, tail)


def drop_key(parent: Any, key: str) -> None:
    """Remove a mapping's key if it is there; the comment after it stays, after the key before (if it is not the first)."""
    if key not in parent:
        return
    tail = _take_tail(parent, key)
    keys = list(parent)
    before = keys[keys.index(key) - 1] if keys.index(key) else None
    del parent[key]
    if before is not None:
        _put_tail(parent, before, tail)


def append_items(parent: Any, key: str, items: Sequence[Any]) -> None:
    """Add items at the end of the list ``parent[key]``."""
    if items:
        tail = _take_tail(parent, key)
        parent[key].extend(convert_value(item) for item in items)
        _open(parent[key])
        _put_tail(parent, key, tail)


def insert_items(parent: Any, key: str, index: int, items: Sequence[Any]) -> None:
    """Add items before the one that stands at ``index`` in the list ``parent[key]``; at its end for its length."""
    if index >= len(parent[key]):
        append_items(parent, key, items)
        return
    for item in reversed(items):
        parent[key].insert(index, convert_value(item))


def keep_items(parent: Any, key: str, is_kept: Callable[[Any], bool]) -> None:
    """Remove the other items of the list ``parent[key]``; what comments hang on them goes with them."""
    held = parent[key]
    doomed = [index for index, item in enumerate(held) if not is_kept(item)]
    if doomed:
        tail = _take_tail(parent, key)
        for index in reversed(doomed):
            del held[index]
        if not held:
            held.fa.set_flow_style()
        _put_tail(parent, key, tail)


def merge_items(parent: Any, key: str, wanted: Sequence[Mapping[str, Any]], name: str) -> None:
    """Bring mappings into the list ``parent[key]`` by their key ``name``: same name, each key set in place; new ones at the end."""
    present = {item[name]: item for item in parent[key] if isinstance(item, dict) and name in item}
    for item in wanted:
        if item[name] in present:
            for part, value in item.items():
                set_value(present[item[name]], part, value)
    append_items(parent, key, [item for item in wanted if item[name] not in present])


def strip_types(value: Any) -> Any:
    """The value as plain Python, without ruamel's types and our notes."""
    from imagebuild.emit.manifest.yaml import Note

    if isinstance(value, Note):
        return strip_types(value.value)
    if isinstance(value, dict):
        return {str(key): strip_types(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strip_types(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return str(value) if isinstance(value, str) else int(value) if isinstance(value, int) else value


def _open(node: Any) -> None:
    """A collection that was written ``[]`` or ``{}`` takes the block form, now that something is in it."""
    if node.fa.flow_style():
        node.fa.set_block_style()


def _is_open(node: Any) -> bool:
    return isinstance(node, dict | list) and bool(node) and hasattr(node, "fa") and not node.fa.flow_style()


def _find_end(node: Any, key: Any) -> tuple[Any, Any]:
    """The container and key of the last line of ``node[key]``."""
    while _is_open(node[key]):
        node = node[key]
        key = len(node) - 1 if isinstance(node, list) else next(reversed(node))
    return node, key


def _take_tail(parent: Any, key: Any) -> str:
    """Cut off the comment lines after the last line of ``parent[key]`` (not what stands on that line)."""
    node, last = _find_end(parent, key)
    place = 0 if isinstance(node, list) else 2
    slot: list[Any] = node.ca.items.get(last) or []
    tail = ""
    if len(slot) > place and slot[place] is not None:
        text = str(slot[place].value)
        if _is_block(node[last]):  # its comment has nothing of its line
            slot[place], tail = None, _indent(slot[place])
        else:
            first, _, tail = text.partition("\n")
            if first.strip():
                slot[place].value = first + "\n"
            else:
                slot[place] = None
    return tail + _take_ends(parent, key)


def _take_ends(parent: Any, key: Any) -> str:
    """After an empty collection a comment hangs on the end of one of those around it: the innermost comes first."""
    ends = ""
    held = parent[key]
    while _is_open(held):
        ends = "".join(map(_indent, held.ca.end)) + ends
        del held.ca.end[:]
        held = held[-1] if isinstance(held, list) else held[next(reversed(held))]
    return ends


def _is_block(value: Any) -> bool:
    from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

    return isinstance(value, FoldedScalarString | LiteralScalarString)


def _indent(token: Any) -> str:
    return " " * int(token.start_mark.column) + str(token.value).lstrip(" ")


def _put_tail(parent: Any, key: Any, tail: str) -> None:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    if not tail:
        return
    node, last = _find_end(parent, key)
    if isinstance(node[last], dict | list):  # [] and {} end their line: what follows hangs on the next key, or on the end of it all
        lines = [
            CommentToken(line.lstrip(), CommentMark(len(line) - len(line.lstrip(" "))), None) for line in tail.splitlines(keepends=True)
        ]
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if last == keys[-1]:
            node.ca.end = [*lines, *node.ca.end]
            node.ca.comment = node.ca.comment or [None, None]  # without one the end is not written
        else:
            after = _open_slot(node, keys[keys.index(last) + 1])
            after[1] = [*lines, *(after[1] or [])]
        return
    slot, place = _open_slot(node, last), 0 if isinstance(node, list) else 2
    if slot[place] is None:
        slot[place] = CommentToken("\n" + tail, CommentMark(0), None)
    else:
        slot[place].value += tail


def _open_slot(node: Any, key: Any) -> list[Any]:
    slot: list[Any] = node.ca.items.setdefault(key, [None, None, None, None])
    slot += [None] * (4 - len(slot))
    return slot
