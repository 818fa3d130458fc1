"""``make bases``: a stand-in of every kind of base, and the whole round on each; a table, and JSON on request. Exit 1 when a step fails.

It takes this machine's package index, docker, and root (overlays, chroot). ``--only NAME`` and ``--step NAME`` choose.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.bases.claims import choose_claims
from bench.bases.parts import Parts
from bench.bases.rounds import Round, Setting, choose_steps
from bench.bases.standins import STAND_INS, StandIn, push_stand_in
from bench.scratch import Scratch
from imagebuild.lock.index.routing import default_index
from imagebuild.table import format_table
from tests.support.servers.registry import run_registry
from tests.support.workspaces import LayoutImage

REQUIREMENTS = "duckdb\nnltk\nipywidgets\n"  # native code, scripts, data files of a JupyterLab extension


def run_steps(item: StandIn, parts: Parts, setting: Setting, only: Sequence[str]) -> dict[str, str]:
    """Step -> its seconds, or what was wrong. Later steps stand on earlier ones: the first that fails ends the round."""
    found: dict[str, str] = {}
    reference = push_stand_in(item, parts, setting.registry, setting.folder)
    one = Round(item, reference, setting)
    for name, step in {**choose_steps(item), **choose_claims(item)}.items():
        if only and name not in only:
            continue
        started = time.monotonic()
        try:
            step(one)
            found[name] = f"{time.monotonic() - started:.0f} s"
        except pytest.skip.Exception as skipped:
            found[name] = f"not here: {skipped}"
        except Exception as error:  # the table says which, and the next base has its turn
            found[name] = f"FAILED {type(error).__name__}"
            print(f"{item.name}, {name}: {error}", flush=True)
            if name in ("pin", "lock", "image"):
                break
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.bases", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this base (may be given again)")
    parser.add_argument("--step", action="append", default=[], metavar="NAME", help="only this step (may be given again)")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    options = parser.parse_args(arguments)
    unknown = set(options.only) - {item.name for item in STAND_INS}
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(item.name for item in STAND_INS)}")
    results: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="imagebuild-bases-") as name, run_registry(Path(name) / "registry") as registry:
        folder = Path(name)
        scratch = Scratch(folder / "scratch")
        parts = Parts(LayoutImage.named(scratch.root / ".imagebuild/registry", "bases/starter:latest"))
        setting = Setting(registry, folder, folder / "cache", default_index(), REQUIREMENTS)
        for item in STAND_INS:
            if not options.only or item.name in options.only:
                results[item.name] = run_steps(item, parts, setting, options.step)
                print(f"{item.name}: " + ", ".join(f"{step} {end}" for step, end in results[item.name].items()), flush=True)
    steps = list(dict.fromkeys(step for found in results.values() for step in found))
    rows = [(base, *(found.get(step, "") for step in steps)) for base, found in results.items()]
    print("\n".join(format_table([("base", *steps), *rows])))
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 1 if any("FAILED" in end for found in results.values() for end in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
