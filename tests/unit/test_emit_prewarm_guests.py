"""Pools of guests that pull by themselves are recognised by what their nodes are called."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.emit.prewarm.guests import warn_of_guests
from imagebuild.emit.prewarm.pools import Pool, Toleration
from tests.support.forms import A100, MIG


@pytest.mark.parametrize(
    "pool",
    [
        msgspec.structs.replace(A100, labels={"katacontainers.io/kata-runtime": ("true",)}),
        msgspec.structs.replace(A100, labels={"node.kubernetes.io/worker": ("coco",)}),
        msgspec.structs.replace(A100, labels={"cloud.google.com/gke-confidential-nodes": ("true",)}),
        msgspec.structs.replace(A100, tolerations=(Toleration("kata", "Exists", "", "NoSchedule"),)),
        msgspec.structs.replace(A100, name="peer-pods"),
    ],
)
def test_a_pool_of_guests_is_told(pool: Pool) -> None:
    (line,) = warn_of_guests([A100, pool, MIG], {"cosml", "elsewhere"})
    assert line.startswith(f"pool {pool.name}: ")
    assert "single-stream = true in [layer] of cosml (" in line


def test_one_whose_teams_have_one_stream_is_not() -> None:
    pool = msgspec.structs.replace(A100, name="kata")
    assert warn_of_guests([pool], {"elsewhere"}) == ()
    (line,) = warn_of_guests([msgspec.structs.replace(pool, teams=None)], {"elsewhere"})  # every team with an image
    assert "of elsewhere (" in line


def test_others_are_not() -> None:
    others = msgspec.structs.replace(A100, labels={"a": ("skatable", "cocoa-not"), "chocolate": ("x",)}, name="mdtdx1")
    assert warn_of_guests([A100, MIG], {"cosml"}) == ()
    assert warn_of_guests([msgspec.structs.replace(others, labels={"a": ("skatable",), "chocolate": ("x",)})], {"cosml"}) == ()
