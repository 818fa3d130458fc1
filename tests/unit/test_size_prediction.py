"""What a wheel's zip directory tells, and what is made of it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import pytest

from imagebuild.errors import IntegrityError
from imagebuild.layer.model import Codec
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.wheels.shapes import find_shapes
from imagebuild.size.needs import find_needing_chain, measure_removals
from imagebuild.size.prediction import compare_codec, find_unknown, predict_package, predict_report
from imagebuild.wheel.sizes import classify_file, classify_path, keep_shape, read_shape, recall_shape, remember_shape
from tests.support.servers.index import FakeIndex, make_index

SOURCE = b"def f(a):\n    return [item for item in a]\n" * 50


def make_zip(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return stream


def locked(name: str, size: int = 100, installed: int = 1000, **more: object) -> LockedPackage:
    values = {"version": "1.0", "filename": f"{name}-1.0-py3-none-any.whl", "sha256": "0" * 64, "index": "default", **more}
    return LockedPackage(name=name, size=size, installed_size=installed, **values)  # type: ignore[arg-type]


def lock_of(*packages: LockedPackage) -> Lock:
    digest = "sha256:" + "0" * 64
    return Lock("t", "b", digest, digest, "3.11.2", "linux/amd64", {}, "pip-tools", "2026-01-01T00:00:00Z", packages)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("demo/a.py", "code"),
        ("demo/tests/a.py", "tests"),
        ("demo/tests/data/x.bin", "tests"),
        ("demo/testing/a.py", "code"),
        ("tests.py", "code"),
        ("demo/x.so.1.2", "library"),
        ("demo/x.pyi", "pyi"),
        ("demo/include/x.hpp", "headers"),
        ("demo/libx.a", "static-libs"),
        ("demo-1.0.dist-info/METADATA", "metadata"),
        ("demo-1.0.dist-info/licenses/tests/x.py", "metadata"),
        ("demo/__pycache__/a.cpython-311.pyc", "bytecode"),
        ("demo/tests/__pycache__/a.cpython-311.pyc", "tests"),
        ("../../../share/tests/x.json", "data"),
    ],
)
def test_files_have_a_kind(name: str, kind: str) -> None:
    assert classify_file(name) == kind
    if not name.startswith(".."):
        assert classify_path(f"/opt/tests/lib/python3.11/site-packages/{name}") == kind


def test_a_shape_is_the_sum_over_the_directory() -> None:
    files = {
        "demo/__init__.py": SOURCE,
        "demo/tests/test_a.py": SOURCE,
        "demo/tests/data.bin": b"x" * 500,
        "demo/native.so": b"\x7fELF" * 100,
        "demo-1.0.data/headers/demo.h": b"int x;",
        "demo-1.0.data/purelib/demo/more.py": b"x = 1\n",
        "demo/__pycache__/__init__.cpython-27.pyc": b"old" * 100,
        "demo-1.0.dist-info/RECORD": b"r" * 40,
    }
    shape = read_shape(make_zip(files), "demo.whl")
    assert {kind: (group.files, group.size, group.sources) for kind, group in shape.groups.items()} == {
        "code": (2, len(SOURCE) + 6, 2),
        "tests": (2, len(SOURCE) + 500, 1),
        "library": (1, 400, 0),
        "headers": (1, 6, 0),
        "metadata": (1, 40, 0),
    }
    assert shape.groups["code"].packed < len(SOURCE) / 4


def test_a_wheel_that_is_not_compressed_is_told_apart() -> None:
    plain = read_shape(make_zip({"demo/__init__.py": SOURCE}, zipfile.ZIP_STORED), "demo.whl")
    assert plain.groups["code"].packed < len(SOURCE) / 3


def test_no_wheel_is_an_error() -> None:
    with pytest.raises(IntegrityError, match=r"demo\.whl is not a readable wheel"):
        read_shape(io.BytesIO(b"no zip"), "demo.whl")


def test_shapes_are_kept_by_hash_and_a_rotten_one_is_forgotten(tmp_path: Path) -> None:
    shape = read_shape(make_zip({"demo/__init__.py": SOURCE}), "demo.whl")
    remember_shape(tmp_path, "ab", shape)
    found = recall_shape(tmp_path, "ab")
    assert found is not None
    assert found.groups == shape.groups
    (path,) = tmp_path.glob("shapes/*")
    path.write_bytes(path.read_bytes().replace(b'"files":1', b'"files":2'))
    assert recall_shape(tmp_path, "ab") is None
    assert recall_shape(tmp_path, "cd") is None


def test_wheels_never_seen_are_looked_into_by_ranges_and_then_no_more(tmp_path: Path) -> None:
    import hashlib

    index = FakeIndex()
    with index.serve() as url:
        filename = index.add("demo", "1.0", extra=b"".join(b"x%d = %d\n" % (n, n * n) for n in range(200_000)))
        body = index.bodies[filename]
        package = locked("demo", len(body), 5000, filename=filename, sha256=hashlib.sha256(body).hexdigest())
        configured = [make_index(url)]
        shapes = find_shapes([package], tmp_path, lambda: configured)
        assert shapes["demo"].groups["code"].size > 1_000_000
        ranges = [asked for path, asked in index.requests if path.endswith(".whl")]
        assert ranges
        assert all(asked.startswith("bytes=") for asked in ranges)
        before = len(index.requests)
        assert find_shapes([package], tmp_path, lambda: configured) == shapes
        assert len(index.requests) == before


def test_a_wheel_that_cannot_be_looked_into_is_left_out_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    with FakeIndex().serve() as url:
        found = find_shapes([locked("demo")], tmp_path, lambda: [make_index(url)], said.append)
    assert not found
    assert "could not be looked into" in said[-1]
    assert find_shapes([locked("demo")], tmp_path, tuple) == {}


def test_bytecode_and_slim_count() -> None:
    shape = read_shape(make_zip({"demo/__init__.py": SOURCE, "demo/tests/a.py": SOURCE, "demo/x.pyi": SOURCE}), "demo.whl")
    plain = predict_package(locked("demo"), shape, Codec(), bytecode=False)
    assert plain.kinds == {"code": len(SOURCE), "tests": len(SOURCE), "pyi": len(SOURCE)}
    whole = predict_package(locked("demo"), shape, Codec())
    assert whole.kinds["bytecode"] > len(SOURCE)
    assert whole.kinds["tests"] > 2 * len(SOURCE)
    slim = predict_package(locked("demo"), shape, Codec(), slim=("tests", "pyi"))
    assert set(slim.kinds) == {"code", "bytecode", "metadata"}
    assert slim.compressed < whole.compressed
    assert predict_package(locked("demo"), shape, Codec("gzip", 2)).compressed > whole.compressed


def test_without_a_shape_it_is_a_guess_and_says_so() -> None:
    report = predict_report("t", lock_of(locked("demo")), {}, Codec())
    assert report.packages[0].coarse
    assert report.installed == 1350
    assert "guessed" in report.notes[0]


def test_levels_between_measured_ones_are_interpolated() -> None:
    assert compare_codec(Codec()) == 1.0
    assert compare_codec(Codec("zstd", 1)) > compare_codec(Codec("zstd", 2)) > compare_codec(Codec("zstd", 3))
    assert compare_codec(Codec("zstd", 17)) == pytest.approx((0.84 + 0.76) / 2)
    assert compare_codec(Codec("gzip", 3)) == 1.233


def test_a_size_the_lock_does_not_tell_is_found() -> None:
    assert find_unknown(lock_of(locked("a"), locked("b", 0), locked("c", 5, 0))) == ("b", "c")


def test_the_chain_is_the_shortest_way_from_requirements_in() -> None:
    via = {"c": ("b", "z"), "b": ("a",), "a": ("requirements.in",), "z": ("y",), "y": ("z",)}
    assert find_needing_chain("c", via) == ("requirements.in", "a", "b", "c")
    assert find_needing_chain("a", via) == ("requirements.in", "a")
    assert find_needing_chain("lonely", via) == ("lonely",)
    assert find_needing_chain("y", via) == ("z", "y")  # a circle ends


def test_leaving_a_package_out_frees_what_only_it_needs() -> None:
    shape = read_shape(make_zip({"demo/__init__.py": SOURCE}), "demo.whl")
    sizes = [predict_package(locked(name), shape, Codec()) for name in ("app", "both", "only", "tool", "loop1", "loop2")]
    needs = {"app": ["both", "only"], "tool": ["both"], "loop1": ["loop2"], "loop2": ["loop1"]}
    removals = {item.name: item for item in measure_removals(sizes, needs)}
    assert set(removals) == {"app", "tool", "loop1"}
    assert removals["app"].along == ("only",)
    assert removals["app"].installed == 2 * sizes[0].installed
    assert removals["tool"].along == ()
    assert removals["loop1"].along == ("loop2",)
    asked = [msgspec.structs.replace(item, chain=("requirements.in", "only")) if item.name == "only" else item for item in sizes]
    assert {item.name: item.along for item in measure_removals(asked, needs)}["app"] == ()  # a line asks for it, too


def test_keeping_a_shape_reads_it_from_the_stream(tmp_path: Path) -> None:
    shape = keep_shape(tmp_path, "ef", make_zip({"demo/__init__.py": SOURCE}), "demo.whl")
    assert recall_shape(tmp_path, "ef") is not None
    assert shape.groups["code"].sources == 1
