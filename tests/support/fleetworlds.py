"""Several teams with packages in common, on a small base with a real Python: fixtures for whole runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry
from tests.support.worlds import SmallBase, World, push_read_base

TEAMS = ("blue", "green", "red", "white")
PACKAGES = 8
MakeFleet = Callable[..., World]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SlowIndex:
    """``part0`` to ``part7``: a module, one that does not compile, data, a script and a test package each."""
    folder, found = tmp_path_factory.mktemp("wheels"), SlowIndex()
    for number in range(PACKAGES):
        name = f"part{number}"
        files = {
            f"{name}/__init__.py": b"x = 1\n" * 500,
            f"{name}/data": random.Random(number).randbytes(100_000),
            f"{name}/tests/test_it.py": b"assert 1\n",
            f"{name}/template.py": b"{{ no python }}\n",
        }
        publish(found, folder, name, "1.0", files=files)
    return found


@pytest.fixture(scope="module")
def index_url(index: SlowIndex) -> Iterator[str]:
    with index.serve() as url:
        yield url


@pytest.fixture(scope="module")
def base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> SmallBase:
    """The base, pushed, and read once into a cache that the worlds copy."""
    return push_read_base(registry, tmp_path_factory)


@pytest.fixture(scope="module")
def fleet_locks(base: SmallBase, index_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Each team's lock. A team wants all packages but one."""
    world = World(tmp_path_factory.mktemp("lock") / "world", base, index_url)
    add_teams(world)
    world.run("lock", "--all").succeeded()
    return {team: (world.root / f"lockfiles/pylock.{team}.toml").read_text() for team in TEAMS}


def add_teams(world: World) -> None:
    """The teams' folders."""
    for number, team in enumerate(TEAMS):
        world.add_team(team, "".join(f"part{part}\n" for part in range(PACKAGES) if part != number))


@pytest.fixture
def make_fleet(base: SmallBase, index_url: str, fleet_locks: dict[str, str], tmp_path: Path) -> MakeFleet:
    """A new world of all teams; ``locked=False``: without locks; ``warm=False``: with a cache that does not know the base."""

    def make(name: str = "world", *, locked: bool = True, warm: bool = True) -> World:
        world = World(tmp_path / name, base, index_url, warm=warm)
        add_teams(world)
        for team, text in fleet_locks.items() if locked else ():
            world.write(f"lockfiles/pylock.{team}.toml", text)
        return world

    return make
