"""Bytecode by the base's own interpreter, the same bytes on every machine and in every order of work.

One child per :class:`BytecodeCompiler`, started through the base's runtime. marshal writes a reference flag for every
object whose reference count is above one (bpo-34093), so what was compiled before can change a file's bytes. Therefore
the child forks, from one warmed-up state, a process per wheel; that process compiles the wheel's files in the order
given and ends. The files are unchecked-hash pycs (PEP 552): valid whatever the modification time of the source is.

Frames, both ways on pipes, integers big-endian: to the child ``W`` (a wheel begins), ``F`` path length, source length,
path, source, and ``E`` (the wheel ends); from it a greeting and, per file, a length and the pyc (length 0xFFFFFFFF: the
file does not compile).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import select
import struct
from collections.abc import Iterable, Iterator
from subprocess import Popen, TimeoutExpired
from types import TracebackType

from imagebuild.base.model import Interpreter, Runtime
from imagebuild.errors import BuildError

_DOES_NOT_COMPILE = 0xFFFFFFFF
_PIECE = 1 << 16
_PIPE = 1 << 20  # what Linux grants every user
_KEPT_STDERR = 8192
_READ_AGAIN = "remove the folder bases/ of the cache, so that the base is read again"

# Runs in the base's interpreter, 3.8 or newer, standard library only.
_CHILD = r"""
import gc, os, struct, sys, warnings
from importlib._bootstrap_external import _code_to_hash_pyc
from importlib.util import MAGIC_NUMBER, source_hash

def read_exactly(count):
    pieces = []
    while count:
        piece = os.read(0, min(count, 1 << 20))
        if not piece:
            os._exit(0)
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)

def write_all(data):
    view = memoryview(data)
    while view:
        view = view[os.write(1, view):]

def compile_file(path, source):
    try:
        code = compile(source, path, "exec", dont_inherit=True, optimize=0)
        return bytes(_code_to_hash_pyc(code, source_hash(source), False))
    except Exception:
        return None

def serve_wheel():
    while True:
        kind = read_exactly(1)
        if kind == b"E":
            return
        path_length, source_length = struct.unpack(">II", read_exactly(8))
        path = read_exactly(path_length).decode()
        data = compile_file(path, read_exactly(source_length))
        if data is None:
            write_all(struct.pack(">I", 0xFFFFFFFF))
        else:
            write_all(struct.pack(">I", len(data)) + data)

warnings.filterwarnings("ignore")
gc.disable()
compile_file("/warm/up.py", b"import os\nclass A:\n    x: int = 1\n    def f(self, *a):\n        return [i for i in a]\n")
gc.collect()
gc.freeze()
tag = (sys.implementation.cache_tag or "").encode()
write_all(MAGIC_NUMBER + bytes([len(tag)]) + tag)
while True:
    read_exactly(1)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            serve_wheel()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            os._exit(status)
    status = os.waitpid(child, 0)[1]
    if status:
        signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        os.write(2, b"the compiling process ended by signal %d\n" % signal if signal else b"")
        os._exit(1)
