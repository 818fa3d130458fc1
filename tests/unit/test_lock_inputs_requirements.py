"""requirements.in and what it includes: what is read, what is refused, and why."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagebuild.errors import ConfigurationError, IntegrityError, LockError
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.lock.inputs.freshness import hash_inputs
from imagebuild.lock.inputs.hashes import AllowedHashes, check_hashes, join_hashes
from imagebuild.lock.inputs.requirements import list_files, read_requirements, split_address
from imagebuild.lock.wheels.directurls import fetch_addressed, pin_addressed
from tests.support.builders import make_lock_base
from tests.support.servers.index import FakeIndex
from tests.support.tools import ignore


def write(folder: Path, text: str) -> Path:
    path = folder / "requirements.in"
    path.write_text(text)
    return path


def test_lines_comments_and_continuations(tmp_path: Path) -> None:
    text = "\ufeff# a comment \\\n\npandas==2.2.*  # why\nscikit_learn[extra]>=1,\\\n  <2\nx; python_version < '3'\n"
    found = read_requirements(write(tmp_path, text)).direct
    assert [(item.line, item.name, str(item.requirement.specifier)) for item in found] == [
        (3, "pandas", "==2.2.*"),
        (4, "scikit-learn", "<2,>=1"),
        (6, "x", ""),
    ]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("pandas=2.2", r"requirements\.in line 2 is not a requirement: 'pandas=2\.2'"),
        ("pandas>=", "is not a requirement"),
        ("-e ./x", "line 2: -e is not supported"),
        ("-r more.in", "more.in is missing"),
        ("-r " + "m" * 300, "mm cannot be a file's name"),
        ("-r m\0", "cannot be a file's name"),
        ("-c ../outside.txt", "line 2: ../outside.txt is not in the project"),
        ("--requirement=https://x.example/r.txt", "line 2: the inputs of a lock must be local files"),
        ("-r", "-r is not supported"),
        ("-r .", r"\. cannot be read"),
        ("--extra-index-url=https://x.example", "line 2: --extra-index-url is not supported"),
        ("git+https://x.example/y.git", r"from version control \(git\+https\) cannot be locked: a commit is not a hash"),
        ("x @ git+ssh://git@x.example/y.git@v1#egg=x", r"from version control \(git\+ssh\)"),
        ("x @ https://x.example/x-1.0-py3-none-any.whl", "line 2: a URL without a sha256 cannot be locked"),
        ("x @ https://x.example/x-1.0-py3-none-any.whl#md5=00", "without a sha256"),
        (f"x @ https://x.example/x-1.0.tar.gz#sha256={'a' * 64}", r"x-1\.0\.tar\.gz is not a wheel"),
        (f"y @ https://x.example/x-1.0-py3-none-any.whl#sha256={'a' * 64}", "is a wheel of x, not of y"),
        (f"x @ https://joe:pw@x.example/x-1.0-py3-none-any.whl#sha256={'a' * 64}", "the URL holds credentials"),
        (f"https://x.example/x-1.0-py3-none-any.whl#sha256={'a' * 64}", "is not a requirement"),
        ("x@file:///y.whl", r"by URL \(file\) cannot be locked"),
        ("x @ ftp://h/y.whl", r"by URL \(ftp\)"),
        ("--require-hashes", "line 2: --require-hashes is not supported"),
        ("--only-binary :all:", "line 2: --only-binary is not supported"),
        ("--trusted-host=x.example", "line 2: --trusted-host is not supported"),
        ("./local", "a path is not a requirement"),
        ("x==1 --hash=sha256:00", "line 2: 'sha256:00' is not a hash"),
        (f"x==1 --hash=md5:{'0' * 32}", "is not a hash"),
        ("x==1 --hash", "line 2: '' is not a hash"),
        (f"x==1 --hash=sha512:{'0' * 128}", "line 2: a --hash by sha512 cannot be checked"),
        (f"x==1 --hash=sha256:{'0' * 64} --config-settings=a=b", "line 2: --config-settings is not supported here"),
        ("x==1 --hash='sha256:", "line 2: the options after the requirement cannot be read"),
        (f"--hash=sha256:{'0' * 64}", "line 2: --hash is not supported here"),
        (
            f"x @ https://x.example/x-1.0-py3-none-any.whl --hash=sha256:{'0' * 64} --hash=sha256:{'1' * 64}",
            "line 2: a URL names one file, and there are 2 hashes",
        ),
        ("${NAME}", "is not a requirement"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint) as caught:
        read_requirements(write(tmp_path, f"numpy\n{line}\n"))
    assert caught.value.hint


def test_hashes_are_read_as_pip_compile_writes_them(tmp_path: Path) -> None:
    text = (
        f"Thing[more]==1.0 ; python_version >= '3' \\\n    --hash=sha256:{'a' * 64} \\\n    --hash sha256:{'B' * 64}\n"
        "    # via -r other.in\n"
        f"six==1.17.0 --hash=sha256:{'c' * 64}\nplain\n-c limits.txt\n"
    )
    (tmp_path / "limits.txt").write_text(f"thing==1.0 --hash=sha256:{'a' * 64} --hash=sha256:{'d' * 64}\nsix<2\n")
    found = read_requirements(write(tmp_path, text))
    assert [(item.where, str(item.requirement), item.hashes) for item in found.direct] == [
        ("requirements.in line 1", 'Thing[more]==1.0; python_version >= "3"', frozenset({"a" * 64, "b" * 64})),
        ("requirements.in line 5", "six==1.17.0", frozenset({"c" * 64})),
        ("requirements.in line 6", "plain", frozenset()),
    ]
    lines = (*found.direct, *found.constraints)
    environment = make_lock_base().interpreter.markers
    allowed = join_hashes(lines, environment)
    assert allowed == {
        "thing": AllowedHashes(frozenset({"a" * 64}), ("requirements.in line 1", "limits.txt line 1")),
        "six": AllowedHashes(frozenset({"c" * 64}), ("requirements.in line 5",)),
    }
    assert "thing" not in join_hashes(found.direct, {**environment, "python_version": "2.7"})
    check_hashes({"thing": ("thing-1.0-py3-none-any.whl", "a" * 64), "other": ("other-1.0-py3-none-any.whl", "e" * 64)}, allowed)
    with pytest.raises(IntegrityError, match=r"any\.whl is not what requirements\.in line 1 and limits\.txt line 1 allows"):
        check_hashes({"thing": ("thing-1.0-py3-none-any.whl", "b" * 64)}, allowed)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("in") / "requirements.in"
    path.write_bytes(text.encode("utf-8", "replace"))
    with contextlib.suppress(ConfigurationError):
        assert all(item.name and item.line > 0 for item in read_requirements(path).direct)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="is missing"):
        read_requirements(tmp_path / "requirements.in")


def test_includes_and_constraints(tmp_path: Path) -> None:
    root = tmp_path / "images"
    team, shared = root / "alpha", root / "shared"
    (team / "more").mkdir(parents=True)
    shared.mkdir()
    requirements = write(team, "-r ../shared/common.in\nsix\n--constraint=limits.txt\n-rmore/own.in\n")
    (shared / "common.in").write_text("pandas==2.2.*\n-c limits.txt\n")
    (shared / "limits.txt").write_text("numpy<2\n")
    (team / "limits.txt").write_text("-r deeper.txt\n")
    (team / "deeper.txt").write_text("scipy<2  # a constraint, because what includes it is one\n")
    (team / "more/own.in").write_text("rich\n")
    found = read_requirements(requirements, root)
    assert [(item.where, item.name) for item in found.direct] == [
        ("../shared/common.in line 1", "pandas"),
        ("requirements.in line 2", "six"),
        ("more/own.in line 1", "rich"),
    ]
    assert [(item.where, item.name) for item in found.constraints] == [
        ("../shared/limits.txt line 1", "numpy"),
        ("deeper.txt line 1", "scipy"),
    ]
    assert found.files == list_files(requirements, root)
    before = hash_inputs(requirements, [], tmp_path)
    assert sorted(before) == [
        "images/alpha/deeper.txt",
        "images/alpha/limits.txt",
        "images/alpha/more/own.in",
        "images/alpha/requirements.in",
        "images/shared/common.in",
        "images/shared/limits.txt",
    ]
    (shared / "limits.txt").write_text("numpy<3\n")
    after = hash_inputs(requirements, [], tmp_path)
    assert [key for key in after if after[key] != before[key]] == ["images/shared/limits.txt"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("numpy[extra]<2", "limits.txt line 1: a constraint has no extras"),
        (f"x @ https://x.example/x-1.0-py3-none-any.whl#sha256={'a' * 64}", "limits.txt line 1: a URL is not a constraint"),
        ("-c limits.txt", "limits.txt includes itself"),
        ("-r requirements.in", "requirements.in includes itself"),
        ("numpy=2", r"limits.txt line 1 is not a requirement"),
    ],
)
def test_wrong_constraints(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "limits.txt").write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        read_requirements(write(tmp_path, "-c limits.txt\n"))


def test_a_link_does_not_lead_out_of_the_project(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir()
    (tmp_path / "secret.txt").write_text("six\n")
    (tmp_path / "team/inside.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(ConfigurationError, match="is not in the project's folder"):
        read_requirements(write(tmp_path / "team", "-r inside.txt\n"))


def test_a_wheel_by_address_is_fetched_verified_and_pinned(tmp_path: Path) -> None:
    fake = FakeIndex()
    filename = fake.add("thing", "1.0+corp.1", ["six; extra == 'more'"])
    digest = hashlib.sha256(fake.bodies[filename]).hexdigest()
    interpreter = make_lock_base().interpreter
    with fake.serve() as url:
        address = url.replace("/simple/", f"/files/{filename.replace('+', '%2B')}")
        line = f"Thing[more] @ {address}#sha256={digest.upper()} ; python_version >= '3'"
        direct = read_requirements(
            write(tmp_path, f"{line}\nsix\nother @ {address.replace('thing', 'other')}#sha256={digest} ; python_version < '3'\n")
        )
        wheels = fetch_addressed(direct.direct, interpreter.markers, interpreter, tmp_path, ignore)
        again = fetch_addressed(direct.direct, interpreter.markers, interpreter, tmp_path, ignore)
        by_option = read_requirements(write(tmp_path, f"thing @ {address} --hash=sha256:{digest}\n")).direct
        assert fetch_addressed(by_option, interpreter.markers, interpreter, tmp_path, ignore) == wheels
        assert len(fake.requests) == 1
        wrong = read_requirements(write(tmp_path, f"thing @ {address}#sha256={'0' * 64}\n")).direct
        with pytest.raises(IntegrityError, match="is not the expected file"):
            fetch_addressed(wrong, interpreter.markers, interpreter, tmp_path, ignore)
        two = read_requirements(write(tmp_path, f"{line}\nthing @ {address}#sha256={'0' * 64}\n")).direct
        with pytest.raises(ConfigurationError, match="line 2: thing has another URL on an earlier line"):
            fetch_addressed(two, interpreter.markers, interpreter, tmp_path, ignore)
    assert wheels == again
    (wheel,) = wheels.values()
    assert wheel.path == wheel_cache_path(tmp_path, digest, filename)
    assert (wheel.version, wheel.url, wheel.sha256) == ("1.0+corp.1", address, digest)
    pinned = pin_addressed(direct.direct, wheels)
    assert [str(item.requirement) for item in pinned] == [
        'Thing[more]==1.0+corp.1; python_version >= "3"',
        "six",
        'other==1.0+corp.1; python_version < "3"',
    ]
    assert split_address(direct.direct[0].requirement) == (address, filename, digest)


def test_a_wheel_by_address_must_fit_the_base(tmp_path: Path) -> None:
    interpreter = make_lock_base().interpreter
    line = f"thing @ https://x.example/thing-1.0-cp39-cp39-win_amd64.whl#sha256={'0' * 64}"
    direct = read_requirements(write(tmp_path, line)).direct
    with pytest.raises(LockError, match=r"line 1: thing-1\.0-cp39-cp39-win_amd64\.whl is for cp39 on win_amd64; the base is"):
        fetch_addressed(direct, interpreter.markers, interpreter, tmp_path, ignore)


def test_files_that_include_one_another_without_end(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"deep{number}.txt").write_text(f"-r deep{number + 1}.txt\n")
        (tmp_path / f"wide{number}.txt").write_text(f"-r wide{number + 1}.txt\n" * 2)
    (tmp_path / "deep40.txt").write_text("six\n")
    (tmp_path / "wide20.txt").write_text("six\n")
    (tmp_path / "team").mkdir()
    for name in ("deep0.txt", "wide0.txt"):
        with pytest.raises(ConfigurationError, match="is included too deep, or too often"):
            read_requirements(write(tmp_path / "team", f"-r ../{name}\n"), tmp_path)
