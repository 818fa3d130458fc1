"""JupyterHub's profiles: chosen and applied as KubeSpawner does it, and in values that are there already."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec
import pytest

from imagebuild.emit.forms.kubespawner import render_profiles
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ConfigurationError
from tests.support.forms import A100, HISTORY, MIG, age, check_pod, make_image

yaml: Any = importlib.import_module("yaml")


def apply(profile: dict[str, Any], **chosen: str) -> dict[str, Any]:
    """The profile's overrides, then those of each option's choice or default: mappings are merged, all else is replaced."""
    settings: dict[str, Any] = {}
    overrides = [profile["kubespawner_override"]]
    for name, option in profile["profile_options"].items():
        choices = option["choices"]
        default = [choice for choice in choices.values() if choice.get("default")]
        assert len(default) == 1
        overrides.append((choices[chosen[name]] if name in chosen else default[0])["kubespawner_override"])
    for override in overrides:
        for key, value in override.items():
            settings[key] = {**settings.get(key, {}), **value} if isinstance(value, dict) else value
    return settings


def describe_pod(settings: dict[str, Any]) -> dict[str, Any]:
    affinity = {
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": settings["node_affinity_required"]}}
    }
    limits = {"cpu": str(settings["cpu_limit"]), "memory": settings["mem_limit"], **settings["extra_resource_limits"]}
    container = {"name": "notebook", "image": settings["image"], "resources": {"limits": limits}}
    return {"containers": [container], "affinity": affinity, "tolerations": settings.get("tolerations", [])}


def test_a_profile_per_team_with_images_and_places() -> None:
    form = render_profiles(HISTORY, pools=[A100, MIG])
    (warning,) = form.warnings
    assert "apps (VS Code), stats (RStudio)" in warning
    values = yaml.safe_load(form.text)["singleuser"]
    assert values["storage"]["extraVolumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    cosml, _, stats = values["profileList"]  # what JupyterHub starts as it is comes first: the first is the default
    assert cosml["slug"] == "imagebuild-cosml"
    choices = cosml["profile_options"]["image"]["choices"]
    assert [choice["display_name"] for choice in choices.values()] == ["2026q4 (current)", "2026q3, kept as churn-q3"]
    assert [choice["display_name"] for choice in stats["profile_options"]["image"]["choices"].values()] == [
        "2026q4 (current)",
        "2026q3 (the one before)",
    ]
    assert apply(cosml)["image"] == f"registry.example/ml/cosml:{HISTORY[0].tag}@{HISTORY[0].digest}"
    settings = apply(cosml, image=list(choices)[1], pool="mig")
    assert settings["image"].endswith(HISTORY[1].digest)
    assert settings["cpu_limit"] == 0.5
    assert settings["mem_limit"] == 1500 << 20
    assert settings["extra_resource_limits"] == {"nvidia.com/mig-1g.5gb": "2"}
    check_pod(describe_pod(settings))
    settings = apply(cosml, pool="a100")
    assert settings["mem_limit"] == "16G"  # KubeSpawner's G is 1024 to the third
    check_pod(describe_pod({**settings, "mem_limit": "16Gi"}))


def test_a_choice_is_never_another_image_later() -> None:
    before, after = (
        yaml.safe_load(render_profiles(entries).text)["singleuser"]["profileList"][0]["profile_options"]["image"]["choices"]
        for entries in (HISTORY, age(HISTORY, make_image("cosml", "2027q1")))
    )
    assert set(before) < set(after)  # the one before the newest, and the kept one
    assert all(after[key]["kubespawner_override"] == before[key]["kubespawner_override"] for key in before)


VALUES = """\
hub:
  config: {}   # ours
singleuser:
  # how long a start may take
  startTimeout: 300
  profileList:
    # by hand
    - display_name: "Small"
      default: true
      slug: small

    # all teams'
    - display_name: "Old"
      slug: imagebuild-cosml
# chart
cull:
  enabled: true
"""


@pytest.mark.parametrize("indent", [False, True])
def test_values_by_hand_keep_what_is_their_own(indent: bool) -> None:
    text = VALUES
    if indent:
        text = "jupyterhub:\n" + "".join(f"  {line}".rstrip() + "\n" for line in VALUES.splitlines())
    merged = render_profiles(HISTORY, pools=[A100], merge=EditedFile(text, "f.yaml")).text
    document = yaml.safe_load(merged)
    values = document["jupyterhub"] if indent else document
    assert [profile["slug"] for profile in values["singleuser"]["profileList"]] == [
        "small",
        "imagebuild-cosml",
        "imagebuild-apps",
        "imagebuild-stats",
    ]
    assert "storage" not in values["singleuser"]
    rest = iter(merged.splitlines())
    assert all(line in rest for line in text.splitlines() if "Old" not in line and "slug: imagebuild-cosml" not in line)
    assert render_profiles(HISTORY, pools=[A100], merge=EditedFile(merged, "f.yaml")).text == merged


def test_profiles_as_a_mapping_and_as_the_spawner_takes_them() -> None:
    for text in ("profile_list: []\n", "KubeSpawner:\n  start_timeout: 3\n", "profile_list:\n  small: {display_name: a}\n"):
        document = yaml.safe_load(render_profiles(HISTORY[:3], merge=EditedFile(text, "f.yaml")).text)
        held = document.get("KubeSpawner", document)["profile_list"]
        assert "imagebuild-cosml" in (held if isinstance(held, dict) else [profile["slug"] for profile in held])


@pytest.mark.parametrize("text", ["singleuser: []\n", "singleuser: {profileList: 3}\n", "a: b\n---\nc: d\n"])
def test_what_is_no_values_file_is_said(text: str) -> None:
    with pytest.raises(ConfigurationError):
        render_profiles(HISTORY, merge=EditedFile(text, "f.yaml"))


def test_the_order_of_the_input_does_not_matter() -> None:
    shuffled = [msgspec.structs.replace(entry) for entry in reversed(HISTORY)]
    assert render_profiles(shuffled).text == render_profiles(HISTORY).text
