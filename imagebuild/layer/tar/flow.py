"""Chunks of bytes between threads, a bounded number at a time: hashing and decompressing release the interpreter's lock."""

from __future__ import annotations

import contextlib
import hashlib
import io
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from imagebuild.files import CHUNK

_QUEUED = 8


class ChunkStream(io.RawIOBase):
    """A forward-only stream over an iterator of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See :class:`io.RawIOBase`."""
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def open_chunks(chunks: Iterable[bytes]) -> BinaryIO:
    """A buffered forward-only stream over ``chunks``."""
    return cast(BinaryIO, io.BufferedReader(ChunkStream(chunks), CHUNK))


class ChunkConsumer:
    """Runs ``consume`` on a thread of its own; as a context manager it gives the function that feeds it.

    What goes wrong there is raised here, at the latest when the context is left without another error.
    """

    def __init__(self, consume: Callable[[Iterator[bytes]], None]) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(consume,), name="layer", daemon=True)

    def __enter__(self) -> Callable[[bytes], None]:
        self._thread.start()
        return self._put

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _put(self, chunk: bytes) -> None:
        if self._error is not None:
            raise self._error
        if chunk:
            self._queue.put(chunk)

    def _take(self) -> Iterator[bytes]:
        while (chunk := self._queue.get()) is not None:
            yield chunk

    def _run(self, consume: Callable[[Iterator[bytes]], None]) -> None:
        chunks = self._take()
        try:
            consume(chunks)
        except BaseException as error:
            self._error = error
        finally:
            for _ in chunks:  # never leave the other side waiting for room in the queue
                pass


class BackgroundDigest(ChunkConsumer):
    """SHA-256 of what is fed to it. ``sha256`` (hex) and ``count`` (bytes) are known when the context is left."""

    def __init__(self) -> None:
        super().__init__(self._consume)
        self.sha256 = ""
        self.count = 0

    def _consume(self, chunks: Iterator[bytes]) -> None:
        digest = hashlib.sha256()
        for chunk in chunks:
            digest.update(chunk)
            self.count += len(chunk)
        self.sha256 = digest.hexdigest()


@contextlib.contextmanager
def read_ahead(stream: BinaryIO) -> Iterator[Iterator[bytes]]:
    """The chunks of ``stream``, read on a thread of its own; its errors are raised from the iterator."""
    ready: queue.Queue[bytes | BaseException | None] = queue.Queue(_QUEUED)
    stopping = threading.Event()

    def put(item: bytes | BaseException | None) -> bool:
        while not stopping.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.1)
                return True
        return False

    def run() -> None:
        try:
            while (chunk := stream.read(CHUNK)) and put(chunk):
                pass
            put(None)
        except BaseException as error:
            put(error)

    def take() -> Iterator[bytes]:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=run, name="layer", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        stopping.set()
        thread.join()
