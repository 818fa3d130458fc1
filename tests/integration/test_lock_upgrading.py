"""Quarterly upgrades: all or one package, until a date; the report for the review; both resolvers side by side; a new base."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from imagebuild.lock.file.lockfile import read_lock
from imagebuild.text import format_size
from tests.support.builders import make_wheel
from tests.support.images import entry, make_layer
from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry
from tests.support.workspaces import Built, Checkout, run_tool, skopeo_copy

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class House:
    """Two teams on the starter base, and an index of their own that grows."""

    checkout: Checkout
    index: FakeIndex
    folder: Path

    def publish(
        self, name: str, version: str, *requires: str, licence: str = "MIT", uploaded: str = "2026-05-01T00:00:00Z", bulk: int = 0
    ) -> None:
        needs = "".join(f"Requires-Dist: {line}\n" for line in requires)
        metadata = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n{needs}"
        files = {f"{name}/__init__.py": b"x = 1\n" + bytes(bulk)}
        path = make_wheel(self.folder, name, version, files=files, metadata=metadata)
        self.index.add_file(name, path.name, path.read_bytes(), uploaded=uploaded)

    def versions(self, team: str) -> dict[str, str]:
        return {item.name: item.version for item in read_lock(self.checkout.root / f"lockfiles/pylock.{team}.toml").packages}


@pytest.fixture
def house(built: Built, tmp_path: Path) -> Iterator[House]:
    index = FakeIndex()
    with index.serve() as url:
        checkout = built.checkout.fork(tmp_path / "house")
        found = House(checkout, index, tmp_path / "wheels")
        for team, wanted in (("blue", "top\n"), ("green", "top<2\n")):
            checkout.write(f"images/{team}/team.toml", f'base = "starter"\n[[index]]\nname = "house"\nurl = "{url}"\ndefault = true\n')
            checkout.write(f"images/{team}/requirements.in", wanted)
        found.publish("top", "1.0", "below>=1")
        found.publish("below", "1.0")
        checkout.run("lock", "blue", "green", "--as-of", "2026-06-01").succeeded()
        yield found


def test_a_quarters_upgrade_and_its_report(house: House) -> None:
    house.publish("top", "2.0", "below>=1", licence="GPL-3.0-only", uploaded="2026-08-01T00:00:00Z", bulk=50_000)
    house.publish("below", "1.1", uploaded="2026-08-01T00:00:00Z")
    house.publish("below", "1.2", uploaded="2026-11-01T00:00:00Z")
    checkout = house.checkout
    checkout.run("lock", "blue").succeeded()
    assert house.versions("blue") == {"below": "1.0", "top": "1.0"}  # nothing moves by itself
    one = checkout.run("lock", "blue", "--upgrade-package", "Below", "--as-of", "2026-10-01", "--report", "-").succeeded().out
    assert house.versions("blue") == {"below": "1.1", "top": "1.0"}
    assert "| below | by others | 1.0 to 1.1 |" in one
    assert "| top |" not in one
    report = checkout.root / "report.md"
    checkout.run("lock", "blue", "--upgrade", "--as-of", "2026-10-01", "--report", str(report)).succeeded()
    assert house.versions("blue") == {"below": "1.1", "top": "2.0"}
    text = report.read_text()
    assert "### Lock of blue" in text
    assert "- top: the licence changes from MIT to GPL-3.0-only" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| top |")]
    assert row.startswith("| top | directly | 1.0 to 2.0 | ")
    assert "| 1.1 to" not in row
    sizes = [path.stat().st_size for path in sorted(house.folder.glob("top-*.whl"))]
    assert f"{sizes[0]} B to {sizes[1]} B" in row
    with zipfile.ZipFile(io.BytesIO(sorted(house.folder.glob("top-2*.whl"))[0].read_bytes())) as archive:
        installed = sum(item.file_size for item in archive.infolist())
    assert format_size(installed) in row
    assert "Nothing changed." in checkout.run("lock", "blue", "--report", "-").succeeded().out


def test_what_is_asked_wrongly(house: House) -> None:
    run = house.checkout.run
    run("lock", "blue", "--upgrade-package", "tpo").refused(2, "the lock of blue has no tpo to upgrade")
    run("lock", "blue", "--upgrade", "--upgrade-package", "top").refused(2, "--upgrade takes everything")
    run("lock", "blue", "--check", "--report", "-").refused(2, "this command locks nothing")
    house.index.times = False
    house.publish("top", "3.0")
    run("lock", "blue", "--upgrade", "--as-of", "2026-10-01").refused(4, "gives no upload times, so the cutoff .* cannot be applied")
    assert house.versions("blue") == {"below": "1.0", "top": "1.0"}


def test_both_resolvers_side_by_side(house: House) -> None:
    path = house.checkout.root / "lockfiles/pylock.blue.toml"
    before = path.read_bytes()
    same = house.checkout.run("lock", "blue", "--compare").succeeded().out
    assert same.startswith("blue: pip-tools 7.")
    assert same.endswith("lock the same 2 packages\n")
    # Not everything can be the newest: pip gives up the newest b for the newest a, uv the other way round.
    for name, version, requires in (("a", "1.0", ["c"]), ("a", "2.0", ["b<2", "c"]), ("b", "1.0", []), ("b", "2.0", []), ("c", "1.0", [])):
        house.publish(name, version, *requires)
    house.publish("c", "2.0", "b>=2")
    house.checkout.write("images/blue/requirements.in", "b\na\n")
    told = house.checkout.run("lock", "blue", "--compare").succeeded().out.splitlines()
    assert re.fullmatch(r"blue: pip-tools \S+ and uv \S+ differ in 3 of 3 packages", told[0])
    assert sorted(told[1:]) == ["  a  pip-tools 2.0  uv 1.0", "  b  pip-tools 1.0  uv 2.0", "  c  pip-tools 1.0  uv 2.0"]
    assert path.read_bytes() == before
    house.checkout.write("images/blue/requirements.in", "top==9\n")
    house.checkout.run("lock", "blue", "--compare").refused(4, "line 1 asks for top==9")


def test_a_new_base_and_what_it_means_for_every_team(house: House, hub: Registry, built: Built, tmp_path: Path) -> None:
    """The tag moves to a base that has ``below``, in a version that one team cannot use."""
    reference = f"{hub.host}/upgrading/base"
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{reference}:1")
    old = run_tool("crane", "digest", "--insecure", f"{reference}:1").decode().strip()
    checkout = house.checkout
    checkout.use_base("moving", reference, old)
    for team in ("blue", "green"):
        checkout.edit(f"images/{team}/team.toml", 'base = "starter"', 'base = "moving"')
    checkout.write("images/green/requirements.in", "top<2\nbelow<2\n")
    checkout.run("lock", "blue", "green").succeeded()
    info = "usr/local/lib/python3.11/dist-packages/below-3.0.dist-info"
    added = [entry(info), entry(f"{info}/METADATA", b"Metadata-Version: 2.1\nName: below\nVersion: 3.0\n"), entry(f"{info}/RECORD", b"")]
    (tmp_path / "layer.tar").write_bytes(make_layer(added))
    run_tool("crane", "append", "--insecure", "-b", f"{reference}:1", "-f", str(tmp_path / "layer.tar"), "-t", f"{reference}:1")
    new = run_tool("crane", "digest", "--insecure", f"{reference}:1").decode().strip()
    told = checkout.run("base", "pin", "moving", "--upgrade").succeeded().out
    assert f"moving: 1: {old} -> {new}\n" in told
    assert "used by blue, green; what changes for them: imagebuild lock blue green --report -" in told
    done = checkout.run("lock", "blue", "green", "--report", "-")
    done.refused(4, "1 of 2 teams failed: green")
    blue, green = done.out.split("### Lock of green")
    assert "| below | by others | gone: 1.0 |" in blue
    assert f"`{old[:19]}` | `{new[:19]}`" in blue
    assert "**Does not lock**: green: requirements.in line 2 asks for below<2; the base moving has below 3.0" in green
    assert 'replace = ["below"]' in green
    assert f"moving: 1 is {new}, as before\n" in checkout.run("base", "pin", "moving", "--upgrade").succeeded().out
