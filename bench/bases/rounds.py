"""The whole round on one base: pinned, looked into, locked on, built on by both engines, verified, rebuilt, run, and compared with pip."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from bench.bases.standins import StandIn, read_pushed_digest
from bench.requirementsets.roots import apply_whiteouts, overlay, run_pip, unpack_layer
from bench.requirementsets.trees import compare, read_installed
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.index.routing import PackageIndex
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker, need_root
from tests.support.workspaces import Checkout, LayoutImage, run_tool, skopeo_copy

TEAM = "blue"
_PIP_LIMIT = 600.0  # seconds
_ACCOUNTED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url", "script", "image's own", "the run's own"})


@dataclass(frozen=True)
class Setting:
    """What all rounds share. ``index_table`` names ``index`` in team.toml; empty where that is this machine's own."""

    registry: Registry
    folder: Path
    cache: Path
    index: PackageIndex
    requirements: str
    index_table: str = ""


class Round:
    """One base. Each step is a method that raises AssertionError, in the words of what it ran, when something does not hold."""

    def __init__(self, item: StandIn, reference: str, setting: Setting) -> None:
        self.item = item
        self.reference = reference
        self.setting = setting
        self.checkout = Checkout(setting.folder / "teams" / item.name, setting.cache)
        self.target = f"{setting.registry.host}/{item.name}"
        self.checkout.use_base(item.name, reference, "")
        self.requirements = setting.requirements + ("" if item.server else "jupyterlab\n")
        self.write_team(self.requirements)

    def write_team(self, requirements: str, team: str = TEAM, settings: str = "") -> None:
        """A team on this base."""
        self.checkout.write(f"images/{team}/team.toml", f'base = "{self.item.name}"\n{settings}{self.setting.index_table}')
        self.checkout.write(f"images/{team}/requirements.in", requirements)

    def pin(self) -> None:
        """The catalogue gets the digest that crane sees."""
        self.checkout.run("base", "pin", self.item.name).succeeded()
        assert f'digest = "{read_pushed_digest(self.reference)}"' in (self.checkout.root / "images/catalogue.toml").read_text()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What ``base inspect`` says."""
        found: dict[str, Any] = json.loads(self.checkout.run("base", "inspect", self.item.name, "--json").succeeded().out)
        return found

    def inspect(self) -> None:
        """User, interpreter and distributions are the base's."""
        interpreter = self.facts["interpreter"]
        assert self.facts["user"]["config"] == self.item.config.get("User", "")
        assert (interpreter["path"], interpreter["environment"]) == (self.item.python, self.item.environment)
        versions = {found["name"]: found["version"] for found in self.facts["distributions"]}
        assert ("jupyterlab" in versions) is self.item.server
        assert {name: versions.get(name) for name in self.item.versions} == dict(self.item.versions)

    def lock(self) -> None:
        """Nothing that the base has is locked again."""
        self.checkout.run("lock", TEAM).succeeded()
        locked = {package.name for package in read_lock(self.lockfile(TEAM)).packages}
        assert locked
        assert not locked & {found["name"] for found in self.facts["distributions"]}

    def lockfile(self, team: str) -> Path:
        """Where a team's lock is."""
        return self.checkout.root / "lockfiles" / f"pylock.{team}.toml"

    def image(self) -> None:
        """The direct engine; the tag in the registry names what it says."""
        result = self.checkout.image(TEAM, "--registry", self.target)
        assert run_tool("crane", "digest", "--insecure", f"{self.target}/{TEAM}:{result['tag']}").decode().strip() == result["digest"]

    def verify(self) -> None:
        """Checked against base and lock, and built again from the lock that travels with it."""
        done = self.checkout.run("verify", TEAM, "--rebuild", "--strict", "--registry", self.target).succeeded()
        assert re.search(r"rebuild +passed +the same, bit for bit", done.out), done.out

    def docker(self) -> None:
        """The docker engine's image, verified."""
        target = f"{self.target}-docker"
        self.checkout.image(TEAM, "--engine", "docker", "--registry", target)
        self.checkout.run("verify", TEAM, "--registry", target).succeeded()

    def twin(self) -> None:
        """Both engines' layers, path by path."""
        self.checkout.run("verify", "--twin", TEAM, "--registry", self.target).succeeded()

    def smoke(self, *runs: str) -> None:
        """As Kubernetes starts notebooks, in these runs of smoke or its usual ones: what fails is what the platform refuses of the base."""
        chosen = [word for run in runs for word in ("--run", run)]
        done = self.checkout.run("smoke", TEAM, "--json", "--registry", self.target, *chosen)
        run_tool(need_docker(), "rmi", "--force", json.loads(done.out)["image"])  # it stays where it was pulled
        rows = [row for row in json.loads(done.out)["rows"] if row["status"] == "failed"]
        failed = {f"{row['check']} ({row['run']})": (row["text"], row["details"]) for row in rows}
        assert failed.keys() == self.item.failing, failed

    @cached_property
    def trees(self) -> Path:
        """A folder with ``base``, the unpacked base, and ``image``, the team's layer as an overlay's upper folder has it."""
        need_root()
        folder = self.setting.folder / "trees" / self.item.name
        folder.mkdir(parents=True)
        tag = self.checkout.image(TEAM, "--registry", self.target)["tag"]
        skopeo_copy(f"docker://{self.target}/{TEAM}:{tag}", f"oci:{folder}/layout:x", "--preserve-digests")
        image = LayoutImage.named(folder / "layout", "x")
        blobs = [image.path(layer["digest"]) for layer in image.layers]
        for blob in blobs[:-1]:
            unpack_layer(blob, folder / "base", carry_out=True)
        unpack_layer(blobs[-1], folder / "image", carry_out=False)
        apply_whiteouts(folder / "image")
        return folder

    @property
    def environment(self) -> Mapping[str, str]:
        """Of the image's own variables those that a user of its pip has, as pip may need them here."""
        variables = dict(line.split("=", 1) for line in self.item.config["Env"])  # type: ignore[attr-defined]
        return {key: value for key, value in variables.items() if key in ("PIP_CONSTRAINT", "PIP_BREAK_SYSTEM_PACKAGES", "VIRTUAL_ENV")}

    def check(self) -> None:
        """``pip check`` in the image says of it what it says of the base: nothing, or the same."""
        with overlay(self.trees / "base", self.trees / "image", self.trees) as root:
            ours = run_pip(root, self.setting.index, ["check"], _PIP_LIMIT, python=self.item.python)
        with overlay(self.trees / "base", self.trees / "nothing", self.trees) as root:
            before = run_pip(root, self.setting.index, ["check"], _PIP_LIMIT, python=self.item.python)
        assert set(ours.stdout.splitlines()) - set(before.stdout.splitlines()) <= {"No broken requirements found."}, ours.stdout

    def tree(self) -> None:
        """pip, asked for the same in the base, leaves the same files."""
        theirs = self.trees / "pip"
        shutil.rmtree(theirs, ignore_errors=True)
        with overlay(self.trees / "base", theirs, self.trees) as root:
            (root / "tmp/requirements.in").write_text(self.requirements)
            arguments = ["install", "--quiet", "--no-compile", "--only-binary", ":all:", "-r", "/tmp/requirements.in"]
            done = run_pip(root, self.setting.index, arguments, _PIP_LIMIT, python=self.item.python, environment=self.environment)
        assert done.status == 0, done.stderr
        found = compare(read_installed(theirs), read_installed(self.trees / "image"))
        assert not found.versions, found.versions
        assert not found.unexplained, found.unexplained[:10]
        assert found.same, found
        assert set(found.classes) <= {"bytecode", *_ACCOUNTED}, found.classes

    def refuse(self) -> None:
        """A base without a Python."""
        self.checkout.run("lock", TEAM).refused(3, self.item.name, "(?i)no python", hint=".")


STEPS: Mapping[str, Callable[[Round], None]] = {
    "pin": Round.pin, "inspect": Round.inspect, "lock": Round.lock, "image": Round.image, "verify": Round.verify, "docker": Round.docker,
    "twin": Round.twin, "smoke": Round.smoke, "check": Round.check, "tree": Round.tree,
}  # fmt: skip


def choose_steps(item: StandIn) -> Mapping[str, Callable[[Round], None]]:
    """The steps that a base can take."""
    return STEPS if item.python else {"pin": Round.pin, "refuse": Round.refuse}
