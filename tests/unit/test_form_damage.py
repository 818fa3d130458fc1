"""Files to merge into that somebody has damaged: merged, or refused with a line that says why; never a traceback."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.emit.forms.imagestream import render_image_streams
from imagebuild.emit.forms.kubeflow import render_spawner_form
from imagebuild.emit.forms.kubespawner import render_profiles
from imagebuild.emit.forms.workspacekind import render_workspace_kinds
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ConfigurationError
from tests.support.forms import A100, HISTORY, MIG, age, make_image

yaml: Any = importlib.import_module("yaml")

RENDERERS: dict[str, Callable[..., Any]] = {
    "kubeflow": render_spawner_form,
    "workspacekind": functools.partial(render_workspace_kinds, team_label="example.com/team"),
    "kubespawner": render_profiles,
    "imagestream": render_image_streams,
}
BEFORE = {name: list(yaml.safe_load_all(render(HISTORY, pools=[A100, MIG]).text)) for name, render in RENDERERS.items()}
NEWER = age(HISTORY, make_image("cosml", "2027q1"))[:-1]
JUNK: st.SearchStrategy[Any] = st.sampled_from([None, 3, True, "text", [], {}, [3], {"a": 3}, [None], ["text"], [{}], "delete"])


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(data=st.data(), junk=JUNK)
@pytest.mark.parametrize("form", list(RENDERERS))
def test_a_damaged_file(form: str, data: st.DataObject, junk: Any) -> None:
    documents = copy.deepcopy(BEFORE[form])
    node: Any = documents
    while True:
        key = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], dict | list) or not node[key] or data.draw(st.integers(0, 5)) == 0:
            break
        node = node[key]
    if junk == "delete":
        del node[key]
    else:
        node[key] = junk
    text = yaml.safe_dump_all(documents)
    merged = ""
    try:
        merged = RENDERERS[form](NEWER, pools=[A100], merge=EditedFile(text, "form.yaml")).text
    except ConfigurationError as error:
        refusal = error
    if merged:
        yaml.safe_load_all(merged)
    else:
        assert "form.yaml" in refusal.message
