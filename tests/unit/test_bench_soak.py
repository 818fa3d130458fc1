"""The attacks by input: the same seed gives the same inputs, none of them is a fault, and a fault would be seen."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from bench.soak import batch, inputs
from bench.soak.arena import FaultError, require


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(inputs.INPUTS))
def test_inputs_end_well_and_the_same_way_twice(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch.main(kind, 7, 6, tmp_path / "one")
    first = json.loads(capsys.readouterr().out)
    assert first["faults"] == []
    assert sum(first["ends"].values()) == 6
    batch.main(kind, 7, 6, tmp_path / "two")
    assert json.loads(capsys.readouterr().out) == first


def test_a_fault_is_told_with_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def crash(chance: random.Random, folder: Path) -> str:
        (folder.parent / "outside").touch()
        require(chance.random() < 2, "never")
        raise RecursionError("too deep")

    def lie(_chance: random.Random, _folder: Path) -> str:
        raise FaultError("another digest")

    monkeypatch.setitem(inputs.INPUTS, "crash", crash)
    monkeypatch.setitem(inputs.INPUTS, "lie", lie)
    batch.main("crash", 3, 1, tmp_path)
    batch.main("lie", 4, 1, tmp_path)
    lines = [json.loads(line)["faults"] for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0].startswith("crash 3/0: RecursionError: too deep (test_bench_soak.py:")
    assert lines[1] == ["lie 4/0: another digest"]
