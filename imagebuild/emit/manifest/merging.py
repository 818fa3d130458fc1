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

from imagebuild.decoding import YAML_LIMIT, check_yaml
from imagebuild.emit.manifest.yaml import convert_value
from imagebuild.errors import ConfigurationError

_DASH = re.compile(r"^( *)[^\s#-][^\n]*:[ ]*(?:#[^\n]*)?\n(?:[ ]*(?:#[^\n]*)?\n)*( *)- ", re.MULTILINE)


class EditedFile:
    """The documents of one file, as mappings that remember their comments."""

    def __init__(self, text: str, name: str) -> None:
        """ConfigurationError for what is not YAML, and for a document that is not a mapping. A byte-order mark and CRLF stay."""
        from ruamel.yaml import YAML

        self.name = name
        try:
            check_yaml(text)
        except ValueError as error:
            raise ConfigurationError(f"{name} cannot be read: {error}", "merge into a file that people write") from None
        self._mark = "\ufeff" if text.startswith("\ufeff") else ""
        self._line_end = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"  # of a mixed file what most lines have
        text = text.removeprefix("\ufeff").replace("\r\n", "\n")
        self._yaml = YAML()
        self._yaml.preserve_quotes = True
        self._yaml.width = 1 << 20  # a reference broken over two lines is read back with a space in it
        indented = any(len(match[2]) > len(match[1]) for match in _DASH.finditer(text))
        self._yaml.indent(mapping=2, sequence=4 if indented else 2, offset=2 if indented else 0)
        start = re.match(r"((?:[ ]*(?:#[^\n]*)?\n)*)---", text)
        self._started = start is not None
        self._preamble = start[1] if start else ""  # ruamel drops comments above the first document's mark
        self.documents = self._load(text)
        lost = set(_list_comments(text)) - set(_list_comments(self._render_plain()))
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
                f"{self.name}:{where} not YAML: {problem}", "merge into a file that kubectl or helm would take"
            ) from None
        if not loaded:
            hint = "leave --merge out for a new document; a shell's > FILE empties FILE first: --in-place"
            raise ConfigurationError(f"{self.name} is empty", hint)
        if not all(isinstance(document, dict) for document in loaded):
            raise ConfigurationError(f"{self.name} holds a document that is not a mapping", "expected key: value lines")
        for document in loaded:
            _sink_ends(document)
        return loaded

    @classmethod
    def read(cls, path: Path) -> EditedFile:
        """ConfigurationError for a file that cannot be read."""
        from imagebuild.files import explain_os_error, read_regular

        try:
            return cls(read_regular(path, 4 * YAML_LIMIT).decode("utf-8"), str(path))
        except UnicodeDecodeError:
            raise ConfigurationError(f"{path} is not UTF-8 text", "write it as UTF-8") from None
        except OSError as error:
            raise explain_os_error(error, f"reading {path}") from None

    def render(self) -> str:
        """The whole file, with the line ends and the byte-order mark that it came with."""
        return self._mark + self._render_plain().replace("\n", self._line_end)

    def _render_plain(self) -> str:
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
        raise ConfigurationError(f"{where}: {key} is not a mapping", "merge into a document of that kind, or leave --merge out")
    return parent[key]


def get_list(parent: Any, key: str, where: str) -> Any:
    """The same for a list."""
    if parent.get(key) is None:
        set_value(parent, key, [])
    if not isinstance(parent[key], list):
        raise ConfigurationError(f"{where}: {key} is not a list", "merge into a document of that kind, or leave --merge out")
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
    tail = ""
    if last is not None:
        inner, tail = _split_tail(_take_tail(parent, last), parent.lc.col)
        _put_tail(parent, last, inner)
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


def rewrite_comment(parent: Any, key: str, rewrite: Callable[[str], str]) -> None:
    """Change the comment lines above a mapping's key, which is not its first."""
    keys = list(parent)
    before = keys[keys.index(key) - 1]
    _put_tail(parent, before, rewrite(_take_tail(parent, before)))


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
    """Remove the other items of the list ``parent[key]``; comments above them stay, those on their lines go with them."""
    held = parent[key]
    kept = [number for number, item in enumerate(held) if is_kept(item)]
    if len(kept) < len(held):
        arrange_items(parent, key, [(held[number], number) for number in kept])


