"""`imagebuild image` of a team whose image is there is done in a fraction of a second: it loads nothing that only a build takes."""

from __future__ import annotations

import subprocess
import sys

# What takes long to load: requests alone is a third of the whole run.
HEAVY = (
    "click.shell_completion", "docker", "email", "imagebuild.layer.members", "imagebuild.wheel.archive", "installer", "requests", "rich",
    "uv",
)  # fmt: skip


def test_the_main_job_loads_what_builds_when_it_builds() -> None:
    modules = ("cli", "commands.image", "pipeline", "lock.inputs.freshness", "lock.file.lockfile")
    code = f"import sys, {', '.join(f'imagebuild.{name}' for name in modules)}; print(*sorted(sys.modules), sep='\\n')"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "imagebuild.pipeline.pushing" in loaded
    assert sorted(set(HEAVY) & set(loaded)) == []
