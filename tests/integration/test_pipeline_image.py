"""The main job end to end, its result read by skopeo, umoci and crane: what is pushed, what is not, and that it repeats."""

from __future__ import annotations

import json
import os
import re
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from ruamel.yaml import YAML

from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.workspaces import (
    Built,
    Checkout,
    LayoutImage,
    RequestLog,
    copy_project,
    hash_stream,
    path_of,
    read_companions,
    run_inside,
    run_tool,
    skopeo_copy,
    unpack,
)

pytestmark = pytest.mark.integration

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
ZSTD_LAYER = "application/vnd.oci.image.layer.v1.tar+zstd"
WANTED = ("pandas/__init__.py", "sklearn/__init__.py", "numpy/__init__.py", "cosml_utils/churn.py", "scipy/__init__.py")
LIBRARY = "usr/local/lib/python3.11/dist-packages"


# --- in the layout folder ---------------------------------------------------------------------------------------------


def test_the_manifest_is_the_base_and_one_layer(built: Built) -> None:
    image, base = built.image, built.base
    assert image.digest == built.result["digest"]
    assert image.manifest["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert image.layers[:-1] == base.layers
    assert image.layers[-1]["mediaType"] == ZSTD_LAYER
    assert image.diff_ids[:-1] == base.diff_ids
    assert len(image.diff_ids) == len(image.layers)
    assert image.config["history"][:-1] == base.config["history"]
    assert len([item for item in image.config["history"] if not item.get("empty_layer")]) == len(image.layers)


def test_the_config_is_the_base_s_but_for_what_was_added(built: Built) -> None:
    config, base = built.image.config["config"], built.base.config["config"]
    assert base["User"] == "1000"
    for key in base:
        if key not in ("Env", "Labels"):
            assert config[key] == base[key], key
    assert set(config) - set(base) <= {"Labels"}
    assert config["Env"] == [*base["Env"], "PIP_CONSTRAINT=/etc/imagebuild/constraints.txt"]
    for key in ("architecture", "os"):
        assert built.image.config[key] == built.base.config[key]


def test_digests_and_sizes_are_those_of_the_bytes(built: Built) -> None:
    for image in (built.image, built.base):
        for index, (layer, diff_id) in enumerate(zip(image.layers, image.diff_ids, strict=True)):
            path = image.path(layer["digest"])
            assert hash_stream(path.open("rb")) == layer["digest"]
            assert path.stat().st_size == layer["size"]
            assert hash_stream(image.open_layer(index)) == diff_id
    assert int(built.image.manifest["annotations"]["dev.imagebuild.delta.compressed"]) == built.image.layers[-1]["size"]


def test_skopeo_reads_and_copies_the_layout(built: Built, tmp_path: Path) -> None:
    source = f"oci:{built.checkout.layout}:cosml:{built.tag}"
    seen = json.loads(run_tool("skopeo", "inspect", source))
    assert seen["Digest"] == built.result["digest"]
    assert seen["Layers"] == [layer["digest"] for layer in built.image.layers]
    assert seen["Labels"]["dev.imagebuild.team"] == "cosml"
    assert "PIP_CONSTRAINT=/etc/imagebuild/constraints.txt" in seen["Env"]
    skopeo_copy(source, f"oci:{tmp_path}/other:x", "--preserve-digests")
    copy = LayoutImage.named(tmp_path / "other", "x")
    assert copy.raw == built.image.raw
    assert hash_stream(copy.open_layer()) == built.image.diff_ids[-1]


def test_no_lock_holds_an_address(built: Built) -> None:
    locks = [path for path in (built.checkout.root / "lockfiles").rglob("*") if path.is_file()]
    assert {path.name for path in locks} >= {"pylock.cosml.toml", "starter.json"}
    for path in locks:
        assert "://" not in path.read_text(encoding="utf-8"), path.name


def test_what_is_in_the_checkout_stays_as_it_was_committed(built: Built, tmp_path: Path) -> None:
    fresh = copy_project(tmp_path / "fresh").root
    for folder in ("images", "lockfiles"):
        names = {path.relative_to(fresh) for path in (fresh / folder).rglob("*") if path.is_file()}
        assert names == {path.relative_to(built.checkout.root) for path in (built.checkout.root / folder).rglob("*") if path.is_file()}
        for name in names:
            assert (fresh / name).read_bytes() == (built.checkout.root / name).read_bytes(), name


def test_the_second_run_does_nothing(built: Built) -> None:
    def snapshot() -> dict[str, tuple[int, int]]:
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in built.checkout.layout.rglob("*") if path.is_file()}

    before = snapshot()
    again = built.checkout.image("cosml")
    assert again["built"] is False
    assert (again["digest"], again["tag"]) == (built.result["digest"], built.tag)
    assert snapshot() == before


