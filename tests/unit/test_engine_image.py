"""Config and manifest of a derived image: exactly one more of each, and the base's own words kept."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imagebuild.engine.image import convert_layers, derive_config, derive_manifest
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    Manifest,
)

D1, D2, D3 = (str(Digest.of(bytes([n]))) for n in range(3))
BASE: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "User": "1000",
        "Entrypoint": ["/init"],
        "Env": ["PATH=/opt/conda/bin:/bin", "PIP_CONSTRAINT=/a.txt"],
        "Labels": {"x": "y"},
        "Healthcheck": {"Test": ["NONE"]},
    },
    "rootfs": {"type": "layers", "diff_ids": [D1, D2]},
    "history": [{"created_by": "a"}, {"created_by": "b", "empty_layer": True}, {"created_by": "c"}],
    "container_config": {"Cmd": ["old"]},
}


def derive(base: dict[str, Any]) -> dict[str, Any]:
    data = derive_config(
        json.dumps(base).encode(),
        diff_ids=(D3,),
        created="2026-10-01T00:00:00Z",
        created_by="imagebuild",
        environment={"PIP_CONSTRAINT": "/a.txt /b.txt", "A": "1"},
        labels={"team": "cosml"},
    )
    document: dict[str, Any] = json.loads(data)
    return document


def test_one_diff_id_and_one_history_entry_are_added() -> None:
    document = derive(BASE)
    assert document["rootfs"]["diff_ids"] == [D1, D2, D3]
    assert len(document["history"]) == 4
    assert sum(1 for item in document["history"] if not item.get("empty_layer")) == 3
    assert document["history"][:3] == BASE["history"]


def test_the_base_keeps_user_entrypoint_and_what_we_do_not_know() -> None:
    container = derive(BASE)["config"]
    assert (container["User"], container["Entrypoint"], container["Healthcheck"]) == ("1000", ["/init"], {"Test": ["NONE"]})
    assert "Cmd" not in container
    assert container["Env"] == ["PATH=/opt/conda/bin:/bin", "A=1", "PIP_CONSTRAINT=/a.txt /b.txt"]
    assert container["Labels"] == {"x": "y", "team": "cosml"}
    assert "container_config" not in derive(BASE)


def test_a_base_without_history_gets_one_entry_a_layer() -> None:
    document = derive({key: value for key, value in BASE.items() if key != "history"})
    assert len(document["history"]) == 3


def test_a_base_whose_counts_disagree_is_refused() -> None:
    with pytest.raises(IntegrityError, match="counts 2 layers and 1 history"):
        derive({**BASE, "history": [{"created_by": "a"}]})


def manifest_of(kind: str) -> Manifest:
    return Manifest(DOCKER_MANIFEST, Descriptor(DOCKER_CONFIG, D1, 1), (Descriptor(kind, D2, 2),), {})


def test_a_docker_base_becomes_wholly_oci() -> None:
    layer = Descriptor(OCI_LAYER_ZSTD, D3, 3)
    raw = derive_manifest(manifest_of(DOCKER_LAYER_GZIP), config=b"{}", layers=(layer,), annotations={"b": "2", "a": "1"})
    document = json.loads(raw.data)
    assert document["mediaType"] == raw.media_type == OCI_MANIFEST
    assert [item["mediaType"] for item in document["layers"]] == [OCI_LAYER_GZIP, OCI_LAYER_ZSTD]
    assert list(document["annotations"]) == ["a", "b"]
    assert "docker" not in raw.data.decode()


def test_a_foreign_layer_is_refused() -> None:
    with pytest.raises(BuildError, match="foreign"):
        convert_layers(manifest_of("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"))
