"""One image of the catalogue, with all that is needed to start it or to build it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.errors import make_printable
from imagebuild.oci.referrers import list_referrers
from imagebuild.oci.store import Store
from imagebuild.supply.referrers import ADDONS_TYPE, BOM_TYPE, LOCK_TYPE, RECIPE_TYPE, STATEMENT_TYPE
from imagebuild.text import format_size

_KNOWN = {LOCK_TYPE: "lock", ADDONS_TYPE: "lock of add-ons", RECIPE_TYPE: "recipe", BOM_TYPE: "SBOM", STATEMENT_TYPE: "provenance"}


def describe_entry(
    store: Store, entry: CatalogueEntry, *, reference: str, snippets: Sequence[tuple[str, str]], what: str
) -> dict[str, Any]:
    """As plain values: the entry, ``reference`` (by digest, empty without a registry), ``companions`` (what refers to it),
    ``start`` (lines by purpose) and ``rebuild`` (lines of a shell). ``what`` is how the user called it."""
    companions = [
        {"kind": _KNOWN.get(item.artifact_type, item.artifact_type), "digest": str(item.descriptor.digest), "size": item.descriptor.size}
        for item in list_referrers(store, entry.repository, entry.digest)
    ]
    lockfile = f"lockfiles/pylock.{entry.team}.toml"
    rebuild = [f'git checkout "$({find_commit(entry.team, entry.created)})"']
    if any(item["kind"] == "lock" for item in companions):
        rebuild.append(f"imagebuild catalogue show {shlex.quote(what)} --lock > {lockfile}  # the same as in that commit")
    rebuild.append(f"imagebuild image {entry.team} --locked  # gives {entry.tag}")
    return {
        **msgspec.to_builtins(entry, str_keys=True, enc_hook=str),
        "reference": reference,
        "companions": companions,
        "start": dict(snippets),
        "rebuild": rebuild,
    }


def find_commit(team: str, cutoff: str) -> str:
    """The shell command that finds the commit a lock was made in: the oldest that changed how often its cutoff is there. The newest is
    where the next lock took its place."""
    return f"git log --format=%H -S {shlex.quote(cutoff)} -- lockfiles/pylock.{team}.toml | tail -n 1"


def render_description(found: Mapping[str, Any]) -> str:
    """The values of :func:`describe_entry` as text: a line a fact, then a part for each purpose, with lines to copy."""
    names = f", kept as {', '.join(found['kept'])}" if found["kept"] else ""
    after = f", followed by {found['successor']}" if found["successor"] else ""
    python = f", Python {found['python']}" if found["python"] else ""
    size = f"{format_size(found['delta_compressed'])} stored, {format_size(found['delta_installed'])} unpacked"
    lines = [
        f"{found['team']}:{found['tag']}  {found['title']}".rstrip(),
        f"  image     {found['reference'] or found['image'] + ':' + found['tag'] + '  ' + found['digest']}",
        f"  status    {found['status']}{names}{after}",
        f"  created   {found['created']}, for {found['quarter']}",
        f"  server    {found['kind']}, port {found['port'] or 'not said'}{python}",
        f"  base      {found['base']}  {found['base_name']}  {found['base_digest']}".rstrip(),
        f"  layer     {size}; {format_size(found['size'])} with the base",
    ]
    packages = [f"{name} {version}" for name, version in found["packages"].items()]
    lines += [f"  {'packages' if number == 0 else '':<10}{text}" for number, text in enumerate(packages)]
    if found["owners"]:
        lines.append(f"  owners    {', '.join(found['owners'])}")
    travels = [f"{item['kind']:<10} {item['digest']}" for item in found["companions"]] or ["nothing: pushed without lock and SBOM"]
    lines += [f"  {'with it' if number == 0 else '':<10}{text}" for number, text in enumerate(travels)]
    for purpose, text in found["start"].items():
        lines += ["", f"{purpose}:", *(f"  {line}" for line in text.splitlines())]
    lines += ["", "Build it again, in the team's repository:", *(f"  {line}" for line in found["rebuild"])]
    return "\n".join(map(make_printable, lines))
