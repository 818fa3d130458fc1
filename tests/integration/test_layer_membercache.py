"""Members in a real registry: what one machine made, an empty one takes; and the trust in them ends where it should."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fleetworlds import PACKAGES, TEAMS, MakeFleet, base, fleet_locks, index, index_url, make_fleet
from tests.support.servers.faulty import Fault, FaultyRegistry
from tests.support.servers.index import SlowIndex
from tests.support.servers.registry import Registry, registry, run_registry
from tests.support.tools import need
from tests.support.workspaces import Done
from tests.support.worlds import SmallBase, World

pytestmark = pytest.mark.integration
__all__ = ["base", "fleet_locks", "index", "index_url", "make_fleet", "registry"]  # fixtures


@pytest.fixture
def company(tmp_path: Path) -> Iterator[Registry]:
    """A registry of this test's own."""
    with run_registry(tmp_path / "company") as found:
        yield found


def count_files(index: SlowIndex) -> int:
    return sum(path.startswith("/files/") for path, _ in index.requests)


def read_members(done: Done) -> dict[str, int]:
    found: dict[str, int] = done.result["members"]
    return found


def list_attached(world: World, done: Done) -> list[str]:
    """Digests of what travels with the image."""
    index = json.loads((world.state / "registry/index.json").read_bytes())
    wanted = done.result["digest"][7:]
    (entry,) = [item for item in index["manifests"] if item["annotations"]["org.opencontainers.image.ref.name"].endswith(wanted)]
    listing = json.loads((world.state / "registry/blobs/sha256" / entry["digest"][7:]).read_bytes())
    return sorted(item["digest"] for item in listing["manifests"])


def test_an_empty_machine_takes_what_another_made(make_fleet: MakeFleet, index: SlowIndex, company: Registry) -> None:
    place = f"{company.host}/ml/members"
    first = make_fleet("first")
    made = first.run("image", "blue", "--json", "--cache-from", place, "--cache-to", place).succeeded()
    assert read_members(made) == {"taken": 0, "taken_bytes": 0, "kept": 0, "given": PACKAGES - 1}
    index.requests.clear()
    second = make_fleet("second")
    taken = second.run("image", "blue", "--json", "--cache-from", place, "--cache-to", place).succeeded()
    assert count_files(index) == 0
    members = read_members(taken)
    assert (members["taken"], members["given"]) == (PACKAGES - 1, 0)
    assert "prepared" not in taken.err
    assert taken.result["digest"] == made.result["digest"]
    assert list_attached(second, taken) == list_attached(first, made)  # SBOM and provenance too, without a wheel
    assert not list((second.cache / "wheels").glob("*/*.whl"))
    # Each stored byte once: the frames, their indexes and manifests, and little else.
    stored = sum(path.stat().st_size for path in (second.cache / "shared-members").rglob("member.tar.zst"))
    assert stored <= members["taken_bytes"] < stored + 20_000 * PACKAGES


def test_another_team_wants_only_what_is_missing(make_fleet: MakeFleet, index: SlowIndex, company: Registry) -> None:
    place = f"{company.host}/members"
    make_fleet("first").run("image", "blue", "--cache-to", place).succeeded()
    world = make_fleet("second")
    world.write("images/cache.toml", f'[cache]\nfrom = ["{place}"]\nto = "{place}"\n')
    index.requests.clear()
    done = world.run("image", "green", "--json").succeeded()
    members = read_members(done)
    assert (members["taken"], members["given"], count_files(index)) == (PACKAGES - 2, 1, 1)
    assert "1 of 7 packages prepared, 6 from the cache" in done.err
    # A whole fleet on a third machine.
    index.requests.clear()
    fleet = make_fleet("third")
    done = fleet.run("image", "--all", "--json", "--cache-from", place).succeeded()
    assert count_files(index) == 0
    assert sum(item["members"]["taken"] for item in json.loads(done.out)) == PACKAGES  # each once, whichever team was first
    assert [item["team"] for item in json.loads(done.out)] == list(TEAMS)


