"""imagebuild's own image, made by imagebuild, builds a team's image as a pod does: any user, a read-only root, no privileges."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.manifests import read_manifests
from tests.support.servers.index import run_pypiserver
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker
from tests.support.workspaces import PROJECT, Built, run_tool, skopeo_copy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tool(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image in the local Docker: its name."""
    docker = need_docker()
    folder = tmp_path_factory.mktemp("tool")
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in ("imagebuild", "scripts", "pyproject.toml", "README.md", "LICENSE", "requirements.lock"):
        source = PROJECT / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, checkout / name)
    state = checkout / ".imagebuild"
    state.mkdir()
    shutil.copytree(built.checkout.layout, state / "registry", copy_function=os.link)
    program = folder / "program"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m imagebuild.cli "$@"\n')
    program.chmod(0o755)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMAGEBUILD_")}
    environment |= {"IMAGEBUILD": str(program), "IMAGEBUILD_CACHE": str(built.checkout.cache), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        ["bash", str(checkout / "scripts/tool-image.sh"), "--load"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (name,) = [line.split()[3] for line in done.stdout.splitlines() if line.strip().startswith("loaded ")]
    own = f"imagebuild-test:{uuid.uuid4().hex[:12]}"
    run_tool(docker, "tag", name, own)
    run_tool(docker, "rmi", name)
    yield own
    run_tool(docker, "rmi", "--force", own)


def run_as_pod(image: str, container: dict[str, Any], folder: Path, *, index: int, environment: dict[str, str]) -> str:
    """What the kubelet does with the documented container, in an unused user's name; its output."""
    docker = need_docker()
    user = random.randint(20_000, 60_000)
    (folder / "tmp").mkdir()
    (folder / "credentials").mkdir()
    (folder / "credentials/config.json").write_text("{}")
    for path in (folder, *folder.rglob("*")):  # a volume of an emptyDir belongs to the pod's group
        if not path.is_symlink():
            path.chmod(path.stat().st_mode | 0o666 | (0o111 if path.is_dir() else 0))
    volumes = {"/srv": folder / "work", "/tmp": folder / "tmp", "/credentials": folder / "credentials"}
    assert {item["mountPath"] for item in container["volumeMounts"]} == set(volumes)
    settings = {item["name"]: item["value"] for item in container["env"]} | {"JOB_COMPLETION_INDEX": str(index)} | environment
    command = [
        docker, "run", "--rm", "--network=host", "--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges",
        f"--user={user}:{user}", f"--workdir={container['workingDir']}",
        *(f"--env={key}={value}" for key, value in settings.items()),
        *(f"--volume={path}:{place}" for place, path in volumes.items()),
        f"--entrypoint={container['command'][0]}", image, *container["command"][1:], *container["args"],
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_pod_builds_cosml(tool: str, built: Built, hub: Registry, tmp_path: Path) -> None:
    (job,) = [item for item in read_manifests() if item["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    container["args"] = [text.replace("registry.example.com/ml", f"{hub.host}/pods") for text in container["args"]]
    base = f"{hub.host}/pods/starter"
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{base}:1")
    work = tmp_path / "work/images"
    shutil.copytree(built.checkout.root / "images", work / "images")
    shutil.copytree(built.checkout.root / "lockfiles", work / "lockfiles")
    digest = run_tool("crane", "digest", "--insecure", f"{base}:1").decode().strip()
    (work / "images/catalogue.toml").write_text(f'[base.starter]\nreference = "{base}"\ntag = "1"\ndigest = "{digest}"\nkind = "jupyter"\n')
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for path in built.checkout.cache.glob("wheels/*/*.whl"):
        if not (wheels / path.name).exists():
            os.link(path, wheels / path.name)
    with run_pypiserver(wheels, "reader", "secret") as url:
        environment = {"PIP_INDEX_URL": url.replace("//", "//reader:secret@")}
        out = run_as_pod(tool, container, tmp_path, index=0, environment=environment)
    assert f"{hub.host}/pods/cosml:" in out
    assert " 9 packages" in out
    tags = run_tool("crane", "ls", "--insecure", f"{hub.host}/pods/cosml").decode().split()
    (tag,) = [tag for tag in tags if not tag.startswith("sha256-")]
    # The base is named otherwise, and so is the tag; the layer is that of a build outside.
    config = YAML(typ="safe").load(run_tool("crane", "config", "--insecure", f"{hub.host}/pods/cosml:{tag}"))
    assert config["rootfs"]["diff_ids"] == built.image.diff_ids


def test_an_index_beyond_the_teams_does_nothing(tool: str, tmp_path: Path) -> None:
    (job,) = [item for item in read_manifests() if item["kind"] == "Job"]
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (tmp_path / "work/images/images/blue").mkdir(parents=True)
    (tmp_path / "work/images/images/blue/team.toml").write_text("")
    assert run_as_pod(tool, container, tmp_path, index=1, environment={}) == ""
