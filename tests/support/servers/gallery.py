"""An Open VSX gallery on loopback that answers as the real one does, and breaks as a test tells it to."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

from imagebuild.addons.vscode.versions import parse_version
from tests.support.servers.threads import serve_gets

RELEASED = "2024-05-01T10:00:00.123456Z"


class FakeGallery:
    """Builds by (publisher.name, version, platform). The switches break it in one way each."""

    def __init__(self) -> None:
        self.builds: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.requests: list[str] = []
        self.hashes = True  # whether it gives any
        self.lies: dict[str, bytes] = {}  # publisher.name -> what is served instead of the file that was hashed
        self.moved: dict[str, str] = {}  # path -> the address it redirects to
        self.elsewhere = ""  # another gallery's address that files lie at
        self.address = ""

    def add(
        self, name: str, version: str, data: bytes, *, platform: str = "universal", engine: str = "", released: str = RELEASED,
        pre_release: bool = False,
    ) -> None:  # fmt: skip
        """Publish one build."""
        facts = {"data": data, "engine": engine, "released": released, "pre_release": pre_release}
        self.builds[name, version, platform] = facts

    def remove(self, name: str) -> None:
        """Withdraw an extension."""
        self.builds = {key: facts for key, facts in self.builds.items() if key[0] != name}

    @contextlib.contextmanager
    def serve(self) -> Iterator[str]:
        """Run it; its address."""
        with serve_gets(lambda handler: self.answer(handler)) as host:
            self.address = f"http://{host}/"
            yield self.address

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One GET."""
        status, headers, body = self._find(handler.path)
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _find(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        self.requests.append(path)
        if path in self.moved:
            return 302, {"Location": self.moved[path]}, b""
        first, *parts = path.strip("/").split("/")
        if first == "api":
            return self._describe(parts)
        if first == "files":
            name, version, platform, file = parts
            facts = self.builds.get((name, version, platform))
            if facts is None:
                return 404, {}, b""
            if file.endswith(".sha256"):
                return 200, {"Content-Type": "text/plain"}, hashlib.sha256(facts["data"]).hexdigest().encode()
            return 200, {"Content-Type": "application/zip"}, self.lies.get(name, facts["data"])
        return 404, {}, b""

    def _describe(self, parts: list[str]) -> tuple[int, dict[str, str], bytes]:
        name, rest = ".".join(parts[:2]).lower(), parts[2:]
        own = [key for key in self.builds if key[0] == name]
        platform = rest[0] if rest else ""
        fitting = [key for key in own if not platform or key[2] == platform]
        wanted = rest[1] if len(rest) > 1 else ""
        chosen = [key for key in fitting if not wanted or key[1] == wanted]
        if not chosen:
            return 404, {"Content-Type": "application/json"}, b'{"error":"Extension not found"}'
        key = max(chosen, key=lambda item: parse_version(item[1]) or ())
        facts, place = self.builds[key], f"{self.elsewhere or self.address}files/{'/'.join(key)}/{name}-{key[1]}"
        files = {"download": f"{place}.vsix", **({"sha256": f"{place.replace(self.elsewhere or self.address, self.address)}.sha256"}
                                                if self.hashes else {})}  # fmt: skip
        document = {
            "namespace": parts[0], "name": parts[1], "version": key[1], "targetPlatform": key[2], "files": files,
            "timestamp": facts["released"], "preRelease": facts["pre_release"], "engines": {"vscode": facts["engine"] or "^1.75.0"},
            "allVersions": {"latest": self.address, **{item[1]: self.address for item in fitting}},
            "downloads": {item[2]: self.address for item in own if item[1] == key[1]},
        }  # fmt: skip
        return 200, {"Content-Type": "application/json"}, json.dumps(document).encode()
