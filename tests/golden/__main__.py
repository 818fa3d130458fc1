"""Write the golden values anew, after a change that was meant."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.golden.world import record

with tempfile.TemporaryDirectory() as folder:

    def make_scratch(name: str) -> Path:
        path = Path(folder) / name
        path.mkdir()
        return path

    record(make_scratch)
