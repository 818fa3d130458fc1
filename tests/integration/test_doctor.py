"""``imagebuild doctor`` and ``init`` as a user meets them: a machine that can, and one that cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry
from tests.support.tools import need_docker
from tests.support.workspaces import Checkout

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
