"""Two sides, and why a tag is another one."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.catalogue.lookup import FoundImage, find_named_image
from imagebuild.difference.comparison import compare_sides, encode_difference
from imagebuild.difference.explanation import explain_recipe, format_explanation
from imagebuild.difference.rendering import format_markdown, format_text, render_difference_page
from imagebuild.difference.sides import Side, read_side
from imagebuild.errors import LockError, UsageError
from imagebuild.layer.model import Codec
from imagebuild.lock.file.lockfile import format_lock, lock_digest
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.oci.model import OCI_CONFIG, Descriptor, Digest, Manifest
from imagebuild.recipe import ImageOptions, Recipe, make_recipe
from imagebuild.text import format_change
from imagebuild.workspace import Workspace
from tests.support.builders import make_base, make_lock, make_package
from tests.support.images import pack_files
from tests.unit.test_size_scan import BASE, installed, push

BASE_VALUE = make_base()


def package(name: str, version: str = "1.0", size: int = 1000, **changes: object) -> LockedPackage:
    values = {
        "version": version,
        "filename": f"{name}-{version}-py3-none-any.whl",
        "size": size,
        "installed_size": 3 * size,
        "sha256": Digest.of(f"{name}{version}".encode()).hex,
        "via": ("other",),
        **changes,
    }
    return msgspec.structs.replace(make_package(name), **values)


def lock(*packages: LockedPackage, **changes: object) -> Lock:
    return msgspec.structs.replace(make_lock(BASE_VALUE, *packages), **changes)


def side(name: str, made: Lock, **more: object) -> Side:
    return msgspec.structs.replace(Side(name, made, base=made.base, base_digest=made.base_digest), **more)


def test_packages_bytes_and_licences() -> None:
    old = lock(package("a", via=("requirements.in",)), package("gone"), package("same"))
    new = lock(package("a", "2.0", 5000, via=("requirements.in",)), package("same"), package("z"))
    one = side("A", old, compressed=1 << 20, installed=2 << 20, licences={old.packages[0].sha256: "MIT"})
    other = side("B", new, compressed=3 << 20, installed=2 << 20, licences={new.packages[0].sha256: "AGPL-3.0-only"})
    found = compare_sides(one, other)
    assert [(item.name, item.kind, item.direct) for item in found.changes.packages] == [
        ("a", "upgraded", True),
        ("z", "added", False),
        ("gone", "removed", False),
    ]
    assert found.licences == {"a": ("MIT", "AGPL-3.0-only")}
    assert not found.base_changed
    text = format_text(found)
    assert "1.0 MiB > 3.0 MiB  +2.0 MiB" in text
    assert "unpacked" not in text  # the same
    assert "MIT > AGPL-3.0-only" in text
    assert [line.split()[:2] for line in text.splitlines() if "asked for" in line] == [["upgraded", "a"]]
    assert json.loads(encode_difference(found))["changes"]["packages"][0]["after"]["version"] == "2.0"
    assert "| stored | 1.0 MiB | 3.0 MiB | +2.0 MiB |" in format_markdown(found)
    page = render_difference_page(found).decode()
    assert "default-src 'none'" in page
    assert "<script" not in page
    assert page.count("class=over") == 1  # the licence


def test_a_changed_base_is_said_and_nothing_is_said_of_what_is_the_same() -> None:
    one = side("A", lock(package("a")))
    other = side("B", lock(package("a"), base_digest="sha256:" + "9" * 64))
    found = compare_sides(one, other)
    assert found.base_changed
    assert "base digest" in format_text(found)
    assert "the same packages" in format_text(found)
    same = compare_sides(one, one)
    assert same.is_empty
    assert "no difference" in format_text(same)


def test_a_side_without_a_lock_is_compared_by_versions() -> None:
    known = side("A", lock(package("a"), package("b")), licences={package("a").sha256: "MIT"})
    recorded = side("B", lock(package("a", sha256="", index=""), package("b", "2.0", sha256="", index="")), recorded=True)
    found = compare_sides(known, recorded)
    assert [(item.name, item.kind) for item in found.changes.packages] == [("b", "upgraded")]
    assert "its packages were read from its layers" in format_text(found)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "images").mkdir()
    (tmp_path / "lockfiles").mkdir()
    return Workspace(tmp_path, quiet=True)


def test_lock_files_and_foreign_images_are_sides(workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "lockfiles" / "pylock.t.toml"
    made = lock(package("light"))
    path.write_text(format_lock(made))
    assert read_side(workspace, str(path)).lock == made
    assert read_side(workspace, "lockfiles/pylock.t.toml").lock == made
    (tmp_path / "old.toml").write_text(format_lock(made))
    assert read_side(workspace, str(tmp_path / "old.toml")).lock == made
    with pytest.raises(LockError, match="cannot be read"):
        read_side(workspace, "absent.toml")
    with pytest.raises(UsageError, match="is neither a team here nor an image"):
        read_side(workspace, "absent")
    push(workspace.layout, "base", [BASE])
    push(workspace.layout, "app", [BASE, pack_files(installed("light", {"light/__init__.py": b"x"}, ("heavy",)))])
    name = f"oci:{workspace.layout.folder}:app:1"
    found = read_side(workspace, name, base=f"oci:{workspace.layout.folder}:base:1")
    assert found.recorded
    assert [(item.name, item.version) for item in found.lock.packages] == [("light", "1.0")]
    assert found.compressed == find_named_image(workspace, name).manifest.layers[1].size
    assert [item.name for item in compare_sides(read_side(workspace, str(path)), found).changes.packages] == []


def recipe(made: Lock, **changes: object) -> Recipe:
    options: dict[str, object] = {
        "engine": "direct",
        "codec": Codec(),
        "environment": {"A": "1"},
        "personal_constraints": True,
        "title": "T",
        "description": "",
        "owners": (),
    }
    return make_recipe(BASE_VALUE, made, lock_digest(made), ImageOptions(**{**options, **changes}))  # type: ignore[arg-type]


def image(made: Recipe) -> FoundImage:
    manifest = Manifest("", Descriptor(OCI_CONFIG, Digest.of(b"{}"), 2), (), made.labels)
    return msgspec.structs.replace(_BARE, name=f"t:{made.tag}", manifest=manifest)


class _Raw(msgspec.Struct, frozen=True):
    digest: Digest = Digest.of(b"image")


_BARE = FoundImage("t:x", None, "t", _Raw(), None, b"{}")  # type: ignore[arg-type]


def test_every_input_that_changed_is_a_reason() -> None:
    old = lock(package("a"), inputs={"requirements.in": "1" * 64, "packages/x": "2" * 64})
    new = lock(package("a", "2.0"), inputs={"requirements.in": "3" * 64, "packages/x": "2" * 64})
    before = recipe(old)
    after = recipe(new, engine="docker", environment={"A": "2"}, title="Other", slim=("tests",), system=("graphviz",))
    found = explain_recipe(after, new, image(before), before, old)
    assert {reason.input for reason in found.reasons} == {
        "input files",
        "packages",
        "engine",
        "environment A",
        "label title",
        "slim",
        "rules of slim",
        "system packages",
    }
    text = format_explanation(found)
    assert f"{after.tag} would be built; the last image is {before.tag}" in text
    assert "requirements.in changed" in text
    assert "packages/x" not in text
    assert "a 1.0 > 2.0 upgraded" in text


def test_nothing_changed_and_the_first_image_are_said() -> None:
    made = lock(package("a"))
    same = explain_recipe(recipe(made), made, image(recipe(made)), recipe(made), made)
    assert (same.pushed, same.reasons) == (True, ())
    assert "nothing changed" in format_explanation(same)
    first = explain_recipe(recipe(made), made, None, None, None)
    assert "would be the team's first image" in format_explanation(first)


def test_without_its_recipe_the_labels_of_the_last_image_are_compared() -> None:
    old, new = lock(package("a")), lock(package("a"), base_digest="sha256:" + "9" * 64)
    before, after = recipe(old), recipe(new, title="Other")
    found = explain_recipe(after, new, image(before), None, None)
    assert not found.complete
    assert {reason.input for reason in found.reasons} == {"lock", "label title"}
    assert "without its recipe" in format_explanation(found)
    assert names.TITLE in before.annotations


def test_changes_have_a_sign() -> None:
    assert [format_change(count) for count in (2048, -2048, 0)] == ["+2.0 KiB", "-2.0 KiB", "0 B"]
