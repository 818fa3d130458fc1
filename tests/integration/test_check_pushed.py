"""``verify`` and ``audit`` through the command line, on the example team's real image and on images that others could have pushed."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tarfile
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Digest, RawManifest
from tests.support.servers.registry import Registry
from tests.support.workspaces import Built, Checkout, run_tool

pytestmark = pytest.mark.integration

SITE = "usr/local/lib/python3.11/dist-packages"
Entries = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture(scope="module")
def checkout(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return built.checkout.fork(tmp_path_factory.mktemp("pushed"))


def rows(done: Any) -> dict[str, dict[str, Any]]:
    return {row["check"]: row for row in json.loads(done.out)["rows"]}


def test_the_teams_image_passes_and_is_built_again_bit_for_bit(checkout: Checkout, built: Built) -> None:
    found = rows(checkout.run("verify", "cosml", "--rebuild", "--strict", "--json").succeeded())
    assert {row["status"] for row in found.values()} == {"passed"}
    assert len(found) == 17
    assert built.image.digest in found["rebuild"]["text"]
    # As many files as tarfile counts, but for bytecode, which has no hash to have, and our own constraints file.
    files = [name for name, item in built.image.read_headers().items() if item.isreg() and not name.endswith((".pyc", "/RECORD"))]
    assert found["RECORD"]["text"].startswith(f"{len(files) - 1} files of 9 distributions")


def test_in_a_registry_by_its_name_and_from_nothing_but_the_registry(
    checkout: Checkout, built: Built, hub: Registry, tmp_path: Path
) -> None:
    checkout.image("cosml", "--registry", f"{hub.host}/verified", "--copy-base")
    alone = Checkout(tmp_path / "elsewhere", tmp_path / "cache", checkout.settings)  # no images/, no lockfiles/, no cache
    alone.root.mkdir()
    done = alone.run("verify", f"{hub.host}/verified/cosml:{built.tag}", "--json").succeeded()
    found = rows(done)
    assert found["RECORD"]["status"] == found["lock"]["status"] == found["SBOM"]["status"] == found["secrets"]["status"] == "passed"
    # The starter base lies in the folder it was built in, and nowhere else.
    assert found["files of the base"]["status"] == "skipped"
    assert found["one layer over the base"]["status"] == "skipped"
    text, digest = found["one layer over the base"]["text"], built.image.manifest["annotations"]["org.opencontainers.image.base.digest"]
    assert text.startswith("the base cannot be read: ")
    assert text.endswith(f" has no bases/starter@{digest}")


def push_over(checkout: Checkout, built: Built, entries: Entries, tag: str) -> str:
    """The team's image with one more layer, by tarfile and gzip, as any other tool would push it."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for item, data in entries:
            archive.addfile(item, BytesIO(data))
    layer = gzip.compress(buffer.getvalue(), 1, mtime=0)
    config = built.image.config
    config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(buffer.getvalue()).hexdigest())
    config["history"].append({"created_by": "COPY . /"})
    data = json.dumps(config).encode()
    store = LayoutStore(checkout.layout)
    manifest = built.image.manifest
    for media_type, blob in ((OCI_LAYER_GZIP, layer), (OCI_CONFIG, data)):
        store.put_blob("cosml", Descriptor(media_type, Digest.of(blob), len(blob)), blob)
    manifest["layers"].append({"mediaType": OCI_LAYER_GZIP, "digest": str(Digest.of(layer)), "size": len(layer)})
    manifest["config"] = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(data)), "size": len(data)}
    store.put_manifest("cosml", RawManifest(json.dumps(manifest).encode(), OCI_MANIFEST), tag)
    return f"cosml:{tag}"


