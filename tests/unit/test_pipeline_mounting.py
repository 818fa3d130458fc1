"""Layers of other teams' images: who is asked, and that a repository that refuses costs no more than the bytes."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from imagebuild.config import load_team
from imagebuild.errors import RemoteError
from imagebuild.oci.model import OCI_LAYER_ZSTD, Descriptor, Digest
from imagebuild.oci.store import MountAnswer
from imagebuild.pipeline.mounting import LayerMounts

LAYERS = [Descriptor(OCI_LAYER_ZSTD, str(Digest.of(bytes([number]))), 10 + number) for number in range(4)]
TEAMS = {
    "asks": 'base = "tiny"\nlayer = { split = true }\n',
    "broken": "base =\n",
    "closed": 'base = "tiny"\nlayer = { split = true }\n',
    "elsewhere": 'base = "other"\nlayer = { split = true }\n',
    "has": 'base = "tiny"\nlayer = { split = true }\n',
    "refuses": 'base = "tiny"\nlayer = { split = true }\n',
    "single": 'base = "tiny"\n',
}


class Registry:
    """What each repository holds, by the layers' numbers; ``closed`` answers nobody, and no mount from ``refuses`` is done."""

    def __init__(self, held: dict[str, set[int]]) -> None:
        self.held = {name: {LAYERS[number].digest for number in numbers} for name, numbers in held.items()}
        self.asked: list[tuple[str, str]] = []
        self.mounted: list[tuple[str, str]] = []
        self._lock = threading.Lock()

    def has_blob(self, repository: str, digest: Digest) -> bool:
        with self._lock:
            self.asked.append((repository, str(digest)))
        if repository == "ml/closed":
            raise RemoteError("403", "")
        return str(digest) in self.held.get(repository, set())

    def mount_blob(self, repository: str, digest: Digest, source: str) -> MountAnswer:
        assert repository == "ml/asks"
        if source == "ml/refuses":
            return MountAnswer(False, RemoteError("denied", ""))
        self.mounted.append((str(digest), source))
        return MountAnswer(True)


def make_mounts(tmp_path: Path, registry: Registry, host: str = "reg.example") -> tuple[LayerMounts, list[str]]:
    for name, text in TEAMS.items():
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        (folder / "team.toml").write_text(text)
        (folder / "requirements.in").write_text("")
    said: list[str] = []
    workspace: Any = SimpleNamespace(
        target=registry, host=host, images=tmp_path / "images", report=said.append, repository=lambda name: f"ml/{name}"
    )
    team = SimpleNamespace(name="asks", table=SimpleNamespace(base="tiny"))
    plan: Any = SimpleNamespace(team=team, repository="ml/asks", recipe=SimpleNamespace(layers=(("a",), ("b",))))
    return LayerMounts(workspace, plan), said


def test_what_is_missing_is_mounted_from_teams_whose_layers_may_be_the_same(tmp_path: Path) -> None:
    registry = Registry({"ml/asks": {0}, "ml/has": {0, 1}, "ml/refuses": {1, 2}, "ml/elsewhere": {2}, "ml/single": {2}})
    mounts, said = make_mounts(tmp_path, registry)
    assert mounts.mount(LAYERS) == {LAYERS[0].digest, LAYERS[1].digest}
    assert registry.mounted == [(LAYERS[1].digest, "ml/has")]
    assert {name for name, _ in registry.asked} == {"ml/asks", "ml/closed", "ml/has", "ml/refuses"}
    assert said == ["asks: 2 of 4 layers there already, 11 B of them mounted from other teams' images"]


def test_nobody_else_is_asked_where_nothing_is_missing(tmp_path: Path) -> None:
    registry = Registry({"ml/asks": {0, 1, 2, 3}})
    mounts, said = make_mounts(tmp_path, registry)
    assert (len(mounts.mount(LAYERS)), said) == (4, [])
    assert {name for name, _ in registry.asked} == {"ml/asks"}


def test_a_layout_folder_is_not_asked(tmp_path: Path) -> None:
    registry = Registry({})
    mounts, said = make_mounts(tmp_path, registry, host="")
    assert (mounts.mount(LAYERS), said) == (frozenset(), [])
    assert registry.asked == []


def test_what_a_build_learnt_before_assembling_is_not_asked_again_before_pushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def load(images: Path, name: str) -> Any:
        read.append(name)
        return load_team(images, name)

    monkeypatch.setattr("imagebuild.pipeline.mounting.load_team", load)
    registry = Registry({"ml/asks": {0}, "ml/has": {1}})
    mounts, _said = make_mounts(tmp_path, registry)
    assert mounts.find_present(LAYERS[:3]) == {LAYERS[0].digest, LAYERS[1].digest}
    registry.held["ml/has"].add(LAYERS[2].digest)  # pushed meanwhile: by a team that is built at the same time
    assert mounts.mount(LAYERS[2:]) == {LAYERS[2].digest}
    assert sorted(read) == sorted(TEAMS)  # each team's file once
    asked = Counter(registry.asked)
    assert [asked["ml/asks", layer.digest] for layer in LAYERS] == [1, 1, 1, 1]
    assert [asked["ml/has", layer.digest] for layer in LAYERS] == [0, 1, 2, 1]
    assert asked["ml/closed", LAYERS[3].digest] == 0  # it did not answer the first time