# --- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ['compression = "zstd"\nsingle-stream = true'], ids=["single-stream"])
def test_another_compression_is_the_same_layer(built: Built, tmp_path: Path, options: str) -> None:
    fork = built.checkout.fork(tmp_path)
    fork.write("images/cosml/team.toml", (fork.root / "images/cosml/team.toml").read_text() + f"\n[layer]\n{options}\n")
    result = fork.image("cosml")
    assert result["tag"] != built.tag
    image = LayoutImage.named(fork.layout, f"cosml:{result['tag']}")
    assert image.layers[-1]["digest"] != built.image.layers[-1]["digest"]
    assert image.diff_ids == built.image.diff_ids
    # One frame: a reader that stops at the first frame's end has everything.
    with image.path(image.layers[-1]["digest"]).open("rb") as stored:
        whole = hash_stream(zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=False))
    assert whole == image.diff_ids[-1]


@dataclass(frozen=True)
class Gzipped:
    """The team with gzip, on a gzip copy of the base in a registry: all that crane's validation reads."""

    checkout: Checkout
    registry: Registry
    result: dict[str, str]
    requests: list[tuple[str, str]]
    base_layers: list[str]

    @property
    def name(self) -> str:
        return f"{self.registry.host}/gzipped/cosml:{self.result['tag']}"


