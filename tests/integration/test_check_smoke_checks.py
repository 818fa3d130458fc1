"""smoke and --load with a real engine: a good image passes every check, and every seeded defect is found and named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.registry import Registry
from tests.support.tools import need, need_docker
from tests.support.workspaces import PROJECT, Built, Checkout, Done

pytestmark = pytest.mark.integration

SITE = "/usr/local/lib/python3.11/dist-packages"
START = "/usr/local/bin/start-notebook"
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path in sys.argv[1:]
        self.send_response(200 if found else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "alive"}' if found else b'')
http.server.ThreadingHTTPServer(("0.0.0.0", 8888), Handler).serve_forever()
"""
# Each is one image on top of the good one; several defects in one where they do not hide each other.
SEEDED = {
    "start": """
        USER 0
        RUN echo x > /home/jovyan/model.bin
        USER jovyan
        CMD ["python3", "-m", "http.server", "8888"]
    """,
    "root": "USER root",
    "packages": f"""
        USER 0
        RUN rm -r {SITE}/joblib-*.dist-info {SITE}/numpy/__pycache__/__init__.* && chmod 0666 {SITE}/pandas/__init__.py \\
         && echo 'import os; os.abort()' > {SITE}/cosml_utils/__init__.py && rm -r {SITE}/cosml_utils/__pycache__ \\
         && echo 'raise RuntimeError("seeded")' > {SITE}/cloudpickle/__init__.py && rm -r {SITE}/cloudpickle/__pycache__
        USER 1000
    """,
    "silent": """
        ENV HOME=/root/work
        CMD ["sh", "-c", "echo waiting for nothing; sleep 600"]
    """,
    "ended": f"""
        USER 0
        RUN printf '#!/bin/sh\\necho no licence today\\nexit 3\\n' > {START}
        USER 1000
    """,
    "unprefixed": f"""
        USER 0
        RUN sed -i 's/--ServerApp.base_url="$NB_PREFIX"//' {START}
        USER 1000
    """,
    "loopback": f"""
        USER 0
        RUN sed -i 's/--ip=0.0.0.0/--ip=127.0.0.1/' {START}
        USER 1000
    """,
    "code": """
        COPY server.py /server.py
        CMD ["python3", "/server.py", "/", "/healthz"]
        LABEL dev.imagebuild.kind=vscode
    """,
}


@dataclass(frozen=True)
class Loaded:
    """A team image in the local Docker under its own name, and the checkout it was built in."""

    checkout: Checkout
    name: str
    result: dict[str, Any]
    progress: str

    def build(self, defect: str, folder: Path) -> str:
        """The good image with a defect; its name."""
        name = f"{self.name}-{defect}"
        lines = "\n".join(line.strip() for line in SEEDED[defect].strip().splitlines())
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "Dockerfile").write_text(f"FROM {self.name}\n{lines}\n")
        (folder / "server.py").write_text(SERVER)
        docker("build", "--quiet", "--tag", name, str(folder))
        return name

    def smoke(self, image: str, *options: str) -> tuple[Done, dict[str, dict[str, Any]]]:
        """(the run, its rows by "check (run)")."""
        done = self.checkout.run("smoke", image, "--json", *options)
        rows = json.loads(done.out)["rows"] if done.out.startswith("{") else []
        return done, {f"{row['check']} ({row['run']})": row for row in rows}


