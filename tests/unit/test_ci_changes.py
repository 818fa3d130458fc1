"""Which teams a change is about; the summary; and the workflows: valid, pinned, with nothing they need not have."""

from __future__ import annotations

import hashlib
import html
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.ci.changes import choose_changed_teams, find_changed_bases
from imagebuild.ci.reports import compare_packages, read_results
from imagebuild.ci.summary import TeamReport, escape, render_summary
from imagebuild.cli import cli
from imagebuild.errors import ConfigurationError
from imagebuild.lock.file.lockfile import format_lock
from tests.support.actions import load_workflow
from tests.support.builders import make_base, make_lock, make_package
from tests.support.expressions import is_met

TEAMS = {"blue": "tiny", "green": "tiny", "red": "huge"}
ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["README.md", "imagebuild/cli.py"], ""),
        (["images/blue/requirements.in"], "blue"),
        (["images/blue/packages/kit/src/kit.py", "lockfiles/pylock.red.toml"], "blue red"),
        (["lockfiles/bases/tiny.json"], "blue green"),
        (["images/indexes.toml"], "blue green red"),
        (["images/pools.toml"], ""),  # what nodes keep, and no image
        (["lockfiles/r.red.toml", "lockfiles/vscode.blue.toml", "lockfiles/s.green.toml"], "blue red"),
        (["images/gone/team.toml", "lockfiles/pylock.gone.toml"], ""),
    ],
)
def test_a_path_is_about_these_teams(paths: list[str], expected: str) -> None:
    assert " ".join(choose_changed_teams(paths, TEAMS, b"", b"")) == expected


def test_a_base_is_about_the_teams_on_it() -> None:
    before = b'[base.tiny]\ndigest = "1"\n[base.huge]\ndigest = "1"\n'
    path = ["images/catalogue.toml"]
    assert choose_changed_teams(path, TEAMS, before, before.replace(b'"1"\n[base.huge', b'"2"\n[base.huge')) == ("blue", "green")
    assert choose_changed_teams(path, TEAMS, before, b"# a comment\n" + before) == ()
    assert choose_changed_teams(path, TEAMS, before, before + b'[mirrors]\n"a" = "b"\n') == ("blue", "green", "red")
    for unreadable in (None, b"= broken", b"\xff"):
        assert choose_changed_teams(path, TEAMS, unreadable, before) == ("blue", "green", "red")
    assert find_changed_bases(before, before) == frozenset()


def test_packages_that_differ() -> None:
    base = make_base()
    old = make_lock(base, make_package("alpha"), make_package("beta"), make_package("same"))
    new = make_lock(base, make_package("alpha", "2.0"), make_package("gamma"), make_package("same"))
    assert compare_packages(old, new) == {"alpha": ("1.0", "2.0"), "beta": ("1.0", ""), "gamma": ("", "1.0")}
    assert list(compare_packages(None, new)) == ["alpha", "gamma", "same"]


def test_the_summary_says_what_was_built_and_what_failed() -> None:
    built = {
        "team": "blue",
        "image": "reg.example/ml/blue",
        "tag": "2026q4-0",
        "digest": "sha256:12",
        "built": True,
        "compressed": 1 << 20,
        "installed": 2 << 20,
    }
    failed = {"team": "red", "error": "over budget | by far", "hint": "drop `torch`"}
    reports = [
        TeamReport("blue", limits=(("stored", 1, 3 << 20),), packages={"alpha": ("1.0", "2.0")}, base=("tiny a", "tiny b"), result=built),
        TeamReport("red", result=failed),
        TeamReport("green", problem="the lock is stale", checks=("predicted within budget",)),
        TeamReport("grey", checks=("lock proved", "predicted within budget")),
        TeamReport("black"),
    ]
    text = html.unescape(render_summary(reports, since="a" * 40))
    assert "| blue | 1.0 MiB of 3.0 MiB | 2.0 MiB | 1 changed | built: 2026q4-0 |" in text
    assert "| red |  |  |  | **failed**: over budget | by far |" in text
    assert "`reg.example/ml/blue:2026q4-0@sha256:12`" in text
    assert "| alpha | 1.0 | 2.0 |" in text
    assert "Base: tiny a → tiny b" in text
    assert "| green |  |  |  | **the lock is stale** |" in text
    assert "| grey |  |  |  | lock proved, predicted within budget |" in text
    assert "| black |  |  |  |  |" in text  # nothing was looked at, and nothing is said
    assert "Packages since aaaaaaaaaaaa:" in text


