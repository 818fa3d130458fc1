"""Sizes beside tools that others wrote: crane and tar for the bytes, docker for its own image; budgets and slim end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.registry import Registry
from tests.support.tools import need, need_docker, need_index
from tests.support.workspaces import Built, Checkout, LayoutImage, RequestLog, run_tool, skopeo_copy

pytestmark = pytest.mark.integration


def size_of(checkout: Checkout, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(checkout.run("size", *arguments, "--json").succeeded().out)
    return found


def list_layer(name: str, digest: str, folder: Path) -> dict[str, int]:
    """Path -> bytes of a pushed layer's files, by crane, zstd or gzip, and tar."""
    blob = folder / "blob"
    blob.write_bytes(run_tool("crane", "blob", "--insecure", f"{name}@{digest}"))
    unpack = "zstd -dc" if blob.read_bytes()[:4] == b"\x28\xb5\x2f\xfd" else "gzip -dc"
    need("zstd")
    listed = subprocess.run(f"{unpack} blob | tar -tvf -", shell=True, cwd=folder, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=5) for line in listed.splitlines() if line.startswith("-")]
    return {"/" + row[5].removeprefix("./"): int(row[2]) for row in rows}


# --- our own image ----------------------------------------------------------------------------------------------------


def test_the_account_is_what_crane_and_tar_say_and_reads_one_layer_alone(built: Built, hub: Registry, tmp_path: Path) -> None:
    target = f"{hub.host}/sized"
    built.checkout.run("image", "cosml", "--registry", target, "--copy-base").succeeded()
    log = RequestLog(hub)
    report = size_of(built.checkout, f"cosml:{built.tag}", "--registry", target)
    manifest = json.loads(run_tool("crane", "manifest", "--insecure", f"{target}/cosml:{built.tag}"))
    blobs = {path.rpartition("/")[2] for method, path in log.read() if "/blobs/sha256" in path and method == "GET"}
    top = manifest["layers"][-1]
    assert not {layer["digest"] for layer in manifest["layers"][:-1]} & blobs  # nothing of the base
    assert report["fetched"] == report["compressed"] == top["size"] == int(manifest["annotations"]["dev.imagebuild.delta.compressed"])
    listed = list_layer(f"{target}/cosml", top["digest"], tmp_path)
    assert report["files"] == len(listed)
    assert report["installed"] == sum(listed.values()) == int(manifest["annotations"]["dev.imagebuild.delta.installed"])
    assert sum(item["installed"] for item in report["packages"]) == report["installed"]
    assert sum(item["compressed"] for item in report["packages"]) == pytest.approx(report["compressed"], rel=0.001)
    assert sum(report["kinds"].values()) == report["installed"]
    tests = sum(size for path, size in listed.items() if "/tests/" in path and ".dist-info/" not in path)
    assert report["kinds"]["tests"] == tests
    largest = sorted(listed.items(), key=lambda item: -item[1])[:10]
    assert [item["size"] for item in report["largest"]] == [size for _path, size in largest]
    pandas = next(item for item in report["packages"] if item["name"] == "pandas")
    by_folder = sum(size for path, size in listed.items() if "/pandas/" in path or "/pandas-" in path or "/pandas.libs/" in path)
    assert pandas["installed"] == by_folder
    assert pandas["chain"] == ["requirements.in", "pandas"]
    # Before the push the same was counted on the layer, and kept beside the Dockerfile; by member there, by position here.
    kept = json.loads((built.checkout.root / ".imagebuild" / "builds" / "cosml" / built.tag / "size.json").read_bytes())
    assert {key: kept[key] for key in ("compressed", "installed", "kinds", "files", "largest")} == {
        key: report[key] if key != "largest" else kept[key] for key in ("compressed", "installed", "kinds", "files", "largest")
    }
    members = {item["name"]: item["compressed"] for item in kept["packages"]}
    for item in report["packages"]:
        if item["compressed"] > 1 << 20:
            assert item["compressed"] == pytest.approx(members[item["name"]], rel=0.02)


def test_the_prediction_is_near_and_asks_nobody_when_the_wheels_are_known(built: Built) -> None:
    report = size_of(built.checkout, "cosml")
    assert report["source"] == "predicted"
    assert report["built"]["image"] == f"cosml:{built.tag}"
    for key in ("compressed", "installed"):
        assert report[key] == pytest.approx(report["built"][key], rel=0.05)
    assert not any(item["coarse"] for item in report["packages"])


# --- another program's ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Foreign:
    """An image that docker built on the starter base: two layers, the second deletes and replaces files of the first."""

    name: str
    base: str
    manifest: dict[str, Any]