def docker(*arguments: str) -> str:
    done = subprocess.run([need_docker(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def list_leftovers(image: str) -> str:
    """Containers of ours made from one image (another session's smoke is none of this one's business)."""
    return docker("ps", "--all", "--quiet", "--filter", "label=dev.imagebuild.smoke", "--filter", f"ancestor={image}")


@pytest.fixture(scope="module")
def loaded(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """An image no engine has seen before (its title is new), built and loaded by one command."""
    need_docker()
    checkout = built.checkout.fork(tmp_path_factory.mktemp("loading"))
    checkout.edit("images/cosml/team.toml", "COSML: pandas and scikit-learn", f"Smoke test of process {os.getpid()}")
    done = checkout.run("image", "cosml", "--load", "--json").succeeded()
    name = done.result["loaded"]
    try:
        yield Loaded(checkout, name, done.result, done.err)
    finally:
        names = [f"{name}-{defect}" for defect in SEEDED]
        subprocess.run([need_docker(), "image", "rm", "--force", name, *names], capture_output=True, check=False)


def failures(rows: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, row in rows.items() if row["status"] == "failed"}


# --- loading ------------------------------------------------------------------------------------------------------------


def test_what_was_loaded_is_what_was_built(loaded: Loaded) -> None:
    assert loaded.name == f"cosml:{loaded.result['tag']}"
    assert loaded.result["loaded_bytes"] > 50 << 20
    assert "of it the base's" in loaded.progress
    found = json.loads(docker("image", "inspect", loaded.name))[0]
    layout = loaded.checkout.layout / "blobs" / "sha256"
    manifest = json.loads((layout / loaded.result["digest"].removeprefix("sha256:")).read_bytes())
    store_of_containerd = "Descriptor" in found  # it keeps the manifest; the classic store only the config
    assert found["Id"] == (loaded.result["digest"] if store_of_containerd else manifest["config"]["digest"])
    assert found["Config"]["Labels"]["dev.imagebuild.team"] == "cosml"
    said = docker("run", "--rm", loaded.name, "python3", "-c", "import pandas, sklearn, cosml_utils; print(pandas.__version__)")
    assert said.startswith("2.2.")


def test_a_second_load_hands_nothing_over(loaded: Loaded) -> None:
    done = loaded.checkout.run("image", "cosml", "--load", "--json").succeeded()
    assert done.result["built"] is False
    assert done.result["loaded_bytes"] == 0
    assert "docker has it already" in done.err


def test_an_image_that_docker_lost_a_part_of_is_loaded_again(loaded: Loaded) -> None:
    engine = json.loads(docker("info", "--format", "{{json .Containerd}}"))
    manifest = json.loads((loaded.checkout.layout / "blobs" / loaded.result["digest"].replace(":", "/")).read_bytes())
    forget = [need("ctr"), "--address", engine["Address"], "--namespace", engine["Namespaces"]["Containers"]]
    subprocess.run([*forget, "content", "rm", manifest["config"]["digest"]], check=True, capture_output=True)
    assert docker("image", "inspect", loaded.name, "--format", "{{.Os}}") == ""
    done = loaded.checkout.run("image", "cosml", "--load", "--json").succeeded()
    assert done.result["loaded_bytes"] == loaded.result["loaded_bytes"]
    assert docker("image", "inspect", loaded.name, "--format", "{{.Os}}") == "linux"


def test_a_damaged_blob_is_not_loaded(loaded: Loaded, tmp_path: Path) -> None:
    checkout = loaded.checkout.fork(tmp_path / "damaged")
    checkout.edit("images/cosml/team.toml", "Smoke test of", "Damaged by")
    built = checkout.run("image", "cosml", "--json").succeeded().result
    layout = checkout.layout / "blobs" / "sha256"
    manifest = json.loads((layout / built["digest"].removeprefix("sha256:")).read_bytes())
    blob = layout / manifest["layers"][-1]["digest"].removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.unlink()  # it is a hard link to the cache's or another layout's
    blob.write_bytes(data)
    done = checkout.run("image", "cosml", "--load")
    done.refused(8, "holds other bytes", hint="remove")
    name = f"cosml:{built['tag']}"
    assert docker("image", "ls", "--quiet", name) == ""


def test_without_an_engine_nothing_is_built(built: Built, tmp_path: Path) -> None:
    fork = built.checkout.fork(tmp_path)
    checkout = Checkout(fork.root, fork.cache, {"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})
    for command in (("image", "cosml", "--load"), ("smoke", "cosml")):
        checkout.run(*command).refused(3, "no Docker engine answers at unix://.*none.sock: No such file", hint="start it")


# --- a good image -------------------------------------------------------------------------------------------------------


def test_a_good_image_passes_every_check(loaded: Loaded) -> None:
    done = loaded.checkout.run("smoke", "cosml", "--read-only").succeeded()
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{loaded.name}  (jupyter, port 8888, under /notebook/")
    assert len(lines) == 1 + 1 + 20 + 1
    assert lines[-1] == "20 passed"
    assert "under the prefix" in done.out
    for text in ("4096 MiB", "64 MiB", "uid 1000680000, gid 0", "packages, as locked"):
        assert text in done.out
    assert list_leftovers(loaded.name) == ""


def test_an_image_of_a_registry_is_pulled(loaded: Loaded, hub: Registry) -> None:
    target = f"{hub.host}/smoke-{os.getpid()}"
    pushed = loaded.checkout.run("image", "cosml", "--json", "--copy-base", "--registry", target).succeeded().result
    name = f"{target}/cosml:{pushed['tag']}"
    try:
        done, rows = loaded.smoke(name, "--run", "random-uid")
        assert done.code == 0, done.err
        assert {row["status"] for row in rows.values()} == {"passed"}
        assert docker("image", "ls", "--quiet", name)
        done, _ = loaded.smoke("cosml", "--run", "random-uid", "--registry", target)
        assert done.code == 0, done.err
    finally:
        subprocess.run([need_docker(), "image", "rm", "--force", name], capture_output=True, check=False)


def test_names_that_mean_nothing(loaded: Loaded) -> None:
    loaded.checkout.run("smoke", "cosmll").refused(2, "'cosmll' is neither a team here nor an image of the local Docker")
    loaded.checkout.run("smoke", "localhost:1/none:1").refused(6, "docker could not pull localhost:1/none:1", hint="docker login")
    loaded.checkout.run("smoke", "cosml", "--run", "owm-user").refused(2, "no run 'owm-user'", hint="own-user")
    loaded.checkout.run("smoke", "cosml", "--registry", "localhost:1/none").refused(6, "localhost:1")


# --- optional modules ---------------------------------------------------------------------------------------------------


def test_modules_for_what_nobody_asked_for_are_told_and_do_not_fail(built: Built, tmp_path: Path) -> None:
    """black ships blackd for black[d]; the Flask instrumentation is of use beside Flask only; nbgitpuller runs git."""
    need_docker()
    checkout = built.checkout.fork(tmp_path)
    checkout.write("images/optional/team.toml", f'base = "starter"\ndescription = "process {os.getpid()}"\n')
    checkout.write("images/optional/requirements.in", "black\nopentelemetry-instrumentation-flask\nnbgitpuller\n")
    locked = checkout.run("lock", "optional").succeeded()
    assert 'nbgitpuller needs the program git, which starter lacks; [system] packages = ["git"] adds it' in locked.err
    done = checkout.run("image", "optional", "--load", "--json").succeeded()
    assert done.err.count("needs the program git") == 1
    name = done.result["loaded"]
    try:
        found = checkout.run("smoke", "optional", "--run", "own-user", "--json").succeeded()
        (row,) = [row for row in json.loads(found.out)["rows"] if row["check"] == "imports"]
        assert row["text"].endswith("; 2 of them do not import and need not")
        assert row["details"] == [
            "black: blackd needs aiohttp, which is for black[d]",
            "opentelemetry-instrumentation-flask: opentelemetry.instrumentation.flask needs flask, "
            "which is for opentelemetry-instrumentation-flask[instruments]",
        ]
        # Another fault of the same module fails, until the team leaves it out; which makes no other image.
        folder = tmp_path / "broken"
        folder.mkdir()
        spoiled = f"echo 'raise RuntimeError(1)' > {SITE}/blackd/__init__.py && rm -r {SITE}/blackd/__pycache__"
        (folder / "Dockerfile").write_text(f"FROM {name}\nUSER 0\nRUN {spoiled}\nUSER 1000\n")
        docker("build", "--quiet", "--tag", f"{name}-broken", str(folder))
        checkout.run("smoke", f"{name}-broken", "--run", "own-user").refused(7, "imports \\(own-user\\)")
        toml = (checkout.root / "images/optional/team.toml").read_text()
        checkout.write("images/optional/team.toml", f'{toml}[smoke]\nignore = ["black?"]\n')
        assert checkout.image("optional")["tag"] == done.result["tag"]
        found = checkout.run("smoke", f"{name}-broken", "--run", "own-user", "--json")
        (row,) = [row for row in json.loads(found.out)["rows"] if row["check"] == "imports"]
        assert row["status"] == "passed"
        assert "blackd: left out by [smoke] ignore" in row["details"]
    finally:
        subprocess.run([need_docker(), "image", "rm", "--force", f"{name}-broken", name], capture_output=True, check=False)


# --- seeded defects -----------------------------------------------------------------------------------------------------


def test_a_named_user_another_command_and_a_file_under_the_home(loaded: Loaded, tmp_path: Path) -> None:
    name = loaded.build("start", tmp_path)
    done, rows = loaded.smoke(name, "--run", "own-user", "--timeout", "4")
    done.refused(7, "user \\(image\\)", "start command \\(image\\)", "home in the layer \\(image\\)", "server \\(own-user\\)")
    assert failures(rows) == {"user (image)", "start command (image)", "home in the layer (image)", "server (own-user)"}
    assert "jovyan: a name" in rows["user (image)"]["text"]
    assert 'CMD is ["python3", "-m", "http.server", "8888"]' in rows["start command (image)"]["text"]
    assert "USER is jovyan, the base has 1000" in rows["start command (image)"]["text"]
    assert rows["home in the layer (image)"]["details"] == ["/home/jovyan/model.bin"]
    assert "/api answers 404" in rows["server (own-user)"]["text"]
    assert rows["home (own-user)"]["status"] == "passed"
    assert list_leftovers(name) == ""


def test_root(loaded: Loaded, tmp_path: Path) -> None:
    done, rows = loaded.smoke(loaded.build("root", tmp_path), "--run", "own-user", "--timeout", "20")
    assert done.code == 7
    assert "root: runs as root" in rows["user (image)"]["text"]
    assert "the container ended with exit code 1" in rows["server (own-user)"]["text"]
    assert any("as root" in line for line in rows["server (own-user)"]["details"])  # JupyterLab's own words
    assert rows["imports (own-user)"]["status"] == "skipped"


def test_broken_packages(loaded: Loaded, tmp_path: Path) -> None:
    done, rows = loaded.smoke(loaded.build("packages", tmp_path), "--run", "own-user")
    packages = ("pip check", "versions", "imports", "bytecode", "read-only files")
    assert failures(rows) == {f"{name} (own-user)" for name in packages}
    done.refused(7, *[f"{name} \\(own-user\\)" for name in packages])
    assert any("requires joblib, which is not installed" in line for line in rows["pip check (own-user)"]["details"])
    assert any(line.startswith("joblib missing, locked 1.") for line in rows["versions (own-user)"]["details"])
    assert rows["imports (own-user)"]["details"][:2] == [
        "cloudpickle: import cloudpickle: RuntimeError: seeded",
        "cosml-utils: import cosml_utils: killed Python: signal 6",
    ]
    assert f"{SITE}/numpy/__init__.py" in rows["bytecode (own-user)"]["details"]
    assert rows["read-only files (own-user)"]["details"] == [f"{SITE}/pandas/__init__.py"]


def test_a_server_that_does_not_come_up_and_a_home_that_cannot_be_written(loaded: Loaded, tmp_path: Path) -> None:
    started = time.monotonic()
    done, rows = loaded.smoke(loaded.build("silent", tmp_path), "--run", "large-shm", "--timeout", "2")
    assert time.monotonic() - started < 60
    assert done.code == 7
    assert failures(rows) == {"start command (image)", "server (large-shm)", "home (large-shm)"}
    assert "no answer: Connection refused" in rows["server (large-shm)"]["text"]
    assert rows["server (large-shm)"]["details"] == ["log: waiting for nothing"]
    assert "uid 1000, gid 0 cannot write: [Errno 13] Permission denied: '/root/work" in rows["home (large-shm)"]["text"]


def test_a_server_that_ends(loaded: Loaded, tmp_path: Path) -> None:
    done, rows = loaded.smoke(loaded.build("ended", tmp_path), "--run", "own-user", "--timeout", "30")
    assert failures(rows) == {"server (own-user)"}
    assert rows["server (own-user)"]["text"] == "the container ended with exit code 3"
    assert rows["server (own-user)"]["details"] == ["log: no licence today"]
    assert done.code == 7


@pytest.mark.parametrize(("defect", "said"), [("unprefixed", "/api answers 404"), ("loopback", "no answer: Connection refused")])
def test_a_server_out_of_the_cluster_s_reach(loaded: Loaded, tmp_path: Path, defect: str, said: str) -> None:
    done, rows = loaded.smoke(loaded.build(defect, tmp_path), "--run", "large-shm", "--timeout", "8")
    assert done.code == 7
    assert failures(rows) == {"server (large-shm)"}
    assert said in rows["server (large-shm)"]["text"]


def test_other_kinds_are_asked_at_their_own_paths(loaded: Loaded, tmp_path: Path) -> None:
    name = loaded.build("code", tmp_path)
    _, rows = loaded.smoke(name, "--run", "large-shm", "--timeout", "10")
    assert rows["server (large-shm)"]["text"].startswith("200 on /healthz and /, port 8888")
    _, rows = loaded.smoke(name, "--run", "large-shm", "--timeout", "10", "--kind", "rstudio")
    assert rows["server (large-shm)"]["text"].startswith("200 on /, port 8888")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_leaves_no_container(loaded: Loaded, tmp_path: Path, number: signal.Signals, code: int) -> None:
    name = loaded.build("silent", tmp_path)
    command = [sys.executable, "-m", "tests.support.watched", "smoke", name, "--run", "own-user", "--root", str(loaded.checkout.root)]
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list_leftovers(name):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(30) == code
    finally:
        process.kill()
    assert list_leftovers(name) == ""
