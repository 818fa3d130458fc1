"""Reading a base: once per digest, every layer once, in bounded memory; afterwards from the cache, with no request.

``cache/bases/<manifest hex>/`` holds ``manifest.json`` and ``config.json`` (bytes as received), ``inventory.json``,
``tree.sqlite``, ``facts.json`` and, where the base has a Python, ``rootfs/``. The folder is written aside and renamed when it is
whole. ``cache/bases/pins/`` remembers which manifest an index gave for a platform.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import shutil
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from imagebuild.base.archive import Header, LayerArchive
from imagebuild.base.cutout import OMITTED_FOLDERS
from imagebuild.base.model import INVENTORY_FORMAT, Base, BaseLayer, Interpreter, Inventory, User, compute_fingerprint
from imagebuild.base.runtime import CutRuntime, Launch, runs_here
from imagebuild.base.systempackages import is_system_database, read_system_packages
from imagebuild.base.tree import SqliteTree, TreeWriter
from imagebuild.decoding import make_decoder
from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.files import exclusive, explain_os_error, fsync_directory, fsync_tree, write_atomic
from imagebuild.oci.model import Descriptor, Digest, ImageConfig, Index, Manifest, Platform, RawManifest
from imagebuild.oci.store import Store

_INVENTORY = make_decoder(Inventory)

CACHE_FORMAT = 4  # of the folder; raise it when what is kept changes
HASHED_LIMIT = 1 << 20  # bytes: larger files in site-packages get no sha256
_TEXT_LIMIT = 32 << 20
_LIBRARY_LIMIT = 64 << 20
_PYTHON_LIMIT = 512 << 20

_PYTHON = re.compile(rb"(?:platform-)?python[0-9.]*[a-z]?")
_STANDARD_LIBRARY = re.compile(rb"/lib(?:64)?/python3(?:\.[0-9]+)?t?/(.+)")
_LIBRARY = re.compile(rb"(?:lib[^/]*|ld[^/]*)\.so[^/]*|ld-musl-[^/]*")
_LIBRARY_FOLDER = re.compile(rb"(?:.*/)?lib(?:64)?(?:/[^/]*-linux-[^/]*)?")
_METADATA_FILES = frozenset({b"METADATA", b"RECORD", b"INSTALLER", b"direct_url.json", b"PKG-INFO", b"requires.txt"})
_SINGLE_FILES = frozenset({b"/etc/passwd", b"/etc/group", b"/etc/ld.so.conf"})
_OMITTED = re.compile(rb"(?:^|/)(?:%s)(?:/|$)" % "|".join(sorted(OMITTED_FOLDERS)).encode())


# --- the short form -------------------------------------------------------------------------------------------------


def encode_inventory(inventory: Inventory) -> bytes:
    """The inventory as committed: indented JSON, keys sorted, a newline at the end; same value, same bytes."""
    return msgspec.json.format(msgspec.json.encode(inventory, enc_hook=str, order="sorted"), indent=2) + b"\n"


def decode_inventory(data: bytes) -> Inventory:
    """Malformed JSON or another format is a :class:`ConfigurationError`."""
    try:
        inventory = _INVENTORY.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"not an inventory of a base: {error}", "remove the file; the next run writes it again") from None
    if inventory.format != INVENTORY_FORMAT:
        raise ConfigurationError(
            f"the inventory has format {inventory.format}, this program reads {INVENTORY_FORMAT}",
            "remove the file; the next run writes it again",
        )
    return inventory


def require_python(base: Base) -> Interpreter:
    """The base's interpreter; a base without one is a :class:`ConfigurationError` that says what was looked for."""
    if base.inventory.interpreter is None:
        raise ConfigurationError(
            f"the base {base.name!r} has no Python: neither python3 nor python on its PATH ({':'.join(base.inventory.path)})",
            "choose a base with Python, such as jupyter-scipy or codeserver-python; `imagebuild base list` shows them",
        )
    return base.inventory.interpreter


# --- one pass over the layers ---------------------------------------------------------------------------------------


