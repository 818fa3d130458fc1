"""The same wheels through real pip and through a layer: the same files, modes, bytes, and bytecode that means the same."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import marshal
import os
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename

from imagebuild.jobs.slots import Jobs
from imagebuild.layer.assembly import build_layers
from imagebuild.layer.invariants import check_layers
from imagebuild.layer.model import LAYER_MTIME, Codec, Layer
from imagebuild.oci.compression import open_decompressed
from tests.support.builders import lock_wheel, make_host_base, make_host_interpreter, make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.tools import need, need_index
from tests.support.trees import MemoryTree, folder, link

pytestmark = pytest.mark.integration

# Entry points, versioned names, a script ending .py, headers, native code, a namespace, data that is no module.
WANTED = ["six", "click", "jmespath", "pip", "greenlet", "setuptools", "numpy"]

# What the interpreter of the environment says of itself; pip's include folder in one is its own (see Placement).
PROBE = """
import json, sys, sysconfig
paths = sysconfig.get_paths()
print(json.dumps({"paths": {k: paths[k] for k in ("purelib", "platlib", "scripts", "data", "include")}, "executable": sys.executable}))
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Real wheels from the machine's own index, and one hand-made with everything rare in it."""
    target = tmp_path_factory.mktemp("wheels")
    need_index()
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(target), *WANTED]
    subprocess.run(command, check=True)
    make_wheel(
        target,
        "odd",
        files={
            "odd/__init__.py": b"x = 1\n",
            "odd/broken.py": b"def (\n",
            "odd/na\u00efve, name.txt": b"",
            "odd/" + "/".join(["long" * 12] * 5) + "/deep.py": b"y = 2\n",
            "odd/__pycache__/__init__.cpython-27.pyc": b"old",
            "odd-1.0.data/scripts/odd-plain": b"#!pythonw -E\r\nprint(1)\n",
            "odd-1.0.data/scripts/odd-run": b"#!setuptools wrapper\n",
            "odd-1.0.data/scripts/odd-lib.py": b"#!python\nprint(2)\n",
            "odd-1.0.data/data/share/odd/odd.json": b"{}",
            "odd-1.0.data/headers/odd.h": b"int odd;\n",
            "odd-1.0.data/platlib/odd_native.py": b"z = 3\n",
        },
        modes={"odd-1.0.data/scripts/odd-plain": 0o100755, "odd/broken.py": 0o100700},
        entry_points="[console_scripts]\nodd-run = odd:x.y\n[gui_scripts]\nodd-gui = odd.broken:main [extra]\n",
    )
    return sorted(target.glob("*.whl"))


def read_layer(layer: Layer) -> dict[str, tuple[tarfile.TarInfo, bytes]]:
    found = {}
    with layer.file.open("rb") as stored, open_decompressed(stored, layer.media_type.rpartition("+")[2]) as plain:  # noqa: SIM117
        with tarfile.open(fileobj=io.BytesIO(plain.read())) as archive:
            for entry in archive:
                content = archive.extractfile(entry)
                found["/" + entry.name] = (entry, content.read() if content else b"")
    return found


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (stat.S_IMODE(path.lstat().st_mode), path.read_bytes()) for path in root.rglob("*") if path.is_file()}


def test_the_layer_is_what_pip_leaves(tmp_path: Path, wheels: list[Path]) -> None:
    prefix = tmp_path.resolve() / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(prefix)], check=True)
    python = str(prefix / "bin" / "python3")
    facts = json.loads(subprocess.run([python, "-c", PROBE], check=True, capture_output=True).stdout)
    before = snapshot(prefix)
    folders = [str(path) for path in (prefix, *prefix.rglob("*")) if path.is_dir() and not path.is_symlink()]
    interpreter = make_host_interpreter(str(prefix), path=python, environment="venv", paths=facts["paths"])
    tree = MemoryTree(
        [
            *(folder(str(parent)) for parent in prefix.parents if str(parent) != "/"),
            *(folder(path) for path in folders),
            *([link(str(prefix / "lib64"), "lib")] if (prefix / "lib64").is_symlink() else []),
        ]
    )
    base = make_host_base(tree, interpreter, runtime=HostRuntime(), home="/root/nowhere")
    pins = [f"{(parsed := parse_wheel_filename(wheel.name))[0]}=={parsed[1]}" for wheel in wheels]
    environment = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull, "HOME": str(tmp_path)}
    subprocess.run(
        [
            sys.executable, "-m", "pip", "--isolated", "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-cache-dir",
            "--find-links", str(wheels[0].parent), "--disable-pip-version-check", *pins,
        ],
        check=True, env=environment, umask=0o022,
    )  # fmt: skip
    piped = {path: value for path, value in snapshot(prefix).items() if path not in before}
    # The tests' folder is under /tmp, where no layer may put a file; the rule itself is tested elsewhere.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("imagebuild.layer.placement._VOLATILE", ())
        made = build_layers(
            [(wheel, lock_wheel(wheel)) for wheel in wheels], base=base, codec=Codec(), cache=tmp_path / "cache", out=tmp_path / "layer"
        )
        check_layers(made, base=base)
        [layer] = made.layers
    ours = {path: value for path, value in read_layer(layer).items() if value[0].isfile()}
    assert sorted(ours) == sorted(piped)
    bytecode = 0
    for path, (mode, data) in piped.items():
        entry, content = ours[path]
        assert (path, oct(entry.mode)) == (path, oct(mode))
        assert (entry.uid, entry.gid, entry.mtime) == (0, 0, LAYER_MTIME)
        if path.endswith("/RECORD") and str(Path(path).parents[1]) == facts["paths"]["purelib"]:  # a vendored one is plain data
            # pip lists the setuptools wrapper that it left out; ours lists what is there.
            there = {row for row in read_rows(data) if (Path(path).parents[1] / row[0]).exists()}
            assert read_rows(content) == there, path
        elif path.endswith(f".{interpreter.cache_tag}.pyc"):
            theirs, mine = marshal.loads(data[16:]), marshal.loads(content[16:])
            assert theirs == mine, path
            assert os.path.normpath(theirs.co_filename) == mine.co_filename
            bytecode += 1
        else:
            assert hashlib.sha256(content).hexdigest() == hashlib.sha256(data).hexdigest(), path
    assert bytecode > 500


