"""This machine's Python as a base's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from imagebuild.errors import BuildError


class HostRuntime:
    """A :class:`imagebuild.base.model.Runtime` around an interpreter of this machine, alone: no site-packages, a scrubbed environment."""

    def __init__(self, executable: str = sys.executable, *, hash_seed: str = "0") -> None:
        self.executable = executable
        self._environment = {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": hash_seed, "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"}

    def run(
        self, code: str, *arguments: str, input: bytes = b"", path: Sequence[Path] = (), network: bool = False,
        environment: Mapping[str, str] | None = None, timeout: float = 300,
    ) -> subprocess.CompletedProcess[bytes]:  # fmt: skip
        assert network or not path
        start = f"import sys\nsys.path[:0] = {[str(item) for item in path]!r}\n"
        scrubbed = {**self._environment, **(environment or {})}
        try:
            return subprocess.run(
                self._command(start + code, arguments),
                input=input,
                capture_output=True,
                env=scrubbed,
                cwd="/",
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise BuildError(f"the base's Python did not finish within {timeout:g} s") from None

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self._command(code, arguments), stdin=pipe, stdout=pipe, stderr=pipe, env=self._environment, cwd="/")

    def _command(self, code: str, arguments: Sequence[str]) -> list[str]:
        return [self.executable, "-s", "-S", "-B", "-c", code, *arguments]


class FakeChild(HostRuntime):
    """A runtime whose child runs other code than it is asked to."""

    def __init__(self, code: str) -> None:
        super().__init__()
        self._code = code

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        assert code
        return super().start(self._code, *arguments)
