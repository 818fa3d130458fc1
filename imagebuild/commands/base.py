"""``imagebuild base``: the catalogue of bases."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import click
from msgspec import UnsetType

from imagebuild.commands.completion import complete_bases
from imagebuild.commands.options import common_options, json_option, platform_option, print_data, read_clock
from imagebuild.errors import UsageError
from imagebuild.table import format_table

if TYPE_CHECKING:
    from imagebuild.base.model import SystemInventory, VSCodeFacts
    from imagebuild.workspace import Workspace


@click.group()
def base() -> None:
    """The catalogue of bases: list, pin, inspect, build."""


@base.command("list")
@json_option()
@common_options
def base_list(workspace: Workspace, as_json: bool) -> None:
    """The bases of images/catalogue.toml, and which are pinned."""
    from imagebuild.base.pins import load_catalogue

    catalogue = load_catalogue(workspace.images / "catalogue.toml")
    rows = []
    for entry in catalogue.bases.values():
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "reference": "" if entry.build else str(entry.reference),
                "digest": str(entry.digest or ""),
                "build": entry.build,
                "from": "" if entry.build else entry.located(catalogue.mirrors).name,
                "description": entry.description,
            }
        )
    if as_json:
        print_data(json.dumps(rows, indent=2))
        return
    cells = []
    for row in rows:
        state = "built here" if row["build"] else (row["digest"][:19] if row["digest"] else "UNPINNED")
        place = f"imagebuild base build {row['name']}" if row["build"] else row["reference"]
        through = f"  (read from {row['from']})" if not row["reference"].startswith(row["from"]) else ""
        cells.append((row["name"], row["kind"], state, place + through))
    print_data("".join(f"{line}\n" for line in format_table(cells, least=(0, 7, 19))), nl=False)


@base.command("pin")
@click.argument("name", default="", shell_complete=complete_bases)
@click.option("--team", default="", help="The base of this team; one that is built here, or named by digest alone, is left as it is.")
@click.option("--upgrade", is_flag=True, help="Show the old digest beside the new one, and which teams build on the base.")
@common_options
def base_pin(workspace: Workspace, name: str, team: str, upgrade: bool) -> None:
    """Resolve NAME's tag to a digest, as it is now, and write it into the catalogue."""
    from imagebuild.base.pins import load_catalogue, pin_base, resolve_pin

    if bool(name) is bool(team):
        raise UsageError("name a base, or give --team", "see imagebuild base list")
    path = workspace.images / "catalogue.toml"
    catalogue = load_catalogue(path)
    if team:
        from imagebuild.config import load_team

        name = load_team(workspace.images, team).table.base
    entry = catalogue.get(name)
    if team and (entry.build or not entry.reference.tag):
        workspace.report(f"{name}: {'built here' if entry.build else 'named by digest alone'}, nothing to pin")
        return
    if entry.build:
        raise UsageError(f"base {name} is built here, it has no tag to pin", f"run: imagebuild base build {name}")
    if not entry.reference.tag:
        raise UsageError(f"base {name} names no tag, only a digest", "write `tag` into the catalogue, then pin it")
    located = entry.located(catalogue.mirrors)
    digest = resolve_pin(workspace.registry_store(located.registry), located, entry.reference.tag)
    pin_base(path, name, digest)
    if upgrade:
        print_data("\n".join(tell_upgrade(workspace, name, entry.reference.tag, entry.digest, digest)))
        return
    before = "" if entry.digest in (None, digest) else f" (was {entry.digest})"
    print_data(f"{name}: {entry.reference.tag} is {digest}{before}")


def tell_upgrade(workspace: Workspace, name: str, tag: str, before: str | None, after: str) -> list[str]:
    """Lines on a base that was pinned anew, with the teams whose locks it may change."""
    if before == after:
        return [f"{name}: {tag} is {after}, as before"]
    from imagebuild.config import list_teams
    from imagebuild.toml import read_toml

    teams = [team for team in list_teams(workspace.images) if read_toml(workspace.images / team / "team.toml").get("base") == name]
    lines = [f"{name}: {tag}: {before or 'not pinned'} -> {after}"]
    return [*lines, f"used by {', '.join(teams)}; what changes for them: imagebuild lock {' '.join(teams)} --report -"] if teams else lines


