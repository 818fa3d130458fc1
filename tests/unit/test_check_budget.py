"""Over budget means: said by how much, which packages, who asked, and nothing pushed."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.check.budget import check_layer, check_prediction
from imagebuild.errors import BudgetError
from imagebuild.layer.model import Layer, PackageBytes

MIB = 1 << 20


def layer(size: int, installed: int, count: int = 2) -> Layer:
    packages = tuple(PackageBytes(f"p{n}", "1.0", size // count, installed // count) for n in range(count))
    return Layer(Path("x"), "sha256:0", size, "sha256:1", installed, installed, "t", packages)


def test_within_both_limits_passes() -> None:
    check_layer(layer(10 * MIB, 30 * MIB), compressed=10 * MIB, installed=30 * MIB, via={})


@pytest.mark.parametrize(("size", "installed", "word"), [(11, 30, "stored"), (10, 31, "unpacked")])
def test_over_either_limit_lists_packages_and_who_asked(size: int, installed: int, word: str) -> None:
    with pytest.raises(BudgetError) as caught:
        check_layer(layer(size * MIB, installed * MIB), compressed=10 * MIB, installed=30 * MIB, via={"p0": ("requirements.in",)})
    assert word in caught.value.message
    assert "nothing was pushed" in caught.value.message
    assert "p0" in caught.value.hint
    assert "requirements.in" in caught.value.hint
    assert len(caught.value.details) == 2
    assert caught.value.exit_code == 5


def test_a_long_list_is_summed_up() -> None:
    with pytest.raises(BudgetError) as caught:
        check_layer(layer(30 * MIB, 30 * MIB, count=30), compressed=1, installed=1, via={})
    assert "and 20 more" in caught.value.details[-1]


def test_what_cannot_fit_is_refused_before_any_download() -> None:
    sizes = {"big": (100 * MIB, 300 * MIB), "small": (MIB, MIB)}
    with pytest.raises(BudgetError, match="before any download") as caught:
        check_prediction(sizes, compressed=300 * MIB, installed=200 * MIB, via={"big": ("requirements.in",)})
    assert caught.value.details[0].strip().startswith("big")
    check_prediction(sizes, compressed=60 * MIB, installed=301 * MIB, via={})
    with pytest.raises(BudgetError, match="of wheels for"):
        check_prediction(sizes, compressed=50 * MIB, installed=301 * MIB, via={})
