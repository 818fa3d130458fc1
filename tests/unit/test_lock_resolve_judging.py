"""What nobody can have meant: kernel markers, source-only successors, pre-releases, what the base holds back."""

from __future__ import annotations

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from imagebuild.base.model import Distribution
from imagebuild.errors import LockError
from imagebuild.lock.index.pages import ProjectFile, ProjectPage
from imagebuild.lock.inputs.requirements import DirectRequirement
from imagebuild.lock.resolve.blocking import Block, choose_newest, find_blocks
from imagebuild.lock.resolve.candidates import Candidates, select_wheels
from imagebuild.lock.resolve.candidates import Choice as Limits
from imagebuild.lock.resolve.judging import Holder, JudgedChoice, describe_held_back, judge_choice
from imagebuild.lock.resolve.kernelmarkers import depends_on_kernel
from imagebuild.lock.resolve.resolution import Pin, parse_pins
from tests.support.builders import make_lock_base

LINUX = {
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "platform_release": "6.1",
    "platform_version": "#1",
}


@pytest.mark.parametrize(
    ("marker", "depends"),
    [
        ("platform_release >= '99'", True),
        ("platform_version != ''", True),
        ("platform_release == '5.10.0-kernel'", True),
        ("'microsoft' in platform_release", True),
        ("sys_platform == 'win32' and platform_release >= '10'", False),
        ("sys_platform == 'linux' or platform_release >= '20.0'", False),
        ("sys_platform == 'linux' and platform_release >= '20.0'", True),
        ("python_version >= '3.8'", False),
    ],
)
def test_a_marker_whose_answer_changes_with_the_kernel(marker: str, depends: bool) -> None:
    assert depends_on_kernel(Marker(marker), LINUX) is depends


def page(*files: tuple[str, str]) -> Candidates:
    found = tuple(ProjectFile(name, f"https://x.example/{name}", upload_time=f"{day}T00:00:00Z") for name, day in files)
    return select_wheels(ProjectPage("thing", found), "default", Limits(("py3-none-any",), "3.11.2", "2026-11-26T00:00:00Z"))


def judge(version: str, candidates: Candidates, *asked: str) -> str:
    return judge_choice(JudgedChoice(Pin("thing", version, ()), candidates, tuple(map(Requirement, asked or ("thing",)))))


OLD_WHEEL = ("thing-0.3.1.dev5-py3-none-any.whl", "2020-11-11")
SOURCE = ("thing-0.19.8.tar.gz", "2026-10-20")


def test_a_pre_release_of_years_ago_is_refused_with_both_ways_out() -> None:
    """deepspeed: the only wheel is a development release of 2020."""
    with pytest.raises(
        LockError, match=r"thing 0\.3\.1\.dev5 \(2020-11-11\) would be locked.*0\.19\.8 \(2026-10-20\) is source only"
    ) as caught:
        judge("0.3.1.dev5", page(OLD_WHEEL, SOURCE))
    assert '[source] packages = ["thing"]' in caught.value.hint
    assert "thing==0.3.1.dev5" in caught.value.hint
    assert judge("0.3.1.dev5", page(OLD_WHEEL, SOURCE), "thing==0.3.1.dev5") == ""  # somebody means it


@pytest.mark.parametrize(
    ("files", "asked", "said"),
    [
        ((("thing-1.0-py3-none-any.whl", "2026-01-01"), ("thing-1.1.tar.gz", "2026-06-01")), "thing", "1.1 (2026-06-01) is source only"),
        ((("thing-1.0-py3-none-any.whl", "2026-01-01"), ("thing-1.1.tar.gz", "2026-06-01")), "thing<1.1", ""),
        ((("thing-1.0-py3-none-any.whl", "2026-01-01"), ("thing-1.1rc1.tar.gz", "2026-06-01")), "thing", ""),
        ((("thing-1.0-py3-none-any.whl", "2026-01-01"), ("thing-0.9.tar.gz", "2026-06-01")), "thing", ""),
        ((("thing-1.0-py3-none-any.whl", "2026-01-01"), ("thing-1.1.tar.gz", "2026-12-01")), "thing", ""),  # after the cutoff
        ((("thing-1.0b2-py3-none-any.whl", "2026-01-01"),), "thing", "a pre-release that nobody asked for, and there is no final release"),
        ((("thing-1.0b2-py3-none-any.whl", "2026-01-01"),), "thing>=1.0b1", ""),
    ],
)  # fmt: skip
def test_what_is_told(files: tuple[tuple[str, str], ...], asked: str, said: str) -> None:
    found = judge(files[0][0].split("-")[1], page(*files), asked)
    assert said in found
    assert bool(found) is bool(said)


def test_over_a_year_behind_is_refused_and_a_year_is_not() -> None:
    wheel = ("thing-1.0-py3-none-any.whl", "2025-01-01")
    assert judge("1.0", page(wheel, ("thing-1.1.tar.gz", "2026-01-01")))
    with pytest.raises(LockError, match="would be locked"):
        judge("1.0", page(wheel, ("thing-1.1.tar.gz", "2026-01-02")))


