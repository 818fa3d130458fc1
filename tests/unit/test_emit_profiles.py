"""JupyterHub's profiles: shown, chosen and made into pods by KubeSpawner itself, and in values that are there already."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from imagebuild.catalogue.entries import Status
from imagebuild.emit.forms.kubespawner import render_profiles
from imagebuild.emit.forms.offers import SpawnerForm
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.emit.prewarm.pools import PoolNotebook
from imagebuild.errors import ConfigurationError
from tests.support.forms import A100, HISTORY, MIG, age, check_pod, make_image
from tests.support.kubespawner import Hub

yaml: Any = importlib.import_module("yaml")
QUARTERS: tuple[tuple[str, Status], ...] = (("2026q4", "current"), ("2026q3", "previous"))


def read_values(form: SpawnerForm) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(form.text)["singleuser"]
    return values


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], Hub]:
    return lambda values: Hub(values, monkeypatch)


def choose(team: str, **chosen: str) -> dict[str, str]:
    """What the form sends when these of its options are chosen."""
    return {"profile": f"imagebuild-{team}", **{f"profile-option-imagebuild-{team}--{name}": value for name, value in chosen.items()}}


@pytest.mark.slow
def test_a_profile_per_team_with_images_and_places(hub: Callable[[dict[str, Any]], Hub]) -> None:
    form = render_profiles(HISTORY, pools=[A100, MIG])
    assert "apps (VS Code), stats (RStudio)" in form.warnings[0]
    values = read_values(form)
    assert values["storage"]["extraVolumes"][0]["emptyDir"] == {"medium": "Memory", "sizeLimit": "4Gi"}
    cosml, _, stats = values["profileList"]  # what JupyterHub starts as it is comes first: the first is the default
    assert cosml["slug"] == "imagebuild-cosml"
    choices = cosml["profile_options"]["image"]["choices"]
    assert [choice["display_name"] for choice in choices.values()] == ["2026q4 (current)", "2026q3, kept as churn-q3"]
    assert [choice["display_name"] for choice in stats["profile_options"]["image"]["choices"].values()] == [
        "2026q4 (current)",
        "2026q3 (the one before)",
    ]
    page = hub(values)
    pod = page.spawn({"profile": "imagebuild-cosml"})
    assert pod["containers"][0]["image"] == f"registry.example/ml/cosml:{HISTORY[0].tag}@{HISTORY[0].digest}"
    assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    pod = page.spawn(choose("cosml", image=list(choices)[1], pool="mig"))
    assert pod["containers"][0]["image"].endswith(HISTORY[1].digest)
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": 0.5, "memory": 1500 << 20, "nvidia.com/mig-1g.5gb": "2"}
    pod = page.spawn(choose("cosml", pool="a100"))
    assert pod["containers"][0]["resources"]["limits"] == {"cpu": 4.0, "memory": 16 << 30, "nvidia.com/gpu": "1"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


@pytest.mark.slow
def test_every_choice_of_the_form_is_a_pod_with_its_image(hub: Callable[[dict[str, Any]], Hub]) -> None:
    values = read_values(render_profiles(HISTORY, pools=[A100, MIG]))
    page = hub(values)
    form = page.read_form()
    assert form.profiles == [profile["slug"] for profile in values["profileList"]]
    sent = list(page.list_choices())
    assert len(sent) == 3 + (2 + 1 + 2) * 3  # each profile alone; each image with each place
    images: dict[tuple[str, str], str] = {}
    for choices in sent:
        pod = page.spawn(choices)
        check_pod(pod)
        profile = choices["profile"]
        chosen = choices.get(f"profile-option-{profile}--image", "")
        image = pod["containers"][0]["image"]
        assert image.startswith(f"registry.example/ml/{profile.removeprefix('imagebuild-')}:")
        assert chosen.partition("-")[2] in image.partition("@sha256:")[2]
        assert images.setdefault((profile, chosen), image) == image  # wherever it runs
        place = choices.get(f"profile-option-{profile}--pool", "any")
        assert ("affinity" in pod) == (place != "any")
        mounts = pod["containers"][0]["volumeMounts"]
        assert [mount["name"] for mount in mounts] == ["dshm"]


def test_texts_are_texts_on_a_page_that_takes_html(hub: Callable[[dict[str, Any]], Hub]) -> None:
    title, text = 'R&D <b>"tables"</b> </select>', "pandas < 3 & <script>alert(1)</script> {{ 1/0 }} {% raw %}"
    entry = msgspec.structs.replace(HISTORY[0], title=title, description=text)
    pool = msgspec.structs.replace(A100, notebook=PoolNotebook("Fast & <i>large</i>", "</option>"))
    plain = hub(read_values(render_profiles([HISTORY[0]], pools=[A100]))).read_form()
    form = hub(read_values(render_profiles([entry], pools=[pool]))).read_form()
    assert title in form.text
    assert text.rstrip(".") in form.text
    assert "Fast & <i>large</i>: </option>" in form.text
    assert form.tags == plain.tags
    assert (form.profiles, form.selects) == (plain.profiles, plain.selects)


def test_a_choice_is_never_another_image_later(hub: Callable[[dict[str, Any]], Hub]) -> None:
    before, after = (read_values(render_profiles(entries)) for entries in (HISTORY, age(HISTORY, make_image("cosml", "2027q1"))))
    images = before["profileList"][0]["profile_options"]["image"]["choices"]
    assert set(images) < set(after["profileList"][0]["profile_options"]["image"]["choices"])  # the one before the newest, and the kept one
    for name in images:
        old, new = (hub(values).spawn(choose("cosml", image=name)) for values in (before, after))
        assert old["containers"][0]["image"] == new["containers"][0]["image"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ("hub: {}", "prePuller.hook, prePuller.continuous"),
        ("prePuller: {hook: {enabled: false}}", "(prePuller.continuous)"),
        ("jupyterhub: {prePuller: {continuous: {enabled: false}}}", "(prePuller.hook)"),
        ("prePuller: {pullProfileListImages: true}", "all 5 images"),
        ("prePuller: {pullProfileListImages: false}", ""),
        ("jupyterhub: {prePuller: {pullProfileListImages: false}}", ""),
        ("prePuller: {hook: {enabled: false}, continuous: {enabled: false}}", ""),
        ("profile_list: []", ""),  # of KubeSpawner's own configuration the pre-pullers know nothing
        ("KubeSpawner: {}", ""),
        ("prePuller: []", "all 5 images"),
    ],
)
def test_the_charts_own_pulls_are_told(values: str, told: str) -> None:
    warnings = [text for text in render_profiles(HISTORY, merge=EditedFile(values + "\n", "f")).warnings if "pre-pullers" in text]
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)
    whole = render_profiles(HISTORY)
    assert f"# Warning: {whole.warnings[-1]}\n" in whole.text
    assert "pullProfileListImages: false" in whole.warnings[-1]


def list_pull_names(profiles: list[dict[str, Any]]) -> Iterator[str]:
    """The chart's pre-pullers have a container for each image that a profile or a choice of it names."""
    for number, profile in enumerate(profiles):
        if "image" in profile.get("kubespawner_override", {}):
            yield f"image-pull-singleuser-profilelist-{number}"
        for option, described in profile.get("profile_options", {}).items():
            for name, choice in described.get("choices", {}).items():
                if "image" in choice.get("kubespawner_override", {}):
                    yield f"image-pull-profile-{number}-option-{option}-{name}"


def test_the_charts_pre_pullers_can_name_every_image() -> None:
    entries = [make_image(f"team-{number}", quarter, status=status) for number in range(120) for quarter, status in QUARTERS]
    names = list(list_pull_names(read_values(render_profiles(entries))["profileList"]))
    assert len(names) == 360
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in names)


def test_values_have_what_the_charts_schema_takes() -> None:
    """Its ``singleuser`` takes no other keys: a list of profiles; lists, or mappings by name, of volumes."""
    (values,) = yaml.safe_load_all(render_profiles(HISTORY, pools=[A100]).text)
    assert set(values) == {"singleuser"}
    assert set(values["singleuser"]) == {"storage", "profileList"}
    assert isinstance(values["singleuser"]["profileList"], list)
    storage = values["singleuser"]["storage"]
    assert set(storage) == {"extraVolumes", "extraVolumeMounts"}
    assert all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in storage.values())


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
