"""The Docker engine on a real engine: one added layer, reproducible, clean of its build; apt; bake; secrets; what goes wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.engine import buildx as docker_engine
from imagebuild.engine.machinesources import choose_sources, parse_apt_sources
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import BuildError
from imagebuild.layer.invariants import check_layers
from imagebuild.layer.model import TeamLayers
from imagebuild.layer.reading import ForeignLayer
from imagebuild.pipeline.building import build_docker_layer, prepare_context
from imagebuild.pipeline.planning import Plan, plan_image
from imagebuild.workspace import Workspace
from tests.support.builders import make_wheel
from tests.support.servers.buildkit import run_remote_builder
from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry, run_registry
from tests.support.tools import need, need_docker
from tests.support.workspaces import Built, Checkout, LayoutImage, RequestLog, run_tool, skopeo_copy

pytestmark = pytest.mark.integration

LIBRARY = "usr/local/lib/python3.11/dist-packages"
NETRC_PASSWORD = f"netrc-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def hub_with_login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("hub"), login=True) as found:
        yield found


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A private index that asks for a password."""
    fake = FakeIndex()
    fake.password = NETRC_PASSWORD
    code = b"'''of a private index'''\nx = 1 in {'a', 'b', 'c'}\n"
    wheel = make_wheel(tmp_path_factory.mktemp("wheels"), "secret_kit", files={"secret_kit/__init__.py": code})
    fake.add_file("secret-kit", wheel.name, wheel.read_bytes())
    with fake.serve() as address:
        yield address
    assert any(base64.b64encode(f"robot:{NETRC_PASSWORD}".encode()).decode() in item for item in fake.authorizations)


