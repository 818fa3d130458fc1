"""The report as one page that needs nothing else: no script of others, no font, no picture, no request."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from imagebuild.size.document import render_document
from imagebuild.size.model import Limit, PackageSize, SizeReport
from imagebuild.size.terminal import describe_built
from imagebuild.size.treemap import Rectangle, lay_out
from imagebuild.text import format_size

_WIDTH, _HEIGHT = 1120.0, 620.0
_TITLE = 19.0  # height of a package's heading in the map
_LETTER = 6.7  # width of a letter of it
KIND_TEXTS = {
    "code": "Python sources",
    "bytecode": "bytecode",
    "library": "shared libraries",
    "data": "data and the rest",
    "tests": "tests, with their bytecode",
    "pyi": "type stubs",
    "headers": "headers",
    "static-libs": "static libraries",
    "metadata": "metadata",
}


def render_size_page(report: SizeReport, *, back: str = "") -> bytes:
    """HTML 5 in UTF-8. ``back``: the URL of the catalogue's page that leads here."""
    notes = "".join(f"<p class=note>{escape(note)}</p>" for note in report.notes)
    return render_document(
        f"{report.subject}: {format_size(report.installed)} added",
        [
            _render_head(report),
            _render_limits(report.limits),
            f"<h2>By package and kind</h2>{_render_legend(report)}{render_map(report.packages)}",
            _render_packages(report),
            _render_rest(report),
            notes,
        ],
        back=back,
    )


def _render_head(report: SizeReport) -> str:
    built = f"<p>Built: {escape(describe_built(report, report.built))}</p>" if report.built else ""
    digest = f"<p class=mono>{escape(report.digest)}</p>" if report.digest else ""
    figures = [
        (format_size(report.compressed), "stored in the registry"),
        (format_size(report.installed), "unpacked on a node"),
        (f"{report.files:,}", "files"),
        (f"{sum(1 for item in report.packages if item.version)}", "packages"),
    ]
    cells = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in figures)
    return (
        f"<h1>{escape(report.subject)}</h1>"
        f"<p>What it adds, {report.source}, above <span class=mono>{escape(report.base)}</span> (known by: {escape(report.base_found)})</p>"
        f"{digest}{built}<div class=figures>{cells}</div>"
    )


def _render_limits(limits: Iterable[Limit]) -> str:
    rows = []
    for limit in limits:
        share = 1.0 if limit.size is None else limit.size / limit.limit if limit.limit else float(limit.size > 0)
        size = "unknown" if limit.size is None else format_size(limit.size)
        name = escape(f"{limit.package} {limit.what}".strip())
        state = " class=over" if limit.over else ""
        text = f"{size} of {format_size(limit.limit)}, {share:.0%}{': over budget' if limit.over else ''}"
        bar = f'<div class=bar role=img aria-label="{name}: {text}"><i style="width:{min(1.0, share):.2%}"></i></div>'
        rows.append(f"<div{state}><span>{name}</span>{bar}<span>{text}</span></div>")
    return f"<h2>Budget</h2><div class=budget>{''.join(rows)}</div>" if rows else ""


def _render_legend(report: SizeReport) -> str:
    total = report.installed or 1
    items = [
        f'<li><i class="k-{kind}"></i>{KIND_TEXTS.get(kind, kind)} <b>{format_size(size)}</b> {size / total:.0%}</li>'
        for kind, size in report.kinds.items()
    ]
    return f"<ul class=legend>{''.join(items)}</ul>"


def render_map(packages: tuple[PackageSize, ...]) -> str:
    """The treemap as SVG: a rectangle a package, in it one a kind; the areas are the unpacked bytes."""
    shown = [item for item in packages if item.installed > 0]
    areas = lay_out([item.installed for item in shown], Rectangle(0, 0, _WIDTH, _HEIGHT))
    parts = [
        f'<svg class=map viewBox="0 0 {_WIDTH:.0f} {_HEIGHT:.0f}" role=img aria-label="Treemap of the unpacked bytes by package and kind">'
    ]
    for package, area in zip(shown, areas, strict=True):
        parts.append(_render_package(package, area))
    parts.append("</svg>")
    return "\n".join(parts)


