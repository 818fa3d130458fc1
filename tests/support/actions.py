"""GitHub's runner for our workflows: each job in a new container, its steps in order, as GitHub documents them.

The container is Debian 12 with what the steps use and GitHub's list of its Ubuntu 24.04 image has (actions/runner-images,
Ubuntu2404-Readme.md): bash, git, make, Python with venv, sudo without a password, the Docker client, curl, jq, uidmap. The versions are
Debian's. ``gh`` is a script that writes down how it was called: what GitHub's API answers is not tested here. Four actions are carried
out by hand as their sources do (checkout, cache, upload-artifact, download-artifact). Any other action, key of a step or expression
is an error.
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imagebuild.engine.machinesources import read_machine_sources
from tests.support.expressions import evaluate, is_met, substitute
from tests.support.tools import need, need_docker, need_root

yaml: Any = importlib.import_module("yaml")  # it has no types
PACKAGES = "bash,ca-certificates,curl,docker.io,git,jq,make,python3,python3-venv,sudo,uidmap"
HOME = "/home/runner/runs"  # what jobs share, inside: the origin, what gh was asked
JOB = "/home/runner/job"  # a job's own folder, inside: the same for each, as on GitHub, so that an environment can be handed on
UID = 1001
_STEP_KEYS = {"name", "id", "if", "env", "run", "uses", "with"}
_JOB_KEYS = {"name", "if", "needs", "runs-on", "timeout-minutes", "permissions", "outputs", "env", "steps", "strategy", "concurrency"}
_GH = """\
#!/bin/bash
# Writes down what it is asked, a line a call, and answers `gh pr list` with the numbers in gh-open.
printf '%s\\n' "$*" >> /home/runner/runs/gh-calls
for word in "$@"; do
    if [ "${last:-}" = --body-file ]; then cp "$word" "/home/runner/runs/gh-body-$(wc -l < /home/runner/runs/gh-calls)"; fi
    last=$word
