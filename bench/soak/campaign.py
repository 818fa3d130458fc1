"""``make soak MINUTES=10``: attacks of every kind, one after the other, for so many minutes.

Each attack has a seed of its own, drawn from the run's: ``--seed`` gives the same attacks again (those that kill do so at the same moment,
which is not the same place in a program), and ``--only KIND --once SEED`` one of them. Exit 1 when something that must hold did not, 130
when it was interrupted (Ctrl-C, SIGTERM); what was done until then is shown.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import json
import os
import random
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.soak import runs
from bench.soak.arena import MEMORY, Arena, FaultError, Running, find_processes, open_arena
from bench.soak.inputs import INPUTS
from bench.soak.pages import attack_page, open_browser
from imagebuild.table import format_table
from tests.support.workspaces import PROJECT

_BATCH = 100  # inputs in one process
_BATCH_SECONDS = 600.0
_SHARE = {"registries": 3, "kills": 4, "crowds": 2, "disks": 1, "places": 1}  # of the attacks by runs; one by inputs follows each
_INTERRUPTED = 130  # exit code, as a shell has it for SIGINT
_HUNG_AFTER = 10  # minutes: an attack that takes two of them is left out of shorter runs

Attack = Callable[[int], tuple[collections.Counter[str], list[str]]]


@dataclass
class Tally:
    """What attacks of one kind came to."""

    attacks: int = 0
    ends: collections.Counter[str] = field(default_factory=collections.Counter)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    longest: float = 0.0


def _make_attacks(arena: Arena, minutes: float) -> dict[str, Attack]:
    chosen = {
        "registries": runs.attack_registry, "kills": runs.attack_with_kill, "crowds": runs.attack_with_crowd, "disks": runs.attack_disk,
        "places": runs.attack_place,
    }  # fmt: skip
    if minutes >= _HUNG_AFTER:
        chosen["hung registries"] = runs.attack_hung

    attacks: dict[str, Attack] = {name: functools.partial(_run_one, arena, function) for name, function in chosen.items()}
    return attacks | {name: functools.partial(_try_inputs, arena, name) for name in INPUTS}


def _run_one(arena: Arena, function: Callable[[Arena, random.Random], str], seed: int) -> tuple[collections.Counter[str], list[str]]:
    return collections.Counter([function(arena, random.Random(seed))]), []


def _try_inputs(arena: Arena, name: str, seed: int) -> tuple[collections.Counter[str], list[str]]:
    mark = f"batch-{os.getpid()}-{seed}"
    folder = arena.folder / mark
    output = arena.folder / f"{mark}.json"
    with output.open("wb") as out, (arena.folder / f"{mark}.err").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.soak.batch", name, str(seed), str(_BATCH), str(folder)],
            cwd=PROJECT, env={**os.environ, "PYTHONPATH": str(PROJECT), "IMAGEBUILD_SOAK": mark}, stdout=out, stderr=err,
            start_new_session=True,
        )  # fmt: skip
    running = Running(process, output, arena.folder / f"{mark}.err", mark, time.monotonic())
    try:
        done = running.wait(_BATCH_SECONDS)
    finally:
        running.kill()
    if done.code:
        raise FaultError(f"the process of {_BATCH} inputs died, exit {done.code}: {done.err[-600:]}")
    arena.memory = max(arena.memory, done.memory)
    found = json.loads(done.out)
    faults = list(found["faults"])
    if done.memory >= MEMORY:
        faults.append(f"{name} {seed}: {done.memory >> 10} MiB of memory")
    faults += [f"{name} {seed}: a process was left: {line}" for line in find_processes(mark)]
    return collections.Counter(found["ends"]), faults


def _plan(attacks: dict[str, Attack], only: Sequence[str], chance: random.Random) -> list[str]:
    """One round, in random order: attacks by runs as :data:`_SHARE` has it, one by inputs beside each."""
    names = [name for name in attacks for _ in range(_SHARE.get(name, 1)) if not only or name in only]
    chance.shuffle(names)
    return names


def _attack(name: str, attack: Attack, seed: int, tally: Tally) -> None:
    started = time.monotonic()
    try:
        ends, faults = attack(seed)
        tally.ends += ends
        tally.faults += faults
        tally.attacks += ends.total()
    except pytest.skip.Exception as skipped:
        tally.ends[f"not here: {skipped}"] += 1
    except Exception as error:  # one attack's defect is a line of the report, and the others go on
        tally.attacks += 1
        tally.faults.append(f"{name} {seed}: {error if isinstance(error, FaultError) else repr(error)}")
    taken = time.monotonic() - started
    tally.seconds += taken
    tally.longest = max(tally.longest, taken)


def _show(tallies: dict[str, Tally]) -> str:
    rows = [
        (
            name,
            str(tally.attacks),
            str(len(tally.faults)),
            f"{tally.longest:.0f} s",
            ", ".join(f"{count} {end}" for end, count in tally.ends.most_common(6)),
        )
        for name, tally in tallies.items()
    ]
    return "\n".join(format_table([("attacks", "count", "faults", "longest", "ended"), *rows], right=(1, 2, 3)))


def _run_until(
    end: float, attacks: dict[str, Attack], options: argparse.Namespace, chance: random.Random, tallies: dict[str, Tally]
) -> None:
    pending: list[str] = []
    while time.monotonic() < end:
        pending = pending or _plan(attacks, options.only, chance)
        kind = pending.pop()
        before = len(tallies[kind].faults)
        _attack(kind, attacks[kind], chance.getrandbits(32) if options.once is None else options.once, tallies[kind])
        for fault in tallies[kind].faults[before:]:
            print(f"fault: {fault}", flush=True)
        if options.once is not None:
            return


def _run_campaign(options: argparse.Namespace, seed: int, tallies: dict[str, Tally]) -> tuple[int, bool]:
    """Set up and attack; KiB of the largest process, and whether the attacks were interrupted. What was started ends with it."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="imagebuild-soak-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        arena = stack.enter_context(open_arena(folder))
        attacks = _make_attacks(arena, options.minutes)
        if not options.only or "pages" in options.only:
            with contextlib.suppress(pytest.skip.Exception):
                browser = stack.enter_context(open_browser())
                attacks["pages"] = lambda one: (collections.Counter([attack_page(browser, folder, random.Random(one))]), [])
        try:
            _run_until(time.monotonic() + options.minutes * 60, attacks, options, chance, tallies)
        except KeyboardInterrupt:
            return arena.memory, True
        return arena.memory, False


