"""Making a bundle: fetch what the build needs, and put it into a folder beside its hashes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from imagebuild.base.model import Base
from imagebuild.bundle.model import FORMAT, NAME, BundledBase, BundledFile, BundleManifest, describe_file
from imagebuild.config import Team
from imagebuild.dockerfile import ADDONS_FOLDER
from imagebuild.errors import UsageError
from imagebuild.files import explain_os_error, scratch_folder, write_atomic
from imagebuild.lock.index.tables import FILE_NAME
from imagebuild.lock.inputs.requirements import list_files
from imagebuild.lock.inputs.sourcetree import list_tree
from imagebuild.oci.model import Digest
from imagebuild.oci.store import Store
from imagebuild.permissions import choose_mode
from imagebuild.recipe import Recipe
from imagebuild.text import format_size

_RECIPE_FILES = ("Dockerfile", "recipe.json")


class Packing:
    """A bundle in the making: files are copied in, and each is hashed where it lies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, BundledFile] = {}

    def add(self, name: str, source: Path) -> None:
        """Copy a file in."""
        target = self.folder / name
        if name in self.files:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        target.chmod(choose_mode(os.access(source, os.X_OK)))
        self.files[name] = describe_file(target)

    def add_link(self, name: str, target: str) -> None:
        """Name a symlink; it is made where the bundle is used."""
        self.files[name] = BundledFile(link=target)

    def add_folder(self, name: str, source: Path) -> None:
        """Copy a folder of plain files in."""
        for path in sorted(source.rglob("*")):
            if path.is_file() and not path.is_symlink():
                self.add(f"{name}/{path.relative_to(source).as_posix()}", path)


def pack_project(packing: Packing, team: Team, root: Path, images: Path, lockfiles: Sequence[Path], base: str) -> None:
    """What images/ and lockfiles/ have of the team: its inputs and what they include, the catalogue, the locks, the inventory."""
    paths = [team.requirements.parent / "team.toml", *list_files(team.requirements, root), images / "catalogue.toml", *lockfiles]
    paths += [path for kind in team.addon_kinds for path in team.list_archives(kind)]
    optional = [images / FILE_NAME, team.r_packages, root / "lockfiles" / "bases" / f"{base}.json"]
    for path in [*paths, *(item for item in optional if item.is_file())]:
        packing.add(f"project/{path.resolve().relative_to(root.resolve()).as_posix()}", path)
    for folder in team.local_packages:
        top = f"project/{folder.resolve().relative_to(root.resolve()).as_posix()}"
        for entry in list_tree(folder):
            if entry.link:
                packing.add_link(f"{top}/{entry.path}", entry.link)
            else:
                packing.add(f"{top}/{entry.path}", folder / entry.path)


def pack_context(packing: Packing, built: Path, wheels: Mapping[str, Path]) -> None:
    """Dockerfile, recipe, the files beside the wheels, and the wheels as they are."""
    for name in _RECIPE_FILES:
        packing.add(name, built / name)
    for path in sorted((built / "wheels").iterdir()):
        if path.suffix != ".whl" and path.is_file():
            packing.add(f"wheels/{path.name}", path)
    for path in wheels.values():
        packing.add(f"wheels/{path.name}", path)
    if (built / "wheels" / ADDONS_FOLDER).is_dir():
        packing.add_folder(f"wheels/{ADDONS_FOLDER}", built / "wheels" / ADDONS_FOLDER)


def describe_base(base: Base, *, with_layers: bool) -> BundledBase:
    """What the manifest says of the base."""
    inventory = base.inventory
    names = (base.name, str(inventory.digest), str(base.pinned), base.manifest.media_type, base.repository, str(inventory.platform))
    return BundledBase(*names, with_layers)


def pack_layers(packing: Packing, base: Base, store: Store, report: Callable[[str], None]) -> None:
    """The base's config and layers, verified by the store while they are read, under their digests."""
    for descriptor in (base.manifest.config, *base.manifest.layers):
        name = f"layers/{descriptor.id.hex}"
        target = packing.folder / name
        if name in packing.files:
            continue
        report(f"base {base.name}: packing {descriptor.digest} ({format_size(descriptor.size)})")
        target.parent.mkdir(parents=True, exist_ok=True)
        with store.open_blob(base.repository, descriptor) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        packing.files[name] = describe_file(target)


class BundleContents(msgspec.Struct, frozen=True):
    """What goes into a bundle: a planned build and where its parts lie."""

    team: Team
    base: Base
    recipe: Recipe
    root: Path  # of the project
    images: Path
    lockfiles: Sequence[Path]
    built: Path  # the folder with Dockerfile and build context
    wheels: Mapping[str, Path]
    cache: Path
    layers: Store | None  # where the base's layers are to be taken from; None leaves them out


def pack_bundle(output: Path, contents: BundleContents, report: Callable[[str], None]) -> tuple[str, BundleManifest]:
    """Write the bundle to ``output``, which must not be there or be empty; the digest of its bundle.json, and what that says."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} exists already", "name a new folder for the bundle")
    base, team = contents.base, contents.team
    try:
        with scratch_folder(output.absolute().parent) as scratch:
            packing = Packing(scratch / "bundle")
            packing.folder.mkdir()
            pack_project(packing, team, contents.root, contents.images, contents.lockfiles, base.name)
            pack_context(packing, contents.built, contents.wheels)
            packing.add_folder("base", contents.cache / "bases" / Digest(base.inventory.digest).hex)
            if contents.layers is not None:
                pack_layers(packing, base, contents.layers, report)
            recipe, about = contents.recipe, describe_base(base, with_layers=contents.layers is not None)
            manifest = BundleManifest(FORMAT, team.name, recipe.tag, recipe.engine, about, packing.files)
            write_atomic(packing.folder / NAME, manifest.encode())
            if output.exists():
                output.rmdir()
            packing.folder.rename(output)
    except OSError as error:
        raise explain_os_error(error, "writing the bundle") from None
    return str(Digest.of(manifest.encode())), manifest
