"""Whole locks: a resolver that runs, indexes on loopback and the machine's own, pip as the judge."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from imagebuild.base.model import Base, Distribution
from imagebuild.errors import IntegrityError, LockError, RemoteError
from imagebuild.lock.compiling import compile_lock
from imagebuild.lock.file.lockfile import format_lock, parse_lock
from imagebuild.lock.file.model import Lock
from imagebuild.lock.index.routing import PackageIndex
from imagebuild.lock.inputs.freshness import check_lock_fresh
from imagebuild.lock.inputs.localpackage import build_local_wheel
from imagebuild.lock.request import RESOLVERS, LockRequest
from imagebuild.lock.wheels.fetching import fetch_wheels
from tests.support.builders import make_lock_base
from tests.support.servers.index import UPLOADED, FakeIndex, make_index
from tests.support.tools import ignore, need, need_index

pytestmark = pytest.mark.integration
CUTOFF = "2026-10-01T00:00:00Z"
NUMPY = Distribution("numpy", "2.1.0", "/x")
TORCH = Distribution("torch", "2.5.1+cu121", "/x", requires=("ed<2", "six; extra == 'more'"), extras=("more",))


def lock_for(
    folder: Path,
    text: str,
    indexes: Sequence[PackageIndex],
    *,
    base: Base | None = None,
    resolver: str = "pip-tools",
    packages: Sequence[Path] = (),
    existing: Lock | None = None,
    cutoff: str = CUTOFF,
    replace: Sequence[str] = (),
    dated: bool = True,
) -> Lock:
    root = folder / "project"
    root.mkdir(exist_ok=True)
    (root / "requirements.in").write_text(text)
    return compile_lock(
        LockRequest(
            team="t",
            base=base or make_lock_base(),
            requirements=root / "requirements.in",
            local_packages=packages,
            indexes=indexes,
            cutoff=cutoff,
            explicit_cutoff=dated,
            root=root,
            cache=folder / "cache",
            report=ignore,
            existing=existing,
            resolver=resolver,
            replace=replace,
        )
    )


def versions(lock: Lock) -> dict[str, str]:
    return {item.name: item.version for item in lock.packages}


def public() -> FakeIndex:
    fake = FakeIndex()
    fake.add("alpha", "1.0", ["beta>=2"])
    fake.add("alpha", "0.9", ["beta<2"])
    fake.add("beta", "1.0")
    fake.add("beta", "2.0")
    fake.add("gamma", "1.0", ["beta<2"])
    fake.add("old", "1.0", ["numpy<2"])
    fake.add("new", "1.0", ["numpy>=2"])
    fake.add("ed", "1.0")
    fake.add("ed", "3.0")
    fake.add("six", "1.0")
    fake.add("late", "1.0", uploaded="2026-09-30T23:59:59Z")
    fake.add("late", "2.0", uploaded="2026-10-01T00:00:01Z")
    fake.add("needs-absent", "1.0", ["no-such-thing"])
    fake.add("elsewhere", "1.0", tag="cp312-cp312-win_amd64")
    fake.add("tomorrow", "1.0", requires_python=">=3.99")
    fake.add("taken-back", "1.0", yanked="leaks")
    fake.add_file("source", "source-1.0.tar.gz", b"x")
    return fake


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_lock_of_what_the_base_lacks(tmp_path: Path, resolver: str) -> None:
    base = make_lock_base([NUMPY, TORCH])
    with public().serve() as url:
        lock = lock_for(tmp_path, "alpha\nnew\nlate\ned\ntorch[more]==2.5.1\n", [make_index(url)], base=base, resolver=resolver)
        again = lock_for(tmp_path, "alpha\nnew\nlate\ned\ntorch[more]==2.5.1\n", [make_index(url)], base=base, resolver=resolver)
    assert versions(lock) == {"alpha": "1.0", "beta": "2.0", "ed": "1.0", "late": "1.0", "new": "1.0", "six": "1.0"}
    assert lock.satisfied == ("numpy==2.1.0", "torch==2.5.1+cu121")
    by_name = {item.name: item for item in lock.packages}
    assert by_name["alpha"].dependencies == ("beta",)
    assert by_name["beta"].via == ("alpha",)
    assert by_name["alpha"].via == ("requirements.in",)
    assert by_name["six"].via == ("torch",)
    assert by_name["alpha"].upload_time == UPLOADED[:19] + "Z"
    assert all(item.index == "default" and item.installed_size > 0 for item in lock.packages)
    assert lock.resolver.startswith(resolver)
    assert format_lock(lock) == format_lock(again)
    assert parse_lock(format_lock(lock)) == lock
    check_lock_fresh(lock, base, tmp_path / "project/requirements.in", [], tmp_path / "project")
    assert list((tmp_path / "cache/resolve").iterdir()) == []


def test_both_resolvers_agree_under_html(tmp_path: Path) -> None:
    fake = public()
    fake.form = "html"
    found = []
    with fake.serve() as url:
        for resolver in RESOLVERS:
            root = tmp_path / resolver
            (root / "project").mkdir(parents=True)
            (root / "project/requirements.in").write_text("alpha\ngamma\n")
            lock = compile_lock(
                LockRequest(
                    team="t",
                    base=make_lock_base(),
                    requirements=root / "project/requirements.in",
                    local_packages=(),
                    indexes=[make_index(url)],
                    cutoff=CUTOFF,
                    explicit_cutoff=False,
                    root=root,
                    cache=root / "cache",
                    report=ignore,
                    resolver=resolver,
                )
            )
            found.append(lock.packages)
    assert found[0] == found[1]
    assert {item.name: (item.version, item.size > 0) for item in found[0]} == {
        "alpha": ("0.9", True),
        "beta": ("1.0", True),
        "gamma": ("1.0", True),
    }


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("alpha==1.0\ngamma\n", r"contradict each other: .*(alpha 1\.0|alpha) needs beta>=2"),
        ("\nnumpy==1.26.*\n", r"^requirements\.in line 2 asks for numpy==1\.26\.\*; the base plain has numpy 2\.1\.0$"),
        ("old\n", r"^old( 1\.0)? needs numpy<2; the base plain has numpy 2\.1\.0$"),
        ("no-such\n", r"^requirements\.in line 1 asks for no-such; there is no project no-such on package index 'default'$"),
        ("needs-absent\n", r"needs no-such-thing; there is no project no-such-thing on package index 'default'$"),
        ("late==2.0\n", "late 2.0 is newer than the lock's cutoff"),
        ("elsewhere\n", r"the wheels of elsewhere 1\.0 are for cp312 on win_amd64; the base plain is cp3"),
        ("tomorrow\n", r"tomorrow 1\.0 needs Python >=3\.99; the base plain has 3\."),
        ("taken-back\n", "was yanked by its authors"),
        ("source\n", "source 1.0 on package index 'default' is source only: there is no wheel"),
        ("beta>=7\n", r"asks for beta>=7; the newest beta for this base on package index 'default' is 2\.0"),
        ("ed>=3\n", r"line 1 asks for ed>=3; the base plain has torch 2\.5\.1\+cu121 \(needs ed<2\)"),
    ],
)
def test_failures_are_one_sentence(tmp_path: Path, resolver: str, text: str, complaint: str) -> None:
    with public().serve() as url, pytest.raises(LockError, match=complaint) as caught:
        lock_for(tmp_path, text, [make_index(url)], base=make_lock_base([NUMPY, TORCH]), resolver=resolver)
    said = "\n".join((caught.value.message, caught.value.hint, *caught.value.details))
    assert "127.0.0.1" not in said
    assert str(tmp_path) not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_hashes_in_requirements_decide_which_wheel_is_locked(tmp_path: Path, resolver: str) -> None:
    """As pip's hash-checking mode has it: of one version's wheels the one with an allowed hash, not the one that fits best."""
    fake = FakeIndex()
    best = fake.add("thing", "1.0", ["beta"], tag=make_lock_base().interpreter.tags[0])
    plain = fake.add("thing", "1.0", ["beta"])
    fake.add("thing", "2.0")
    fake.add("beta", "1.0")
    digests = {name: fake.files["thing"][name]["sha256"] for name in (best, plain)}
    with fake.serve() as url:
        lock = lock_for(tmp_path, f"thing==1.0 --hash=sha256:{digests[plain]}\n", [make_index(url)], resolver=resolver)
        assert {item.name: item.filename for item in lock.packages}["thing"] == plain
        both = f"thing==1.0 \\\n --hash=sha256:{digests[plain]} \\\n --hash=sha256:{digests[best]}\n"
        lock = lock_for(tmp_path, both, [make_index(url)], resolver=resolver)
        assert {item.name: item.filename for item in lock.packages} == {"beta": "beta-1.0-py3-none-any.whl", "thing": best}
        with pytest.raises(
            LockError,
            match=r"^requirements\.in line 1 asks for thing==1\.0; no wheel of thing 1\.0 for this base on package index 'default' has a "
            r"hash that requirements\.in line 1 allows$",
        ):
            lock_for(tmp_path, f"thing==1.0 --hash=sha256:{'0' * 64}\n", [make_index(url)], resolver=resolver)


def test_hashes_hold_where_the_index_tells_none_and_in_a_lock_that_somebody_changed(tmp_path: Path) -> None:
    fake = FakeIndex("html")
    filename = fake.add("thing", "1.0")
    digest = fake.files["thing"][filename]["sha256"]
    page = fake.page
    fake.page = lambda name: (page(name)[0], page(name)[1].replace(f"#sha256={digest}".encode(), b""))  # type: ignore[method-assign]
    root, base = tmp_path / "project", make_lock_base()
    with fake.serve() as url:
        indexes = [make_index(url)]
        lock = lock_for(tmp_path, f"thing==1.0 --hash=sha256:{digest}\n", indexes, dated=False)
        assert lock.packages[0].sha256 == digest
        check_lock_fresh(lock, base, root / "requirements.in", [], root)
        other = msgspec.structs.replace(lock, packages=(msgspec.structs.replace(lock.packages[0], sha256="1" * 64),))
        with pytest.raises(IntegrityError, match=r"^thing-1\.0-py3-none-any\.whl is not what requirements\.in line 1 allows"):
            check_lock_fresh(other, base, root / "requirements.in", [], root)
        with pytest.raises(IntegrityError, match=r"^thing-1\.0-py3-none-any\.whl is not what requirements\.in line 1 allows") as caught:
            lock_for(tmp_path, f"thing==1.0 --hash=sha256:{'0' * 64}\n", indexes, dated=False)
    assert caught.value.details == (f"--hash=sha256:{digest}",)


def test_a_pinned_yanked_file_is_allowed(tmp_path: Path) -> None:
    with public().serve() as url:
        assert versions(lock_for(tmp_path, "taken-back==1.0\n", [make_index(url)])) == {"taken-back": "1.0"}


@pytest.mark.parametrize("resolver", RESOLVERS)
@pytest.mark.parametrize("private_first", [True, False])
def test_dependency_confusion_is_closed(tmp_path: Path, resolver: str, private_first: bool) -> None:
    """The attacker's 99.0 on the public index is never seen, not even as a dependency of a public package."""
    fake, private = public(), FakeIndex()
    private.add("cosml-core", "1.0")
    fake.add("cosml-core", "99.0")
    fake.add("beta", "3.0")
    private.add("beta", "99.0")  # the private index may not serve other names either
    fake.add("front", "1.0", ["cosml_core", "beta"])
    with fake.serve() as url, private.serve() as own:
        indexes = [make_index(own, "internal", ("cosml-*",)), make_index(url)]
        lock = lock_for(tmp_path, "front\n", indexes if private_first else indexes[::-1], resolver=resolver)
        found = fetch_wheels(lock, lambda: indexes, tmp_path / "cache", {}, ignore)
    assert {item.name: (item.version, item.index) for item in lock.packages} == {
        "beta": ("3.0", "default"),
        "cosml-core": ("1.0", "internal"),
        "front": ("1.0", "default"),
    }
    assert not any("cosml" in path for path, _ in fake.requests)
    assert not any("beta" in path for path, _ in private.requests)
    assert found["cosml-core"].read_bytes() == private.bodies["cosml_core-1.0-py3-none-any.whl"]


