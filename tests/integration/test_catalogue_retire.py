"""Retiring on a real registry: the plan, the removal as crane sees it, what refuses, and what a registry without deletion says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagebuild.oci.model import RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, referrers_tag
from imagebuild.oci.registry import RegistryStore
from tests.catalogue_parts import Made, make_fleet, push_fleet, write_cluster
from tests.registries import Registry, run_registry
from tests.workspaces import Checkout, Done, RequestLog, run_tool

pytestmark = pytest.mark.integration


def last_quarters(count: int) -> tuple[str, ...]:
    """The quarter of today and those before it, oldest first."""
    now = time.gmtime()
    newest = now.tm_year * 4 + (now.tm_mon - 1) // 3
    return tuple(f"{number // 4}q{number % 4 + 1}" for number in range(newest - count + 1, newest + 1))


@dataclass(frozen=True)
class Place:
    registry: Registry
    checkout: Checkout
    made: list[Made]

    def tags(self, team: str) -> set[str]:
        return set(run_tool("crane", "ls", "--insecure", f"{self.registry.host}/ml/{team}").decode().split())

    def run(self, *arguments: str) -> Done:
        return self.checkout.run(*arguments, "--registry", f"{self.registry.host}/ml")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("retire")
    with run_registry(folder / "registry") as registry:
        yield fill(registry, folder)


def fill(registry: Registry, folder: Path) -> Place:
    store, made = RegistryStore(registry.host), make_fleet(2, last_quarters(8))
    push_fleet(store, made)
    checkout = Checkout(folder / "checkout", folder / "cache")
    for team in ("churn", "pricing"):
        checkout.write(f"images/{team}/team.toml", 'base = "starter"\n')
    return Place(registry, checkout, made)


def test_planned_first_then_removed_with_all_that_belongs_to_it(place: Place, tmp_path: Path) -> None:
    churn = [made.tag for made in place.made if made.team == "churn"]
    store = RegistryStore(place.registry.host)
    raw = store.get_manifest("ml/churn", churn[1])
    assert isinstance(raw, RawManifest)
    (lock,) = attach_artifacts(store, "ml/churn", raw.descriptor, [Artifact("application/x", "text/plain", b"lock")])
    place.run("keep", churn[0], "paper").succeeded()
    stopped = {"kind": "Notebook", "spec": {"template": {"spec": {"containers": [{"image": f"mirror.example.com/x/churn:{churn[2]}"}]}}}}
    dump = write_cluster(tmp_path / "dump.json", [stopped, {"kind": "DaemonSet"}], datetime.now(UTC))
    use = ("--in-use", str(dump))

    log = RequestLog(place.registry)
    planned = place.run("retire", *use).succeeded()
    assert not [path for method, path in log.read() if method in ("DELETE", "PUT", "POST")]
    assert f"{churn[0]:<22} kept as paper" in planned.out
    assert f"{churn[2]:<22} in use in a cluster: Notebook\n" in planned.out
    assert "in use: 1 DaemonSet, 1 Notebook, 1 Pod" in planned.err
    assert "4 images, " in planned.err
    assert "nothing was changed" in planned.err

    place.run("retire", "--yes").refused(2, "what the clusters use", hint="--in-use")
    cut = tmp_path / "cut.json"
    cut.write_text(dump.read_text()[:-9])
    place.run("retire", "--yes", *use, "--in-use", str(cut)).refused(3, "was cut short")
    place.run("retire", "--older-than", "4").refused(2, "not a number of quarters")
    assert place.tags("churn") >= {*churn, "keep-paper"}

    done = place.run("retire", "--yes", *use).succeeded()
    assert "4 of 4 images are retired, and can be brought back for 14 days" in done.err
    assert "0 images that were retired before are gone" in done.err
    assert {tag for tag in place.tags("churn") if not tag.startswith("sha256-")} == {
        churn[0],
        f"retired-{churn[1]}",
        *churn[2:],
        "keep-paper",
    }
    shown = json.loads(place.run("catalogue", "--format", "json").succeeded().out)["entries"]
    assert churn[1] not in {entry["tag"] for entry in shown}
    assert store.get_manifest("ml/churn", raw.digest) is not None  # a pull by digest goes on
    assert f"retired {'churn':<16} {churn[1]:<22} until " in place.run("retire", *use).succeeded().out

    back = place.run("retire", "--undo", f"churn:{churn[1]}").succeeded()
    assert f"churn:{churn[1]}@{raw.digest}" in back.out
    assert {churn[1]} <= place.tags("churn")
    assert f"retired-{churn[1]}" not in place.tags("churn")
    place.run("retire", "--undo", churn[1]).refused(2, "no retired image is called")

    assert "1 of 1 images are retired" in place.run("retire", "--yes", *use).succeeded().err
    gone = place.run("retire", "--yes", *use, "--grace", "0d").succeeded()
    assert "4 images that were retired before are gone" in gone.err
    assert place.tags("churn") == {churn[0], *churn[2:], "keep-paper"}
    assert len(place.tags("pricing")) == 5
    assert store.get_manifest("ml/churn", lock) is None
    assert store.get_manifest("ml/churn", raw.digest) is None
    assert referrers_tag(raw.digest) not in place.tags("churn")
    assert run_tool("crane", "manifest", "--insecure", f"{place.registry.host}/ml/churn:keep-paper")
    place.run("catalogue", "verify").succeeded()
    assert "0 of 0 images" in place.run("retire", "--yes", *use).succeeded().err


def test_a_registry_that_deletes_nothing_says_so(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry", delete=False) as registry:
        place = fill(registry, tmp_path)
        before = place.tags("churn")
        place.run("retire", "--yes", "--no-cluster").refused(6, "deletes no manifests", hint="storage.delete.enabled")
        assert place.tags("churn") >= before  # one has its second tag already, and nothing lacks its first
