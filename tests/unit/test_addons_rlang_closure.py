"""Versions, control files, wishes and the closure of R packages."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.addons.rlang.closure import Closure, compute_closure
from imagebuild.addons.rlang.control import Description, Need, is_package_name, parse_needs, read_description, read_stanzas, unpack_text
from imagebuild.addons.rlang.versions import OPERATORS, Bound, parse_version
from imagebuild.addons.rlang.wishes import PackageWish, join_wishes, parse_wish
from imagebuild.base.model import RPackage
from imagebuild.errors import ConfigurationError, LockError
from tests.support.rpackages import OWN, make_facts

PACKAGES = """\
Package: data.table
Version: 1.15.4
Depends: R (>= 3.1.0)
Imports: methods
Suggests: bit64 (>= 4.0.0), knitr
License: MPL-2.0 | file LICENSE
NeedsCompilation: yes

Package: xgboost
Version: 1.7.8-1
Depends: R (>= 3.3.0)
Imports: Matrix (>= 1.1-0), methods, data.table (>=
        1.9.6), jsonlite (>= 1.0)
Path: 4.2.0/Recommended

"""


# --- versions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("low", "high"), [("1.0", "1.0.0"), ("1.9", "1.10"), ("1.0-9", "1.0-10"), ("0.99", "1.0"), ("1.0-1", "1.0.2")])
def test_versions_are_compared_number_by_number(low: str, high: str) -> None:
    assert Bound(">", low).allows(high)
    assert Bound("<", high).allows(low)
    assert not Bound(">=", high).allows(low)
    assert Bound("!=", low).allows(high)


def test_hyphens_and_dots_are_the_same_to_r() -> None:
    assert Bound("==", "1.0.1").allows("1.0-1")
    assert Bound("<=", "1.0-1").allows("1.0.1")


@pytest.mark.parametrize("text", ["", "1.", ".1", "1..2", "1.0a", "v1", "1.0 ", "1_0", "1." * 40 + "1"])
def test_what_is_no_version_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a version of an R package"):
        parse_version(text)


_VERSIONS = st.lists(st.integers(0, 30), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(_VERSIONS, _VERSIONS)
def test_exactly_one_of_lower_equal_and_higher_holds(one: str, other: str) -> None:
    assert [Bound(sign, other).allows(one) for sign in ("<", "==", ">")].count(True) == 1
    assert Bound(">=", other).allows(one) is not Bound("<", other).allows(one)


# --- control files --------------------------------------------------------------------------------------------------


def test_a_repositorys_packages_are_read() -> None:
    first, second = map(read_description, read_stanzas(PACKAGES))
    assert (first.name, first.version, first.licence) == ("data.table", "1.15.4", "MPL-2.0 | file LICENSE")
    assert first.needs == (Need("R", Bound(">=", "3.1.0")), Need("methods"))
    assert [str(need) for need in second.needs] == ["R >= 3.3.0", "Matrix >= 1.1-0", "methods", "data.table >= 1.9.6", "jsonlite >= 1.0"]
    assert second.path == "4.2.0/Recommended"
    assert (second.built_minor, second.built_platform) == ("", "")


def test_a_binary_says_what_it_was_built_for() -> None:
    fields = {"Package": "Rcpp", "Version": "1.0", "Built": "R 4.5.3; x86_64-pc-linux-gnu; 2026-05-01 10:00:00 UTC; unix"}
    found = read_description(fields)
    assert (found.built_minor, found.built_platform) == ("4.5", "x86_64-pc-linux-gnu")
    assert read_description({**fields, "Built": "R 4.5.3; ; 2026-05-01 10:00:00 UTC; unix"}).built_platform == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" starts with nothing\n", "line 1 continues nothing"),
        ("Package: a\n\n  lost\n", "line 3 continues nothing"),
        ("Package: ab\nno field\n", "line 2 is not a field"),
        ("Package: ab\nPackage: cd\n", "line 2 has the field Package again"),
        ("A: " + "x" * (64 << 10) + "y\n", "line 1: the field A has more than 64 Ki characters"),
    ],
)
def test_what_is_no_control_file_is_an_error(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        list(read_stanzas(text))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"Package": "../etc", "Version": "1.0"}, "not a name"),
        ({"Package": "a", "Version": "1.0"}, "not a name"),
        ({"Package": "ab", "Version": "one"}, "not a version"),
        ({"Package": "ab", "Version": "1.0", "Imports": "cd (1.0)"}, "cannot be read as a dependency"),
        ({"Package": "ab", "Version": "1.0", "Imports": "cd (>= x)"}, "not a version"),
    ],
)
def test_what_is_no_description_is_an_error(fields: dict[str, str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_description(fields)


def test_an_r_of_a_subversion_revision_is_any_r() -> None:
    assert list(parse_needs("R (>= r83996), , cd")) == [Need("R"), Need("cd")]


def test_compressed_text_has_a_limit() -> None:
    data = gzip.compress(b"a" * 1000)
    assert unpack_text(data) == unpack_text(b"a" * 1000) == "a" * 1000
    for wrong, why in ((data, "more than"), (b"a" * 1000, "more than")):
        with pytest.raises(ValueError, match=why):
            unpack_text(wrong, 999)
    with pytest.raises(ValueError, match="ends in the middle"):
        unpack_text(data[:-9])
    with pytest.raises(ValueError, match="cannot be decompressed"):
        unpack_text(b"\x1f\x8b" + b"nonsense")


@given(st.text(alphabet="Package:Vrsion 1.0\n\t,()>=-R", max_size=300))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        stanzas = list(read_stanzas(text))
    except ValueError:
        return
    for fields in stanzas:
        try:
            read_description(fields)
        except ValueError:
            continue


# --- wishes ---------------------------------------------------------------------------------------------------------


def test_wishes_are_names_with_versions() -> None:
    assert parse_wish("data.table", "team.toml") == PackageWish("data.table", (), "team.toml")
    assert parse_wish(" xgboost >= 1.7, < 2 ", "team.toml").bounds == (Bound(">=", "1.7"), Bound("<", "2"))
    assert parse_wish("dplyr==1.1.4", "team.toml").pin == "1.1.4"


_NO_WISHES = ("", "a", "-x", "data_table", "dplyr==", "dplyr>=one", "dplyr~=1.0", "dplyr 1.0", "github::user/x", "ab>=1,", "ab,")


@pytest.mark.parametrize("text", _NO_WISHES)
def test_what_is_no_wish_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"packages\.R\.txt line 3: not an R package"):
        parse_wish(text, "packages.R.txt line 3")


def test_wishes_for_one_name_are_joined() -> None:
    joined = join_wishes([parse_wish("ab>=1.0", "team.toml"), parse_wish("cd", "team.toml"), parse_wish("ab<2", "packages.R.txt line 1")])
    assert joined == (
        PackageWish("ab", (Bound(">=", "1.0"), Bound("<", "2")), "team.toml, packages.R.txt line 1"),
        PackageWish("cd", (), "team.toml"),
    )


# --- the closure ----------------------------------------------------------------------------------------------------


class Shelf:
    """Repositories in memory: of each name versions, the last one current."""

    def __init__(self, **packages: str) -> None:
        """``xgboost="1.0: data.table (>= 1.0) | 2.0: R (>= 4.0)"``."""
        self.versions: dict[str, dict[str, Description]] = {}
        for name, text in packages.items():
            for part in text.split("|"):
                version, _, needs = part.strip().partition(":")
                self.versions.setdefault(name, {})[version] = Description(name, version, tuple(parse_needs(needs)))

    def find_current(self, name: str) -> Description | None:
        return list(self.versions[name].values())[-1] if name in self.versions else None

    def find_version(self, name: str, version: str) -> Description | None:
        return self.versions.get(name, {}).get(version)

    def name_source(self, name: str) -> str:
        return "package index 'cran'" if is_package_name(name) else ""

    def close(self, *wishes: str, kept: dict[str, str] | None = None, replace: tuple[str, ...] = ()) -> Closure:
        asked = join_wishes(parse_wish(text, "team.toml") for text in wishes)
        return compute_closure(asked, self, FACTS, "rbase", kept=kept or {}, replace=frozenset(replace))


FACTS = make_facts(
    RPackage("MASS", "7.3-58", OWN, "4.2.2", "recommended"),
    RPackage("Rcpp", "1.0.9", OWN, "4.2.2"),
    RPackage("methods", "4.2.2", OWN, "4.2.2", "base"),
)


def show(closure: Closure) -> list[str]:
    return [f"{item.description.name} {item.description.version}" for item in closure.chosen]


def test_everything_comes_after_what_it_needs_and_the_bases_is_left_out() -> None:
    shelf = Shelf(zoo="1.8: R (>= 3.1.0), methods, lattice (>= 0.20)", lattice="0.21", xts="0.13: zoo (>= 1.7-12), Rcpp (>= 1.0)")
    closure = shelf.close("xts", "zoo", "MASS")
    assert show(closure) == ["lattice 0.21", "zoo 1.8", "xts 0.13"]
    assert [item.needs for item in closure.chosen] == [(), ("lattice",), ("zoo",)]
    assert [item.via for item in closure.chosen] == [("zoo",), ("team.toml", "xts"), ("team.toml",)]
    assert [f"{item.name} {item.version}" for item in closure.satisfied] == ["MASS 7.3-58", "Rcpp 1.0.9", "methods 4.2.2"]


@pytest.mark.parametrize(
    ("wishes", "message", "hint"),
    [
        (("old",), r"old 1\.0 needs Rcpp >= 1\.0\.12, and base rbase has Rcpp 1\.0\.9", r'replace = \["r:Rcpp"\]'),
        (("MASS>=8.0",), r"team\.toml asks for MASS >= 8\.0, and base rbase has MASS 7\.3-58", r'replace = \["r:MASS"\]'),
        (("newer",), r"newer 2\.0 needs R >= 4\.4, and base rbase has R 4\.2\.2", '"newer==VERSION"'),
        (("strict",), r"strict 1\.0 needs methods >= 5\.0, and base rbase has methods 4\.2\.2", "another R"),
        (("gone",), r"team\.toml asks for gone, which package index 'cran' does not have", "upper and lower case"),
        (("lost",), r"lost 1\.0 needs nowhere, which package index 'cran' does not have", "upper and lower case"),
        (("leaf==9.9",), r"team\.toml asks for leaf 9\.9, which package index 'cran' does not have", "correct the name"),
        (("leaf>=3.0",), r"team\.toml asks for leaf >= 3\.0, and package index 'cran' has leaf 2\.0", '"leaf==VERSION"'),
        (("leaf==1.0", "stem"), r"stem 1\.0 needs leaf >= 2\.0, and team\.toml asks for leaf 1\.0", '"leaf==VERSION"'),
        (("one",), r"R packages need each other in a circle: one, other", "operators"),
    ],
)
def test_what_does_not_fit_is_one_sentence_with_both_versions(wishes: tuple[str, ...], message: str, hint: str) -> None:
    shelf = Shelf(
        old="1.0: Rcpp (>= 1.0.12)",
        newer="1.0 | 2.0: R (>= 4.4)",
        strict="1.0: methods (>= 5.0)",
        lost="1.0: nowhere",
        leaf="1.0 | 2.0",
        stem="1.0: leaf (>= 2.0)",
        one="1.0: other",
        other="1.0: one",
    )
    with pytest.raises(LockError, match=message) as caught:
        shelf.close(*wishes)
    assert hint in caught.value.hint.replace("\\", "") or hint.replace("\\", "") in caught.value.hint


def test_an_older_version_is_taken_when_it_is_pinned() -> None:
    assert show(Shelf(newer="1.0 | 2.0: R (>= 4.4)").close("newer==1.0")) == ["newer 1.0"]


def test_a_package_of_the_base_is_brought_anew_where_the_team_says_so() -> None:
    shelf = Shelf(fast="1.0: Rcpp (>= 1.0.12)", Rcpp="1.0.13")
    assert show(shelf.close("fast", replace=("Rcpp",))) == ["Rcpp 1.0.13", "fast 1.0"]


def test_locked_versions_stay_until_something_asks_for_more() -> None:
    shelf = Shelf(leaf="1.0 | 2.0", stem="1.0 | 2.0: leaf (>= 2.0)", other="1.0: leaf (>= 2.0)")
    kept = {"leaf": "1.0", "stem": "1.0"}
    assert show(shelf.close("leaf", "stem", kept=kept)) == ["leaf 1.0", "stem 1.0"]
    assert show(shelf.close("leaf", "other", "stem", kept=kept)) == ["leaf 2.0", "stem 1.0", "other 1.0"]
    assert show(shelf.close("leaf", "stem>=2.0", kept=kept)) == ["leaf 2.0", "stem 2.0"]
    assert show(shelf.close("leaf", kept={"leaf": "0.5"})) == ["leaf 2.0"]
    assert show(Shelf(newer="1.0: R (>= 4.4) | 2.0").close("newer", kept={"newer": "1.0"})) == ["newer 2.0"]


_NAMES = ("aa", "bb", "cc", "dd")


_NEEDS = st.lists(st.tuples(st.sampled_from(_NAMES), st.sampled_from(OPERATORS), st.integers(1, 3)), max_size=2)
_PACKAGES = st.fixed_dictionaries({name: st.lists(_NEEDS, min_size=1, max_size=3) for name in _NAMES})


@given(_PACKAGES, st.dictionaries(st.sampled_from(_NAMES), st.sampled_from(["1.0", "2.0"])))
def test_a_closure_keeps_every_bound_or_is_refused(packages: dict[str, list[list[tuple[str, str, int]]]], kept: dict[str, str]) -> None:
    shelf = Shelf()
    for name, versions in packages.items():
        shelf.versions[name] = {
            f"{number}.0": Description(name, f"{number}.0", tuple(Need(other, Bound(sign, f"{bound}.0")) for other, sign, bound in needs))
            for number, needs in enumerate(versions, 1)
        }
    try:
        closure = shelf.close("aa", kept=kept)
    except LockError:
        return
    chosen = {item.description.name: item.description for item in closure.chosen}
    seen: set[str] = set()
    assert "aa" in chosen
    for item in closure.chosen:
        assert set(item.needs) <= seen
        seen.add(item.description.name)
        assert all(need.bound.allows(chosen[need.name].version) for need in item.description.needs)