def choose_keeping(path: bytes, size: int) -> str:
    """What becomes of a regular file's bytes: ``spool`` (put aside), ``text`` (kept), ``owned`` (dpkg's list), or ``""``."""
    folder, _, name = path.rpartition(b"/")
    if size <= _TEXT_LIMIT:
        if name in _METADATA_FILES and folder.endswith((b".dist-info", b".egg-info")):
            return "text"
        if name.endswith((b".egg-info", b".pth")) and folder.endswith(b"-packages"):
            return "text"
        if name == b"pyvenv.cfg" or path in _SINGLE_FILES or folder == b"/etc/ld.so.conf.d":
            return "text"
        if name.endswith(b".json") and folder.endswith(b"/conda-meta"):
            return "text"
        if is_system_database(path) or (folder.endswith(b".dist-info/sboms") and name.endswith(b".json")):
            return "text"
        if name.endswith(b".list") and folder == b"/var/lib/dpkg/info":
            return "owned"
    if b"/site-packages/" in path or b"/dist-packages/" in path:
        return ""
    if size <= _PYTHON_LIMIT and _PYTHON.fullmatch(name):
        return "spool"
    if size <= _LIBRARY_LIMIT:
        match = _STANDARD_LIBRARY.search(path)
        if match and not _OMITTED.search(match[1]) and not name.endswith((b".a", b".o")):
            return "spool"
        if _LIBRARY.fullmatch(name) and _LIBRARY_FOLDER.fullmatch(folder) and b"/pkgs/" not in path:
            return "spool"
    return ""


def _is_hashed(path: bytes, size: int) -> bool:
    return size <= HASHED_LIMIT and (b"/site-packages/" in path or b"/dist-packages/" in path)


def _read_to_end(stream: BinaryIO) -> None:
    from imagebuild.oci.compression import CHUNK

    while stream.read(CHUNK):
        pass


class _LayerReader:
    """Applies layers to a tree and puts aside what may be part of an interpreter."""

    def __init__(self, tree: TreeWriter, spool: Path) -> None:
        self._tree, self._spool = tree, spool
        self._spooled = 0
        spool.mkdir()

    def spool_file(self, number: int) -> Path:
        return self._spool / str(number)

    def read(self, store: Store, repository: str, descriptor: Descriptor, diff_id: str) -> BaseLayer:
        """One layer: to the very end, its stored bytes verified by the store and its tar against ``diff_id``."""
        from imagebuild.oci.compression import open_decompressed

        self._tree.start_layer()
        with store.open_blob(repository, descriptor) as stored:
            archive = LayerArchive(open_decompressed(stored, descriptor.compression))
            try:
                self._read_entries(archive)
            except IntegrityError:
                _read_to_end(stored)  # if these are not the bytes that were asked for, the store says so: the better reason
                raise
            _read_to_end(stored)  # bytes after the compressed stream: the store verifies at the end of them
        found = "sha256:" + archive.hash.hexdigest()
        if found != diff_id:
            raise IntegrityError(
                f"layer {descriptor.digest} unpacks to {found}, but the image config promises {diff_id}",
                "the base image is damaged; push it again, or pin another digest",
            )
        return BaseLayer(descriptor.digest, descriptor.size, diff_id, archive.count)

    def _read_entries(self, archive: LayerArchive) -> None:
        for header in archive.entries():
            folder, _, name = header.path.rpartition(b"/")
            if name.startswith(b".wh."):
                self._apply_whiteout(folder, name)
            elif header.kind == "hardlink":
                self._tree.add_hard_link(header)
            elif header.kind == "file":
                self._add_file(archive, header)
            else:
                self._tree.add(header)
        archive.drain()

    def _apply_whiteout(self, folder: bytes, name: bytes) -> None:
        if name == b".wh..wh..opq":
            self._tree.remove_below(folder)
        elif name.startswith(b".wh..wh."):
            return  # aufs' own books (.wh..wh.plnk, .wh..wh.aufs), never files of the image
        elif name[4:] in (b"", b".", b".."):
            raise IntegrityError(f"a layer of the base holds a whiteout of nothing: {name!r}", "pin another digest")
        else:
            self._tree.remove(folder + b"/" + name[4:])

    def _add_file(self, archive: LayerArchive, header: Header) -> None:
        keeping = "" if header.sparse else choose_keeping(header.path, header.size)
        sha256, spool, text = "", 0, 0
        hashing = hashlib.sha256() if not header.sparse and _is_hashed(header.path, header.size) else None
        if keeping == "spool":
            self._spooled += 1
            spool = self._spooled
            with self.spool_file(spool).open("wb") as stream:
                for piece in archive.content():
                    stream.write(piece)
        elif keeping or hashing is not None:
            pieces = bytearray()
            for piece in archive.content():
                if hashing is not None:
                    hashing.update(piece)
                if keeping:
                    pieces += piece
            if hashing is not None:
                sha256 = hashing.hexdigest()
            data = bytes(pieces)
            if keeping == "owned":
                data = b"".join(line for line in data.splitlines(keepends=True) if b"-info" in line)
            if keeping == "text" or data:
                text = self._tree.add_text(zlib.compress(data, 3))
        self._tree.add(header, sha256, spool, text)