done
if [ "$1 $2" = "pr list" ]; then cat /home/runner/runs/gh-open 2>/dev/null; fi
"""


@dataclass(frozen=True)
class StepRun:
    """One step: its outcome, and what it wrote."""

    name: str
    outcome: str  # success, failure, skipped
    output: str = ""


@dataclass
class JobRun:
    """One job, or one of a matrix."""

    name: str
    matrix: dict[str, Any]
    result: str = "success"
    steps: list[StepRun] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    summary: str = ""

    def step(self, part: str) -> StepRun:
        """The step whose name or command has this in it."""
        (found,) = (step for step in self.steps if part in step.name)
        return found

    @property
    def log(self) -> str:
        return "\n".join(f"== {step.name}: {step.outcome}\n{step.output}" for step in self.steps)


@dataclass
class Runner:
    """A repository with its runs. ``folder`` is seen inside as /home/runner/runs; ``image`` is of :func:`make_image`."""

    folder: Path
    image: str
    variables: dict[str, str] = field(default_factory=dict)  # of the repository; on GitHub one that is not there is empty
    number: int = 0
    unsaved: dict[str, Path] = field(default_factory=dict)  # key -> folder to keep when the job succeeds

    @property
    def origin(self) -> Path:
        return self.folder / "origin.git"

    @property
    def artifacts(self) -> Path:
        """Of the last run."""
        return self.folder / f"artifacts-{self.number}"

    def read_calls(self) -> list[str]:
        """What gh was asked so far."""
        path = self.folder / "gh-calls"
        return path.read_text().splitlines() if path.exists() else []

    def run(self, workflow: Path, github: Mapping[str, Any]) -> list[JobRun]:
        """All jobs of a workflow file, for an event; the order is the file's."""
        document = load_workflow(workflow)
        assert document["defaults"] == {"run": {"shell": "bash"}}
        self.number += 1
        self.artifacts.mkdir()
        contexts: dict[str, Any] = {"github": {"token": "a token of GitHub", **github}, "vars": self.variables, "needs": {}}
        runs: list[JobRun] = []
        for name, job in document["jobs"].items():
            assert job.keys() <= _JOB_KEYS, job.keys() - _JOB_KEYS
            needs = [job["needs"]] if isinstance(job.get("needs"), str) else job.get("needs", [])
            here = {**contexts, "needs": {need: contexts["needs"][need] for need in needs}}
            if not is_met(job.get("if", ""), here, [here["needs"][need]["result"] for need in needs]):
                made = [JobRun(name, {}, "skipped")]
            else:
                made = [self.run_job(name, job, {**here, "matrix": matrix}) for matrix in _list_matrix(job, here)]
            results = {run.result for run in made}
            result = "failure" if "failure" in results else "success" if "success" in results else "skipped"
            contexts["needs"][name] = {"result": result, "outputs": made[-1].outputs}
            runs += made
        return runs

    def run_job(self, name: str, job: Mapping[str, Any], contexts: dict[str, Any]) -> JobRun:
        """One job in a container of its own."""
        run = JobRun(name, contexts["matrix"])
        temporary = Path(f"run-{uuid.uuid4().hex[:12]}")
        workspace = temporary / "repository"
        (self.folder / workspace).mkdir(parents=True)
        for file in ("output", "summary", "env", "path"):
            (self.folder / temporary / file).touch()
        _own(self.folder / temporary)
        outputs: dict[str, dict[str, Any]] = {}
        functions = {"hashFiles": lambda *patterns: hash_files(self.folder / workspace, patterns)}
        self.unsaved.clear()
        environment = {key: substitute(str(value), contexts) for key, value in job.get("env", {}).items()}
        with _run_job_container(self.image, self.folder, self.folder / temporary) as container:
            for step in job["steps"]:
                assert step.keys() <= _STEP_KEYS, step.keys() - _STEP_KEYS
                here = {**contexts, "steps": outputs, "env": environment}
                title = step.get("name") or step.get("run") or step["uses"]
                outcome, output = "skipped", ""
                if is_met(step.get("if", ""), here, [done.outcome for done in run.steps if done.outcome != "skipped"]):
                    env = {**environment, **{key: substitute(str(value), here) for key, value in step.get("env", {}).items()}}
                    options = {key: substitute(str(value), here, functions) for key, value in step.get("with", {}).items()}
                    if "uses" in step:
                        outcome, output = self.use(step["uses"], options, container, workspace, contexts["github"])
                    else:
                        outcome, output = run_step(step["run"], env, container, self.folder, workspace)
                run.steps.append(StepRun(title, outcome, output))
                written = (self.folder / temporary / "output").read_text()
                (self.folder / temporary / "output").write_text("")
                values = dict(line.split("=", 1) for line in written.splitlines())  # a value of several lines has another form
                if "id" in step:
                    outputs[step["id"]] = {"outcome": outcome, "outputs": values}
        for file in ("env", "path"):
            assert not (self.folder / temporary / file).read_text(), "what a step hands to the next this way is not carried out here"
        run.summary = (self.folder / temporary / "summary").read_text()
        if any(step.outcome == "failure" for step in run.steps):
            run.result = "failure"
        else:
            for key, path in self.unsaved.items():
                if path.exists():
                    subprocess.run(["cp", "-a", str(path), str(self.folder / "caches" / key)], check=True)
            here = {**contexts, "steps": outputs}
            run.outputs = {key: substitute(value, here) for key, value in job.get("outputs", {}).items()}
        _own(self.folder / temporary, os.getuid())
        return run

    def use(self, action: str, options: Mapping[str, str], container: str, workspace: Path, github: Mapping[str, Any]) -> tuple[str, str]:
        """An action of GitHub's, by its documentation."""
        name = action.partition("@")[0]
        if name == "actions/checkout":
            return self.check_out(options, container, workspace, github)
        if name == "actions/cache":
            return self.restore(options, self.folder / workspace)
        if name == "actions/upload-artifact":
            return self.upload(options, self.folder / workspace)
        if name == "actions/download-artifact":
            return self.download(options, self.folder / workspace)
        raise AssertionError(f"the action {action} is not carried out here")

    def check_out(self, options: Mapping[str, str], container: str, workspace: Path, github: Mapping[str, Any]) -> tuple[str, str]:
        """As actions/checkout 5 does for the event's commit: a pull request's is its merge with the base."""
        assert options.keys() <= {"fetch-depth", "persist-credentials"}, options
        sha, ref = github["sha"], github["ref"]
        local = re.sub(r"^refs/(heads|pull)/", lambda match: f"refs/remotes/{'origin' if match[1] == 'heads' else 'pull'}/", ref)
        depth = options.get("fetch-depth", "1")
        history = ["'+refs/heads/*:refs/remotes/origin/*'"] if depth == "0" else []
        wanted = " ".join(history if history and ref.startswith("refs/heads/") else [*history, f"+{sha}:{local}"])
        switch = f"-B {ref.removeprefix('refs/heads/')} {local}" if ref.startswith("refs/heads/") else f"--detach {local}"
        lines = [
            "git init -q .",
            f"git remote add origin file://{HOME}/origin.git",
            f"git fetch -q --no-tags {'--prune' if depth == '0' else f'--depth={depth}'} origin {wanted}",
            f"git -c advice.detachedHead=false checkout -q --force {switch}",
        ]
        found = run_step("\n".join(lines), {}, container, self.folder, workspace)
        if self.environment.is_dir():  # the folder of the first job's own step: the same in each job, and it takes a minute
            subprocess.run(["cp", "-a", str(self.environment), str(self.folder / workspace / ".venv")], check=True)
            (self.folder / workspace / ".venv" / ".installed").touch()
        return found

    @property
    def environment(self) -> Path:
        return self.folder / "venv"

    def restore(self, options: Mapping[str, str], workspace: Path) -> tuple[str, str]:
        """As actions/cache 5: by the key, else the newest that begins as restore-keys say; kept under the key if the job succeeds."""
        assert options.keys() <= {"path", "key", "restore-keys"}, options
        kept, target = self.folder / "caches", workspace / options["path"]
        kept.mkdir(exist_ok=True)
        exact = kept / options["key"]
        others = [path for path in kept.iterdir() for start in options.get("restore-keys", "").split() if path.name.startswith(start)]
        found = exact if exact.exists() else max(others, key=lambda path: path.stat().st_mtime, default=None)
        if found is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", str(found), str(target)], check=True)
            _own(target.parent)
        if found != exact:
            self.unsaved[options["key"]] = target
        return "success", f"restored {found.name}" if found is not None else "nothing to restore"

    def upload(self, options: Mapping[str, str], workspace: Path) -> tuple[str, str]:
        """As actions/upload-artifact 4: hidden files only where they are asked for."""
        assert options.keys() <= {"name", "path", "retention-days", "include-hidden-files", "if-no-files-found"}, options
        place = workspace / options["path"]
        files = list(workspace.glob(options["path"]) if "*" in options["path"] else place.rglob("*"))
        if options.get("include-hidden-files") != "True":
            files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(workspace).parts)]
        files = [path for path in files if path.is_file()]
        if not files:
            return ("failure" if options.get("if-no-files-found") == "error" else "success"), "no files were found"
        target = self.artifacts / options["name"]
        target.mkdir()
        top = place if place.is_dir() else place.parent
        for path in files:
            (target / path.relative_to(top)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.relative_to(top))
        return "success", ""

    def download(self, options: Mapping[str, str], workspace: Path) -> tuple[str, str]:
        """As actions/download-artifact 4 with a pattern: none that fits is no error."""
        assert options.keys() == {"pattern", "path", "merge-multiple"}, options
        assert options["merge-multiple"] == "True"
        (workspace / options["path"]).mkdir(exist_ok=True)
        for folder in sorted(self.artifacts.iterdir()):
            if fnmatch.fnmatch(folder.name, options["pattern"]):
                shutil.copytree(folder, workspace / options["path"], dirs_exist_ok=True)
        _own(workspace / options["path"])
        return "success", ""


