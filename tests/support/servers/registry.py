"""A real registry (Debian's docker-registry, distribution 2.8) on a loopback port, for as long as a test needs it."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import http.client
import json
import secrets
import ssl
import string
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tools import find_port, need


@dataclass(frozen=True)
class Registry:
    """Where it is and how to get in. ``host`` is what goes before the repository in a reference."""

    host: str
    port: int
    storage: Path
    log: Path
    ca_file: Path | None = None
    username: str = ""
    password: str = ""

    def write_docker_config(self, folder: Path) -> Path:
        """A ``config.json`` with this registry's login, as ``docker login`` writes it; returns its folder."""
        import base64

        folder.mkdir(parents=True, exist_ok=True)
        auth = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {self.host: {"auth": auth}}}))
        return folder


@dataclass(frozen=True)
class TokenService:
    """What the registry must know about a token service (distribution's auth/token specification)."""

    realm: str
    service: str
    issuer: str
    certificate: Path


@contextlib.contextmanager
def run_registry(
    folder: Path, *, login: bool = False, tls: bool = False, token_service: TokenService | None = None, delete: bool = True
) -> Iterator[Registry]:
    """Start docker-registry with its files in ``folder``; skips the test when the program is missing.

    ``login`` asks for a random user and password (htpasswd); ``tls`` serves HTTPS with a certificate of a new authority,
    whose PEM file is ``ca_file``.
    """
    binary = need("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    http_part: dict[str, object] = {"secret": secrets.token_hex(16)}
    config: dict[str, object] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}, "delete": {"enabled": delete}},
        "http": http_part,
    }
    username = password = ""
    ca_file = None
    if login:
        username, password = "tester", secrets.token_urlsafe(12)
        (folder / "htpasswd").write_text(f"{username}:{hash_bcrypt(password)}\n")
        config["auth"] = {"htpasswd": {"realm": 'a test, "quoted"', "path": str(folder / "htpasswd")}}
    if token_service is not None:
        config["auth"] = {
            "token": {
                "realm": token_service.realm,
                "service": token_service.service,
                "issuer": token_service.issuer,
                "rootcertbundle": str(token_service.certificate),
            }
        }
    if tls:
        ca_file, certificate, key = make_certificates(folder / "tls")
        http_part["tls"] = {"certificate": str(certificate), "key": str(key)}
    log = folder / "registry.log"
    for _ in range(3):  # another process may take the port between our looking and its listening
        port = find_port()
        http_part["addr"] = f"127.0.0.1:{port}"
        path = folder / "config.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        with log.open("ab") as output:
            process = subprocess.Popen(
                [binary, "serve", str(path)], stdout=output, stderr=output, env={"PATH": "/usr/bin:/bin", "OTEL_TRACES_EXPORTER": "none"}
            )
        try:
            if _wait_until_up(process, port, ca_file):
                yield Registry(f"localhost:{port}", port, folder / "storage", log, ca_file, username, password)
                return
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    raise RuntimeError(f"docker-registry did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A plain registry, shared by the tests of a session: use a repository of your own."""
    with run_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def hash_bcrypt(password: str) -> str:
    """An htpasswd entry's hash by the system's libcrypt; a skip where that has no bcrypt."""
    name = ctypes.util.find_library("crypt")
    if name is None:
        pytest.skip("missing part: libcrypt")
    crypt = ctypes.CDLL(name).crypt
    crypt.restype, crypt.argtypes = ctypes.c_char_p, [ctypes.c_char_p, ctypes.c_char_p]
    salt = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(21)) + "."
    found = crypt(password.encode(), f"$2y$05${salt}".encode())
    if not found or not found.startswith(b"$2y$"):
        pytest.skip("missing part: bcrypt in libcrypt")
    return str(found.decode())


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """An authority, and a certificate and key for localhost and 127.0.0.1 that it signed."""
    openssl = need("openssl")
    folder.mkdir(parents=True, exist_ok=True)
    new = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    authority, authority_key = folder / "ca.pem", folder / "ca.key"
    certificate, key = folder / "server.pem", folder / "server.key"
    _run(
        [
            *new,
            "-subj",
            "/CN=imagebuild test authority",
            "-keyout",
            str(authority_key),
            "-out",
            str(authority),
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ]
    )
    _run(
        [
            *new,
            "-subj",
            "/CN=localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
            "-CA",
            str(authority),
            "-CAkey",
            str(authority_key),
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]
    )
    return authority, certificate, key


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])}: {done.stderr}")


def _wait_until_up(process: subprocess.Popen[bytes], port: int, ca_file: Path | None) -> bool:
    context = ssl.create_default_context(cafile=ca_file) if ca_file else None
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        connection: http.client.HTTPConnection
        if context is not None:
            connection = http.client.HTTPSConnection("localhost", port, timeout=2, context=context)
        else:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/v2/")
            if connection.getresponse().getheader("Docker-Distribution-Api-Version"):
                return True
        except OSError:
            time.sleep(0.05)
        finally:
            connection.close()
    return False
