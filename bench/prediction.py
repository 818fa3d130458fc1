"""How far predictions are from layers, package by package: ``python -m bench.prediction FOLDER TEAM...`` on teams that were built there.

FOLDER holds images/, lockfiles/ and .imagebuild/ (``make bench`` leaves one in .imagebuild/bench). Of each team the image of its lock is
read; the totals are what counts against a budget, the worst packages show where the factors are weak.
"""

from __future__ import annotations

import sys
from pathlib import Path

from imagebuild.oci.model import Platform
from imagebuild.pipeline.sizesubject import measure_named, predict_team
from imagebuild.workspace import Workspace


def main() -> None:
    """Print the table."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m bench.prediction FOLDER TEAM...")
    workspace = Workspace(Path(sys.argv[1]), quiet=True)
    print(f"{'team':<20} {'packages':>8} {'stored':>9} {'unpacked':>9}   worst packages, stored")
    for team in sys.argv[2:]:
        predicted = predict_team(workspace, team)
        if predicted.built is None:
            print(f"{team:<20} not built: imagebuild image {team} --root {sys.argv[1]}")
            continue
        measured = measure_named(workspace, predicted.built.image, platform=Platform.parse("linux/amd64"))
        real = {item.name: item for item in measured.packages}
        off = [
            (item.compressed - real[item.name].compressed, item.compressed / real[item.name].compressed - 1, item.name)
            for item in predicted.packages
            if item.name in real and real[item.name].compressed
        ]
        worst = ", ".join(f"{name} {share:+.0%}" for _, share, name in sorted(off, key=lambda row: -abs(row[0]))[:4])
        stored, unpacked = predicted.compressed / measured.compressed - 1, predicted.installed / measured.installed - 1
        print(f"{team:<20} {len(predicted.packages):>8} {stored:>+9.1%} {unpacked:>+9.1%}   {worst}")


if __name__ == "__main__":
    main()
