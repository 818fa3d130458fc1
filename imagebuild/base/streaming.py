"""A base's layers, streamed once from the lowest up, and what is read of them: tree, inventory and interpreter, kept by its digest."""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from imagebuild.base import runtime
from imagebuild.base.cache import CachedBase, hold_base, load_base, store_folder, write_documents
from imagebuild.base.cutout import DEFAULT_PATH, Cutter, find_python
from imagebuild.base.distributions import add_path_files, read_distributions
from imagebuild.base.interpreter import describe_interpreter, link_packaging
from imagebuild.base.inventory import require_platform
from imagebuild.base.layers import LayerReader
from imagebuild.base.model import INVENTORY_FORMAT, BaseLayer, Inventory, compute_fingerprint
from imagebuild.base.rfacts import read_r
from imagebuild.base.runtime import CutRuntime, Launch
from imagebuild.base.systempackages import read_system_packages
from imagebuild.base.tree import SqliteTree, TreeWriter
from imagebuild.base.users import read_user
from imagebuild.base.vscodefacts import read_vscode
from imagebuild.errors import IntegrityError, RemoteError
from imagebuild.oci.model import Digest, ImageConfig, Index, Manifest, Platform, RawManifest
from imagebuild.oci.store import Store
from imagebuild.progress import step
from imagebuild.text import format_size

if TYPE_CHECKING:
    from imagebuild.base.sharing import SharedBases


def read_through(
    store: Store,
    repository: str,
    pinned: Digest,
    platform: Platform,
    bases: Path,
    report: Callable[[str], None],
    shared: SharedBases | None,
) -> CachedBase:
    """Find the platform's manifest and read its image, unless somebody else has meanwhile."""
    raw = _fetch_manifest(store, repository, pinned)
    parsed = raw.parse()
    if isinstance(parsed, Index):
        raw = _fetch_manifest(store, repository, parsed.select(platform).id)
        parsed = raw.parse()
    if not isinstance(parsed, Manifest):
        raise IntegrityError(f"{repository}@{pinned} is an index of indexes", "pin an image, or an index of images")
    with hold_base(bases, raw.digest):
        cached = load_base(bases, raw.digest, raw.media_type)
        if cached is None:
            config_data = store.read_blob(repository, parsed.config)
            require_platform(ImageConfig.parse(config_data), platform, f"{repository}@{pinned}")
            if shared is not None and (taken := shared.take(raw, config_data, pinned, platform)) is not None:
                return taken
            store_folder(bases, raw.digest, lambda aside: _read_aside(store, repository, raw, config_data, aside, report))
            cached = load_base(bases, raw.digest, raw.media_type)
    assert cached is not None
    return cached


def _fetch_manifest(store: Store, repository: str, digest: Digest) -> RawManifest:
    raw = store.get_manifest(repository, digest)
    if raw is None:
        raise RemoteError(
            f"{store.label} has no {repository}@{digest}",
            "correct the pin (imagebuild base pin) or the mirror; a base built here is made by imagebuild base build",
        )
    return raw


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
    reader = LayerReader(writer, folder / "spool")
    layers = []
    for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.rootfs.diff_ids, strict=True), 1):
        line = f"reading layer {number} of {len(manifest.layers)} of the base ({format_size(descriptor.size)})"
        with step(line, descriptor.size, report=report):
            layers.append(reader.read(store, repository, descriptor, diff_id))
    writer.finish()
    tree = SqliteTree(folder / "tree.sqlite")
    try:
        inventory, launch = _describe(tree, reader.spool_file, raw.digest, config, tuple(layers), folder, report)
    finally:
        tree.close()
    shutil.rmtree(folder / "spool")
    write_documents(folder, raw, config_data, inventory, launch)


def _describe(
    tree: SqliteTree,
    spool: Callable[[int], Path],
    digest: Digest,
    config: ImageConfig,
    layers: tuple[BaseLayer, ...],
    folder: Path,
    report: Callable[[str], None],
) -> tuple[Inventory, Launch | None]:
    environment = config.container.environment
    path = tuple(posixpath.normpath(part) for part in (environment.get("PATH") or DEFAULT_PATH).split(":") if part)
    python = find_python(tree, path)
    interpreter, launch = None, None
    folders: list[str] = []
    if python is not None:
        cutter = Cutter(tree, spool, folder)
        if runtime.runs_here(config.platform):
            launch = cutter.cut(python)
            tools = link_packaging(folder / "tools")
            musl = str(folder / "rootfs" / launch.loader) if "ld-musl" in launch.loader else ""
            findings = describe_interpreter(CutRuntime(folder, launch), python, tree, "/" + launch.home, tools, environment, musl)
            shutil.rmtree(tools)
        else:
            from imagebuild.base.estimate import estimate_interpreter

            report(f"the base is for {config.platform}: its Python cannot run here, so it is described from its files, without bytecode")
            findings = estimate_interpreter(tree, cutter, python, config.platform, environment)
        interpreter, folders = findings.interpreter, add_path_files(tree, findings.folders)
    conda = interpreter.prefix if interpreter and interpreter.environment == "conda" else ""
    distributions = read_distributions(tree, folders, conda)
    user = read_user(tree, config.container.user, environment.get("HOME", ""))
    inventory = Inventory(
        format=INVENTORY_FORMAT,
        digest=str(digest),
        platform=config.platform,
        fingerprint=str(compute_fingerprint(interpreter, distributions)),
        user=user,
        path=path,
        interpreter=interpreter,
        distributions=distributions,
        layers=layers,
        shadowed_interpreters=python.shadowed if python else (),
        system=read_system_packages(tree),
        r=read_r(tree, path, environment, user.home) or msgspec.UNSET,
        vscode=read_vscode(tree) or msgspec.UNSET,
    )
    return inventory, launch
