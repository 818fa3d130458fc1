"""Kubeflow's form: read as its page reads it."""

from __future__ import annotations

import importlib
import itertools
from typing import Any, Literal

import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.kubeflow import render_spawner_form
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Digest

yaml: Any = importlib.import_module("yaml")


def make_entry(
    team: str, kind: Literal["jupyter", "vscode", "rstudio"] = "jupyter", tag: str = "2026q4-0123456789ab", current: bool = True
) -> CatalogueEntry:
    return CatalogueEntry(
        team=team,
        quarter="2026q4",
        tag=tag,
        digest=Digest.of(f"{team}:{tag}".encode()),
        created="2026-10-01T00:00:00Z",
        kind=kind,
        image=f"registry.example/ml/{team}",
        repository=f"ml/{team}",
        current=current,
    )


def read_form(entries: list[CatalogueEntry], **options: str) -> dict[str, Any]:
    document = yaml.safe_load(render_spawner_form(entries, **options).text)
    assert list(document) == ["spawnerFormDefaults"]
    form: dict[str, Any] = document["spawnerFormDefaults"]
    return form


def display(form: dict[str, Any], reference: str) -> str:
    """What the page shows for an option (jupyter-web-app: the parts before the second colon, the registry hidden)."""
    name, tag = reference.split(":")[:2]
    parts = name.split("/")
    if form["hideRegistry"] and len(parts) > 1 and "." in parts[0]:
        parts.pop(0)
    return "/".join(parts) + ("" if form["hideTag"] else f":{tag}")


def test_current_images_by_kind_of_server() -> None:
    entries = [
        make_entry("risk"),
        make_entry("cosml"),
        make_entry("cosml", tag="2026q3-0123456789ab", current=False),
        make_entry("apps", "vscode"),
        make_entry("stats", "rstudio"),
    ]
    form = read_form(entries)
    options = [f"{entry.image}:2026q4-0123456789ab@{entry.digest}" for entry in (entries[1], entries[0])]
    assert form["image"] == {"value": options[0], "options": options}
    for key, team in (("imageGroupOne", "apps"), ("imageGroupTwo", "stats")):
        assert form[key]["options"] == [form[key]["value"]]
        assert form[key]["value"].startswith(f"registry.example/ml/{team}:")
    assert form["allowCustomImage"] is False
    assert form["imagePullPolicy"] == {"readOnly": True, "value": "IfNotPresent"}
    assert display(form, options[0]) == "ml/cosml:2026q4-0123456789ab@sha256"


def test_groups_without_an_image_are_left_out_but_the_first_stays() -> None:
    form = read_form([make_entry("apps", "vscode")])
    assert form["image"] == {"value": "", "options": []}
    assert "imageGroupTwo" not in form


def test_a_port_is_warned_of_in_the_text_too() -> None:
    entry = msgspec.structs.replace(make_entry("cosml"), image="registry.example:5000/ml/cosml")
    form = render_spawner_form([entry, make_entry("risk")])
    (warning,) = form.warnings
    assert "registry.example:5000" in warning
    assert f"# Warning: {warning}\n" in form.text
    assert render_spawner_form([make_entry("risk")]).warnings == ()


def test_the_order_of_the_input_does_not_matter() -> None:
    entries = [make_entry("risk"), make_entry("cosml"), make_entry("apps", "vscode")]
    assert len({render_spawner_form(some).text for some in itertools.permutations(entries)}) == 1


def test_a_title_cannot_break_out_of_its_comment() -> None:
    entry = msgspec.structs.replace(make_entry("cosml"), title="x\nallowCustomImage: true\x85imageGroupTwo: {}\u2028hideTag: true")
    assert read_form([entry]) == read_form([make_entry("cosml")])


def test_nothing_to_offer_is_said() -> None:
    with pytest.raises(UsageError) as caught:
        render_spawner_form([make_entry("cosml", current=False)])
    assert "imagebuild image" in caught.value.hint


def test_a_folder_needs_to_be_told_where_it_will_be() -> None:
    entry = msgspec.structs.replace(make_entry("cosml"), image="oci:/srv/registry:cosml", repository="cosml")
    with pytest.raises(ConfigurationError) as caught:
        render_spawner_form([entry])
    assert "--registry" in caught.value.hint
    assert read_form([entry], registry_prefix="registry.example/ml")["image"]["value"].startswith("registry.example/ml/cosml:2026q4")
