"""VS Code extensions made for tests, as @vscode/vsce packages them, and the tree of a base with code-server."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support import images

CODE_SERVER = "usr/lib/code-server"
EXTENSIONS = f"/{CODE_SERVER}/lib/vscode/extensions"
_MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
<Metadata><Identity Language="en-US" Id="{name}" Version="{version}" Publisher="{publisher}"{platform}/></Metadata></PackageManifest>
"""
NOTHING: Mapping[str, bytes] = {}


def make_vsix(
    name: str,
    version: str,
    *,
    engine: str = "^1.75.0",
    platform: str = "",
    dependencies: Sequence[str] = (),
    pack: Sequence[str] = (),
    files: Mapping[str, bytes] = NOTHING,
    programs: Sequence[str] = (),
    licence: str = "MIT",
) -> bytes:
    """The bytes of a .vsix: ``name`` is publisher.name; ``programs`` are those of ``files`` that may be executed."""
    publisher, _, short = name.partition(".")
    package = {
        "publisher": publisher,
        "name": short,
        "version": version,
        "license": licence,
        "engines": {"vscode": engine},
        "main": "./extension.js",
        "activationEvents": ["onStartupFinished"],
        "extensionDependencies": list(dependencies),
        "extensionPack": list(pack),
    }
    target = f' TargetPlatform="{platform}"' if platform else ""
    content = {
        "extension.vsixmanifest": _MANIFEST.format(name=short, version=version, publisher=publisher, platform=target).encode(),
        "[Content_Types].xml": b'<?xml version="1.0" encoding="utf-8"?><Types/>',
        "extension/package.json": json.dumps(package).encode(),
        "extension/extension.js": b"exports.activate = () => {};\n",
        **{f"extension/{path}": data for path, data in files.items()},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            info = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100755 if path.removeprefix("extension/") in programs else 0o100644) << 16
            archive.writestr(info, data)
    return buffer.getvalue()


def write_vsix(folder: Path, name: str, version: str, *, filename: str = "", platform: str = "", engine: str = "^1.75.0") -> Path:
    """A .vsix as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / (filename or f"{name}-{version}.vsix")
    path.write_bytes(make_vsix(name, version, platform=platform, engine=engine))
    return path


def list_code_server(
    version: str = "1.100.3", server: str = "4.100.3", extensions: Sequence[tuple[str, str, str]] = ()
) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The entries of a code-server as its .deb has it. ``extensions``: folder, publisher.name and version of further ones."""
    root = f"{CODE_SERVER}/lib/vscode"
    found = [
        images.entry(f"{CODE_SERVER}/package.json", json.dumps({"name": "code-server", "version": server}).encode()),
        images.entry(f"{root}/product.json", json.dumps({"version": version, "codeServerVersion": server}).encode()),
        images.entry(f"{root}/package.json", json.dumps({"name": "code-server", "version": version}).encode()),
    ]
    for folder, name, number in (("", "vscode.git", "1.0.0"), *extensions):
        publisher, _, short = name.partition(".")
        package = {"publisher": publisher, "name": short, "version": number, "engines": {"vscode": "*"}}
        place = f"{folder.strip('/')}/{name}-{number}" if folder else f"{root}/extensions/{short}"
        found.append(images.entry(f"{place}/package.json", json.dumps(package).encode()))
    return found
