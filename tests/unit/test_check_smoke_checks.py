"""The parts of smoke and of --load that need no engine: verdicts, the table, the archive's bytes, the questions asked inside."""

from __future__ import annotations

import compileall
import contextlib
import http.server
import importlib.util
import io
import json
import os
import py_compile
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.markers import default_environment

from imagebuild.check.smoke import probe as inside
from imagebuild.check.smoke.checks import (
    IMAGE_CHECKS,
    RUN_CHECKS,
    SmokeReport,
    SmokeRow,
    check_home_layer,
    check_start_command,
    check_user,
    encode_smoke_report,
    find_waived,
    format_smoke_report,
    split_complaints,
)
from imagebuild.check.smoke.listing import read_archive
from imagebuild.check.smoke.pod import OWN, READ_ONLY, RUNS, choose_runs
from imagebuild.check.smoke.subject import SmokeSubject
from imagebuild.engine.dockerd import connect_engine, find_base
from imagebuild.errors import BuildError, ConfigurationError, IntegrityError, UsageError
from imagebuild.layer.tar.flow import open_chunks
from imagebuild.oci.archive import stream_archive
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import OCI_CONFIG, OCI_LAYER_TAR, OCI_MANIFEST, ContainerConfig, Digest, Manifest, RawManifest
from imagebuild.servers import KINDS, SERVERS
from imagebuild.workspace import Workspace
from tests.support.builders import make_base, make_lock


def make_subject(**changes: Any) -> SmokeSubject:
    facts: dict[str, Any] = {
        "name": "cosml:1",
        "id": "sha256:0",
        "config": ContainerConfig(user="1000", cmd=("start",), entrypoint=("tini", "--")),
        "notes": {},
        "kind": "jupyter",
        "port": 8888,
        "home": "/home/jovyan",
        "base": ContainerConfig(user="1000", cmd=("start",), entrypoint=("tini", "--")),
        "base_problem": "",
        "at_home": (),
        "distributions": (),
        "lock": None,
    }
    return SmokeSubject(**{**facts, **changes})


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["1000", "1001:0", "65534:65534"])
def test_a_number_that_is_not_root_is_accepted(user: str) -> None:
    assert check_user(make_subject(config=ContainerConfig(user=user))).status == "passed"


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ("", "as root"),
        ("0", "as root"),
        ("0:100", "as root"),
        ("00", "as root"),
        ("root", "as root"),
        ("jovyan", "a name"),
        ("-1", "a name"),
    ],
)
def test_what_the_kubelet_refuses_fails(user: str, said: str) -> None:
    found = check_user(make_subject(config=ContainerConfig(user=user)))
    assert found.status == "failed"
    assert said in found.text


def test_a_changed_start_is_told_with_both_values() -> None:
    found = check_start_command(make_subject(config=ContainerConfig(user="1000", cmd=("other", "x"), entrypoint=("tini", "--"))))
    assert found.status == "failed"
    assert found.text == 'CMD is ["other", "x"], the base has ["start"]'
    assert check_start_command(make_subject()).status == "passed"


def test_none_and_empty_are_the_same_start() -> None:
    config = ContainerConfig(user="1000", cmd=(), entrypoint=None)
    assert check_start_command(make_subject(config=config, base=ContainerConfig(user="1000", cmd=None, entrypoint=()))).status == "passed"


def test_an_unknown_base_is_skipped_and_says_why() -> None:
    found = check_start_command(make_subject(base=None, base_problem="nobody knows"))
    assert (found.status, found.text) == ("skipped", "nobody knows")


def test_files_under_the_home_are_counted_and_some_are_listed() -> None:
    found = check_home_layer(make_subject(at_home=tuple(f"/home/jovyan/{number}" for number in range(8))))
    assert found.status == "failed"
    assert "8 paths" in found.text
    assert found.details[-1] == "and 3 more"


