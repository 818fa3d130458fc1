"""What a base has of VS Code in the browser (code-server): its versions, where it looks for its own extensions, and which are there.

code-server is a folder with VS Code in ``lib/vscode``. VS Code finds built-in extensions in ``lib/vscode/extensions``; what the base has
installed elsewhere (``.../extensions/<publisher>.<name>-<version>``) is noted, too.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from imagebuild.base.model import Tree, VSCodeExtension, VSCodeFacts
from imagebuild.base.tree import SqliteTree
from imagebuild.decoding import make_decoder

TEXT_LIMIT = 4 << 20  # bytes of a package.json or product.json that is kept
_PRODUCT = "/lib/vscode/product.json"
_EXTENSION = re.compile(r"(.*/extensions)/[^/]+/package\.json")


class _Product(msgspec.Struct, rename="camel"):
    version: str = ""
    code_server_version: str = ""


class _Package(msgspec.Struct):
    name: str = ""
    version: str = ""
    publisher: str = ""
    engines: Any = None


_PRODUCTS, _PACKAGES = make_decoder(_Product), make_decoder(_Package)


def is_vscode_text(path: bytes) -> bool:
    """Whether the file is one that :func:`read_vscode` may read."""
    folder, _, name = path.rpartition(b"/")
    if name == b"product.json":
        return folder.endswith(b"/lib/vscode")
    if name != b"package.json":
        return False
    outer, _, inner = folder.rpartition(b"/")
    return folder.endswith(b"/lib/vscode") or b"code-server" in inner or outer.endswith(b"/extensions")


def read_vscode(tree: SqliteTree) -> VSCodeFacts | None:
    """The base's code-server, the first by its path where there are several; None where there is none."""
    texts = list(tree.texts())
    root = next((path.removesuffix(_PRODUCT) for path in texts if path.endswith(_PRODUCT)), None)
    if root is None:
        return None
    product = _decode(_PRODUCTS, tree, root + _PRODUCT) or _Product()
    server = _decode(_PACKAGES, tree, f"{root}/package.json")
    editor = _decode(_PACKAGES, tree, f"{root}/lib/vscode/package.json")
    folder = f"{root}/lib/vscode/extensions"
    return VSCodeFacts(
        server=product.code_server_version or (server.version if server is not None else ""),
        version=product.version or (editor.version if editor is not None else ""),
        folder=folder,
        extensions=tuple(sorted(_list_extensions(tree, texts, folder), key=msgspec.structs.astuple)),
    )


def _list_extensions(tree: SqliteTree, texts: list[str], builtin: str) -> Iterator[VSCodeExtension]:
    for path in texts:
        match = _EXTENSION.fullmatch(path)
        package = _decode(_PACKAGES, tree, path) if match else None
        # What has no publisher or asks for no VS Code is somebody else's package.json in a folder of that name.
        if match and package is not None and package.publisher and isinstance(package.engines, dict) and "vscode" in package.engines:
            name = f"{package.publisher}.{package.name}".lower()
            yield VSCodeExtension(name, package.version, posixpath.dirname(path), match[1] == builtin)


def _decode(decoder: Any, tree: Tree, path: str) -> Any:
    try:
        return decoder.decode(tree.read_text(path) or b"")
    except msgspec.MsgspecError:
        return None
