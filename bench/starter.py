"""The packages that data scientists ask for most, each locked alone on the starter base, with both resolvers.

What the starter base has can refuse a package, or hold it back at an old release without a word. So each is also resolved by plain
uv for the same Python with no base at all: where that takes a newer release, the base is what holds the package back. Attempts are kept,
and not made twice for one base digest. One attempt at a time, each with a time limit.
"""

from __future__ import annotations

import argparse
import functools
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from bench.scratch import PROJECT, Run, Scratch, run_limited, team_name
from imagebuild.decoding import make_decoder
from imagebuild.files import write_atomic
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.index.routing import default_index
from imagebuild.lock.index.upstream import Upstream
from imagebuild.lock.resolve.uv import find_uv
from imagebuild.starter.build import starter_lock

PACKAGES = tuple((Path(__file__).parent / "starter-packages.txt").read_text().split())
RESOLVERS = ("pip-tools", "uv")
BEHIND_DAYS = 365


class Attempt(msgspec.Struct, frozen=True):
    """One package with one resolver on one base."""

    package: str
    resolver: str
    base: str
    status: int | None  # of imagebuild; None: no answer within the limit
    seconds: float
    message: str = ""
    packages: int = 0  # locked, beside what the base has
    version: str = ""
    alone: str = ""  # what plain uv takes for this Python without a base; empty where it finds none
    behind: int = 0  # days between the release dates of the two


_ATTEMPTS = make_decoder(list[Attempt])


def resolve_alone(package: str, python: str, cache: Path) -> str:
    """The version that plain uv takes of ``package`` for ``python`` with wheels only; empty for none."""
    index = default_index()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "requirements.in").write_text(f"{package}\n")
        environment = {"PATH": os.environ["PATH"], "HOME": folder}
        if index.certificate:
            environment["SSL_CERT_FILE"] = index.certificate
        run = run_limited(
            [str(find_uv()), "pip", "compile", "--quiet", "--no-config", "--no-build", "--no-annotate", "--no-header", "--strip-extras",
             "--python-version", python, "--python-platform", "x86_64-manylinux_2_36", "--no-python-downloads", "--cache-dir", str(cache),
             "--default-index", index.url, "requirements.in"],
            120, cwd=Path(folder), environment=environment,
        )  # fmt: skip
    name = canonicalize_name(Requirement(package).name)
    pins = dict(line.split("==", 1) for line in run.stdout.splitlines() if "==" in line)
    return pins.get(name, "")


def find_release_date(name: str, version: str, upstream: Upstream) -> datetime | None:
    """When the first file of a release was uploaded, where the index says so."""
    page = upstream.read_project(name)
    times = []
    for file in page.files if page is not None else ():
        try:
            found = parse_wheel_filename(file.filename)[1] if file.filename.endswith(".whl") else parse_sdist_filename(file.filename)[1]
        except ValueError:
            continue
        if found == Version(version) and file.upload_time:
            times.append(file.upload_time)
    return datetime.fromisoformat(min(times)).astimezone(UTC) if times else None


def count_days_behind(name: str, version: str, alone: str, upstream: Upstream) -> int:
    """Days from the release of ``version`` to that of ``alone``; 0 when it isn't the older one, or no date is known."""
    if not version or not alone or Version(version) >= Version(alone):
        return 0
    ours, theirs = (find_release_date(name, item, upstream) for item in (version, alone))
    return max((theirs - ours).days, 0) if ours and theirs else 0


def try_package(scratch: Scratch, package: str, resolver: str, alone: str, upstream: Upstream, limit: float) -> Attempt:
    """Lock one package as a team that asks for nothing else."""
    team = team_name(package)
    scratch.write_team(team, {"requirements.in": f"{package}\n"})
    run: Run = scratch.imagebuild("lock", team, "--resolver", resolver, limit=limit)
    message = "" if run.status == 0 else run.message
    attempt = Attempt(package, resolver, str(scratch.base_digest), run.status, run.seconds, message, alone=alone)
    if run.status != 0:
        return attempt
    lock = read_lock(scratch.lockfile(team))
    name = canonicalize_name(Requirement(package).name)
    held = dict(item.split("==", 1) for item in lock.satisfied)
    version = next((item.version for item in lock.packages if item.name == name), held.get(name, ""))
    behind = count_days_behind(name, version, alone, upstream)
    return msgspec.structs.replace(attempt, packages=len(lock.packages), version=version, behind=behind)


