"""A layer: prelude (every ancestor folder, with the base's metadata), members, tail; concatenated, each its own frame.

A team has one, or several whose files are disjoint. Each has every ancestor of its own files, always with the same metadata, so that it
does not matter which of them an unpacker or an overlay takes a folder from. The lowest deletes what of the base is replaced.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec

from imagebuild.base.model import Base, Entry, Tree
from imagebuild.errors import BuildError, ConfigurationError, IntegrityError
from imagebuild.files import explain_os_error, replacing
from imagebuild.jobs.slots import ONE, Jobs
from imagebuild.layer.archivemember import ArchiveRequest, ArchiveRules, make_archive_members
from imagebuild.layer.members import MemberSources, build_members
from imagebuild.layer.memberstore import MemberRequest, drop_member, is_intact
from imagebuild.layer.model import LAYER_MTIME, Codec, ExtraFile, Layer, LayerFile, Member, PackageBytes, TeamLayers, check_codec
from imagebuild.layer.placement import FolderResolver, forbidden_folders, is_within
from imagebuild.layer.records import LayerRecord, LayerRecords
from imagebuild.layer.removal import NOTHING, ReducedTree, Removal, find_whiteouts, name_whiteout
from imagebuild.layer.sharing import NO_FILES, find_exclusions, find_folder_owners
from imagebuild.layer.tar.entries import EntryWriter
from imagebuild.layer.tar.frame import MEDIA_TYPES, compress_frame
from imagebuild.layer.tar.header import END_OF_ARCHIVE, count_entry, encode_header
from imagebuild.layer.writing import read_stored, write_tar
from imagebuild.lock.file.model import LockedPackage
from imagebuild.permissions import FILE_MODE, FOLDER_MODE, PROGRAM_MODE, ROOT
from imagebuild.wheel.sizes import classify_path

NO_WHITEOUTS: Mapping[str, str] = {}


class Inspector(Protocol):
    """Sees every layer of an image, by number, lowest 0."""

    def read(self, number: int, chunks: Iterator[bytes]) -> None:
        """The tar of a layer, as it is decompressed again from the bytes that are stored; to be read to the end, on a thread of its own."""

    def skip(self, number: int, paths: Mapping[str, bool]) -> None:
        """A layer that was inspected before. Its paths, and whether each is a folder."""


class LayerRules(msgspec.Struct, frozen=True):
    """What travels with all members of a team's layers. ``folders``: the base's, without what is replaced."""

    base: Base
    folders: FolderResolver
    codec: Codec
    cache: Path
    mtime: int
    files: Mapping[str, str]  # path or pattern -> the package that owns it
    jobs: Jobs
    sources: MemberSources | None
    report: Callable[[str], object]


def build_layers(
    wheels: Sequence[tuple[Path, LockedPackage]],
    *,
    base: Base,
    codec: Codec,
    cache: Path,
    out: Path,
    groups: Sequence[Sequence[str]] = (),
    extra: Sequence[ExtraFile] = (),
    mtime: int = LAYER_MTIME,
    slim: tuple[str, ...] = (),
    files: Mapping[str, str] = NO_FILES,
    jobs: Jobs = ONE,
    sources: MemberSources | None = None,
    strict: bool = False,
    inspector: Inspector | None = None,
    records: LayerRecords | None = None,
    removal: Removal = NOTHING,
    addons: Sequence[ArchiveRequest] = (),
    report: Callable[[str], object] = str,
) -> TeamLayers:
    """The layers that install ``wheels`` and ``addons`` on ``base``, written to ``out`` and, if several, ``out.1`` and so on.

    ``groups``: the packages of each (:mod:`imagebuild.layer.splitting`); nothing means one layer for all. ``report`` takes lines of
    progress. ``inspector`` is called anew, from the lowest, when the layers are begun anew; not for layers of a single stream.
    ``records``: a layer that was made before, and that the target has, is not made again, and has no file. One that deletes is always made.

    Files that two wheels, or a wheel and the base, have in common byte for byte are in the layers once, or not at all; files that differ
    are a BuildError; but of the files in ``removal`` nothing is left: they are replaced, or deleted. ``slim`` leaves kinds of files out
    (imagebuild.wheel.slim). ``strict`` refuses a wheel whose RECORD is wrong. The bytes do not depend on ``jobs``, on the cache or on
    the order of ``wheels`` and ``addons``.
    """
    if base.inventory.interpreter is None:
        raise BuildError(f"base {base.name} has no Python, so no package can be installed", "choose a base with Python")
    if base.runtime is None:
        report(f"base {base.name} cannot run on this machine: the layer gets no bytecode, and kernels start slower")
    folders = FolderResolver(ReducedTree(base.tree, removal.owners) if removal.owners else base.tree)
    requests = [
        MemberRequest(path, package.name, package.version, package.sha256, package.filename, slim=slim, strict=strict)
        for path, package in sorted(wheels, key=lambda item: item[1].name)
    ]
    rules = LayerRules(base, folders, codec, cache, mtime, files, jobs, sources, report)
    assemble = partial(assemble_layer, tree=folders, codec=codec, mtime=mtime, home=base.inventory.user.home)
    finish = partial(_assemble_groups, groups=groups, extra=extra, out=out, inspector=inspector, records=records, assemble=assemble)
    members = _prepare_members(requests, addons, rules)
    try:
        with jobs.slot():
            return finish(members, whiteouts=_find_whiteouts(members, extra, removal, base))
    except ConfigurationError:
        raise  # no space, no permission: nothing to do with the members
    except Exception:  # the decompressor may meet the damage before the digest does, with an error of its own
        damaged = [member for member in members if not is_intact(member)]
        if not damaged:
            raise
        # A cache that rotted is no reason to give up while the wheels are there; a second time means a bad disk.
        for member in damaged:
            drop_member(member)
        report(f"damaged in the cache and prepared anew: {', '.join(member.package for member in damaged)}")
        members = _prepare_members(requests, addons, rules)
        return finish(members, whiteouts=_find_whiteouts(members, extra, removal, base))


class _Group(msgspec.Struct, frozen=True):
    """What goes into one layer."""

    members: tuple[Member, ...]  # by name
    extra: tuple[ExtraFile, ...]
    whiteouts: Mapping[str, str]  # path -> package

    def list_paths(self) -> dict[str, bool]:
        """All paths of the layer, and whether each is a folder."""
        files = {path: member.package for member in self.members for path in (fact.path for fact in member.files)}
        files.update((item.path, "") for item in self.extra)
        return {**dict.fromkeys(find_folder_owners(files.items()), True), **dict.fromkeys(files, False)}


def _divide(
    members: Sequence[Member], groups: Sequence[Sequence[str]], extra: Sequence[ExtraFile], whiteouts: Mapping[str, str]
) -> list[_Group]:
    """The lowest layer has the deletions, the topmost the extra files, and members that no group names."""
    homes = {name: number for number, group in enumerate(groups) for name in group}
    top = max(len(groups) - 1, 0)
    ordered = sorted(members, key=lambda member: member.package)
    return [
        _Group(
            tuple(member for member in ordered if homes.get(member.package, top) == number),
            tuple(extra) if number == top else (),
            whiteouts if number == 0 else NO_WHITEOUTS,
        )
        for number in range(top + 1)
    ]


def _assemble_groups(
    members: Sequence[Member],
    *,
    groups: Sequence[Sequence[str]],
    extra: Sequence[ExtraFile],
    whiteouts: Mapping[str, str],
    out: Path,
    inspector: Inspector | None,
    records: LayerRecords | None,
    assemble: Callable[..., Layer],
) -> TeamLayers:
    """A layer for each group, or the record of one that the target has."""
    parts = _divide(members, groups, extra, whiteouts)
    replaceable = [item.path for item in extra]
    keys = ["" if records is None or part.whiteouts else records.compute_key(part.members, part.extra, replaceable) for part in parts]
    known = records.find(keys) if records is not None else {}
    layers = []
    for number, part in enumerate(parts):
        if records is not None and (record := known.get(keys[number])) is not None:
            if inspector is not None:
                inspector.skip(number, part.list_paths())
            layers.append(_describe_layer(part.members, part.extra, record, records.codec, None))
            continue
        layer = assemble(
            part.members,
            extra=part.extra,
            whiteouts=part.whiteouts,
            out=out.with_name(f"{out.name}.{number}") if number else out,
            inspect=partial(inspector.read, number) if inspector is not None else None,
        )
        layers.append(layer)
        if records is not None:
            records.note(keys[number], layer)
    return TeamLayers(tuple(layers))


def _prepare_members(requests: Sequence[MemberRequest], addons: Sequence[ArchiveRequest], rules: LayerRules) -> list[Member]:
    """The members; those of wheels each without the files that an earlier one, its base or their owner has."""
    archives = ArchiveRules(rules.folders, rules.codec, rules.cache, rules.base.inventory.user.home, rules.mtime)
    return [*_prepare_wheels(requests, rules), *make_archive_members(addons, archives, rules.jobs.slot)]


def _prepare_wheels(requests: Sequence[MemberRequest], rules: LayerRules) -> list[Member]:
    members = _make_members(requests, rules)
    left = find_exclusions(members, rules.folders, interpreter=rules.base.interpreter, files=rules.files)
    again = [
        msgspec.structs.replace(
            item, exclude=left.shared.get(item.package, frozenset()), yields=left.yielded.get(item.package, frozenset())
        )
        for item in requests
        if item.package in left.shared or item.package in left.yielded
    ]
    remade = {member.package: member for member in _make_members(again, rules)} if again else {}
    return [remade.get(member.package, member) for member in members]


def _make_members(requests: Sequence[MemberRequest], rules: LayerRules) -> list[Member]:
    base = rules.base
    return build_members(
        requests,
        interpreter=base.interpreter,
        folders=rules.folders,
        codec=rules.codec,
        runtime=base.runtime,
        cache=rules.cache,
        home=base.inventory.user.home,
        mtime=rules.mtime,
        base=str(base.inventory.digest),
        jobs=rules.jobs,
        sources=rules.sources,
        report=rules.report,
    )


def _find_whiteouts(members: Sequence[Member], extra: Sequence[ExtraFile], removal: Removal, base: Base) -> Mapping[str, str]:
    brought = [fact.path for member in members for fact in member.files] + [item.path for item in extra]
    return find_whiteouts(removal, brought, base.tree)


def encode_prelude(
    paths: Iterable[tuple[str, str]], tree: Tree | FolderResolver, mtime: int, whiteouts: Mapping[str, str] = NO_WHITEOUTS
) -> bytes:
    """Folder entries, sorted: every ancestor of the (path, package) pairs once, with the base's metadata or as root's 0755.

    Then the deletions of ``whiteouts`` (path -> package): before anything that could be taken for what they delete.
    """
    headers = []
    for folder, package in sorted(find_folder_owners((*paths, *whiteouts.items())).items()):
        entry: Entry | None = tree.get(folder)
        if entry is not None and entry.type != "dir":
            kind = "a symbolic link" if entry.type == "symlink" else "a file"
            raise BuildError(
                f"{package} needs a folder at {folder}, which is {kind} in the base", "choose another base, or leave the package out"
            )
        mode, uid, gid = (entry.mode, entry.uid, entry.gid) if entry is not None else (FOLDER_MODE, *ROOT)
        headers.append(encode_header(folder, mode=mode, uid=uid, gid=gid, mtime=mtime, folder=True))
    headers += [encode_header(name_whiteout(path), mode=FILE_MODE, mtime=mtime) for path in sorted(whiteouts)]
    return b"".join(headers)


def compress_tail(extra: Sequence[ExtraFile], mtime: int, codec: Codec) -> tuple[bytes, int]:
    """Extra files, sorted, and the end of the archive; and how many bytes of tar they are."""
    total = sum(count_entry(item.path, len(item.data)) for item in extra) + len(END_OF_ARCHIVE)
    frames: list[bytes] = []
    writer = EntryWriter(frames.append, codec, total)
    for item in sorted(extra, key=lambda item: item.path):
        writer.add_file(item.path, size=len(item.data), mode=item.mode, mtime=mtime, pieces=[item.data])
    writer.add_raw(END_OF_ARCHIVE)
    writer.finish()
    return b"".join(frames), total


def assemble_layer(
    members: Sequence[Member],
    *,
    extra: Sequence[ExtraFile],
    tree: Tree | FolderResolver,
    codec: Codec,
    mtime: int,
    home: str,
    out: Path,
    inspect: Callable[[Iterator[bytes]], None] | None = None,
    whiteouts: Mapping[str, str] = NO_WHITEOUTS,
) -> Layer:
    """Write the layer of ``members`` (in name order) and ``extra`` to ``out``.

    No two may share a path (:func:`find_exclusions` sees to it). Paths of ``extra`` are taken literally: they must not
    pass through links of the base; they may replace a file of it. IntegrityError when a member's bytes are damaged.
    ``inspect`` is given the tar, as :func:`build_layers` says; ``whiteouts``: see :func:`imagebuild.layer.removal.find_whiteouts`.
    """
    check_codec(codec)
    if codec.single and inspect is not None:
        raise ValueError("a single stream is not decompressed again while it is written")
    folders = tree if isinstance(tree, FolderResolver) else FolderResolver(tree)
    owners = _list_owners(members, extra, folders, home)
    prelude = encode_prelude(owners.items(), folders, mtime, whiteouts)
    tail, size_of_tail = compress_tail(extra, mtime, codec)
    total = len(prelude) + sum(member.uncompressed for member in members) + size_of_tail
    stored = read_stored(compress_frame(prelude, codec), members, tail)
    digest = hashlib.sha256()
    try:
        with replacing(out) as output:

            def write(data: bytes) -> None:
                digest.update(data)
                output.write(data)

            found = write_tar(stored, write, codec, total, inspect)
            size = output.tell()
    except OSError as error:
        raise explain_os_error(error, "writing the layer") from error
    if found.size != total:
        raise IntegrityError(f"the layer's tar has {found.size} bytes, its parts announced {total}", "run it again, or clear the cache")
    made = LayerRecord(f"sha256:{digest.hexdigest()}", size, f"sha256:{found.sha256}", total, annotations=found.annotations)
    return _describe_layer(members, extra, made, codec, out)


def _describe_layer(members: Sequence[Member], extra: Sequence[ExtraFile], made: LayerRecord, codec: Codec, blob: Path | None) -> Layer:
    packages = _share_bytes(members, made.size if codec.single else None)
    return Layer(
        blob=blob,
        digest=made.digest,
        size=made.size,
        diff_id=made.diff_id,
        uncompressed=made.uncompressed,
        installed=sum(item.installed for item in packages) + sum(len(item.data) for item in extra),
        media_type=MEDIA_TYPES[codec.name],
        packages=packages,
        files=_list_files(members, extra),
        members={member.package: member.blob for member in members},
        repaired={member.package: member.repaired for member in members if member.repaired},
        annotations=made.annotations,
    )


def _list_owners(members: Sequence[Member], extra: Sequence[ExtraFile], folders: FolderResolver, home: str) -> dict[str, str]:
    """Path -> package of all that goes into the layer; BuildError where a path comes twice."""
    owners: dict[str, str] = {}
    for path, package in ((fact.path, member.package) for member in members for fact in member.files):
        if owners.setdefault(path, package) != package:
            raise BuildError(f"{owners[path]} and {package} both bring {path}", "a path can be in a layer once; leave one of them out")
    forbidden = forbidden_folders(folders, home)
    for item in extra:
        _check_extra(item, folders, forbidden)
        if owners.setdefault(item.path, "the team's own files") != "the team's own files":
            raise BuildError(f"{owners[item.path]} brings {item.path}, which is written by this program", "leave the package out")
    return owners


def _list_files(members: Sequence[Member], extra: Sequence[ExtraFile]) -> tuple[LayerFile, ...]:
    found = [
        LayerFile(fact.path, fact.size, member.package, classify_path(fact.path), fact.sha256)
        for member in members
        for fact in member.files
    ]
    for item in extra:
        found.append(LayerFile(item.path, len(item.data), "", classify_path(item.path), hashlib.sha256(item.data).hexdigest()))
    return tuple(found)


def _share_bytes(members: Sequence[Member], stored: int | None) -> tuple[PackageBytes, ...]:
    """What each package costs; of a layer compressed as one stream, its share by what it takes on its own."""
    alone = sum(member.compressed for member in members) or 1
    shares = [
        PackageBytes(
            member.package,
            member.version,
            member.compressed if stored is None else member.compressed * stored // alone,
            sum(fact.size for fact in member.files),
        )
        for member in members
    ]
    return tuple(sorted(shares, key=lambda share: (-share.compressed, share.package)))


def _check_extra(item: ExtraFile, folders: FolderResolver, forbidden: Sequence[str]) -> None:
    parts = item.path.split("/")[1:]
    if not item.path.startswith("/") or not parts or any(part in ("", ".", "..") or part.startswith(".wh.") for part in parts):
        raise BuildError(f"not a path for a file of a layer: {item.path!r}", "it must be absolute and plain")
    if item.mode & ~PROGRAM_MODE:
        raise BuildError(f"{item.path}: mode {item.mode:o} is not allowed in a layer", "use 644 or 755")
    parent = item.path.rpartition("/")[0] or "/"
    if folders.resolve(parent) != parent:
        raise BuildError(f"{item.path}: {parent} leads through a symbolic link of the base", f"name it {folders.resolve(parent)}")
    if any(is_within(item.path, folder) for folder in forbidden):
        raise BuildError(f"{item.path}: hidden or emptied when the image runs", "put it elsewhere")
    entry = folders.get(item.path)
    if entry is not None and entry.type != "file":
        raise BuildError(f"{item.path} is not a file in the base", "put it elsewhere")
