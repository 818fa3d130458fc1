"""Why a resolver gave up, out of what it printed."""

from __future__ import annotations

import pytest
from packaging.requirements import Requirement

from imagebuild.base.model import Distribution
from imagebuild.lock.inputs.requirements import DirectRequirement
from imagebuild.lock.resolve.blocking import Block
from imagebuild.lock.resolve.candidates import Candidates
from imagebuild.lock.resolve.explaining import ResolutionFacts, explain_unresolved
from imagebuild.lock.resolve.resolution import Outcome
from tests.support.builders import make_lock_base


class Unasked:
    """An index that was asked for nothing."""

    def find_candidates(self, name: str) -> Candidates | None:  # noqa: ARG002  # the protocol's
        return None


@pytest.mark.parametrize(
    "log",
    [
        'imagebuild-cause: ["airflow-core", "3.0.1", "attrs!=25.2.0,>=22.1.0"]\n',  # pip-tools
        "× No solution found:\n  ╰─▶ Because airflow-core depends on attrs==26.1.0 and attrs==25.3.0, we can conclude that\n",  # noqa: RUF001  # uv
    ],
)
def test_a_constraint_that_does_not_allow_what_the_base_has_is_named(log: str) -> None:
    """airflow's constraints of a year ago: attrs==25.3.0, where the base has another one."""
    base = make_lock_base([Distribution("attrs", "26.1.0", "/x", has_record=True)])
    held = {item.name: item for item in base.inventory.distributions}
    direct = (DirectRequirement(1, "airflow", Requirement("airflow")),)
    limits = (
        DirectRequirement(1, "attrs<20", Requirement("attrs<20; python_version < '3'"), "limits.txt"),
        DirectRequirement(2, "attrs==25.3.0", Requirement("attrs==25.3.0"), "limits.txt"),
    )
    error = explain_unresolved(Outcome(False, "", log), ResolutionFacts(base, held, {}, direct, Unasked(), limits, ()))
    assert error.message.replace(" 3.0.1", "") == (
        "airflow-core needs attrs; limits.txt line 2 allows attrs==25.3.0 only, and the base plain has attrs 26.1.0"
    )
    assert error.hint.startswith("loosen limits.txt line 2, or let it be replaced: replace = [")


def test_what_blocks_the_newest_version_comes_before_a_need_of_an_old_one() -> None:
    """dvc: the newest needs what is source only, far down; pip's report ends at an old dvc, which the base does not allow."""
    base = make_lock_base([Distribution("platformdirs", "4.14.8", "/x", has_record=True)])
    held = {item.name: item for item in base.inventory.distributions}
    direct = (DirectRequirement(1, "dvc", Requirement("dvc")),)
    chain = ("dvc 3.67.1", "hydra-core 1.3.8")
    source = Block("requirements.in line 1", "dvc", chain, "antlr4-python3-runtime==4.9.*", "", "", "antlr4-python3-runtime")
    outcome = Outcome(False, "", 'imagebuild-cause: ["dvc", "3.56.0", "platformdirs<4,>=3.1.1"]\n')

    def explain(*blocks: Block) -> tuple[str, str]:
        error = explain_unresolved(outcome, ResolutionFacts(base, held, {}, direct, Unasked(), blocks=blocks))
        return error.message, error.hint

    old = "dvc 3.56.0 needs platformdirs<4,>=3.1.1; the base plain has platformdirs 4.14.8"
    assert explain()[0] == old
    message, hint = explain(source)
    assert message == (
        "requirements.in line 1 asks for dvc: the newest dvc 3.67.1 needs hydra-core 1.3.8, which needs antlr4-python3-runtime==4.9.*, "
        "which is source only: there is no wheel"
    )
    assert 'have antlr4-python3-runtime built inside the base: [source] packages = ["antlr4-python3-runtime"]' in hint
    own = Block("requirements.in line 1", "dvc", ("dvc 3.56.0",), "platformdirs<4", "platformdirs", "4.14.8")
    assert explain(own)[0] == old