@pytest.fixture(scope="module")
def gzipped(built: Built, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Gzipped:
    need("skopeo")
    fork = built.checkout.fork(tmp_path_factory.mktemp("gzipped"))
    base = f"{hub.host}/library/starter-gzip"
    # By way of a new folder: straight into the registry, skopeo would take zstd blobs it remembers there for the same layers.
    copy = f"oci:{fork.root}/gzip:base"
    zipped = ["--dest-compress", "--dest-compress-format=gzip", "--dest-compress-level=1"]
    skopeo_copy(f"oci:{fork.layout}:bases/starter:latest", copy, *zipped)
    skopeo_copy(copy, f"docker://{base}:1", "--preserve-digests")
    seen = json.loads(run_tool("skopeo", "inspect", "--tls-verify=false", f"docker://{base}:1"))
    fork.use_base("starter", base, seen["Digest"])
    fork.write("images/cosml/team.toml", (fork.root / "images/cosml/team.toml").read_text() + '\n[layer]\ncompression = "gzip"\n')
    log = RequestLog(hub)
    result = fork.image("cosml", "--registry", f"{hub.host}/gzipped")
    return Gzipped(fork, hub, result, log.read(), seen["Layers"])


def test_gzip_and_zstd_are_one_layer(built: Built, gzipped: Gzipped) -> None:
    config = json.loads(run_tool("crane", "config", "--insecure", gzipped.name))
    manifest = json.loads(run_tool("crane", "manifest", "--insecure", gzipped.name))
    assert config["rootfs"]["diff_ids"] == built.image.diff_ids
    assert {layer["mediaType"] for layer in manifest["layers"]} == {GZIP_LAYER}


def test_crane_finds_it_valid(gzipped: Gzipped) -> None:
    run_tool("crane", "validate", "--insecure", "--remote", gzipped.name)
    assert run_tool("crane", "digest", "--insecure", gzipped.name).decode().strip() == gzipped.result["digest"]


def test_umoci_unpacks_it_over_an_unchanged_base(built: Built, gzipped: Gzipped, tmp_path: Path) -> None:
    rootfs = unpack(f"docker://{gzipped.name}", tmp_path)  # umoci of Debian 12 reads gzip only; the diff_ids are the same
    base: dict[str, tarfile.TarInfo] = {}
    for index in range(len(built.base.layers)):
        base |= built.base.read_headers(index)
    added = built.image.read_layer()
    for name, mode in (("tmp", 0o1777), ("usr", 0o755), (LIBRARY, 0o755), ("home/jovyan", 0o775)):
        assert stat.S_IMODE((rootfs / name).lstat().st_mode) == mode == base[name].mode & 0o7777, name
    owners = os.geteuid() == 0  # an ordinary user cannot give files away
    for name, item in base.items():
        found = (rootfs / name).lstat()
        if item.issym():
            assert str((rootfs / name).readlink()) == item.linkname
            continue
        assert stat.S_IMODE(found.st_mode) == item.mode & 0o7777, name
        assert not owners or (found.st_uid, found.st_gid) == (item.uid, item.gid), name
        if item.isreg():
            assert found.st_size == item.size, name
    for name, (item, content) in added.items():
        found = (rootfs / name).lstat()
        assert item.isdir() or item.isreg(), name
        assert item.isdir() or name not in base, f"{name} of the base is replaced"
        assert (item.uid, item.gid) == (0, 0), name
        assert not item.isreg() or item.mode in (0o644, 0o755), name
        assert stat.S_IMODE(found.st_mode) == item.mode, name
        assert stat.S_ISDIR(found.st_mode) == item.isdir(), name
        if item.isreg():
            assert (rootfs / name).read_bytes() == content, name
    for name in WANTED:
        assert f"{LIBRARY}/{name}" in added, name
        folder, _slash, file = name.rpartition("/")
        assert (rootfs / LIBRARY / folder / "__pycache__" / f"{file[:-3]}.cpython-311.pyc").is_file(), name
    assert not [name for name in added if name.startswith(("home", "tmp", "root", "run", "var"))]
    script = "import pandas, sklearn, cosml_utils; print(pandas.__version__, sklearn.__version__)"
    assert run_inside(rootfs, "/usr/bin/python3", "-c", script).split() == ["2.2.3", "1.5.2"]


# --- in a registry ----------------------------------------------------------------------------------------------------


def uploads(requests: list[tuple[str, str]]) -> list[str]:
    """Digests of the blobs that were uploaded."""
    found = [
        re.search(r"[?&]digest=(sha256%3A|sha256:)([0-9a-f]{64})", path) for path in path_of(requests, "PUT") if "/manifests/" not in path
    ]
    assert None not in found
    return [f"sha256:{match[2]}" for match in found if match]


def test_a_base_of_the_same_registry_is_mounted(gzipped: Gzipped) -> None:
    manifest = json.loads(run_tool("crane", "manifest", "--insecure", gzipped.name))
    assert [layer["digest"] for layer in manifest["layers"][:-1]] == gzipped.base_layers
    companions = read_companions(gzipped.registry, "gzipped/cosml", gzipped.result["digest"])
    small = {blob["digest"] for item in companions for blob in (item["config"], *item["layers"])}
    assert set(uploads(gzipped.requests)) == {manifest["layers"][-1]["digest"], manifest["config"]["digest"], *small}
    mounts = [path for path in path_of(gzipped.requests, "POST") if "mount=" in path]
    assert len(mounts) == len(gzipped.base_layers)
    assert all("from=library%2Fstarter-gzip" in path or "from=library/starter-gzip" in path for path in mounts)
    tag = gzipped.result["tag"]
    assert path_of(gzipped.requests, "PUT")[-1] == f"/v2/gzipped/cosml/manifests/{tag}"  # last, when all it names is there


def test_the_second_run_is_one_head(gzipped: Gzipped) -> None:
    log = RequestLog(gzipped.registry)
    again = gzipped.checkout.image("cosml", "--registry", f"{gzipped.registry.host}/gzipped")
    assert (again["built"], again["digest"]) == (False, gzipped.result["digest"])
    assert log.read() == [("HEAD", f"/v2/gzipped/cosml/manifests/{again['tag']}")]


def test_over_budget_nothing_is_pushed(gzipped: Gzipped) -> None:
    log = RequestLog(gzipped.registry)
    fork = gzipped.checkout.fork(gzipped.checkout.root.with_name("over-budget"))
    fork.edit("images/cosml/team.toml", '"150 MiB"', '"60 MiB"')
    fork.edit("images/cosml/team.toml", 'display-name = "COSML', 'display-name = "Over budget')  # another image: not there yet
    done = fork.run("image", "cosml", "--registry", f"{gzipped.registry.host}/gzipped")
    done.refused(5, "60.0 MiB", "scipy .*MiB", "pandas .*MiB", "numpy .*MiB", hint=".")
    assert {method for method, _path in log.read()} == {"HEAD"}
    listed = run_tool("crane", "ls", "--insecure", f"{gzipped.registry.host}/gzipped/cosml").decode().split()
    assert sorted(listed) == sorted([gzipped.result["tag"], gzipped.result["digest"].replace(":", "-")])


def test_copying_a_base_must_be_asked_for(built: Built, hub: Registry) -> None:
    log = RequestLog(hub)
    target = ("--registry", f"{hub.host}/copied")
    size = sum(layer["size"] for layer in built.base.layers) / (1 << 20)
    built.checkout.run("image", "cosml", *target).refused(6, "2 blobs", re.escape(f"({size:.1f} MiB)"), hint="--copy-base")
    assert not [method for method, _path in log.read() if method in ("PUT", "PATCH", "POST")]
    result = built.checkout.image("cosml", *target, "--copy-base")
    name = f"{hub.host}/copied/cosml:{built.tag}"
    assert result["digest"] == built.result["digest"]
    assert run_tool("crane", "manifest", "--insecure", name) == built.image.raw
    assert run_tool("crane", "config", "--insecure", name) == built.image.path(built.image.manifest["config"]["digest"]).read_bytes()
    for layer in built.image.layers:
        assert layer["digest"] in uploads(log.read())


# --- the two ends -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["layout", "registry"])
def pushed(request: pytest.FixtureRequest, built: Built) -> Callable[..., tuple[str, str, str]]:
    """Runs a command on what was pushed: its stdout, and the image's reference and digest in it."""

    def run(*arguments: str) -> tuple[str, str, str]:
        if request.param == "layout":
            out = built.checkout.run(*arguments, "--pull-from", "registry.example.com/ml").succeeded().out
            return out, "registry.example.com/ml/cosml", built.result["digest"]
        gzipped: Gzipped = request.getfixturevalue("gzipped")
        done = gzipped.checkout.run(*arguments, "--registry", f"{gzipped.registry.host}/gzipped").succeeded()
        return done.out, f"{gzipped.registry.host}/gzipped/cosml", gzipped.result["digest"]

    return run


def test_the_catalogue_says_what_was_pushed(built: Built, gzipped: Gzipped) -> None:
    for checkout, options, result in (
        (built.checkout, (), built.result),
        (gzipped.checkout, ("--registry", f"{gzipped.registry.host}/gzipped"), gzipped.result),
    ):
        (entry,) = json.loads(checkout.run("catalogue", "--format", "json", *options).succeeded().out)["entries"]
        assert (entry["team"], entry["tag"], entry["digest"]) == ("cosml", result["tag"], result["digest"])
        assert entry["title"] == "COSML: pandas and scikit-learn"
        assert entry["packages"] == {"cosml-utils": "1.4.0", "pandas": "2.2.3", "scikit-learn": "1.5.2"}


def test_the_spawner_form_offers_it(pushed: Callable[..., tuple[str, str, str]]) -> None:
    out, name, digest = pushed("catalogue", "--format", "kubeflow")
    (option,) = YAML(typ="safe").load(out)["spawnerFormDefaults"]["image"]["options"]
    assert re.fullmatch(re.escape(name) + r":[0-9]{4}q[1-4]-[0-9a-f]{12}@" + digest, option)


def test_prewarm_holds_it_on_the_pools_that_want_it(pushed: Callable[..., tuple[str, str, str]]) -> None:
    out, name, digest = pushed("prewarm")
    sets = [item for item in YAML(typ="safe").load_all(out) if item and item["kind"] == "DaemonSet"]
    assert len(sets) == 2
    for item in sets:
        volumes = [volume["image"]["reference"] for volume in item["spec"]["template"]["spec"]["volumes"] if "image" in volume]
        assert volumes == [f"{name}@{digest}"]


# --- again, elsewhere -------------------------------------------------------------------------------------------------


def test_an_empty_cache_in_another_folder_gives_the_same_image(built: Built, tmp_path: Path) -> None:
    """The starter base too: Debian's packages fetched again, under another umask, language, zone and hash seed."""
    other = copy_project(tmp_path / "a much longer path, with spaces" / "workspace")
    assert not other.cache.exists()
    settings = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "7", "SOURCE_DATE_EPOCH": "1"}
    result = Checkout(other.root, other.cache, settings).image("cosml", umask=0o077)
    assert result["built"] is True
    assert LayoutImage.named(other.layout, "bases/starter:latest").raw == built.base.raw
    assert (result["tag"], result["digest"]) == (built.tag, built.result["digest"])
    assert LayoutImage.named(other.layout, f"cosml:{built.tag}").raw == built.image.raw
