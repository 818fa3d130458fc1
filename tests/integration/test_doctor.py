"""``imagebuild doctor`` and ``init`` as a user meets them: a machine that can, and one that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagebuild.oci.layout import LayoutStore
from tests.support import images
from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker
from tests.support.workspaces import Checkout, skopeo_copy

pytestmark = pytest.mark.integration


def test_a_new_team_is_ready_and_what_is_missing_is_named(hub: Registry, tmp_path: Path) -> None:
    need_docker()
    checkout = Checkout(tmp_path, tmp_path / "cache")
    empty = json.loads(checkout.run("doctor", "--json").out)
    assert {"subject": "teams", "status": "note"}.items() <= empty[0].items()
    assert "imagebuild init" in empty[0]["hint"]

    said = checkout.run("init", "churn", "--display-name", "Churn").succeeded()
    assert said.out.split() == ["images/catalogue.toml", "images/churn/requirements.in", "images/churn/team.toml"]
    checkout.run("init", "churn").refused(2, "already")
    fake = FakeIndex()
    with fake.serve() as url:
        team = (tmp_path / "images/churn/team.toml").read_text()
        index = f'[[index]]\nname = "corp"\nurl = "{url}"\ndefault = true\n'
        checkout.write("images/churn/team.toml", f"{team}\n{index}")
        found = json.loads(checkout.run("doctor", "--json", "--registry", f"{hub.host}/doctor").succeeded().out)
        by_name = {item["subject"]: item for item in found}
        assert {item["status"] for item in found} <= {"ok", "note"}
        assert by_name["teams"]["text"] == "1 can be read, without a lock: churn"
        assert by_name["index corp"]["text"] == "answers"
        assert "without a login; doctor/churn has 0 tags" in by_name["registry"]["text"]
        assert by_name["base starter"]["text"] == "is built here"

        checkout.write("images/catalogue.toml", '[base.starter]\nreference = "localhost:9/x"\ntag = "1"\n')
        checkout.run("doctor").refused(3, "base starter")
    # Nothing answers any more, and each thing that does not is told apart.
    checkout.write("images/broken/team.toml", "base = 1\n")
    done = checkout.run("doctor", "--registry", "localhost:9/ml")
    done.refused(3, "checks found a problem: team broken, registry, base starter, index corp")
    assert "team broken" in done.out
    assert "run: imagebuild base pin starter" in done.out


def test_each_mirror_is_asked_for_the_bases_that_teams_read_through_it(hub: Registry, tmp_path: Path) -> None:
    """One that has the base, one that lacks it, one that does not answer, one that nobody needs."""
    found = images.push_image(LayoutStore(tmp_path / "layout"), [b"\0" * 10240], {"User": "1000"})
    skopeo_copy(f"oci:{tmp_path / 'layout'}:{images.REPOSITORY}:1", f"docker://{hub.host}/doctor/full/notebook:1", "--preserve-digests")
    checkout = Checkout(tmp_path / "checkout", tmp_path / "cache")
    mirrors, bases = [], []
    for name, target in (("full", f"{hub.host}/doctor/full"), ("empty", f"{hub.host}/doctor/empty"), ("down", "localhost:9")):
        mirrors.append(f'"{name}.example" = "{target}"')
        bases.append(f'[base.{name}]\nreference = "{name}.example/notebook"\ntag = "1"\ndigest = "{found.digest}"\nkind = "jupyter"\n')
        checkout.write(f"images/{name}/team.toml", f'base = "{name}"\n')
        checkout.write(f"images/{name}/requirements.in", "")
    mirrors.append(f'"other.example" = "{hub.host}/other"')
    checkout.write("images/catalogue.toml", "\n".join(["[mirrors]", *mirrors, *bases]))
    done = checkout.run("doctor", "--json")
    looks = {item["subject"]: item for item in json.loads(done.out) if item["subject"].startswith("mirror ")}
    assert {name: item["status"] for name, item in looks.items()} == {
        "mirror full.example": "ok", "mirror empty.example": "problem", "mirror down.example": "problem", "mirror other.example": "note",
    }  # fmt: skip
    assert f"docker://{hub.host}/doctor/empty/notebook:1" in looks["mirror empty.example"]["hint"]
    assert "[mirrors] is in" in looks["mirror down.example"]["hint"]
    done.refused(3, "mirror empty.example", "mirror down.example")
