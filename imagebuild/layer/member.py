"""A member: one wheel as the tar entries it becomes in the image, compressed on its own and kept by key.

pypa/installer decides which file of the wheel belongs to which scheme; what it would write to a disk is collected here,
sized, compiled, and streamed into one frame. Nothing but the wheel, the base's interpreter and folders, the codec and
the layer format decides a member's bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, BinaryIO, cast

import installer
import msgspec
from installer.destinations import WheelDestination
from installer.exceptions import InstallerError
from installer.records import InvalidRecordEntry, RecordEntry
from installer.utils import Scheme

from imagebuild.base.model import Interpreter, Tree
from imagebuild.errors import BuildError, IntegrityError
from imagebuild.files import exclusive, explain_os_error, replacing, sweep_temporaries
from imagebuild.jobs.slots import Slot
from imagebuild.layer.bytecode import BytecodeCompiler, locate_bytecode
from imagebuild.layer.memberstore import (
    MemberIndex,
    MemberRequest,
    MemberRules,
    compute_key,
    hash_wheel,
    load_member,
    locate_note,
    name_blob,
    save_index,
    write_note,
)
from imagebuild.layer.model import LAYER_MTIME, Codec, FileFact, Member
from imagebuild.layer.placement import FolderResolver, Placement
from imagebuild.layer.tar.entries import EntryWriter
from imagebuild.layer.tar.header import count_entry
from imagebuild.permissions import FILE_MODE, PROGRAM_MODE, choose_mode
from imagebuild.wheel.archive import Content, WheelArchive
from imagebuild.wheel.record import Promise, render_record
from imagebuild.wheel.scripts import render_script, rewrite_script, script_form
from imagebuild.wheel.slim import TESTS_BYTECODE, choose_dropped, is_tests_bytecode

if TYPE_CHECKING:
    from installer.scripts import ScriptSection  # exists for type checkers only

_SPOOL = 8 << 20  # bytes of bytecode kept in memory per wheel; more goes to a temporary file
_SOURCES = 16 << 20  # bytes of sources kept in memory per wheel, between compiling and writing; more is inflated again
_LIBRARY = re.compile(r".*\.so(\.\d+)*")
UseCompiler = Callable[[], AbstractContextManager[BytecodeCompiler | None]]  # None: the base cannot run here
_METADATA = {"INSTALLER": b"pip\n", "REQUESTED": b""}  # REQUESTED: every wheel of a lock is named explicitly


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


class Collector(WheelDestination):
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
        data = render_script(self._interpreter.path, module, attr, script_form(self._interpreter.version))
        return self._add(f"{section} script {name}", "scripts", name, len(data), PROGRAM_MODE, lambda: [data])

    def write_file(self, scheme: Scheme, path: str | os.PathLike[str], stream: BinaryIO, is_executable: bool) -> RecordEntry:
        """A file of the wheel (a :class:`Content`), or metadata that this installer adds."""
        name = os.fspath(path)
        mode = choose_mode(is_executable)
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
    rules = MemberRules(interpreter, FolderResolver(tree), codec, cache, home, mtime, compiler is not None)
    made = make_member(request, rules, lambda: contextlib.nullcontext(compiler))
    assert made is not None  # it was waited for
    return made[0]


def make_member(
    request: MemberRequest, rules: MemberRules, compiling: UseCompiler, slot: Slot = contextlib.nullcontext, *, wait: bool = True
) -> tuple[Member, bool] | None:
    """The member, and whether it was built now, holding a ``slot``; None where another is building it and ``wait`` is false."""
    label = request.filename or request.wheel.name
    sha256 = request.sha256 or hash_wheel(request.wheel)
    with WheelArchive(request.wheel, python=rules.interpreter.version, filename=label) as archive:
        collector = collect_wheel(archive, request, rules, label)
        rows = ((entry.row, entry.path) for entry in collector.entries.values())
        key = compute_key(request, sha256, rules, rows)
        note = locate_note(request, rules)
        store = rules.cache / "members" / key
        try:
            member = load_member(store, request, rules.codec)
            if member is not None:
                write_note(note, key)
                return member, False
            with exclusive(store / "lock", wait=wait) as mine:
                if not mine:
                    return None
                # Another process may have built it while this one waited.
                member = load_member(store, request, rules.codec)
                if member is not None:
                    return member, False
                sweep_temporaries(store)
                if request.sha256 and hash_wheel(request.wheel) != request.sha256:
                    raise IntegrityError(
                        f"{label} is not the file that was locked: its sha256 differs", f"remove {request.wheel}; it is fetched again"
                    )
                with slot(), compiling() as compiler:
                    _write(store, request, rules, collector, compiler)
                write_note(note, key)
            member = load_member(store, request, rules.codec)
        except OSError as error:
            raise explain_os_error(error, f"preparing {label}") from error
    if member is None:
        raise IntegrityError(f"the member of {label} was changed while it was written", "run again")
    return member, True


def collect_wheel(archive: WheelArchive, request: MemberRequest, rules: MemberRules, label: str) -> Collector:
    """What the wheel would install, checked to be the package that is locked, without what ``slim`` leaves out."""
    archive.check_identity(request.package, request.version)
    archive.check_tags(frozenset(rules.interpreter.tags))
    placement = Placement(rules.interpreter, rules.folders, package=request.package, home=rules.home, purelib=archive.root_is_purelib)
    collector = Collector(archive, placement, rules.interpreter)
    try:
        installer.install(archive, collector, _METADATA)
    except (InstallerError, InvalidRecordEntry, KeyError, ValueError) as error:
        # Other arguments hold the wheel itself.
        said = next((text for text in reversed(error.args) if isinstance(text, str)), type(error).__name__)
        raise BuildError(f"{label}: {said}", "the wheel is malformed; pin another version") from None
    if request.slim:
        _drop_slim(collector.entries, request.slim)
    return collector


def _drop_slim(entries: dict[str, _Entry], kinds: Sequence[str]) -> None:
    paths = {entry.row: path for path, entry in entries.items()}
    for row in choose_dropped(paths, kinds, lambda row: b"".join(entries[paths[row]].open())):
        del entries[paths[row]]


def _write(store: Path, request: MemberRequest, rules: MemberRules, collector: Collector, compiler: BytecodeCompiler | None) -> None:
    """The member's frame and index. The wheel's own files are all read, so that each is checked and has a hash for RECORD."""
    entries = collector.entries
    with tempfile.SpooledTemporaryFile(max_size=_SPOOL, dir=str(store)) as spool:
        compiled = _compile(entries, rules.interpreter, compiler, spool, request.slim) if compiler is not None else {}
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
        with replacing(store / name_blob(rules.codec)) as output:
            writer = EntryWriter(output.write, rules.codec, total)
            for entry in (*entries.values(), *compiled.values()):
                if entry.path in left_out:
                    _read_entry(entry)
                    continue
                facts.append(_write_entry(writer, entry, rules.mtime))
            rows += [(entry.row, entry.sha256, entry.size) for entry in listed]
            record = render_record([*rows, (collector.record_row, "", None)])
            last = _Entry(collector.record_path, collector.record_row, len(record), FILE_MODE, "metadata", lambda: [record])
            facts.append(_write_entry(writer, last, rules.mtime))
            writer.finish()
        repaired = _count_faults(collector)
        files = tuple(sorted(facts, key=lambda fact: fact.path))
        save_index(store, MemberIndex(writer.sha256, writer.compressed, total, files, "", repaired))


def _count_faults(collector: Collector) -> int:
    """Rows of the wheel's RECORD that are wrong, once every file was read."""
    differing = set()
    for entry in collector.read:
        promise = entry.promise
        if promise is None or not entry.sha256:  # made here, or left out and never read
            continue
        if not promise.fits(entry.sha256, entry.size):
            differing.add(entry.row)
    return len(differing | collector.faults)


