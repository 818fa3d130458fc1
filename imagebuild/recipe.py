"""Every input that decides an image's bytes, and the key and the tag made of them.

The tag is the content: ``<quarter>-<first 12 hex digits of key>``, where the key is SHA-256 over the canonical JSON of
:class:`Recipe`. Nothing here reads the clock, the network or the machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import AddonLock, PlacedArchive, name_addon, place_addons
from imagebuild.base.model import Base
from imagebuild.layer.model import LAYER_FORMAT, Codec, ExtraFile
from imagebuild.layer.splitting import Share, divide_packages
from imagebuild.lock.file.model import Lock
from imagebuild.lock.file.replacement import find_replaced
from imagebuild.servers import PORT
from imagebuild.tagforms import image_tag
from imagebuild.wheel.scripts import script_form
from imagebuild.wheel.slim import RULES

RECIPE_FORMAT = 1
CONSTRAINTS_PATH = "/etc/imagebuild/constraints.txt"
REMOVAL_FILE = "removal.json"  # of the context, beside the wheels: what of the base goes


class Recipe(msgspec.Struct, frozen=True, omit_defaults=True):
    """The inputs. Two equal recipes are the same image; anything that changes a byte of it is in here."""

    format: int
    layer_format: int
    engine: str
    team: str
    quarter: str
    created: str
    platform: str
    base_digest: str  # of the base's platform manifest
    packages: tuple[tuple[str, str], ...]  # (wheel file name, sha256), sorted
    codec: Codec
    constraints: str  # the file's text; empty when the team wants none
    environment: dict[str, str]  # added to the base's Env
    annotations: dict[str, str]  # those known before the build; also the labels
    system: tuple[str, ...] = ()  # Debian packages apt installs, as the team wrote them, sorted
    slim: tuple[str, ...] = ()  # what is left out of the wheels, sorted
    scripts: int = 0  # form of entry points' scripts (imagebuild.wheel.scripts)
    slim_rules: int = 0  # which files that are (imagebuild.wheel.slim); set with ``slim`` only
    replace: tuple[str, ...] = ()  # name==version of the base's distributions that give way to the lock's, sorted
    files: dict[str, str] = {}  # path or pattern below site-packages -> the package whose file it is, where several bring one
    layers: tuple[tuple[str, ...], ...] = ()  # the packages of each layer, lowest first; empty: one layer has them all
    addons: tuple[PlacedArchive, ...] = ()  # R packages and VS Code extensions, sorted

    @property
    def key(self) -> str:
        """``sha256:`` and 64 hex digits."""
        return "sha256:" + hashlib.sha256(self.encode()).hexdigest()

    def encode(self) -> bytes:
        """Canonical JSON: keys sorted, no white space."""
        return msgspec.json.encode(self, order="sorted", enc_hook=str)

    @property
    def tag(self) -> str:
        """``2026q4-3f9c1a7b2d4e``."""
        return image_tag(self.quarter, self.key)

    @property
    def labels(self) -> dict[str, str]:
        """All annotations known before the build, and the two that name the recipe itself."""
        return {**self.annotations, names.KEY: self.key, names.VERSION: self.tag}

    @property
    def replaced(self) -> tuple[str, ...]:
        """The names in ``replace``."""
        return tuple(item.partition("==")[0] for item in self.replace)

    @property
    def extra_files(self) -> tuple[ExtraFile, ...]:
        """Files of the layer that no wheel brings."""
        return (ExtraFile(CONSTRAINTS_PATH, self.constraints.encode()),) if self.constraints else ()


def render_constraints(base: Base, lock: Lock) -> str:
    """A pip constraints file with the exact version of everything in the image: the base's and the lock's."""
    versions = {item.name: item.version for item in base.inventory.distributions}
    versions.update({item.name: item.version for item in lock.packages})
    head = f"# What the image of team {lock.team} holds; pip reads it through PIP_CONSTRAINT.\n"
    return head + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items()))


class ImageOptions(msgspec.Struct, frozen=True):
    """What a team says about its image beside its packages; ``environment`` is the team's own."""

    engine: str
    codec: Codec
    environment: dict[str, str]
    personal_constraints: bool
    title: str
    description: str
    owners: tuple[str, ...]
    system: tuple[str, ...] = ()
    slim: tuple[str, ...] = ()
    files: dict[str, str] = {}
    split: bool = False


