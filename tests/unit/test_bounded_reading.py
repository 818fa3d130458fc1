"""JSON, TOML and YAML of others: whatever it is, it is read or refused in bounded time, and a refusal is an error of ours."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.config import load_team
from imagebuild.decoding import DEPTH, YAML_LIMIT, check_yaml, load_json, load_toml, make_decoder
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ConfigurationError, IntegrityError, UsageError
from imagebuild.lock.index.pages import parse_json_page
from imagebuild.lock.inputs.requirements import read_requirements
from imagebuild.oci.content import check_manifest
from imagebuild.oci.model import ImageConfig

_ANY = make_decoder(dict[str, msgspec.Raw])


def write_team(root: Path, text: str | bytes, requirements: str = "six\n") -> Path:
    folder = root / "images" / "alpha"
    folder.mkdir(parents=True)
    (folder / "team.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    (folder / "requirements.in").write_text(requirements)
    return root / "images"


# --- the three readers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [DEPTH + 1, 2_000, 200_000])
@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}")])
def test_json_nested_too_deeply(levels: int, start: str, end: str) -> None:
    document = start * levels + "1" + end * levels
    with pytest.raises(ValueError, match="nested more than"):
        load_json(document)
    manifest = f'{{"schemaVersion": 2, "x": {document}}}'.encode()
    with pytest.raises(IntegrityError, match="nested"):
        check_manifest(manifest)
    with pytest.raises(IntegrityError, match="nested"):
        ImageConfig.parse(b'{"config": {}, "x": ' + document.encode() + b"}")
    with pytest.raises(ValueError, match="nested"):
        parse_json_page("alpha", f'{{"files": [], "x": {document}}}'.encode(), "http://localhost/")


def test_json_as_deep_as_allowed() -> None:
    document = "[" * DEPTH + "]" * DEPTH
    assert load_json(document)
    assert _ANY.decode(b'{"a": ' + document.encode() + b"}")


def test_a_typed_decoder_has_one_kind_of_error() -> None:
    for data in (b'{"a": ' + b"[" * 100_000, b'{"\xff": 1}', b"", b"[]"):
        with pytest.raises(msgspec.DecodeError):
            _ANY.decode(data)


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5_000 + "]" * 5_000,
        "a = " + "{a = " * 5_000,
        ".".join(["a"] * 100_000) + " = 1",
        " . ".join(['"a.b"'] * 100_000) + " = 1",
        "[" + ".".join(["a"] * 100_000) + "]",
        "a = " + "9" * 5_000,
        "a = 0x" + "f" * 100_000 + "g",
        "a = '''" + "x" * 100_000,
        '"' * 100_000,
        "a" * 1_000_000,
    ],
    ids=["arrays", "tables", "dotted", "quoted", "header", "number", "hex", "open text", "quotes", "word"],
)
def test_toml_is_refused_at_once(text: str) -> None:
    started = time.process_time()
    with pytest.raises(ValueError, match=r"."):
        load_toml(text)
    assert time.process_time() - started < 5


@pytest.mark.parametrize("text", ['a = "{}"', "a = '{}'", 'a = """\n{}"""', "a = '''\n{}'''", "b = 1 # {}"])
def test_many_dots_in_a_text_are_no_key(text: str) -> None:
    assert load_toml(text.format(".".join(["x"] * 200)))


YAML_FILES = {
    "flow lists": "a: " + "[" * 20_000 + "]" * 20_000,
    "open lists": "a: " + "[\n " * 20_000,
    "flow maps": "a: " + "{a: " * 20_000,
    "block lists": "a:\n  " + "- " * 20_000 + "a\n",
    "block maps": "".join(" " * level + "a:\n" for level in range(3_000)),
    "keys": "? " * 20_000,
    "aliases": "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{chr(98 + level)}: &{chr(98 + level)} [{', '.join(['*' + chr(97 + level)] * 10)}]\n" for level in range(9)),
    "length": "a: b\n# " + "x" * YAML_LIMIT + "\n",
    "line separators": "a:\u2028" + "".join(" " * level + "a:\u2028" for level in range(1, 200)) + "\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", YAML_FILES)
def test_yaml_is_refused_at_once(name: str) -> None:
    started = time.process_time()
    with pytest.raises(ConfigurationError) as caught:
        EditedFile(YAML_FILES[name], "form.yaml")
    assert time.process_time() - started < 10
    assert caught.value.message.startswith("form.yaml")
    assert "\n" not in caught.value.message


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab:-?[]{}&*!|>'\"%@`#, \n\t0.~\x85\u2028\ufeff", max_size=60))
def test_any_text_is_a_file_to_merge_into_or_a_refusal(text: str) -> None:
    try:
        EditedFile(text, "form.yaml")
    except ConfigurationError as error:
        assert error.message.startswith("form.yaml")  # noqa: PT017
    try:
        check_yaml(text)
    except ValueError:
        pytest.fail("a short text has no limit to meet")


# --- team.toml ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('[env]\nB = "x\\u0000y"', r"team\.toml: env\.B holds a character that does not print \(U\+0000\)"),
        ('[env]\nB = "x\\ny"', r"team\.toml: env\.B holds a character that does not print \(U\+000A\)"),
        ('[env]\nB = "x\\u001b[31m"', r"env\.B .*U\+001B"),
        ('[env]\n"B\\u0000" = "x"', r"a key in env .*U\+0000"),
        ('[env]\n"" = "x"', "not an environment variable's name: ''"),
        ('[env]\n"B\\n" = "x"', r"U\+000A"),
        ('display-name = "a\\u202eb"', r"display-name .*U\+202E"),
        ('display-name = "a\\u0085b"', r"display-name .*U\+0085"),
        ('description = "a\\u2028b"', r"description .*U\+2028"),
        ('description = """\na\nb"""', r"description .*U\+000A"),
        ('owners = ["a", "b\\u007f"]', r"owners .*U\+007F"),
        ("x = " + "9" * 5_000, "a number has too many digits"),
        ("x = " + "[" * 5_000 + "]" * 5_000, "nested more than 64 levels deep"),
        (".".join(["x"] * 50_000) + " = 1", "nested more than 64 levels deep"),
        ("# " + "x" * (1 << 20), "has more than 1024 KiB"),
    ],
)
def test_a_team_is_refused_in_one_line(tmp_path: Path, line: str, message: str) -> None:
    images = write_team(tmp_path, f'base = "starter"\n{line}\n')
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_team(images, "alpha")
    assert caught.value.hint
    assert caught.value.message.isprintable()


def test_a_tab_and_any_language_are_texts(tmp_path: Path) -> None:
    images = write_team(tmp_path, 'base = "starter"\ndisplay-name = "Équipe 数 👩‍🔬"\n[env]\nB = "a\\tb"\n')
    assert load_team(images, "alpha").table.env == {"B": "a\tb"}


def _make_pipe(path: Path) -> None:
    os.mkfifo(path)


def _make_folder(path: Path) -> None:
    path.mkdir()


def _make_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("make", [_make_pipe, _make_folder, _make_circle])
@pytest.mark.parametrize("name", ["team.toml", "requirements.in"])
def test_what_is_no_file_is_named_and_not_waited_for(tmp_path: Path, name: str, make: object) -> None:
    images = write_team(tmp_path, 'base = "starter"\n')
    path = images / "alpha" / name
    path.unlink()
    make(path)  # type: ignore[operator]
    found: list[BaseException] = []

    def read() -> None:
        try:
            read_requirements(load_team(images, "alpha").requirements, tmp_path)
        except ConfigurationError as error:
            found.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert name in str(found[0])


def test_a_missing_team_is_still_an_unknown_one(tmp_path: Path) -> None:
    images = write_team(tmp_path, 'base = "starter"\n')
    with pytest.raises(UsageError, match="there is no team 'alfa'"):
        load_team(images, "alfa")


def test_requirements_that_link_out_of_the_project(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root:x:0:0\n")
    images = write_team(tmp_path / "project", 'base = "starter"\n')
    path = images / "alpha" / "requirements.in"
    path.unlink()
    path.symlink_to(secret)
    with pytest.raises(ConfigurationError, match="is a link to a file outside the project") as caught:
        read_requirements(path, tmp_path / "project")
    assert "root:x" not in str(caught.value) + caught.value.hint
    path.unlink()
    (images / "shared.in").write_text("six\n")
    path.symlink_to("../shared.in")
    assert [item.name for item in read_requirements(path, tmp_path / "project").direct] == ["six"]


def test_a_team_folder_that_is_a_link(tmp_path: Path) -> None:
    images = write_team(tmp_path / "elsewhere", 'base = "starter"\n')
    (tmp_path / "project" / "images").mkdir(parents=True)
    (tmp_path / "project" / "images" / "alpha").symlink_to(images / "alpha")
    path = tmp_path / "project" / "images" / "alpha" / "requirements.in"
    assert [item.name for item in read_requirements(path, tmp_path / "project").direct] == ["six"]
