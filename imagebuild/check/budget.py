"""The size a layer may add to its base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from imagebuild.errors import BudgetError
from imagebuild.layer.model import Layer, PackageBytes


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def tabulate_packages(packages: Sequence[PackageBytes], most: int = 10) -> tuple[str, ...]:
    """The largest packages, a line each: name, version, compressed and installed size."""
    shown = packages[:most]
    width = max((len(f"{item.package} {item.version}") for item in shown), default=0)
    lines = [
        f"  {f'{item.package} {item.version}':<{width}}  {_mib(item.compressed):>12} stored  {_mib(item.installed):>12} unpacked"
        for item in shown
    ]
    rest = packages[most:]
    if rest:
        stored, unpacked = sum(item.compressed for item in rest), sum(item.installed for item in rest)
        lines.append(f"  {f'and {len(rest)} more':<{width}}  {_mib(stored):>12} stored  {_mib(unpacked):>12} unpacked")
    return tuple(lines)


def check_layer(layer: Layer, *, compressed: int, installed: int, via: Mapping[str, Sequence[str]]) -> None:
    """Raise :class:`BudgetError` when the layer is over either limit (bytes); the packages are listed by size.

    ``via`` tells who asked for a package, to say where to start.
    """
    over = [
        f"{_mib(size)} {word} of {_mib(limit)} allowed"
        for size, limit, word in ((layer.size, compressed, "stored"), (layer.installed, installed, "unpacked"))
        if size > limit
    ]
    if not over:
        return
    largest = layer.packages[0] if layer.packages else None
    asked = ", ".join(via.get(largest.package, ())) if largest else ""
    first = f"start with {largest.package} (asked for by {asked or 'the lock'}), or raise [budget] in team.toml" if largest else ""
    raise BudgetError(f"over budget: {' and '.join(over)}; nothing was pushed", first, tabulate_packages(layer.packages))


def check_prediction(sizes: Mapping[str, tuple[int, int]], *, compressed: int, installed: int, via: Mapping[str, Sequence[str]]) -> None:
    """Refuse before any download what cannot fit: wheels (bytes of the wheel, bytes unpacked) per package.

    Unpacked bytes are a lower bound of what the layer holds (bytecode comes on top). Stored bytes are compared only when
    the wheels are more than twice the limit, since a wheel and a layer member compress differently.
    """
    total = sum(unpacked for _, unpacked in sizes.values())
    wheels = sum(wheel for wheel, _ in sizes.values())
    if total <= installed and wheels <= 2 * compressed:
        return
    by_size = sorted(
        (PackageBytes(name, "", wheel, unpacked) for name, (wheel, unpacked) in sizes.items()), key=lambda item: -item.installed
    )
    what = (
        f"{_mib(total)} unpacked of {_mib(installed)} allowed"
        if total > installed
        else f"{_mib(wheels)} of wheels for {_mib(compressed)} stored"
    )
    asked = ", ".join(via.get(by_size[0].package, ()))
    raise BudgetError(
        f"over budget before any download: {what}; nothing was built",
        f"start with {by_size[0].package} (asked for by {asked or 'the lock'}), or raise [budget] in team.toml",
        tabulate_packages(by_size),
    )
