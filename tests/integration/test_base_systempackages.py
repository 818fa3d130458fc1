"""dpkg's own word on this machine's packages, beside what is read of its status file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from imagebuild.base.systempackages import parse_status
from tests.parts import need

pytestmark = pytest.mark.integration


def test_every_package_and_its_source_are_as_dpkg_says() -> None:
    form = "${Package} ${Version} ${Architecture} ${source:Package} ${source:Version} ${db:Status-Status}\n"
    done = subprocess.run([need("dpkg-query"), "--show", f"--showformat={form}"], capture_output=True, text=True, check=True)
    expected = {tuple(line.split()[:5]) for line in done.stdout.splitlines() if line.endswith(" installed")}
    found = parse_status(Path("/var/lib/dpkg/status").read_text(encoding="utf-8"))
    assert {(i.name, i.version, i.architecture, i.source or i.name, i.source_version or i.version) for i in found} == expected
    assert len(expected) > 50
