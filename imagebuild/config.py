"""``images/<team>/team.toml``: what a team says about its image. Keys are kebab-case; every one but ``base`` has a default."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

import msgspec

from imagebuild.addons.model import ADDON_KINDS, AddonKind, Wish
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.files import read_regular
from imagebuild.layer.model import CHUNKED, Codec, check_codec
from imagebuild.lock.file.model import SourceRules
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.index.tables import IndexTable, check_tables, combine_indexes, list_indexes, load_shared_indexes
from imagebuild.lock.inputs.resolverules import ResolveRules, make_rules
from imagebuild.oci.model import Platform
from imagebuild.supply.policy import AuditRules, LicenceRules, Policy, check_policy
from imagebuild.text import suggest
from imagebuild.toml import decode_toml, refuse_characters
from imagebuild.wheel.slim import TESTS_BYTECODE

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*")
_PERCENT = re.compile(r"\s*([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*%\s*")
_DAYS = re.compile(r"\s*([0-9]{1,4})\s*(?:d|days?)\s*")
_SEPARATORS = re.compile(r"[-_.]+")
_TEAM_NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SYSTEM_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~-]+)?")  # deb-version(7)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_R_PACKAGES = "packages.R.txt"
_LARGEST_LIST = 1 << 20  # bytes of it
_LINE_END = re.compile(r"\n")  # a Dockerfile has no way to write one: the two engines would give two values


def parse_size(text: str | int) -> int:
    """``"300 MiB"``, ``"1.5GB"`` or a plain number, in bytes."""
    if isinstance(text, int):
        return text
    match = _SIZE.fullmatch(text)
    if match is None or match[2].upper() not in _UNITS:
        raise ConfigurationError(f"not a size: {text!r}", 'write a number and a unit, as in "300 MiB" or "1.5 GB"')
    return int(float(match[1]) * _UNITS[match[2].upper()])


def parse_days(text: str) -> int:
    """``"7 days"`` or ``"7d"`` as 7; ConfigurationError for anything else."""
    match = _DAYS.fullmatch(text)
    if match is None:
        raise ConfigurationError(f"not a number of days: {text!r}", 'write a number of days, as in "7 days" or "7d"')
    return int(match[1])


class BudgetRules(msgspec.Struct, frozen=True):
    """A budget in bytes. ``growth`` is a share: 0.1 for ten per cent; None for no limit."""

    compressed: int
    installed: int
    growth: float | None = None
    packages: dict[str, int] = {}  # normalised names


class Budget(msgspec.Struct, frozen=True, rename="kebab"):
    """How large the team's layer may be: as stored in the registry, and unpacked on a node."""

    compressed: str | int = "300 MiB"
    installed: str | int = "1 GiB"
    growth: str = ""  # at most so much more than the team's last image, as in "10%"
    packages: dict[str, str | int] = {}  # name (numpy, vscode:ms-python.python) -> how much it may unpack to

    @property
    def rules(self) -> BudgetRules:
        """The limits as numbers; ConfigurationError for an invalid one."""
        growth = _PERCENT.fullmatch(self.growth)
        if self.growth and growth is None:
            raise ConfigurationError(f"not a limit of growth: {self.growth!r}", 'write a percentage, as in "10%"')
        return BudgetRules(
            parse_size(self.compressed),
            parse_size(self.installed),
            float(growth[1]) / 100 if growth else None,
            {_normalize_name(name): parse_size(size) for name, size in self.packages.items()},
        )


def _normalize_name(name: str) -> str:
    """A Python package's name as locks have it; an add-on's (``r:data.table``) stays as it is."""
    return name if ":" in name else _SEPARATORS.sub("-", name).lower()