def _render_package(package: PackageSize, area: Rectangle) -> str:
    name = f"{package.name} {package.version}".strip()
    titled = area.width > 46 and area.height > 34
    inside = area.shrink(1.0, _TITLE if titled else 0.0)
    kinds = sorted(((size, kind) for kind, size in package.kinds.items() if size > 0), reverse=True)
    tip = f"{name}: {format_size(package.installed)} unpacked, {format_size(package.compressed)} stored"
    parts = [f"<g><title>{escape(tip)}</title>", _rect(area, "frame")]
    for (size, kind), place in zip(kinds, lay_out([size for size, _ in kinds], inside), strict=True):
        text = f"{name}: {KIND_TEXTS.get(kind, kind)}, {format_size(size)}"
        parts.append(f"<g><title>{escape(text)}</title>{_rect(place, f'k-{kind}')}</g>")
    if titled:
        room = int((area.width - 10) / _LETTER)
        full = f"{package.name} {format_size(package.installed)}"
        label = full if len(full) <= room else package.name if len(package.name) <= room else package.name[: max(1, room - 1)] + "…"
        parts.append(f'<text x="{area.x + 5:.1f}" y="{area.y + 14:.1f}">{escape(label)}</text>')
    return "".join([*parts, "</g>"])


def _rect(area: Rectangle, kind: str) -> str:
    return f'<rect class="{kind}" x="{area.x:.2f}" y="{area.y:.2f}" width="{area.width:.2f}" height="{area.height:.2f}"/>'


def _render_packages(report: SizeReport) -> str:
    most = max((item.installed for item in report.packages), default=1) or 1
    rows = []
    for item in report.packages:
        stack = "".join(
            f'<i class="k-{kind}" style="width:{size / most:.3%}" title="{escape(KIND_TEXTS.get(kind, kind))}: {format_size(size)}"></i>'
            for kind, size in sorted(item.kinds.items(), key=lambda pair: -pair[1])
        )
        rows.append(
            f"<tr><th scope=row>{escape(item.name)}</th><td>{escape(item.version)}</td>"
            f"<td class=n>{format_size(item.compressed)}</td><td class=n>{format_size(item.installed)}</td>"
            f"<td class=n>{item.files:,}</td><td class=stack><div>{stack}</div></td><td>{escape(' > '.join(item.chain[:-1]))}</td></tr>"
        )
    head = "<tr><th>Package<th>Version<th class=n>Stored<th class=n>Unpacked<th class=n>Files<th>Of which<th>Asked for by</tr>"
    return f"<h2>Packages</h2><div class=scroll><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"


def _render_rest(report: SizeReport) -> str:
    parts = []
    if report.removals:
        rows = "".join(
            f"<tr><th scope=row>{escape(item.name)}</th><td class=n>{format_size(item.compressed)}</td>"
            f"<td class=n>{format_size(item.installed)}</td><td>{escape(', '.join(item.along))}</td></tr>"
            for item in report.removals
        )
        head = "<tr><th>Nothing else needs<th class=n>Frees, stored<th class=n>Frees, unpacked<th>With</tr>"
        parts.append(f"<h2>What can go by itself</h2><div class=scroll><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>")
    if report.largest:
        rows = "".join(
            f"<tr><td class=n>{format_size(item.size)}</td><td class=mono>{escape(item.path)}</td></tr>" for item in report.largest
        )
        parts.append(f"<h2>Largest files</h2><div class=scroll><table><tbody>{rows}</tbody></table></div>")
    if report.copies:
        rows = "".join(
            f"<tr><td class=n>{format_size(item.size)}</td>"
            f"<td class=mono>{escape(item.path)}</td><td class=mono>{escape(item.of)}</td></tr>"
            for item in report.copies
        )
        text = f"{report.copies_count} files, {format_size(report.copies_size)}"
        parts.append(f"<h2>The base has them too</h2><p>{text}</p><div class=scroll><table><tbody>{rows}</tbody></table></div>")
    return "".join(parts)
