"""Which failed imports are a fault: the requirements are those of the real packages' METADATA."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from packaging.markers import default_environment

from imagebuild.check.smoke.optional import ImportFailure, ImportVerdict, InstalledPackage, is_main, judge_failures, may_provide

BLACK = InstalledPackage(
    ("_black_version", "black", "blackd", "blib2to3"),
    ("click>=8.0.0", "tomli>=1.1.0; python_version < '3'", "colorama>=0.4.3; extra == 'colorama'", "aiohttp>=3.10; extra == 'd'"),
)
CLICK = InstalledPackage(("click",), ())
FLASK_INSTRUMENTATION = InstalledPackage(
    ("opentelemetry.instrumentation.flask",), ("opentelemetry-api~=1.12", "flask>=1.0; extra == 'instruments'")
)
API = InstalledPackage(("opentelemetry.context", "opentelemetry.trace"), ())
STORAGE = InstalledPackage(
    ("google.cloud._storage_v2", "google.cloud.storage"),
    ('grpcio<2.0.0,>=1.59.0; extra == "grpc"', 'grpc-google-iam-v1<1.0.0,>=0.14.2; extra == "grpc"'),
)
IMAGE = {"black": BLACK, "click": CLICK, "opentelemetry-instrumentation-flask": FLASK_INSTRUMENTATION, "opentelemetry-api": API}
IMAGE["google-cloud-storage"] = STORAGE


def judge(*failures: ImportFailure, ignore: Sequence[str] = (), **more: InstalledPackage) -> ImportVerdict:
    return judge_failures(failures, {**IMAGE, **more}, dict(default_environment()), ignore)  # type: ignore[arg-type]


def fail(distribution: str, module: str, missing: str = "") -> ImportFailure:
    return ImportFailure(distribution, module, f"ModuleNotFoundError: No module named {missing!r}" if missing else "RuntimeError", missing)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (fail("black", "blackd", "aiohttp"), "black: blackd needs aiohttp, which is for black[d]"),
        (
            fail("opentelemetry-instrumentation-flask", "opentelemetry.instrumentation.flask", "flask"),
            "opentelemetry-instrumentation-flask: opentelemetry.instrumentation.flask needs flask, "
            "which is for opentelemetry-instrumentation-flask[instruments]",
        ),
        (
            fail("google-cloud-storage", "google.cloud._storage_v2", "google.iam"),
            "google-cloud-storage: google.cloud._storage_v2 needs google.iam, which is for google-cloud-storage[grpc]",
        ),
        (fail("black", "blib2to3", "pytest"), "black: blib2to3 needs pytest, which no installed package requires"),
    ],
)
def test_a_module_for_an_extra_nobody_asked_for_is_told(failure: ImportFailure, said: str) -> None:
    assert judge(failure) == ImportVerdict((), (said,), ())


@pytest.mark.parametrize(
    "failure",
    [
        fail("black", "black", "pkg_resources"),  # a main module, and no extra asks for that
        fail("black", "black"),  # another error than a missing module
        fail("black", "blackd"),
        fail("black", "blackd", "click.testing"),  # of a package that is there: damaged
        fail("black", "blackd", "black.gone"),
        fail("opentelemetry-instrumentation-flask", "opentelemetry.instrumentation.flask", "opentelemetry.trace.gone"),
        fail("google-cloud-storage", "google.cloud.storage", "google.auth"),
        fail("not-installed", "anything", "aiohttp"),
    ],
)
def test_a_main_module_and_every_other_error_is_a_fault(failure: ImportFailure) -> None:
    found = judge(failure)
    assert found.failed == (f"{failure.distribution}: import {failure.module}: {failure.why}",)
    assert (found.optional, found.ignored) == ((), ())


def test_what_an_installed_package_requires_is_not_optional() -> None:
    needs = InstalledPackage(("other",), ("aiohttp; python_version >= '3'",))
    assert judge(fail("black", "blackd", "aiohttp"), other=needs).failed
    never = InstalledPackage(("other",), ("aiohttp; python_version < '3'", "not a requirement"))
    assert judge(fail("black", "blackd", "aiohttp"), other=never).optional
    broken = InstalledPackage(("mine", "mine_extra"), ("yaml-of-mine",))
    assert judge(fail("mine", "mine_extra", "unheard_of"), mine=broken).failed


def test_what_the_lock_excludes_is_required_by_nobody() -> None:
    """A submodule may lack it; a main module that does is a fault: then it should not have been excluded."""
    needs = InstalledPackage(("needs", "needs_video"), ("opencv-python>=4",))
    image = {**IMAGE, "needs": needs}
    environment = {key: str(value) for key, value in default_environment().items()}
    for module, excluded, failed in (("needs_video", ("opencv_python",), 0), ("needs_video", (), 1), ("needs", ("opencv-python",), 1)):
        assert len(judge_failures([fail("needs", module, "cv2")], image, environment, (), excluded).failed) == failed


def test_patterns_of_the_team_leave_modules_out() -> None:
    failures = (fail("black", "blackd"), fail("google-cloud-storage", "google.cloud._storage_v2", "grpc"), fail("black", "black"))
    found = judge(*failures, ignore=("blackd", "google.cloud._*"))
    assert found.ignored == ("blackd", "google.cloud._storage_v2")
    assert len(found.failed) == 1


@pytest.mark.parametrize(
    ("distribution", "module", "expected"),
    [
        ("psycopg2-binary", "psycopg2", True),
        ("PyYAML", "yaml", True),
        ("GitPython", "git", True),
        ("opencv-python-headless", "cv2", True),
        ("Pillow", "PIL.Image", True),
        ("scikit-learn", "sklearn", True),
        ("ruamel.yaml", "ruamel.yaml", True),
        ("grpc-google-iam-v1", "google.iam", True),
        ("django", "flask", False),
        ("setuptools", "pkg_resources", False),
        ("aiohttp", "", False),
    ],
)
def test_a_distribution_s_name_and_a_module_s(distribution: str, module: str, expected: bool) -> None:
    assert may_provide(distribution, module) is expected


def test_main_modules() -> None:
    assert is_main("black", "black", BLACK.modules)
    assert not is_main("blackd", "black", BLACK.modules)
    assert is_main("google.cloud.storage", "google-cloud-storage", STORAGE.modules)
    assert is_main("yaml", "PyYAML", ("_yaml", "yaml"))
    assert not is_main("_yaml", "PyYAML", ("_yaml", "yaml"))
