"""What changed, in words; and quantities as Kubernetes counts them."""

from __future__ import annotations

from fractions import Fraction

import kubernetes_validate
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.emit.forms.offers import find_successor, list_offers
from imagebuild.emit.forms.wording import clip, describe_change, is_breaking
from imagebuild.emit.prewarm.quantities import parse_quantity
from imagebuild.errors import ConfigurationError
from tests.support.forms import HISTORY, make_image

OLD, NEW = make_image(quarter="2026q3", packages={"a": "1.0", "b": "1.2.3"}), make_image(quarter="2026q4")


def change(before: dict[str, str], after: dict[str, str], **others: str) -> tuple[str, str]:
    found = describe_change(msgspec.structs.replace(OLD, packages=before), msgspec.structs.replace(NEW, packages=after, **others))
    return found.level, found.text.removeprefix("2026q4 replaces 2026q3: ")


def test_the_most_important_comes_first() -> None:
    assert change({"a": "1.0", "b": "1", "c": "1.0"}, {"a": "1.1", "b": "2", "d": "1"}) == (
        "Warning",
        "c is gone, b 1 to 2, a 1.0 to 1.1, d 1 is new.",
    )
    assert change({"a": "1.0"}, {"a": "1.0.1", "d": "1"}) == ("Info", "a 1.0 to 1.0.1, d 1 is new.")
    assert change({"a": "1"}, {"a": "1"}) == ("Info", "the same versions of what the team asked for.")
    assert change({}, {}, python="3.12.1") == ("Warning", "Python 3.11.2 to 3.12.1.")
    assert change({}, {}, python="3.11.9") == ("Info", "Python 3.11.2 to 3.11.9.")
    assert change({}, {}, base="cuda") == ("Warning", "base starter to cuda.")
    assert change({}, {}, base_digest="sha256:" + "c" * 64) == ("Info", "a newer starter.")


def test_what_does_not_fit_is_counted() -> None:
    before = {f"package-{number}": "1.0" for number in range(200)}
    level, text = change(before, {})
    assert level == "Warning"
    assert len("2026q4 replaces 2026q3: " + text) <= 1024
    named, _, more = text.partition(" and ")
    assert named.count(" is gone") + int(more.removesuffix(" more.")) == 200


PACKAGES = st.dictionaries(st.text(min_size=1, max_size=80), st.text(max_size=300), max_size=12)


@given(PACKAGES, PACKAGES)
def test_a_message_always_fits(before: dict[str, str], after: dict[str, str]) -> None:
    _, text = change(before, after)
    assert 2 <= len("2026q4 replaces 2026q3: " + text) <= 1024


@pytest.mark.parametrize(
    ("before", "after", "breaking"),
    [
        ("1.2", "1.3", False), ("1.2", "2.0", True), ("0.3.1", "0.3.2", False), ("0.3", "0.4", True), ("0.0.1", "0.0.2", True),
        ("2.0", "1.9", True), ("1.0", "1.0.post1", False), ("2.5.1+cu121", "2.5.1+cu124", False), ("1!1.0", "2!1.0", True),
        ("what", "1.0", True), ("0", "1", True), ("1", "1.0.0", False),
    ],
)  # fmt: skip
def test_breaking(before: str, after: str, breaking: bool) -> None:
    assert is_breaking(before, after) is breaking


def test_one_line_of_text() -> None:
    assert clip("a\n b\x00\tc\u2028", 80) == "a b c"
    assert clip("x" * 90, 80) == "x" * 77 + "..."


def test_a_redirect_goes_past_what_is_kept_under_a_name() -> None:
    offers = {offer.entry.quarter: offer for offer in list_offers(HISTORY[:3])}
    assert find_successor(offers["2026q2"], list(offers.values())) == offers["2026q4"]
    assert find_successor(offers["2026q4"], list(offers.values())) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("4", 4), ("500m", Fraction(1, 2)), ("0.5", Fraction(1, 2)), ("16Gi", 16 << 30), ("1.5Gi", 3 << 29), ("1k", 1000), ("2M", 2_000_000)],
)
def test_quantities(text: str, value: Fraction) -> None:
    assert parse_quantity(text, "memory") == value
    pod = {"containers": [{"name": "a", "image": "a", "resources": {"limits": {"memory": text}}}]}
    kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod}, "1.37.0", strict=True)


@pytest.mark.parametrize("text", ["", "0", "0Gi", "-1", "4 Gi", "4GiB", "four", "1K", "1e3", "\u0664"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ConfigurationError, match="memory is"):
        parse_quantity(text, "memory")
