"""Which metadata folders are installed packages, and which a package brought along."""

from __future__ import annotations

import pytest

from imagebuild.wheel.installed import InfoFile, is_in_site, is_metadata, is_record, is_site_folder, parse_info_path

SITE = "/usr/local/lib/python3.11/dist-packages"
CONDA = "/opt/conda/lib/python3.12/site-packages"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{SITE}/setuptools-80.9.0.dist-info/RECORD", InfoFile(SITE, "setuptools", "80.9.0", "RECORD")),
        (f"{SITE}/Jinja2-3.1.6.dist-info/METADATA", InfoFile(SITE, "jinja2", "3.1.6", "METADATA")),
        (f"{SITE}/ruamel_yaml-0.18.dist-info/RECORD", InfoFile(SITE, "ruamel-yaml", "0.18", "RECORD")),
        (f"{SITE}/zope.interface-7.2.dist-info/RECORD", InfoFile(SITE, "zope-interface", "7.2", "RECORD")),
        (f"{SITE}/torch-2.13.0a0+nv26.1.dist-info/RECORD", InfoFile(SITE, "torch", "2.13.0a0+nv26.1", "RECORD")),
        (f"{CONDA}/numpy-2.1.0.dist-info/RECORD", InfoFile(CONDA, "numpy", "2.1.0", "RECORD")),
        (f"{SITE}/setuptools/_vendor/packaging-24.2.dist-info/RECORD", None),
        (f"{SITE}/setuptools/_vendor/zipp-3.19.2.dist-info/METADATA", None),
        (f"{SITE}/ray/thirdparty_files/psutil-7.0.0.dist-info/RECORD", None),
        (f"{SITE}/pipenv/patched/site-packages/x-1.0.dist-info/RECORD", None),
        (f"{SITE}/demo-1.0.dist-info/licenses/LICENSE", None),
        ("/home/jovyan/wheels/demo-1.0.dist-info/RECORD", None),
        ("/x-1.0.dist-info/RECORD", None),
        ("site-packages/x-1.0.dist-info/RECORD", None),
    ],
)  # fmt: skip
def test_metadata_directly_in_a_site_folder_is_an_installed_package(path: str, expected: InfoFile | None) -> None:
    assert parse_info_path(path) == expected
    assert is_record(path) is (expected is not None and expected.file == "RECORD")
    assert is_metadata(path) is (expected is not None and expected.file == "METADATA")


def test_site_folders() -> None:
    assert is_site_folder(SITE)
    assert not is_site_folder(f"{SITE}/a")
    assert not is_site_folder(f"{SITE}/a/site-packages")
    assert not is_site_folder("/my-site-packages")
    assert is_in_site(f"{SITE}/a/b.py")
    assert not is_in_site(SITE)
