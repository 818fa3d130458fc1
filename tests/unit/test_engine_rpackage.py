"""The Dockerfile that builds an R package inside its base, and what is said of a build that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.base.model import Base
from imagebuild.base.sourceorder import SourceOrder
from imagebuild.engine import insidebase, rpackage
from imagebuild.engine.insidebase import BuildPlace
from imagebuild.engine.options import DockerOptions
from imagebuild.errors import BuildError
from tests.support.builders import make_base
from tests.unit.test_addons_rlang_compiling import FACTS

ORDER = SourceOrder("fast.sum", "1.0", Path("fast.sum_1.0.tar.gz"), (), 1735787045)


def make_r_base() -> Base:
    plain = make_base()
    return msgspec.structs.replace(plain, inventory=msgspec.structs.replace(plain.inventory, r=FACTS))


def test_the_build_has_no_network_one_path_and_the_orders_date() -> None:
    text = rpackage.render_r_dockerfile(make_r_base(), ORDER, ("gcc",))
    apt, build = text.split("RUN --network=none")
    assert "gcc" in apt
    assert "gcc" not in build
    assert "--built-timestamp='2025-01-02 03:04:05 UTC' /tmp/imagebuild-source/source/fast.sum" in build
    assert build.endswith("FROM scratch\nCOPY --from=build /packages/ /\n")
    assert "RUN --network=none" in rpackage.render_r_dockerfile(make_r_base(), ORDER, ())


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            ("gcc -c x.c", "x.c:1:7: error: expected declaration", "ERROR: compilation failed"),
            "x.c:1:7: error: expected",
        ),
        (("* installing", "ERROR: dependency 'zoo' is not available for package 'fast.sum'"), "ERROR: dependency 'zoo' is not available"),
        (("sh: 1: gcc: not found", "ERROR: compilation failed"), "sh: 1: gcc: not found"),
        (("nothing that is known",), "the last line"),
    ],
)
def test_a_build_that_fails_says_what_r_or_the_compiler_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lines: tuple[str, ...], reason: str
) -> None:
    def fail(*_arguments: Any, **_options: Any) -> Path:
        raise BuildError("the build's RUN failed: the last line", "hint", lines)

    monkeypatch.setattr(insidebase, "_run_inside", fail)
    with pytest.raises(BuildError, match=r"^fast\.sum 1\.0 cannot be built in base scipy: ") as caught:
        rpackage.build_r_package(ORDER, tmp_path, BuildPlace(make_r_base(), tmp_path, DockerOptions()))
    assert reason in caught.value.message
    assert caught.value.details == lines


def test_a_build_makes_one_archive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(insidebase, "_run_inside", lambda *_arguments, **_options: tmp_path)
    with pytest.raises(BuildError, match="its build made 0 archives, not one"):
        rpackage.build_r_package(ORDER, tmp_path, BuildPlace(make_r_base(), tmp_path, DockerOptions()))
    (tmp_path / "fast.sum_1.0_R_x86_64-pc-linux-gnu.tar.gz").write_bytes(b"")
    found = rpackage.build_r_package(ORDER, tmp_path, BuildPlace(make_r_base(), tmp_path, DockerOptions()))
    assert found.parent == tmp_path