def test_existing_versions_are_kept_until_upgraded(tmp_path: Path) -> None:
    fake = public()
    with fake.serve() as url:
        indexes = [make_index(url)]
        first = lock_for(tmp_path, "alpha\n", indexes)
        fake.add("alpha", "2.0", ["beta"])
        fake.add("beta", "2.1")
        assert versions(lock_for(tmp_path, "alpha\nsix\n", indexes, existing=first)) == {"alpha": "1.0", "beta": "2.0", "six": "1.0"}
        assert versions(lock_for(tmp_path, "alpha\n", indexes)) == {"alpha": "2.0", "beta": "2.1"}
        assert versions(lock_for(tmp_path, "alpha>=2\n", indexes, existing=first))["alpha"] == "2.0"


def test_a_local_package_and_what_it_needs(tmp_path: Path) -> None:
    fake = public()
    fake.add("my-tools", "99.0")
    package = tmp_path / "project/packages/my_tools"
    (package / "my_tools").mkdir(parents=True)
    (package / "my_tools/__init__.py").write_text("")
    (package / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "my_tools"\nversion = "0.1"\nrequires-python = ">=3.9"\ndependencies = ["beta<2"]\n'
    )
    with fake.serve() as url:
        lock = lock_for(tmp_path, "gamma\n", [make_index(url)], packages=[package])
        wheel = build_local_wheel(package, tmp_path / "cache", CUTOFF)
        found = fetch_wheels(lock, lambda: [make_index(url)], tmp_path / "cache", {wheel.name: wheel.path}, ignore)
        with pytest.raises(LockError, match="my_tools makes my-tools, which the base plain already has"):
            lock_for(tmp_path, "", [make_index(url)], packages=[package], base=make_lock_base([Distribution("my-tools", "9", "/x")]))
    mine = next(item for item in lock.packages if item.name == "my-tools")
    assert (mine.version, mine.index, mine.tree, mine.dependencies, mine.via) == ("0.1", "local", wheel.tree, ("beta",), ("local package",))
    assert found["my-tools"] == wheel.path
    assert next(item for item in lock.packages if item.name == "beta").via == ("gamma", "my-tools")
    assert set(lock.inputs) == {"requirements.in", "packages/my_tools"}
    assert not any("my-tools" in path for path, _ in fake.requests)