def test_complaints_about_what_the_team_chose_are_told_apart() -> None:
    lock = msgspec.structs.replace(make_lock(make_base()), exclude=("opencv-python",), override=("numpy>=2,<3",))
    lines = [
        "needs 1.0 requires opencv-python, which is not installed.",
        "old 1.0 has requirement numpy<2, but you have numpy 2.1.0.",
        "needs 1.0 requires scipy, which is not installed.",
        "old 1.0 has requirement scipy<1, but you have scipy 1.1.0.",
    ]
    assert find_waived(lines, lock) == lines[:2]
    assert find_waived(lines, make_lock(make_base())) == []


def test_complaints_about_the_base_alone_are_not_the_team_s() -> None:
    lines = [
        "scikit-learn 1.5.2 requires joblib, which is not installed.",
        "jupyterlab 4.4 has requirement Foo.Bar<2, but you have foo-bar 3.0.",
        "old-tool 1 requires other, which is not installed.",
    ]
    ours, theirs = split_complaints(lines, ("scikit-learn", "foo-bar"))
    assert ours == lines[:2]
    assert theirs == lines[2:]


def test_a_run_that_is_not_known_is_suggested() -> None:
    assert choose_runs((), read_only=False) == RUNS
    assert choose_runs((), read_only=True) == (*RUNS, READ_ONLY)
    assert choose_runs(("own-user", "own-user"), read_only=False) == (OWN,)
    with pytest.raises(UsageError, match="no run 'own-users'"):
        choose_runs(("own-users",), read_only=False)


def test_the_tables_are_complete() -> None:
    assert set(SERVERS) == set(KINDS)
    every = [item.name for item in (*IMAGE_CHECKS, *RUN_CHECKS)]
    assert len(set(every)) == len(every)
    assert len({run.name for run in (*RUNS, READ_ONLY)}) == 4


def make_report() -> SmokeReport:
    rows = (
        SmokeRow("image", "user", "passed", "1000", (), 0.0),
        SmokeRow("own-user", "server", "failed", "no answer", ("log: oh no",), 1.5),
        SmokeRow("own-user", "versions", "skipped", "no lock", (), 0.0),
    )
    return SmokeReport("cosml:1", "sha256:0", "jupyter", 8888, "/notebook/a/b", rows)


def test_the_table_has_a_line_a_fact_and_failures_are_named() -> None:
    lines = format_smoke_report(make_report()).splitlines()
    assert lines[1].split() == ["run", "check", "result"]
    assert lines[3].split() == ["own-user", "server", "failed", "no", "answer"]
    assert lines[4].strip() == "log: oh no"
    assert lines[4].index("log") == lines[3].index("no answer")
    assert lines[-1] == "1 passed, 1 failed, 1 skipped"
    with pytest.raises(BuildError, match=r"cosml:1 failed 1 of 3 checks: server \(own-user\)") as raised:
        make_report().raise_failures()
    assert raised.value.exit_code == 7


def test_the_json_has_all_of_it() -> None:
    document = json.loads(encode_smoke_report(make_report()))
    assert document["ok"] is False
    assert [row["status"] for row in document["rows"]] == ["passed", "failed", "skipped"]
    assert document["rows"][1]["details"] == ["log: oh no"]


# --- an engine that is not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["unix:///nonexistent/docker.sock", "tcp://127.0.0.1:1", "nonsense://x"])
def test_no_engine_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("DOCKER_HOST", address)
    with pytest.raises(ConfigurationError, match="no Docker engine answers at") as raised:
        connect_engine()
    assert "start it" in raised.value.hint
    assert len(raised.value.message) < 200