@pytest.fixture(scope="module")
def foreign(built: Built, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Foreign]:
    docker = need_docker()
    folder = tmp_path_factory.mktemp("foreign")
    base, name = f"{hub.host}/foreign/starter:1", f"{hub.host}/foreign/app:1"
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{base}")
    wheels = built.checkout.root / ".imagebuild" / "builds" / "cosml" / built.tag / "wheels"
    for wheel in [*wheels.glob("joblib-*.whl"), *wheels.glob("threadpoolctl-*.whl")]:
        os.link(wheel, folder / wheel.name)
    (folder / "Dockerfile").write_text(
        f"FROM {base}\nUSER root\n"
        "RUN --network=none --mount=type=bind,target=/w python3 -m pip install --no-index --no-deps --break-system-packages --no-cache-dir "
        "/w/*.whl && head -c 50000 /dev/urandom > /opt/big && head -c 30000 /dev/urandom > /opt/replaced\n"
        "RUN --network=none rm /opt/big && echo small > /opt/replaced\nUSER 1000\n"
    )
    output = f"type=image,name={name},push=true,oci-mediatypes=true"
    run_tool(docker, "buildx", "build", "--quiet", "--provenance=false", "--output", output, str(folder))
    yield Foreign(name, base, json.loads(run_tool("crane", "manifest", "--insecure", name)))
    run_tool(docker, "image", "rm", "-f", name)


def test_an_image_of_another_program_is_measured_above_its_base(built: Built, foreign: Foreign, tmp_path: Path) -> None:
    named = size_of(built.checkout, foreign.name, "--base", foreign.base)
    known = size_of(built.checkout, foreign.name)
    assert (named["base_found"], known["base_found"]) == ("--base", "common layers")
    assert {**known, "base": "", "base_found": ""} == {**named, "base": "", "base_found": ""}
    added = foreign.manifest["layers"][-2:]
    assert named["layers"] == 2
    assert named["compressed"] == named["fetched"] == sum(layer["size"] for layer in added)
    repository = foreign.name.rpartition(":")[0]
    lower, upper = (list_layer(repository, layer["digest"], tmp_path) for layer in added)
    assert named["hidden"] == 50_000 + 30_000 == lower["/opt/big"] + lower["/opt/replaced"]
    view = {path: size for path, size in {**lower, **upper}.items() if "/.wh." not in path and path != "/opt/big"}
    assert named["installed"] == sum(view.values())
    assert {"joblib", "threadpoolctl"} <= {item["name"] for item in named["packages"]}
    # Docker counts what its snapshots take on the disk: whole blocks, and folders.
    docker = need_docker()
    rows = run_tool(docker, "history", "--human=false", "--format", "json", foreign.name).decode().splitlines()
    history = [json.loads(row) for row in rows]
    sizes = [int(row["Size"]) for row in history if "RUN" in row["CreatedBy"]][:2]
    for size, listed in zip(sizes, (upper, lower), strict=True):
        assert sum(listed.values()) <= size <= sum(listed.values()) + 8192 * (len(listed) + 100)
    layers = json.loads(run_tool(docker, "image", "inspect", foreign.name))[0]["RootFS"]["Layers"]
    assert len(layers) - named["layers"] == len(foreign.manifest["layers"]) - 2