class LayerOptions(msgspec.Struct, frozen=True, rename="kebab"):
    """How the layer is compressed, and whether it is several."""

    compression: Literal["zstd", "gzip"] = "zstd"
    level: int | None = None
    single_stream: bool = False
    split: bool = False  # large wheels in layers of their own: imagebuild.layer.splitting
    format: Literal["plain", "zstd:chunked"] = "plain"  # the latter: imagebuild.layer.chunked

    @property
    def codec(self) -> Codec:
        """The codec these options ask for; zstd level 3 and gzip level 2 unless said otherwise."""
        default = 3 if self.compression == "zstd" else 2
        if self.format == CHUNKED and (self.single_stream or self.compression != "zstd"):
            other = "single-stream = true" if self.single_stream else f'compression = "{self.compression}"'
            raise ConfigurationError(
                f'[layer] has format = "zstd:chunked", which is many zstd frames, and {other}, which is not', "leave one of them out"
            )
        name = CHUNKED if self.format == CHUNKED else self.compression
        codec = Codec(name, default if self.level is None else self.level, self.single_stream)
        check_codec(codec)
        return codec


class SystemTable(msgspec.Struct, frozen=True, rename="kebab"):
    """Debian packages that the docker engine installs with apt, beside the wheels and in the same layer."""

    packages: tuple[str, ...] = ()


class SourceTable(msgspec.Struct, frozen=True, rename="kebab"):
    """Packages without a wheel for the base, built from their source archives inside it (needs docker)."""

    packages: tuple[str, ...] = ()
    system: tuple[str, ...] = ()  # Debian packages for the build, none of them in the image
    requires: tuple[str, ...] = ()  # requirements beside those of the archive's own pyproject.toml


class SmokeTable(msgspec.Struct, frozen=True, rename="kebab"):
    """What ``imagebuild smoke`` does not hold against the image. No part of the image's key."""

    ignore: tuple[str, ...] = ()  # dotted names (fnmatch patterns) of modules that need not import


class ResolveTable(msgspec.Struct, frozen=True, rename="kebab"):
    """What a resolver gets besides requirements.in; see :mod:`imagebuild.lock.inputs.resolverules`."""

    exclude: tuple[str, ...] = ()  # nobody gets it, whoever asks
    override: tuple[str, ...] = ()  # this instead of what anybody asks


class RTable(msgspec.Struct, frozen=True, rename="kebab"):
    """R packages; more may be in packages.R.txt."""

    packages: tuple[str, ...] = ()  # data.table, xgboost>=1.7


class VSCodeTable(msgspec.Struct, frozen=True, rename="kebab"):
    """VS Code extensions; more may lie as .vsix files in extensions/."""

    extensions: tuple[str, ...] = ()  # charliermarsh.ruff, ms-python.python==2026.2.0


class LockTable(msgspec.Struct, frozen=True, rename="kebab"):
    """How the team's lock is made."""

    cooldown: str = ""  # nothing younger than that is locked: "7 days"


class TeamTable(msgspec.Struct, frozen=True, rename="kebab"):
    """The file as written."""

    base: str
    display_name: str = ""
    description: str = ""
    owners: tuple[str, ...] = ()
    engine: Literal["auto", "direct", "docker"] = "auto"
    platform: str = "linux/amd64"
    personal_constraints: bool = True
    slim: tuple[Literal["headers", "pyi", "static-libs", "tests"], ...] = ()  # what wheels leave out (imagebuild.wheel.slim)
    bytecode: Literal["all", "imported"] = "all"  # imported: none of test packages
    budget: Budget = Budget()
    layer: LayerOptions = LayerOptions()
    env: dict[str, str] = {}
    index: tuple[IndexTable, ...] = ()
    replace: tuple[str, ...] = ()  # what of the base the lock may bring anew: numpy, r:data.table, vscode:ms-python.python
    protect: tuple[str, ...] | None = None  # frameworks that must not come twice; None: imagebuild.lock.file.replacement.PROTECTED
    machine_index: bool | None = None  # whether names that no [[index]] claims come from this machine's own; None: as indexes.toml says
    system: SystemTable = SystemTable()
    source: SourceTable = SourceTable()
    r: RTable = RTable()
    vscode: VSCodeTable = VSCodeTable()
    resolve: ResolveTable = ResolveTable()
    lock: LockTable = LockTable()
    files: dict[str, str] = {}  # path or pattern below site-packages -> the package that owns it, where several bring it
    licences: LicenceRules = LicenceRules()
    audit: AuditRules = AuditRules()
    smoke: SmokeTable = SmokeTable()

    @property
    def left_out(self) -> tuple[str, ...]:
        """What wheels leave out, of files and of bytecode."""
        return (*self.slim, TESTS_BYTECODE) if self.bytecode == "imported" else self.slim

    @property
    def policy(self) -> Policy:
        """What the team says about licences and findings."""
        return Policy(self.licences, self.audit)


