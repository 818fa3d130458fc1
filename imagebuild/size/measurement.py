"""The account of a layer's files: per package, per kind, the largest, those the base has too, and what nothing else needs."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from imagebuild.addons.model import AddonLock, list_askers, list_needs
from imagebuild.base.model import Tree
from imagebuild.base.tree import SqliteTree
from imagebuild.layer.model import LayerFile, TeamLayers
from imagebuild.lock.file.model import Lock
from imagebuild.size.model import Copy, PackageSize, SizeReport, sum_kinds
from imagebuild.size.needs import find_needing_chain, measure_removals

MOST = 10
NO_PACKAGE = "(no package)"
FindContents = Callable[[Collection[str]], dict[str, str]]  # of SHA-256 in hex: those the base has, with a path


class MeasuredPackage(msgspec.Struct, frozen=True):
    """A package of a layer beside its files."""

    version: str
    compressed: int
    needs: tuple[str, ...] = ()
    via: tuple[str, ...] = ()


def summarise_files(
    files: Iterable[LayerFile],
    packages: Mapping[str, MeasuredPackage],
    *,
    subject: str,
    compressed: int,
    base: str,
    base_found: str,
    find_contents: FindContents | None = None,
    labels: Mapping[str, str] = {},
) -> SizeReport:
    """The report on ``files``; the stored bytes that no package has go to :data:`NO_PACKAGE`. ``labels``: names to show instead."""
    known = list(files)
    kinds: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    counts: dict[str, int] = defaultdict(int)
    for file in known:
        kinds[file.package][file.kind] += file.size
        counts[file.package] += 1
    via = {name: item.via for name, item in packages.items()}
    sizes = [
        PackageSize(
            name=labels.get(name, name),
            version=item.version,
            compressed=item.compressed,
            installed=sum(kinds[name].values()),
            kinds=dict(kinds[name]),
            files=counts[name],
            chain=find_needing_chain(name, via),
        )
        for name, item in packages.items()
    ]
    removals = measure_removals(sizes, {labels.get(name, name): item.needs for name, item in packages.items()})
    others = sorted(name for name in kinds if name not in packages)
    if others:
        together: dict[str, int] = defaultdict(int)
        for name in others:
            for kind, size in kinds[name].items():
                together[kind] += size
        left = max(0, compressed - sum(item.compressed for item in packages.values()))
        sizes.append(PackageSize(NO_PACKAGE, "", left, sum(together.values()), dict(together), sum(counts[name] for name in others)))
    ordered = tuple(sorted(sizes, key=lambda item: (-item.installed, item.name)))
    report = SizeReport(
        subject=subject,
        source="measured",
        base=base,
        base_found=base_found,
        compressed=compressed,
        installed=sum(file.size for file in known),
        packages=ordered,
        kinds=sum_kinds(ordered),
        files=len(known),
        largest=tuple(heapq.nlargest(MOST, known, key=lambda file: (file.size, file.path))),
        removals=removals,
    )
    return report if find_contents is None else _add_copies(report, known, find_contents)


def _add_copies(report: SizeReport, files: Sequence[LayerFile], find_contents: FindContents) -> SizeReport:
    of = find_contents({file.sha256 for file in files if file.sha256 and file.size})
    copies = [Copy(file.path, file.size, file.package, of[file.sha256]) for file in files if file.size and file.sha256 in of]
    copies.sort(key=lambda item: (-item.size, item.path))
    return msgspec.structs.replace(
        report, copies=tuple(copies[:MOST]), copies_count=len(copies), copies_size=sum(item.size for item in copies)
    )


def look_up_contents(tree: Tree) -> FindContents | None:
    """How a base that was read here answers which contents it has: of files up to 1 MiB in its site-packages (base/layers.py)."""
    return tree.find_contents if isinstance(tree, SqliteTree) else None


def measure_layers(made: TeamLayers, lock: Lock, addons: Sequence[AddonLock] = (), *, subject: str, tree: Tree) -> SizeReport:
    """The report on layers that were just built, before they are pushed; of a single one it names the digest."""
    needs = {**{item.name: item.dependencies for item in lock.packages}, **list_needs(addons)}
    via = {**{item.name: item.via for item in lock.packages}, **list_askers(addons)}
    packages = {
        item.package: MeasuredPackage(item.version, item.compressed, needs.get(item.package, ()), via.get(item.package, ()))
        for item in made.packages
    }
    report = summarise_files(
        made.files,
        packages,
        subject=subject,
        compressed=made.size,
        base=f"{lock.base} {lock.base_digest}",
        base_found="lock",
        find_contents=look_up_contents(tree),
    )
    digest = made.layers[0].digest if len(made.layers) == 1 else ""
    return msgspec.structs.replace(report, digest=digest, layers=len(made.layers))