def test_without_a_base_all_of_it_is_counted_and_said(foreign: Foreign, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    elsewhere = Checkout(tmp_path, tmp_path / "cache")
    report = size_of(elsewhere, foreign.name)
    assert (report["base_found"], report["layers"]) == ("nothing", len(foreign.manifest["layers"]))
    assert any("name it with --base" in note for note in report["notes"])
    assert any(item["name"].endswith(" (apt)") for item in report["packages"])
    elsewhere.run("size", foreign.name, "--base", foreign.name.replace("app:1", "nosuch:1")).refused(2, "there is no image")


# --- packages inside packages -----------------------------------------------------------------------------------------

# setuptools 80.9.0 brings 14 distributions in setuptools/_vendor, packaging 24.2, wheel 0.45.1 and zipp 3.19.2 among them.
VENDORING = {"setuptools": "80.9.0", "packaging": "25.0", "zipp": "3.23.0", "wheel": "0.45.1"}


def test_what_setuptools_carries_inside_itself_is_setuptools_in_size_and_diff(
    built: Built, foreign: Foreign, hub: Registry, tmp_path: Path
) -> None:
    wanted = [f"{name}=={version}" for name, version in VENDORING.items()]
    need_index("setuptools")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(tmp_path), *wanted]
    subprocess.run(command, check=True)
    name = f"{hub.host}/foreign/vendoring:1"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {foreign.base}\nUSER root\n"
        "RUN --network=none --mount=type=bind,target=/w python3 -m pip install -q --break-system-packages --no-deps --no-index "
        "--no-cache-dir --force-reinstall /w/*.whl\nUSER 1000\n"
    )
    output = f"type=image,name={name},push=true,oci-mediatypes=true"
    run_tool(need_docker(), "buildx", "build", "--quiet", "--provenance=false", "--output", output, str(tmp_path))
    report = size_of(built.checkout, name, "--base", foreign.base)
    packages = {item["name"]: item for item in report["packages"]}
    assert {key: item["version"] for key, item in packages.items() if key != "(no package)"} == VENDORING
    for key, item in packages.items():
        if key != "(no package)":  # what the wheel unpacks to, and what pip adds: INSTALLER, RECORD's new rows, bytecode
            (wheel,) = tmp_path.glob(f"{key}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                assert item["installed"] >= sum(member.file_size for member in archive.infolist() if "/RECORD" not in member.filename)
    assert packages.get("(no package)", {"installed": 0})["installed"] < 1000
    compared = json.loads(built.checkout.run("diff", foreign.base, name, "--format", "json").succeeded().out)
    versions = {item["name"]: item["after"]["version"] for item in compared["changes"]["packages"] if item["after"]}
    assert versions.items() >= VENDORING.items()
    run_tool(need_docker(), "image", "rm", "-f", name)


def test_the_docker_engine_counts_the_locks_packages_and_slims_these_alone(built: Built, tmp_path: Path) -> None:
    need_docker()
    fork = built.checkout.fork(tmp_path / "fork")
    wanted = {name: version for name, version in VENDORING.items() if name != "packaging"}  # the base has that
    fork.write("images/cosml/requirements.in", "".join(f"{name}=={version}\n" for name, version in wanted.items()))
    fork.edit("images/cosml/team.toml", "[budget]", 'engine = "docker"\nslim = ["tests", "pyi"]\n\n[budget]')
    fork.run("lock", "cosml").succeeded()
    result = fork.image("cosml")
    kept = json.loads((fork.root / ".imagebuild" / "builds" / "cosml" / result["tag"] / "size.json").read_bytes())
    locked = tomllib.loads((fork.root / "lockfiles/pylock.cosml.toml").read_text())["packages"]
    counted = {item["name"]: item["version"] for item in kept["packages"] if item["name"] != "(no package)"}
    assert counted == {item["name"]: item["version"] for item in locked}
    assert counted.items() >= wanted.items()
    assert sum(item["installed"] for item in kept["packages"]) == kept["installed"]
    twin = json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert twin["differences"] == []


# --- budgets, slim, diff ----------------------------------------------------------------------------------------------


@pytest.fixture
def fork(built: Built, tmp_path: Path) -> Checkout:
    return built.checkout.fork(tmp_path / "fork")


def test_a_package_and_growth_over_budget_are_refused_and_nothing_is_pushed(fork: Checkout) -> None:
    tags = {item["annotations"].get("org.opencontainers.image.ref.name") for item in read_index(fork)}
    fork.edit("images/cosml/team.toml", "[budget]", 'slim = ["pyi"]\n\n[budget]\npackages = { pandas = "60 MiB" }')
    fork.run("image", "cosml").refused(5, r"pandas .* MiB unpacked of 60\.0 MiB allowed", hint="requirements.in > pandas")
    fork.run("size", "cosml").refused(5, "pandas")
    fork.edit("images/cosml/team.toml", 'packages = { pandas = "60 MiB" }', 'growth = "0%"')
    fork.edit("images/cosml/team.toml", 'slim = ["pyi"]\n', 'env = { GROWN = "1" }\n')
    assert fork.image("cosml")["built"]  # as large as before is no growth
    fork.edit("images/cosml/requirements.in", "scikit-learn", "wheel\nscikit-learn")
    fork.run("lock", "cosml").succeeded()
    done = fork.run("image", "cosml").refused(5, "stored after 2026q4-.*unpacked after", "nothing was pushed", hint="drop wheel first")
    assert "requirements.in" in done.err
    now = {item["annotations"].get("org.opencontainers.image.ref.name") for item in read_index(fork)}
    assert len({tag for tag in now - tags if tag and tag.startswith("cosml:2026")}) == 1


def read_index(checkout: Checkout) -> list[dict[str, Any]]:
    found = json.loads((checkout.layout / "index.json").read_bytes())["manifests"]
    return [{**item, "annotations": item.get("annotations") or {}} for item in found]


def test_slim_is_in_the_tag_and_the_same_by_both_engines_and_diff_and_explain_tell(built: Built, fork: Checkout) -> None:
    need_docker()
    fork.edit("images/cosml/team.toml", "[budget]", 'slim = ["tests", "pyi", "headers", "static-libs"]\n\n[budget]')
    explained = fork.run("explain", "cosml").succeeded().out
    assert f"the last image is {built.tag}" in explained
    assert "headers, pyi, static-libs, tests" in explained
    result = fork.image("cosml")
    assert result["tag"] != built.tag
    assert result["installed"] < 0.8 * built.result["installed"]
    layer = LayoutImage.named(fork.layout, f"cosml:{result['tag']}").read_layer()
    assert not [path for path in layer if path.endswith((".pyi", ".h", ".a", ".pxd"))]
    for path, (_, content) in layer.items():
        if path.endswith(".dist-info/RECORD"):
            assert b"/tests/" not in content
    twin = json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)
    assert twin["differences"] == []
    lock = tomllib.loads((fork.root / "lockfiles/pylock.cosml.toml").read_text())
    assert lock["packages"] == tomllib.loads((built.checkout.root / "lockfiles/pylock.cosml.toml").read_text())["packages"]
    compared = json.loads(fork.run("diff", f"cosml:{built.tag}", "cosml", "--format", "json").succeeded().out)
    assert compared["after"]["name"] == f"cosml:{result['tag']}"  # of two with the same cutoff, the one that the settings make
    assert compared["changes"]["packages"] == []
    assert compared["before"]["compressed"] - compared["after"]["compressed"] == built.result["compressed"] - result["compressed"]
    by_tag = fork.run("diff", built.tag, result["digest"][: len("sha256:") + 12]).succeeded().out
    assert by_tag.splitlines()[0] == f"cosml:{built.tag} > cosml:{result['tag']}"
    fork.run("diff", "cosml@2020q1", "cosml").refused(2, "has no image of 2020q1", hint="catalogue")
    assert "nothing changed" in fork.run("explain", "cosml").succeeded().out