def test_a_replaced_distribution_is_locked(tmp_path: Path) -> None:
    installed = Distribution("beta", "1.0", "/x", has_record=True)
    with public().serve() as url:
        lock = lock_for(tmp_path, "beta>=2\n", [make_index(url)], base=make_lock_base([installed]), replace=["Beta"])
    assert versions(lock) == {"beta": "2.0"}
    assert lock.satisfied == ()


@pytest.mark.parametrize(
    ("refuse", "complaint"), [([500] * 4, "answered 500"), ([401], "answered 401"), ([429, 429, 429, 429], "answered 429")]
)
def test_an_index_that_fails_is_not_taken_for_absent(tmp_path: Path, refuse: list[int], complaint: str) -> None:
    fake = public()
    fake.refuse = list(refuse)
    with fake.serve() as url, pytest.raises(RemoteError, match=complaint):
        lock_for(tmp_path, "alpha\n", [make_index(url)])


def test_no_network(tmp_path: Path) -> None:
    with pytest.raises(RemoteError, match="no network: package index 'default' cannot be reached for the page of alpha"):
        lock_for(tmp_path, "alpha\n", [make_index("http://127.0.0.1:9/simple/")])


def test_nothing_of_this_machine_leaks_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("beta<2\n")
    for key in ("PIP_CONSTRAINT", "PIP_REQUIREMENT", "UV_CONSTRAINT"):
        monkeypatch.setenv(key, str(constraint))
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "http://127.0.0.1:9/simple")
    (tmp_path / "project").mkdir()
    (tmp_path / "project/pyproject.toml").write_text(
        '[tool.pip-tools]\nextra-index-url = ["http://127.0.0.1:9/"]\n[tool.uv]\nno-index = true\n'
    )
    with public().serve() as url:
        for resolver in RESOLVERS:
            assert versions(lock_for(tmp_path, "beta\n", [make_index(url)], resolver=resolver)) == {"beta": "2.0"}