class Team(msgspec.Struct, frozen=True):
    """A team with its files found."""

    name: str
    table: TeamTable
    requirements: Path
    local_packages: tuple[Path, ...]

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform.parse(self.table.platform)

    @property
    def source(self) -> SourceRules:
        """What may be built from source, and with what."""
        from packaging.utils import canonicalize_name

        table = self.table.source
        return SourceRules(frozenset(canonicalize_name(name) for name in table.packages), table.system, table.requires)

    @property
    def protect(self) -> tuple[str, ...]:
        """Names (``*`` allowed) of frameworks: of what the base has of them, no second one is added, and none is replaced."""
        from imagebuild.lock.file.replacement import PROTECTED

        return PROTECTED if self.table.protect is None else self.table.protect

    @property
    def rules(self) -> ResolveRules:
        """What is left out and overridden; ConfigurationError for what is not a requirement."""
        from packaging.requirements import InvalidRequirement

        try:
            return make_rules(self.table.resolve.exclude, self.table.resolve.override)
        except (InvalidRequirement, ValueError) as error:
            path = self.requirements.parent / "team.toml"
            raise ConfigurationError(f"{path}: [resolve]: {str(error).splitlines()[0]}", 'write override = ["numpy>=2,<3"]') from None

    @property
    def cooldown(self) -> int:
        """Days that a file must have been on its index before it is locked; 0 for none."""
        return parse_days(self.table.lock.cooldown) if self.table.lock.cooldown else 0

    @property
    def files(self) -> dict[str, str]:
        """Who owns a path that several packages bring: as written, the names normalised."""
        from packaging.utils import canonicalize_name

        return {row: canonicalize_name(owner) for row, owner in self.table.files.items()}

    @property
    def indexes(self) -> tuple[PackageIndex, ...]:
        """The team's indexes, the shared ones, and the machine's own unless one is the default or it is not to be used."""
        folder = self.requirements.parent
        return combine_indexes(folder / "team.toml", self.table.index, load_shared_indexes(folder.parent), self.table.machine_index)

    @property
    def replace(self) -> tuple[str, ...]:
        """The distributions of the base's Python that may give way."""
        return tuple(name for name in self.table.replace if ":" not in name)

    def list_replaced(self, kind: AddonKind) -> frozenset[str]:
        """The add-ons of the base that may give way, without their kind."""
        return frozenset(name.removeprefix(f"{kind}:") for name in self.table.replace if name.startswith(f"{kind}:"))

    def list_indexes(self, kind: str) -> tuple[PackageIndex, ...]:
        """The team's and the shared indexes of one kind, as written: the machine's own is not among them."""
        folder = self.requirements.parent
        found = list_indexes(folder / "team.toml", self.table.index, load_shared_indexes(folder.parent))
        return tuple(item for item in found if item.kind == kind)

    @property
    def addon_kinds(self) -> tuple[AddonKind, ...]:
        """The kinds of add-ons that the team asks for."""
        return tuple(kind for kind in ADDON_KINDS if self.list_wishes(kind) or self.list_archives(kind))

    def list_wishes(self, kind: AddonKind) -> tuple[Wish, ...]:
        """The add-ons that team.toml and packages.R.txt ask for."""
        if kind == "vscode":
            return tuple(Wish(text, "team.toml") for text in self.table.vscode.extensions)
        found = [Wish(text, "team.toml") for text in self.table.r.packages]
        return (*found, *_read_r_packages(self.r_packages)) if self.r_packages.is_file() else tuple(found)

    def list_archives(self, kind: AddonKind) -> tuple[Path, ...]:
        """The .vsix files in the team's folder, by name."""
        return tuple(sorted((self.requirements.parent / "extensions").glob("*.vsix"))) if kind == "vscode" else ()

    @property
    def r_packages(self) -> Path:
        """Where R packages may be listed, one a line."""
        return self.requirements.parent / _R_PACKAGES


def _read_r_packages(path: Path) -> list[Wish]:
    text = read_regular(path, _LARGEST_LIST, path.name).decode("utf-8", "replace")
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return [Wish(line, f"{path.name} line {number}") for number, line in enumerate(lines, 1) if line]