def read_user(tree: SqliteTree, config: str, home: str) -> User:
    """Who ``config.User`` (``name``, ``uid``, either with ``:group``) is; ``home`` is ``HOME`` of the image's Env."""

    def rows(path: str, columns: int) -> list[list[str]]:
        entry = tree.follow(path)
        data = (tree.read_text(entry.path) if entry else None) or b""
        lines = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
        return [line for line in lines if len(line) >= columns and line[2].isdigit()]

    name, _, group = config.partition(":")
    name = name or "0"
    people = rows("/etc/passwd", 7)
    found = next((row for row in people if row[0] == name), None)
    if found is None and name.isdigit():
        found = next((row for row in people if row[2].lstrip("0") == name.lstrip("0")), None)
    elif found is None:
        raise ConfigurationError(f"the base runs as user {name!r}, whom its /etc/passwd does not have", "use a base that starts")
    uid = int(found[2]) if found else int(name)
    gid = int(found[3]) if found and found[3].isdigit() else 0
    if group:
        match = next((row[2] for row in rows("/etc/group", 3) if row[0] == group), group)
        if not match.isdigit():
            raise ConfigurationError(f"the base runs with group {group!r}, which its /etc/group does not have", "use a base that starts")
        gid = int(match)
    return User(config, uid, gid, found[0] if found else "", home or (found[5] if found and found[5] else "/"))


class _Facts(msgspec.Struct, frozen=True):
    """What else the cache keeps: the folder's format, SHA-256 of what was derived, and how to start the interpreter."""

    format: int
    inventory: str
    tree: str
    launch: Launch | None = None
    check: str = ""  # SHA-256 of all the other fields

    def sealed(self) -> _Facts:
        plain = msgspec.structs.replace(self, check="")
        return msgspec.structs.replace(plain, check=hashlib.sha256(msgspec.json.encode(plain)).hexdigest())


_FACTS = make_decoder(_Facts)


def _read_aside(store: Store, repository: str, raw: RawManifest, config_data: bytes, folder: Path, report: Callable[[str], None]) -> None:
    """Fill ``folder`` with all that is kept about the image."""
    manifest = raw.parse()
    assert isinstance(manifest, Manifest)
    config = ImageConfig.parse(config_data)
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"malformed image {raw.digest}: {len(manifest.layers)} layers, but {len(config.rootfs.diff_ids)} diff_ids", "pin another digest"
        )
    writer = TreeWriter(folder / "tree.sqlite")
    reader = _LayerReader(writer, folder / "spool")
    layers = []
    for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.rootfs.diff_ids, strict=True), 1):
        report(f"reading layer {number} of {len(manifest.layers)} of the base ({descriptor.size / 1e6:.1f} MB)")
        layers.append(reader.read(store, repository, descriptor, diff_id))
    writer.finish()
    tree = SqliteTree(folder / "tree.sqlite")
    try:
        inventory, launch = _describe(tree, reader.spool_file, raw.digest, config, tuple(layers), folder, report)
    finally:
        tree.close()
    shutil.rmtree(folder / "spool")
    (folder / "manifest.json").write_bytes(raw.data)
    (folder / "config.json").write_bytes(config_data)
    (folder / "inventory.json").write_bytes(encode_inventory(inventory))
    facts = _Facts(CACHE_FORMAT, _hash_file(folder / "inventory.json"), _hash_file(folder / "tree.sqlite"), launch)
    (folder / "facts.json").write_bytes(msgspec.json.encode(facts.sealed()))


