"""Reading a wheel that nobody vouches for: every name checked, every byte compared with the zip's own sizes and CRCs.

:class:`WheelArchive` is a :class:`installer.sources.WheelSource`, so pypa/installer decides what goes where. What it refuses, and how: a
*shape* no wheel may have is a :class:`~imagebuild.errors.BuildError`, bytes that are not what the archive promises an
:class:`~imagebuild.errors.IntegrityError`. Both name the wheel and the entry. A RECORD that is wrong is counted, as pip and uv install
such wheels; whoever reads the content compares it (:mod:`imagebuild.wheel.record`). (Specifications: PEP 427 and packaging.python.org
"Binary distribution format"; PKWARE APPNOTE for the zip.)
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from installer.sources import WheelContentElement, WheelSource
from isal import igzip_lib, isal_zlib
from packaging.metadata import parse_email
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from imagebuild.errors import BuildError, IntegrityError
from imagebuild.wheel.record import Promise, read_wheel_record
from imagebuild.wheel.scripts import is_wrapper, parse_entry_points, version_entry_points
from imagebuild.wheel.zipentries import (
    BAD_WHEEL,
    LOCAL_HEADER,
    encode_name,
    find_blocked_folder,
    find_kind_fault,
    find_name_fault,
    find_overlap,
    open_zip,
)

CHUNK = 256 << 10
_REPLACED = frozenset({"INSTALLER", "REQUESTED", "RECORD"})  # the installer's own, whatever the wheel brings
_SMALL = 16 << 20  # no metadata file is larger


class Content:
    """The bytes of one entry, checked while they are read."""

    def __init__(self, archive: WheelArchive, info: zipfile.ZipInfo, promise: Promise) -> None:
        self.size = info.file_size
        self.label = f"{archive.filename}: {info.filename}"
        self.promise = promise  # RECORD's word on it
        self._archive = archive
        self._info = info

    def chunks(self) -> Iterator[bytes]:
        """The content in pieces of at most 256 KiB; IntegrityError at the end when a size or CRC is wrong."""

        crc = seen = 0
        for piece in self._archive.inflate(self._info, self.label):
            seen += len(piece)
            if seen > self.size:
                break
            crc = isal_zlib.crc32(piece, crc)
            yield piece
        if seen != self.size:
            raise IntegrityError(f"{self.label}: the zip declares {self.size} bytes and holds other content", BAD_WHEEL)
        if crc != self._info.CRC:
            raise IntegrityError(f"{self.label}: the zip's CRC does not match its content", BAD_WHEEL)

    def read(self, _limit: int = -1) -> bytes:
        """The whole content, checked; for small files."""
        return b"".join(self.chunks())


class WheelArchive(WheelSource):
    """An open wheel whose directory has passed all checks. Use it as a context manager."""

    def __init__(self, path: Path, *, python: str, filename: str = "") -> None:
        """``python`` is the full version of the interpreter it will be installed for; ``filename`` defaults to the path's."""
        self.path = path
        self.filename = filename or path.name
        try:
            name, version, _, tags = parse_wheel_filename(self.filename)
        except (InvalidWheelFilename, InvalidVersion) as error:
            raise BuildError(f"not a wheel: {self.filename}: {error}", "lock again") from None
        super().__init__(self.filename.split("-")[0], self.filename.split("-")[1])
        self.name = str(name)
        self.parsed_version = version
        self.tags = frozenset(str(tag) for tag in tags)
        self._zip, self._descriptor = open_zip(path, self.filename)
        try:
            self._files = self._check_entries()
            self._info_dir, self._data_dir = self._find_folders()
            self.record = read_wheel_record(self._read_text(f"{self._info_dir}/RECORD"), self._files, self._info_dir)
            self._check_metadata()
            self.root_is_purelib, self._wheel_text = self._read_wheel_text()
            self._console = self._read_entry_points(python)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> WheelArchive:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @property
    def dist_info_dir(self) -> str:
        """Name of the ``.dist-info`` folder."""
        return self._info_dir

    @property
    def data_dir(self) -> str:
        """Name of the ``.data`` folder (there need be none)."""
        return self._data_dir

    @property
    def dist_info_filenames(self) -> list[str]:
        """Files of the ``.dist-info`` folder."""
        start = self._info_dir + "/"
        return [name[len(start) :] for name in self._files if name.startswith(start)]

    @property
    def scripts(self) -> dict[str, str]:
        """The entry points' scripts: name -> ``module:attribute``."""
        return {name: target for pairs in self._console.values() for name, target in pairs.items()}

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of the zip, in its order."""
        return tuple(self._files)

    def open_content(self, name: str) -> tuple[Content, bool]:
        """One of :attr:`files`, and whether it is executable."""
        info = self._files[name]
        mode = info.external_attr >> 16
        content = Content(self, info, self.record.promises.get(name, Promise()))
        return content, bool(mode and stat.S_ISREG(mode) and mode & 0o111)

    def check_identity(self, package: str, version: str) -> None:
        """BuildError unless the wheel is ``package`` ``version`` by file name, folder name and METADATA alike."""
        try:
            wanted = Version(version)
        except InvalidVersion:
            raise BuildError(f"{self.filename}: the lock's version {version!r} is not a version", "lock again") from None
        folder_name, _, folder_version = self._info_dir.removesuffix(".dist-info").partition("-")
        claims = {
            "its file name": (self.name, str(self.parsed_version)),
            self._info_dir: (folder_name, folder_version),
            "METADATA": self._metadata,
        }
        for where, (found_name, found_version) in claims.items():
            try:
                same = canonicalize_name(found_name) == package and Version(found_version) == wanted
            except InvalidVersion:
                same = False
            if not same:
                raise BuildError(
                    f"{self.filename}: the lock says {package} {version}, {where} says {found_name} {found_version}", "lock again"
                )

    def check_tags(self, tags: frozenset[str]) -> None:
        """BuildError unless one of the wheel's tags is among those of the base's interpreter."""
        if not self.tags & tags:
            best = next(iter(sorted(self.tags)))
            raise BuildError(
                f"{self.filename} is a wheel for another platform: the base's interpreter does not take {best}",
                "lock again for this base, or choose another base",
            )

    def read_dist_info(self, filename: str) -> str:
        """A small text file of the ``.dist-info`` folder; WHEEL and entry_points.txt in the form that was checked."""
        if filename == "WHEEL":
            return self._wheel_text
        if filename == "entry_points.txt":
            lines = [f"[{section}]\n" + "".join(f"{n} = {v}\n" for n, v in sorted(p.items())) for section, p in self._console.items()]
            return "".join(lines)
        return self._read_text(f"{self._info_dir}/{filename}")

    def get_contents(self) -> Iterator[WheelContentElement]:
        """What :func:`installer.install` may place: all files but those the installer writes and shipped bytecode."""
        for name in self._files:
            if not self.is_left_out(name) and not self._is_bytecode(name):
                yield self._offer(name)

    def get_bytecode(self) -> Iterator[WheelContentElement]:
        """Files in ``__pycache__`` folders: pip installs them, pypa/installer skips them."""
        for name in self._files:
            if self._is_bytecode(name) and not self.is_left_out(name):
                yield self._offer(name)

    def validate_record(self) -> None:
        """Names were checked on opening; contents are while they are read."""

    def inflate(self, info: zipfile.ZipInfo, label: str) -> Iterator[bytes]:
        """The uncompressed bytes of one entry, unchecked, in pieces of at most 256 KiB. Reads by offset: safe in threads."""

        header = os.pread(self._descriptor, LOCAL_HEADER.size, info.header_offset)
        if len(header) < LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise IntegrityError(f"{label}: no local header where the zip's directory points", BAD_WHEEL)
        *_, name_length, extra_length = LOCAL_HEADER.unpack(header)
        start = info.header_offset + LOCAL_HEADER.size
        if os.pread(self._descriptor, name_length, start) != encode_name(info):
            raise IntegrityError(f"{label}: the zip's directory and its local header name different files", BAD_WHEEL)
        offset = start + name_length + extra_length
        left = info.compress_size
        if info.compress_type == zipfile.ZIP_STORED:
            while left and (piece := os.pread(self._descriptor, min(CHUNK, left), offset)):
                offset, left = offset + len(piece), left - len(piece)
                yield piece
            return
        inflater = isal_zlib.decompressobj(wbits=-15)
        pending = b""
        try:
            while not inflater.eof:
                if not pending:
                    pending = os.pread(self._descriptor, min(CHUNK, left), offset) if left else b""
                    offset, left = offset + len(pending), left - len(pending)
                    ended = not pending
                else:
                    ended = False
                piece = inflater.decompress(pending, CHUNK)
                pending = inflater.unconsumed_tail
                if piece:
                    yield piece
                elif ended:
                    raise IntegrityError(f"{label}: the compressed data ends early", BAD_WHEEL)
        except cast(type[Exception], igzip_lib.IsalError) as error:
            raise IntegrityError(f"{label}: damaged compressed data ({error})", BAD_WHEEL) from None
        if left or inflater.unused_data:
            raise IntegrityError(f"{label}: the compressed data is longer than its content", BAD_WHEEL)

    def _offer(self, name: str) -> WheelContentElement:
        content, executable = self.open_content(name)
        return (name, "", ""), cast(BinaryIO, content), executable

    def _is_bytecode(self, name: str) -> bool:
        return "__pycache__" in name.split("/")[:-1]

    def is_left_out(self, name: str) -> bool:
        """Whether an installer writes this file itself, or not at all."""
        folder, _, rest = name.partition("/")
        if folder == self._info_dir:
            return rest in _REPLACED
        if folder == self._data_dir and rest.startswith("scripts/"):
            return is_wrapper(name.rpartition("/")[2], self.scripts)
        return False

    def _refuse(self, entry: str, why: str) -> BuildError:
        return BuildError(f"{self.filename}: refused entry {entry[:200]!r}: {why}", BAD_WHEEL)

    def _check_entries(self) -> dict[str, zipfile.ZipInfo]:
        """The zip's files by name, in its order, after the checks on names, modes and places in the file."""
        if overlapping := find_overlap(self._zip.infolist()):
            raise self._refuse(overlapping, "it overlaps another entry")
        files: dict[str, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            if fault := find_name_fault(info) or find_kind_fault(info):
                raise self._refuse(info.orig_filename, fault)
            name = info.orig_filename
            if name.endswith("/"):
                continue
            if name in files and not self._is_same(files[name], info):
                raise self._refuse(name, "the path is in the wheel twice, with different content")
            files.setdefault(name, info)
        if folder := find_blocked_folder(files):
            raise self._refuse(folder, "it is both a file and a folder")
        return files

    def _is_same(self, one: zipfile.ZipInfo, other: zipfile.ZipInfo) -> bool:
        """Whether two entries of one path are the same file, byte for byte."""
        facts = [(item.CRC, item.file_size, bool(item.external_attr >> 16 & 0o111)) for item in (one, other)]
        if facts[0] != facts[1] or one.file_size > _SMALL:
            return False
        return Content(self, one, Promise()).read() == Content(self, other, Promise()).read()

    def _find_folders(self) -> tuple[str, str]:
        top = {name.split("/", 1)[0] for name in self._files}
        infos = sorted(name for name in top if name.endswith(".dist-info"))
        if len(infos) != 1:
            found = ", ".join(infos) or "none"
            raise BuildError(f"{self.filename}: a wheel has exactly one .dist-info folder, this one: {found}", BAD_WHEEL)
        datas = sorted(name for name in top if name.endswith(".data"))
        if len(datas) > 1:
            raise BuildError(f"{self.filename}: more than one .data folder: {', '.join(datas)}", BAD_WHEEL)
        for name in self._files:
            if name in (*infos, *datas) or (datas and name.startswith(f"{datas[0]}/") and name.count("/") == 1):
                raise self._refuse(name, "a file where wheels have a folder")
        return infos[0], datas[0] if datas else infos[0].removesuffix(".dist-info") + ".data"

    def _read_text(self, name: str) -> str:
        info = self._files.get(name)
        if info is None:
            raise BuildError(f"{self.filename}: {name} is missing", BAD_WHEEL)
        if info.file_size > _SMALL:
            raise self._refuse(name, "metadata of more than 16 MiB")
        try:
            return Content(self, info, Promise()).read().decode("utf-8")
        except UnicodeDecodeError:
            raise BuildError(f"{self.filename}: {name} is not UTF-8", BAD_WHEEL) from None

    def _check_metadata(self) -> None:
        raw, _ = parse_email(self._read_text(f"{self._info_dir}/METADATA"))
        self._metadata = raw.get("name", ""), raw.get("version", "")

    def _read_wheel_text(self) -> tuple[bool, str]:
        """Whether the root is purelib, and WHEEL in the spelling that pypa/installer takes."""
        fields: dict[str, str] = {}
        for line in self._read_text(f"{self._info_dir}/WHEEL").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
        version = fields.get("wheel-version", "")
        if version.split(".")[0] != "1":
            raise BuildError(f"{self.filename}: Wheel-Version {version or 'missing'}", "only wheels of version 1 are known")
        pure = fields.get("root-is-purelib", "").lower() == "true"
        return pure, f"Wheel-Version: 1.0\nRoot-Is-Purelib: {'true' if pure else 'false'}\n"

    def _read_entry_points(self, python: str) -> dict[str, dict[str, str]]:
        if f"{self._info_dir}/entry_points.txt" not in self._files:
            return {}
        found = parse_entry_points(self._read_text(f"{self._info_dir}/entry_points.txt"), self.filename)
        console, gui = found["console_scripts"], found["gui_scripts"]
        console = version_entry_points(console, python)
        # Where both sections have a name, pip writes the graphical one last.
        return {"console_scripts": {n: v for n, v in console.items() if n not in gui}, "gui_scripts": gui}
