"""A member: one wheel as the tar entries it becomes in the image, compressed on its own and kept by key.

pypa/installer decides which file of the wheel belongs to which scheme; what it would write to a disk is collected here,
sized, compiled, and streamed into one frame. Nothing but the wheel, the base's interpreter and folders, the codec and
the layer format decides a member's bytes.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import installer
import msgspec
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, RecordEntry
from installer.utils import Scheme

from imagebuild import __version__
from imagebuild.base.model import Interpreter, Runtime, Tree
from imagebuild.decoding import make_decoder
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.files import exclusive, explain_os_error, replacing, sweep_temporaries, write_atomic
from imagebuild.layer.bytecode import BytecodeCompiler, locate_bytecode
from imagebuild.layer.model import LAYER_FORMAT, LAYER_MTIME, Codec, FileFact, Member
from imagebuild.layer.placement import FolderResolver, Placement
from imagebuild.layer.tar.frame import FrameWriter, check_codec, describe_compressor
from imagebuild.layer.tar.header import count_entry, count_padding, encode_header
from imagebuild.wheel.archive import Content, WheelArchive
from imagebuild.wheel.record import Promise, describe_faults, render_record
from imagebuild.wheel.scripts import render_script, rewrite_script
from imagebuild.wheel.slim import RULES, choose_dropped

if TYPE_CHECKING:
    from installer.scripts import ScriptSection  # exists for type checkers only

_SPOOL = 8 << 20  # bytes of bytecode kept in memory per wheel; more goes to a temporary file
_KEY = re.compile(r"[0-9a-f]{64}")
_LIBRARY = re.compile(r".*\.so(\.\d+)*")
_METADATA = {"INSTALLER": b"pip\n", "REQUESTED": b""}  # REQUESTED: every wheel of a lock is named explicitly


class MemberRequest(msgspec.Struct, frozen=True):
    """One wheel to be made a member of. ``sha256`` and ``filename`` are the lock's; empty: taken from the file."""

    wheel: Path
    package: str
    version: str
    sha256: str = ""
    filename: str = ""
    exclude: frozenset[str] = frozenset()  # final paths that RECORD lists and somebody else provides
    slim: tuple[str, ...] = ()  # kinds of files that are left out, of RECORD too (imagebuild.wheel.slim)
    yields: frozenset[str] = frozenset()  # final paths that are another's file: neither in the image nor in RECORD
    strict: bool = False  # a wheel whose RECORD is wrong is refused


class _Index(msgspec.Struct, frozen=True, omit_defaults=True):
    """``index.json`` of a cached member. ``check`` is the SHA-256 of the index without it: files rot too."""

    sha256: str
    compressed: int
    uncompressed: int
    files: tuple[FileFact, ...]
    check: str
    repaired: int = 0  # rows of the wheel's RECORD that were wrong

    def compute_check(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, check=""))).hexdigest()


_INDEX = make_decoder(_Index)


class _Entry(msgspec.Struct):
    """One file on its way into the member. ``open`` may be called again and again; ``sha256`` is known when it was read once."""

    path: str
    row: str
    size: int
    mode: int
    kind: str
    open: Callable[[], Iterable[bytes]]
    sha256: str = ""
    promise: Promise | None = None  # the wheel's RECORD on it, where its bytes go into the image as they are