def test_a_base_is_found_through_the_catalogue_s_mirror(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "catalogue.toml").write_text(
        '[base.scipy]\nreference = "ghcr.io/a/scipy"\ntag = "1"\n[mirrors]\n"ghcr.io" = "mirror.example/ghcr"\n'
    )
    workspace = Workspace(tmp_path)
    digest = "sha256:" + "1" * 64
    notes = {"org.opencontainers.image.base.name": "ghcr.io/a/scipy:1", "org.opencontainers.image.base.digest": digest}
    found = find_base(workspace, {**notes, "dev.imagebuild.base": "scipy"})
    assert found is not None
    assert (found.store.label, found.repository, found.digest) == ("mirror.example", "ghcr/a/scipy", digest)
    found = find_base(workspace, notes)  # no catalogue name: the annotation is all there is
    assert found is not None
    assert (found.store.label, found.repository) == ("ghcr.io", "a/scipy")
    found = find_base(workspace, {**notes, "org.opencontainers.image.base.name": "layout:bases/starter:latest"})
    assert found is not None
    assert (found.store, found.repository) == (workspace.layout, "bases/starter")
    assert find_base(workspace, {}) is None


# --- the archive for docker load ----------------------------------------------------------------------------------------


def make_image(layers: list[bytes]) -> tuple[RawManifest, Manifest, dict[str, bytes]]:
    """A manifest, parsed too, and its blobs by digest."""
    config = b'{"architecture":"amd64","os":"linux"}'
    entries = [{"mediaType": OCI_LAYER_TAR, "digest": Digest.of(data), "size": len(data)} for data in layers]
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": Digest.of(config), "size": len(config)},
        "layers": entries,
    }
    raw = RawManifest(json.dumps(document).encode(), OCI_MANIFEST)
    parsed = raw.parse()
    assert isinstance(parsed, Manifest)
    return raw, parsed, {str(Digest.of(data)): data for data in (config, *layers)}


@settings(deadline=None)
@given(layers=st.lists(st.binary(max_size=3000), min_size=1, max_size=4))
def test_the_archive_holds_every_blob_once(layers: list[bytes]) -> None:
    raw, manifest, blobs = make_image(layers)
    data = b"".join(stream_archive(raw, manifest, "team:1", lambda item: contextlib.nullcontext(io.BytesIO(blobs[item.digest]))))
    assert len(data) % 512 == 0
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        content = {item.name: (archive.extractfile(item) or io.BytesIO()).read() for item in archive}
        assert len(archive.getnames()) == len(content)
    assert {Digest.of(layer).hex for layer in layers} <= {name.rpartition("/")[2] for name in content}
    for name, blob in content.items():
        if name.startswith("blobs/"):
            assert Digest.of(blob).hex == name.rpartition("/")[2]
    (entry,) = json.loads(content["index.json"])["manifests"]
    assert entry["digest"] == raw.digest
    assert entry["annotations"]["io.containerd.image.name"] == "docker.io/library/team:1"
    (listed,) = json.loads(content["manifest.json"])
    assert listed["RepoTags"] == ["team:1"]
    assert [content[name] for name in listed["Layers"]] == layers


def test_a_damaged_blob_ends_the_archive_with_an_error(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path)
    raw, manifest, blobs = make_image([b"one" * 1000])
    for item in (manifest.config, *manifest.layers):
        store.put_blob("team", item, blobs[item.digest])
    path = store.local_file(manifest.layers[0].id)
    assert path is not None
    path.write_bytes(b"two" * 1000)
    with pytest.raises(IntegrityError):
        for _ in stream_archive(raw, manifest, "team:1", lambda item: store.open_blob("team", item)):
            pass


# --- what docker saved --------------------------------------------------------------------------------------------------