def test_bytecode_of_tests_is_left_out_by_both_engines(built: Built, fork: Checkout) -> None:
    need_docker()
    fork.edit("images/cosml/team.toml", "[budget]", 'bytecode = "imported"\n\n[budget]')
    predicted = json.loads(fork.run("size", "cosml", "--json").succeeded().out)
    result = fork.image("cosml")
    assert result["tag"] != built.tag
    assert predicted["installed"] == pytest.approx(result["installed"], rel=0.05)
    layer = LayoutImage.named(fork.layout, f"cosml:{result['tag']}").read_layer()
    assert not [path for path in layer if "/tests/" in path and path.endswith(".pyc")]
    assert [path for path in layer if path.endswith("/pandas/tests/__init__.py")]
    assert [path for path in layer if "/pandas/core/__pycache__/" in path]
    assert json.loads(fork.run("verify", "--twin", "cosml", "--json", timeout=1200).succeeded().out)["differences"] == []


def test_diff_of_a_foreign_image_and_a_lock_reads_the_layers_and_tells_licences(built: Built, foreign: Foreign) -> None:
    done = built.checkout.run("diff", foreign.name, "cosml", "--format", "json").succeeded()
    compared = json.loads(done.out)
    kinds = {item["name"]: item["kind"] for item in compared["changes"]["packages"]}
    assert kinds["pandas"] == "added"
    assert "joblib" not in kinds  # the same version on both sides
    assert compared["before"]["recorded"]
    assert not compared["after"]["recorded"]
    licences = {item["name"]: item["after"]["licence"] for item in compared["changes"]["packages"] if item["after"]}
    assert licences["pandas"].startswith("BSD")
    page = built.checkout.run("diff", foreign.name, "cosml", "--format", "html").succeeded().out
    assert "default-src 'none'" in page
    text = built.checkout.run("diff", foreign.name, "cosml").succeeded().out
    assert "added" in text
    assert "travels without a lock" in text


def test_an_image_in_a_tar_layout_of_another_program_is_read(built: Built, foreign: Foreign, tmp_path: Path) -> None:
    skopeo_copy(f"docker://{foreign.name}", f"oci:{tmp_path}/copy:app:1")
    report = size_of(built.checkout, f"oci:{tmp_path}/copy:app:1")
    assert report["base_found"] == "common layers"
    assert report["layers"] == 2