class _Collector(WheelDestination):
    """Takes what pypa/installer would install as entries at their final paths."""

    def __init__(self, archive: WheelArchive, placement: Placement, interpreter: Interpreter) -> None:
        self.entries: dict[str, _Entry] = {}
        self.record_path = ""
        self.record_row = ""
        self.read: list[_Entry] = []  # all that came from the wheel, whatever becomes of it
        self.faults = set(archive.record.faults)  # rows that are wrong by themselves
        self._archive = archive
        self._placement = placement
        self._interpreter = interpreter

    def write_script(self, name: str, module: str, attr: str, section: ScriptSection) -> RecordEntry:
        """An entry point's script; console and graphical ones are the same here."""
        data = render_script(self._interpreter.path, module, attr)
        return self._add(f"{section} script {name}", "scripts", name, len(data), 0o755, lambda: [data])

    def write_file(self, scheme: Scheme, path: str | os.PathLike[str], stream: BinaryIO, is_executable: bool) -> RecordEntry:
        """A file of the wheel (a :class:`Content`), or metadata that this installer adds."""
        name = os.fspath(path)
        mode = 0o755 if is_executable else 0o644
        if not isinstance(stream, Content):
            data = stream.read()
            return self._add(name, scheme, name, len(data), mode, lambda: [data])
        content = cast(Content, stream)
        if scheme != "scripts":
            return self._add(name, scheme, name, content.size, mode, content.chunks, content.promise)
        size = content.size + self._measure_rewriting(content)
        return self._add(name, scheme, name, size, mode, lambda: rewrite_script(content.chunks(), self._interpreter.path, content.label))

    def finalize_installation(self, scheme: Scheme, record_file_path: str, records: Iterable[tuple[Scheme, RecordEntry]]) -> None:  # noqa: ARG002
        """Shipped bytecode, which pip installs, and the place of RECORD; its content is rendered when all hashes are known."""
        for (name, _, _), stream, executable in self._archive.get_bytecode():
            first = name.split("/")[0]
            if first == self._archive.data_dir:
                _, part, rest = name.split("/", 2)
                self.write_file(Scheme(part), rest, stream, executable)
            else:
                self.write_file(scheme, name, stream, executable)
        self.record_path, self.record_row = self._placement.place(scheme, record_file_path, f"{self._archive.filename}: RECORD")

    def _measure_rewriting(self, content: Content) -> int:
        """By how many bytes the script grows when its first line is rewritten."""
        original = content.chunks()
        line = b""
        while b"\n" not in line and len(line) <= 64 << 10 and (chunk := next(original, b"")):
            line += chunk
            if not line.startswith(b"#!python"[: len(line)]):
                return 0
        if not line.startswith(b"#!python"):
            return 0
        old = len(line.partition(b"\n")[0]) + (b"\n" in line)
        return len(b"#!" + self._interpreter.path.encode() + b"\n") - old

    def _add(
        self,
        name: str,
        scheme: str,
        path: str,
        size: int,
        mode: int,
        opener: Callable[[], Iterable[bytes]],
        promise: Promise | None = None,
    ) -> RecordEntry:
        label = f"{self._archive.filename}: {name}"
        final, row = self._placement.place(scheme, path, label)
        if final in self.entries:
            raise BuildError(f"{label}: two files of the wheel land at {final}", "the wheel is malformed; pin another version")
        kind = _classify(scheme, row, self._archive.dist_info_dir)
        entry = self.entries[final] = _Entry(final, row, size, mode, kind, opener, promise=promise)
        self.read.append(entry)
        return RecordEntry(row, None, None)


def _classify(scheme: str, row: str, info_dir: str) -> str:
    if row.startswith(info_dir + "/"):
        return "metadata"
    if row.endswith(".pyc"):
        return "bytecode"
    if scheme == "scripts":
        return "script"
    if row.endswith(".py"):
        return "code"
    return "library" if _LIBRARY.fullmatch(posixpath.basename(row)) else "data"


def build_member(
    wheel: Path,
    *,
    package: str,
    version: str,
    interpreter: Interpreter,
    tree: Tree,
    codec: Codec,
    compiler: BytecodeCompiler | None,
    cache: Path,
    home: str,
    exclude: frozenset[str] = frozenset(),
    mtime: int = LAYER_MTIME,
    sha256: str = "",
    filename: str = "",
) -> Member:
    """The member of one wheel, from the cache or built. BuildError or IntegrityError name the wheel and the entry.

    ``sha256`` is what the lock promises of the file; it is checked whenever the file's content is used. ``exclude``:
    final paths to leave out (RECORD lists them all the same, for somebody else provides them).
    """
    request = MemberRequest(wheel, package, version, sha256, filename, exclude)
    folders = FolderResolver(tree)
    return _build(request, interpreter, folders, codec, compiler, cache, home, mtime)[0]


