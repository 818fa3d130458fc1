"""dpkg's own word on this machine's packages, beside what is read of its status file."""

from __future__ import annotations

import itertools
import random
import subprocess
from pathlib import Path

import pytest

from imagebuild.base.systempackages import parse_status
from imagebuild.supply.versions import make_debian_key
from tests.support.tools import need

pytestmark = pytest.mark.integration


def test_every_package_and_its_source_are_as_dpkg_says() -> None:
    form = "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version} ${db:Status-Status}\n"
    done = subprocess.run([need("dpkg-query"), "--show", f"--showformat={form}"], capture_output=True, text=True, check=True)
    expected = {tuple(line.split()[:5]) for line in done.stdout.splitlines() if line.endswith(" installed")}
    found = parse_status(Path("/var/lib/dpkg/status").read_text(encoding="utf-8"))
    assert {(i.name, i.version, i.architecture, i.source or i.name, i.source_version or i.version) for i in found} == expected
    assert len(expected) > 50


def test_versions_are_ordered_as_dpkg_orders_them() -> None:
    dpkg = need("dpkg")
    chance = random.Random(829)
    texts = ["1" + "".join(chance.choices("019aZ.+~", k=chance.randrange(5))) + chance.choice(["", "-0", "-1~b"]) for _ in range(300)]
    for one, other in itertools.pairwise(texts):
        keys = make_debian_key(one), make_debian_key(other)
        assert None not in keys
        word = "lt" if keys[0] < keys[1] else "eq" if keys[0] == keys[1] else "gt"  # type: ignore[operator]
        assert subprocess.run([dpkg, "--compare-versions", one, word, other], check=False).returncode == 0, (one, word, other)
