"""The job summary: one Markdown text about some teams, of what a change does to their images and what was built.

It is read on pages of a forge and posted as a comment, and its texts were written by whoever proposed the change: nothing in it may
be markup, a mention or an address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from imagebuild.text import format_size

_SHOWN = 40  # changed packages a team; a comment has a limit of length
# What Markdown and HTML read, and what makes a mention or a reference.
_MARKUP = re.compile(r"[\\`*_{}\[\]()<>#+!|~@&:$-]")


class TeamReport(msgspec.Struct, frozen=True):
    """What is known of one team. ``packages``: name -> (version before, version after), "" where it is not; None without a before."""

    team: str
    problem: str = ""  # why there is no prediction, what the lock lacks, or what is over budget
    checks: tuple[str, ...] = ()  # what was looked at and found good, in words
    compressed: int = 0
    installed: int = 0
    limits: tuple[tuple[str, int, int], ...] = ()  # (what, size, limit)
    packages: Mapping[str, tuple[str, str]] | None = None
    cutoff: tuple[str, str] = ("", "")
    base: tuple[str, str] = ("", "")
    result: Mapping[str, Any] | None = None  # of `imagebuild image --json`


def render_summary(reports: Sequence[TeamReport], *, since: str = "") -> str:
    """Markdown, the same for the same reports."""
    lines = ["## Notebook images", "", "| team | stored | unpacked | packages | image |", "|---|---|---|---|---|"]
    lines += [_render_row(report) for report in reports]
    for report in reports:
        lines += ["", *_render_team(report, since)] if _has_more(report) else []
    return "\n".join(lines) + "\n"


def _render_row(report: TeamReport) -> str:
    limits = {what: limit for what, _, limit in report.limits}
    result = report.result or {}
    compressed, installed = result.get("compressed", report.compressed), result.get("installed", report.installed)
    sizes = [
        f"{format_size(size)}{f' of {format_size(limits[what])}' if what in limits else ''}" if size else ""
        for what, size in (("stored", compressed), ("unpacked", installed))
    ]
    counts = "" if report.packages is None else f"{len(report.packages)} changed" if report.packages else "as before"
    if "error" in result:
        state = f"**failed**: {escape(str(result['error']))}"
    elif result:
        state = f"{'built' if result.get('built') else 'there already'}: {escape(str(result.get('tag', '')))}"
    else:
        state = f"**{escape(report.problem)}**" if report.problem else ", ".join(report.checks)
    return f"| {escape(report.team)} | {sizes[0]} | {sizes[1]} | {counts} | {state} |"


def _has_more(report: TeamReport) -> bool:
    return bool(report.packages or report.result or report.base[0] != report.base[1])


def _render_team(report: TeamReport, since: str) -> list[str]:
    lines = [f"### {escape(report.team)}", ""]
    result = report.result or {}
    if "digest" in result:
        lines += [code(f"{result.get('image')}:{result.get('tag')}@{result['digest']}"), ""]
    if made := _describe_reuse(result):
        lines += [made, ""]
    if "hint" in result:
        lines += [f"Hint: {escape(str(result['hint']))}", ""]
    for word, (before, after) in (("Base", report.base), ("Cutoff", report.cutoff)):
        if before != after and after:
            lines += [f"{word}: {escape(before) or 'none'} → {escape(after)}", ""]
    if report.packages:
        lines += [f"Packages since {escape(since[:12])}:" if since else "Packages:", "", "| package | before | after |", "|---|---|---|"]
        shown = sorted(report.packages.items())[:_SHOWN]
        lines += [f"| {escape(name)} | {escape(before) or 'new'} | {escape(after) or 'gone'} |" for name, (before, after) in shown]
        if len(report.packages) > _SHOWN:
            lines += ["", f"and {len(report.packages) - _SHOWN} more"]
    return lines


def _describe_reuse(result: Mapping[str, Any]) -> str:
    """How much of a build was there already; empty where the result does not say."""
    packages, prepared = result.get("packages"), result.get("prepared")
    if not isinstance(packages, int) or not isinstance(prepared, int):
        return ""
    text = f"{packages - prepared} of {packages} packages were there, {prepared} were made"
    members = result.get("members")
    taken = members.get("taken") if isinstance(members, Mapping) else None
    return f"{text}; {taken} came from the registry." if isinstance(taken, int) and taken else f"{text}."


def escape(text: str) -> str:
    """``text`` as it is, on one line: no Markdown, no HTML, no mention, no link."""
    return _MARKUP.sub(lambda match: f"&#{ord(match[0])};", " ".join(text.split()))


def code(text: str) -> str:
    """``text`` in a code span that it cannot leave."""
    return f"`{' '.join(text.split()).replace('`', '')}`"
