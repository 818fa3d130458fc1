"""Two locks compared, and the report on it."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.lock.file.changes import compare_locks, render_markdown
from imagebuild.lock.file.model import Lock, LockedPackage
from tests.support.builders import make_base, make_lock, make_package

BASE = make_base()


def lock_of(*packages: LockedPackage, **changes: object) -> Lock:
    lock = make_lock(BASE, *sorted(packages, key=lambda item: item.name))
    return msgspec.structs.replace(lock, **changes)


def grown(package: LockedPackage, size: int, installed: int) -> LockedPackage:
    return msgspec.structs.replace(package, size=size, installed_size=installed)


def test_equal_locks_have_no_changes() -> None:
    lock = lock_of(make_package("pandas"), make_package("pytz", via=("pandas",)))
    changes = compare_locks(lock, msgspec.structs.replace(lock, cutoff="2026-10-02T00:00:00Z"))
    assert changes.is_empty
    assert "Nothing changed." in render_markdown(changes)


def test_every_kind_of_change_is_told_apart_and_direct_ones_come_first() -> None:
    before = lock_of(
        make_package("aaa", "1.9", via=("zzz",)),
        make_package("bbb", "2.0"),
        make_package("ccc", "1.0"),
        make_package("gone", "1.0"),
        make_package("same", "1.0"),
        make_package("zzz", "1.0"),
    )
    rebuilt = msgspec.structs.replace(make_package("ccc", "1.0"), sha256="f" * 64)
    after = lock_of(
        make_package("aaa", "1.10", via=("zzz",)),
        make_package("bbb", "1.5"),
        rebuilt,
        make_package("fresh", "3.0", via=("aaa",)),
        make_package("same", "1.0"),
        make_package("zzz", "2.0"),
    )
    changes = compare_locks(before, after)
    assert [(item.name, item.kind, item.direct) for item in changes.packages] == [
        ("zzz", "upgraded", True),
        ("bbb", "downgraded", True),
        ("ccc", "rebuilt", True),
        ("gone", "removed", True),
        ("aaa", "upgraded", False),
        ("fresh", "added", False),
    ]
    text = render_markdown(changes)
    assert "2 upgraded, 1 downgraded, 1 rebuilt, 1 added, 1 removed; 6 to 6 packages" in text
    assert "| aaa | by others | 1.9 to 1.10 | 1000 B | 3.9 KiB | unknown |" in text
    assert "| gone | directly | gone: 1.0 | -1000 B | -3.9 KiB | unknown |" in text
    assert "- bbb goes back to an older version" in text
    assert "- ccc 1.0 is another file than before under the same version" in text


def test_bytes_and_licences() -> None:
    one, other = make_package("pandas", "1.0"), grown(make_package("pandas", "2.0"), 13_200_000, 70_000_000)
    licences = {one.sha256: "BSD-3-Clause", other.sha256: "GPL-3.0-only"}
    changes = compare_locks(lock_of(grown(one, 12_900_000, 1_000)), lock_of(other), licences)
    (change,) = changes.packages
    assert change.licence_changed
    assert (changes.size_before, changes.size_after, changes.installed_after) == (12_900_000, 13_200_000, 70_000_000)
    text = render_markdown(changes)
    assert "| pandas | directly | 1.0 to 2.0 | 12.3 MiB to 12.6 MiB | 1000 B to 66.8 MiB | **BSD-3-Clause to GPL-3.0-only** |" in text
    assert "- pandas: the licence changes from BSD-3-Clause to GPL-3.0-only" in text


def test_an_unknown_licence_is_no_change_of_licence() -> None:
    one, other = make_package("pandas", "1.0"), make_package("pandas", "2.0")
    (change,) = compare_locks(lock_of(one), lock_of(other), {other.sha256: "MIT"}).packages
    assert not change.licence_changed


def test_the_whole_lock_is_compared_too() -> None:
    before = lock_of(satisfied=("numpy==1.26.4", "torch==2.4.0+cu121"))
    after = lock_of(satisfied=("numpy==2.1.0", "scipy==1.14.0"), base_digest="sha256:" + "2" * 64, resolver="uv 0.9.1")
    facts = {item.name: (item.before, item.after) for item in compare_locks(before, after).facts}
    assert facts.keys() == {"base digest", "resolver", "numpy of the base"}
    assert facts["numpy of the base"] == ("1.26.4", "2.1.0")
    assert "`sha256:222222222222`" in render_markdown(compare_locks(before, after))


def test_a_first_lock_adds_everything() -> None:
    changes = compare_locks(None, lock_of(make_package("pandas")))
    assert [item.kind for item in changes.packages] == ["added"]
    assert (changes.facts, changes.count_before, changes.size_before) == ((), 0, 0)


def test_another_index_is_worth_a_look() -> None:
    one, other = make_package("tools"), make_package("tools", index="corp")
    assert "- tools comes from index corp, not default" in render_markdown(compare_locks(lock_of(one), lock_of(other)))


NAMES = st.sampled_from(["a", "b", "c", "d"])
LOCKS = st.dictionaries(NAMES, st.sampled_from(["1.0", "1.1", "2.0"])).map(
    lambda found: lock_of(*(make_package(name, version) for name, version in found.items()))
)


@given(LOCKS, LOCKS)
def test_the_way_back_is_the_mirror_image(one: Lock, other: Lock) -> None:
    mirrored = {"added": "removed", "removed": "added", "upgraded": "downgraded", "downgraded": "upgraded"}
    there, back = compare_locks(one, other), compare_locks(other, one)
    assert {item.name: mirrored[item.kind] for item in there.packages} == {item.name: item.kind for item in back.packages}
    assert (there.size_before, there.size_after) == (back.size_after, back.size_before)


@given(st.text(max_size=30))
def test_no_licence_breaks_the_table(licence: str) -> None:
    package = make_package("pandas")
    row = next(
        line for line in render_markdown(compare_locks(None, lock_of(package), {package.sha256: licence})).splitlines() if "pandas" in line
    )
    assert row.replace("\\|", "").count("|") == 7


def test_what_resolve_changes_and_what_to_know_is_told_even_when_no_package_differs() -> None:
    before = lock_of(make_package("pandas"))
    after = msgspec.structs.replace(before, exclude=("opencv-python",), override=("numpy<3,>=2",))
    changes = compare_locks(before, after)
    assert [(fact.name, fact.before, fact.after) for fact in changes.facts] == [
        ("excluded", "nothing", "opencv-python"),
        ("overridden", "nothing", "numpy<3,>=2"),
    ]
    text = render_markdown(msgspec.structs.replace(compare_locks(before, before), notes=("six is archived (moved)",)))
    assert text.splitlines()[2:] == ["Nothing changed.", "", "Look twice:", "", "- six is archived (moved)"]
