"""Over budget means: said by how much, what to drop first, who asked, and nothing pushed."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.config import Budget, BudgetRules
from imagebuild.errors import BudgetError, ConfigurationError
from imagebuild.size.budget import LastImage, compute_limits, list_absent, require_budget, require_prediction
from imagebuild.size.model import PackageSize, SizeReport
from imagebuild.size.needs import measure_removals

MIB = 1 << 20
RULES = BudgetRules(10 * MIB, 30 * MIB)


def report(*sizes: tuple[str, int, int], rules: BudgetRules = RULES, last: LastImage | None = None, coarse: bool = False) -> SizeReport:
    """Packages (name, MiB stored, MiB unpacked), each asked for by requirements.in."""
    packages = tuple(
        PackageSize(name, "1.0", stored * MIB, unpacked * MIB, chain=("requirements.in", name), coarse=coarse)
        for name, stored, unpacked in sizes
    )
    compressed, installed = sum(item.compressed for item in packages), sum(item.installed for item in packages)
    return SizeReport(
        "x",
        "measured",
        "base",
        "lock",
        compressed,
        installed,
        packages,
        {},
        removals=measure_removals(packages, {}),
        limits=compute_limits(
            rules, compressed=compressed, installed=installed, packages={item.name: item.installed for item in packages}, last=last
        ),
    )


def test_within_both_limits_passes() -> None:
    require_budget(report(("a", 5, 15), ("b", 5, 15)))


@pytest.mark.parametrize(("stored", "unpacked", "word"), [(11, 30, "stored"), (10, 31, "unpacked")])
def test_over_either_limit_says_what_to_drop_and_who_asked(stored: int, unpacked: int, word: str) -> None:
    with pytest.raises(BudgetError) as caught:
        require_budget(report(("big", stored - 2, unpacked - 2), ("small", 2, 2)))
    assert word in caught.value.message
    assert "nothing was pushed" in caught.value.message
    assert caught.value.hint.startswith("drop small first")  # enough already, and the least of what is
    assert "asked for by requirements.in" in caught.value.hint
    assert "requirements.in > big" in caught.value.details[0]
    assert caught.value.exit_code == 5


def test_when_no_single_package_is_enough_the_largest_goes_first() -> None:
    with pytest.raises(BudgetError) as caught:
        require_budget(report(("a", 20, 1), ("b", 30, 1), ("c", 25, 1)))
    assert caught.value.hint.startswith("drop b first")


def test_a_long_list_is_summed_up() -> None:
    with pytest.raises(BudgetError) as caught:
        require_budget(report(*((f"p{n}", 1, 1) for n in range(30))))
    assert "and 20 more" in caught.value.details[-1]


def test_a_package_has_a_limit_of_its_own() -> None:
    rules = Budget(packages={"Scikit_Learn": "2 MiB", "absent": 1}).rules
    require_budget(report(("scikit-learn", 1, 2), rules=rules))
    assert list_absent(rules, {"scikit-learn": 1}) == ("[budget] packages names what is not in the layer: absent",)
    assert list_absent(rules, {"scikit-learn": 1, "absent": 1}) == ()
    with pytest.raises(BudgetError, match=r"scikit-learn 3\.0 MiB unpacked of 2\.0 MiB allowed") as caught:
        require_budget(report(("scikit-learn", 1, 3), rules=rules))
    assert "because of requirements.in > scikit-learn" in caught.value.hint


def test_growth_is_against_the_last_image() -> None:
    rules = Budget(growth="10%").rules
    assert rules.growth == pytest.approx(0.1)
    last = LastImage("2026q3-0123456789ab", 10 * MIB, 20 * MIB)
    require_budget(report(("a", 11, 22), rules=rules, last=last))
    require_budget(report(("a", 200, 200), rules=rules, last=None))  # nothing to compare with
    with pytest.raises(BudgetError, match=r"12\.0 MiB stored after 2026q3-0123456789ab of 11\.0 MiB allowed"):
        require_budget(report(("a", 12, 22), rules=rules, last=last))


def test_an_unknown_size_is_over() -> None:
    rules = Budget(growth="10%").rules
    with pytest.raises(BudgetError, match="an unknown size stored after old"):
        require_budget(report(("a", 1, 1), rules=rules, last=LastImage("old", None, 5 * MIB)))


def test_what_cannot_fit_is_refused_before_any_download_and_what_might_is_not() -> None:
    require_prediction(report(("a", 11, 33)))  # a prediction can be wrong by that
    with pytest.raises(BudgetError, match="nothing was downloaded"):
        require_prediction(report(("a", 12, 30)))
    guessed = report(("a", 14, 44), coarse=True)
    require_prediction(guessed)
    with pytest.raises(BudgetError):
        require_prediction(report(("a", 16, 44), coarse=True))


@pytest.mark.parametrize("text", ["10", "ten%", "-5%", "%", "1e3%"])
def test_a_growth_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="not a limit of growth"):
        _ = Budget(growth=text).rules


def test_limits_are_values() -> None:
    assert msgspec.to_builtins(report(("a", 1, 1)).limits[0]) == {"what": "stored", "size": MIB, "limit": 10 * MIB, "package": ""}