def build_members(
    requests: Sequence[MemberRequest],
    *,
    interpreter: Interpreter,
    folders: FolderResolver,
    codec: Codec,
    runtime: Runtime | None,
    cache: Path,
    home: str,
    mtime: int = LAYER_MTIME,
    base: str = "",
    workers: int = 2,
    report: Callable[[str], object] = str,
) -> list[Member]:
    """Members in the order of ``requests``; largest wheels first on ``workers`` threads, each with its own interpreter.

    ``base``: a digest that stands for all that ``folders`` says; with it a wheel that was seen before is not opened again.
    """
    check_codec(codec)
    state = threading.local()
    compilers: list[BytecodeCompiler] = []

    def work(request: MemberRequest) -> tuple[Member, bool]:
        compiler: BytecodeCompiler | None = getattr(state, "compiler", None)
        if compiler is None and runtime is not None:
            compiler = state.compiler = BytecodeCompiler(runtime, interpreter)
            compilers.append(compiler)
        return _build(request, interpreter, folders, codec, compiler, cache, home, mtime, base)

    def weigh(request: MemberRequest) -> int:
        return request.wheel.stat().st_size if request.wheel.exists() else 0

    try:
        with ThreadPoolExecutor(max(1, workers), thread_name_prefix="member") as pool:
            futures = {request: pool.submit(work, request) for request in sorted(requests, key=weigh, reverse=True)}
            try:
                _, unfinished = wait(futures.values(), return_when=FIRST_EXCEPTION)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
            for future in unfinished:
                future.cancel()
    finally:
        for compiler in compilers:
            compiler.close()
    for request in requests:
        if not futures[request].cancelled() and (error := futures[request].exception()) is not None:
            raise error
    results = [futures[request].result() for request in requests]
    built = sum(fresh for _, fresh in results)
    if built:
        report(f"{built} of {len(results)} packages prepared, {len(results) - built} from the cache")
    for member, fresh in results:
        if member.repaired and fresh:
            report(f"note: {member.package} {member.version}: {describe_faults(member.repaired)}; the image's is made of the true bytes")
    return [member for member, _ in results]


def is_intact(member: Member) -> bool:
    """Whether the cached bytes are those of the index."""
    return member.blob.is_file() and hash_file(member.blob) == member.sha256


def drop_member(member: Member) -> None:
    """Forget a cached member whose bytes turned out to be damaged."""
    member.blob.with_name("index.json").unlink(missing_ok=True)


def _build(
    request: MemberRequest,
    interpreter: Interpreter,
    folders: FolderResolver,
    codec: Codec,
    compiler: BytecodeCompiler | None,
    cache: Path,
    home: str,
    mtime: int,
    base: str = "",
) -> tuple[Member, bool]:
    """The member, and whether it was built now."""
    label = request.filename or request.wheel.name
    note = _locate_note(request, interpreter, codec, compiler is not None, home, mtime, base, cache)
    if (known := _read_note(note)) and (member := _load(cache / "members" / known, request, codec)) is not None:
        return member, False
    sha256 = request.sha256 or hash_file(request.wheel)
    with WheelArchive(request.wheel, python=interpreter.version, filename=label) as archive:
        archive.check_identity(request.package, request.version)
        archive.check_tags(frozenset(interpreter.tags))
        placement = Placement(interpreter, folders, package=request.package, home=home, purelib=archive.root_is_purelib)
        collector = _Collector(archive, placement, interpreter)
        try:
            installer.install(archive, collector, _METADATA)
        except (InstallerError, InvalidRecordEntry, KeyError, ValueError) as error:
            said = next(
                (text for text in reversed(error.args) if isinstance(text, str)), type(error).__name__
            )  # others hold the wheel itself
            raise BuildError(f"{label}: {said}", "the wheel is malformed; pin another version") from None
        if request.slim:
            _drop_slim(collector.entries, request.slim)
        key = _compute_key(request, sha256, interpreter, collector, codec, compiler is not None, mtime)
        store = cache / "members" / key
        try:
            member = _load(store, request, codec)
            if member is not None:
                _write_note(note, key)
                return member, False
            with exclusive(store / "lock"):
                # Another process may have built it while this one waited.
                member = _load(store, request, codec)
                if member is not None:
                    return member, False
                sweep_temporaries(store)
                if request.sha256 and hash_file(request.wheel) != request.sha256:
                    raise IntegrityError(
                        f"{label} is not the file that was locked: its sha256 differs", f"remove {request.wheel}; it is fetched again"
                    )
                _write(store, request, interpreter, collector, codec, compiler, mtime)
                _write_note(note, key)
            member = _load(store, request, codec)
        except OSError as error:
            raise explain_os_error(error, f"preparing {label}") from error
    if member is None:
        raise IntegrityError(f"the member of {label} was changed while it was written", "run again")
    return member, True


