"""Where the distributions of a layer count, when the base's Python is known."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

import msgspec

from imagebuild.base.model import Distribution
from imagebuild.base.sites import find_sites
from imagebuild.layer.reading import read_foreign_layer
from imagebuild.oci.model import OCI_LAYER_GZIP
from imagebuild.wheel.installed import NO_SITES
from tests.support import builders
from tests.support.trees import SITE

TOOL = "/opt/tool/lib/python3.11/site-packages"


def test_the_folders_of_the_bases_sys_path_count_and_no_other() -> None:
    base = builders.make_base(Distribution("six", "1.16.0", "/usr/lib/python3/dist-packages"))
    environment = {"PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/opt/x", "PYTHONPATH": "/extra:relative"}
    venv = "/opt/venv/lib/python3.11/site-packages"
    assert find_sites(base.inventory, base.tree, environment) == {SITE, "/usr/lib/python3/dist-packages", "/extra", venv}
    assert find_sites(base.inventory, None, {}) == {SITE, "/usr/lib/python3/dist-packages"}
    assert find_sites(msgspec.structs.replace(base.inventory, interpreter=None), base.tree, environment) == NO_SITES


def test_what_no_python_of_the_image_looks_into_is_not_counted_as_a_package(tmp_path: Path) -> None:
    base = builders.make_base()
    site = SITE
    files = {
        f"{site}/setuptools-80.9.0.dist-info/RECORD": b"setuptools/_vendor/zipp/__init__.py,,\n",
        f"{site}/setuptools/_vendor/zipp-3.19.2.dist-info/RECORD": b"zipp/__init__.py,,\n",
        f"{site}/setuptools/_vendor/zipp/__init__.py": b"12345",
        f"{site}/zipp-3.23.0.dist-info/RECORD": b"zipp/__init__.py,,\n",
        f"{site}/zipp/__init__.py": b"123",
        f"{site}/ray/_private/runtime_env/agent/thirdparty_files/psutil-5.9.6.dist-info/RECORD": b"psutil/__init__.py,,\n",
        f"{TOOL}/zipp-3.8.0.dist-info/RECORD": b"zipp/__init__.py,,\n",
        f"{TOOL}/zipp/__init__.py": b"1",
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path.lstrip("/"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(buffer.getvalue()))
    sites = find_sites(base.inventory, base.tree, {})
    found = {item.package: (item.version, item.installed) for item in read_foreign_layer(blob, OCI_LAYER_GZIP, sites).packages}
    assert found == {"setuptools": ("80.9.0", 5), "zipp": ("3.23.0", 3)}
    by_name = [item.version for item in read_foreign_layer(blob, OCI_LAYER_GZIP).packages if item.package == "zipp"]
    assert sorted(by_name) == ["3.23.0", "3.8.0"]
