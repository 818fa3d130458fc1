"""One process that tries inputs of one kind: ``python -m bench.soak.batch KIND SEED COUNT FOLDER``. Prints JSON: ends and faults."""

from __future__ import annotations

import collections
import json
import random
import shutil
import sys
import traceback
import warnings
from pathlib import Path

from bench.soak.arena import FaultError
from bench.soak.inputs import INPUTS, check_refusal
from imagebuild.errors import ImagebuildError


def main(kind: str, seed: int, count: int, folder: Path) -> None:
    """Each input has a seed of its own, which a fault names."""
    warnings.simplefilter("ignore")
    ends: collections.Counter[str] = collections.Counter()
    faults: list[str] = []
    for number in range(count):
        own = folder / f"{number}"
        own.mkdir(parents=True)
        one = f"{kind} {seed}/{number}"
        try:
            ends[INPUTS[kind](random.Random(f"{seed}/{number}"), own)] += 1
        except ImagebuildError as error:
            ends["refused"] += 1
            try:
                check_refusal(error)
            except FaultError as fault:
                faults.append(f"{one}: {fault}")
        except FaultError as fault:
            faults.append(f"{one}: {fault}")
        except Exception as error:  # what this looks for
            frame = traceback.extract_tb(error.__traceback__)[-1]
            ours = [item for item in traceback.extract_tb(error.__traceback__) if "/imagebuild/" in item.filename]
            place = ours[-1] if ours else frame
            faults.append(f"{one}: {type(error).__name__}: {str(error)[:200]} ({Path(place.filename).name}:{place.lineno})")
        shutil.rmtree(own, ignore_errors=True)
    print(json.dumps({"ends": ends, "faults": faults}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
