"""``replace`` and ``protect``, and what a base that contradicts itself still allows."""

from __future__ import annotations

import pytest

from imagebuild.base.model import Distribution
from imagebuild.errors import LockError
from imagebuild.lock.file.replacement import (
    PROTECTED,
    check_replace,
    check_replaced,
    check_stack,
    find_asking_chain,
    find_replaced,
    match_protected,
    suggest_replacement,
)
from imagebuild.lock.resolve.baserequirements import find_broken_requirements, list_base_constraints, list_requiring
from tests.support.builders import make_base, make_lock, make_package
from tests.support.trees import SITE


def held(name: str, version: str = "1.0", *requires: str, installer: str = "pip", record: bool = True) -> Distribution:
    return Distribution(name, version, SITE, f"{name}-{version}.dist-info", installer, record, requires)


CUDA = make_base(held("nvidia-cublas-cu12", "12.1.3.1"), held("torch", "2.5.1+cu121"), held("triton", "3.1.0"), held("pandas", "2.1.4"))


def test_what_replace_may_name() -> None:
    assert check_replace(CUDA, ["Pandas"], PROTECTED) == {"pandas"}
    with pytest.raises(LockError, match="replace names polars, which the base scipy does not have"):
        check_replace(CUDA, ["polars"], PROTECTED)
    with pytest.raises(LockError, match=r"torch 2\.5\.1\+cu121 of the base scipy is protected, and replace names it") as caught:
        check_replace(CUDA, ["torch"], PROTECTED)
    assert "protect = []" in caught.value.hint
    assert check_replace(CUDA, ["torch"], []) == {"torch"}


@pytest.mark.parametrize(
    ("installer", "record", "way"), [("pip", True, True), ("uv", True, True), ("conda", True, False), ("", False, False)]
)
def test_replacing_is_suggested_where_it_is_a_way(installer: str, record: bool, way: bool) -> None:
    base = make_base(held("pandas", installer=installer, record=record), held("torch"))
    assert bool(suggest_replacement(base, "pandas", PROTECTED)) is way
    assert suggest_replacement(base, "torch", PROTECTED) == ""


def test_patterns_are_over_normalised_names() -> None:
    assert match_protected("nvidia-cudnn-cu12", ["NVIDIA_*"])
    assert not match_protected("torchvision", PROTECTED)


def test_a_second_stack_says_what_pulled_it_in() -> None:
    added = {"xgboost": "2.1.0", "nvidia-nccl-cu12": "2.21.5"}
    via = {"xgboost": ("requirements.in",), "nvidia-nccl-cu12": ("xgboost",)}
    with pytest.raises(LockError) as caught:
        check_stack(CUDA, added, via, PROTECTED)
    assert caught.value.message == (
        "xgboost 2.1.0 would add nvidia-nccl-cu12 2.21.5 to the base scipy, which has torch 2.5.1+cu121 and 2 more of the kind"
    )
    check_stack(CUDA, added, via, ["torch"])
    check_stack(make_base(held("pandas")), added, via, PROTECTED)  # nothing there to protect
    with pytest.raises(LockError, match=r"^requirements\.in would add tensorflow 2\.18"):
        check_stack(CUDA, {"tensorflow": "2.18.0"}, {"tensorflow": ("requirements.in",)}, PROTECTED)


def test_a_long_way_is_told_whole() -> None:
    via = {"triton": ("b",), "b": ("a",), "a": ("requirements.in",)}
    with pytest.raises(LockError, match=r"^a 1 would add triton 9") as caught:
        check_stack(make_base(held("torch")), {"a": "1", "b": "2", "triton": "9"}, via, PROTECTED)
    assert caught.value.details == ("triton <- b <- a <- requirements.in",)
    assert find_asking_chain("x", {"x": ("y",), "y": ("x",)}) == ("x",)


def test_a_lock_under_another_replace_is_stale() -> None:
    lock = make_lock(CUDA, make_package("pandas", "2.2.3"))
    assert find_replaced(CUDA, lock) == ("pandas",)
    check_replaced(CUDA, lock, ["pandas"], PROTECTED)
    with pytest.raises(LockError, match=r"stale: replace changed \(pandas\)"):
        check_replaced(CUDA, lock, [], PROTECTED)
    with pytest.raises(LockError, match=r"stale: replace changed \(pandas\)"):
        check_replaced(CUDA, make_lock(CUDA), ["pandas"], PROTECTED)


def test_broken_requirements_are_listed_and_constrain_nothing() -> None:
    base = (
        held("mlflow", "2.1", "pandas<2.1", "gone>=1", "odd @ file:///x", "not a requirement"),
        held("pandas", "2.1.4"),
        held("first", "1", "lib<1", "mended<9"),
        held("second", "1", "lib>=2", "mended>1"),
        held("dpkgish", "1.0-2ubuntu1"),
        held("needs-it", "1", "dpkgish>=1"),
    )
    broken = find_broken_requirements(base, {})
    assert broken.lines == (
        "first 1 needs lib<1, and there is none",
        "first 1 needs mended<9, and there is none",
        "mlflow 2.1 needs gone>=1, and there is none",
        "mlflow 2.1 needs pandas<2.1, and there is pandas 2.1.4",
        "second 1 needs lib>=2, and there is none",
        "second 1 needs mended>1, and there is none",
    )
    present = {item.name for item in base} - {"pandas"}  # as if pandas were to be replaced
    assert list_base_constraints(base, {}, present, broken.ignored) == ("gone>=1", "mended<9", "mended>1")
    assert set(list_requiring(base, {}, broken.ignored)) == {"gone", "mended", "dpkgish"}
