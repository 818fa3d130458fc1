"""OpenShift AI's image streams: as its dashboard reads them, and after the next quarter."""

from __future__ import annotations

import importlib
import json
from typing import Any

import msgspec
import pytest

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.imagestream import render_image_streams
from imagebuild.emit.manifest.merging import EditedFile
from tests.support.forms import A100, HISTORY, MIG, age, make_image
from tests.support.odhdashboard import (
    import_stream,
    is_enabled,
    judge_workbench,
    list_accelerators,
    list_versions,
    show_stream,
    show_version,
    start_workbench,
)

yaml: Any = importlib.import_module("yaml")
ODH = "opendatahub.io/"


def read(text: str) -> dict[str, dict[str, Any]]:
    return {item["metadata"]["name"]: item for item in yaml.safe_load_all(text)}


def list_tags(stream: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {tag["name"]: tag for tag in stream["spec"]["tags"]}


def check_stream(stream: dict[str, Any]) -> None:
    """What image.openshift.io/v1 and the dashboard need: strings alone in annotations, JSON in two of them, digests as sources."""
    assert (stream["apiVersion"], stream["kind"]) == ("image.openshift.io/v1", "ImageStream")
    assert stream["metadata"]["labels"][f"{ODH}notebook-image"] == "true"
    assert stream["spec"]["lookupPolicy"] == {"local": True}
    notes = [stream["metadata"]["annotations"], *(tag["annotations"] for tag in stream["spec"]["tags"])]
    assert all(isinstance(value, str) for item in notes for value in item.values())
    for tag in stream["spec"]["tags"]:
        for name in ("notebook-software", "notebook-python-dependencies"):
            for item in json.loads(tag["annotations"][ODH + name]):
                assert set(item) == {"name", "version"}
        assert set(tag) == {"name", "annotations", "from", "referencePolicy"}
        name, _, digest = tag["from"]["name"].partition("@")
        assert tag["from"]["kind"] == "DockerImage"
        assert ":" not in name
        assert digest.startswith("sha256:")
        # The dashboard compares it with the workbench's; one that is absent makes every workbench look deprecated.
        assert tag["annotations"][f"{ODH}notebook-build-commit"] == tag["name"]
    assert stream["metadata"]["annotations"][f"{ODH}notebook-image-url"].startswith("https://")
    assert sum(tag["annotations"][f"{ODH}workbench-image-recommended"] == "true" for tag in stream["spec"]["tags"]) == 1


def outdated(tag: dict[str, Any]) -> bool:
    return f"{ODH}image-tag-outdated" in tag["annotations"]


def test_a_stream_per_team() -> None:
    streams = read(render_image_streams(HISTORY, pools=[A100, MIG], namespace="opendatahub").text)
    assert list(streams) == ["imagebuild-apps", "imagebuild-cosml", "imagebuild-stats"]
    for stream in streams.values():
        check_stream(stream)
        assert stream["metadata"]["namespace"] == "opendatahub"
    cosml = streams["imagebuild-cosml"]
    notes = cosml["metadata"]["annotations"]
    assert notes[f"{ODH}notebook-image-name"] == "Team cosml: tables"
    assert json.loads(notes[f"{ODH}recommended-accelerators"]) == ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb"]
    assert json.loads(streams["imagebuild-apps"]["metadata"]["annotations"][f"{ODH}recommended-accelerators"]) == ["nvidia.com/mig-1g.5gb"]
    tags = list_tags(cosml)
    assert list(tags) == [entry.tag for entry in HISTORY[:3]]
    assert [outdated(tag) for tag in tags.values()] == [False, False, True]
    assert tags[HISTORY[0].tag]["from"]["name"] == f"registry.example/ml/cosml@{HISTORY[0].digest}"
    assert json.loads(tags[HISTORY[0].tag]["annotations"][f"{ODH}notebook-python-dependencies"]) == [
        {"name": "pandas", "version": "2.3.0"},
        {"name": "polars", "version": "1.9.0"},
    ]
    assert "namespace" not in read(render_image_streams(HISTORY).text)["imagebuild-cosml"]["metadata"]


def test_the_dashboard_shows_what_is_meant() -> None:
    streams = [import_stream(stream) for stream in read(render_image_streams(HISTORY, pools=[A100, MIG]).text).values()]
    assert all(map(is_enabled, streams))
    assert sorted(map(show_stream, streams)) == [
        (10, "Team apps: tables", "Tabular work"),
        (20, "Team cosml: tables", "Tabular work"),
        (30, "Team stats: tables", "Tabular work"),
    ]
    assert list_accelerators(streams[1]) == ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb"]
    current, kept = list_versions(streams[1])
    assert show_version(current) == (f"{HISTORY[0].tag} ({HISTORY[0].tag})", "Python v3.11", ["pandas v2.3.0", "polars v1.9.0"])
    assert show_version(kept)[:2] == (f"{HISTORY[1].tag} ({HISTORY[1].tag})", "Python v3.11, kept as churn-q3")
    assert [tag["name"] for tag in list_versions(streams[2])] == [HISTORY[4].tag]  # what came before is no longer offered


@pytest.mark.parametrize("internal", ["", "image-registry.openshift-image-registry.svc:5000"])
@pytest.mark.parametrize("host", ["registry.example", "registry.example:5000"])
def test_workbenches_stand_as_their_image_does(internal: str, host: str) -> None:
    """Of every version, when it is new and after the next quarter; the registry inside OpenShift or not, ours with a port or not."""
    history = [msgspec.structs.replace(entry, image=entry.image.replace("registry.example", host)) for entry in HISTORY]
    text = render_image_streams(history).text
    streams = {name: import_stream(stream, internal) for name, stream in read(text).items()}
    stream = streams["imagebuild-cosml"]
    workbenches = [start_workbench(stream, tag) for tag in stream["spec"]["tags"]]
    assert [judge_workbench(one, list(streams.values())) for one in workbenches] == ["latest", "", "deprecated"]
    newer = age(history, make_image("cosml", "2027q1", host=host))
    later = read(render_image_streams(newer, merge=EditedFile(text, "f")).text)
    streams = {name: import_stream(stream, internal) for name, stream in later.items()}
    assert [judge_workbench(one, list(streams.values())) for one in workbenches] == ["deprecated", "", "deprecated"]
    fresh = start_workbench(streams["imagebuild-cosml"], list_versions(streams["imagebuild-cosml"])[0])
    assert judge_workbench(fresh, list(streams.values())) == "latest"
    newer[1] = msgspec.structs.replace(newer[1], kept=("audit",), status="kept")  # a name for what workbenches have
    kept = read(render_image_streams(newer, merge=EditedFile(text, "f")).text)
    assert judge_workbench(workbenches[0], [import_stream(stream, internal) for stream in kept.values()]) == ""
    gone = read(render_image_streams([newer[0]], merge=EditedFile(text, "f")).text)  # deleted in the registry
    assert judge_workbench(workbenches[1], [import_stream(stream, internal) for stream in gone.values()]) == "deprecated"


def test_tags_stay_when_quarters_pass() -> None:
    text = render_image_streams(HISTORY).text.replace("Team cosml: tables", "By hand")
    text = text.replace("  name: imagebuild-cosml\n", "  name: imagebuild-cosml  # ours\n")
    newer: list[CatalogueEntry] = [entry for entry in age(HISTORY, make_image("cosml", "2027q1")) if entry.digest != HISTORY[0].digest]
    merged = render_image_streams(newer, merge=EditedFile(text, "f.yaml")).text
    assert "  name: imagebuild-cosml  # ours\n" in merged
    streams = read(merged)
    for stream in streams.values():
        check_stream(stream)
    cosml = streams["imagebuild-cosml"]
    assert cosml["metadata"]["annotations"][f"{ODH}notebook-image-name"] == "By hand"
    tags = list_tags(cosml)
    assert {name: tag["from"] for name, tag in list_tags(read(text)["imagebuild-cosml"]).items()}.items() <= {
        name: tag["from"] for name, tag in tags.items()
    }.items()
    assert outdated(tags[HISTORY[0].tag])  # gone from the registry
    assert not outdated(tags[newer[0].tag])
    assert render_image_streams(newer, merge=EditedFile(merged, "f.yaml")).text == merged


def test_streams_and_tags_of_others_are_not_touched() -> None:
    other = (
        "apiVersion: image.openshift.io/v1\nkind: ImageStream\nmetadata: {name: theirs}\nspec: {tags: [{name: v1}]}\n---\n"
        "apiVersion: image.openshift.io/v1\nkind: ImageStream\nmetadata:\n  name: imagebuild-cosml\nspec:\n  tags:\n  - name: by-hand\n"
    )
    streams = read(render_image_streams(HISTORY[:3], merge=EditedFile(other, "f.yaml")).text)
    assert streams["theirs"] == yaml.safe_load(other.partition("---\n")[0])
    assert list_tags(streams["imagebuild-cosml"])["by-hand"] == {"name": "by-hand"}
    assert len(list_tags(streams["imagebuild-cosml"])) == 4
