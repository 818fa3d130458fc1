"""Real packages that did not lock, or not as pip has them, on the starter base once; by the whole command line, with both resolvers.

What only has to be resolved is not fetched: METADATA is all that is read of those.
"""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from imagebuild.lock.request import RESOLVERS
from tests.support.tools import need_index, need_root
from tests.support.workspaces import Built, Checkout, run_inside, unpack

pytestmark = pytest.mark.integration
BUDGET = '\n[budget]\ncompressed = "4 GiB"\ninstalled = "12 GiB"\n'
COLLIDING = "databricks-sdk==0.133.0\ndatabricks-sql-connector==4.5.0\ndatabricks-sqlalchemy==2.0.10\nsentry-cli==3.8.2\n"


@pytest.fixture
def checkout(built: Built, tmp_path: Path) -> Checkout:
    """The built checkout, without locks: each test writes a team of its own."""
    need_index()
    return built.checkout.fork(tmp_path / "project")


def write_team(checkout: Checkout, requirements: str, table: str = "") -> None:
    checkout.write("images/alpha/team.toml", f'base = "starter"\n{table}{BUDGET}')
    checkout.write("images/alpha/requirements.in", requirements)


def read_versions(checkout: Checkout) -> dict[str, str]:
    lock = tomllib.loads((checkout.root / "lockfiles/pylock.alpha.toml").read_text())
    return {item["name"]: item["version"] for item in lock["packages"]}


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize(
    ("requirements", "error", "hint"),
    [
        ("deepspeed\n", r"deepspeed .* source only", r'\[source\] packages = \["deepspeed"\]'),
        ("psycopg2\n", r"psycopg2 .*win", r'\[source\] packages = \["psycopg2"\]'),
        ("torch==2.5.1+cu121\n", r"has no torch 2\.5\.1\+cu121: .*local version", r"\[\[index\]\]"),
        ("uritemplate; platform_release >= '99'\n", r"requirements\.in line 1: the marker .* depends on the kernel", "sys_platform"),
    ],
)
def test_what_cannot_be_locked_names_a_way_out(checkout: Checkout, resolver: str, requirements: str, error: str, hint: str) -> None:
    write_team(checkout, requirements)
    checkout.run("lock", "alpha", "--resolver", resolver).failed(4, error, hint)
    assert not (checkout.root / "lockfiles/pylock.alpha.toml").exists()


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_what_the_starter_base_once_held_back_is_locked_at_its_newest(checkout: Checkout, resolver: str) -> None:
    """boto3 and the Google Cloud libraries want python-dateutil<3; pytz===2024.1 is arbitrary equality (PEP 440)."""
    write_team(checkout, "boto3\ngoogle-cloud-bigquery\ngoogle-cloud-storage\npandas-gbq\npytz===2024.1\ntqdm[nope]\n")
    done = checkout.run("lock", "alpha", "--resolver", resolver).succeeded()
    assert done.lines("warning: ") == ["warning: tqdm has no extra 'nope', which requirements.in line 6 asks for"]
    found = read_versions(checkout)
    assert found["pytz"] == "2024.1"
    assert int(found["google-cloud-bigquery"].split(".")[0]) >= 3  # 1.20 and 2.6.1 were what older dateutils left
    assert tuple(map(int, found["botocore"].split(".")[:2])) >= (1, 40)


def test_wheels_that_bring_one_path_and_a_wheel_with_a_wrong_record(checkout: Checkout, tmp_path: Path) -> None:
    """databricks-sdk and databricks-sql-connector both bring databricks/__init__.py; sentry-cli's RECORD has hashes of other files."""
    write_team(checkout, COLLIDING)
    checkout.run("lock", "alpha").succeeded()
    refused = checkout.run("image", "alpha").refused(7, r"databricks/__init__\.py", hint=r"\[files\]")
    (line,) = re.findall(r'"databricks/[^"]+" = "[a-z-]+"', refused.hint)  # as it is to be pasted
    write_team(checkout, COLLIDING, f"[files]\n{line}\n")
    done = checkout.run("image", "alpha", "--json").succeeded()
    (note,) = done.lines("note: sentry-cli 3.8.2: ")
    assert "of its RECORD" in note
    tag = done.result["tag"]
    looked = json.loads(checkout.run("verify", f"alpha:{tag}", "--json").succeeded().out)
    assert "sentry-cli" in json.dumps(looked)
    need_root()
    rootfs = unpack(f"oci:{checkout.layout}:alpha:{tag}", tmp_path / "image")
    assert "No broken requirements found" in run_inside(rootfs, "python3", "-m", "pip", "check")
    assert run_inside(rootfs, "python3", "-c", "import databricks.sdk, databricks.sql, sqlalchemy; print(1)").strip() == "1"
