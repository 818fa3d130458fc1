"""Retiring on a real registry: the plan, the removal as crane sees it, what refuses, and what a registry without deletion says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from imagebuild.catalogue.entries import CatalogueListing, read_catalogue
from imagebuild.catalogue.retention import RetirementPlan, plan_retirement
from imagebuild.catalogue.retirement import retire_images
from imagebuild.catalogue.usage import Usage
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, RawManifest
from imagebuild.oci.referrers import Artifact, attach_artifacts, referrers_tag
from imagebuild.oci.registry import RegistryStore
from imagebuild.oci.tags import PLACEHOLDER
from tests.support.fleet import Made, make_fleet, push_fleet, write_cluster
from tests.support.servers.registry import Registry, run_registry
from tests.support.workspaces import Built, Checkout, Done, RequestLog, run_tool

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


def test_who_uses_an_image_is_named(place: Place, tmp_path: Path) -> None:
    store, (first, second, third, fourth) = (
        RegistryStore(place.registry.host),
        [made.tag for made in place.made if made.team == "pricing"][:4],
    )
    digests = {tag: store.head_manifest("ml/pricing", tag) for tag in (second, third)}
    ids = {tag: found.id.hex[:12] for tag, found in digests.items() if found is not None}
    template = {"spec": {"containers": [{"image": f"mirror.example.com/x/pricing:{first}"}]}}
    cron = {"kind": "CronJob", "metadata": {"name": "train", "namespace": "ada"}, "spec": {"jobTemplate": {"spec": {"template": template}}}}
    options = {"imageConfig": f"pricing-{ids[second]}", "podConfig": "cpu"}
    paused = {
        "kind": "Workspace",
        "metadata": {"name": "ws", "namespace": "eve"},
        "spec": {"paused": True, "podTemplate": {"options": options}},
    }
    dump = write_cluster(tmp_path / "cluster.json", [cron, paused], datetime.now(UTC))
    hub, others = tmp_path / "hub.json", tmp_path / "others.txt"
    choice = {"profile": "imagebuild-pricing", "image": f"{third.partition('-')[0]}-{ids[third]}"}
    hub.write_text(json.dumps([{"kind": "user", "name": "ada", "servers": {"": {"stopped": True, "user_options": choice}}}]))
    others.write_text(f"registry.example.com/pricing:{fourth}  # under somebody's desk\n")
    planned = place.run("retire", "--older-than", "3q", *(f"--in-use={file}" for file in (dump, hub, others))).succeeded()
    assert [line.split(maxsplit=3)[2:] for line in planned.out.splitlines() if "pricing" in line] == [
        [fourth, f"in use in a cluster: reference registry.example.com/pricing:{fourth}"],
        [third, "in use in a cluster: JupyterHub user ada"],
        [second, "in use in a cluster: Workspace eve/ws"],
        [first, "in use in a cluster: CronJob ada/train"],
    ]
    place.run("retire", "--in-use", str(hub)).refused(3, "none of them is the dump of a cluster", hint="--print-kubectl")
    place.run("retire", "--in-use", str(dump), "--no-cluster").refused(2, "contradict")
    place.run("retire", "--in-use", str(dump), "--max-age", "1").refused(2, "not a number of days", hint="--max-age 14d")


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

    log = RequestLog(place.registry)
    done = place.run("retire", "--yes", *use).succeeded()
    deleted = {path.rpartition("/")[2] for method, path in log.read() if method == "DELETE"} & {str(raw.digest), str(PLACEHOLDER.digest)}
    assert deleted == {str(PLACEHOLDER.digest)}  # distribution 2 deletes no tag by itself; the image's manifest is there all the time
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
        place.run("retire", "--yes", "--no-cluster").refused(6, "does not delete manifests", hint="storage.delete.enabled")
        assert place.tags("churn") == before


class Killed(RegistryStore):
    """Dies before its second deletion of a manifest: the first asks whether there are deletions at all."""

    deletions = 0

    def delete_manifest(self, repository: str, digest: Digest) -> bool:
        self.deletions += 1
        if self.deletions == 2:
            raise KeyboardInterrupt
        return super().delete_manifest(repository, digest)


def test_a_run_that_was_killed_between_its_steps_is_finished_by_the_next(tmp_path: Path) -> None:
    with run_registry(tmp_path / "registry") as registry:
        place = fill(registry, tmp_path)
        churn = [made.tag for made in place.made if made.team == "churn"]
        store = Killed(registry.host)
        today = last_quarters(1)[0]

        def plan(listing: CatalogueListing) -> RetirementPlan:
            return plan_retirement(store, listing, Usage(), today=today, older_than=4)

        planned = plan(read_catalogue(store, teams=["ml/churn"]))
        (stuck, *_) = [entry.tag for entry in planned.goes]
        with pytest.raises(KeyboardInterrupt):
            retire_images(store, planned, plan, now=datetime.now(UTC), cache=None, report=lambda _: None)
        assert place.tags("churn") >= {*churn, f"retired-{stuck}"}  # the tag names a manifest of nothing
        listed = place.run("catalogue", "--format", "json").succeeded()
        assert {entry["tag"] for entry in json.loads(listed.out)["entries"] if entry["team"] == "churn"} == {*churn} - {stuck}
        assert json.loads(listed.out)["foreign"] == 0
        place.run("catalogue", "verify").succeeded()
        place.run("retire", "--yes", "--no-cluster").succeeded()
        assert {tag for tag in place.tags("churn") if not tag.startswith("sha256-")} == {
            *churn[3:],
            *(f"retired-{tag}" for tag in churn[:3]),
        }
        place.run("retire", "--undo", stuck).succeeded()
        assert stuck in {entry["tag"] for entry in json.loads(place.run("catalogue", "--format", "json").succeeded().out)["entries"]}


def test_building_a_retired_image_brings_it_back(built: Built, tmp_path: Path) -> None:
    fork = built.checkout.fork(tmp_path / "fork")
    store = LayoutStore(fork.layout)
    raw = store.get_manifest("cosml", built.tag)
    assert raw is not None
    store.put_manifest("cosml", raw, f"retired-{built.tag}")
    store.delete_tag("cosml", built.tag)
    done = fork.run("image", "cosml", "--json").succeeded()
    assert (done.result["digest"], done.result["built"]) == (raw.digest, False)
    assert f"{built.tag} was retired, and is brought back" in done.err
    assert set(store.list_tags("cosml")) >= {built.tag, f"retired-{built.tag}"}
    fork.run("retire", "--yes", "--no-cluster").succeeded()
    assert f"retired-{built.tag}" not in set(store.list_tags("cosml"))
    assert built.tag in set(store.list_tags("cosml"))