def render_table(attempts: Iterable[Attempt], limit: float) -> str:
    """Markdown: a line a package, both resolvers beside each other, then what went wrong in its own words."""
    found = {(item.package, item.resolver): item for item in attempts}
    lines = ["| package | " + " | ".join(RESOLVERS) + " | release | without a base |", "|---|" + "---|" * len(RESOLVERS) + "---|---|"]
    said: list[str] = []
    for package in dict.fromkeys(name for name, _ in found):
        cells = []
        for resolver in RESOLVERS:
            item = found.get((package, resolver))
            cells.append("" if item is None else _describe(item, limit))
            if item is not None and item.message:
                said.append(f"- `{package}` ({resolver}): {item.message.replace(chr(10), ' ')}")
        last = [item for resolver in RESOLVERS if (item := found.get((package, resolver)))]
        versions = " / ".join(dict.fromkeys(item.version for item in last if item.version))
        late = max((item.behind for item in last), default=0)
        held = f" **{late} days behind**" if late > BEHIND_DAYS else ""
        lines.append(f"| {package} | {' | '.join(cells)} | {versions} | {last[0].alone}{held} |")
    total = Counter((item.resolver, item.status == 0) for item in found.values())
    summary = [f"{name}: {total[name, True]} locked, {total[name, False]} not" for name in RESOLVERS]
    return "\n".join(["; ".join(summary), "", *lines, "", *said]) + "\n"


def _describe(item: Attempt, limit: float) -> str:
    if item.status is None:
        return f"no answer in {limit:.0f} s"
    return f"{item.packages} packages, {item.seconds:.1f} s" if item.status == 0 else f"refused ({item.status}), {item.seconds:.1f} s"


def main() -> None:
    """Make the attempts that are missing, then write the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=PROJECT / ".imagebuild/starter-packages", help="folder of the results")
    parser.add_argument("--limit", type=float, default=120, help="seconds an attempt may take")
    parser.add_argument("packages", nargs="*", metavar="PACKAGE", help="those of the list to try, in this order; all when none is named")
    parser.add_argument("--until", default="", metavar="HH:MM", help="try no package after this time")
    parser.add_argument("--resolver", choices=RESOLVERS, action="append")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.packages) - set(PACKAGES)):
        raise SystemExit(f"not in starter-packages.txt: {', '.join(unknown)}")
    scratch = Scratch(arguments.out / "workspace")
    path: Path = arguments.out / "attempts.json"
    kept = _ATTEMPTS.decode(path.read_bytes()) if path.is_file() else []
    done = {(item.package, item.resolver): item for item in kept if item.base == str(scratch.base_digest)}
    lookup = functools.cache(functools.partial(resolve_alone, python=starter_lock().python, cache=arguments.out / "uv"))
    with Upstream(default_index(), scratch.cache) as upstream:
        for package in arguments.packages or PACKAGES:
            if arguments.until and time.strftime("%H:%M") >= arguments.until:
                break
            for resolver in arguments.resolver or RESOLVERS:
                if (package, resolver) in done:
                    continue
                item = try_package(scratch, package, resolver, lookup(package), upstream, arguments.limit)
                done[package, resolver] = item
                print(f"{package:32s} {resolver:10s} {_describe(item, arguments.limit)} {item.message[:100]}", flush=True)
                write_atomic(path, msgspec.json.format(msgspec.json.encode(list(done.values()))))
    order = {name: number for number, name in enumerate(PACKAGES)}
    table = render_table(sorted(done.values(), key=lambda item: order.get(item.package, len(order))), arguments.limit)
    (arguments.out / "table.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
