"""Generated scripts against pip's own code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pip._internal.operations.install.wheel import PipScriptMaker, get_console_script_specs

from imagebuild.errors import BuildError
from imagebuild.wheel.scripts import is_wrapper, parse_entry_points, render_script, rewrite_script, script_form, version_entry_points


@pytest.mark.parametrize(
    "interpreter",
    ["/usr/bin/python3", "/opt/" + "x" * 106 + "/bin/python3", "/opt/" + "x" * 107 + "/bin/python3", "/opt/my env/bin/python3"],
)
@pytest.mark.parametrize("target", ["a:main", "a.b_c:main.run"])
def test_a_script_is_byte_for_byte_what_pip_writes(tmp_path: Path, interpreter: str, target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pip._vendor.distlib.scripts.get_executable", lambda: interpreter)
    maker = PipScriptMaker(None, str(tmp_path))  # type: ignore[no-untyped-call]
    maker.clobber = True
    maker.variants = {""}
    (written,) = maker.make(f"tool = {target}")
    module, attribute = target.split(":")
    assert render_script(interpreter, module, attribute) == Path(written).read_bytes()


@pytest.mark.parametrize(
    "console",
    [
        {"pip": "pip:main", "pip3": "pip:main", "pip3.7": "pip:main", "pipx": "x:y"},
        {"easy_install": "s:main", "easy_install-2.7": "s:main", "a": "b:c"},
        {"pip3": "not.pip:main"},
    ],
)
def test_versioned_names_are_pips(console: dict[str, str]) -> None:
    import sys

    expected = dict(spec.split(" = ") for spec in get_console_script_specs(console))
    assert version_entry_points(console, sys.version.split()[0]) == expected


def test_both_sections_comments_and_extras_are_read() -> None:
    text = "# c\n[console_scripts]\na = m.n:f [extra]\n\n[other]\nz = what ever\n[gui_scripts]\nb=m:g.h\n"
    assert parse_entry_points(text, "w.whl") == {"console_scripts": {"a": "m.n:f"}, "gui_scripts": {"b": "m:g.h"}}


@pytest.mark.parametrize(
    "line",
    [
        "../evil = m:f",
        "a/b = m:f",
        "a = m",
        "a = m:f; import os",
        "a b = m:f",
        ".. = m:f",
        ".wh.x = m:f",
        "a = m:f\\n",
        "= m:f",
        "a\\b = m:f",
    ],
)
def test_an_entry_point_that_is_not_one_is_refused_by_name(line: str) -> None:
    with pytest.raises(BuildError, match=r"w\.whl: invalid script entry point"):
        parse_entry_points("[console_scripts]\n" + line, "w.whl")


def test_setuptools_wrappers_are_recognised() -> None:
    names = ["tool"]
    assert [is_wrapper(name, names) for name in ("tool", "tool.exe", "tool-script.py", "tool.pya", "tool.py", "other")] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"#!python\n", b"#!pythonw3 -E\r\n", b"#!python", b"#!/bin/sh\n"]), st.integers(1, 50)
)
def test_rewriting_touches_the_first_line_only_and_never_depends_on_chunks(body: bytes, head: bytes, width: int) -> None:
    data = head + body

    def chunks() -> Iterator[bytes]:
        yield from (data[start : start + width] for start in range(0, len(data), width))

    result = b"".join(rewrite_script(chunks(), "/opt/bin/python", "w: s"))
    if data.startswith(b"#!python"):
        assert result == b"#!/opt/bin/python\n" + data.partition(b"\n")[2]
    else:
        assert result == data


def test_an_endless_first_line_is_refused() -> None:
    with pytest.raises(BuildError, match="w: s: the first line has no end"):
        list(rewrite_script(iter([b"#!python" + b"x" * 40_000] * 3), "/p", "w: s"))


def test_a_script_for_a_python_without_removesuffix_is_the_same_but_for_that_line() -> None:
    usual, old = (render_script("/usr/bin/python3", "a.b", "main.run", script_form(python)).splitlines() for python in ("3.9.0", "3.8.20"))
    assert [line for line in usual if line not in old] == [b"    sys.argv[0] = sys.argv[0].removesuffix('.exe')"]
    assert [line for line in usual if line in old] == old
