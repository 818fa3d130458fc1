"""smoke's look at add-ons: what is asked inside, for R packages with a script in R's place, and what is made of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from imagebuild.check.smoke.addons import check_extensions, check_r_packages, has_extensions, has_r_packages
from imagebuild.check.smoke.pod import Pod
from imagebuild.check.smoke.probe import attach_r_packages
from tests.unit.test_check_smoke_checks import make_subject

# R's answers: a version and a folder; an error with R's last words; an end without an answer; no end.
RSCRIPT = """\
#!/bin/sh
case "$3" in
good) echo "chatty package"; printf '\\n@1.15.4@%s\\n' /proc;;
open) printf '\\n@1.0@%s\\n' {open};;
bad) echo "Error in library(name) :" >&2; echo "  there is no package called 'bad'" >&2; echo "Execution halted" >&2; exit 1;;
mute) ;;
slow) sleep 30;;
esac
"""


@pytest.mark.slow
def test_each_package_is_attached_in_an_r_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "Rscript"
    program.write_text(RSCRIPT.format(open=tmp_path))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.access", lambda path, _mode: str(path) in (str(tmp_path), str(program)))
    answer = attach_r_packages(["good", "open", "bad", "mute", "slow"], 0.5)
    assert answer == {
        "missing": False,
        "versions": {"good": "1.15.4", "open": "1.0"},
        "writable": ["open"],
        "failed": {
            "bad": "Error in library(name) : there is no package called 'bad'",
            "mute": "exit code 0",
            "slow": "no end after 0.5 s",
        },
    }


def test_an_image_without_r_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    answer = attach_r_packages(["good"], 1)
    assert answer == {"missing": True, "failed": {}, "versions": {}, "writable": []}
    found = ask(answer, **{"r:good": "1.0"})
    assert (found.status, found.text) == ("failed", "the image has no Rscript on its PATH")


class FakePod(msgspec.Struct):
    """A container that gives one answer."""

    answer: dict[str, Any]
    asked: list[str] = []

    def ask(self, question: str, seconds: int, /, **arguments: Any) -> dict[str, Any]:
        assert question in ("r", "vscode")
        assert seconds > arguments.get("seconds", 0) * len(arguments["names"])
        self.asked += arguments["names"]
        return self.answer


def ask(answer: dict[str, Any], **addons: str) -> Any:
    return check_r_packages(make_subject(addons=addons), cast("Pod", FakePod(answer)))


WELL = {"missing": False, "failed": {}, "versions": {"Rcpp": "1.0.9", "data.table": "1.15.4"}, "writable": []}


@pytest.mark.parametrize(
    ("changes", "details"),
    [
        ({}, ()),
        ({"failed": {"Rcpp": "no end after 30 s"}, "versions": {"data.table": "1.15.4"}}, ("Rcpp: no end after 30 s",)),
        ({"versions": {"Rcpp": "9.9", "data.table": "1.14.8"}}, ("data.table 1.14.8, asked for 1.15.4",)),  # what Rcpp's is, nobody said
        ({"writable": ["Rcpp"]}, ("Rcpp: the user may write to it",)),
        (
            {"writable": ["data.table"], "versions": {"Rcpp": "9.9", "data.table": "1"}},
            ("data.table 1, asked for 1.15.4", "data.table: the user may write to it"),
        ),
    ],
)
def test_every_package_has_to_be_as_locked(changes: dict[str, Any], details: tuple[str, ...]) -> None:
    found = ask({**WELL, **changes}, **{"r:data.table": "1.15.4", "r:Rcpp": "", "vscode:a.b": "1"})
    assert found.details == details
    assert found.status == ("failed" if details else "passed")
    assert found.text == ("1 of 2 R packages cannot be used as locked" if details else "2 R packages attached")


SCANNED = {"folder": "/extensions", "versions": {"acme.one": "1.0", "acme.two": "2.0"}, "writable": [], "broken": {}}


@pytest.mark.parametrize(
    ("changes", "details"),
    [
        ({}, ()),
        ({"versions": {"acme.one": "1.0"}}, ("acme.two: not in /extensions",)),
        ({"broken": {"acme.two": "its main file is not there"}}, ("acme.two: its main file is not there",)),
        ({"versions": {"acme.one": "9.9", "acme.two": "2.1"}}, ("acme.two 2.1, asked for 2.0",)),  # what acme.one's is, nobody said
        ({"writable": ["acme.one"]}, ("acme.one: the user may write to it",)),
    ],
)
def test_every_extension_has_to_be_as_locked(changes: dict[str, Any], details: tuple[str, ...]) -> None:
    subject = make_subject(addons={"vscode:acme.two": "2.0", "vscode:acme.one": "", "r:Rcpp": "1"})
    found = check_extensions(subject, cast("Pod", FakePod({**SCANNED, **changes})))
    assert found.details == details
    usable = "2 extensions in /extensions, where the running server looks"
    assert (found.status, found.text) == (("failed", "1 of 2 extensions cannot be used as locked") if details else ("passed", usable))


def test_an_image_in_which_no_code_server_runs_is_said_so() -> None:
    found = check_extensions(make_subject(addons={"vscode:acme.one": ""}), cast("Pod", FakePod({**SCANNED, "folder": ""})))
    assert (found.status, found.text.partition(":")[0]) == ("failed", "no code-server is running in it")


def test_only_an_image_with_add_ons_of_the_kind_is_asked() -> None:
    assert has_r_packages(make_subject(addons={"r:Rcpp": ""}))
    assert has_extensions(make_subject(addons={"vscode:a.b": "1"}))
    assert not has_r_packages(make_subject(addons={"vscode:a.b": "1"}))
    assert not has_extensions(make_subject(addons={"r:Rcpp": ""}))
    assert not has_r_packages(make_subject())
