"""Whether a body comes fast enough. A socket's own limit of time starts anew with every byte: a server may send one a minute for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW = 60.0  # seconds
LEAST_RATE = 1024  # bytes a second, over a window


class Pace:
    """Of one body. Only what was waited for its bytes counts, not what the reader does in between."""

    def __init__(self) -> None:
        self._waited, self._arrived = 0.0, 0

    def read(self, read: Callable[[], bytes]) -> bytes:
        """What ``read`` gives, which is as much as has arrived; TimeoutError when it has been too little for the time it took."""
        started = time.monotonic()
        data = read()
        self._waited += time.monotonic() - started
        self._arrived += len(data)
        if self._waited >= WINDOW:
            if data and self._arrived < WINDOW * LEAST_RATE:
                raise TimeoutError
            self._waited, self._arrived = 0.0, 0
        return data