def test_no_cache_and_rebuild_never_read_it(make_fleet: MakeFleet, index: SlowIndex, company: Registry) -> None:
    place = f"{company.host}/members"
    make_fleet("first").run("image", "blue", "--cache-to", place).succeeded()
    world = make_fleet("second")
    world.write("images/cache.toml", f'[cache]\nfrom = ["{place}"]\n')
    world.run("image", "blue").succeeded()
    asked = company.log.read_text().count("/v2/members/")
    index.requests.clear()
    world.run("verify", "blue", "--rebuild").succeeded()
    assert count_files(index) == PACKAGES - 1  # the wheels, and members made of them here: those of the registry lie apart
    assert len(list((world.cache / "members").iterdir())) == PACKAGES - 1
    third = make_fleet("third")
    third.write("images/cache.toml", f'[cache]\nfrom = ["{place}"]\n')
    third.run("image", "blue", "--no-cache").succeeded()
    assert not (third.cache / "shared-members").exists()
    assert company.log.read_text().count("/v2/members/") == asked


def test_a_place_that_does_not_answer_is_a_warning(make_fleet: MakeFleet, company: Registry) -> None:
    faulty = FaultyRegistry(company)
    with faulty.serve():
        faulty.faults.append(Fault("/v2/members/", status=403))
        place = f"{faulty.host}/members"
        done = make_fleet().run("image", "blue", "--json", "--cache-from", place, "--cache-to", place).succeeded()
    assert read_members(done)["taken"] == 0
    assert "gives no members, and is not asked again" in done.err


def test_a_base_is_read_once_in_the_company(make_fleet: MakeFleet, company: Registry, base: SmallBase) -> None:
    place = f"{company.host}/members"
    first = make_fleet("first", warm=False)
    made = first.run("image", "blue", "--json", "--cache-from", place, "--cache-to", place, "--cache-bases").succeeded()
    assert "reading layer 1 of 1" in made.err
    read = base.registry.log.read_text().count(f"/blobs/{base.layer}")
    second = make_fleet("second", warm=False)
    second.write("images/cache.toml", f'[cache]\nfrom = ["{place}"]\nbases = true\n')
    taken = second.run("image", "blue", "--json").succeeded()
    assert "reading layer" not in taken.err
    assert f"taken from {place}" in taken.err
    assert taken.result["digest"] == made.result["digest"]
    assert base.registry.log.read_text().count(f"/blobs/{base.layer}") == read
    # Its Python runs: to lock, and to compile what nobody has.
    second.run("lock", "green", "--upgrade").succeeded()
    second.run("image", "white", "--cache-from", f"{company.host}/nothing").succeeded()
    second.run("verify", "blue", "--rebuild").succeeded()  # which reads the base, and compiles


def test_other_tools_see_the_artifacts(make_fleet: MakeFleet, company: Registry) -> None:
    place = f"{company.host}/members"
    make_fleet().run("image", "blue", "--cache-to", place).succeeded()
    tags = subprocess.run([need("crane"), "ls", "--insecure", place], capture_output=True, text=True, check=True).stdout.split()
    assert len(tags) == PACKAGES - 1
    found = subprocess.run([need("crane"), "manifest", "--insecure", f"{place}:{tags[0]}"], capture_output=True, check=True)
    assert json.loads(found.stdout)["artifactType"] == "application/vnd.imagebuild.member.v1"


@pytest.mark.parametrize(
    ("arguments", "file", "error"),
    [
        (["--cache-from", "members"], "", "--cache-from: not a repository for members: 'members'"),
        (["--cache-to", "localhost:5000/members:latest"], "", "--cache-to: not a repository for members"),
        (["--no-cache", "--cache-from", "localhost:5000/members"], "", "--no-cache goes without"),
        ([], '[cache]\nfrom = ["x"]\n', "cache.toml: not a repository for members: 'x'"),
        ([], "[cache]\nform = []\n", "cache.toml: unknown key cache.form"),
    ],
)
def test_what_is_no_place_is_said_before_anything_is_built(make_fleet: MakeFleet, arguments: list[str], file: str, error: str) -> None:
    world = make_fleet()
    if file:
        world.write("images/cache.toml", file)
    done = world.run("image", "blue", *arguments)
    assert done.code in (2, 3)
    assert error in done.error
    assert done.hint
