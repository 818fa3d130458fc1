"""The report as text: bars on a terminal, plain columns elsewhere."""

from __future__ import annotations

from collections.abc import Iterable

from imagebuild.size.model import Comparison, Limit, SizeReport
from imagebuild.table import format_table
from imagebuild.text import format_size, name_some

_MOST = 15
_BLOCKS = " ▏▎▍▌▋▊▉█"


def draw_bar(share: float, width: int) -> str:
    """A bar of ``width`` cells, filled to ``share`` (0 to 1) in eighths of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_BLOCKS[rest] if rest else "")).ljust(width)


def format_size_report(report: SizeReport, *, bars: bool = False, width: int = 80, everything: bool = False) -> str:
    """The whole report. ``bars``: for a terminal of ``width`` columns; ``everything``: every package, not the largest alone."""
    lines = [
        f"{report.subject}: {report.source}, above {report.base} (known by: {report.base_found})",
        f"  layer     {format_size(report.compressed)} stored, {format_size(report.installed)} unpacked, {report.files} files"
        + (f", {report.layers} layers" if report.layers != 1 else ""),
    ]
    if report.built is not None:
        lines.append(f"  built     {describe_built(report, report.built)}")
    lines += _format_limits(report.limits, bars)
    lines += ["", *_format_packages(report, bars, width, everything), "", *_format_kinds(report, bars, width)]
    if report.largest:
        lines += ["", "largest files", *(f"  {format_size(item.size):>10}  {item.path}" for item in report.largest)]
    if report.removals:
        lines += ["", "nothing else needs" + " " * 12 + "leaving it out frees"]
        for item in report.removals[:_MOST]:
            along = f"  with {name_some(item.along)}" if item.along else ""
            lines.append(f"  {item.name:<26}  {format_size(item.compressed):>10} stored  {format_size(item.installed):>10} unpacked{along}")
    if report.copies_count > 0:
        lines += ["", f"the base has {report.copies_count} of these files too ({format_size(report.copies_size)})"]
        lines += [f"  {format_size(item.size):>10}  {item.path}  =  {item.of}" for item in report.copies]
    if report.hidden:
        lines += ["", f"{format_size(report.hidden)} unpacked are replaced or deleted by a higher layer, and still pulled"]
    lines += [f"note: {note}" for note in report.notes]
    return "\n".join(lines) + "\n"


def describe_built(report: SizeReport, built: Comparison) -> str:
    """What the image built from the same lock has, and by how much the prediction is off."""
    errors = [f"{100 * (mine - real) / real:+.1f} %" for mine, real in _pair(report, built) if real]
    return (
        f"{format_size(built.compressed)} stored, {format_size(built.installed)} unpacked in {built.image}; "
        f"the prediction is off by {' and '.join(errors)}"
    )


def _pair(report: SizeReport, built: Comparison) -> tuple[tuple[int, int], tuple[int, int]]:
    return (report.compressed, built.compressed), (report.installed, built.installed)


def _format_limits(limits: Iterable[Limit], bars: bool) -> list[str]:
    lines = []
    for limit in limits:
        size = "unknown" if limit.size is None else format_size(limit.size)
        share = 1.0 if limit.size is None else limit.size / limit.limit if limit.limit else float(limit.size > 0)
        bar = f"  {draw_bar(share, 20)}" if bars else ""
        name = f"{limit.package} {limit.what}".strip()
        lines.append(f"  budget   {bar} {size} of {format_size(limit.limit)} {name}, {share:.0%}{'  OVER' if limit.over else ''}")
    return lines


def _format_packages(report: SizeReport, bars: bool, width: int, everything: bool) -> list[str]:
    shown = report.packages if everything else report.packages[:_MOST]
    rest = report.packages[len(shown) :]
    rows = [(f"{item.name} {item.version}".strip(), item.compressed, item.installed, " > ".join(item.chain[:-1])) for item in shown]
    if rest:
        rows.append((f"and {len(rest)} more", sum(item.compressed for item in rest), sum(item.installed for item in rest), ""))
    name_width = max((len(row[0]) for row in rows), default=7)
    room = max(8, min(40, width - name_width - 28))
    most = max((row[2] for row in rows[: len(shown)]), default=1) or 1
    cells = [("package", "stored", "unpacked", "" if bars else "asked for by")]
    for name, stored, unpacked, asked in rows:
        tail = draw_bar(unpacked / most, room).rstrip() if bars else asked
        cells.append((name, format_size(stored), format_size(unpacked), tail))
    return format_table(cells, right=(1, 2), least=(0, 10, 10))


def _format_kinds(report: SizeReport, bars: bool, width: int) -> list[str]:
    most = max(report.kinds.values(), default=1) or 1
    total = report.installed or 1
    lines = ["kind              unpacked"]
    for kind, size in report.kinds.items():
        tail = f"  {draw_bar(size / most, max(8, min(40, width - 36))).rstrip()}" if bars else ""
        lines.append(f"{kind:<14}  {format_size(size):>10}  {size / total:>4.0%}{tail}")
    return lines
