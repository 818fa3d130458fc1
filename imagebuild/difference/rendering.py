"""A difference as text, as Markdown for a pull request, and as one page that needs nothing else."""

from __future__ import annotations

from html import escape

from imagebuild.difference.comparison import Difference, SideFacts
from imagebuild.lock.file.changes import PackageChange, render_markdown
from imagebuild.size.document import render_document
from imagebuild.table import format_table
from imagebuild.text import format_change, format_size, shorten_digest

_WORDS = {"added": "added", "removed": "removed", "upgraded": "upgraded", "downgraded": "DOWNGRADED", "rebuilt": "other file"}


def list_totals(difference: Difference) -> list[tuple[str, str, str, str]]:
    """(what, before, after, change) of the whole; only what is known on a side."""
    before, after = difference.before, difference.after
    rows = [
        ("base", before.base, after.base, "changed" if difference.base_changed else ""),
        ("base digest", shorten_digest(before.base_digest), shorten_digest(after.base_digest), ""),
        ("digest", shorten_digest(before.digest), shorten_digest(after.digest), ""),
        ("packages", str(before.packages), str(after.packages), f"{after.packages - before.packages:+d}"),
    ]
    for what, one, other in (("stored", before.compressed, after.compressed), ("unpacked", before.installed, after.installed)):
        rows.append((what, _size(one), _size(other), format_change(other - one) if min(one, other) >= 0 else ""))
    return [row for row in rows if row[1] or row[2]]


def _size(count: int) -> str:
    return format_size(count) if count >= 0 else ""


def describe_version(item: PackageChange) -> str:
    """``2.2.3 > 2.3.0``, or the one version there is."""
    one, other = item.before, item.after
    if one is not None and other is not None:
        return other.version if one.version == other.version else f"{one.version} > {other.version}"
    side = other or one
    return side.version if side is not None else ""


def count_change(item: PackageChange) -> tuple[int, int]:
    """Bytes of the wheel (or of what it takes in the layer, for a side without a lock) and installed bytes, more or less."""
    one, other = item.before, item.after
    return (
        (other.size if other else 0) - (one.size if one else 0),
        (other.installed if other else 0) - (one.installed if one else 0),
    )


def describe_licence(item: PackageChange) -> str:
    """The licence, both where they differ; empty where it is not known."""
    if item.licence_changed and item.before is not None and item.after is not None:
        return f"{item.before.licence} > {item.after.licence}"
    return next((side.licence for side in (item.after, item.before) if side is not None and side.licence), "")


def format_text(difference: Difference) -> str:
    """The difference as text: totals as columns, then one line a package."""
    before, after = difference.before, difference.after
    lines = [f"{before.name} > {after.name}"]
    if difference.is_empty:
        return "\n".join([*lines, "no difference"]) + "\n"
    for what, one, other, change in list_totals(difference):
        if one != other:
            lines.append(f"  {what:<12}  {one or '-'} > {other or '-'}  {change}".rstrip())
    for fact in difference.changes.facts:
        if fact.name not in ("base", "base digest"):
            lines.append(f"  {fact.name:<12}  {shorten_digest(fact.before)} > {shorten_digest(fact.after)}")
    rows = [_list_cells(item) for item in difference.changes.packages]
    if rows:
        head = ("", "package", "version", "", "wheel", "installed", "licence")
        lines += ["", *format_table((head, *rows), right=(4, 5))]
    else:
        lines += ["", "the same packages"]
    for side in (before, after):
        if side.recorded:
            lines.append(f"note: {side.name} travels without a lock; its packages were read from its layers")
    return "\n".join(lines) + "\n"


def _list_cells(item: PackageChange) -> tuple[str, ...]:
    sizes = map(format_change, count_change(item))
    asked = "asked for" if item.direct else ""
    return (_WORDS[item.kind], item.name, describe_version(item), asked, *sizes, describe_licence(item))


def format_markdown(difference: Difference) -> str:
    """The change report of the locks, with the two names and the layers' sizes above it."""
    rows = [row for row in list_totals(difference) if row[0] not in ("base", "base digest")]
    lines = [f"`{difference.before.name}` to `{difference.after.name}`", "", "| | before | after | |", "|---|---|---|---|"]
    lines += [f"| {what} | {one or '-'} | {other or '-'} | {change} |" for what, one, other, change in rows]
    return "\n".join([*lines, "", render_markdown(difference.changes)])


def render_difference_page(difference: Difference, *, back: str = "") -> bytes:
    """HTML 5 in UTF-8: no script, no request. ``back``: the URL of the catalogue's page that leads here."""
    title = f"{difference.before.name} to {difference.after.name}"
    totals = "".join(
        f"<tr><th scope=row>{what}</th><td class=mono>{escape(one or '-')}</td><td class=mono>{escape(other or '-')}</td>"
        f"<td class=n>{escape(change)}</td></tr>"
        for what, one, other, change in list_totals(difference)
    )
    facts = "".join(
        f"<tr><th scope=row>{escape(fact.name)}</th><td class=mono>{escape(shorten_digest(fact.before))}</td>"
        f"<td class=mono>{escape(shorten_digest(fact.after))}</td><td></td></tr>"
        for fact in difference.changes.facts
        if fact.name not in ("base", "base digest")
    )
    notes = "".join(f"<p class=note>{escape(_note(side))}</p>" for side in (difference.before, difference.after) if side.recorded)
    return render_document(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            "<div class=scroll><table><thead><tr><th><th>Before<th>After<th class=n>Change</tr></thead>",
            f"<tbody>{totals}{facts}</tbody></table></div>",
            _render_packages(difference),
            notes,
        ],
        back=back,
    )


def _note(side: SideFacts) -> str:
    return f"{side.name} travels without a lock; its packages were read from its layers."


def _render_packages(difference: Difference) -> str:
    if not difference.changes.packages:
        return "<h2>The same packages</h2>"
    rows = []
    for item in difference.changes.packages:
        wheel, installed = count_change(item)
        marked = " class=over" if item.licence_changed or item.kind == "downgraded" else ""
        rows.append(
            f"<tr{marked}><td>{_WORDS[item.kind].lower()}</td><th scope=row>{escape(item.name)}</th>"
            f"<td>{escape(describe_version(item))}</td>"
            f"<td>{'directly' if item.direct else 'by others'}</td><td class=n>{format_change(wheel)}</td>"
            f"<td class=n>{format_change(installed)}</td><td>{escape(describe_licence(item))}</td></tr>"
        )
    head = "<tr><th><th>Package<th>Version<th>Asked for<th class=n>Wheel<th class=n>Installed<th>Licence</tr>"
    return f"<h2>Packages</h2><div class=scroll><table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table></div>"
