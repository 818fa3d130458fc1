"""``python -m bench.requirementsets``: every set locked with both resolvers, built, checked and compared; JSON a set, one table.

Runs as root (overlays, chroot). A set that was done on this base is not done again. Images are deleted when they have been compared.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.requirementsets.roots import apply_whiteouts, count_layers, overlay, run_pip, unpack_image
from bench.requirementsets.trees import Comparison, compare, read_installed
from bench.scratch import PROJECT, Run, Scratch
from imagebuild.decoding import make_decoder
from imagebuild.files import write_atomic
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.index.routing import PackageIndex, default_index
from imagebuild.lock.resolve.stubs import parse_version
from imagebuild.oci.model import Digest
from imagebuild.starter.build import starter_lock
from imagebuild.starter.place import REPOSITORY
from imagebuild.workspace import Workspace

RESOLVERS = ("pip-tools", "uv")


class RequirementSet(msgspec.Struct, frozen=True, rename={"source": "from"}):
    """One set as sets.toml has it."""

    name: str
    source: str
    requirements: str
    files: dict[str, str] = {}
    table: str = ""
    refused: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One step: exit status (None: stopped at its limit), seconds, and what it said when it failed."""

    status: int | None
    seconds: float
    message: str = ""
    packages: int = 0


class Result(msgspec.Struct, frozen=True):
    """What became of a set."""

    name: str
    base: str
    locks: dict[str, Attempt] = {}
    resolvers_differ: dict[str, tuple[str, str]] = {}  # name -> (pip-tools', uv's)
    image: Attempt | None = None
    check: Attempt | None = None  # pip check in the image
    pip: Attempt | None = None  # pip install in the base
    pip_check: Attempt | None = None
    versions: dict[str, tuple[str, str]] = {}  # name -> (pip's, the image's)
    replaced: tuple[str, ...] = ()  # of the base's packages, by pip
    classes: dict[str, int] = {}
    unexplained: tuple[str, ...] = ()
    same: int = 0


_RESULT = make_decoder(Result)


def load_sets() -> list[RequirementSet]:
    """The sets in the file's order."""
    document = tomllib.loads((Path(__file__).parent / "sets.toml").read_text())
    return msgspec.convert(document["set"], list[RequirementSet])


def choose_sets(sets: list[RequirementSet], names: list[str]) -> list[RequirementSet]:
    """The sets of these names in the order of the names; all sets for no name. SystemExit for a name that no set has."""
    known = {item.name: item for item in sets}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"no set is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] or sets


def _attempt(run: Run, packages: int = 0) -> Attempt:
    return Attempt(run.status, run.seconds, "" if run.status == 0 else run.message, packages)


def lock_set(scratch: Scratch, item: RequirementSet, limit: float) -> tuple[dict[str, Attempt], dict[str, dict[str, str]]]:
    """Both resolvers, each from nothing; the last lock that was made stays."""
    attempts: dict[str, Attempt] = {}
    pins: dict[str, dict[str, str]] = {}
    for resolver in reversed(RESOLVERS):
        path = scratch.lockfile(item.name)
        before = path.read_bytes() if path.is_file() else None
        path.unlink(missing_ok=True)
        run = scratch.imagebuild("lock", item.name, "--resolver", resolver, limit=limit)
        if run.status == 0:
            lock = read_lock(path)
            pins[resolver] = {package.name: package.version for package in lock.packages}
        elif before is not None:
            path.write_bytes(before)
        attempts[resolver] = _attempt(run, len(pins.get(resolver, {})))
    return attempts, pins