def arrange_items(parent: Any, key: str, plan: Sequence[tuple[Any, int | None]]) -> None:
    """Write the list ``parent[key]`` anew: pairs of an item and the place whose comments it takes (None for none), places ascending.

    The comments above an item and on its line go with it, also when it takes another's place; those above an item that goes stay
    above the next one. What stands above the first item stays at the top.
    """
    held = parent[key]
    end = _take_tail(parent, key)
    head = _take_head(parent, key)
    above = [""] + [_take_tail(held, number) for number in range(len(held) - 1)]
    slots, items = dict(held.ca.items), list(held)
    held.ca.items.clear()
    while held:
        held.pop()
    held.extend(item if place is not None and item is items[place] else convert_value(item) for item, place in plan)
    before = []  # of each item that is there now: the comment lines above it
    done = 0
    for number, (_, place) in enumerate(plan):
        before.append("")
        if place is not None:
            before[-1] = "".join(above[done : place + 1])
            done = place + 1
            if place in slots:
                held.ca.items[number] = slots[place]
    end = "".join(above[done:]) + end
    if not held:
        held.fa.set_flow_style()
        _put_tail(parent, key, head + end)
        return
    _open(held)
    _put_head(parent, key, head + before[0])
    for number, text in enumerate([*before[1:], end]):
        _put_tail(held, number, text)


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


def _split_tail(tail: str, column: int | None) -> tuple[str, str]:
    """The comment lines that stand deeper than the keys at ``column``, which belong to the value before them; and the others."""
    lines = tail.splitlines(keepends=True)
    deep = 0
    for number, line in enumerate(lines if column is not None else [], 1):
        if line.strip():
            if len(line) - len(line.lstrip(" ")) <= (column or 0):
                break
            deep = number
    return "".join(lines[:deep]), "".join(lines[deep:])


def _take_head(parent: Any, key: Any) -> str:
    """Cut off the comment lines between a list's key and its first item."""
    slot: list[Any] = parent.ca.items.get(key) or []
    held = parent[key]
    tokens = (slot[3] if len(slot) > 3 else None) or []
    if len(slot) > 3:
        slot[3] = None
    if held.ca.comment:
        held.ca.comment[1] = None
    return "".join(map(_indent, tokens))


def _put_head(parent: Any, key: Any, head: str) -> None:
    if not head:
        return
    tokens = _make_tokens(head)
    _open_slot(parent, key)[3] = tokens
    parent[key].ca.comment = [parent[key].ca.comment[0] if parent[key].ca.comment else None, tokens]


def _make_tokens(lines: str) -> list[Any]:
    from ruamel.yaml.error import CommentMark
    from ruamel.yaml.tokens import CommentToken

    parts = [(line.lstrip(" "), line) for line in lines.splitlines(keepends=True)]
    return [CommentToken(bare, CommentMark(len(line) - len(bare)), None) for bare, line in parts]


def _take_ends(parent: Any, key: Any) -> str:
    """After an empty collection a comment hangs on the end of one of those around it: the innermost comes first."""
    ends = ""
    held = parent[key]
    while _is_open(held):
        ends = "".join(map(_indent, held.ca.end)) + ends
        del held.ca.end[:]
        held = held[-1] if isinstance(held, list) else held[next(reversed(held))]
    return ends


def _sink_ends(node: Any) -> None:
    """After an empty collection ruamel.yaml hangs all comments on the end of the document: bring each into what it is written in."""
    while node and node.ca.end:
        child = node[len(node) - 1 if isinstance(node, list) else next(reversed(node))]
        if not _is_open(child):
            return
        tokens, column = node.ca.end, int(child.lc.col)
        deep = next((number for number, token in enumerate(tokens) if int(token.start_mark.column) < column), len(tokens))
        if not deep:
            return
        child.ca.end = tokens[:deep]
        child.ca.comment = child.ca.comment or [None, None]  # without one the end is not written
        node.ca.end = tokens[deep:]
        node = child


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
        lines = _make_tokens(tail)
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
