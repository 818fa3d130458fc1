"""The key follows every input and nothing else; the Dockerfile says what the recipe says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest

from imagebuild import annotations as names
from imagebuild.addons.model import Addon, AddonLock
from imagebuild.base.model import Base, Distribution
from imagebuild.dockerfile import render_dockerfile, render_requirements
from imagebuild.layer.model import Codec
from imagebuild.lock.file.model import Lock
from imagebuild.recipe import ImageOptions, Recipe, make_recipe, render_constraints
from tests.support.builders import make_base, make_lock, make_package
from tests.support.trees import SITE

NUMPY = Distribution("numpy", "2.1.0", SITE)


def recipe_of(base: Base, lock: Lock, **changes: Any) -> Recipe:
    options: dict[str, Any] = {
        "engine": "direct",
        "codec": Codec(),
        "environment": {},
        "personal_constraints": True,
        "title": "COSML",
        "description": "",
        "owners": (),
    }
    return make_recipe(base, lock, "sha256:" + "1" * 64, ImageOptions(**{**options, **changes}))


def test_the_tag_is_quarter_and_key() -> None:
    base = make_base(NUMPY)
    recipe = recipe_of(base, make_lock(base, make_package("pandas")))
    # What anybody can compute from the recipe that travels with the image: keys sorted, no white space, UTF-8.
    canonical = json.dumps(json.loads(recipe.encode()), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert recipe.encode() == canonical
    key = hashlib.sha256(canonical).hexdigest()
    assert recipe.key == f"sha256:{key}"
    assert recipe.tag == f"2026q4-{key[:12]}"
    assert recipe_of(base, make_lock(base, make_package("pandas"))).key == recipe.key


@pytest.mark.parametrize(
    ("month", "quarter"), [("01", "2026q1"), ("03", "2026q1"), ("04", "2026q2"), ("06", "2026q2"), ("09", "2026q3"), ("12", "2026q4")]
)
def test_the_quarter_is_the_cutoffs(month: str, quarter: str) -> None:
    base = make_base()
    assert make_lock(base, cutoff=f"2026-{month}-28T00:00:00Z").quarter == quarter


def test_every_input_moves_the_key() -> None:
    base = make_base(NUMPY)
    lock = make_lock(base, make_package("pandas"))
    keys = [
        recipe_of(base, lock).key,
        recipe_of(base, make_lock(base, make_package("pandas", "1.1"))).key,
        recipe_of(base, make_lock(base, make_package("pandas"), cutoff="2026-10-02T00:00:00Z")).key,
        recipe_of(base, lock, codec=Codec("gzip", 2)).key,
        recipe_of(base, lock, codec=Codec(single=True)).key,
        recipe_of(base, lock, environment={"A": "1"}).key,
        recipe_of(base, lock, personal_constraints=False).key,
        recipe_of(base, lock, title="other").key,
        recipe_of(base, lock, engine="docker").key,
        recipe_of(base, lock, split=True).key,
        recipe_of(make_base(), lock).key,  # its constraints lack numpy
        recipe_of(msgspec.structs.replace(base, inventory=msgspec.structs.replace(base.inventory, digest="sha256:" + "2" * 64)), lock).key,
    ]
    assert len(set(keys)) == len(keys)


def test_a_recipe_says_which_layer_has_which_package() -> None:
    base = make_base(NUMPY)
    lock = make_lock(base, make_package("pandas"), make_package("local", index="local"))
    single, split = recipe_of(base, lock), recipe_of(base, lock, split=True)
    assert (single.layers, names.LAYERS in single.labels, b"layers" in single.encode()) == ((), False, False)
    assert split.labels[names.LAYERS] == str(len(split.layers))
    assert sorted(name for group in split.layers for name in group) == ["local", "pandas"]
    addon = Addon("data.table", "1.0", "d.tar.gz", "1" * 64, 40 << 20, 1, "/usr/lib/R/library/data.table", "binary", released="2020-01-01")
    addons = AddonLock("r", lock.team, lock.base, lock.cutoff, {}, {}, (addon,))
    options = ImageOptions("direct", Codec(), {}, False, "", "", (), split=True)
    assert make_recipe(base, lock, "sha256:" + "1" * 64, options, [addons]).layers[0] == ("r:data.table",)
    # The Dockerfile makes one layer of the same files, and does not say otherwise.
    assert names.LAYERS not in render_dockerfile(split, base)
    assert "pandas" in render_requirements(lock)


def test_constraints_hold_base_and_lock() -> None:
    base = make_base(NUMPY, Distribution("torch", "2.5.1+cu121", SITE))
    text = render_constraints(base, make_lock(base, make_package("pandas", "2.2.3")))
    assert text.splitlines()[1:] == ["numpy==2.1.0", "pandas==2.2.3", "torch==2.5.1+cu121"]


def test_pip_constraint_stands_beside_the_bases_own() -> None:
    base = make_base(env=("PIP_CONSTRAINT=/opt/c.txt",))
    assert recipe_of(base, make_lock(base)).environment == {"PIP_CONSTRAINT": "/opt/c.txt /etc/imagebuild/constraints.txt"}
    assert recipe_of(base, make_lock(base), personal_constraints=False).environment == {}


def test_annotations_name_what_was_asked_for() -> None:
    base = make_base()
    lock = make_lock(
        base,
        make_package("cosml-utils", "1.4", via=("images/cosml/packages/cosml_utils",), index="local"),
        make_package("pandas", "2.2.3"),
        make_package("pytz", "2026", via=("pandas",)),
    )
    labels = recipe_of(base, lock).labels
    assert json.loads(labels[names.PACKAGES]) == {"cosml-utils": "1.4", "pandas": "2.2.3"}
    assert labels[names.BASE_DIGEST] == base.pinned
    assert labels[names.CREATED] == "2026-10-01T00:00:00Z"


def test_the_dockerfile_has_one_run_and_the_bases_user_verbatim() -> None:
    base = make_base(NUMPY, user="1000:100")
    lock = make_lock(base, make_package("pandas"))
    lines = render_dockerfile(recipe_of(base, lock, environment={"QUOTED": 'a "b" $c\\'}), base).splitlines()
    starts = [line.split()[0] for line in lines if line and line[0].isupper()]
    assert starts.count("RUN") == 1
    assert starts.count("FROM") == 1
    assert [line for line in lines if line.startswith("FROM")] == [f"FROM reg.example/kubeflow/jupyter-scipy@{base.pinned}"]
    assert [line for line in lines if line.startswith("USER")] == ["USER root", "USER 1000:100"]
    assert lines[-1] == "USER 1000:100"
    assert 'ENV QUOTED="a \\"b\\" \\$c\\\\"' in lines
    run = next(line for line in lines if line.startswith("RUN"))
    assert "--network=none" in run
    text = "\n".join(lines)
    for option in ("--no-index", "--no-deps", "--require-hashes"):
        assert option in text
    assert not any(word in text for word in ("COPY", "ADD ", "http://", "https://"))
    assert render_requirements(lock) == "pandas==1.0 --hash=sha256:148cd2e873592ef08a82c47e7212b729987c093a474903dd3e2f7ef5e074484d\n"


def test_what_is_replaced_is_in_the_key_and_in_the_dockerfile() -> None:
    base = make_base(NUMPY)
    recipe = recipe_of(base, make_lock(base, make_package("numpy", "2.2.0"), make_package("pandas")))
    assert (recipe.replace, recipe.replaced) == (("numpy==2.1.0",), ("numpy",))
    text = render_dockerfile(recipe, base)
    assert "install.py --removal=/run/imagebuild/removal.json " in text
    assert " --ignore-installed " in text
    plain = recipe_of(base, make_lock(base, make_package("pandas")))
    assert b"replace" not in plain.encode()
    assert "--removal" not in render_dockerfile(plain, base)
    assert "--ignore-installed" not in render_dockerfile(plain, base)