def compare_with_pip(
    scratch: Scratch, item: RequirementSet, tag: str, lower: Path, index: PackageIndex, folder: Path, limit: float
) -> tuple[Attempt, Attempt, Attempt, Comparison | None, tuple[str, ...]]:
    """(pip check in the image, pip install in the base, pip check there, the trees compared, the base's packages that pip replaced)."""
    layout = Workspace(scratch.root).layout
    image = layout.head_manifest(item.name, tag)
    assert image is not None
    if folder.exists():  # a run that was killed left its trees
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    ours, theirs = folder / "image", folder / "pip"
    unpack_image(layout, item.name, image.id, ours, skip=count_layers(layout, REPOSITORY, Digest(scratch.base_digest)))
    apply_whiteouts(ours)
    found = read_installed(ours)
    with overlay(lower, ours, folder) as root:
        check = _attempt(run_pip(root, index, ["check"], limit))
    with overlay(lower, theirs, folder) as root:
        inputs = root / "tmp/inputs"
        shutil.copytree(scratch.root / "images" / item.name, inputs)
        # No bytecode: it never is the same (see trees), and compiling it takes longer than all else.
        arguments = ["install", "--quiet", "--no-compile", "--only-binary", ":all:", "-r", "/tmp/inputs/requirements.in"]
        pip = _attempt(run_pip(root, index, arguments, limit))
        pip_check = _attempt(run_pip(root, index, ["check"], limit)) if pip.status == 0 else Attempt(None, 0)
    if pip.status != 0:
        return check, pip, pip_check, None, ()
    installed = read_installed(theirs)
    base = {package.name: package.version for package in starter_lock().packages}
    replaced = tuple(f"{name} {base[name]} -> {installed.versions[name]}" for name in sorted(base.keys() & installed.versions.keys()))
    return check, pip, pip_check, compare(installed, found), replaced


def run_set(scratch: Scratch, item: RequirementSet, lower: Path, index: PackageIndex, folder: Path, limit: float) -> Result:
    """Everything that is to be known of one set."""
    scratch.write_team(item.name, {"requirements.in": item.requirements + "\n", **item.files}, item.table + "\n")
    locks, pins = lock_set(scratch, item, limit)
    result = Result(item.name, str(scratch.base_digest), locks)
    if len(pins) == len(RESOLVERS):
        first, second = (pins[name] for name in RESOLVERS)
        differ = {
            name: (first.get(name, ""), second.get(name, ""))
            for name in sorted({*first, *second})
            if parse_version(first.get(name, "")) != parse_version(second.get(name, "")) or (name in first) != (name in second)
        }
        result = msgspec.structs.replace(result, resolvers_differ=differ)
    if not pins:
        return result
    run = scratch.imagebuild("image", item.name, "--locked", "--json", limit=3 * limit)
    result = msgspec.structs.replace(result, image=_attempt(run))
    if run.status != 0:
        return result
    tag = str(json.loads(run.stdout)[0]["tag"])
    check, pip, pip_check, trees, replaced = compare_with_pip(scratch, item, tag, lower, index, folder, 3 * limit)
    result = msgspec.structs.replace(result, check=check, pip=pip, pip_check=pip_check, replaced=replaced)
    if trees is None:
        return result
    return msgspec.structs.replace(
        result, versions=dict(trees.versions), classes=dict(trees.classes), unexplained=trees.unexplained[:50], same=trees.same
    )