@pytest.fixture(scope="module")
def checkout(built: Built, index: str, hub_with_login: Registry, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """Small teams on the starter base: ``tiny`` with one wheel, ``drawing`` with graphviz; credentials of index and registry at hand."""
    need_docker()
    fork = built.checkout.fork(tmp_path_factory.mktemp("docker-engine"))
    home = fork.root / "home"
    home.mkdir()
    netrc = home / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login robot password {NETRC_PASSWORD}\n")
    netrc.chmod(0o600)
    fork.settings.update(HOME=str(home), DOCKER_CONFIG=str(hub_with_login.write_docker_config(home / ".docker")))
    # What a Dockerfile, a shell and a bake file each read in their own way.
    head = 'base = "starter"\ndescription = "100 % ${HOME} %{x}, \\"quoted\\""\n'
    table = head + f'[[index]]\nname = "corp"\nurl = "{index}"\ndefault = true\n'
    for team, more in (("tiny", ""), ("drawing", '[system]\npackages = ["graphviz"]\n')):
        fork.write(f"images/{team}/team.toml", table + more)
        fork.write(f"images/{team}/requirements.in", "secret-kit\n")
        fork.run("lock", team).succeeded()
    return fork


def fork_unbuilt(checkout: Checkout, folder: Path, team: str = "tiny") -> Checkout:
    """A copy in which ``team`` has another tag, so that nothing of it is there yet."""
    fork = replace(checkout.fork(folder), settings=dict(checkout.settings))
    fork.edit(f"images/{team}/team.toml", 'base = "starter"', f'base = "starter"\ndisplay-name = "{folder.parent.name}"')
    return fork


def build_twice(checkout: Checkout, team: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Plan, list[ForeignLayer]]:
    """Two builds of which the second finds nothing of the first in the builder's cache."""
    for name, value in checkout.settings.items():
        monkeypatch.setenv(name, value)
    workspace = Workspace(checkout.root, checkout.cache, quiet=True)
    plan = plan_image(workspace, team, cutoff="", locked=True, engine="docker")
    context, _ = prepare_context(workspace, plan)
    fresh = DockerOptions(cache=False)
    layers = [build_docker_layer(workspace, plan, context, folder / str(number), fresh).layer for number in range(2)]
    return plan, layers


def read_manifest(checkout: Checkout, registry: Registry, repository: str, tag: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Manifest and config as crane reads them, with the registry's login."""
    name = f"{registry.host}/{repository}:{tag}"
    return read_with_crane(checkout, "manifest", name), read_with_crane(checkout, "config", name)


def read_with_crane(checkout: Checkout, part: str, name: str) -> dict[str, Any]:
    command = [need("crane"), part, name, "--insecure"]
    return cast("dict[str, Any]", json.loads(subprocess.check_output(command, env={**os.environ, **checkout.settings})))


# --- the layer --------------------------------------------------------------------------------------------------------


def test_two_builds_give_the_same_layer_and_nothing_of_the_build_is_in_it(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, (first, second) = build_twice(checkout, "tiny", tmp_path, monkeypatch)
    assert (first.diff_id, first.digest) == (second.diff_id, second.digest)
    assert first.system is None
    assert [(item.package, item.version) for item in first.packages] == [("secret-kit", "1.0")]
    from imagebuild.recipe import created_epoch

    assert first.newest == created_epoch(plan.recipe.created)
    # Our own audit with no allowance but the slash at the end of folders' names ...
    check_layers(TeamLayers((first,)), base=plan.base, extra=plan.recipe.extra_files, foreign=True)
    # ... and by another reader, the whole list.
    listed = {name.rstrip("/") for name in subprocess.check_output(["tar", "--zstd", "-tf", str(first.blob)], text=True).splitlines()}
    assert {name for name in listed if not re.fullmatch(r"(usr(/local(/lib(/python3\.11(/dist-packages)?)?)?)?|etc)", name)} == {
        "etc/imagebuild",
        "etc/imagebuild/constraints.txt",
        *(f"{LIBRARY}/secret_kit{part}" for part in ("", "/__init__.py", "/__pycache__", "/__pycache__/__init__.cpython-311.pyc")),
        *(f"{LIBRARY}/secret_kit-1.0.dist-info{part}" for part in ("", "/INSTALLER", "/METADATA", "/RECORD", "/REQUESTED", "/WHEEL")),
    }


def test_a_builder_that_leaves_timestamps_alone_is_told(
    checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same engine, not asked to rewrite them: what an older BuildKit does with an option it does not know."""
    for name, value in checkout.settings.items():
        monkeypatch.setenv(name, value)

    def forget(*arguments: Any, **options: Any) -> docker_engine.BuildInputs:
        inputs = make_build_inputs(*arguments, **options)
        return msgspec.structs.replace(inputs, output={k: v for k, v in inputs.output.items() if k != "rewrite-timestamp"})

    make_build_inputs = docker_engine.make_build_inputs
    monkeypatch.setattr(docker_engine, "make_build_inputs", forget)
    workspace = Workspace(checkout.root, checkout.cache)
    plan = plan_image(workspace, "tiny", cutoff="", locked=True, engine="docker")
    context, _ = prepare_context(workspace, plan)
    build_docker_layer(workspace, plan, context, tmp_path / "layer", DockerOptions())
    told = [line for line in capsys.readouterr().err.splitlines() if "timestamps" in line]
    assert told == ["tiny: docker cannot rewrite timestamps: another build of this lock will have another diff_id"]


def test_gzip_over_a_zstd_base_leaves_the_base_as_it_is(checkout: Checkout, built: Built, tmp_path: Path) -> None:
    fork = checkout.fork(tmp_path / "fork")
    fork.edit("images/tiny/team.toml", "[[index]]", '[layer]\ncompression = "gzip"\n[[index]]')
    result = fork.image("tiny", "--engine", "docker", "--builder", "default")
    image = LayoutImage.named(fork.layout, f"tiny:{result['tag']}")
    assert image.layers[:-1] == built.base.layers
    assert {item["mediaType"] for item in image.layers[:-1]} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    assert image.layers[-1]["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"
    assert image.diff_ids[:-1] == built.base.diff_ids


def test_a_schema_2_base_in_a_registry_with_a_login(checkout: Checkout, built: Built, hub_with_login: Registry, tmp_path: Path) -> None:
    """The builder pulls it with the docker client's login, and its layers are mounted when the image is pushed beside it."""
    registry = hub_with_login
    login = f"{registry.username}:{registry.password}"
    source, gzipped, target = (
        f"oci:{built.checkout.layout}:bases/starter:latest",
        f"oci:{tmp_path}/gzip:1",
        f"docker://{registry.host}/bases/starter:1",
    )
    skopeo_copy(source, gzipped, "--dest-compress", "--dest-compress-format=gzip", "--dest-compress-level=1")
    skopeo_copy(gzipped, target, "--dest-creds", login, "--format", "v2s2")
    raw = run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", "--creds", login, target)
    digest = "sha256:" + hashlib.sha256(raw).hexdigest()
    fork = replace(checkout.fork(tmp_path / "fork"), settings=dict(checkout.settings))
    fork.use_base("remote", f"{registry.host}/bases/starter", digest)
    fork.edit("images/tiny/team.toml", 'base = "starter"', 'base = "remote"')
    fork.run("lock", "tiny").succeeded()
    result = fork.image("tiny", "--engine", "docker", "--registry", f"{registry.host}/remote")
    manifest, config = read_manifest(checkout, registry, "remote/tiny", result["tag"])
    assert [item["digest"] for item in manifest["layers"][:-1]] == [item["digest"] for item in json.loads(raw)["layers"]]
    assert [item["mediaType"].rpartition("+")[2] for item in manifest["layers"]] == ["gzip", "gzip", "zstd"]
    assert config["rootfs"]["diff_ids"][:-1] == built.base.diff_ids


# --- the image, the push, and no secret anywhere ----------------------------------------------------------------------


def test_both_engines_push_the_same_annotations_and_no_secret_is_in_anything(checkout: Checkout, hub_with_login: Registry) -> None:
    registry = hub_with_login
    options = ("--registry", f"{registry.host}/both", "--copy-base")
    docker = checkout.image("tiny", "--engine", "docker", *options)
    direct = checkout.image("tiny", "--engine", "direct", *options)
    assert (docker["engine"], direct["engine"]) == ("docker", "direct")
    assert docker["tag"] != direct["tag"]
    again = checkout.image("tiny", "--engine", "docker", *options)
    assert (again["built"], again["digest"]) == (False, docker["digest"])
    by_docker, by_direct = (read_manifest(checkout, registry, "both/tiny", item["tag"]) for item in (docker, direct))
    moving = {names.KEY, names.VERSION, names.DELTA_COMPRESSED, names.DELTA_INSTALLED}
    for one, other in (
        (by_docker[0]["annotations"], by_direct[0]["annotations"]),
        (by_docker[1]["config"]["Labels"], by_direct[1]["config"]["Labels"]),
    ):
        assert one.keys() == other.keys()
        assert {key for key in one if one[key] != other[key]} <= moving
    assert {**by_docker[1]["config"], "Labels": {}} == {**by_direct[1]["config"], "Labels": {}}
    assert len(by_docker[1]["history"]) == len(by_docker[1]["rootfs"]["diff_ids"])

    # A real push with a real login, a real fetch with a real login: neither is in anything that was made.
    checkout.run("bake", "tiny", "drawing", *options[:2], "-o", str(checkout.root / "pushed-bake.json")).succeeded()
    logins = (f"robot:{NETRC_PASSWORD}", f"{registry.username}:{registry.password}")
    needles = [
        text.encode() for text in (NETRC_PASSWORD, registry.password, *(base64.b64encode(item.encode()).decode() for item in logins))
    ]
    haystack: dict[str, bytes] = {"manifest": json.dumps(by_docker[0]).encode(), "config": json.dumps(by_docker[1]).encode()}
    layer = by_docker[0]["layers"][-1]["digest"]
    stored = registry.storage / f"docker/registry/v2/blobs/sha256/{layer[7:9]}/{layer[7:]}/data"
    haystack["layer"] = subprocess.check_output([need("zstd"), "-dcq", str(stored)])
    for folder in (checkout.root / ".imagebuild" / "builds", checkout.root / "lockfiles"):
        haystack |= {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    haystack["bake"] = (checkout.root / "pushed-bake.json").read_bytes()
    assert b"of a private index" in haystack["layer"]
    assert [(name, needle) for name, data in haystack.items() for needle in needles if needle in data] == []


# --- another builder --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def remote_builder(checkout: Checkout) -> Iterator[str]:
    with run_remote_builder(checkout.settings) as name:
        yield name


def test_a_remote_builder_gives_the_same_image(checkout: Checkout, remote_builder: str, tmp_path: Path) -> None:
    mine = fork_unbuilt(checkout, tmp_path / "one").image("tiny", "--engine", "docker")
    theirs = fork_unbuilt(checkout, tmp_path / "two").image("tiny", "--engine", "docker", "--builder", remote_builder)
    assert (theirs["built"], theirs["tag"], theirs["digest"]) == (True, mine["tag"], mine["digest"])


def test_buildkit_pushes_what_imagebuild_would(checkout: Checkout, hub_with_login: Registry, remote_builder: str) -> None:
    registry = hub_with_login
    mine = checkout.image("tiny", "--engine", "docker", "--registry", f"{registry.host}/mine", "--copy-base")
    log = RequestLog(registry)
    builder = ("--engine", "docker", "--builder", remote_builder, "--push", "--registry", f"{registry.host}/pushed")
    theirs = checkout.image("tiny", *builder)
    assert (theirs["built"], theirs["tag"], theirs["digest"]) == (True, mine["tag"], mine["digest"])
    assert read_manifest(checkout, registry, "pushed/tiny", mine["tag"]) == read_manifest(checkout, registry, "mine/tiny", mine["tag"])
    uploads = [agent for method, path, agent in log.read_agents() if method == "PUT" and "/blobs/uploads/" in path]
    assert len([agent for agent in uploads if agent == "buildkit"]) >= 3  # two layers of the base, and the new one
    # The layer is not among ours: only the config and what refers to the image.
    name = f"{registry.host}/pushed/tiny"
    listed = read_with_crane(checkout, "manifest", f"{name}:{mine['digest'].replace(':', '-')}")["manifests"]
    companions = [read_with_crane(checkout, "manifest", f"{name}@{item['digest']}") for item in listed]
    small = {blob["digest"] for item in companions for blob in (item["config"], *item["layers"])}
    assert uploads.count("imagebuild") == 1 + len(small)
    again = checkout.image("tiny", *builder)
    assert (again["built"], again["digest"]) == (False, mine["digest"])


def test_over_budget_nothing_has_the_tag_though_buildkit_pushed(
    checkout: Checkout, hub_with_login: Registry, remote_builder: str, tmp_path: Path
) -> None:
    registry = hub_with_login
    fork = fork_unbuilt(checkout, tmp_path / "fork")
    predicted = json.loads(fork.run("size", "tiny", "--json").succeeded().out)["compressed"]
    # So little less that the prediction alone is no reason to refuse: it is the layer that is judged.
    fork.edit("images/tiny/team.toml", "[[index]]", f"[budget]\ncompressed = {predicted * 100 // 109}\n[[index]]")
    target = f"{registry.host}/over"
    done = fork.run("image", "tiny", "--engine", "docker", "--builder", remote_builder, "--push", "--registry", target)
    done.refused(5, "budget: .*; nothing was pushed")
    listed = subprocess.run(
        [need("crane"), "ls", f"{target}/tiny", "--insecure"],
        env={**os.environ, **fork.settings},
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.stdout.split() == []


def test_the_engines_own_builder_cannot_push(checkout: Checkout, hub_with_login: Registry, tmp_path: Path) -> None:
    fork = fork_unbuilt(checkout, tmp_path / "fork")
    target = ("--registry", f"{hub_with_login.host}/own")
    fork.run("image", "tiny", "--engine", "docker", "--push", *target).refused(3, "own builder cannot push", hint="--builder NAME")
    fork.run("image", "tiny", "--engine", "docker", "--push").refused(2, "--push needs a registry", hint="--registry")
    fork.run("image", "tiny", "--engine", "direct", "--push", *target).refused(2, "direct engine", hint="--engine docker")


def test_provenance_on_request_stands_beside_the_image(checkout: Checkout, hub_with_login: Registry) -> None:
    registry = hub_with_login
    options = ("--engine", "docker", "--registry", f"{registry.host}/attested", "--copy-base")
    plain = checkout.image("tiny", *options)
    asked = checkout.image("tiny", *options, "--attest", "provenance")
    assert (asked["built"], asked["digest"]) == (True, plain["digest"])  # the image is the one without
    environment = {**os.environ, **checkout.settings}
    command = [need_docker(), "buildx", "imagetools", "inspect", f"{asked['image']}:{asked['attested']}", "--format"]
    said = subprocess.run([*command, "{{json .Provenance}}"], env=environment, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["SLSA"]["buildDefinition" if "buildDefinition" in said.stdout else "buildType"]
    assert NETRC_PASSWORD not in said.stdout
    assert registry.password not in said.stdout
    index = json.loads(
        subprocess.check_output([need("crane"), "manifest", f"{asked['image']}:{asked['attested']}", "--insecure"], env=environment)
    )
    assert index["manifests"][0]["digest"] == plain["digest"]
    again = checkout.image("tiny", *options, "--attest", "provenance")
    assert again["built"] is False
    listed = json.loads(checkout.run("catalogue", "--format", "json", *options[2:4]).succeeded().out)
    assert {item["digest"] for item in listed["entries"] if item["team"] == "tiny"} == {plain["digest"]}


# --- Debian packages --------------------------------------------------------------------------------------------------


def test_apt_packages_are_in_the_same_layer_and_recorded(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = need_docker()
    plan, (first, second) = build_twice(checkout, "drawing", tmp_path, monkeypatch)
    assert first.diff_id == second.diff_id
    assert first.system is not None
    assert first.system.versions["graphviz"].startswith("2.")
    assert {"graphviz (apt)", "secret-kit"} <= {item.package for item in first.packages}
    with pytest.raises(Exception, match=r"the layer breaks \d+ rules"):  # without what dpkg may do it is no clean layer
        check_layers(TeamLayers((first,)), base=plan.base, extra=plan.recipe.extra_files, foreign=True)

    result = checkout.image("drawing", "--load")  # auto: docker, because system packages are asked for
    assert result["engine"] == "docker"
    image = LayoutImage.named(checkout.layout, f"drawing:{result['tag']}")
    assert image.diff_ids[-1] == first.diff_id
    assert json.loads(image.manifest["annotations"][names.SYSTEM]) == first.system.versions
    content = image.read_layer()
    assert not [
        name for name in content if re.match(r"var/(lib/apt/lists|cache/apt|cache/ldconfig|log)/.|(run|tmp|home)/.|etc/apt/.", name)
    ]
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    lines = choose_sources(parse_apt_sources(path.read_text(errors="replace") for path in files if path.is_file()))
    addresses = {address for line in lines for address in re.findall(r"https?://\S+", line)}
    assert addresses
    everything = [data for _, data in content.values()] + [image.raw, json.dumps(image.config).encode()]
    assert not [address for address in addresses for data in everything if address.encode() in data]
    try:
        script = (
            "echo 'digraph { a -> b }' | dot -Tsvg | grep -q '<svg' && test -z \"$(dpkg --audit)\" && dpkg -s graphviz | grep ^Version"
            " && python3 -c 'import secret_kit; print(secret_kit.__cached__)' && id -u && cat /etc/apt/sources.list"
        )
        said = subprocess.run(
            [client, "run", "--rm", "--network", "none", "--entrypoint", "sh", result["loaded"], "-ec", script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert said.stdout.splitlines() == [
            f"Version: {first.system.versions['graphviz']}",
            f"/{LIBRARY}/secret_kit/__pycache__/__init__.cpython-311.pyc",
            "1000",
        ]
    finally:
        subprocess.run([client, "image", "rm", "-f", result["loaded"]], capture_output=True, check=False)


# --- bake -------------------------------------------------------------------------------------------------------------


def test_the_bake_file_builds_as_it_stands_and_pushes(checkout: Checkout, hub_with_login: Registry) -> None:
    client, registry = need_docker(), hub_with_login
    file = checkout.root / "docker-bake.json"
    checkout.run("bake", "tiny", "drawing", "-o", str(file), "--registry", f"{registry.host}/baked").succeeded()
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", **checkout.settings}

    def bake(*options: str) -> None:
        command = [client, "buildx", "bake", "-f", "docker-bake.json", "--progress", "plain", *options]
        done = subprocess.run(command, cwd=checkout.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    bake()
    for team in ("tiny", "drawing"):
        baked = LayoutImage.named(checkout.root / ".imagebuild" / "bake" / team)
        mine = checkout.image(team, "--engine", "docker")
        image = LayoutImage.named(checkout.layout, f"{team}:{mine['tag']}")
        assert baked.diff_ids == image.diff_ids
        assert baked.config["config"] == image.config["config"]
        later = {names.DELTA_COMPRESSED, names.DELTA_INSTALLED, names.SYSTEM}  # known once the layer is
        assert baked.manifest["annotations"] == {k: v for k, v in image.manifest["annotations"].items() if k not in later}

    # This engine's own driver cannot push rewritten layers; any other builder pushes what `bake --push` writes.
    mine = checkout.image("tiny", "--engine", "docker")
    bake("--set", "*.output=type=registry,oci-mediatypes=true,compression=zstd", "tiny")
    subprocess.run(
        [client, "image", "rm", "-f", f"{registry.host}/baked/tiny:{mine['tag']}"], capture_output=True, check=False
    )  # its copy here
    manifest, config = read_manifest(checkout, registry, "baked/tiny", mine["tag"])
    image = LayoutImage.named(checkout.layout, f"tiny:{mine['tag']}")
    assert manifest["annotations"].items() <= image.manifest["annotations"].items()
    assert manifest["annotations"][names.VERSION] == mine["tag"]
    assert config["config"]["Labels"] == image.config["config"]["Labels"]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_package_apt_does_not_know_is_named(checkout: Checkout, tmp_path: Path) -> None:
    fork = checkout.fork(tmp_path / "fork")
    fork.edit("images/drawing/team.toml", '"graphviz"', '"no-such-package-of-ours"')
    fork.run("image", "drawing").refused(7, r"the build's RUN failed: Unable to locate package no-such-package-of-ours", hint="builds")


def test_the_direct_engine_refuses_system_packages(checkout: Checkout) -> None:
    checkout.run("image", "drawing", "--engine", "direct").refused(3, r"cannot install system packages \(graphviz\)", hint="docker")


def test_a_builder_nobody_made(checkout: Checkout, tmp_path: Path) -> None:
    fork = fork_unbuilt(checkout, tmp_path / "fork")
    fork.run("image", "tiny", "--engine", "docker", "--builder", "nobody").refused(3, r"there is no builder 'nobody'", hint="buildx ls")


def test_no_engine_no_buildx_no_docker(checkout: Checkout, tmp_path: Path) -> None:
    fork = fork_unbuilt(checkout, tmp_path / "fork")
    fork.settings["DOCKER_HOST"] = f"unix://{tmp_path}/nobody.sock"
    fork.run("image", "tiny", "--engine", "docker").refused(3, r"the docker engine does not answer", hint="systemctl start docker")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    fork.settings["PATH"] = str(bin_folder)
    fork.run("image", "tiny", "--engine", "docker").refused(3, r"no docker client on PATH", hint="install Docker Engine")
    # A client without plugins says this of any command it does not know.
    (bin_folder / "docker").write_text('#!/bin/sh\necho "docker: unknown command: docker $1" >&2\nexit 1\n')
    (bin_folder / "docker").chmod(0o755)
    fork.run("image", "tiny", "--engine", "docker").refused(3, r"has no buildx", hint="buildx")


def test_a_layer_that_is_not_one_is_refused(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Dockerfile that was changed by hand."""
    workspace = Workspace(checkout.root, checkout.cache, quiet=True)
    plan = plan_image(workspace, "tiny", cutoff="", locked=True, engine="docker")
    for name, value in checkout.settings.items():
        monkeypatch.setenv(name, value)
    context, _ = prepare_context(workspace, plan)
    file = context / "Dockerfile"
    text = file.read_text()
    try:
        file.write_text(text + "USER root\nRUN --network=none touch /opt/more\n")
        with pytest.raises(BuildError, match="the builder added 2 layers, not one"):
            build_docker_layer(workspace, plan, context, tmp_path / "layer", DockerOptions())
        assert not (tmp_path / "layer").exists()
    finally:
        file.write_text(text)