def list_teams(images: Path) -> tuple[str, ...]:
    """Folders under ``images/`` that hold a team.toml."""
    return tuple(sorted(path.parent.name for path in images.glob("*/team.toml")))


def check_team_name(name: str) -> None:
    """UsageError for what cannot be a team: its name becomes a folder, a repository and part of a file's name."""
    if not _TEAM_NAME.fullmatch(name):
        raise UsageError(f"not a team name: {name!r}", "lower-case letters, digits and single hyphens, as in images/cosml")


def _check_words(table: TeamTable, path: Path) -> None:
    """ConfigurationError for names that the table may not have."""
    for variable in table.env:
        if not _ENVIRONMENT_NAME.fullmatch(variable):
            raise ConfigurationError(f"{path}: not an environment variable's name: {variable!r}", "letters, digits and underscores")
    for wanted in (*table.system.packages, *table.source.system):
        if not _SYSTEM_PACKAGE.fullmatch(wanted):
            raise ConfigurationError(
                f"{path}: not a Debian package: {wanted!r}", 'write "graphviz", or "graphviz=2.42.2-7" for one version'
            )
    for replaced in table.replace:
        if ":" in replaced and not replaced.startswith(("r:", "vscode:")):
            raise ConfigurationError(f"{path}: replace: {replaced!r} has no known kind", 'write "vscode:ms-python.python"')


def _check_engine(table: TeamTable, path: Path) -> None:
    """ConfigurationError for an engine that cannot do what the table asks for."""
    if table.system.packages and table.engine == "direct":
        raise ConfigurationError(
            f'{path}: [system] packages need the docker engine, and engine is "direct"', 'set engine = "auto", or leave [system] out'
        )
    if table.layer.split and table.engine == "docker":
        raise ConfigurationError(
            f'{path}: split = true in [layer] needs the direct engine (one RUN makes one layer), and engine is "docker"',
            'set engine = "auto", or leave split out',
        )


def load_team(images: Path, name: str) -> Team:
    """Read and check one team's folder; an unknown team is a UsageError that names the closest one."""
    folder = images / name
    check_team_name(name)
    if not os.path.lexists(folder / "team.toml"):
        raise UsageError(
            f"there is no team {name!r}", f"{suggest(name, list(list_teams(images)))} (a team is a folder with a team.toml in {images})"
        )
    path = folder / "team.toml"
    table = decode_toml(path, TeamTable)
    refuse_characters(msgspec.to_builtins(table), path, _LINE_END)
    try:
        Platform.parse(table.platform)
        _ = table.budget.rules
        _ = table.layer.codec
        _ = parse_days(table.lock.cooldown) if table.lock.cooldown else 0
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error.message}", error.hint) from None
    check_policy(table.policy, path)
    _check_words(table, path)
    _check_engine(table, path)
    check_tables(path, table.index)
    # What is wrong with the indexes is said before anything is built.
    list_indexes(path, table.index, load_shared_indexes(images))
    for line in table.source.requires:
        from packaging.requirements import InvalidRequirement, Requirement

        try:
            Requirement(line)
        except InvalidRequirement:
            raise ConfigurationError(f"{path}: not a requirement: {line!r}", 'write it as in "cython<3"') from None
    builds_r = table.r.packages or (folder / _R_PACKAGES).is_file()  # any of them may be source only
    if ((table.source.system and not builds_r) or table.source.requires) and not table.source.packages:
        raise ConfigurationError(f"{path}: [source] has options but does not name packages", 'name the packages: packages = ["name"]')
    requirements = folder / "requirements.in"
    if not requirements.exists():
        raise ConfigurationError(f"{requirements} is missing", "list the team's packages there, one requirement a line")
    packages = folder / "packages"
    found = sorted(path for path in packages.iterdir() if path.is_dir() and not path.name.startswith(".")) if packages.is_dir() else []
    for package in found:
        if not (package / "pyproject.toml").is_file():
            raise ConfigurationError(f"{package} has no pyproject.toml", "an internal package is a PEP 517 source tree; add one")
    team = Team(name, table, requirements, tuple(found))
    _ = team.rules
    return team
