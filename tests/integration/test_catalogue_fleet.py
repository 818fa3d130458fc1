"""The catalogue of 50 teams and 8 quarters on a real registry: complete, quick, cheap when asked again; names for good; what is gone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuild.oci.model import Digest
from imagebuild.oci.registry import RegistryStore
from tests.support.fleet import Made, make_fleet, push_fleet
from tests.support.servers.registry import Registry, run_registry
from tests.support.workspaces import Checkout, RequestLog, run_tool

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Fleet:
    registry: Registry
    store: RegistryStore
    made: list[Made]
    checkout: Checkout

    @property
    def options(self) -> tuple[str, str]:
        return "--registry", f"{self.registry.host}/ml"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    folder = tmp_path_factory.mktemp("fleet")
    with run_registry(folder / "registry") as registry:
        store = RegistryStore(registry.host)
        made = make_fleet()
        push_fleet(store, made)
        checkout = Checkout(folder / "checkout", folder / "cache")
        for team in {item.team for item in made}:
            checkout.write(f"images/{team}/team.toml", 'base = "starter"\n')
        yield Fleet(registry, store, made, checkout)


def test_the_whole_fleet_cold_and_from_the_cache(fleet: Fleet) -> None:
    log = RequestLog(fleet.registry)
    first = fleet.checkout.run("catalogue", "--format", "json", *fleet.options).succeeded()
    cold = Counter(method for method, _ in log.read())
    assert cold == {"GET": 50 + 400}  # a list of tags for each team, each manifest once
    entries = json.loads(first.out)["entries"]
    assert {(entry["team"], entry["tag"]) for entry in entries} == {(made.team, made.tag) for made in fleet.made}
    assert Counter(entry["status"] for entry in entries) == {"current": 50, "previous": 50, "retired": 300}

    log = RequestLog(fleet.registry)
    again = fleet.checkout.run("catalogue", "--format", "json", *fleet.options).succeeded()
    assert Counter(method for method, _ in log.read()) == {"GET": 50, "HEAD": 400}
    assert again.out == first.out

    # What is kept is never believed: other bytes in the cache are fetched again, and found out by their hash.
    (kept,) = (fleet.checkout.cache / "catalogue").iterdir()
    kept.write_text(kept.read_text().replace("eyJz", "eyJ0"))  # the first bytes of every manifest
    log = RequestLog(fleet.registry)
    assert fleet.checkout.run("catalogue", "--format", "json", *fleet.options).succeeded().out == first.out
    assert Counter(method for method, _ in log.read()) == {"GET": 450, "HEAD": 400}
    kept.write_text("not json")
    assert fleet.checkout.run("catalogue", "--format", "json", *fleet.options).succeeded().out == first.out


def test_a_team_without_a_folder_is_found_where_the_registry_lists(fleet: Fleet, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, fleet.checkout.cache)
    checkout.write("images/churn/team.toml", 'base = "starter"\n')
    own = json.loads(checkout.run("catalogue", "--format", "json", *fleet.options).succeeded().out)["entries"]
    assert {entry["team"] for entry in own} == {"churn"}
    found = json.loads(checkout.run("catalogue", "--format", "json", "--everything", *fleet.options).succeeded().out)["entries"]
    assert len(found) == 400


def test_a_name_for_good_is_a_tag_that_others_pull_by(fleet: Fleet) -> None:
    run = fleet.checkout.run
    kept = run("keep", "churn@2025q3", "churn-q3", *fleet.options).succeeded().out.strip()
    name, _, digest = kept.rpartition("@")
    assert run_tool("crane", "digest", "--insecure", name).decode().strip() == digest
    assert run("keep", "churn@2025q3", "churn-q3", *fleet.options).succeeded().out.strip() == kept
    run("keep", "churn", "churn-q3", *fleet.options).refused(2, "'churn-q3' belongs to ml/churn:.*, for good")
    shown = run("catalogue", "show", "churn-q3", *fleet.options).succeeded().out
    assert f"@{digest}" in shown
    assert "kept as churn-q3, followed by 2025q4-" in shown
    assert "docker run" in shown
    found = json.loads(run("catalogue", "show", digest[7:19], "--json", *fleet.options).succeeded().out)
    assert run_tool("crane", "digest", "--insecure", found["reference"].replace(f":{found['tag']}@", "@")).decode().strip() == digest
    run("catalogue", "show", "churn-q3", "--lock", *fleet.options).refused(8, "no attached lock that matches")
    run("catalogue", "--quiet", "show", "churn-q3").refused(2, "before the subcommand")


def test_verify_names_what_the_registry_lost(fleet: Fleet) -> None:
    run = fleet.checkout.run
    said = run("catalogue", "verify", *fleet.options).succeeded().out
    assert said.startswith("400 images, ")
    lost = next(made for made in fleet.made if made.team == "fraud")
    layer = Digest.of(lost.tag.encode() * 40)
    link = fleet.registry.storage / "docker/registry/v2/repositories/ml/fraud/_layers/sha256" / layer.hex / "link"
    text = link.read_bytes()
    link.unlink()
    try:
        named = f"ml/fraud:{lost.tag}  layer 4 of 4  {layer}"
        run("catalogue", "verify", *fleet.options).refused(8, "1 of 400 images cannot be pulled", named)
        run("catalogue", "verify", "churn", *fleet.options).succeeded()
    finally:
        link.write_bytes(text)
    # A registry that does not answer has not lost anything.
    closed = ("--registry", "localhost:9/ml")
    run("catalogue", "verify", *closed).refused(6, "localhost:9")
