"""What a .vsix says of itself: ``extension/package.json`` and ``extension.vsixmanifest``."""

from __future__ import annotations

import re
import xml.parsers.expat
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.addons.unpacking import hash_files, open_archive, read_file
from imagebuild.decoding import make_decoder
from imagebuild.errors import BuildError, IntegrityError, make_printable

STRIP = "extension/"
UNIVERSAL = "universal"
_LIMIT = 4 << 20  # bytes of a manifest
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*\.[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,99}")


class _Package(msgspec.Struct, rename="camel"):
    publisher: str
    name: str
    version: str
    engines: dict[str, Any] = {}
    extension_dependencies: tuple[str, ...] = ()
    extension_pack: tuple[str, ...] = ()
    license: Any = ""


_PACKAGES = make_decoder(_Package)


class Extension(msgspec.Struct, frozen=True):
    """One .vsix."""

    name: str  # publisher.name in lower case
    version: str
    engine: str  # engines.vscode
    platform: str  # target platform; universal for all
    dependencies: tuple[str, ...]  # as written; without them it does not work
    pack: tuple[str, ...]  # as written; it brings them along
    licence: str
    installed: int  # bytes of its files
    tree: str  # see addons/unpacking.hash_tree


def is_extension_name(text: str) -> bool:
    """Whether a text may be the name of an extension, and so part of a URL and of a path."""
    return _NAME.fullmatch(text) is not None and len(text) <= 200


def is_extension_version(text: str) -> bool:
    """Whether a text may be the version of an extension, and so part of a URL and of a path."""
    return _VERSION.fullmatch(text) is not None


def read_vsix(path: Path, label: str) -> Extension:
    """Read one .vsix; BuildError for another kind of file, IntegrityError for a damaged one. Both name ``label``."""
    with open_archive(path, label, "") as files:
        package = _decode(read_file(files, STRIP + "package.json", _LIMIT), label)
        manifest = read_file(files, "extension.vsixmanifest", _LIMIT)
        platform = read_platform(manifest, label) if manifest is not None else UNIVERSAL
        own = [msgspec.structs.replace(file, path=file.path.removeprefix(STRIP)) for file in files if file.path.startswith(STRIP)]
        installed, tree = sum(file.size for file in own), hash_files(own)
    name = f"{package.publisher}.{package.name}"
    if not is_extension_name(name) or not is_extension_version(package.version):
        raise BuildError(f"{label}: not an extension's name and version: {name} {package.version}"[:300], "ask who made it")
    engine = package.engines.get("vscode")
    if not isinstance(engine, str):
        raise BuildError(f"{label}: its package.json does not say which VS Code it is for (engines.vscode)", "it is no VS Code extension")
    licence = package.license if isinstance(package.license, str) else ""
    return Extension(
        name.lower(),
        package.version,
        engine,
        platform,
        package.extension_dependencies,
        package.extension_pack,
        make_printable(licence[:200]),
        installed,
        tree,
    )


def _decode(data: bytes | None, label: str) -> _Package:
    if data is None:
        raise BuildError(f"{label} has no extension/package.json", "it is no VS Code extension")
    try:
        return _PACKAGES.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except msgspec.MsgspecError as error:
        raise BuildError(f"{label}: its package.json cannot be read: {error}", "ask who made it, or pin another version") from None


def read_platform(manifest: bytes, label: str) -> str:
    """``TargetPlatform`` of an extension.vsixmanifest. No entity of it is expanded and nothing it names is fetched."""
    found: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if name.rpartition(":")[2] == "Identity" and "TargetPlatform" in attributes:
            found.append(attributes["TargetPlatform"])

    def refuse(*_arguments: object) -> None:
        raise IntegrityError(f"{label}: its extension.vsixmanifest declares entities", "do not install it: it is malformed or hostile")

    parser = xml.parsers.expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(manifest, True)
    except xml.parsers.expat.ExpatError as error:
        raise BuildError(f"{label}: its extension.vsixmanifest is not XML: {error}", "ask who made it") from None
    return found[0] if found and found[0] else UNIVERSAL