def test_what_is_held_back_is_not_blamed_on_a_missing_wheel() -> None:
    """kfp: 2.17.3 has a wheel, and pins urllib3; of the releases that would fit the base all newer than 0.1.11 are source only."""
    files = (
        ("thing-0.1.11-py3-none-any.whl", "2019-03-06"),
        ("thing-2.13.0.tar.gz", "2025-04-28"),
        ("thing-2.17.3-py3-none-any.whl", "2026-10-22"),
    )
    choice = JudgedChoice(Pin("thing", "0.1.11", ()), page(*files), (Requirement("thing"),))
    holder = Holder("the newest thing 2.17.3 needs urllib3==2.8.0; the base starter has urllib3 2.7.0", 'replace = ["urllib3"]')
    with pytest.raises(LockError) as caught:
        judge_choice(choice, lambda: holder)
    assert caught.value.message == (
        "thing 0.1.11 (2019-03-06) would be locked: the newest thing 2.17.3 needs urllib3==2.8.0; the base starter has urllib3 2.7.0; "
        "of those that may fit, 2.13.0 (2025-04-28) is source only"
    )
    assert caught.value.hint.startswith('replace = ["urllib3"]; or have 2.13.0 built inside the base: [source] packages = ["thing"]')
    with pytest.raises(LockError, match=r"2\.17\.3 has a wheel, and another requirement does not allow it"):
        judge_choice(choice)
    recent = page(("thing-0.1.11-py3-none-any.whl", "2025-03-06"), *files[1:])
    assert judge_choice(JudgedChoice(choice.pin, recent, choice.asked)) == ""  # what holds it back is told by another line
    assert "is source only" in judge_choice(JudgedChoice(choice.pin, recent, (Requirement("thing<2.17"),)))


class Index:
    """Needs by ``name version``."""

    def __init__(self, needs: dict[str, list[str]], given: tuple[str, ...] = (), sources: dict[str, tuple[str, ...]] | None = None) -> None:
        self.needs = needs
        self.given = given
        self.sources = sources or {}
        self.built = False

    def ask_candidates(self, name: str) -> Candidates:
        versions = [key.partition(" ")[2] for key in self.needs if key.startswith(f"{name} ")]
        index = "url" if name in self.given else "default"
        sources = self.sources.get(name, ())
        return Candidates(
            name,
            index,
            wheels={version: ProjectFile("x", "y") for version in versions},
            sdist_only=sources,
            sources={version: ProjectFile("x", "y") for version in sources} if self.built else {},
        )

    def read_needs(self, name: str, version: str) -> list[Requirement]:
        return [Requirement(line) for line in self.needs[f"{name} {version}"]]


BASE = make_lock_base([Distribution("python-dateutil", "4.0.0", "/x", has_record=True)])
HELD = {item.name: item for item in BASE.inventory.distributions}


def ask(*lines: str) -> list[DirectRequirement]:
    return [DirectRequirement(number, line, Requirement(line)) for number, line in enumerate(lines, 1)]


def test_what_of_the_base_stands_in_the_way_is_found_through_others() -> None:
    index = Index(
        {
            "boto3 1.0": ["botocore<1"],
            "boto3 2.0": ["botocore>=2", "jmespath; extra == 'no'"],
            "botocore 2.0": ["python-dateutil<3"],
            "botocore 0.1": [],
            "free 1.0": ["python-dateutil>=2", "loop"],
            "loop 1.0": ["free"],
            "crt 1.0": ["python-dateutil<3; extra == 'crt'"],
        }
    )
    first, second = find_blocks(ask("boto3", "free", "gone", "crt", "crt[crt]", "python-dateutil"), index, HELD, LINUX)
    assert first.describe("starter") == (
        "the newest boto3 2.0 needs botocore 2.0, which needs python-dateutil<3; the base starter has python-dateutil 4.0.0"
    )
    ways = ('let it be replaced: replace = ["python-dateutil"] in team.toml', "ask for an older boto3 (requirements.in line 1)")
    assert first.advise(BASE, ()) == ", or ".join([*ways, "choose another base"])
    assert (second.name, second.where) == ("crt", "requirements.in line 5")
    assert find_blocks(ask("boto3<2"), index, HELD, LINUX) == ()
    assert find_blocks(ask("boto3"), index, HELD, LINUX, stopped=lambda: True) == ()


def test_a_need_of_which_there_is_source_only_stands_in_the_way_too() -> None:
    """kfp 2.17.3 has a wheel, and needs a kfp-server-api that has none."""
    index = Index(
        {"kfp 2.17.3": ["kfp-server-api<3,>=2.17.3"], "kfp 0.1.11": []}, sources={"kfp-server-api": ("2.17.3",), "kfp": ("2.13.0",)}
    )
    (block,) = find_blocks(ask("kfp"), index, HELD, LINUX)
    assert block.describe("starter") == "the newest kfp 2.17.3 needs kfp-server-api<3,>=2.17.3, which is source only: there is no wheel"
    assert block.advise(BASE, ()) == (
        'have kfp-server-api built inside the base: [source] packages = ["kfp-server-api"] in team.toml, '
        "or ask for an older kfp (requirements.in line 1)"
    )
    index.built = True
    assert find_blocks(ask("kfp"), index, HELD, LINUX) == ()  # the team has it built


