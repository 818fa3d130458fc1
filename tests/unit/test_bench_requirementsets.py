"""The proof by requirement sets: what counts as a difference, and what as explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.requirementsets.__main__ import choose_sets, load_sets
from bench.requirementsets.trees import compare, read_installed

SITE = "usr/local/lib/python3.11/dist-packages"


def install(root: Path, name: str, version: str, files: dict[str, str]) -> None:
    info = f"{name}-{version}.dist-info"
    rows = "".join(f"{path},,\n" for path in files)
    for path, text in {**files, f"{info}/RECORD": rows}.items():
        target = root / SITE / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


def test_only_what_no_rule_explains_is_left(tmp_path: Path) -> None:
    pip, image = tmp_path / "pip", tmp_path / "image"
    for root, bytecode in ((pip, "time"), (image, "hash")):
        install(root, "same", "1.0", {"same.py": "1", "__pycache__/same.cpython-311.pyc": bytecode})
    install(pip, "other", "1.0", {"other.py": "1"})
    install(image, "other", "2.0", {"other.py": "2"})
    install(pip, "odd", "1.0", {"odd.py": "1"})
    install(image, "odd", "1.0", {"odd.py": "2"})
    (image / "etc/imagebuild").mkdir(parents=True)
    (image / "etc/imagebuild/constraints.txt").write_text("same==1.0\n")
    found = compare(read_installed(pip), read_installed(image))
    assert found.versions == {"other": ("1.0", "2.0")}
    assert found.unexplained == (f"{SITE}/odd.py: other bytes",)
    assert found.classes["bytecode"] == 1
    assert found.classes["image's own"] == 1
    assert found.classes["another version"] == 1
    assert found.same == 3  # same.py, and the RECORDs of same and odd


def test_the_sets_are_sixty_and_each_says_where_it_is_from() -> None:
    sets = load_sets()
    assert len({item.name for item in sets}) == len(sets) == 60
    assert all(item.source and item.requirements for item in sets)


def test_sets_are_chosen_by_name_and_in_that_order() -> None:
    sets = load_sets()
    assert choose_sets(sets, []) == sets
    assert [item.name for item in choose_sets(sets, ["jax", "pyspark"])] == ["jax", "pyspark"]
    with pytest.raises(SystemExit, match="no set is called no-such; there are pytz-arbitrary, "):
        choose_sets(sets, ["jax", "no-such"])
