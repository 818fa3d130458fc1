"""A base that is made for guests which pull by themselves is recognised by its name and the keys of its labels, not by prose."""

from __future__ import annotations

import msgspec
import pytest

from imagebuild.base.model import Base
from imagebuild.pipeline.pushing import describe_guest_base
from tests.support.builders import make_base


def labelled(name: str = "scipy", **labels: str) -> Base:
    base = make_base()
    container = msgspec.structs.replace(base.config.container, labels={key.replace("__", "."): value for key, value in labels.items()})
    return msgspec.structs.replace(base, name=name, config=msgspec.structs.replace(base.config, config=container))


@pytest.mark.parametrize("base", [labelled("scipy-kata"), labelled(io__katacontainers__config="1")], ids=["name", "label"])
def test_a_base_for_guests_is_told(base: Base) -> None:
    assert "single-stream = true" in describe_guest_base(base)


@pytest.mark.parametrize(
    "base", [make_base(), labelled(license="Proprietary and Confidential", note="trained on COCO")], ids=["plain", "prose"]
)
def test_others_are_not(base: Base) -> None:
    assert describe_guest_base(base) == ""