def _write_document(path: Path, options: argparse.Namespace, seed: int, memory: int, tallies: dict[str, Tally]) -> None:
    document = {
        "seed": seed, "minutes": options.minutes, "memory_mib": memory >> 10,
        "attacks": {
            key: {
                "count": tally.attacks, "ends": tally.ends, "faults": tally.faults, "seconds": round(tally.seconds, 1),
                "longest": round(tally.longest, 1),
            }
            for key, tally in tallies.items()
        },
    }  # fmt: skip
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def run_soak() -> int:
    """The exit code; KeyboardInterrupt where there is nothing to show yet."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("minutes", type=float, nargs="?", default=5.0)
    parser.add_argument("--seed", type=int, default=None, help="the attacks of an earlier run")
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="only attacks of this kind (may be given again)")
    parser.add_argument("--once", type=int, default=None, metavar="SEED", help="one attack, by the seed that a fault names")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else secrets.randbits(32)
    print(f"soak: {options.minutes:g} minutes, --seed {seed}", flush=True)
    tallies: dict[str, Tally] = collections.defaultdict(Tally)
    try:
        memory, interrupted = _run_campaign(options, seed, tallies)
    except pytest.skip.Exception as skipped:
        print(f"soak: {skipped}", file=sys.stderr)
        return 1
    faults = sum(len(tally.faults) for tally in tallies.values())
    print(_show(tallies))
    print(
        f"{sum(tally.attacks for tally in tallies.values())} attacks, {faults} faults, at most {memory >> 10} MiB of memory, --seed {seed}"
    )
    if options.json is not None:
        _write_document(options.json, options, seed, memory, tallies)
    if faults:
        return 1
    return _INTERRUPTED if interrupted else 0
