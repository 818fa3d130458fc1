"""The stores against a real docker-registry, read back with tools nobody here wrote: crane, skopeo, umoci."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from imagebuild.errors import RemoteError
from imagebuild.oci.copy import copy_blobs, plan_copy
from imagebuild.oci.credentials import Credentials
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    RawManifest,
)
from imagebuild.oci.registry import RegistryStore
from imagebuild.oci.store import Store
from tests.support.images import pack_files
from tests.support.servers.registry import Registry, TokenService, make_certificates, registry, run_registry
from tests.support.servers.scripted import Answer, Asked, Server, serve
from tests.support.tools import need

__all__ = ["registry"]  # a fixture

pytestmark = pytest.mark.integration


class Image:
    """A small image: two layers and a config, in either family of media types."""

    def __init__(self, note: str, family: str = "oci") -> None:
        tars = [pack_files({f"etc/{note}": b"first\n"}), pack_files({f"opt/{note}": os.urandom(3 << 20)})]
        kinds = [DOCKER_LAYER_GZIP] * 2 if family == "docker" else [OCI_LAYER_GZIP, OCI_LAYER_ZSTD if family == "zstd" else OCI_LAYER_GZIP]
        config = {
            "architecture": "amd64", "os": "linux", "config": {"User": "1000", "Env": ["A=b"]},
            "rootfs": {"type": "layers", "diff_ids": [Digest.of(tar) for tar in tars]},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": name} for name in ("first", "second")],
        }  # fmt: skip
        self.blobs: list[tuple[Descriptor, bytes]] = []
        for tar, kind in zip(tars, kinds, strict=True):
            self._add(zstandard.compress(tar) if kind == OCI_LAYER_ZSTD else gzip.compress(tar, mtime=0), kind)
        self._add(json.dumps(config).encode(), DOCKER_CONFIG if family == "docker" else OCI_CONFIG)
        media_type = DOCKER_MANIFEST if family == "docker" else OCI_MANIFEST
        document = {
            "schemaVersion": 2, "mediaType": media_type, "config": describe(self.blobs[-1][0]),
            "layers": [describe(blob) for blob, _ in self.blobs[:-1]],
        }  # fmt: skip
        self.manifest = RawManifest(json.dumps(document, indent=5).encode(), media_type)

    def _add(self, data: bytes, media_type: str) -> None:
        self.blobs.append((Descriptor(media_type, Digest.of(data), len(data)), data))

    @property
    def descriptors(self) -> list[Descriptor]:
        return [blob for blob, _ in self.blobs]

    def push(self, store: Store, repository: str, tag: str, folder: Path | None = None) -> None:
        """Layers from disk when there is a folder for them, else from memory."""
        for number, (blob, data) in enumerate(self.blobs):
            if folder is None:
                store.put_blob(repository, blob, data)
            else:
                (folder / str(number)).write_bytes(data)
                store.put_blob(repository, blob, folder / str(number))
        store.put_manifest(repository, self.manifest, tag)


def describe(blob: Descriptor) -> dict[str, object]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        check=False,
        timeout=60,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(environment or {})},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def check_with_crane(found: Registry, repository: str, image: Image, folder: Path) -> None:
    """crane sees the same bytes, and finds every layer whole."""
    crane = need("crane")
    environment = {"SSL_CERT_FILE": str(found.ca_file)} if found.ca_file else {}
    if found.username:
        environment["DOCKER_CONFIG"] = str(found.write_docker_config(folder / "crane"))
    name = f"{found.host}/{repository}:t"
    assert run(crane, "manifest", name, environment=environment).encode() == image.manifest.data
    assert run(crane, "digest", name, environment=environment).strip() == image.manifest.digest
    assert run(crane, "ls", f"{found.host}/{repository}", environment=environment).split() == ["t"]
    assert "PASS" in run(crane, "validate", "--remote", name, environment=environment)


def open_store(found: Registry, folder: Path) -> RegistryStore:
    credentials = Credentials.load(found.write_docker_config(folder / "docker")) if found.username else None
    return RegistryStore(found.host, credentials=credentials, ca_file=found.ca_file)


@pytest.fixture(scope="module", params=["plain", "htpasswd", "tls"])
def any_registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp(request.param)
    with run_registry(folder, login=request.param != "plain", tls=request.param == "tls") as found:
        yield found


@pytest.mark.parametrize("family", ["oci", "docker"])
def test_an_image_goes_there_and_back(any_registry: Registry, tmp_path: Path, family: str) -> None:
    image, repository = Image(family, family), f"team/{family}"
    store = open_store(any_registry, tmp_path)
    assert store.head_manifest(repository, "t") is None
    assert store.get_manifest(repository, "t") is None
    assert list(store.list_tags(repository)) == []
    assert store.has_blob(repository, image.descriptors[0].id) is False
    image.push(store, repository, "t", tmp_path)
    check_with_crane(any_registry, repository, image, tmp_path)

    fresh = open_store(any_registry, tmp_path)
    assert fresh.head_manifest(repository, "t") == image.manifest.descriptor
    assert fresh.get_manifest(repository, "t") == fresh.get_manifest(repository, image.manifest.digest) == image.manifest
    for blob, data in image.blobs:
        assert fresh.has_blob(repository, blob.id) is True
        assert fresh.read_blob(repository, blob) == data
    assert repository in list(fresh.list_repositories("team/"))


def test_what_crane_pushed_is_read(registry: Registry, tmp_path: Path) -> None:
    crane = need("crane")
    tar = tmp_path / "layer.tar"
    tar.write_bytes(pack_files({"a": b"b"}))
    run(crane, "append", "-f", tar, "-t", f"{registry.host}/crane/made:t", "--oci-empty-base")
    store = open_store(registry, tmp_path)
    manifest = store.get_manifest("crane/made", "t")
    assert manifest is not None
    assert manifest.digest == run(crane, "digest", f"{registry.host}/crane/made:t").strip()


def test_an_index_of_two_platforms(registry: Registry, tmp_path: Path) -> None:
    images = [Image("amd"), Image("arm")]
    store = open_store(registry, tmp_path)
    entries = []
    for image, architecture in zip(images, ("amd64", "arm64"), strict=True):
        image.push(store, "team/index", "")
        entries.append({**describe(image.manifest.descriptor), "platform": {"os": "linux", "architecture": architecture}})
    index = RawManifest(json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode(), OCI_INDEX)
    store.put_manifest("team/index", index, "t")
    assert store.get_manifest("team/index", "t") == index
    found = run(need("crane"), "digest", "--platform", "linux/arm64", f"{registry.host}/team/index:t").strip()
    assert found == images[1].manifest.digest


def test_mounts_upload_nothing(any_registry: Registry, tmp_path: Path) -> None:
    image, store = Image("base"), open_store(any_registry, tmp_path)
    image.push(store, "bases/one", "t")
    before = any_registry.log.read_text()
    plan = plan_copy(store, "bases/one", open_store(any_registry, tmp_path), "team/mounted", image.descriptors)
    assert plan.mountable == tuple(image.descriptors)
    copy_blobs(plan, allow_copy=False)
    store.put_manifest("team/mounted", image.manifest, "t")
    assert '"PUT /v2/team/mounted/blobs' not in any_registry.log.read_text()[len(before) :]
    check_with_crane(any_registry, "team/mounted", image, tmp_path)
    with pytest.raises(RemoteError, match="cannot be mounted"):
        copy_blobs(plan_copy(store, "bases/two", store, "team/other", [Descriptor("x", Digest.of(b"none"), 4)]), allow_copy=False)
    # The upload that the registry opened instead was cancelled.
    uploads = any_registry.storage / "docker/registry/v2/repositories/team/other/_uploads"
    assert uploads.is_dir()
    assert list(uploads.glob("*/data")) == []
    assert re.search(r'"DELETE /v2/team/other/blobs/uploads/[^"]*" 204 ', any_registry.log.read_text())


def test_many_repositories_over_many_pages(tmp_path: Path) -> None:
    """distribution 2.8 pages its catalogue; tags it gives all at once."""
    image = Image("tags")
    with run_registry(tmp_path / "registry") as found:
        store = RegistryStore(found.host, page_size=3)
        names = [f"many/r{number}" for number in range(10)]
        for name in names:
            image.push(store, name, "t")
        store.put_manifest("many/r0", image.manifest, "u")
        assert list(store.list_repositories()) == names
        assert list(store.list_repositories("many/r3")) == ["many/r3"]
        assert sorted(store.list_tags("many/r0")) == ["t", "u"]
        assert found.log.read_text().count('"GET /v2/_catalog?') == 8


def test_a_login_is_asked_for_and_refused(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", login=True) as found:
        anonymous = RegistryStore(found.host)
        with pytest.raises(RemoteError, match="HTTP 401"):
            anonymous.head_manifest("a/b", "t")
        with pytest.raises(RemoteError, match="HTTP 401: UNAUTHORIZED") as caught:
            anonymous.get_manifest("a/b", "t")
        assert caught.value.hint == f"run `docker login {found.host}`"
        wrong = Credentials({"auths": {found.host: {"username": "tester", "password": "guessed"}}})
        with pytest.raises(RemoteError, match="HTTP 401") as caught:
            RegistryStore(found.host, credentials=wrong).put_blob("a/b", Descriptor("x", Digest.of(b"x"), 1), b"x")
        assert "guessed" not in caught.value.message


def test_an_unknown_authority(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", tls=True) as found:
        naps: list[float] = []
        for insecure in (None, True, False):
            with pytest.raises(RemoteError, match="certificate is not trusted") as caught:
                RegistryStore(found.host, insecure=insecure, sleep=naps.append).get_manifest("a/b", "t")
            assert "PEM" in caught.value.hint
        assert naps == []
        assert RegistryStore(found.host, ca_file=found.ca_file).get_manifest("a/b", "t") is None


# --- a token service ---------------------------------------------------------------------------------------------------


class Tokens:
    """Signs what it is asked for (distribution's auth/token/jwt), with the key of ``folder``."""

    def __init__(self, folder: Path) -> None:
        _, self.certificate, self.key = make_certificates(folder)
        self.asked: list[Asked] = []
        self.refused: set[str] = set()

    def __call__(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        scopes = [value.rsplit(":", 2) for name, value in asked.query if name == "scope"]
        access = [
            {"type": "repository", "name": scope[0].partition(":")[2] or scope[1], "actions": scope[-1].split(",")} if len(scope) == 2
            else {"type": scope[0], "name": scope[1], "actions": [] if scope[1] in self.refused else scope[2].split(",")}
            for scope in scopes
        ]  # fmt: skip
        now = int(time.time())
        claims = {
            "iss": "tests",
            "sub": "",
            "aud": "the registry",
            "exp": now + 300,
            "nbf": now - 10,
            "iat": now,
            "jti": str(len(self.asked)),
            "access": access,
        }
        leaf = "".join(line for line in self.certificate.read_text().splitlines() if "CERTIFICATE" not in line)
        header = {"typ": "JWT", "alg": "ES256", "x5c": [leaf]}
        signed = ".".join(encode_part(json.dumps(part).encode()) for part in (header, claims))
        return Answer(200, {}, json.dumps({"token": f"{signed}.{encode_part(self._sign(signed))}", "expires_in": 300}).encode())

    def _sign(self, text: str) -> bytes:
        """ES256: openssl gives DER, a JWT has the two numbers side by side."""
        der = subprocess.run(
            [need("openssl"), "dgst", "-sha256", "-sign", str(self.key)], input=text.encode(), capture_output=True, check=True
        ).stdout
        length = der[3]
        first, second = der[4 : 4 + length], der[6 + length :]
        return b"".join(int.from_bytes(number, "big").to_bytes(32, "big") for number in (first, second))


def encode_part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@pytest.fixture
def token_registry(tmp_path: Path) -> Iterator[tuple[Registry, Tokens, Server]]:
    tokens = Tokens(tmp_path / "tokens")
    with serve(tokens) as server:
        service = TokenService(f"http://{server.host}/token", "the registry", "tests", tokens.certificate)
        with run_registry(tmp_path / "registry", token_service=service) as found:
            yield found, tokens, server


def test_tokens_of_a_real_registry(token_registry: tuple[Registry, Tokens, Server]) -> None:
    found, tokens, _ = token_registry
    store, image = RegistryStore(found.host), Image("token")
    image.push(store, "bases/one", "t")
    assert store.get_manifest("bases/one", "t") == image.manifest
    copy_blobs(plan_copy(store, "bases/one", store, "team/x", image.descriptors), allow_copy=False)
    store.put_manifest("team/x", image.manifest, "t")
    assert list(store.list_repositories()) == ["bases/one", "team/x"]
    mounts = [[value for name, value in asked.query if name == "scope"] for asked in tokens.asked]
    assert ["repository:team/x:pull,push", "repository:bases/one:pull"] in mounts
    # One token for each set of scopes, however many requests.
    assert len(mounts) == len({tuple(item) for item in mounts})


def test_a_source_that_may_not_be_read_is_not_mounted(token_registry: tuple[Registry, Tokens, Server]) -> None:
    found, tokens, _ = token_registry
    store, image = RegistryStore(found.host), Image("secret")
    image.push(store, "secret/base", "t")
    tokens.refused.add("secret/base")
    fresh = RegistryStore(found.host)
    assert fresh.mount_blob("team/x", image.descriptors[0].id, "secret/base").done is False
    with pytest.raises(RemoteError):
        fresh.has_blob("secret/base", image.descriptors[0].id)
    assert fresh.has_blob("team/x", image.descriptors[0].id) is False


# --- the layout folder -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["oci", "zstd"])
def test_skopeo_and_umoci_read_the_layout(tmp_path: Path, family: str) -> None:
    skopeo = need("skopeo")
    layout, image, other = LayoutStore(tmp_path / "layout"), Image("one", family), Image("two")
    image.push(layout, "team/one", "2026q4-0123456789ab", tmp_path)
    other.push(layout, "team/two", "t")
    name = f"{layout.image_name('team/one')}:2026q4-0123456789ab"
    assert run(skopeo, "inspect", "--raw", name).encode() == image.manifest.data
    assert json.loads(run(skopeo, "inspect", name))["Digest"] == image.manifest.digest
    run(skopeo, "copy", "--insecure-policy", name, f"dir:{tmp_path / 'copy'}")
    for blob, data in image.blobs:
        assert (tmp_path / "copy" / blob.id.hex).read_bytes() == data
    if family == "oci":
        run(need("umoci"), "stat", "--image", f"{layout.folder}:team/one:2026q4-0123456789ab")


def test_umoci_unpacks_the_layout(tmp_path: Path) -> None:
    umoci = need("umoci")
    layout, image = LayoutStore(tmp_path / "layout"), Image("one")
    image.push(layout, "one", "t")
    # umoci takes what follows the first colon as the whole name.
    run(umoci, "unpack", "--rootless", "--image", f"{layout.folder}:one:t", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "etc" / "one").read_text() == "first\n"


def test_what_skopeo_wrote_is_read_and_kept(registry: Registry, tmp_path: Path) -> None:
    skopeo = need("skopeo")
    image, layout = Image("skopeo"), LayoutStore(tmp_path / "layout")
    image.push(open_store(registry, tmp_path), "team/skopeo", "t")
    run(
        skopeo,
        "copy",
        "--insecure-policy",
        "--src-tls-verify=false",
        f"docker://{registry.host}/team/skopeo:t",
        f"{layout.image_name('team/theirs')}:t",
    )
    assert layout.get_manifest("team/theirs", "t") == image.manifest
    own = Image("own")
    own.push(layout, "team/own", "t")
    assert list(layout.list_repositories()) == ["team/own", "team/theirs"]
    assert run(skopeo, "inspect", "--raw", f"{layout.image_name('team/theirs')}:t").encode() == image.manifest.data


def test_from_registry_to_layout_to_another_registry(registry: Registry, tmp_path: Path) -> None:
    image, layout = Image("travels"), LayoutStore(tmp_path / "layout")
    store = open_store(registry, tmp_path)
    image.push(store, "team/travels", "t")
    with pytest.raises(RemoteError, match=r"3 blobs .* would have to be copied"):
        copy_blobs(plan_copy(store, "team/travels", layout, "x/y", image.descriptors), allow_copy=False)
    copy_blobs(plan_copy(store, "team/travels", layout, "x/y", image.descriptors), allow_copy=True, scratch=tmp_path)
    layout.put_manifest("x/y", image.manifest, "t")
    with run_registry(tmp_path / "other") as other:
        target = open_store(other, tmp_path)
        copy_blobs(plan_copy(layout, "x/y", target, "x/y", image.descriptors), allow_copy=True)
        target.put_manifest("x/y", image.manifest, "t")
        check_with_crane(other, "x/y", image, tmp_path)


def test_a_large_blob_takes_little_memory(registry: Registry, tmp_path: Path) -> None:
    """200 MB up, down to a layout, and read: in a process of its own whose peak is looked at."""
    code = f"""
import hashlib, os, resource, sys
from pathlib import Path
from imagebuild.oci.copy import copy_blobs, plan_copy
from imagebuild.oci.failures import RegistryError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Descriptor
from imagebuild.oci.registry import RegistryStore
folder = Path({str(tmp_path)!r})
chunk, state = os.urandom(1 << 20), hashlib.sha256()
with (folder / "big").open("wb") as stream:
    for number in range(200):
        data = number.to_bytes(4, "big") + chunk
        stream.write(data)
        state.update(data)
blob = Descriptor("application/octet-stream", "sha256:" + state.hexdigest(), (folder / "big").stat().st_size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store, layout = RegistryStore({registry.host!r}), LayoutStore(folder / "layout")
store.put_blob("big/x", blob, folder / "big")
copy_blobs(plan_copy(store, "big/x", layout, "big/x", [blob]), allow_copy=True, scratch=folder)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64  # MiB
    digest = hashlib.sha256((tmp_path / "big").read_bytes()).hexdigest()
    assert (tmp_path / "layout" / "blobs" / "sha256" / digest).stat().st_size == 200 * ((1 << 20) + 4)


def test_a_large_upload_that_broke_goes_on_in_chunks(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real registry takes the chunks; what is made to break is the first PUT."""

    def broken(*_: object) -> None:
        raise RegistryError("the connection broke", "try again")

    source = tmp_path / "large"
    source.write_bytes(random.Random(1).randbytes(40 << 20))
    descriptor = Descriptor("application/octet-stream", Digest.of(source.read_bytes()), 40 << 20)
    monkeypatch.setattr("imagebuild.oci.upload._send", broken)
    store = RegistryStore(registry.host, sleep=lambda _: None)
    store.put_blob("chunks/test", descriptor, source)
    with store.open_blob("chunks/test", descriptor) as stream:
        assert hashlib.sha256(stream.read()).hexdigest() == descriptor.id.hex
    assert len(re.findall(r'"PATCH /v2/chunks/test/blobs/uploads/', registry.log.read_text())) == 3
