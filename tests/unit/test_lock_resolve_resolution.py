"""requirements.in, the resolver's answer, and its complaints."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagebuild.base.model import Distribution
from imagebuild.errors import ConfigurationError, LockError
from imagebuild.lock.file.model import Lock
from imagebuild.lock.inputs.freshness import check_lock_fresh, hash_inputs
from imagebuild.lock.inputs.requirements import read_requirements
from imagebuild.lock.resolve.explaining import find_causes
from imagebuild.lock.resolve.resolution import Pin, check_against_base, find_pins, parse_pins
from tests.support.builders import make_lock_base


def write(folder: Path, text: str) -> Path:
    path = folder / "requirements.in"
    path.write_text(text)
    return path


def test_a_line_the_base_cannot_satisfy(tmp_path: Path) -> None:
    direct = read_requirements(write(tmp_path, "six\n\npandas==2.2.*\n")).direct
    pandas = Distribution("pandas", "3.0.1", "/x")
    base = make_lock_base([pandas], name="big")
    with pytest.raises(LockError, match=r"^requirements\.in line 3 asks for pandas==2\.2\.\*; the base big has pandas 3\.0\.1$"):
        check_against_base(direct, {"pandas": pandas}, {}, base)
    check_against_base(direct, {"pandas": Distribution("pandas", "2.2.9", "/x")}, {}, base)
    skipped = read_requirements(write(tmp_path, "pandas<1; python_version < '3'\n")).direct
    check_against_base(skipped, {"pandas": pandas}, {"python_version": "3.11"}, base)


@pytest.mark.parametrize(
    ("installer", "record", "offered"), [("pip", True, True), ("", True, True), ("conda", True, False), ("pip", False, False)]
)
def test_replacing_is_offered_only_where_it_works(tmp_path: Path, installer: str, record: bool, offered: bool) -> None:
    direct = read_requirements(write(tmp_path, "pandas==2.2.*\n")).direct
    pandas = Distribution("pandas", "3.0.1", "/x", installer=installer, has_record=record)
    base = make_lock_base([pandas], name="big")
    with pytest.raises(LockError) as caught:
        check_against_base(direct, {"pandas": pandas}, {}, base)
    way = 'or let it be replaced: replace = ["pandas"] in team.toml, ' if offered else ""
    assert caught.value.hint == (
        f"change requirements.in line 1 to what the base has (pandas==3.0.1), {way}or choose another base than big"
    )


def test_pins_that_allow_yanked_files(tmp_path: Path) -> None:
    direct = read_requirements(write(tmp_path, "a==1.0\nb==2.*\nc>=3\nd===4.0\n")).direct
    assert find_pins(direct) == {"a": {"1.0"}, "d": {"4.0"}}


def test_answers_of_both_resolvers() -> None:
    text = (
        "joblib==1.5.3\n    # via scikit-learn\nNumpy==1.26.4\n    # via\n"
        "    #   -c constraints.txt\n    #   pandas\n    #   scikit-learn (extra)\n"
        "pandas==2.2.3\n    # via -r requirements.in\n\n# The following packages are considered to be unsafe in a requirements file:\n"
        "mine==0.1\n    # via -r local-packages.in\ntorch==2.5.1+cu121\n"
    )
    assert parse_pins(text) == (
        Pin("joblib", "1.5.3", ("scikit-learn",)),
        Pin("mine", "0.1", ("local package",)),
        Pin("numpy", "1.26.4", ("pandas", "scikit-learn")),
        Pin("pandas", "2.2.3", ("requirements.in",)),
        Pin("torch", "2.5.1+cu121", ()),
    )


@pytest.mark.parametrize(
    ("log", "causes"),
    [
        ('x\nimagebuild-cause: ["old", "1.0", "numpy<2"]\nimagebuild-cause: ["", "", "b==1"]\n', [("old 1.0", "numpy<2"), ("", "b==1")]),
        ("ERROR: Could not find a version that satisfies the requirement src>=1 (from wrap) (from versions: none)", [("wrap", "src>=1")]),
        ("ERROR: No matching distribution found for src>=1", [("", "src>=1")]),
        ("cause: Because all versions of old\n  depend on numpy<2 and numpy==2.1.0, we can", [("old", "numpy<2")]),
        ("Because gitlint-core[trusted-deps]==0.17.0 depends on arrow==1.2.1 and", [("gitlint-core", "arrow==1.2.1")]),
        ("Because a==1 depends on celery[sqs]>=5 and", [("a", "celery>=5")]),
        ("Because only beta<=2.0 is available and you require beta>=7, we can", [("", "beta>=7")]),
        ("Because nothere was not found in the package registry and", [("", "nothere")]),
        ("nothing known", []),
    ],
)
def test_causes_are_found(log: str, causes: list[tuple[str, str]]) -> None:
    assert [(cause.parent, f"{cause.name}{cause.specifier}") for cause in find_causes(log)] == causes


def test_freshness(tmp_path: Path) -> None:
    base = make_lock_base([Distribution("numpy", "1.26.4", "/x")])
    requirements = write(tmp_path, "pandas\n")
    package = tmp_path / "packages/tools"
    package.mkdir(parents=True)
    (package / "x.py").write_text("")
    lock = Lock(
        team="t",
        base="plain",
        base_digest="sha256:" + "1" * 64,
        base_fingerprint=base.inventory.fingerprint,
        python=base.interpreter.version,
        platform="linux/amd64",
        inputs=hash_inputs(requirements, [package], tmp_path),
        resolver="r",
        cutoff="2026-10-01T00:00:00Z",
        packages=(),
    )
    check_lock_fresh(lock, base, requirements, [package], tmp_path)  # another digest, the same fingerprint
    (package / "x.py").write_text("y")
    requirements.write_text("pandas<3\n")
    with pytest.raises(LockError, match=r"stale: packages/tools changed; requirements\.in changed") as caught:
        check_lock_fresh(lock, base, requirements, [package], tmp_path)
    assert caught.value.hint == "run: imagebuild lock t"
    with pytest.raises(LockError, match="packages/tools is gone"):
        check_lock_fresh(lock, base, requirements, [], tmp_path)
    with pytest.raises(LockError, match="base plain changed since t was locked: its Python packages"):
        check_lock_fresh(lock, make_lock_base([Distribution("numpy", "2.0", "/x")]), requirements, [package], tmp_path)
    with pytest.raises(LockError, match="is for base plain, and the team now uses other"):
        check_lock_fresh(lock, make_lock_base(name="other"), requirements, [package], tmp_path)
    with pytest.raises(ConfigurationError, match="is not under"):
        hash_inputs(requirements, [], tmp_path / "elsewhere")
