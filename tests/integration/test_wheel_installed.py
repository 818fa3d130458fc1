"""Real packages that vendor others: what pip installs of them, read as a layer that another program wrote."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from imagebuild.layer.reading import read_foreign_layer
from imagebuild.oci.model import OCI_LAYER_GZIP
from tests.support.tools import need_index

pytestmark = pytest.mark.integration
WANTED = ("setuptools==80.9.0", "packaging==25.0", "zipp==3.23.0", "wheel==0.45.1")


def test_what_setuptools_vendors_is_setuptools(tmp_path: Path) -> None:
    need_index("setuptools")
    site = tmp_path / "root/usr/local/lib/python3.11/dist-packages"
    options = ["--no-deps", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *WANTED], check=True, timeout=300)
    vendored = sorted(path.name for path in (site / "setuptools/_vendor").glob("*.dist-info"))
    assert "zipp-3.19.2.dist-info" in vendored  # else this test is about nothing
    blob = tmp_path / "layer.tar.gz"
    with tarfile.open(blob, "w:gz") as archive:
        archive.add(tmp_path / "root/usr", "usr")
    layer = read_foreign_layer(blob, OCI_LAYER_GZIP)
    found = {item.package: (item.version, item.installed) for item in layer.packages}
    assert {name: version for name, (version, _) in found.items()} == dict(line.split("==") for line in WANTED)
    assert all(size > 10_000 for _, size in found.values())
    inside = sum(item.size for item in layer.files if "/setuptools/_vendor/" in item.path)
    assert found["setuptools"][1] > inside > 100_000