def _drop_slim(entries: dict[str, _Entry], kinds: Sequence[str]) -> None:
    paths = {entry.row: path for path, entry in entries.items()}
    for row in choose_dropped(paths, kinds, lambda row: b"".join(entries[paths[row]].open())):
        del entries[paths[row]]


def hash_file(path: Path) -> str:
    """SHA-256 of a file in hex; BuildError when there is none."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise BuildError(f"there is no such wheel: {path}", "fetch the lock's wheels first") from None


def _compute_key(
    request: MemberRequest, sha256: str, interpreter: Interpreter, collector: _Collector, codec: Codec, bytecode: bool, mtime: int
) -> str:
    """Of everything that decides the member's bytes; the final paths stand for the base's folders and links."""
    places = hashlib.sha256()
    for entry in collector.entries.values():
        places.update(f"{entry.row}\0{entry.path}\n".encode())
    content = {
        "format": LAYER_FORMAT,
        "wheel": sha256,
        "package": request.package,
        "python": [interpreter.implementation, interpreter.version, interpreter.cache_tag, interpreter.magic],
        "path": interpreter.path,
        "paths": interpreter.paths,
        "places": places.hexdigest(),
        "codec": [codec.name, codec.level, describe_compressor(codec)],
        "bytecode": bytecode,
        "exclude": sorted(request.exclude),
        "mtime": mtime,
        **({"slim": [RULES, *request.slim]} if request.slim else {}),
        **({"yields": sorted(request.yields)} if request.yields else {}),
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


def _locate_note(
    request: MemberRequest, interpreter: Interpreter, codec: Codec, bytecode: bool, home: str, mtime: int, base: str, cache: Path
) -> Path | None:
    """Where the member's key is noted, by all that decides it and what is checked of the wheel; the wheel need not be opened."""
    if not base or not request.sha256:
        return None
    facts = [
        __version__, LAYER_FORMAT, request.sha256, request.filename, request.package, request.version, sorted(request.exclude),
        base, home, interpreter, bytecode, mtime, codec.name, codec.level, describe_compressor(codec),
        *([RULES, *request.slim] if request.slim else []), *(["yields", *sorted(request.yields)] if request.yields else []),
    ]  # fmt: skip
    return cache / "member-keys" / hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()


def _read_note(note: Path | None) -> str:
    """The key, or nothing where there is no whole one."""
    try:
        text = note.read_text(encoding="ascii") if note is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""
    return text if _KEY.fullmatch(text) else ""


def _write_note(note: Path | None, key: str) -> None:
    if note is not None:
        write_atomic(note, key.encode())


def _name_blob(codec: Codec) -> str:
    return "member.tar.zst" if codec.name == "zstd" else "member.tar.gz"


def _load(store: Path, request: MemberRequest, codec: Codec) -> Member | None:
    """The cached member if it is whole by its sizes; its bytes are checked when they are put into a layer."""
    blob = store / _name_blob(codec)
    try:
        index = _INDEX.decode((store / "index.json").read_bytes())
        if index.check != index.compute_check() or blob.stat().st_size != index.compressed:
            return None
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if request.strict and index.repaired:
        raise IntegrityError(
            f"{request.filename or request.wheel.name}: {describe_faults(index.repaired)}, and images/policy.toml has strict-record = true",
            "pin another version, or ask the package's maintainers",
        )
    return Member(request.package, request.version, blob, index.compressed, index.uncompressed, index.files, index.sha256, index.repaired)


