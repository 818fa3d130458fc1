"""Members in a registry: what one machine of the company made, all may take (BuildKit's registry cache, for members).

One OCI artifact a member, under the first 32 hex digits of its key in one repository for all: two layers, the frame exactly as it
goes into an image's layer, and an index of its files. The key is of all that decides the bytes and can be said without the wheel;
where this base would put a file elsewhere, the member is refused like any other that is not what it says (:mod:`.membercheck`).

What was taken lies apart from what was made here (``shared-members/``), so that a build that is to trust nobody never meets it.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import posixpath
import threading
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec

from imagebuild import annotations as names
from imagebuild.decoding import make_decoder
from imagebuild.errors import ImagebuildError, IntegrityError, RemoteError
from imagebuild.files import CHUNK, exclusive, explain_os_error, replacing, write_atomic
from imagebuild.layer.chunked.contents import read_blob
from imagebuild.layer.membercheck import TEXT_LIMIT, check_facts, check_frame, check_places, check_wheel, find_own_record, refuse
from imagebuild.layer.memberstore import MemberIndex, MemberRequest, MemberRules, load_member, name_blob, save_index
from imagebuild.layer.model import LAYER_FORMAT, Codec, FileFact, Member
from imagebuild.layer.placement import normalise_path
from imagebuild.layer.tar.frame import describe_compressor
from imagebuild.layer.tar.header import count_entry
from imagebuild.layer.tar.reading import WatchedReader, is_decompression_error
from imagebuild.oci.compression import open_decompressed
from imagebuild.oci.encoding import EMPTY, EMPTY_BLOB, encode_manifest
from imagebuild.oci.model import Descriptor, Digest, Manifest, RawManifest
from imagebuild.oci.place import Place
from imagebuild.text import count_things, format_size
from imagebuild.wheel.scripts import script_form
from imagebuild.wheel.slim import RULES

ARTIFACT_TYPE = "application/vnd.imagebuild.member.v1"
INDEX_TYPE = "application/vnd.imagebuild.member.index.v1+json"
FRAME_TYPES = {"zstd": "application/vnd.imagebuild.member.frame.v1.tar+zstd", "gzip": "application/vnd.imagebuild.member.frame.v1.tar+gzip"}
DOCUMENTS = "documents.whl"  # beside a member: its METADATA and SBOMs, as a wheel has them
_PARALLEL = 8


class SharedIndex(msgspec.Struct, frozen=True):
    """The second layer of an artifact."""

    key: str  # of all that decides the member, in hex
    package: str
    version: str
    wheel: str  # SHA-256 in hex
    frame: str  # SHA-256 in hex
    compressed: int
    uncompressed: int
    files: tuple[FileFact, ...]
    repaired: int = 0


_SHARED_INDEX = make_decoder(SharedIndex)


def compute_shared_key(request: MemberRequest, rules: MemberRules) -> str:
    """Of all that decides the member's bytes, and what was checked of the wheel, but the links deep in a base's folders."""
    interpreter, codec = rules.interpreter, rules.codec
    content = {
        "member": 1,
        "format": LAYER_FORMAT,
        "wheel": request.sha256,
        "filename": request.filename,
        "package": request.package,
        "version": request.version,
        "python": [interpreter.implementation, interpreter.version, interpreter.cache_tag, interpreter.magic],
        "interpreter": [interpreter.path, interpreter.environment, interpreter.prefix],
        "tags": hashlib.sha256("\n".join(sorted(interpreter.tags)).encode()).hexdigest(),
        "paths": {scheme: [path, rules.folders.resolve(normalise_path(path))] for scheme, path in interpreter.paths.items()},
        "codec": [codec.name, codec.level, describe_compressor(codec)],
        "bytecode": rules.bytecode,
        "exclude": sorted(request.exclude),
        "yields": sorted(request.yields),
        "slim": [RULES, *request.slim] if request.slim else [],
        "mtime": rules.mtime,
        **({"scripts": form} if (form := script_form(interpreter.version)) else {}),
    }
    return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


class SharedMembers:
    """The places to take members from, in order, and the one to give them to. Nothing here fails a build: what cannot be taken is built."""

    def __init__(self, cache: Path, sources: Sequence[Place], target: Place | None, report: Callable[[str], object]) -> None:
        self.taken: dict[str, int] = {}  # key -> bytes that came from a registry in this run
        self.found = 0  # members that had come from one before
        self._folder = cache / "shared-members"
        self._sources, self._target, self._report = list(sources), target, report
        self._given: dict[str, tuple[MemberRequest, MemberRules, Member]] = {}
        self._guard = threading.Lock()

    def find(self, requests: Sequence[MemberRequest], rules: MemberRules) -> dict[MemberRequest, Member]:
        """Those of ``requests`` that a place has, verified; all are asked for side by side."""
        wanted = [request for request in requests if request.sha256]
        kept = {request: member for request in wanted if (member := self._load(request, rules)) is not None}
        self.found += len(kept)
        missing = [request for request in wanted if request not in kept]
        first, rest = missing[:1], missing[1:]
        found = {request: self._take(request, rules) for request in first}  # one login, one look whether anybody answers
        if rest and self._sources:
            with ThreadPoolExecutor(_PARALLEL, "shared") as pool:
                found.update(zip(rest, pool.map(lambda request: self._take(request, rules), rest), strict=True))
        return {**kept, **{request: member for request, member in found.items() if member is not None}}

    def add(self, request: MemberRequest, rules: MemberRules, member: Member) -> None:
        """Note a member that this build uses, to be given to the target when the image is done."""
        if self._target is not None and request.sha256:
            self._given[compute_shared_key(request, rules)] = (request, rules, member)

    def push(self) -> int:
        """Give the target what it lacks of what was noted; how many. What it does not take is a warning."""
        if self._target is None or not self._given:
            return 0
        place, (first, *rest) = self._target, self._given.items()
        try:
            given = [self._give(place, *first)]
            with ThreadPoolExecutor(_PARALLEL, "give") as pool:
                given += pool.map(lambda item: self._give(place, *item), rest)
        except ImagebuildError as error:
            self._report(f"warning: the image is done, but {place.name} did not take its members: {error.message}")
            return 0
        if sum(given):
            self._report(f"{sum(given)} of {len(given)} members put into {place.name}")
        return sum(given)

    def count(self) -> dict[str, int]:
        """For a result: members taken from a registry now and their bytes, and members that had been taken before."""
        return {"taken": len(self.taken), "taken_bytes": sum(self.taken.values()), "kept": self.found}

    def summarise(self) -> str:
        """A line about what came from elsewhere; empty for nothing."""
        if not self.taken:
            return ""
        return f"{count_things(len(self.taken), 'member')} taken from a registry, {format_size(sum(self.taken.values()))}"

    # --- taking ----------------------------------------------------------------------------------------------------

    def _load(self, request: MemberRequest, rules: MemberRules) -> Member | None:
        store = self._folder / compute_shared_key(request, rules)
        return load_member(store, request, rules.codec) if (store / DOCUMENTS).is_file() else None

    def _take(self, request: MemberRequest, rules: MemberRules) -> Member | None:
        for place in list(self._sources):
            try:
                if (member := self._take_from(place, request, rules)) is not None:
                    return member
            except RemoteError as error:
                with self._guard:
                    if place in self._sources:
                        self._sources.remove(place)
                        self._report(f"warning: {place.name} gives no members, and is not asked again: {error.message}")
            except IntegrityError as error:
                self._report(f"warning: the member of {request.package} {request.version} in {place.name} is refused: {error.message}")
        return None

    def _take_from(self, place: Place, request: MemberRequest, rules: MemberRules) -> Member | None:
        key = compute_shared_key(request, rules)
        raw = place.store.get_manifest(place.repository, key[:32])
        if raw is None:
            return None
        frame, listing = _read_layers(raw, rules.codec.compression)
        index = _read_index(place.store.read_blob(place.repository, listing), key, request, frame)
        check_facts(index.files)
        total = sum(count_entry(fact.path, fact.size) for fact in index.files)
        if total != index.uncompressed:
            raise refuse(f"its index says {index.uncompressed} bytes of tar, and lists {total}")
        store = self._folder / key
        try:
            with exclusive(store / "lock"):
                if (member := self._load(request, rules)) is not None:  # another process took it while this one waited
                    return member
                with replacing(store / name_blob(rules.codec)) as output:
                    with place.store.open_blob(place.repository, frame) as stream:
                        kept = _unpack(stream, output, index, rules)
                    if rules.codec.chunked:
                        _check_borders(output, rules.codec)
                    check_places(index.files, kept, request, rules)
                    if request.wheel.is_file():
                        check_wheel(index.files, request, rules)
                write_atomic(store / DOCUMENTS, _pack_documents(kept))
                save_index(store, MemberIndex(index.frame, index.compressed, index.uncompressed, _sort(index.files), "", index.repaired))
        except OSError as error:
            raise explain_os_error(error, f"keeping the member of {request.package}") from None
        with self._guard:
            self.taken[key] = frame.size + listing.size + len(raw.data)
        return load_member(store, request, rules.codec)

    # --- giving ----------------------------------------------------------------------------------------------------

    def _give(self, place: Place, key: str, item: tuple[MemberRequest, MemberRules, Member]) -> bool:
        """Whether the place lacked it."""
        request, rules, member = item
        if place.store.head_manifest(place.repository, key[:32]) is not None:
            return False
        manifest, frame, listing, data = encode_artifact(key, request, rules, member)
        place.store.put_blob(place.repository, EMPTY_BLOB, EMPTY)
        place.store.put_blob(place.repository, frame, member.blob)
        place.store.put_blob(place.repository, listing, data)
        place.store.put_manifest(place.repository, manifest, key[:32])
        return True


def encode_artifact(
    key: str, request: MemberRequest, rules: MemberRules, member: Member
) -> tuple[RawManifest, Descriptor, Descriptor, bytes]:
    """The artifact of a member: manifest, frame, index, and the index's bytes. Same member, same bytes."""
    index = SharedIndex(
        key,
        member.package,
        member.version,
        request.sha256,
        member.sha256,
        member.compressed,
        member.uncompressed,
        member.files,
        member.repaired,
    )
    data = msgspec.json.encode(index)
    frame = Descriptor(FRAME_TYPES[rules.codec.compression], Digest(f"sha256:{member.sha256}"), member.compressed)
    listing = Descriptor.of(INDEX_TYPE, data)
    about = {names.TITLE: f"{member.package} {member.version}"}
    return encode_manifest(EMPTY_BLOB, [frame, listing], artifact_type=ARTIFACT_TYPE, annotations=about), frame, listing, data