def make_recipe(base: Base, lock: Lock, lock_digest: str, options: ImageOptions, addons: Sequence[AddonLock] = ()) -> Recipe:
    """The recipe of one team's image. PIP_CONSTRAINT joins the team's environment here."""
    constraints = render_constraints(base, lock) if options.personal_constraints else ""
    environment = dict(options.environment)
    if constraints:
        inherited = environment.get("PIP_CONSTRAINT", base.config.container.environment.get("PIP_CONSTRAINT", ""))
        environment["PIP_CONSTRAINT"] = f"{inherited} {CONSTRAINTS_PATH}".strip()
    replaced = frozenset(find_replaced(base, lock))
    layers: tuple[tuple[str, ...], ...] = ()
    if options.split:
        below = len(base.manifest.layers)
        layers = divide_packages(list_shares(lock, addons), below=below, deletes=bool(replaced), extra=bool(constraints))
    return Recipe(
        format=RECIPE_FORMAT,
        layer_format=LAYER_FORMAT,
        engine=options.engine,
        team=lock.team,
        quarter=lock.quarter,
        created=lock.cutoff,
        platform=lock.platform,
        base_digest=str(base.inventory.digest),
        packages=tuple(sorted((item.filename, item.sha256) for item in lock.packages)),
        codec=options.codec,
        constraints=constraints,
        environment=environment,
        annotations={
            **make_annotations(base, lock, lock_digest, options),
            **annotate_addons(addons),
            **({names.LAYERS: str(len(layers))} if layers else {}),
        },
        system=tuple(sorted(set(options.system))),
        slim=tuple(sorted(set(options.slim))),
        scripts=script_form(base.interpreter.version),
        slim_rules=RULES if options.slim else 0,
        replace=tuple(f"{item.name}=={item.version}" for item in base.inventory.distributions if item.name in replaced),
        files=dict(options.files),
        layers=layers,
        addons=place_addons(addons),
    )


def list_shares(lock: Lock, addons: Sequence[AddonLock] = ()) -> list[Share]:
    """All that goes into the team's layers, with what decides into which."""
    shares = [Share(item.name, item.size, item.upload_time) for item in lock.packages]
    return [*shares, *(Share(name_addon(one.kind, item.name), item.size, item.released) for one in addons for item in one.addons)]


def make_annotations(base: Base, lock: Lock, lock_digest: str, options: ImageOptions) -> dict[str, str]:
    """What is said of the image and known before it is built; empty values are left out."""
    asked = {item.name: item.version for item in lock.packages if "requirements.in" in item.via or item.index == "local"}
    found = {
        names.CREATED: lock.cutoff,
        names.TITLE: options.title,
        names.DESCRIPTION: options.description,
        names.BASE_NAME: base.reference,
        names.BASE_DIGEST: str(base.pinned),
        names.FORMAT: str(RECIPE_FORMAT),
        names.TEAM: lock.team,
        names.QUARTER: lock.quarter,
        names.BASE: base.name,
        names.KIND: base.kind,
        names.PORT: str(PORT),
        names.PYTHON: base.interpreter.version,
        names.PACKAGES: json.dumps(asked, sort_keys=True, separators=(",", ":")),
        names.LOCK: lock_digest,
        names.OWNERS: json.dumps(list(options.owners), separators=(",", ":")),
    }
    return {key: value for key, value in found.items() if value}


def annotate_addons(locks: Sequence[AddonLock]) -> dict[str, str]:
    """The add-ons that the team asked for itself, with their versions; nothing where it has none."""
    asked = {
        name_addon(lock.kind, item.name): item.version
        for lock in locks
        for item in lock.addons
        if set(item.via) - {other.name for other in lock.addons}
    }
    return {names.ADDONS: json.dumps(asked, sort_keys=True, separators=(",", ":"))} if asked else {}


def created_epoch(created: str) -> int:
    """The cutoff as seconds since 1970."""
    from datetime import datetime

    return int(datetime.fromisoformat(created.replace("Z", "+00:00")).timestamp())
