"""The round of bench.bases on four of its stand-ins, with small packages of an index on loopback; ``make bases`` has them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.bases.claims import keep_constraints, keep_debian, pin_torch
from bench.bases.parts import Parts
from bench.bases.rounds import Round, Setting
from bench.bases.standins import STAND_INS, push_stand_in
from tests.support.servers.index import FakeIndex, make_index, publish
from tests.support.servers.registry import Registry
from tests.support.workspaces import Built

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def setting(hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    folder, index = tmp_path_factory.mktemp("standins"), FakeIndex()
    publish(
        index, folder / "wheels", "tidy", "1.0", ["neat>=1", "jinja2"],
        files={
            "tidy/__init__.py": b"def main():\n    print('tidy')\n",
            "tidy-1.0.data/data/share/jupyter/tidy.json": b"{}\n",
            "tidy-1.0.data/data/lib64/tidy/native.txt": b"beside the library\n",
        },
        entry_points="[console_scripts]\ntidy = tidy:main\n",
    )  # fmt: skip
    publish(index, folder / "wheels", "neat", "1.2")
    with index.serve() as url:
        table = f'[[index]]\nname = "house"\nurl = "{url}"\ndefault = true\n'
        yield Setting(hub, folder, folder / "cache", make_index(url), "tidy\n", table)


@pytest.fixture(scope="module")
def parts(built: Built) -> Parts:
    return Parts(built.base)


def start(name: str, parts: Parts, setting: Setting) -> Round:
    """Pinned, looked into, locked on and built on."""
    item = next(item for item in STAND_INS if item.name == name)
    one = Round(item, push_stand_in(item, parts, setting.registry, setting.folder), setting)
    for step in (one.pin, one.inspect, one.lock, one.image):
        step()
    return one


def test_conda_under_an_init_of_its_own(parts: Parts, setting: Setting) -> None:
    """Kubeflow's shape."""
    one = start("kubeflow", parts, setting)
    for step in (one.verify, one.check, one.tree):
        step()
    one.smoke("own-user")


def test_a_virtual_environment_with_settings_for_pip_and_uv(parts: Parts, setting: Setting) -> None:
    """OpenDataHub's shape: indexes that are not there, and a pip.conf that would install elsewhere."""
    one = start("opendatahub", parts, setting)
    for step in (one.verify, one.twin, one.check, one.tree):
        step()


def test_constraints_of_its_own_beside_packages_of_debian(parts: Parts, setting: Setting) -> None:
    """NVIDIA's shape: torch of a pre-release, pandas of dpkg."""
    one = start("ngc", parts, setting)
    one.check()
    for claim in (pin_torch, keep_debian, keep_constraints):
        claim(one)


def test_the_python_that_comes_first_gets_the_packages(parts: Parts, setting: Setting) -> None:
    one = start("two-pythons", parts, setting)
    one.tree()
