"""The folders that a benchmark makes: without what a killed one left, and gone however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.folder import fresh_folders, remove_folder


def test_folders_are_empty_at_the_start_and_gone_at_the_end(tmp_path: Path) -> None:
    left, new = tmp_path / "left", tmp_path / "new"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "file").touch()
    found: list[Path] = []

    def measure() -> None:
        with fresh_folders(left, new):
            found.extend(tmp_path.iterdir())
            left.mkdir()
            (left / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure()
    assert found == []
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_removed_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SystemExit, match=rf"^{file} cannot be removed: Not a directory$"):
        remove_folder(file)
    remove_folder(tmp_path / "nothing")
