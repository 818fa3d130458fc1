"""Kubeflow's form: read as its page reads it."""

from __future__ import annotations

import importlib
import itertools
import re
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imagebuild.catalogue.entries import CatalogueEntry
from imagebuild.emit.forms.kubeflow import render_spawner_form
from imagebuild.emit.manifest.merging import EditedFile
from imagebuild.errors import ConfigurationError, UsageError
from imagebuild.oci.model import Digest
from tests.support.forms import A100, HISTORY, MIG, age, check_pod, make_image
from tests.support.jupyterwebapp import NUMBERS, SERVERS, fill_form, list_vendors, make_notebook, show_image

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


def read_form(entries: list[CatalogueEntry], **options: Any) -> dict[str, Any]:
    document = yaml.safe_load(render_spawner_form(entries, **options).text)
    assert list(document) == ["spawnerFormDefaults"]
    form: dict[str, Any] = document["spawnerFormDefaults"]
    return form


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
    assert show_image(form, options[0]) == "ml/cosml:2026q4-0123456789ab@sha256"


def test_groups_without_an_image_are_left_out_but_the_first_stays() -> None:
    form = read_form([make_entry("apps", "vscode")])
    assert form["image"] == {"value": "", "options": []}
    assert "imageGroupTwo" not in form


def test_a_port_is_warned_of_with_what_the_page_shows() -> None:
    entry = msgspec.structs.replace(make_entry("cosml"), image="registry.example:5000/ml/cosml")
    kept = msgspec.structs.replace(entry, tag="2026q3-0123456789ab", digest=Digest.of(b"kept"), current=False, kept=("churn-q3",))
    form = render_spawner_form([entry, make_entry("risk")])
    (warning,) = form.warnings
    assert warning.startswith("registry.example:5000 has a port")
    assert "it shows registry.example:5000/ml/cosml and no tag; a registry name without a port (--pull-from)" in warning
    assert f"# Warning: {warning}\n" in form.text
    assert show_image({"hideRegistry": True}, read_form([entry])["image"]["value"]) == "registry.example:5000/ml/cosml"
    (warning,) = render_spawner_form([entry, kept]).warnings
    assert "no tag, so images of cosml look alike" in warning
    assert render_spawner_form([make_entry("risk")]).warnings == ()


def test_images_that_look_alike_with_hidden_tags_are_warned_of() -> None:
    form = "spawnerFormDefaults: {hideTag: true, hideRegistry: true}\n"
    (warning,) = render_spawner_form(HISTORY, merge=EditedFile(form, "f.yaml")).warnings
    assert warning == "the form has hideTag: true, so images of cosml look alike; hideTag: false tells them apart"
    assert render_spawner_form([make_entry("risk")], merge=EditedFile(form, "f.yaml")).warnings == ()
    port = msgspec.structs.replace(make_entry("risk"), image="registry.example:5000/ml/risk")
    (warning,) = render_spawner_form([port], merge=EditedFile(form, "f.yaml")).warnings
    assert "it shows registry.example and no tag" in warning


def test_the_order_of_the_input_does_not_matter() -> None:
    entries = [make_entry("risk"), make_entry("cosml"), make_entry("apps", "vscode")]
    assert len({render_spawner_form(some).text for some in itertools.permutations(entries)}) == 1


def test_a_title_cannot_break_out_of_its_comment() -> None:
    entry = msgspec.structs.replace(make_entry("cosml"), title="x\nallowCustomImage: true\x85imageGroupTwo: {}\u2028hideTag: true")
    assert read_form([entry]) == read_form([make_entry("cosml")])