"""


def locate_bytecode(source: str, cache_tag: str) -> str:
    """Where the interpreter looks for the bytecode of ``source`` (PEP 3147)."""
    folder, slash, name = source.rpartition("/")
    return f"{folder}{slash}__pycache__/{name.removesuffix('.py') or 'py'}.{cache_tag}.pyc"


def locate_source(bytecode: str) -> str:
    """The source that a file in ``__pycache__`` belongs to."""
    folder, name = posixpath.split(bytecode)
    return posixpath.join(posixpath.dirname(folder), name.removesuffix(".pyc").rpartition(".")[0] + ".py")


class BytecodeCompiler:
    """Compiles sources for ``interpreter``. The child starts at the first use; not to be shared between threads."""

    def __init__(self, runtime: Runtime, interpreter: Interpreter, *, timeout: float = 300) -> None:
        """``timeout``: seconds that may pass without a byte from the child."""
        self._runtime = runtime
        self._interpreter = interpreter
        self._timeout = timeout
        self._child: Popen[bytes] | None = None
        self._poll = select.poll()
        self._received = bytearray()
        self._complaint = b""

    def __enter__(self) -> BytecodeCompiler:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def compile_wheel(self, sources: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes | None]]:
        """For each (final path, source) of one wheel, in order: the path and its pyc, or None when it does not compile.

        The generator must be run to its end (or closed, which ends the child). BuildError when the child dies, hangs or
        is not the interpreter it should be.
        """
        self._start()
        finished = False
        try:
            self._exchange(b"W", 0)
            for path, source in sources:
                name = path.encode()
                frame = b"F" + struct.pack(">II", len(name), len(source)) + name + source
                (length,) = struct.unpack(">I", self._exchange(frame, 4))
                yield path, None if length == _DOES_NOT_COMPILE else self._exchange(b"", length)
            self._exchange(b"E", 0)
            finished = True
        finally:
            if not finished:
                self.close()

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is None:
            return
        self._received.clear()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                # A dead child's pipe may still hold bytes that flushing would complain about.
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(timeout=0.5)
        except TimeoutExpired:
            child.kill()
            child.wait()

    def _start(self) -> None:
        if self._child is not None:
            return
        self._complaint = b""
        try:
            self._child = self._runtime.start(_CHILD)
        except OSError as error:
            raise BuildError(
                f"cannot start the base's interpreter for bytecode: {error}",
                _READ_AGAIN,
            ) from None
        self._poll = select.poll()
        for pipe in (self._child.stdin, self._child.stdout, self._child.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            # Most sources fit then: one switch between the processes a file. A user's share of pipe memory may be used up.
            with contextlib.suppress(OSError):
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)
        assert self._child.stdout is not None
        assert self._child.stderr is not None
        self._poll.register(self._child.stdout.fileno(), select.POLLIN)
        self._poll.register(self._child.stderr.fileno(), select.POLLIN)
        try:
            magic = self._exchange(b"", 4)
            tag = self._exchange(b"", self._exchange(b"", 1)[0]).decode()
        except BaseException:
            self.close()
            raise
        if magic.hex() != self._interpreter.magic or tag != self._interpreter.cache_tag:
            self.close()
            raise BuildError(
                f"the interpreter that runs writes {tag} bytecode ({magic.hex()}), the base's inventory says "
                f"{self._interpreter.cache_tag} ({self._interpreter.magic})",
                _READ_AGAIN,
            )

    def _exchange(self, outgoing: bytes, wanted: int) -> bytes:
        """Send ``outgoing`` and return the next ``wanted`` bytes, never blocking on one pipe while another is full."""
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        into, out, complaints = child.stdin.fileno(), child.stdout.fileno(), child.stderr.fileno()
        left = memoryview(outgoing)
        if left:
            self._poll.register(into, select.POLLOUT)
        while left or len(self._received) < wanted:
            events = dict(self._poll.poll(self._timeout * 1000))
            if not events:
                raise self._fail(f"gave no answer for {self._timeout:g} s")
            if complaints in events:
                text = os.read(complaints, _PIECE)
                self._complaint = (self._complaint + text)[-_KEPT_STDERR:]
                if not text:
                    self._poll.unregister(complaints)
            if out in events:
                piece = os.read(out, _PIECE if wanted < _PIECE else 1 << 20)
                if not piece:
                    raise self._fail("ended")
                self._received += piece
            if left and into in events:
                try:
                    left = left[os.write(into, left[: 1 << 20]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    raise self._fail("ended") from None
                if not left:
                    self._poll.unregister(into)
        result = bytes(self._received[:wanted])
        del self._received[:wanted]
        return result

    def _fail(self, what: str) -> BuildError:
        child = self._child
        if child is not None and child.stderr is not None:
            with contextlib.suppress(OSError):
                while text := os.read(child.stderr.fileno(), _PIECE):
                    self._complaint = (self._complaint + text)[-_KEPT_STDERR:]
        lines = self._complaint.decode("utf-8", "replace").strip().splitlines()
        self.close()
        return BuildError(
            f"the base's interpreter {what} while it compiled bytecode" + (f": {lines[-1][:300]}" if lines else ""),
            f"run it again; if it fails again, {_READ_AGAIN}",
        )


class CompilerPool:
    """As many compilers as are in use at once, each used again; to be shared between threads. All end with the block."""

    def __init__(self, runtime: Runtime | None, interpreter: Interpreter) -> None:
        """Without ``runtime``, a base that cannot run here, there are none."""
        self._runtime = runtime
        self._interpreter = interpreter
        self._idle: list[BytecodeCompiler] = []
        self._all: list[BytecodeCompiler] = []

    def __enter__(self) -> CompilerPool:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for compiler in self._all:
            compiler.close()

    @contextlib.contextmanager
    def use(self) -> Iterator[BytecodeCompiler | None]:
        """A compiler that nobody else has meanwhile."""
        if self._runtime is None:
            yield None
            return
        try:
            compiler = self._idle.pop()  # one step, whatever threads do
        except IndexError:
            compiler = BytecodeCompiler(self._runtime, self._interpreter)
            self._all.append(compiler)
        try:
            yield compiler
        finally:
            self._idle.append(compiler)
