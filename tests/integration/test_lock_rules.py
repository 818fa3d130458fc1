"""What a resolver is told and what is made of its answer, with both resolvers: exclude, override, extras, blocks, time, status,
cooldown."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.base.model import Distribution
from imagebuild.errors import LockError
from imagebuild.lock.compiling import compile_lock
from imagebuild.lock.file.lockfile import format_lock, lock_digest, parse_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.freshness import check_lock_fresh
from imagebuild.lock.inputs.resolverules import make_rules
from imagebuild.lock.request import RESOLVERS, LockRequest
from tests.support.builders import make_lock_base
from tests.support.servers.index import FakeIndex, make_index
from tests.support.workspaces import Built, Checkout

pytestmark = pytest.mark.integration
CUTOFF = "2026-10-01T00:00:00Z"
DATEUTIL = Distribution("python-dateutil", "4.0.0", "/x", has_record=True)


def lock_for(folder: Path, text: str, indexes: Sequence[PackageIndex], lines: list[str], **more: Any) -> Lock:
    root = folder / "project"
    root.mkdir(exist_ok=True)
    (root / "requirements.in").write_text(text)
    request = LockRequest(
        team="t",
        base=make_lock_base([DATEUTIL]),
        requirements=root / "requirements.in",
        local_packages=(),
        indexes=indexes,
        cutoff=CUTOFF,
        explicit_cutoff=True,
        root=root,
        cache=folder / "cache",
        report=lines.append,
    )
    return compile_lock(msgspec.structs.replace(request, **more))


def fill() -> FakeIndex:
    fake = FakeIndex()
    fake.add("albumentations", "1.0", ["opencv-python>=4", "numpy<2", "python-dateutil<3", "tools; extra == 'dev'"])
    fake.add("opencv-python", "4.0")
    fake.add("tools", "1.0")
    fake.add("numpy", "1.26")
    fake.add("numpy", "2.1")
    return fake


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_excluded_and_overridden(tmp_path: Path, resolver: str) -> None:
    rules = make_rules(["opencv-python"], ["numpy>=2", "python-dateutil>=2"])
    lines: list[str] = []
    with fill().serve() as url:
        found = lock_for(tmp_path, "albumentations\nopencv-python\n", [make_index(url)], lines, resolver=resolver, rules=rules)
    assert {item.name: item.version for item in found.packages} == {"albumentations": "1.0", "numpy": "2.1"}
    assert found.packages[0].dependencies == ("numpy",)
    assert found.exclude == ("opencv-python",)
    assert found.override == ("numpy>=2", "python-dateutil>=2")
    assert found.rewritten == (
        "requirements.in line 2 needs opencv-python: left out",
        "albumentations 1.0 needs opencv-python>=4: left out",
        "albumentations 1.0 needs numpy<2: numpy>=2",
        "albumentations 1.0 needs python-dateutil<3: python-dateutil>=2",
    )
    assert parse_lock(format_lock(found)) == found
    read = parse_lock(format_lock(found))
    plain = msgspec.structs.replace(read, exclude=(), override=(), rewritten=())
    assert lock_digest(plain) != lock_digest(read)  # so the tag is another
    root = tmp_path / "project"
    base = make_lock_base([DATEUTIL])
    check_lock_fresh(found, base, root / "requirements.in", [], root, rules)
    with pytest.raises(LockError, match=r"stale: \[resolve\] of team\.toml changed"):
        check_lock_fresh(found, base, root / "requirements.in", [], root, make_rules(["opencv-python"], []))


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_an_extra_that_there_is_not_is_told(tmp_path: Path, resolver: str) -> None:
    fake = FakeIndex()
    fake.add("pandas", "2.2", ["openpyxl; extra == 'excel'", "numpy[nope]"])
    fake.add("openpyxl", "3.1")
    fake.add("numpy", "2.1")
    lines: list[str] = []
    with fake.serve() as url:
        found = lock_for(tmp_path, "pandas[excel,gone]\n", [make_index(url)], lines, resolver=resolver)
    assert {item.name for item in found.packages} == {"pandas", "openpyxl", "numpy"}
    assert {line for line in lines if line.startswith("warning: ")} == {
        "warning: numpy has no extra 'nope', which pandas asks for",
        "warning: pandas has no extra 'gone', which requirements.in line 1 asks for",
    }


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("text", ["thing; platform_release >= '99'\n", "asks\n"])
def test_the_kernel_of_this_machine_decides_nothing(tmp_path: Path, resolver: str, text: str) -> None:
    fake = FakeIndex()
    fake.add("thing", "1.0")
    fake.add("asks", "1.0", ["thing; platform_version != ''"])
    with fake.serve() as url, pytest.raises(LockError, match="depends on the kernel"):
        lock_for(tmp_path, text, [make_index(url)], [], resolver=resolver)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_arbitrary_equality(tmp_path: Path, resolver: str) -> None:
    fake = FakeIndex()
    fake.add("pytz", "2024.1")
    fake.add("pytz", "2025.1")
    with fake.serve() as url:
        assert lock_for(tmp_path, "pytz===2024.1\n", [make_index(url)], [], resolver=resolver).packages[0].version == "2024.1"


def fill_boto(count: int) -> FakeIndex:
    """Every version needs a botocore of its own, and each of those what the base has not."""
    fake = FakeIndex()
    for number in range(count):
        fake.add(
            "boto3", f"1.{number}", [f"botocore=={number + 100}"], uploaded=f"20{10 + number // 12:02}-{1 + number % 12:02}-01T00:00:00Z"
        )
        fake.add("botocore", f"{number + 100}", ["python-dateutil<3"] if number else [], uploaded="2010-01-01T00:00:00Z")
    return fake


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_what_blocks_the_newest_is_told_and_what_is_held_back_too(tmp_path: Path, resolver: str) -> None:
    lines: list[str] = []
    with fill_boto(20).serve() as url:
        found = lock_for(tmp_path, "boto3\n", [make_index(url)], lines, resolver=resolver)
    assert found.packages[0].version == "1.0"
    block = "the newest boto3 1.19 needs botocore 119, which needs python-dateutil<3; the base plain has python-dateutil 4.0.0"
    assert f"warning: boto3 1.0 (2010-01-01) is locked, and 1.19 (2011-08-01) is out: {block}" in lines


def test_a_search_ends_and_names_what_blocks(tmp_path: Path) -> None:
    lines: list[str] = []
    start = time.monotonic()
    with fill_boto(400).serve() as url, pytest.raises(LockError, match=r"no way around it was found within 5 s \(--timeout\)") as caught:
        lock_for(tmp_path, "boto3\n", [make_index(url)], lines, seconds=5.0)
    assert time.monotonic() - start < 60
    block = "the newest boto3 1.201 needs botocore 301, which needs python-dateutil<3"  # of those before the cutoff
    assert block in caught.value.message
    assert caught.value.hint.startswith('let it be replaced: replace = ["python-dateutil"] in team.toml')
    assert f"t: {block}" in "\n".join(lines)


class StatusIndex(FakeIndex):
    """Tells PEP 792 statuses."""

    def __init__(self, form: str, statuses: dict[str, dict[str, str]]) -> None:
        super().__init__(form)
        self.statuses = statuses

    def page(self, name: str) -> tuple[str, bytes]:
        kind, data = super().page(name)
        if name not in self.statuses:
            return kind, data
        state = self.statuses[name]
        if self.form == "json":
            return kind, json.dumps({**json.loads(data), "project-status": state}).encode()
        meta = f'<meta name="pypi:project-status" content="{state["status"]}">'
        meta += f'<meta name="pypi:project-status-reason" content="{state.get("reason", "")}">'
        return kind, data.replace(b"<html>", f"<html><head>{meta}</head>".encode())


@pytest.mark.parametrize("form", ["json", "html"])
def test_a_project_that_is_archived_is_told_and_one_in_quarantine_refused(tmp_path: Path, form: str) -> None:
    statuses = {"old": {"status": "archived", "reason": "see new"}, "bad": {"status": "quarantined"}, "odd": {"status": "what"}}
    fake = StatusIndex(form, statuses)
    for name in ("old", "bad", "odd"):
        fake.add(name, "1.0")
    lines: list[str] = []
    with fake.serve() as url:
        for _ in range(2):  # read, and from what was kept
            lines.clear()
            lock_for(tmp_path, "old\nodd\n", [make_index(url)], lines, explicit_cutoff=False)
            assert [line for line in lines if line.startswith("warning: ")] == [
                "warning: package index 'default' says that old is archived (see new)"
            ]
        with pytest.raises(LockError, match="bad is quarantined, says package index 'default'"):
            lock_for(tmp_path, "bad\n", [make_index(url)], lines, explicit_cutoff=False)


def test_a_name_that_an_index_claims_does_not_come_from_a_folder(tmp_path: Path) -> None:
    tree = tmp_path / "cosml_utils"
    tree.mkdir()
    (tree / "pyproject.toml").write_text('[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n')
    (tree / "cosml_utils.py").write_text('"""x"""\n__version__ = "1.0"\n')
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n[project]\nname = "cosml-utils"\nversion = "1.0"\n'
        'description = "x"\n'
    )
    with FakeIndex().serve() as url:
        corp = make_index(url, "corp", ("cosml-*",))
        with pytest.raises(
            LockError, match="the source tree of cosml-utils is in the team's folder, and package index 'corp' claims"
        ) as caught:
            lock_for(tmp_path, "", [corp], [], local_packages=(tree,), root=tmp_path)
        assert "local = true in the [[index]] 'corp'" in caught.value.hint
        allowed = msgspec.structs.replace(corp, local=True)
        assert lock_for(tmp_path, "", [allowed], [], local_packages=(tree,), root=tmp_path).packages[0].index == "local"


def test_nothing_younger_than_the_cooldown_is_locked(built: Built, tmp_path: Path) -> None:
    fake = FakeIndex()
    now = time.time()
    for version, days in (("1.0", 30), ("2.0", 8), ("3.0", 2)):
        fake.add("thing", version, uploaded=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now - days * 86400)))
    with fake.serve() as url:
        checkout = built.checkout.fork(tmp_path / "checkout")
        checkout = Checkout(checkout.root, checkout.cache, {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": "/dev/null"})
        checkout.write("images/alpha/requirements.in", "thing\n")
        checkout.write("images/alpha/team.toml", 'base = "starter"\n')
        assert "thing==3.0" in checkout.run("lock", "alpha").succeeded().out
        assert "thing==2.0" in checkout.run("lock", "alpha", "--upgrade", "--as-of", "7d").succeeded().out
        assert "thing==1.0" in checkout.run("lock", "alpha", "--upgrade", "--as-of", "10 days").succeeded().out
        checkout.write("images/alpha/team.toml", 'base = "starter"\n[lock]\ncooldown = "7 days"\n')
        assert "thing==2.0" in checkout.run("lock", "alpha", "--upgrade").succeeded().out
        cutoff = (checkout.root / "lockfiles/pylock.alpha.toml").read_text().partition('cutoff = "')[2][:10]
        assert cutoff == time.strftime("%Y-%m-%d", time.gmtime(now - 7 * 86400))
        checkout.write("images/alpha/team.toml", 'base = "starter"\n[lock]\ncooldown = "a week"\n')
        checkout.run("lock", "alpha").refused(3, "not a number of days: 'a week'")
