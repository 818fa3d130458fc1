"""requirements.lock is what building takes, requirements-test.lock adds what tests take: hashes, no addresses, and no contradiction."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-test.lock")


def read_pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """Package -> version and hashes of one lock."""
    text = (ROOT / name).read_text("utf-8").replace("\\\n", " ")
    pins = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = line.split("--hash=")
            package, _, version = requirement.partition(";")[0].partition("==")
            assert package not in pins
            pins[package] = (version.strip(), frozenset(item.strip() for item in hashes))
    return pins


def read_project() -> tuple[list[Requirement], list[Requirement]]:
    """What building asks for, and what tests ask for besides."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return [Requirement(item) for item in project["dependencies"]], [Requirement(item) for item in project["optional-dependencies"]["test"]]


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_by_hash_and_nothing_has_an_address(name: str) -> None:
    pins = read_pins(name)
    assert len(pins) > 40
    assert [package for package, (version, hashes) in pins.items() if not version or not hashes] == []
    assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for _, hashes in pins.values() for item in hashes)
    assert "://" not in (ROOT / name).read_text("utf-8")
    assert not re.search(r"^-", (ROOT / name).read_text("utf-8"), re.MULTILINE), "options of an index"


def test_the_test_lock_holds_the_other_as_it_is() -> None:
    run, test = (read_pins(name) for name in LOCKS)
    assert {package: pin for package, pin in test.items() if package in run} == run


def test_each_lock_has_what_is_asked_for_and_building_takes_no_test_tools() -> None:
    building, testing = read_project()
    run, test = ({package: pin[0] for package, pin in read_pins(name).items()} for name in LOCKS)
    for asked, pins in ((building, run), (building, test), (testing, test)):
        missing = [str(item) for item in asked if Version(pins.get(canonicalize_name(item.name), "0")) not in item.specifier]
        assert missing == [], "make locks"
    assert {"jsonschema", "kubernetes-validate", "lxml", "mypy", "playwright", "pytest", "ruff"} & set(run) == set()