def _hash_file(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _describe(
    tree: SqliteTree,
    spool: Callable[[int], Path],
    digest: Digest,
    config: ImageConfig,
    layers: tuple[BaseLayer, ...],
    folder: Path,
    report: Callable[[str], None],
) -> tuple[Inventory, Launch | None]:
    from imagebuild.base.cutout import DEFAULT_PATH, Cutter, find_python
    from imagebuild.base.distributions import add_path_files, read_distributions
    from imagebuild.base.interpreter import describe_interpreter, link_packaging

    environment = config.container.environment
    path = tuple(posixpath.normpath(part) for part in (environment.get("PATH") or DEFAULT_PATH).split(":") if part)
    python = find_python(tree, path)
    interpreter, launch = None, None
    folders: list[str] = []
    if python is not None:
        cutter = Cutter(tree, spool, folder)
        if runs_here(config.platform):
            launch = cutter.cut(python)
            tools = link_packaging(folder / "tools")
            musl = str(folder / "rootfs" / launch.loader) if "ld-musl" in launch.loader else ""
            runtime = CutRuntime(folder, launch)
            findings = describe_interpreter(runtime, python, tree, "/" + launch.home, tools, environment, musl)
            shutil.rmtree(tools)
        else:
            from imagebuild.base.estimate import estimate_interpreter

            report(f"the base is for {config.platform}: its Python cannot run here, so it is described from its files, without bytecode")
            findings = estimate_interpreter(tree, cutter, python, config.platform, environment)
        interpreter, folders = findings.interpreter, add_path_files(tree, findings.folders)
    conda = interpreter.prefix if interpreter and interpreter.environment == "conda" else ""
    distributions = read_distributions(tree, folders, conda)
    inventory = Inventory(
        format=INVENTORY_FORMAT,
        digest=str(digest),
        platform=config.platform,
        fingerprint=str(compute_fingerprint(interpreter, distributions)),
        user=read_user(tree, config.container.user, environment.get("HOME", "")),
        path=path,
        interpreter=interpreter,
        distributions=distributions,
        layers=layers,
        shadowed_interpreters=python.shadowed if python else (),
        system=read_system_packages(tree),
    )
    return inventory, launch


# --- the cache ------------------------------------------------------------------------------------------------------


def pin_path(bases: Path, pinned: Digest, platform: Platform) -> Path:
    """Where the cache remembers which manifest ``pinned`` (an index, or that manifest) gave for a platform."""
    return bases / "pins" / f"{pinned.hex}-{str(platform).replace('/', '-')}"


class _Cached(msgspec.Struct, frozen=True):
    raw: RawManifest
    config_data: bytes
    inventory: Inventory
    launch: Launch | None


def _load(bases: Path, digest: Digest, media_type: str) -> _Cached | None:
    """The finished folder of ``digest``, or None: not there, of an older format, or damaged (then it is read again)."""
    folder = bases / digest.hex
    try:
        facts = _FACTS.decode((folder / "facts.json").read_bytes())
        if facts.format != CACHE_FORMAT or facts != facts.sealed() or _hash_file(folder / "tree.sqlite") != facts.tree:
            return None
        if facts.launch is not None and not (folder / "rootfs" / facts.launch.executable).is_file():
            return None
        raw = RawManifest((folder / "manifest.json").read_bytes(), media_type)
        if raw.digest != digest:
            return None
        manifest = raw.parse()
        config_data = (folder / "config.json").read_bytes()
        if not isinstance(manifest, Manifest) or Digest.of(config_data) != manifest.config.digest:
            return None
        if _hash_file(folder / "inventory.json") != facts.inventory:
            return None
        inventory = decode_inventory((folder / "inventory.json").read_bytes())
        if inventory.interpreter is not None and facts.launch is None and runs_here(inventory.platform):
            return None  # described from its files on a machine that could not run it; this one can
        return _Cached(raw, config_data, inventory, facts.launch)
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, msgspec.DecodeError, ConfigurationError, IntegrityError):
        return None


