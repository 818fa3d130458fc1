"""Where files come to lie: what is remembered of folders changes no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import BuildError
from imagebuild.layer.placement import FolderResolver, Placement
from tests.support.builders import make_host_interpreter
from tests.support.trees import USUAL, MemoryTree, folder, link

TREE = MemoryTree((*USUAL, folder("/data"), link("/usr/local/lib/linked", "/data"), link("/usr/local/lib/inner", "/usr/local/share")))
PARTS = st.sampled_from(["pkg", "a.py", "..", ".", "", "linked", "inner", "home", "lib", "share", "tmp", "é"])
PATHS = st.lists(PARTS, max_size=6).map("/".join)
HOMES = ["/home/jovyan", "/", "/usr/local/share/home", "/usr/local/home"]


class Forgetful(Placement):
    """Looks at each path anew."""

    def _place_plainly(self, *_: str) -> tuple[str, str] | None:
        return None


def place(kind: type[Placement], home: str, purelib: bool, asked: list[tuple[str, str]]) -> list[object]:
    placement = kind(make_host_interpreter(), FolderResolver(TREE), package="demo", home=home, purelib=purelib)
    found: list[object] = []
    for scheme, path in asked:
        try:
            found.append(placement.place(scheme, path, "demo") if scheme else placement.accept_row(path))
        except BuildError as error:
            found.append(error.message)
    return found


@pytest.mark.slow
@given(
    st.sampled_from(HOMES), st.booleans(),
    st.lists(st.tuples(st.sampled_from(["", "purelib", "platlib", "headers", "scripts", "data"]), PATHS), max_size=8),
)  # fmt: skip
def test_each_path_as_if_it_were_alone(home: str, purelib: bool, asked: list[tuple[str, str]]) -> None:
    assert place(Placement, home, purelib, asked) == place(Forgetful, home, purelib, asked)


def test_a_link_and_a_home_in_the_way_are_seen_again_and_again() -> None:
    asked = [
        ("data", "lib"),
        ("data", "lib/linked/a"),
        ("data", "lib/inner/a"),
        ("data", "share/home"),
        ("data", "share/home/a"),
        ("data", "share/x"),
    ] * 2
    found = place(Placement, "/usr/local/share/home", True, asked)
    assert found[:6] == found[6:] == place(Forgetful, "/usr/local/share/home", True, asked[:6])
    assert [isinstance(item, tuple) for item in found[:6]] == [True, False, True, False, False, True]