def test_the_summary_says_checked_only_of_what_was_checked(tmp_path: Path) -> None:
    def summarize(*options: str) -> str:
        done = CliRunner().invoke(cli, ["ci", "summary", "blue", "--root", str(tmp_path), *options], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return html.unescape(done.stdout).splitlines()[4]

    world = tmp_path / "images" / "blue"
    world.mkdir(parents=True)
    (world / "team.toml").write_text('base = "tiny"\n[budget]\ninstalled = "1 GiB"\n')
    (world / "requirements.in").write_text("\n")
    (tmp_path / "images" / "catalogue.toml").write_text('[base.tiny]\nbuild = "starter"\nkind = "jupyter"\n')
    assert "**pylock.blue.toml is missing**" in summarize()
    lock = make_lock(make_base())
    inputs = {"images/blue/requirements.in": hashlib.sha256(b"\n").hexdigest()}
    lock = msgspec.structs.replace(lock, team="blue", base="tiny", inputs=inputs)
    (tmp_path / "lockfiles").mkdir()
    (tmp_path / "lockfiles" / "pylock.blue.toml").write_text(format_lock(lock))
    assert summarize().endswith("| inputs as locked, predicted within budget |")
    assert summarize("--lock-check", "success").endswith("| lock proved, predicted within budget |")
    assert "**the lock is not proved (lock --check: failure)**" in summarize("--lock-check", "failure")
    (tmp_path / "result.json").touch()  # a build that was killed
    assert "**no image: the build ended without a result**" in summarize("--result", str(tmp_path / "result.json"))
    (world / "requirements.in").write_text("alpha\n")
    assert "**the lock is stale: images/blue/requirements.in changed**" in summarize()
    assert "**the lock is stale: images/blue/requirements.in changed**" in summarize("--lock-check", "success")


def test_a_single_team_that_fails_tells_the_summary_why(tmp_path: Path) -> None:
    world = tmp_path / "images" / "blue"
    world.mkdir(parents=True)
    (world / "team.toml").write_text('base = "tiny"\n')
    (world / "requirements.in").write_text("\n")
    (tmp_path / "images" / "catalogue.toml").write_text('[base.tiny]\nreference = "r.example.com/tiny"\ntag = "1"\nkind = "jupyter"\n')
    done = CliRunner().invoke(cli, ["image", "blue", "--json", "--root", str(tmp_path)])
    assert isinstance(done.exception, ConfigurationError)  # which becomes the exit code
    (result,) = json.loads(done.stdout)
    assert (result["team"], result["error"], result["exit_code"]) == ("blue", done.exception.message, done.exception.exit_code)
    file = tmp_path / "result.json"
    file.write_text(done.stdout)
    summary = CliRunner().invoke(cli, ["ci", "summary", "blue", "--result", str(file), "--root", str(tmp_path)])
    assert f"**failed**: {result['error']}" in html.unescape(summary.stdout)


@given(st.text())
def test_nothing_in_the_summary_is_markup(text: str) -> None:
    found = escape(text)
    assert not set(found) & set("`*_[]()<>|~@\\\n\r!")
    assert html.unescape(found) == " ".join(text.split())
    lines = render_summary([TeamReport("x", problem=text)]).splitlines()
    assert len(lines) == 5


def test_a_result_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    for text in ("{}", "nothing", "[1]", '[{"tag": "x"}]'):
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            read_results([path])
    path.write_text("")
    assert read_results([path]) == {}
    path.write_text(json.dumps([{"team": "blue"}]))
    assert read_results([path]) == {"blue": {"team": "blue"}}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_no_more_than_it_needs(path: Path) -> None:
    workflow, text = load_workflow(path), path.read_text()
    assert workflow["permissions"] == {}
    assert not re.search(
        r"^\s*(pull_request_target|workflow_run):", text, re.MULTILINE
    )  # where a proposal would meet a token that may write
    for use in re.findall(r"uses: (\S+)( .*)?", text):
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", use[0])
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", use[1])
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"] <= 90
        assert set(job["permissions"]) <= {"contents", "packages", "pull-requests"}
        writes = "write" in job["permissions"].values()
        for step in job["steps"]:
            assert "${{" not in step.get("run", ""), name  # what others wrote reaches a shell as a variable only
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False
            if writes and path.stem != "images-build":
                assert "imagebuild " not in step.get("run", "").replace("user.name imagebuild", ""), name
                assert "make" not in step.get("run", "").split()


IMAGES = [path for path in WORKFLOWS if path.name.startswith("images-")]


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_error_within_a_step_stops_the_job(path: Path) -> None:
    """GitHub's own default is ``bash -e``, without pipefail; and a command that is substituted into another's arguments may fail unseen."""
    workflow, text = load_workflow(path), path.read_text()
    assert workflow["defaults"]["run"]["shell"] == "bash"
    assert not re.findall(r"^.*\b(?:echo|printf)\b.*\$\(.*imagebuild.*$", text, re.MULTILINE)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_whoever_opens_a_base_has_what_the_starter_needs(path: Path) -> None:
    for name, job in load_workflow(path)["jobs"].items():
        script = "\n".join(step.get("run", "") for step in job["steps"])
        if re.search(r"imagebuild (?:image|lock|size|ci summary)|quarterly\.sh", script):
            assert "mmdebstrap debian-archive-keyring" in script, name


def test_the_programs_own_tests_stop_at_lint_and_the_unit_tests() -> None:
    jobs = load_workflow(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]
    scripts = {name: [step["run"] for step in job["steps"] if "run" in step][1:] for name, job in jobs.items()}
    assert scripts == {"unit": ["make lint", "make unit", "make site"], "integration": ["bash .ci/run"]}
    assert "needs" not in jobs["unit"]
    assert jobs["integration"]["needs"] == "unit"


def test_the_hooks_before_a_commit_are_those_of_make_lint() -> None:
    """And nothing is downloaded for them: each is a program that make installed into .venv."""
    hooks = load_workflow(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    programs = [(hook["entry"].split()[0], hook["language"]) for hook in hooks[0]["hooks"]]
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert lint is not None
    made = re.findall(r"@\$\(BIN\)/(\w+)", lint[1])
    assert programs == [(f".venv/bin/{name}", "system") for name in made]


def test_a_fork_gets_no_comment_and_a_failed_check_gets_one() -> None:
    condition = load_workflow(ROOT / ".github" / "workflows" / "images-pull-request.yml")["jobs"]["comment"]["if"]

    def is_made(fork: str, result: str) -> bool:
        github = {"repository": "someone/images", "event": {"pull_request": {"head": {"repo": {"full_name": fork}}}}}
        return is_met(condition, {"github": github, "needs": {"check": {"result": result}}}, [result])

    assert is_made("someone/images", "success")
    assert is_made("someone/images", "failure")
    assert not is_made("someone/images", "skipped")
    assert not is_made("stranger/images", "success")


def test_a_push_does_not_take_another_teams_build_away() -> None:
    """Of the runs that wait in one concurrency group GitHub keeps the newest and cancels the others."""
    workflow = load_workflow(ROOT / ".github" / "workflows" / "images-build.yml")
    assert "concurrency" not in workflow
    assert workflow["jobs"]["build"]["concurrency"] == {"group": "image-${{ matrix.team }}", "cancel-in-progress": False}


def test_builds_keep_what_they_made_by_the_teams_lock() -> None:
    """On a branch that only merges reach: a pull request's cache is its own, and no job of one has a step like it."""
    steps = load_workflow(ROOT / ".github" / "workflows" / "images-build.yml")["jobs"]["build"]["steps"]
    names = [step.get("uses", step.get("run", "")) for step in steps]
    (kept,) = [number for number, name in enumerate(names) if name.startswith("actions/cache@")]
    assert steps[kept]["with"]["path"] == ".imagebuild/cache"
    assert "hashFiles(format('lockfiles/pylock.{0}.toml', matrix.team))" in steps[kept]["with"]["key"]
    (built,) = [number for number, name in enumerate(names) if name.startswith('.venv/bin/imagebuild image "$TEAM" --locked --copy-base ')]
    assert kept < built
    assert "--cache-to" in names[built]
    assert all("--cache-to" not in path.read_text() for path in WORKFLOWS if path.stem != "images-build")
    assert all("actions/cache" not in path.read_text() for path in WORKFLOWS if path.stem != "images-build")


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"packages": 9, "prepared": 2}, "7 of 9 packages were there, 2 were made."),
        ({"packages": 9, "prepared": 0, "members": {"taken": 9}}, "9 of 9 packages were there, 0 were made; 9 came from the registry."),
        ({"packages": 9, "prepared": "no"}, ""),
        ({"packages": 9}, ""),
        ({"packages": 1, "prepared": 0, "members": "x"}, "1 of 1 packages were there, 0 were made."),
    ],
)
def test_the_summary_says_how_much_was_there(result: dict[str, Any], line: str) -> None:
    text = render_summary([TeamReport("blue", result={"built": True, "tag": "t", **result})])
    assert line in text
    assert bool(line) is ("packages were there" in text)


@pytest.mark.slow
def test_workflows_are_valid_and_zizmor_finds_nothing() -> None:
    files = [str(path) for path in WORKFLOWS]
    assert len(files) == 5
    tools = Path(sys.executable).parent
    for command in (
        [tools / "check-jsonschema", "--builtin-schema", "vendor.github-workflows"],
        [tools / "zizmor", "--offline", "--no-progress", "-q"],
    ):
        done = subprocess.run([*map(str, command), *files], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_scripts_are_what_bash_reads() -> None:
    for path in sorted((ROOT / "scripts").glob("*.sh")):
        assert path.stat().st_mode & 0o111
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