def _read_pin(bases: Path, pinned: Digest, platform: Platform) -> tuple[Digest, str] | None:
    try:
        digest, _, media_type = pin_path(bases, pinned, platform).read_text(encoding="ascii").strip().partition(" ")
        return Digest(digest), media_type
    except (FileNotFoundError, UnicodeDecodeError, IntegrityError):
        return None


def _fetch_manifest(store: Store, repository: str, digest: Digest) -> RawManifest:
    raw = store.get_manifest(repository, digest)
    if raw is None:
        raise RemoteError(
            f"{store.label} has no {repository}@{digest}",
            "correct the pin (imagebuild base pin) or the mirror; a base built here is made by imagebuild base build",
        )
    return raw


def _check_platform(config: ImageConfig, platform: Platform, repository: str) -> None:
    if not platform.matches(config.platform):
        raise ConfigurationError(
            f"{repository} is pinned to an image for {config.platform}, not {platform}", "pin the index of all platforms"
        )


def _store_folder(store: Store, repository: str, raw: RawManifest, config_data: bytes, bases: Path, report: Callable[[str], None]) -> None:
    """Read the image into a folder aside and rename it; the caller holds the lock, so what lies aside is stale."""
    final, aside = bases / raw.digest.hex, bases / f".tmp-{raw.digest.hex}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _read_aside(store, repository, raw, config_data, aside, report)
        fsync_tree(aside)  # before the rename makes it count; not os.sync(), which waits for everybody else's writes too
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
        fsync_directory(bases)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def read_base(
    store: Store,
    repository: str,
    pinned: Digest,
    platform: Platform,
    *,
    name: str,
    kind: str,
    reference: str,
    registry: str,
    cache: Path,
    report: Callable[[str], None],
) -> Base:
    """All about the base that ``pinned`` (an index or a manifest) is for ``platform``.

    The first read of a digest streams every layer from ``store``; later ones make no request at all. ``name``, ``kind``,
    ``reference`` and ``registry`` go into the result as they are. ``report`` gets lines of progress.
    """
    bases = cache / "bases"
    try:
        known = _read_pin(bases, pinned, platform)
        cached = _load(bases, *known) if known else None
        if cached is None:
            raw = _fetch_manifest(store, repository, pinned)
            parsed = raw.parse()
            if isinstance(parsed, Index):
                raw = _fetch_manifest(store, repository, parsed.select(platform).id)
                parsed = raw.parse()
            if not isinstance(parsed, Manifest):
                raise IntegrityError(f"{repository}@{pinned} is an index of indexes", "pin an image, or an index of images")
            with exclusive(bases / f"{raw.digest.hex}.lock"):
                cached = _load(bases, raw.digest, raw.media_type)
                if cached is None:
                    config_data = store.read_blob(repository, parsed.config)
                    _check_platform(ImageConfig.parse(config_data), platform, f"{repository}@{pinned}")
                    _store_folder(store, repository, raw, config_data, bases, report)
                    cached = _load(bases, raw.digest, raw.media_type)
            assert cached is not None
            write_atomic(pin_path(bases, pinned, platform), f"{raw.digest} {raw.media_type}\n".encode())
    except OSError as error:
        raise explain_os_error(error, f"reading the base {name}") from error
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"cannot keep what was read of the base {name} in {bases}: {error}", "free some disk, or point --cache-dir elsewhere"
        ) from error
    config = ImageConfig.parse(cached.config_data)
    _check_platform(config, platform, f"{repository}@{pinned}")
    manifest = cached.raw.parse()
    assert isinstance(manifest, Manifest)
    folder = bases / cached.raw.digest.hex
    return Base(
        name=name,
        kind=kind,
        reference=reference,
        registry=registry,
        repository=repository,
        pinned=pinned,
        manifest=manifest,
        config=config,
        config_data=cached.config_data,
        inventory=cached.inventory,
        tree=SqliteTree(folder / "tree.sqlite"),
        runtime=CutRuntime(folder, cached.launch) if cached.launch and runs_here(config.platform) else None,
    )