def test_the_form_has_the_pools() -> None:
    form = read_form(list(HISTORY), pools=[A100, MIG])
    assert list_vendors(form) == ["nvidia.com/gpu", "nvidia.com/mig-1g.5gb"]
    assert [item["groupKey"] for item in form["tolerationGroup"]["options"]] == ["a100"]  # the other pool has no taints
    (term,) = form["affinityConfig"]["options"][1]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [{"key": "nvidia.com/mig.config", "operator": "In", "values": ["all-1g.5gb", "all-2g.10gb"]}]


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
def test_every_choice_of_the_page_is_a_notebook(merged: bool) -> None:
    """Written whole, and merged into a form with the sections of upstream's own."""
    text = render_spawner_form(HISTORY, pools=[A100, MIG]).text
    form = yaml.safe_load(merge_form(UPSTREAM, pools=[A100, MIG]) if merged else text)["spawnerFormDefaults"]
    offered = {"jupyter": ["cosml", "cosml"], "group-one": ["apps"], "group-two": ["stats"]}
    for server, key in SERVERS.items():
        plain = fill_form(form, server)
        options = [option for option in form[key]["options"] if "/ml/" in option]
        assert [option.split(":")[0].rpartition("/")[2] for option in options] == offered[server]
        assert plain["image"] in form[key]["options"]
        places = itertools.product(options, ("", "a100", "mig"), ("none", *NUMBERS[1:3]))
        for image, pool, number in places:
            device = {"": "", "a100": "nvidia.com/gpu", "mig": "nvidia.com/mig-1g.5gb"}[pool] if number != "none" else ""
            chosen = {"affinityConfig": pool, "tolerationGroup": pool, "gpus": {"vendor": device, "num": number if device else "none"}}
            pod = make_notebook(form, {**plain, "image": image, **chosen})["spec"]["template"]["spec"]
            check_pod(pod)
            assert pod["containers"][0]["image"] == image
            assert pod["containers"][0]["imagePullPolicy"] == "IfNotPresent"
            assert ("affinity" in pod) == bool(pool)
            assert bool(pod["tolerations"]) == (pool == "a100")
            assert pod["containers"][0]["resources"]["limits"].get(device, "") == (number if device else "")
            assert not device or device in list_vendors(form)


def test_images_kept_under_a_name_are_offered_and_retired_ones_are_not() -> None:
    options = read_form(list(HISTORY))["image"]["options"]
    assert [show_image({"hideRegistry": True}, option) for option in options] == [
        f"ml/cosml:{HISTORY[0].tag}@sha256",
        "ml/cosml:keep-churn-q3@sha256",
    ]


def test_one_team_alone() -> None:
    form = read_form(list(HISTORY), teams=("stats",))
    assert form["image"]["options"] == []
    assert len(form["imageGroupTwo"]["options"]) == 1
    with pytest.raises(UsageError) as caught:
        read_form(list(HISTORY), teams=("stat",))
    assert "stats" in caught.value.hint


THEIRS = """\
# Configuration of the page.
spawnerFormDefaults:
  # may users type one in?
  allowCustomImage: true
  image:
    # the default container image
    value: registry.example/ml/cosml:old@sha256:{digest}

    # the list
    options:
      - registry.example/ml/cosml:old@sha256:{digest}  # last quarter's
      - registry.example/scipy:v1

  ##########
  # VS Code
  ##########
  imageGroupOne:
    value: registry.example/codeserver:v1
    options:
      - registry.example/codeserver:v1
  cpu:
    value: "0.5"   # little

  tolerationGroup:
    readOnly: false
    value: ""
    # options
    options: []
    #options:
    #  - groupKey: "group_1"

  # the end
""".format(digest="a" * 64)


def merge_form(text: str, entries: tuple[CatalogueEntry, ...] = HISTORY, **options: Any) -> str:
    return render_spawner_form(entries, merge=EditedFile(text, "f.yaml"), **options).text


def test_a_form_by_hand_keeps_what_is_its_own() -> None:
    text = merge_form(THEIRS, pools=[A100])
    form = yaml.safe_load(text)["spawnerFormDefaults"]
    current, kept, other = (str(option) for option in form["image"]["options"])
    assert other == "registry.example/scipy:v1"
    assert form["image"]["value"] == current
    assert HISTORY[0].digest in current
    assert HISTORY[1].digest in kept
    assert form["allowCustomImage"] is True
    assert form["imageGroupOne"]["options"][0] == "registry.example/codeserver:v1"
    assert form["imageGroupOne"]["value"] == "registry.example/codeserver:v1"
    assert form["tolerationGroup"]["options"][0]["groupKey"] == "a100"
    changed = ("sha256:" + "a" * 64, "options: []")
    rest = iter(text.splitlines())
    assert all(line in rest for line in THEIRS.splitlines() if not any(part in line for part in changed))
    assert merge_form(text, pools=[A100]) == text
    newer = tuple(age(HISTORY, make_image("cosml", "2027q1")))
    later = yaml.safe_load(merge_form(text, newer, pools=[A100]))["spawnerFormDefaults"]["image"]
    assert [option.partition("@")[2] for option in later["options"]] == [newer[0].digest, HISTORY[1].digest, ""]
    assert later["value"].endswith(newer[0].digest)