def render_table(sets: list[RequirementSet], results: dict[str, Result]) -> str:
    """Markdown, a line a set, then what was said and found."""
    lines = [
        "| set | from | pip-tools | uv | image | pip check | pip install in the base | files the same | differences |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    said: list[str] = []
    for item in sets:
        result = results.get(item.name)
        if result is None:
            continue
        cells = [_describe(result.locks.get(name), item.refused) for name in RESOLVERS]
        cells.append(_describe(result.image, item.refused))  # a collision of two wheels is found when their files are read
        cells += [_describe(step) for step in (result.check, result.pip)]
        differences = [f"{kind} {count}" for kind, count in sorted(result.classes.items())]
        if result.unexplained:
            differences.append(f"**unexplained {len(result.unexplained)}**")
        lines.append(f"| {item.name} | {item.source} | {' | '.join(cells)} | {result.same or ''} | {', '.join(differences)} |")
        said += _tell(item, result)
    return "\n".join([f"{len(results)} of {len(sets)} sets", "", *lines, "", *said]) + "\n"


def _describe(step: Attempt | None, refused: str = "") -> str:
    if step is None:
        return ""
    if step.status == 0:
        return f"{step.packages}, {step.seconds:.0f} s" if step.packages else f"ok, {step.seconds:.0f} s"
    if step.status is None:
        return f"no answer in {step.seconds:.0f} s"
    right = refused and refused in step.message
    return f"refused as it should be, {step.seconds:.0f} s" if right else f"**failed ({step.status})**, {step.seconds:.0f} s"


def _tell(item: RequirementSet, result: Result) -> list[str]:
    steps = {**result.locks, "image": result.image, "pip check": result.check, "pip install": result.pip}
    lines = [f"- {item.name}, {name}: {step.message.replace(chr(10), ' ')}" for name, step in steps.items() if step and step.message]
    pairs: list[tuple[str, dict[str, tuple[str, str]]]] = [
        ("pip-tools and uv differ", result.resolvers_differ),
        ("pip and the image differ", result.versions),
    ]
    for title, found in pairs:
        if found:
            shown = ", ".join(f"{name} {first or 'none'} / {second or 'none'}" for name, (first, second) in found.items())
            lines.append(f"- {item.name}, {title}: {shown}")
    if result.replaced:
        lines.append(f"- {item.name}, pip replaced of the base: {', '.join(result.replaced)}")
    if result.unexplained:
        lines.append(f"- {item.name}, unexplained: {'; '.join(result.unexplained[:5])}")
    return lines


def clean(scratch: Scratch, name: str, folder: Path) -> None:
    """Take the set's image and trees off the disk; the next set's workspace begins with the base again."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(scratch.root / ".imagebuild", ignore_errors=True)
    shutil.rmtree(scratch.root / "images" / name, ignore_errors=True)


def main() -> None:
    """Do the sets that are not done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT / ".imagebuild/requirement-sets", help="folder of the results")
    parser.add_argument("--limit", type=float, default=150, help="seconds a lock may take; an image and pip three times as much")
    parser.add_argument("names", nargs="*", metavar="SET", help="the sets to do, in this order; all of them when none is named")
    parser.add_argument("--again", action="store_true", help="do the sets that are named also where a result is there")
    parser.add_argument("--until", default="", metavar="HH:MM", help="begin no set after this time")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what is mounted is unmounted
    out: Path = arguments.out.resolve()
    sets, index = load_sets(), default_index()
    chosen = choose_sets(sets, arguments.names)
    scratch = Scratch(out / "workspace")
    lower = out / f"base-{str(scratch.base_digest)[7:19]}"
    if not lower.is_dir():
        unpack_image(Workspace(PROJECT).layout, REPOSITORY, Digest(scratch.base_digest), lower)
    results: dict[str, Result] = {}
    write: Callable[[], object] = lambda: (out / "table.md").write_text(render_table(sets, results))  # noqa: E731
    for item in sets:
        kept_file = out / f"{item.name}.json"
        if kept_file.is_file() and (kept := _RESULT.decode(kept_file.read_bytes())).base == str(scratch.base_digest):
            results[item.name] = kept
    for item in chosen:
        if item.name in results and not (arguments.again and arguments.names):
            continue
        if arguments.until and time.strftime("%H:%M") >= arguments.until:
            break
        scratch = Scratch(out / "workspace")
        folder = out / "trees"
        try:
            results[item.name] = run_set(scratch, item, lower, index, folder, arguments.limit)
        finally:
            clean(scratch, item.name, folder)
        write_atomic(out / f"{item.name}.json", msgspec.json.format(msgspec.json.encode(results[item.name])))
        print(f"{item.name}: {', '.join(_describe(step, item.refused) for step in results[item.name].locks.values())}", flush=True)
        write()
    write()


if __name__ == "__main__":
    main()