@base.command("inspect")
@click.argument("name", shell_complete=complete_bases)
@platform_option
@json_option()
@common_options
def base_inspect(workspace: Workspace, name: str, platform: str, as_json: bool) -> None:
    """What is in base NAME: its user, its Python, its packages."""
    from imagebuild.base.inventory import encode_inventory
    from imagebuild.oci.model import Platform
    from imagebuild.pipeline.bases import open_base
    from imagebuild.text import count_things, format_size

    found = open_base(workspace, name, Platform.parse(platform)).inventory
    if as_json:
        print_data(encode_inventory(found).decode(), nl=False)
        return
    user, python = found.user, found.interpreter
    print_data(f"{name}  {found.digest}  {found.platform}")
    print_data(f"  user          {user.config or '(root)'}: uid {user.uid}, gid {user.gid}, {user.name or 'no name'}, home {user.home}")
    if python is None:
        print_data("  python        none: no team image can be built on it")
    else:
        managed = ", externally managed" if python.externally_managed else ""
        print_data(f"  python        {python.path} {python.version} ({python.environment}{managed}), {python.libc}")
        print_data(f"  packages to   {python.paths['purelib']}")
    if found.r:
        count = count_things(len(found.r.packages), "package")
        print_data(f"  R             {found.r.path} {found.r.version} ({found.r.platform}), {count}")
        print_data(f"  R libraries   {', '.join(found.r.libraries)}; a team's packages to {found.r.library}")
    for other in found.shadowed_interpreters:
        print_data(f"  also on PATH  {other} (not used)")
    stored, unpacked = sum(item.size for item in found.layers), sum(item.uncompressed for item in found.layers)
    print_data(f"  layers        {len(found.layers)}, {format_size(stored)} stored, {format_size(unpacked)} unpacked")
    print_data(f"  packages      {len(found.distributions)}")
    print_data(f"  system        {describe_system(found.system)}")
    for line in describe_vscode(found.vscode):
        print_data(f"  vscode        {line}")
    print_data(f"  fingerprint   {found.fingerprint}")


def describe_system(system: SystemInventory) -> str:
    """How many packages of which kind, the operating system, and what could not be read, in one line."""
    counts = Counter(item.kind for item in system.packages)
    parts = [f"{count} {kind}" for kind, count in sorted(counts.items())] or ["no package known"]
    name = f" ({system.os.id} {system.os.version})".replace(" )", ")") if system.os.id else ""
    return ", ".join(parts) + name + "".join(f"; {path} cannot be read" for path in system.unread)


def describe_vscode(facts: VSCodeFacts | UnsetType) -> list[str]:
    """The base's code-server in two lines, and one for each extension outside its own folder; no line for a base without it."""
    if isinstance(facts, UnsetType):
        return []
    builtin = sum(item.builtin for item in facts.extensions)
    others = [f"{item.name} {item.version} in {item.folder.rpartition('/')[0]}" for item in facts.extensions if not item.builtin]
    return [f"code-server {facts.server or '(no version)'}, VS Code {facts.version or '(no version)'}, {builtin} built-in extensions",
            f"extensions to {facts.folder}", *others]  # fmt: skip


@base.command("build")
@click.argument("name", default="starter")
@platform_option
@click.option("--refresh", is_flag=True, help="Build again with today's Debian packages.")
@click.option("--relock", is_flag=True, hidden=True, help="Resolve JupyterLab anew (working on imagebuild itself).")
@common_options
def base_build(workspace: Workspace, name: str, platform: str, refresh: bool, relock: bool) -> None:
    """Make the starter base from Debian packages, into the layout folder."""
    from imagebuild.base.pins import load_catalogue
    from imagebuild.oci.model import Platform
    from imagebuild.starter.build import build_starter, lock_starter

    entry = load_catalogue(workspace.images / "catalogue.toml").get(name)
    if not entry.build:
        raise UsageError(f"base {name} comes from a registry; there is nothing to build", f"run: imagebuild base inspect {name}")
    workspace.prepare()
    wanted = Platform.parse(platform)
    if relock:
        lock_starter(workspace.layout, workspace.cache, wanted, read_clock(), workspace.report)
    digest = build_starter(workspace.layout, workspace.cache, wanted, workspace.report, workspace.jobs, rebuild=refresh or relock)
    print_data(f"{workspace.layout.image_name(entry.reference.repository)}:{entry.reference.tag}")
    print_data(f"  digest    {digest}")