FOLLOWED = """\
spawnerFormDefaults:
  image:
    value: registry.example/ml/risk:old@sha256:{a}
    options:
    # one to begin with
    - registry.example/scipy:v1
    # cosml: ask Ana
    - registry.example/ml/cosml:old@sha256:{a}  # tabular
    - registry.example/ml/cosml:older@sha256:{b}
    # the audit's
    - registry.example/ml/cosml:other@{kept}
    # risk
    - registry.example/ml/risk:old@sha256:{a}
    # nobody's
    - registry.example/torch:v1
""".format(a="a" * 64, b="b" * 64, kept=HISTORY[1].digest)


def test_comments_follow_their_option_to_the_next_image() -> None:
    entries = (*HISTORY[:2], make_image("risk"))
    text = merge_form(FOLLOWED, entries)
    current, kept, risk = (read_form(list(entries))["image"]["options"][index] for index in (0, 1, 2))
    assert text.partition("    options:\n")[2].partition("  allowCustomImage")[0] == (
        "    # one to begin with\n    - registry.example/scipy:v1\n"
        f'    # cosml: ask Ana\n    - "{current}" # tabular\n'
        f'    # the audit\'s\n    - "{kept}"\n'
        f'    # risk\n    - "{risk}"\n'
        "    # nobody's\n    - registry.example/torch:v1\n"
    )
    assert yaml.safe_load(text)["spawnerFormDefaults"]["image"]["value"] == risk
    assert merge_form(text, entries) == text


OPTIONS = st.one_of(
    st.sampled_from(["registry.example/scipy:v1", "registry.example/torch:v2", "plain"]),
    st.builds(
        lambda team, digest: f"registry.example/ml/{team}:x@sha256:{digest}",
        st.sampled_from(["cosml", "apps", "stats", "foreign"]),
        st.sampled_from(["a" * 64, "b" * 64, *(entry.digest.hex for entry in HISTORY[:3])]),
    ),
)
COMMENTS = st.sampled_from(["", "", "above", "above\n\nmore"])
ITEMS = st.lists(st.tuples(COMMENTS, OPTIONS, st.booleans()), max_size=5)
SECTIONS = st.tuples(st.sampled_from(["image", "imageGroupOne", "imageGroupTwo"]), COMMENTS, ITEMS)


def write_form(sections: list[Any], dashes: int) -> str:
    """A form by hand; every comment has a number of its own."""
    lines = ["spawnerFormDefaults:", "  cpu: {value: '1'}"]
    count = itertools.count()

    def comment(text: str, pad: str) -> list[str]:
        return [f"{pad}# {line} {next(count)}" if line else "" for line in text.split("\n")] if text else []

    for name, above, options in sections:
        lines += [*comment(above, "  "), f"  {name}:", "    options:" if options else "    options: []"]
        for text, option, beside in options:
            pad = " " * (4 + dashes)
            lines += [*comment(text, pad), f"{pad}- {option}{f'  # beside {next(count)}' if beside else ''}"]
    return "\n".join([*lines, *comment("the end", "  "), ""])


def read_comments(text: str) -> dict[str, str]:
    """Comment line -> the line below it."""
    lines = [line.strip() for line in text.splitlines()]
    return {line: below.partition(" #")[0].strip('- "') for line, below in itertools.pairwise(lines) if line.startswith("#")}


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(st.lists(SECTIONS, min_size=1, max_size=3, unique_by=lambda section: section[0]), st.sampled_from([0, 2]))
def test_any_form_by_hand_has_our_images_and_all_of_its_comments(sections: list[Any], dashes: int) -> None:
    text = write_form(sections, dashes)
    merged = merge_form(text, pools=[A100, MIG])
    form, whole = yaml.safe_load(merged)["spawnerFormDefaults"], read_form(list(HISTORY))
    for key in SERVERS.values():
        options = form.get(key, {}).get("options", [])
        ours = [option for option in options if re.search("/ml/(cosml|apps|stats):", option)]
        assert set(ours) == set(whole[key]["options"])
        assert not options or form[key]["value"] in options
    before, after = read_comments(text), read_comments(merged)
    assert set(before) <= set(after) | {merged.splitlines()[-1].strip()}
    for comment, option in before.items():
        if re.match("registry.example/(scipy|torch|ml/foreign)|plain$", option):
            assert after[comment] == option  # whatever became of the options around it
    assert merge_form(merged, pools=[A100, MIG]) == merged


def test_the_list_above_a_group_of_our_own_is_kept_true() -> None:
    before = render_spawner_form(HISTORY).text.replace("  # JupyterLab:\n", "  # JupyterLab:\n  #   gone: somebody's (2020q1)\n")
    newer = tuple(age(HISTORY, make_image("cosml", "2027q1")))
    text = merge_form(before, newer)
    assert "  #   cosml: Team cosml: tables (2027q1)\n" in text
    assert "tables (2026q4)" not in text.partition("  image:")[0]
    assert "  #   cosml: Team cosml: tables (2026q3, churn-q3)\n" in text
    assert "  #   gone: somebody's (2020q1)\n" in text  # no team of this listing
    assert merge_form(text, newer) == text