def _read_layers(raw: RawManifest, codec: str) -> tuple[Descriptor, Descriptor]:
    manifest = raw.parse()
    if not isinstance(manifest, Manifest) or manifest.artifact_type != ARTIFACT_TYPE or len(manifest.layers) != 2:
        raise refuse("there is something else under its tag")
    frame, listing = manifest.layers
    if frame.media_type != FRAME_TYPES[codec] or listing.media_type != INDEX_TYPE:
        raise refuse(f"its layers are {frame.media_type[:100]} and {listing.media_type[:100]}")
    return frame, listing


def _read_index(data: bytes, key: str, request: MemberRequest, frame: Descriptor) -> SharedIndex:
    try:
        index = _SHARED_INDEX.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise refuse("its index cannot be read") from None
    if (index.key, index.wheel) != (key, request.sha256) or (index.package, index.version) != (request.package, request.version):
        raise refuse("its index is of another member: another wheel, Python or way of making it")
    if (f"sha256:{index.frame}", index.compressed) != (frame.digest, frame.size):
        raise refuse("its index is of another frame")
    return index


def _unpack(stream: BinaryIO, output: IO[bytes], index: SharedIndex, rules: MemberRules) -> dict[str, bytes]:
    """Write the frame to ``output`` while its content is checked; its documents by path."""
    copying = io.BufferedReader(WatchedReader(stream, output.write), CHUNK)
    try:
        kept = check_frame(open_decompressed(cast(BinaryIO, copying), rules.codec.compression), index.files, rules.mtime, rules.interpreter)
        while copying.read(CHUNK):  # to the end, where the store compares the digest
            pass
    except ImagebuildError:
        raise
    except Exception as error:  # zstandard's and isal's have no common base
        if not isinstance(error, EOFError) and not is_decompression_error(error):
            raise
        raise refuse(f"its frame cannot be decompressed: {error}") from None
    return kept


def _check_borders(blob: BinaryIO, codec: Codec) -> None:
    """Refuse a member whose files are not each in frames of its own: no table of contents could name them."""
    try:
        contents, frames = read_blob(blob, codec)
        contents.place(frames)
    except IntegrityError as error:
        raise refuse(f"it cannot be a part of a zstd:chunked layer: {error.message}") from None


def _sort(files: Iterable[FileFact]) -> tuple[FileFact, ...]:
    return tuple(sorted(files, key=lambda fact: fact.path))


def _pack_documents(kept: Mapping[str, bytes]) -> bytes:
    """METADATA and SBOMs of the member's own ``.dist-info`` as a wheel, for what reads those of wheels."""
    info = posixpath.dirname(find_own_record(kept))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in sorted(kept.items()):
            if path.startswith(f"{info}/") and len(data) <= TEXT_LIMIT:
                with contextlib.suppress(ValueError):
                    archive.writestr(zipfile.ZipInfo(f"{posixpath.basename(info)}{path[len(info) :]}"), data)
    return packed.getvalue()
