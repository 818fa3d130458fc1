"""A run with nothing to do loads no more than it needs to see that."""

from __future__ import annotations

import pytest

from tests.support.startup import find_unwanted, list_loaded
from tests.support.workspaces import Built

pytestmark = pytest.mark.integration


def test_a_team_whose_image_is_there_takes_what_decides_that_and_no_more(built: Built) -> None:
    checkout = built.checkout
    said, loaded = list_loaded(["image", "cosml", *checkout.places], checkout.environment)
    assert "there already" in said
    assert find_unwanted(loaded) == []
