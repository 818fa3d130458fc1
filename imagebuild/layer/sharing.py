"""Which package of several a file of the layer comes from, and which files the base has already."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from imagebuild.base.model import Interpreter
from imagebuild.errors import BuildError
from imagebuild.layer.bytecode import locate_source
from imagebuild.layer.model import FileFact, Member
from imagebuild.layer.placement import FolderResolver, normalise_path
from imagebuild.text import first_lines
from imagebuild.wheel.collisions import Collision, explain_collisions, settle_path

_SHOWN = 20  # conflicts listed in one error
NO_FILES: Mapping[str, str] = {}


class Exclusions(msgspec.Struct, frozen=True):
    """Final paths that a package leaves out. ``shared``: RECORD lists them all the same; ``yielded``: another's, and in RECORD neither."""

    shared: dict[str, frozenset[str]]
    yielded: dict[str, frozenset[str]]


class _Claim(msgspec.Struct, frozen=True):
    package: str
    fact: FileFact
    follows: bool = False  # bytecode of a source that is there already: whatever its bytes are


class _Judge:
    """Settles one path after another; what was found is in the fields."""

    def __init__(self, folders: FolderResolver, interpreter: Interpreter, files: Mapping[str, str]) -> None:
        self.shared: dict[str, set[str]] = {}
        self.yielded: dict[str, set[str]] = {}
        self.owners: dict[str, str] = {}
        self.collisions: list[Collision] = []
        self.conflicts: list[str] = []
        self._folders = folders
        self._files = files
        self._sites = [folders.resolve(normalise_path(interpreter.paths[scheme])) for scheme in ("purelib", "platlib")]

    def judge(self, path: str, claims: Sequence[_Claim]) -> None:
        """Decide whose ``path`` is; ``claims`` in the packages' order."""
        if len(claims) == 1:
            self.owners[path] = claims[0].package
            self._compare_with_base(claims[0])
            return
        firm = [claim for claim in claims if not claim.follows]
        settled = settle_path(
            self._name_row(path), {claim.package: (claim.fact.sha256, claim.fact.mode) for claim in firm or claims[:1]}, self._files
        )
        if isinstance(settled, Collision):
            self.collisions.append(settled)
            return
        self.owners[path] = settled.owner
        for claim in claims:
            if claim.package == settled.owner:
                self._compare_with_base(claim)
            else:
                kind = self.yielded if claim.package in settled.yielding else self.shared
                kind.setdefault(claim.package, set()).add(path)

    def find_claims(self, members: Sequence[Member], cache_tag: str, *, bytecode: bool) -> Iterator[tuple[str, list[_Claim]]]:
        """The claims on each path of sources and all else, or of bytecode; that of a source left to its owner is the owner's too."""
        suffix = f".{cache_tag}.pyc"
        found: dict[str, list[_Claim]] = {}
        for member in members:
            shared, yielded = self.shared.get(member.package), self.yielded.get(member.package)
            for fact in member.files:
                if (fact.kind == "bytecode") is not bytecode:
                    continue
                follows = False
                if bytecode and (shared or yielded) and fact.path.endswith(suffix):
                    source = locate_source(fact.path)
                    if yielded and source in yielded:
                        yielded.add(fact.path)
                        continue
                    follows = shared is not None and source in shared
                found.setdefault(fact.path, []).append(_Claim(member.package, fact, follows))
        yield from found.items()

    def _compare_with_base(self, claim: _Claim) -> None:
        fact = claim.fact
        entry = self._folders.get(fact.path)
        if entry is None:
            return
        if entry.type == "file" and (claim.follows or (entry.size == fact.size and (entry.sha256 == fact.sha256 or fact.size == 0))):
            self.shared.setdefault(claim.package, set()).add(fact.path)
        else:
            kind = {"file": "a file", "dir": "a folder", "symlink": "a symbolic link"}.get(entry.type, "an entry")
            self.conflicts.append(f"{claim.package} would change {kind} of the base: {fact.path}")

    def _name_row(self, path: str) -> str:
        """As RECORD has it: relative to the site-packages folder that it lies in, else to the first."""
        site = next((site for site in self._sites if path.startswith(f"{site}/")), "")
        return path[len(site) + 1 :] if site else posixpath.relpath(path, self._sites[0])


def find_exclusions(
    members: Sequence[Member], folders: FolderResolver, *, interpreter: Interpreter, files: Mapping[str, str] = NO_FILES
) -> Exclusions:
    """What each package leaves out, because an earlier one (by name) or the base has the same file, or because it is another's.

    Different content at one path belongs to the package that ``files`` names (paths as RECORD has them); without one, or where a file
    is in the place of another's folder, it is a BuildError that names the packages and the paths. Bytecode follows its source.
    """
    ordered = sorted(members, key=lambda member: member.package)
    judge = _Judge(folders, interpreter, files)
    for bytecode in (False, True):  # sources first: what happens to them decides about their bytecode
        for path, claims in judge.find_claims(ordered, interpreter.cache_tag, bytecode=bytecode):
            judge.judge(path, claims)
    for folder, user in find_folder_owners(judge.owners.items()).items():
        if folder in judge.owners:
            judge.conflicts.append(f"{judge.owners[folder]} brings {folder} as a file, {user} needs a folder there")
    if judge.collisions:
        raise explain_collisions(judge.collisions)
    if judge.conflicts:
        raise BuildError(
            judge.conflicts[0],
            "leave one of them out, pin versions that agree, or choose a base without the clash",
            first_lines(judge.conflicts[1:], _SHOWN - 1),
        )
    return Exclusions(
        {package: frozenset(paths) for package, paths in judge.shared.items()},
        {package: frozenset(paths) for package, paths in judge.yielded.items()},
    )


def find_folder_owners(paths: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Every ancestor of the (path, package) pairs, with one package that needs it."""
    found: dict[str, str] = {}
    for path, package in paths:
        folder = path.rpartition("/")[0]
        while folder and folder not in found:
            found[folder] = package
            folder = folder.rpartition("/")[0]
    return found
