"""The size of a layer from its lock, before anything is downloaded.

What a wheel unpacks to is in its zip directory. Two things are not: the bytecode, which is made of the sources, and what the
layer's compressor makes of it all. Both follow the sources closely; the factors were measured on the members of 142 wheels
(bench/prediction.py measures them again, and docs/size.md has the figures).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from imagebuild.addons.model import AddonLock, list_askers, list_needs, name_addon
from imagebuild.layer.model import Codec
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.size.model import PackageSize, SizeReport, sum_kinds
from imagebuild.size.needs import find_needing_chain, measure_removals
from imagebuild.wheel.sizes import ShapeGroup, WheelShape
from imagebuild.wheel.slim import TESTS_BYTECODE

# Bytes of bytecode per byte of source; test code is denser. CPython 3.11.
_BYTECODE = {"code": 1.13, "tests": 1.77}
_BYTECODE_FILE = 1060  # and per file
# Stored bytes in a zstd 3 layer per byte that the wheel's own deflate leaves; sources with their bytecode.
_PACKED_SOURCES = {"code": 2.45, "tests": 3.5}
_PACKED = {"library": 0.88, "tests": 0.42, "metadata": 1.05}
_PACKED_OTHER = 0.95
_PACKED_ARCHIVE = _PACKED_OTHER  # of an add-on, whose archive is deflate's too
_PACKED_WITHOUT_BYTECODE = 0.9
# Other codecs and levels, as a ratio to zstd 3.
_CODECS = {
    "zstd": {1: 1.164, 3: 1.0, 6: 0.906, 9: 0.864, 12: 0.851, 15: 0.84, 19: 0.76},
    "gzip": {0: 1.375, 1: 1.283, 2: 1.262, 3: 1.233},
}
_CHUNKED = 1.16  # stored bytes of a zstd:chunked layer to those of the plain one (bench/heavy)
_RECORD_ROW = 32  # bytes that a .pyc adds to RECORD beside its folder's and its source's name
# Where the wheel's directory could not be read: the whole heavy set's ratios to wheel and unpacked size.
_COARSE_COMPRESSED, _COARSE_INSTALLED = 1.1, 1.35


def compare_codec(codec: Codec) -> float:
    """How many bytes ``codec`` stores for one of zstd 3; between measured levels on a straight line."""
    factor = _CHUNKED if codec.chunked else 1.0
    points = sorted(_CODECS[codec.compression].items())
    for (low, below), (high, above) in itertools.pairwise(points):
        if low <= codec.level <= high:
            return factor * (below + (above - below) * (codec.level - low) / (high - low))
    return factor * (points[-1][1] if codec.level > points[-1][0] else points[0][1])


def _predict_group(kind: str, group: ShapeGroup, bytecode: bool) -> tuple[float, dict[str, float]]:
    """Stored bytes under zstd 3, and installed bytes by kind."""
    others = group.packed - group.source_packed
    sources = _PACKED_SOURCES.get(kind, _PACKED_SOURCES["code"]) if bytecode else _PACKED_WITHOUT_BYTECODE
    stored = others * _PACKED.get(kind, _PACKED_OTHER) + group.source_packed * sources
    installed: dict[str, float] = {kind: group.size}
    if bytecode and group.sources:
        compiled = group.source_size * _BYTECODE.get(kind, _BYTECODE["code"]) + group.sources * _BYTECODE_FILE
        where = "tests" if kind == "tests" else "bytecode"
        installed[where] = installed.get(where, 0) + compiled
        installed["metadata"] = installed.get("metadata", 0) + group.source_names + group.sources * _RECORD_ROW
    return stored, installed


def predict_package(
    package: LockedPackage, shape: WheelShape | None, codec: Codec, *, bytecode: bool = True, slim: tuple[str, ...] = ()
) -> PackageSize:
    """What ``package`` will add to a layer. Without a shape it is a coarse guess from the lock's two sizes, and marked so."""
    ratio = compare_codec(codec)
    if shape is None:
        installed = round(package.installed_size * (_COARSE_INSTALLED if bytecode else 1))
        return PackageSize(
            package.name, package.version, round(package.size * _COARSE_COMPRESSED * ratio), installed, {"data": installed}, coarse=True
        )
    stored, kinds, files = 0.0, dict[str, float](), 3
    for kind, group in shape.groups.items():
        if kind in slim:
            continue
        compiled = bytecode and not (kind == "tests" and TESTS_BYTECODE in slim)
        share, parts = _predict_group(kind, group, compiled)
        stored += share
        files += group.files + (group.sources if compiled else 0)
        for name, size in parts.items():
            kinds[name] = kinds.get(name, 0) + size
    rounded = {name: round(size) for name, size in kinds.items() if size}
    return PackageSize(package.name, package.version, round(stored * ratio), sum(rounded.values()), rounded, files)


def predict_lock(
    lock: Lock, shapes: Mapping[str, WheelShape], codec: Codec, *, bytecode: bool = True, slim: tuple[str, ...] = ()
) -> tuple[PackageSize, ...]:
    """Every package of the lock, largest first, with who asked for it."""
    via = {item.name: item.via for item in lock.packages}
    found = []
    for package in lock.packages:
        size = predict_package(package, shapes.get(package.name), codec, bytecode=bytecode, slim=slim)
        found.append(
            PackageSize(
                size.name,
                size.version,
                size.compressed,
                size.installed,
                size.kinds,
                size.files,
                find_needing_chain(size.name, via),
                size.coarse,
            )
        )
    return tuple(sorted(found, key=lambda item: (-item.installed, item.name)))


def predict_addons(locks: Sequence[AddonLock], codec: Codec) -> tuple[PackageSize, ...]:
    """Every add-on of some locks: unpacked as the lock has it; stored about as its own archive stores it."""
    via = list_askers(locks)
    found = []
    for lock in locks:
        for item in lock.addons:
            name, stored = name_addon(lock.kind, item.name), round(item.size * _PACKED_ARCHIVE * compare_codec(codec))
            chain = find_needing_chain(name, via)
            found.append(PackageSize(name, item.version, stored, item.installed, {"data": item.installed}, chain=chain))
    return tuple(found)


def find_unknown(lock: Lock) -> tuple[str, ...]:
    """Packages whose size is not in the lock."""
    return tuple(item.name for item in lock.packages if not item.size or not item.installed_size)


def predict_report(
    subject: str,
    lock: Lock,
    shapes: Mapping[str, WheelShape],
    codec: Codec,
    *,
    bytecode: bool = True,
    slim: tuple[str, ...] = (),
    extra: int = 0,
    addons: Sequence[AddonLock] = (),
) -> SizeReport:
    """The report of a lock and of ``addons``; ``extra``: installed bytes of files that no wheel brings."""
    wheels = predict_lock(lock, shapes, codec, bytecode=bytecode, slim=slim)
    packages = tuple(sorted((*wheels, *predict_addons(addons, codec)), key=lambda item: (-item.installed, item.name)))
    coarse = [item.name for item in packages if item.coarse]
    notes = [f"{len(coarse)} packages guessed from their wheels' sizes alone: {', '.join(coarse[:5])}"] if coarse else []
    return SizeReport(
        subject=subject,
        source="predicted",
        base=f"{lock.base} {lock.base_digest}",
        base_found="lock",
        compressed=sum(item.compressed for item in packages),
        installed=sum(item.installed for item in packages) + extra,
        packages=packages,
        kinds=sum_kinds(packages),
        files=sum(item.files for item in packages),
        removals=measure_removals(packages, {**{item.name: item.dependencies for item in lock.packages}, **list_needs(addons)}),
        notes=tuple(notes),
    )