def run_step(script: str, env: Mapping[str, str], container: str, folder: Path, workspace: Path) -> tuple[str, str]:
    """``shell: bash``: ``bash --noprofile --norc -eo pipefail FILE``; the outcome and what it printed."""
    temporary = workspace.parent
    (folder / temporary / "script.sh").write_text(script + "\n")
    known = {
        **hand_over_pip(os.environ),
        "CI": "true",
        "GITHUB_ACTIONS": "true",
        "GITHUB_WORKSPACE": f"{JOB}/{workspace.name}",
        "GITHUB_OUTPUT": f"{JOB}/output",
        "GITHUB_STEP_SUMMARY": f"{JOB}/summary",
        "GITHUB_ENV": f"{JOB}/env",
        "GITHUB_PATH": f"{JOB}/path",
        "HOME": "/home/runner",
        **env,
    }
    settings = [word for key, value in known.items() for word in ("--env", f"{key}={value}")]
    shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", f"{JOB}/script.sh"]
    command = [need_docker(), "exec", "--user", "runner", "--workdir", f"{JOB}/{workspace.name}", *settings, container, *shell]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    made = folder / workspace / ".venv"
    if (made / ".installed").exists() and not (folder / "venv").exists():
        subprocess.run(["cp", "-a", str(made), str(folder / "venv")], check=True)
    return "failure" if done.returncode else "success", done.stdout


def load_workflow(path: Path) -> dict[Any, Any]:
    """The file as YAML 1.1 has it."""
    found: dict[Any, Any] = yaml.safe_load(path.read_text())
    return found


def _list_matrix(job: Mapping[str, Any], contexts: Mapping[str, Any]) -> list[dict[str, Any]]:
    matrix = job.get("strategy", {}).get("matrix")
    if matrix is None:
        return [{}]
    assert job["strategy"]["fail-fast"] is False
    ((name, values),) = matrix.items()
    inner = re.fullmatch(r"\$\{\{(.*)\}\}", values)
    assert inner is not None, values
    return [{name: value} for value in evaluate(inner[1], contexts)]


def hash_files(root: Path, patterns: Sequence[str]) -> str:
    """GitHub's ``hashFiles``: SHA-256 of the files' SHA-256s in hex; empty where no file fits."""
    files = sorted(path for pattern in patterns for path in root.glob(pattern) if path.is_file())
    digests = b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files)
    return hashlib.sha256(digests).hexdigest() if files else ""


