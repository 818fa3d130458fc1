"""The starter base in the layout folder: which one is there, and what its lock lets others have."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from imagebuild import annotations as names
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, Digest, RawManifest
from imagebuild.starter.build import starter_lock
from imagebuild.starter.place import REPOSITORY, TAG, find_starter, is_current

CONFIG = b"{}"


def put_starter(layout: LayoutStore, created: str) -> Digest:
    config = Descriptor(OCI_CONFIG, Digest.of(CONFIG), len(CONFIG))
    layout.put_blob(REPOSITORY, config, CONFIG)
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": config.digest, "size": config.size},
        "layers": [],
        "annotations": {names.CREATED: created},
    }
    return layout.put_manifest(REPOSITORY, RawManifest(json.dumps(document).encode(), OCI_MANIFEST), TAG)


def test_a_starter_of_another_lock_is_not_current(tmp_path: Path) -> None:
    layout = LayoutStore(tmp_path)
    assert find_starter(layout) is None
    old = put_starter(layout, "2026-11-22T23:06:58Z")
    assert find_starter(layout) == old
    assert not is_current(layout, old)
    new = put_starter(layout, starter_lock().cutoff)
    assert find_starter(layout) == new
    assert is_current(layout, new)


@pytest.mark.parametrize(
    "line",
    [
        "python-dateutil<3.0.0,>=2.1",  # botocore
        "python-dateutil<3.0.0,>=2.8.2",  # google-cloud-bigquery
        "prometheus-client<0.25,>=0.20.0",  # feast
        "packaging<26.0,>=20.0",  # azureml-core
        "packaging>=25.0",  # apache-airflow-core
    ],
)
def test_the_lock_has_what_much_used_packages_want(line: str) -> None:
    wanted = Requirement(line)
    versions = {item.name: item.version for item in starter_lock().packages}
    assert wanted.specifier.contains(versions[wanted.name])


def test_the_benchmarks_team_is_locked_on_the_same_starter_as_the_example() -> None:
    root = Path(__file__).parents[2]
    locks = [read_lock(root / path) for path in ("lockfiles/pylock.cosml.toml", "bench/heavy/lockfiles/pylock.heavy.toml")]
    assert [lock.base for lock in locks] == ["starter", "starter"]
    assert locks[0].base_fingerprint == locks[1].base_fingerprint