def _read_entry(entry: _Entry) -> None:
    """Read what is left out; its hash is known afterwards."""
    digest = hashlib.sha256()
    for chunk in entry.open():
        digest.update(chunk)
    entry.sha256 = digest.hexdigest()


def _write_entry(writer: EntryWriter, entry: _Entry, mtime: int) -> FileFact:
    entry.sha256 = writer.add_file(entry.path, size=entry.size, mode=entry.mode, mtime=mtime, pieces=entry.open())
    return FileFact(entry.path, entry.size, entry.mode, entry.sha256, entry.kind)


def _compile(
    entries: dict[str, _Entry], interpreter: Interpreter, compiler: BytecodeCompiler, spool: IO[bytes], slim: Sequence[str]
) -> dict[str, _Entry]:
    """Bytecode of every ``.py`` by its final path, in sorted order; files that do not compile have none, nor those ``slim`` names."""
    chosen = [path for path, entry in sorted(entries.items()) if path.endswith(".py")]
    if TESTS_BYTECODE in slim:
        chosen = [path for path in chosen if not is_tests_bytecode(locate_bytecode(entries[path].row, interpreter.cache_tag))]
    sources = _read_sources(entries, chosen)
    compiled: dict[str, _Entry] = {}
    offset = 0
    for path, data in compiler.compile_wheel(sources):
        if data is None:
            continue
        spool.write(data)
        final = locate_bytecode(path, interpreter.cache_tag)
        row = locate_bytecode(entries[path].row, interpreter.cache_tag)
        compiled[final] = _Entry(final, row, len(data), FILE_MODE, "bytecode", _open_slice(spool, offset, len(data)))
        offset += len(data)
    return compiled


def _read_sources(entries: Mapping[str, _Entry], paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    kept = 0
    for path in paths:
        data = b"".join(entries[path].open())
        kept += len(data)
        if kept <= _SOURCES:
            entries[path].open = partial(list, [data])
        yield path, data


def _open_slice(spool: IO[bytes], offset: int, size: int) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        spool.seek(offset)
        left = size
        while left and (piece := spool.read(min(left, 1 << 20))):
            left -= len(piece)
            yield piece

    return read