def test_without_a_runtime_uv_resolves(tmp_path: Path) -> None:
    base = msgspec.structs.replace(make_lock_base(), runtime=None)
    with public().serve() as url:
        lock = lock_for(tmp_path, "alpha\n", [make_index(url)], base=base)
    assert lock.resolver.startswith("uv ")
    assert versions(lock) == {"alpha": "1.0", "beta": "2.0"}


def test_the_machines_own_index_and_pip_as_the_judge(tmp_path: Path) -> None:
    """The locked set is what pip itself would install on top of what the base has."""
    index = need_index("six")
    python = need("python3")
    base = make_lock_base([Distribution("numpy", "1.26.4", "/x")], executable=python)
    if base.interpreter.version.rpartition(".")[0] != ".".join(map(str, sys.version_info[:2])):
        pytest.skip("missing part: python3 of this version")
    text = "pandas==2.2.*\nscikit-learn==1.5.*\n"
    lock = lock_for(tmp_path, text, [index], base=base)
    (tmp_path / "constraints.txt").write_text("numpy==1.26.4\n")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    for key in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "HTTPS_PROXY", "https_proxy", "NO_PROXY"):
        if key in os.environ:
            environment[key] = os.environ[key]
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--quiet", "--no-cache-dir",
        "--uploaded-prior-to", CUTOFF, "--disable-pip-version-check", "--report", str(tmp_path / "report.json"), "--index-url", index.url,
        "-c", str(tmp_path / "constraints.txt"), "-r", str(tmp_path / "project/requirements.in"),
    ]  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    judged = {item["metadata"]["name"].lower().replace("_", "-"): item for item in report["install"]}
    assert judged.pop("numpy")["metadata"]["version"] == "1.26.4"
    assert {name: item["metadata"]["version"] for name, item in judged.items()} == versions(lock)
    hashes = {name: item["download_info"]["archive_info"]["hashes"]["sha256"] for name, item in judged.items()}
    assert hashes == {item.name: item.sha256 for item in lock.packages}
    assert lock.satisfied[0] == "numpy==1.26.4"
    pandas = next(item for item in lock.packages if item.name == "pandas")
    assert pandas.installed_size > 2 * pandas.size