def _write(
    store: Path,
    request: MemberRequest,
    interpreter: Interpreter,
    collector: _Collector,
    codec: Codec,
    compiler: BytecodeCompiler | None,
    mtime: int,
) -> None:
    entries = collector.entries
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL, dir=str(store)) as spool:
        compiled = _compile(entries, interpreter, compiler, spool) if compiler is not None else {}
        for path in compiled:
            entries.pop(path, None)  # as pip does, what was compiled here replaces what the wheel ships
        total = 0
        left_out = request.exclude | request.yields
        listed = [entry for entry in entries.values() if entry.path not in request.yields]
        rows: list[tuple[str, str, int | None]] = [(entry.row, "", None) for path, entry in compiled.items() if path not in request.yields]
        for entry in (*entries.values(), *compiled.values()):
            if entry.path not in left_out:
                total += count_entry(entry.path, entry.size)
        # Every digest has the same width, so RECORD's size is known before any is.
        dummy: list[tuple[str, str, int | None]] = [(entry.row, "0" * 64, entry.size) for entry in listed]
        size = len(render_record([*rows, *dummy, (collector.record_row, "", None)]))
        total += count_entry(collector.record_path, size)
        facts: list[FileFact] = []
        with replacing(store / _name_blob(codec)) as output:
            frame = FrameWriter(output.write, codec, total)
            for entry in (*entries.values(), *compiled.values()):
                if entry.path in left_out:
                    _read_entry(entry, lambda _: None)
                    continue
                facts.append(_write_entry(frame, entry, mtime))
            rows += [(entry.row, entry.sha256, entry.size) for entry in listed]
            record = render_record([*rows, (collector.record_row, "", None)])
            facts.append(
                _write_entry(
                    frame, _Entry(collector.record_path, collector.record_row, len(record), 0o644, "metadata", lambda: [record]), mtime
                )
            )
            frame.finish()
        repaired = _count_faults(collector)
        index = _Index(frame.sha256, frame.compressed, total, tuple(sorted(facts, key=lambda fact: fact.path)), "", repaired)
        write_atomic(store / "index.json", msgspec.json.encode(msgspec.structs.replace(index, check=index.compute_check())))


def _count_faults(collector: _Collector) -> int:
    """Rows of the wheel's RECORD that are wrong, once every file was read."""
    differing = set()
    for entry in collector.read:
        promise = entry.promise
        if promise is None or not entry.sha256:  # made here, or left out and never read
            continue
        if (promise.sha256 or entry.sha256) != entry.sha256 or (promise.size or str(entry.size)) != str(entry.size):
            differing.add(entry.row)
    return len(differing | collector.faults)


def _read_entry(entry: _Entry, sink: Callable[[bytes], None]) -> None:
    """Hand the content on; its hash is known afterwards."""
    digest = hashlib.sha256()
    for chunk in entry.open():
        digest.update(chunk)
        sink(chunk)
    entry.sha256 = digest.hexdigest()


def _write_entry(frame: FrameWriter, entry: _Entry, mtime: int) -> FileFact:
    frame.write(encode_header(entry.path, size=entry.size, mode=entry.mode, mtime=mtime))
    _read_entry(entry, frame.write)
    frame.write(bytes(count_padding(entry.size)))
    return FileFact(entry.path, entry.size, entry.mode, entry.sha256, entry.kind)


def _compile(entries: dict[str, _Entry], interpreter: Interpreter, compiler: BytecodeCompiler, spool: IO[bytes]) -> dict[str, _Entry]:
    """Bytecode of every ``.py`` by its final path, in sorted order; files that do not compile have none."""
    sources = ((path, b"".join(entries[path].open())) for path in sorted(entries) if path.endswith(".py"))
    compiled: dict[str, _Entry] = {}
    offset = 0
    for path, data in compiler.compile_wheel(sources):
        if data is None:
            continue
        spool.write(data)
        final = locate_bytecode(path, interpreter.cache_tag)
        row = locate_bytecode(entries[path].row, interpreter.cache_tag)
        compiled[final] = _Entry(final, row, len(data), 0o644, "bytecode", _open_slice(spool, offset, len(data)))
        offset += len(data)
    return compiled


def _open_slice(spool: IO[bytes], offset: int, size: int) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        spool.seek(offset)
        left = size
        while left and (piece := spool.read(min(left, 1 << 20))):
            left -= len(piece)
            yield piece

    return read
