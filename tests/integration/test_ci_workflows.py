"""The workflows' jobs, step by step as GitHub runs them, in containers with what its runner has: a proposal, merges, a quarter."""

from __future__ import annotations

import contextlib
import datetime
import html
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import images
from tests.support.actions import JobRun, Runner, load_workflow, make_event, make_image
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry, run_registry
from tests.support.tools import need, need_docker
from tests.support.workspaces import PROJECT, Checkout, run_tool
from tests.support.worlds import BASE_REPOSITORY, SmallBase, push_small_base

pytestmark = pytest.mark.integration

WORKFLOWS = Path(".github/workflows")  # of the repository
NOBODY = "0" * 40


@dataclass(frozen=True)
class Site:
    """A repository with two teams on a small base and an index of their own."""

    runner: Runner
    checkout: Checkout
    index: SlowIndex

    def git(self, *arguments: str) -> str:
        settings = self.runner.folder / "gitconfig"
        settings.write_text("[user]\nname = tester\nemail = tester@example.com\n[safe]\ndirectory = *\n[init]\ndefaultBranch = main\n")
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": str(settings)}
        command = [need("git"), "-C", str(self.checkout.root), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def push(self, ref: str = "main") -> str:
        """HEAD to the origin, which the runner's user may write; its commit."""
        self.git("push", "--quiet", "--force", str(self.runner.origin), f"HEAD:{ref}")
        subprocess.run(["chown", "-R", "1001:1001", str(self.runner.origin)], check=True)
        return self.git("rev-parse", "HEAD")

    def describe(self, team: str, text: str) -> None:
        """Another description, which is no input of a lock."""
        path = self.checkout.root / "images" / team / "team.toml"
        lines = [line for line in path.read_text().splitlines() if not line.startswith("description")]
        path.write_text("\n".join([f'description = "{text}"', *lines]) + "\n")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    name = make_image(tmp_path_factory.getbasetemp() / "runner")
    yield name
    subprocess.run([need_docker(), "rmi", "--force", name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def base(hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> SmallBase:
    rootfs = images.debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs")
    return push_small_base(rootfs, tmp_path_factory.mktemp("base"), hub)


@contextlib.contextmanager
def make_site(checkout: Checkout, base: SmallBase, image: str, folder: Path) -> Iterator[Site]:
    """The checkout with the small base and two teams on it, all of it committed and pushed to the runner's origin."""
    folder.mkdir()
    catalogue = checkout.root / "images" / "catalogue.toml"
    table = f'\n[base.tiny]\nreference = "{base.host}/{BASE_REPOSITORY}"\ntag = "1"\ndigest = "{base.digest}"\nkind = "jupyter"\n'
    catalogue.write_text(catalogue.read_text() + table)
    index = SlowIndex()
    publish(index, checkout.root.parent, "alpha", "1.0")
    with index.serve() as url:
        site = Site(Runner(folder, image, {"IMAGE_REGISTRY": "", "IMAGE_LOGIN": "", "IMAGE_MEMBERS": ""}), checkout, index)
        for team, asked in (("blue", "alpha\n"), ("green", "alpha==1.0\n")):
            checkout.write(f"images/{team}/team.toml", f'base = "tiny"\n[[index]]\nname = "fake"\nurl = "{url}"\ndefault = true\n')
            checkout.write(f"images/{team}/requirements.in", asked)
            checkout.run("lock", team, "--as-of", "2026-07-01").succeeded()
        site.git("init", "--quiet", ".")
        site.commit("what there is")
        run_tool("git", "init", "--quiet", "--bare", str(site.runner.origin))
        run_tool("git", "-C", str(site.runner.origin), "config", "uploadpack.allowAnySHA1InWant", "true")
        subprocess.run(["chown", "1001:1001", str(folder)], check=True)
        site.push()
        yield site


@pytest.fixture(scope="module")
def clone(base: SmallBase, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """This repository, with its own team on the starter base."""
    made = tmp_path_factory.mktemp("clone")
    checkout = Checkout(made / "checkout", made / "cache")
    for name in run_tool("git", "-C", str(PROJECT), "ls-files", "-z").decode().split("\0"):
        if (PROJECT / name).is_file():
            (checkout.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, checkout.root / name)
    with make_site(checkout, base, image, made / "work") as site:
        yield site


@pytest.fixture(scope="module")
def own(base: SmallBase, image: str, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A repository as ``imagebuild init`` makes it, with the program as a wheel in it."""
    made = tmp_path_factory.mktemp("own")
    checkout = Checkout(made / "checkout", made / "cache")
    checkout.root.mkdir()
    checkout.run("init").succeeded()
    (checkout.root / "wheels").mkdir()
    shutil.copy2(program, checkout.root / "wheels")
    checkout.write("imagebuild.txt", f"./wheels/{program.name}\n")
    with make_site(checkout, base, image, made / "work") as site:
        yield site


def pick(runs: list[JobRun], name: str, **matrix: Any) -> JobRun:
    (found,) = (run for run in runs if run.name == name and run.matrix == matrix)
    return found


def read_teams(runs: list[JobRun]) -> Any:
    """What the first job found."""
    teams = pick(runs, "teams")
    assert teams.result == "success", teams.log
    return json.loads(teams.outputs["teams"])


def test_a_proposal_is_checked_team_by_team_and_told_in_one_comment(clone: Site) -> None:
    base = clone.git("rev-parse", "HEAD")
    clone.git("switch", "--quiet", "--create", "proposal")
    clone.checkout.write("images/blue/requirements.in", "alpha<2\n")
    clone.describe("green", "greener")
    clone.describe("cosml", "as it is, on the starter base")
    clone.commit("one lock is stale")
    clone.git("switch", "--quiet", "--detach", base)
    clone.git("merge", "--quiet", "--no-ff", "--message", "merged", "proposal")
    merge = clone.push("refs/pull/7/merge")
    clone.git("switch", "--quiet", "main")
    request = {"number": 7, "base": {"sha": base}, "head": {"repo": {"full_name": "someone/images"}}}
    event = make_event(merge, "refs/pull/7/merge", pull_request=request)
    runs = clone.runner.run(clone.checkout.root / WORKFLOWS / "images-pull-request.yml", event)

    assert read_teams(runs) == ["blue", "cosml", "green"]
    for team in ("cosml", "green"):
        check = pick(runs, "check", team=team)
        assert check.result == "success", check.log
        assert "is fresh" in check.step("The lock is fresh").output
        assert f"| {team} |" in check.summary
        assert "| lock proved, predicted within budget |" in html.unescape(check.summary), check.log
    stale = pick(runs, "check", team="blue")
    assert stale.result == "failure"
    assert "images/blue/requirements.in changed" in stale.step("The lock is fresh").output
    assert "**the lock is not proved (lock --check: failure)**" in html.unescape(stale.summary), stale.log
    assert stale.step("What it changes").outcome == "success"
    assert stale.step("The layer is within").outcome == "skipped"

    comment = pick(runs, "comment")
    assert comment.result == "success", comment.log
    (call,) = clone.runner.read_calls()
    assert call == "pr comment 7 --repo someone/images --body-file comment.md --edit-last --create-if-none"
    body = html.unescape((clone.runner.folder / "gh-body-1").read_text())
    assert body == "".join(html.unescape(pick(runs, "check", team=team).summary) for team in ("blue", "cosml", "green"))


def test_what_is_merged_is_built_and_pushed(own: Site, tmp_path: Path) -> None:
    workflow = own.checkout.root / WORKFLOWS / "images-build.yml"
    before = own.git("rev-parse", "HEAD")
    assert {run.result for run in own.runner.run(workflow, make_event(before, before=NOBODY))} == {"skipped"}  # no registry is named

    own.describe("blue", "bluer")
    own.describe("green", "greener")
    sha = own.commit("two teams")
    own.push()
    with run_registry(tmp_path / "registry", login=True) as registry:
        own.runner.variables.update(IMAGE_REGISTRY=f"{registry.host}/ml", IMAGE_LOGIN=registry.host)
        who = {"token": registry.password, "actor": registry.username}
        runs = own.runner.run(workflow, {**make_event(sha, before=before), **who})
        assert read_teams(runs) == ["blue", "green"]
        for team in ("blue", "green"):
            build = pick(runs, "build", team=team)
            assert build.result == "success", build.log
            summary = html.unescape(build.summary)
            assert "| built: 20" in summary
            digest = summary.partition("@sha256:")[2][:64]
            registry.write_docker_config(tmp_path / "docker")
            raw = run_tool("skopeo", "inspect", "--raw", "--tls-verify=false", "--authfile", str(tmp_path / "docker" / "config.json"),
                           f"docker://{registry.host}/ml/{team}@sha256:{digest}")  # fmt: skip
            assert json.loads(raw)["annotations"]["dev.imagebuild.team"] == team

        # One that cannot be built says so. After a forced push all teams are asked for, and what is there is not built again.
        own.checkout.write("images/blue/requirements.in", "alpha<2\n")
        later = own.commit("a lock is forgotten")
        own.push()
        runs = own.runner.run(workflow, {**make_event(later, before="1" * 40), **who})
        assert read_teams(runs) == ["blue", "green"]
        failed = pick(runs, "build", team="blue")
        assert failed.result == "failure"
        assert "**failed**: the lock of blue is stale" in html.unescape(failed.summary), failed.log
        again = pick(runs, "build", team="green")
        assert again.result == "success", again.log
        assert "| there already: 20" in html.unescape(again.summary)
        assert "restored imagebuild-green-" in again.step("What earlier builds left").output

        # An error inside $(...) is the job's.
        own.checkout.write("images/blue/team.toml", "= broken\n")
        broken = own.commit("no TOML")
        own.push()
        runs = own.runner.run(workflow, {**make_event(broken, before=later), **who})
        assert pick(runs, "teams").result == "failure"
        assert "team.toml" in pick(runs, "teams").log
        assert pick(runs, "build").result == "skipped"
        own.git("reset", "--quiet", "--hard", later)


def test_a_quarter_is_proposed_once(own: Site, tmp_path: Path) -> None:
    workflow = own.checkout.root / WORKFLOWS / "images-quarter.yml"
    own.checkout.write("images/blue/requirements.in", "alpha\n")
    own.checkout.write("README.md", "as locked\n")
    sha = own.commit("as locked")
    own.push()
    publish(own.index, tmp_path, "alpha", "1.1")
    calls = len(own.runner.read_calls())
    event = make_event(sha)
    runs = own.runner.run(workflow, event)
    assert read_teams(runs) == ["blue", "green"]
    for team in ("blue", "green"):
        update = pick(runs, "update", team=team)
        assert update.result == "success", update.log
    assert "1&#46;1" in pick(runs, "update", team="blue").summary or "| 1.1 |" in pick(runs, "update", team="blue").summary
    assert "green: nothing changed" in pick(runs, "update", team="green").log  # it asks for 1.0
    assert [path.name for path in own.runner.artifacts.iterdir()] == ["update-blue"]

    propose = pick(runs, "propose")
    assert propose.result == "success", propose.log
    today = datetime.datetime.now(datetime.UTC)
    branch = f"images/blue-{today.year}q{(today.month + 2) // 3}"
    title = "--title blue: packages and base of a new quarter --body-file updates/blue.md"
    assert own.runner.read_calls()[calls:] == [
        "auth setup-git",
        f"pr list --head {branch} --state open --json number --jq .[].number",
        f"pr create --base main --head {branch} {title}",
    ]
    own.git("fetch", "--quiet", str(own.runner.origin), f"{branch}:{branch}")
    assert own.git("diff", "--name-only", "main", branch).split() == ["lockfiles/pylock.blue.toml"]
    assert own.git("log", "--format=%an %s", f"main..{branch}") == "imagebuild blue: packages and base of a new quarter"
    assert 'version = "1.1"' in own.git("show", f"{branch}:lockfiles/pylock.blue.toml")

    # A second time: the pull request is open, and gets the newest state.
    (own.runner.folder / "gh-open").write_text("12\n")
    job = load_workflow(workflow)["jobs"]["propose"]
    second = own.runner.run_job("propose", job, {"github": {"token": "", **event}, "vars": {}, "needs": {}, "matrix": {}})
    assert second.result == "success", second.log
    assert [call.split(" --")[0] for call in own.runner.read_calls()[calls + 3 :]] == ["auth setup-git", "pr list"]