def _own(folder: Path, uid: int = UID) -> None:
    subprocess.run(["chown", "-R", f"{uid}:{uid}", str(folder)], check=True)


@contextlib.contextmanager
def run_container(image: str, mounts: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """A new container of this machine's Docker, on this machine's network; its id. It ends with the block."""
    docker = need_docker()
    options = [word for mount in mounts for word in ("--volume", mount)]
    options += [word for key, value in (environment or {}).items() for word in ("--env", f"{key}={value}")]
    command = [docker, "run", "--detach", "--rm", "--init", "--privileged", "--network=host", *options, image, "sleep", "3600"]
    container = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield container
    finally:
        subprocess.run([docker, "rm", "--force", container], check=False, capture_output=True)


def _run_job_container(image: str, folder: Path, job: Path) -> contextlib.AbstractContextManager[str]:
    """One for a job, with the engine's socket and what reaches the package index here."""
    return run_container(image, [f"{folder}:{HOME}", f"{job}:{JOB}", "/var/run/docker.sock:/var/run/docker.sock", *list_pip_files()])


def hand_over_pip(environment: Mapping[str, str]) -> dict[str, str]:
    """How this machine reaches its package index: pip's settings, proxies, certificates."""
    wanted = re.compile(r"PIP_\w+|(?:https?|no|all)_proxy|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE", re.IGNORECASE)
    return {key: value for key, value in environment.items() if wanted.fullmatch(key)}


def list_pip_files() -> list[str]:
    """Mounts of pip's configuration files here, and of the local paths that these and its environment name."""
    shown = subprocess.run([sys.executable, "-m", "pip", "config", "debug"], check=True, capture_output=True, text=True).stdout
    files = {Path(path) for path in re.findall(r"^ *(/.+), exists: True$", shown, re.MULTILINE)}
    texts = [path.read_text() for path in files] + list(hand_over_pip(os.environ).values())
    words = {word.removeprefix("file://") for text in texts for word in re.split(r"[\s'\"=]+", text) if re.match(r"(?:file:/)?/", word)}
    places = {Path(word) for word in words if Path(word).exists() and len(Path(word).parts) > 2}
    places = {path.parent if path.name == "simple" else path for path in places}  # links of an index lead beside it
    return sorted(f"{path}:{path}:ro" for path in {*files, *places})


def make_image(fallback: Path) -> str:
    """The runner's image, made once by mmdebstrap and kept as a tar where IMAGEBUILD_TEST_CACHE says, else in ``fallback``; its name."""
    need_root()
    docker, tool = need_docker(), need("mmdebstrap")
    folder = Path(os.environ.get("IMAGEBUILD_TEST_CACHE") or fallback)
    folder.mkdir(parents=True, exist_ok=True)
    tar = folder / f"runner-{PACKAGES.replace(',', '-')}.tar"
    with (folder / "runner.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not tar.exists():
            aside = tar.with_suffix(".part")
            command = [tool, "--quiet", "--variant=minbase", f"--include={PACKAGES}", "--format=tar", "bookworm", str(aside)]
            environment = {**os.environ, "LC_ALL": "C.UTF-8"}
            subprocess.run([*command, *read_machine_sources()], check=True, stdin=subprocess.DEVNULL, env=environment)
            aside.rename(tar)
    name = f"imagebuild-test-runner:{uuid.uuid4().hex[:12]}"
    group = Path("/var/run/docker.sock").stat().st_gid
    script = "\n".join(
        [
            f"groupmod --non-unique --gid {group} docker",
            f"useradd --no-create-home --uid {UID} --shell /bin/bash --groups docker,sudo runner",
            "chown runner:runner /home/runner",
            "echo 'runner ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/runner",
            f"cat > /usr/local/bin/gh <<'END'\n{_GH}END\nchmod 755 /usr/local/bin/gh",
        ]
    )
    subprocess.run([docker, "import", str(tar), f"{name}-plain"], check=True, capture_output=True)
    with _run_job_container(f"{name}-plain", folder, folder) as container:
        subprocess.run([docker, "exec", container, "bash", "-ec", script], check=True)
        subprocess.run([docker, "commit", container, name], check=True, capture_output=True)
    subprocess.run([docker, "rmi", f"{name}-plain"], check=False, capture_output=True)
    return name


def make_event(sha: str, ref: str = "refs/heads/main", **event: Any) -> dict[str, Any]:
    """The github context of an event on this repository."""
    return {
        "sha": sha,
        "ref": ref,
        "ref_name": ref.split("/")[2],
        "repository": "someone/images",
        "actor": "someone",
        "event": json.loads(json.dumps(event)),
    }