def make_layer(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in names:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            layer.addfile(info)
    return buffer.getvalue()


def make_saved(blobs: dict[str, bytes], order: list[str]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in {**blobs, "manifest.json": json.dumps([{"Layers": order}]).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def compress_frames(data: bytes) -> bytes:
    """Two zstd frames after one another, as our layers are."""
    half = len(data) // 2
    return zstandard.compress(data[:half]) + zstandard.compress(data[half:])


def compress_members(data: bytes) -> bytes:
    import gzip

    half = len(data) // 2
    return gzip.compress(data[:half]) + gzip.compress(data[half:])


@pytest.mark.parametrize("pack", [bytes, compress_frames, compress_members], ids=["none", "zstd", "gzip"])
def test_the_upper_layers_are_listed_whatever_the_order(pack: Any) -> None:
    lower = make_layer("home/jovyan/of-the-base")
    middle = make_layer("usr/lib/site-packages/Foo_Bar-1.0.dist-info/METADATA", "home/jovyan/", "home/other/file")
    upper = make_layer("./home/jovyan/.cache/", "home/jovyan/.wh.gone", "usr/lib/site-packages/baz-2.dist-info/RECORD")
    blobs = {
        "blobs/sha256/c": pack(upper),
        "blobs/sha256/m": b'{"config": 1}',
        "blobs/sha256/a": pack(middle),
        "blobs/sha256/b": pack(lower),
    }
    data = make_saved(blobs, ["blobs/sha256/b", "blobs/sha256/a", "blobs/sha256/c"])
    chunks = [data[index : index + 777] for index in range(0, len(data), 777)]
    first, second = read_archive(open_chunks(chunks), "/home/jovyan", count=2)
    assert first.distributions == ("foo-bar",)
    assert first.at_home == ()
    assert second.at_home == ("/home/jovyan/.cache", "/home/jovyan/.wh.gone")
    assert second.distributions == ()


def test_known_layers_are_not_even_opened() -> None:
    data = make_saved(
        {"blobs/sha256/aa": b"no tar at all", "blobs/sha256/bb": make_layer("home/x/y")}, ["blobs/sha256/aa", "blobs/sha256/bb"]
    )
    (found,) = read_archive(open_chunks([data]), "/home/x", count=1, known=frozenset({"aa"}))
    assert found.at_home == ("/home/x/y",)


def test_an_archive_that_is_cut_short_is_an_error() -> None:
    data = make_saved({"blobs/sha256/aa": make_layer("home/x/y")}, ["blobs/sha256/aa"])
    with pytest.raises(BuildError, match="what docker saved cannot be read"):
        read_archive(open_chunks([data[:4000]]), "/home/x", count=1)


# --- asked inside -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "modules"),
    [
        (["pandas/__init__.py", "pandas/core/frame.py", "pandas-2.dist-info/RECORD"], ["pandas"]),
        (["six.py", "six-1.dist-info/METADATA", "__pycache__/six.cpython-311.pyc"], ["six"]),
        (["google/cloud/storage/__init__.py", "google/cloud/storage/blob.py"], ["google.cloud.storage"]),
        (["ns/one.py", "ns/sub/__init__.py"], ["ns.one", "ns.sub"]),
        (["../../bin/tool", "../../share/x.py", "numpy.libs/lib.so"], []),
        (["tests/__init__.py", "docs/conf.py", "setup.py", "good/__init__.py", "good/tests/__init__.py"], ["good"]),
        (["has-dash/__init__.py", "py.typed", "stubs-stubs/x.pyi"], []),
        (["mypy/__init__.py", "81d2__mypyc.cpython-311-x86_64-linux-gnu.so"], ["mypy"]),
    ],
)
def test_top_level_modules_come_from_the_record(files: list[str], modules: list[str]) -> None:
    assert inside.list_modules(files) == modules


def test_extension_modules_are_modules() -> None:
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    assert inside.list_modules([f"_cffi_backend{suffix}", f"pkg/__init__{suffix}", "pkg/x.py"]) == ["_cffi_backend", "pkg"]


@pytest.mark.parametrize("mode", list(py_compile.PycInvalidationMode))
def test_bytecode_counts_only_while_python_would_use_it(tmp_path: Path, mode: py_compile.PycInvalidationMode) -> None:
    source = tmp_path / "module.py"
    source.write_text("x = 1\n")
    assert not inside.has_bytecode(str(source))
    py_compile.compile(str(source), invalidation_mode=mode)
    assert inside.has_bytecode(str(source))
    source.write_text("x = 22\n")
    assert inside.has_bytecode(str(source)) is (mode is py_compile.PycInvalidationMode.UNCHECKED_HASH)
    compiled = Path(importlib.util.cache_from_source(str(source)))
    compiled.write_bytes(b"\0\0\0\0" + compiled.read_bytes()[4:])
    assert not inside.has_bytecode(str(source))


def install(site: Path, name: str, **files: str) -> None:
    """A distribution in a folder: metadata, RECORD, sources, bytecode."""
    paths = []
    for path, text in files.items():
        target = site / (path.replace("__dot__", ".").replace("__slash__", "/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        paths.append(str(target.relative_to(site)))
    folder = site / f"{name}-1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (folder / "RECORD").write_text("".join(f"{path},,\n" for path in [*paths, f"{folder.name}/METADATA", f"{folder.name}/RECORD"]))


def ask(site: Path, question: str, /, **arguments: Any) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    source = Path(inside.__file__).read_text()
    done = subprocess.run(
        [sys.executable, "-c", source, question, "30", json.dumps(arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_imports_go_on_after_a_module_that_fails_or_kills(tmp_path: Path) -> None:
    install(tmp_path, "aa", aa__dot__py="import os\nos.abort()\n")
    install(tmp_path, "bb", bb__dot__py='print("noise")\nraise RuntimeError("seeded\\nmore")\n')
    install(tmp_path, "cc", cc__dot__py="import sys\nsys.exit(3)\n")
    install(tmp_path, "dd", dd__slash____init____dot__py="x = 1\n")
    install(tmp_path, "ee", ee__dot__py="import os\nos._exit(0)\n")
    compileall.compile_dir(tmp_path / "dd", quiet=1)
    answer = ask(tmp_path, "imports", names=["aa", "bb", "cc", "dd", "ee", "not-there"], seconds=20)
    assert answer["modules"] == 5
    assert answer["failed"] == [
        ["aa", "aa", "killed Python: signal 6", ""],
        ["bb", "bb", "RuntimeError: seeded", ""],
        ["cc", "cc", "SystemExit: 3", ""],
        ["ee", "ee", "ended Python", ""],
    ]
    assert answer["versions"] == dict.fromkeys(("aa", "bb", "cc", "dd", "ee"), "1.0")
    assert answer["writable"] > 0  # our own temporary folder


@pytest.mark.slow
def test_imports_without_bytecode_are_told(tmp_path: Path) -> None:
    install(tmp_path, "aa", aa__dot__py="x = 1\n")
    install(tmp_path, "bb", bb__dot__py="x = 1\n")
    py_compile.compile(str(tmp_path / "aa.py"))
    answer = ask(tmp_path, "imports", names=["aa", "bb"], seconds=20)
    assert (answer["failed"], answer["loaded"], answer["stale"]) == ([], 2, [str(tmp_path / "bb.py")])
    assert not (tmp_path / "__pycache__" / "bb.cpython-311.pyc").exists()


@pytest.mark.slow
def test_folders_that_others_share_are_not_these_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a conda base, whose ``bin`` and ``share`` belong to the notebook's user."""
    site = tmp_path / "lib" / "site-packages"
    install(site, "Base.Kit", base_kit__dot__py="")
    install(site, "mine", mine__slash____init____dot__py="")
    for name, paths in (
        ("Base.Kit", "../../bin/kit,,\n../../share/jupyter/lab/kit.json,,\n"),
        ("mine", "../../bin/mine,,\n../../share/mine/x,,\n"),
    ):
        with (site / f"{name}-1.0.dist-info" / "RECORD").open("a") as record:
            record.write(paths)
    monkeypatch.syspath_prepend(site)
    shared = inside.list_shared_folders(["mine"])
    assert {str(tmp_path / path) for path in ("bin", "share", "share/jupyter", "share/jupyter/lab", "lib/site-packages")} <= shared
    assert not shared & {str(tmp_path / "share/mine"), str(site / "mine"), str(site / "mine-1.0.dist-info")}
    assert str(site / "Base.Kit-1.0.dist-info") not in inside.list_shared_folders(["mine", "base-kit"])


BLACKD = """
try:
    from aiohttp_not_here import web
except ImportError as ie:
    raise ImportError(f"aiohttp dependency is not installed: {ie}") from None
"""


@pytest.mark.slow
def test_the_module_behind_a_failed_import_is_found_whatever_the_package_says(tmp_path: Path) -> None:
    install(tmp_path, "plain", plain__dot__py="import not_here.below\n")
    install(tmp_path, "black", black__dot__py="x = 1\n", blackd__dot__py=BLACKD)
    install(tmp_path, "loops", loops__dot__py="e = ValueError('x')\ne.__cause__ = ValueError('y')\ne.__cause__.__cause__ = e\nraise e\n")
    answer = ask(tmp_path, "imports", names=["plain", "black", "loops"], seconds=20)
    assert {module: missing for _, module, _, missing in answer["failed"]} == {
        "plain": "not_here",
        "blackd": "aiohttp_not_here",
        "loops": "",
    }
    assert answer["installed"]["black"] == {"modules": ["black", "blackd"], "requires": []}
    assert answer["environment"] == {key: value for key, value in default_environment().items() if key != "extra"}


@pytest.mark.slow
def test_an_import_without_end_is_bounded(tmp_path: Path) -> None:
    install(tmp_path, "aa", aa__dot__py="while True:\n    pass\n")
    install(tmp_path, "bb", bb__dot__py="x = 1\n")
    answer = ask(tmp_path, "imports", names=["aa", "bb"], seconds=1.5)
    assert answer["failed"] == [["aa", "aa", "took too long", ""], ["bb", "bb", "not tried: the time was over", ""]]


def test_the_home_is_tried_and_left_empty(tmp_path: Path) -> None:
    answer = inside.try_home(str(tmp_path))
    assert answer["problem"] == ""
    assert not answer["mounted"]
    assert list(tmp_path.iterdir()) == []
    assert "No such file" in inside.try_home("/proc/nothing")["problem"]


class Answers(http.server.BaseHTTPRequestHandler):
    pages: ClassVar[dict[str, tuple[int, str, bytes]]] = {}

    def do_GET(self) -> None:
        status, location, body = self.pages.get(self.path.partition("?")[0], (404, "", b""))
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serve(**pages: tuple[int, str, bytes]) -> Iterator[str]:
    handler = type("Handler", (Answers,), {"pages": {f"/{name}": page for name, page in pages.items()}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_a_server_must_answer_in_its_own_way() -> None:
    pages = {
        "api": (200, "", b'{"version": "2"}'),
        "lab": (302, "/lab2", b""),
        "lab2": (200, "", b"<html>"),
        "guarded": (302, "/login?next=x", b""),
        "login": (200, "", b""),
        "broken": (500, "", b""),
    }
    with serve(**pages) as address:
        paths = [("/api", "version"), ("/lab", ""), ("/lab2", "version"), ("/guarded", ""), ("/broken", ""), ("/none", "")]
        answer = inside.ask_server(address, paths, {}, 0.3)
        assert [problem for _, problem in answer["answers"]] == [
            "",
            "",
            "answers, but not as this kind of server does",
            "asks for a log-in",
            "answers 500",
            "answers 404",
        ]
        good = inside.ask_server(address, paths[:2], {}, 30)
        assert [problem for _, problem in good["answers"]] == ["", ""]
        assert good["seconds"] < 5


def test_a_server_that_never_answers_is_bounded() -> None:
    answer = inside.ask_server("http://127.0.0.1:1", [("/api", "")], {}, 0.3)
    assert answer["answers"] == [(0, "no answer: Connection refused")]
    assert answer["seconds"] < 3
