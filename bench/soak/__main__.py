"""``python -m bench.soak``: :mod:`bench.soak.campaign`. Ctrl-C and SIGTERM end it with one line, also while its modules load."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """The exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from bench.soak.campaign import run_soak  # here, because it takes seconds

        return run_soak()
    except KeyboardInterrupt:
        print("soak: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