def read_rows(record: bytes) -> set[tuple[str, ...]]:
    return {tuple(row) for row in csv.reader(io.StringIO(record.decode(), newline=""))}


def lay_out(folder: Path, layer: Layer) -> str:
    """An image layout that holds nothing but this layer, as other tools read it."""

    def put(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (folder / "blobs" / "sha256" / digest).write_bytes(data)
        return {"digest": f"sha256:{digest}", "size": len(data)}

    (folder / "blobs" / "sha256").mkdir(parents=True)
    (folder / "blobs" / "sha256" / layer.digest[7:]).hardlink_to(layer.file)
    config = {
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        "history": [{"created_by": "test"}],
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}],
    }
    entry = {"mediaType": manifest["mediaType"], **put(json.dumps(manifest).encode())}
    entry["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return f"{folder}:x"


@pytest.mark.parametrize("codec", [Codec("zstd", 3), Codec("gzip", 2), Codec("gzip", 2, single=True), Codec("zstd", 3, single=True)])
def test_umoci_skopeo_and_tar_read_the_layer(tmp_path: Path, codec: Codec, wheels: list[Path]) -> None:
    umoci, skopeo = need("umoci"), need("skopeo")
    chosen = [wheel for wheel in wheels if wheel.name.startswith(("six", "click", "odd", "greenlet"))]
    base = make_host_base(runtime=HostRuntime())
    made = build_layers(
        [(wheel, lock_wheel(wheel)) for wheel in chosen], base=base, codec=codec, cache=tmp_path / "cache", out=tmp_path / "layer"
    )
    check_layers(made, base=base)
    [layer] = made.layers
    image = lay_out(tmp_path / "image", layer)
    subprocess.run([skopeo, "copy", "-q", f"oci:{image}", f"oci:{tmp_path / 'copy'}:x"], check=True)
    inspected = json.loads(subprocess.run([skopeo, "inspect", f"oci:{image}"], check=True, capture_output=True).stdout)
    assert inspected["Layers"] == [layer.digest]
    names = {path.lstrip("/"): entry for path, (entry, _) in read_layer(layer).items()}
    # skopeo decompresses with its own libraries; umoci of Debian 12 reads gzip only, tar takes what skopeo made of zstd.
    plain = tmp_path / "plain"
    subprocess.run([skopeo, "copy", "-q", "--dest-decompress", f"oci:{image}", f"dir:{plain}"], check=True)
    archive = plain / layer.diff_id[7:]
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == archive.name
    tar = [need("tar"), "--quoting-style=literal"]
    listed = subprocess.run([*tar, "-tf", str(archive)], check=True, capture_output=True, env={"LC_ALL": "C.UTF-8"})
    assert [line.rstrip("/") for line in listed.stdout.decode().splitlines()] == list(names)
    rootfs = tmp_path / "bundle" / "rootfs"
    if codec.name == "gzip":
        subprocess.run([need("gzip"), "-t"], input=layer.file.read_bytes(), check=True)
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        subprocess.run([umoci, "unpack", *rootless, "--image", image, str(rootfs.parent)], check=True, capture_output=True)
    else:
        rootfs.mkdir(parents=True)
        subprocess.run([*tar, "-xpf", str(archive), "-C", str(rootfs)], check=True)
    for name, entry in names.items():
        found = (rootfs / name).lstat()
        assert (name, stat.S_IMODE(found.st_mode)) == (name, entry.mode)
        assert entry.isdir() or found.st_size == entry.size
    site = rootfs / "usr/local/lib/python3.11/dist-packages"
    code = "import six, click, greenlet, sys, odd; print(click.__cached__, odd.__cached__)"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", f"import sys; sys.path.insert(0, {str(site)!r}); {code}"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.count(".pyc") == 2
    assert str(next(iter(sys_tags())).interpreter) in done.stdout.replace("cpython-", "cp")


def test_real_wheels_give_the_same_bytes_in_any_order_and_with_any_number_of_workers(tmp_path: Path, wheels: list[Path]) -> None:
    chosen = [wheel for wheel in wheels if not wheel.name.startswith("numpy")]
    base = make_host_base(runtime=HostRuntime())

    def build(name: str, order: list[Path], workers: int, codec: Codec) -> Layer:
        return build_layers(
            [(wheel, lock_wheel(wheel)) for wheel in order], base=base, codec=codec, cache=tmp_path / name, out=tmp_path / f"{name}.layer",
            jobs=Jobs(workers),
        ).layers[0]  # fmt: skip

    one = build("one", chosen, 1, Codec())
    two = build("two", chosen[::-1], 2, Codec())
    other = build("gzip", chosen, 2, Codec("gzip", 1))
    assert one.digest == two.digest
    assert one.diff_id == two.diff_id == other.diff_id
