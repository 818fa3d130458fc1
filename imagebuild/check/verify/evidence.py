"""Everything that ``verify`` looks at, read once: the image, its base, its added layers, and what travels with it."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import AddonLock
from imagebuild.base.model import Base, Tree
from imagebuild.catalogue.lookup import FoundImage
from imagebuild.check.verify.chunked import ChunkedFacts
from imagebuild.check.verify.layerscan import NoTree, ScannedLayer, scan_layer
from imagebuild.check.verify.namedbase import NamedBase, count_common_digests, is_ours, read_named_base
from imagebuild.check.verify.records import RecordAudit, audit_records
from imagebuild.decoding import load_json
from imagebuild.errors import ConfigurationError
from imagebuild.layer.dpkg import SystemFiles
from imagebuild.layer.invariants import AddedLayers
from imagebuild.layer.removal import find_removal
from imagebuild.lock.file.model import Lock
from imagebuild.lock.file.replacement import find_replaced
from imagebuild.progress import step
from imagebuild.recipe import CONSTRAINTS_PATH, Recipe
from imagebuild.supply.policy import read_policy
from imagebuild.supply.referrers import BOM_TYPE, STATEMENT_TYPE, read_companions, read_image_addons, read_image_lock, read_image_recipe
from imagebuild.text import format_size
from imagebuild.workspace import Workspace


class Evidence(msgspec.Struct):
    """What the checks are functions of."""

    image: FoundImage
    base: NamedBase
    common: int  # layers that the image begins with and the base has
    facts: ScannedLayer  # of all layers above, one over the other
    diff_ids: tuple[tuple[str, str], ...]  # of each of them: promised, found
    records: RecordAudit
    lock: Lock | None
    recipe: Recipe | None
    boms: list[dict[str, Any]]
    statements: list[dict[str, Any]]
    replaced: dict[str, tuple[str, ...]]  # distributions of the base that the lock replaces -> their files
    system: SystemFiles | None
    allowed_startup: frozenset[str] = frozenset()  # by the company's policy
    addons: tuple[AddonLock, ...] = ()  # their locks, as far as they travel with the image

    @property
    def ours(self) -> bool:
        """Whether imagebuild made it."""
        return is_ours(self.image)

    @property
    def tree(self) -> Tree:
        """The base's, or an empty one."""
        return self.base.base.tree if self.base.base is not None else NoTree()

    def faults(self, *rules: str) -> list[str]:
        """The layer's faults against these rules."""
        return [str(item) for item in self.facts.faults if item.rule in rules]


def gather_evidence(workspace: Workspace, image: FoundImage) -> Evidence:
    """Read it all. IntegrityError when a layer's bytes are not what the manifest says."""
    named = read_named_base(workspace, image)
    count = len(image.manifest.layers)
    # Of an unknown base: all layers but those noted as the team's are taken to be it.
    unknown = count - names.count_team_layers(image.manifest.annotations, count)
    common = count_common_digests(image, named.layers) if named.manifest is not None else unknown
    lock = read_image_lock(image.store, image.repository, image.digest)
    recipe = read_image_recipe(image.store, image.repository, image.digest)
    replaced = _find_replaced(named.base, lock)
    old = frozenset(path for paths in replaced.values() for path in paths)
    extra = frozenset({CONSTRAINTS_PATH})
    home = named.base.inventory.user.home if named.base is not None else image.config.container.environment.get("HOME", "")
    tree: Tree = named.base.tree if named.base is not None else NoTree()
    merged, diff_ids = ScannedLayer(), []
    added = AddedLayers(tree, old)
    system: SystemFiles | None = None
    for number in range(common, count):
        descriptor = image.manifest.layers[number]
        line = f"reading layer {number + 1} of {count} of the image ({format_size(descriptor.size)})"

        scan = partial(scan_layer, image.store, image.repository, descriptor, home=home, replaceable=old | extra)
        with step(line, descriptor.size, report=workspace.report):
            facts = scan(added=(tried := added.fork()))
        if facts.lists and (system := facts.system) is not None:
            facts = scan(added=(tried := added.fork()), system=system)  # what apt may write is known only at the end of a first reading
        added = tried
        promised = image.config.rootfs.diff_ids
        diff_ids.append((promised[number] if number < len(promised) else "", facts.diff_id))
        _merge(merged, facts)
    merged.faults += added.find_leftovers()
    folders = tuple(f"{item.folder}/" for item in recipe.addons) if recipe is not None else ()
    _leave_addons_out(merged, folders)
    return Evidence(
        image=image,
        base=named,
        common=common,
        facts=merged,
        diff_ids=tuple(diff_ids),
        records=audit_records(merged, tree, system, folders),
        lock=lock,
        recipe=recipe,
        boms=_read_documents(image, BOM_TYPE),
        statements=_read_documents(image, STATEMENT_TYPE),
        replaced=replaced,
        system=system,
        allowed_startup=_read_allowed_startup(workspace),
        addons=read_image_addons(image.store, image.repository, image.digest, recipe),
    )


def _leave_addons_out(facts: ScannedLayer, folders: tuple[str, ...]) -> None:
    """Take away what looks like a distribution of Python in an add-on's folder: it is a part of the add-on, and on nobody's sys.path."""
    for name in ("records", "metadata", "sboms", "startup_files"):
        known: dict[str, bytes] = getattr(facts, name)
        setattr(facts, name, {path: data for path, data in known.items() if not path.startswith(folders)} if folders else known)


def _read_allowed_startup(workspace: Workspace) -> frozenset[str]:
    try:
        images = workspace.images
    except ConfigurationError:  # an image may be verified outside a checkout
        return frozenset()
    return frozenset(read_policy(images).verify.allow_pth)


def _find_replaced(base: Base | None, lock: Lock | None) -> dict[str, tuple[str, ...]]:
    """A package that is both in the lock and in the base is one that the team's ``replace`` allowed: no lock has it otherwise."""
    given_up = find_replaced(base, lock) if lock is not None and base is not None else ()
    found: dict[str, list[str]] = {name: [] for name in given_up}
    for path, name in (find_removal(base, given_up).owners if base is not None else {}).items():
        found[name].append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def _merge(into: ScannedLayer, facts: ScannedLayer) -> None:
    into.size += facts.size
    into.uncompressed += facts.uncompressed
    into.entries += facts.entries
    into.unread += facts.unread
    into.faults += facts.faults
    into.status = facts.status or into.status
    if facts.chunked is not None:
        into.chunked = into.chunked or ChunkedFacts()
        into.chunked.add(facts.chunked)
    for name in ("files", "records", "metadata", "sboms", "startup_files", "secrets", "privileged", "lists"):
        getattr(into, name).update(getattr(facts, name))


def _read_documents(image: FoundImage, artifact_type: str) -> list[dict[str, Any]]:
    found = []
    for data in read_companions(image.store, image.repository, image.digest, artifact_type):
        try:
            document = load_json(data)
        except ValueError:
            document = None
        found.append(document if isinstance(document, dict) else {})
    return found