def test_what_blocks_a_wheel_by_address_offers_no_older_one() -> None:
    index = Index({"solver 3.1": ["botocore"], "botocore 2.0": ["python-dateutil<3"]}, given=("solver",))
    (block,) = find_blocks(ask("solver==3.1"), index, HELD, LINUX)
    assert block.describe("starter").startswith("solver 3.1 needs botocore 2.0, which needs python-dateutil<3; ")
    assert block.advise(BASE, ()) == 'let it be replaced: replace = ["python-dateutil"] in team.toml, or choose another base'


def test_the_newest_is_final_where_there_is_one() -> None:
    versions = dict.fromkeys(("1.0", "1.10", "1.9", "2.0rc1"))
    assert choose_newest(versions, SpecifierSet()) == "1.10"
    assert choose_newest(versions, SpecifierSet(">=2.0rc1")) == "2.0rc1"
    assert choose_newest(versions, SpecifierSet(">3")) == ""


def test_held_back_more_than_a_year_names_the_holder() -> None:
    files = (("thing-1.0-py3-none-any.whl", "2020-12-09"), ("thing-3.0-py3-none-any.whl", "2026-10-29"))
    pin = Pin("thing", "1.0", ())
    block = find_blocks(ask("thing"), Index({"thing 3.0": ["python-dateutil<3"]}), HELD, LINUX)[0]
    found = describe_held_back(pin, page(*files), SpecifierSet(), block, "starter")
    assert found == (
        "thing 1.0 (2020-12-09) is locked, and 3.0 (2026-10-29) is out: the newest thing 3.0 needs python-dateutil<3; "
        "the base starter has python-dateutil 4.0.0"
    )
    assert describe_held_back(pin, page(*files), SpecifierSet("<2"), block, "starter") == ""  # the team asks for it
    assert describe_held_back(pin, page(files[0], ("thing-3.0-py3-none-any.whl", "2021-12-09")), SpecifierSet(), None, "starter") == ""


def test_pins_by_arbitrary_equality() -> None:
    """pip-compile writes pytz===2024.1 as it was asked (PEP 440)."""
    text = "pytz===2024.1\n    # via -r requirements.in\nnumpy==2.1.0\nodd[more]===not-a-version ; x\n"
    assert [(pin.name, pin.version) for pin in parse_pins(text)] == [("numpy", "2.1.0"), ("odd", "not-a-version"), ("pytz", "2024.1")]


def test_a_pre_release_where_a_final_release_would_do_is_refused() -> None:
    """hydra-core 1.4.0rc3: the final 1.3.8 has a wheel, and needs a package that is source only."""
    found = page(("thing-1.3.8-py3-none-any.whl", "2025-12-01"), ("thing-1.4.0rc3-py3-none-any.whl", "2026-10-25"))
    choice = JudgedChoice(Pin("thing", "1.4.0rc3", ()), found, (Requirement("thing>=1.1"),))
    with pytest.raises(LockError) as refused:
        judge_choice(choice, lambda: Holder("dvc 3.67.1 needs thing 1.3.8, which needs antlr4, which is source only", "have antlr4 built"))
    assert refused.value.message == (
        "thing 1.4.0rc3 (2026-10-25) would be locked, a pre-release that nobody asked for; the newest final release is 1.3.8 (2025-12-01): "
        "dvc 3.67.1 needs thing 1.3.8, which needs antlr4, which is source only"
    )
    assert refused.value.hint == "have antlr4 built, or say that you mean the pre-release: thing==1.4.0rc3 in requirements.in"
    with pytest.raises(LockError, match=r"nobody asked for; the newest final release is 1\.3\.8 \(2025-12-01\)$"):
        judge_choice(choice)
    assert judge("1.4.0rc3", found, "thing==1.4.0rc3") == ""
    # No final release that fits: what was locked was meant.
    assert judge("1.4.0rc3", found, "thing>=1.4.0rc1") == ""
    assert "is a pre-release that nobody asked for" in judge("1.4.0rc3", found, "thing!=1.3.8")
    source = page(("thing-1.3.8.tar.gz", "2025-12-01"), ("thing-1.4.0rc3-py3-none-any.whl", "2026-10-25"))
    with pytest.raises(LockError, match=r"1\.3\.8 \(2025-12-01\): thing 1\.3\.8 is source only") as refused:
        judge("1.4.0rc3", source)
    assert refused.value.hint.startswith('[source] packages = ["thing"] in team.toml, or say')


def test_a_block_is_found_by_what_lies_on_its_way() -> None:
    block = Block("requirements.in line 1", "dvc", ("dvc 3.67.1", "hydra_core 1.3.8"), "antlr4==4.9.*", "", "", "antlr4")
    assert [name for name in ("dvc", "hydra-core", "antlr4", "hydra") if block.is_through(name)] == ["dvc", "hydra-core"]