UPSTREAM = """\
# As the application's own file has it: the sections, with images of nobody's team.
spawnerFormDefaults:
  cpu: {value: '0.5', limitFactor: "1.2", readOnly: false}
  memory: {value: 1.0Gi, limitFactor: "1.2", readOnly: false}
  environment: {readOnly: true, value: {}}
  workspaceVolume:
    value:
      mount: /home/jovyan
      newPvc: {metadata: {name: '{notebook-name}-workspace'}, spec: {resources: {requests: {storage: 5Gi}}, accessModes: [ReadWriteOnce]}}
    readOnly: false
  dataVolumes: {value: [], readOnly: false}
  gpus:
    value:
      num: none
      vendors:
      - {limitsKey: nvidia.com/gpu, uiName: NVIDIA}
      - {limitsKey: amd.com/gpu, uiName: AMD}
      vendor: ''
    readOnly: false
  image:
    value: ghcr.io/example/jupyter-scipy:v1
    options:
    - ghcr.io/example/jupyter-scipy:v1
  shm: {value: true, readOnly: false}
  configurations: {value: [], readOnly: false}
  affinityConfig: {value: '', options: [], readOnly: false}
  tolerationGroup: {value: '', options: [], readOnly: false}
"""

DEVICES = """\
spawnerFormDefaults:
  gpus:
    readOnly: {read_only}
    value:
      num: "none"
      # who makes them
      vendors:
      - limitsKey: "nvidia.com/gpu"
        uiName: "Whole ones"
      - limitsKey: "amd.com/gpu"
        uiName: "AMD"
      vendor: ""
"""


def test_devices_of_the_pools_can_be_chosen_in_a_form_by_hand() -> None:
    text = merge_form(DEVICES.format(read_only="false"), pools=[A100, MIG])
    value = yaml.safe_load(text)["spawnerFormDefaults"]["gpus"]["value"]
    assert value["vendors"] == [
        {"limitsKey": "nvidia.com/gpu", "uiName": "Whole ones"},
        {"limitsKey": "amd.com/gpu", "uiName": "AMD"},
        {"limitsKey": "nvidia.com/mig-1g.5gb", "uiName": "MIG 1g.5gb"},
    ]
    assert "      # who makes them\n" in text
    assert merge_form(text, pools=[A100, MIG]) == text
    assert "mig-1g.5gb" not in merge_form(DEVICES.format(read_only="false"), pools=[A100])
    bare = yaml.safe_load(merge_form("spawnerFormDefaults: {cpu: {value: '1'}}\n", pools=[MIG]))["spawnerFormDefaults"]
    assert bare["gpus"] == read_form(list(HISTORY), pools=[MIG])["gpus"]


def test_a_form_that_lets_nobody_choose_a_device_is_warned_of() -> None:
    form = DEVICES.format(read_only="true")
    (warning,) = render_spawner_form(HISTORY, pools=[MIG], merge=EditedFile(form, "f.yaml")).warnings
    assert warning.startswith("gpus is readOnly")
    assert render_spawner_form(HISTORY, merge=EditedFile(form, "f.yaml")).warnings == ()


def test_a_form_in_its_config_map() -> None:
    inner = "".join(f"    {line}".rstrip() + "\n" for line in THEIRS.splitlines())
    text = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a  # named so\ndata:\n  spawner_ui_config.yaml: |\n{inner}  other: x\n"
    merged = merge_form(text)
    document = yaml.safe_load(merged)
    assert document["data"]["spawner_ui_config.yaml"] == merge_form(THEIRS)
    assert document["data"]["other"] == "x"
    assert "name: a  # named so" in merged
    assert merge_form(merged) == merged


def test_a_whole_form_merged_with_its_own_images_is_the_same() -> None:
    text = render_spawner_form(HISTORY, pools=[A100, MIG]).text
    assert merge_form(text, pools=[A100, MIG]) == text


@pytest.mark.parametrize(
    "text", ["a: b\n", "spawnerFormDefaults: []\n", "spawnerFormDefaults: {image: {options: x}}\n", "a:\n\t- b\n", "\n"]
)
def test_what_is_no_form_is_said(text: str) -> None:
    with pytest.raises(ConfigurationError):
        merge_form(text)


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
