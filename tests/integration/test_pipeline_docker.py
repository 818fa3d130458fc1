"""The pushed image in a Docker engine, and the same lock installed by pip: it runs as a notebook, and pip leaves the same files."""

from __future__ import annotations

import csv
import http.client
import io
import json
import marshal
import os
import re
import shutil
import subprocess
import tarfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Any, cast

import docker
import pytest
from docker.models.containers import Container

from tests.support.tools import need, need_docker
from tests.support.workspaces import Built, LayoutImage, run_tool

pytestmark = pytest.mark.integration

LIBRARY = "usr/local/lib/python3.11/dist-packages"
PREFIX = "/notebook/alice/x"


@pytest.fixture(scope="module")
def engine() -> Iterator[docker.DockerClient]:
    need_docker()
    client = docker.from_env(timeout=120)
    try:
        client.ping()
        yield client
    finally:
        client.close()


@pytest.fixture(scope="module")
def network(engine: docker.DockerClient) -> Iterator[str]:
    """A bridge of our own: the engine's default one is everybody's."""
    made = engine.networks.create(f"imagebuild-test-{uuid.uuid4().hex[:12]}")
    try:
        yield str(made.name)
    finally:
        made.remove()


# --- a registry in a container ----------------------------------------------------------------------------------------


def pack_registry(folder: Path) -> bytes:
    """A build context: ``FROM scratch`` and Debian's docker-registry with the libraries it is linked to."""
    binary = Path(need("docker-registry")).resolve()
    linked = run_tool("ldd", str(binary)).decode()
    libraries = sorted(set(re.findall(r"(/\S+) \(0x", linked)))
    config = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": "/data"}},
        "http": {"addr": ":5000", "secret": uuid.uuid4().hex},
    }
    dockerfile = f'FROM scratch\nCOPY root/ /\nEXPOSE 5000\nENTRYPOINT ["{binary}", "serve", "/etc/registry.json"]\n'
    (folder / "registry.json").write_text(json.dumps(config))  # JSON is YAML
    (folder / "Dockerfile").write_text(dockerfile)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as archive:
        archive.add(folder / "Dockerfile", "Dockerfile")
        archive.add(folder / "registry.json", "root/etc/registry.json")
        for path in (str(binary), *libraries):
            archive.add(path, f"root{path}")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def container_registry(engine: docker.DockerClient, network: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """``host:port`` of a registry that testcontainers runs, from an image made here."""
    from testcontainers.core.config import testcontainers_config
    from testcontainers.core.container import DockerContainer

    name = f"imagebuild-test-registry:{uuid.uuid4().hex[:12]}"
    context = pack_registry(tmp_path_factory.mktemp("registry-image"))
    image, _log = engine.images.build(fileobj=io.BytesIO(context), custom_context=True, tag=name, rm=True)
    with ExitStack() as stack:
        stack.callback(lambda: engine.images.remove(name, force=True))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(testcontainers_config, "ryuk_disabled", True)  # the reaper is an image of its own, to be pulled
        container = DockerContainer(image.tags[0]).with_kwargs(network=network)
        cast("Any", container).ports = {"5000/tcp": ("127.0.0.1", 0)}
        stack.callback(container.get_docker_client().client.close)
        stack.enter_context(container)
        port = int(container.get_exposed_port(5000))
        wait_for(lambda: get(port, "/v2/")[0] == 200, "the registry", lambda: str(container.get_logs()))
        yield f"localhost:{port}"


def get(port: int, path: str, accept: str = "*/*") -> tuple[int, bytes]:
    """Status and body; status 0 when nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Accept": accept})
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def wait_for(ready: Any, what: str, log: Any, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what} did not answer:\n{log()}"
        time.sleep(0.2)


# --- the image runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pulled:
    """The image as the engine has it."""

    client: docker.DockerClient
    host: str
    name: str  # repository@digest
    network: str

    def run(self, *command: str, **options: Any) -> tuple[str, str]:
        """stdout and stderr of a command in a new container without a network; it must succeed."""
        container = self.client.containers.run(self.name, list(command), entrypoint=[], network_mode="none", detach=True, **options)
        try:
            status = container.wait(timeout=120)["StatusCode"]
            out, err = (container.logs(stdout=kind, stderr=not kind).decode() for kind in (True, False))
        finally:
            container.remove(force=True)
        assert status == 0, out + err
        return out, err


@pytest.fixture(scope="module")
def pulled(built: Built, engine: docker.DockerClient, network: str, container_registry: str) -> Iterator[Pulled]:
    result = built.checkout.image("cosml", "--registry", f"{container_registry}/docker", "--copy-base")
    assert result["digest"] == built.result["digest"]
    name = f"{container_registry}/docker/cosml"
    image = engine.images.pull(name, tag=built.tag)
    try:
        assert f"{name}@{result['digest']}" in image.attrs["RepoDigests"]
        yield Pulled(engine, container_registry, f"{name}@{result['digest']}", network)
    finally:
        for reference in (f"{name}:{built.tag}", f"{name}@{result['digest']}"):
            with suppress(docker.errors.ImageNotFound):
                engine.images.remove(reference, force=True)


def test_it_runs_as_the_base_s_user(built: Built, pulled: Pulled) -> None:
    assert built.base.config["config"]["User"] == "1000"
    out, _err = pulled.run("id")
    assert out.startswith("uid=1000(jovyan) gid=0(root)")


def test_pip_finds_nothing_broken(pulled: Pulled) -> None:
    out, _err = pulled.run("python3", "-m", "pip", "check")
    assert out.strip() == "No broken requirements found."


def test_what_the_team_asked_for_can_be_imported(pulled: Pulled) -> None:
    script = """
import pandas, sklearn, cosml_utils, sklearn.linear_model
model = sklearn.linear_model.LinearRegression().fit(pandas.DataFrame({"x": [0, 1, 2]}), [1, 3, 5])
print(pandas.__version__, sklearn.__version__, round(float(model.coef_[0]), 6))
"""
    out, _err = pulled.run("python3", "-W", "error::ImportWarning", "-c", script)
    assert out.split() == ["2.2.3", "1.5.2", "2.0"]


def test_bytecode_is_there_and_used(pulled: Pulled) -> None:
    script = "import os, pandas, sklearn.linear_model; print(pandas.__cached__, os.path.isfile(pandas.__cached__))"
    out, err = pulled.run("python3", "-v", "-c", script)
    assert out.split() == [f"/{LIBRARY}/pandas/__pycache__/__init__.cpython-311.pyc", "True"]
    loaded = re.findall(r"^# code object from (.+)$", err, re.MULTILINE)
    library = [path for path in loaded if f"/{LIBRARY}/" in path]
    assert len(library) > 500
    assert [path for path in library if not path.strip("'").endswith(".pyc")] == []  # none had to be compiled
    assert not re.search(r"^# wrote ", err, re.MULTILINE)


def test_a_personal_install_cannot_replace_the_locked_set(pulled: Pulled) -> None:
    """PIP_CONSTRAINT names a file that pip reads: another pandas is refused before anything is looked up."""
    script = 'python3 -m pip install --no-index --user --break-system-packages "pandas==1.0" 2>&1 || true; test -r "$PIP_CONSTRAINT"'
    out, _err = pulled.run("sh", "-c", script)
    assert "conflicting dependencies" in out, out


@contextmanager
def notebook(pulled: Pulled, **options: Any) -> Iterator[tuple[Container, int]]:
    """The image as it starts by itself, port 8888 published on loopback; the container and the port."""
    container = pulled.client.containers.run(
        pulled.name, detach=True, network=pulled.network, environment={"NB_PREFIX": PREFIX}, ports={"8888/tcp": ("127.0.0.1", 0)}, **options
    )
    try:
        container.reload()
        bindings = container.ports["8888/tcp"]
        assert bindings, container.logs().decode()
        yield container, int(bindings[0]["HostPort"])
    finally:
        container.remove(force=True)


@pytest.mark.parametrize(
    ("user", "volume"),
    [(None, "uid=1000,gid=0,mode=0755"), ("1234567:0", "uid=0,gid=0,mode=0775")],
    ids=["the-image-s-user", "any-user-of-group-0"],
)
def test_jupyterlab_answers_under_its_prefix_over_an_empty_home(pulled: Pulled, user: str | None, volume: str) -> None:
    with notebook(pulled, user=user, tmpfs={"/home/jovyan": volume}, cap_drop=["ALL"], security_opt=["no-new-privileges"]) as (
        container,
        port,
    ):
        wait_for(lambda: get(port, f"{PREFIX}/api")[0] == 200, "JupyterLab", lambda: container.logs().decode())
        status, body = get(port, f"{PREFIX}/lab")
        assert status == 200
        assert f'"baseUrl": "{PREFIX}/"'.encode() in body
        assert get(port, "/lab")[0] == 404  # it is served there and nowhere else
        identity = container.exec_run(["sh", "-c", "id -u; id -g; touch $HOME/written && echo done"]).output
        assert isinstance(identity, bytes)
        assert identity.decode().split() == [(user or "1000:0").partition(":")[0], "0", "done"]


def test_the_size_delta_is_true(built: Built, pulled: Pulled) -> None:
    """The canonical example, from the registry alone: all layers minus the base's = the annotation = the budgeted layer."""
    port = int(pulled.host.rpartition(":")[2])
    accept = "application/vnd.oci.image.manifest.v1+json"
    status, body = get(port, f"/v2/docker/cosml/manifests/{built.tag}", accept)
    assert status == 200
    manifest = json.loads(body)
    base = {layer["digest"] for layer in built.base.layers}
    total = sum(layer["size"] for layer in manifest["layers"])
    delta = total - sum(layer["size"] for layer in built.base.layers)
    (added,) = [layer for layer in manifest["layers"] if layer["digest"] not in base]
    stored = get(port, f"/v2/docker/cosml/blobs/{added['digest']}")[1]
    assert delta == added["size"] == len(stored) == int(manifest["annotations"]["dev.imagebuild.delta.compressed"])
    assert delta < 300 << 20
    unpacked = sum(item.size for item, _content in built.image.read_layer().values() if item.isreg())
    assert unpacked == int(manifest["annotations"]["dev.imagebuild.delta.installed"])


# --- the same by pip --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twin(built: Built, engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> LayoutImage:
    """What docker makes of the Dockerfile that lies beside the image, by the command that its second line gives."""
    assert engine
    client = need_docker()
    if subprocess.run([client, "buildx", "version"], capture_output=True, check=False).returncode:
        pytest.skip("missing part: docker buildx")
    folder = tmp_path_factory.mktemp("twin")
    shutil.copytree(built.checkout.root / ".imagebuild" / "builds" / "cosml" / built.tag, folder / "build")
    match = re.search(r"(?m)^# .*: (docker buildx build .*\.)$", (folder / "build" / "Dockerfile").read_text())
    assert match is not None
    command = f"set -e; {match[1].removesuffix('.')} --output type=oci,tar=false,dest=$OUT --progress plain --no-cache ."
    run_in_shell(command, folder / "build", LAYOUT=str(built.checkout.layout), OUT=str(folder / "out"))
    return LayoutImage.named(folder / "out")


def run_in_shell(command: str, folder: Path, **environment: str) -> None:
    done = subprocess.run(["sh", "-c", command], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def trees(built: Built, twin: LayoutImage) -> tuple[dict[str, tuple[tarfile.TarInfo, bytes]], dict[str, tuple[tarfile.TarInfo, bytes]]]:
    """Path -> (header, content) of the layer made here and of the one pip made."""
    return built.image.read_layer(), twin.read_layer()


def is_foreign_encoding(source: bytes) -> bool:
    """Whether a Python source names an encoding other than UTF-8 (PEP 263). pip lets nothing be imported while it installs, so a
    codec that was not needed before is out of its reach: it leaves out such a file's bytecode."""
    match = re.search(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)", b"\n".join(source.split(b"\n")[:2]), re.MULTILINE)
    return match is not None and match[1].lower().replace(b"_", b"-") not in (b"utf-8", b"utf8", b"latin-1", b"iso-8859-1", b"ascii")


def test_the_twin_adds_one_layer_to_the_same_base(built: Built, twin: LayoutImage) -> None:
    assert twin.diff_ids[:-1] == built.base.diff_ids
    ours, theirs = built.image.config["config"], twin.config["config"]
    for key in ("User", "Entrypoint", "Cmd", "WorkingDir", "Env", "ExposedPorts"):
        assert theirs[key] == ours[key], key
    assert theirs["Labels"] == ours["Labels"]


def test_pip_leaves_the_same_paths(trees: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = trees
    assert sorted(set(theirs) - set(ours)) == []  # nothing of pip's own work, of /tmp or of the base
    for path in set(ours) - set(theirs):
        assert path.endswith(".cpython-311.pyc"), path
        folder, _cache, name = path.rpartition("/__pycache__/")
        assert is_foreign_encoding(ours[f"{folder}/{name.removesuffix('.cpython-311.pyc')}.py"][1]), path
    assert len(set(ours) & set(theirs)) > 5000


def test_pip_leaves_the_same_types_modes_and_owners(trees: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = trees
    for path in set(ours) & set(theirs):
        one, other = ours[path][0], theirs[path][0]
        assert (one.type, one.mode, one.uid, one.gid) == (other.type, other.mode, other.uid, other.gid), path
        assert not [key for key in other.pax_headers if "xattr" in key], path


def test_pip_leaves_the_same_content(trees: tuple[dict[str, Any], dict[str, Any]]) -> None:
    ours, theirs = trees
    compiled = records = 0
    for path in sorted(set(ours) & set(theirs)):
        one, other = ours[path][1], theirs[path][1]
        if path.endswith(".pyc"):
            compiled += 1
            assert one[:4] == other[:4], path
            assert one[4:8] == b"\1\0\0\0", path  # PEP 552: by hash, and not checked
            assert describe_code(marshal.loads(one[16:])) == describe_code(marshal.loads(other[16:])), path
        elif path.endswith(".dist-info/RECORD"):
            records += 1
            mine, pips = (read_record(data) for data in (one, other))
            odd = {row for row in mine - pips if row[0] not in {name for name, *_rest in pips}}
            assert all(f"{LIBRARY}/{row[0]}" in set(ours) - set(theirs) for row in odd), path
            assert mine - odd == pips, path
        else:
            assert one == other, path
    assert compiled > 1000
    assert records == 9


def read_record(data: bytes) -> set[tuple[str, ...]]:
    """Rows; of bytecode the name only, the bytes have a test of their own."""
    rows = {tuple(row) for row in csv.reader(io.StringIO(data.decode()))}
    return {(row[0], "", "") if row[0].endswith(".pyc") else row for row in rows}


def describe_code(code: object) -> object:
    """All that decides what a code object does, as a value that compares by content (and 1 differs from 1.0 and True)."""
    if isinstance(code, CodeType):
        names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_filename", "co_name", "co_qualname", "co_flags")
        more = (
            "co_firstlineno",
            "co_argcount",
            "co_posonlyargcount",
            "co_kwonlyargcount",
            "co_stacksize",
            "co_linetable",
            "co_exceptiontable",
        )
        return (*(getattr(code, name) for name in (*names, *more)), describe_code(code.co_consts))
    if isinstance(code, tuple):
        return tuple(describe_code(item) for item in code)
    if isinstance(code, frozenset):
        return frozenset(cast("frozenset[object]", {describe_code(item) for item in code}))
    return type(code).__name__, repr(code)