def entry(name: str, data: bytes, mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    item = tarfile.TarInfo(name)
    item.size, item.mode = len(data), mode
    return item, data


def touch_package(built: Built) -> Entries:
    content = built.image.read_layer()[f"{SITE}/cosml_utils/churn.py"][1]
    return [entry(f"{SITE}/cosml_utils/churn.py", content[:-1] + b"#")]


SEEDS: dict[str, tuple[Callable[[Built], Entries], str, str]] = {
    "changed": (touch_package, "RECORD", "churn.py: not as in the RECORD of cosml_utils-1.4.0"),
    "home": (lambda _: [entry("home/jovyan/.bashrc", b"x")], "nothing under the home", "/home/jovyan/.bashrc"),
    "token": (lambda _: [entry("etc/app.env", b"TOKEN=ghp" + b"_" + b"x1Y2" * 9)], "secrets", "/etc/app.env: a GitHub token"),
    "base": (
        lambda _: [entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n")],
        "files of the base",
        "/etc/passwd: overwrites a file of the base",
    ),
    "setuid": (lambda _: [entry("usr/local/bin/up", b"#!", 0o4755)], "setuid", "/usr/local/bin/up: setuid"),
}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_added_afterwards_is_found_and_named(checkout: Checkout, built: Built, seed: str) -> None:
    make, check, named = SEEDS[seed]
    name = push_over(checkout, built, make(built), f"seed-{seed}")
    done = checkout.run("verify", name, "--json")
    done.refused(8, "one layer over the base", check)
    found = rows(done)
    assert found["one layer over the base"]["status"] == found[check]["status"] == "failed"
    assert any(named in line for line in found[check]["details"])
    assert "2 layers over the base" in " ".join(found["one layer over the base"]["details"])


def test_an_image_of_another_tool(checkout: Checkout, hub: Registry, tmp_path: Path) -> None:
    """Appended by crane onto nothing: no base, no lock, no annotations."""
    tar = tmp_path / "layer.tar"
    with tarfile.open(tar, "w") as archive:
        for item, data in (entry("srv/readme", b"hello"), entry("srv/tool", b"#!", 0o4755)):
            archive.addfile(item, BytesIO(data))
    name = f"{hub.host}/others/tool:1"
    run_tool("crane", "append", "--insecure", "--oci-empty-base", "-f", str(tar), "-t", name)
    done = checkout.run("verify", name, "--json")
    done.refused(8, "failed 1 of 16 checks: setuid")
    assert rows(done)["lock"]["status"] == rows(done)["SBOM"]["status"] == "skipped"


def test_the_audit_before_and_after_the_push_finds_the_same(checkout: Checkout, built: Built, tmp_path: Path) -> None:
    installed = {
        name.split("/")[-2].partition("-")[0].lower(): name for name in built.image.read_headers() if name.endswith(".dist-info/METADATA")
    }
    assert "pandas" in installed

    def record(package: str, identifier: str) -> dict[str, Any]:
        events = [{"introduced": "0"}, {"fixed": "99"}]
        affected = {"package": {"ecosystem": "PyPI", "name": package}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
        return {"id": identifier, "modified": "2026-11-01T00:00:00Z", "summary": "A flaw", "affected": [affected]}

    (tmp_path / "PyPI").mkdir()
    with zipfile.ZipFile(tmp_path / "PyPI" / "all.zip", "w") as archive:
        for number, package in enumerate(("pandas", "tornado", "cosml-utils", "not-installed")):
            archive.writestr(f"{number}.json", json.dumps(record(package, f"PYSEC-2026-{number}")))
    for subject in (("cosml",), ("cosml", "--pushed"), (f"cosml:{built.tag}",)):
        done = checkout.run("audit", *subject, "--osv", str(tmp_path), "--json")
        done.refused(8, "2 known vulnerabilities .*pandas 2.2.3.*tornado")
        report = json.loads(done.out)
        assert [(item["package"], item["origin"]) for item in report["vulnerabilities"]] == [("pandas", "added"), ("tornado", "base")]
        assert re.fullmatch(r"[0-9]+ packages of Debian:12: the OSV data has none of Debian", report["unchecked"][0])
        assert all("the OSV data has none of crates.io" in line for line in report["unchecked"][1:])  # what wheels bundle
        assert (report["own"], report["records"]) == (1, 4)
    checkout.run("audit", "cosml").refused(3, "no OSV data", hint="--osv")
    checkout.write("images/policy.toml", '[licences]\ndeny = ["BSD-*"]\n')
    checkout.run("audit", "cosml", "--licences-only").refused(8, "licences that the policy refuses")
