"""A real Debian base: what we say about it is what its own Python, pip, chroot and umoci say."""

from __future__ import annotations

import io
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import packaging
import pytest

from imagebuild.base.inventory import require_python
from imagebuild.base.model import Base, Interpreter
from imagebuild.base.runtime import CutRuntime, find_network_isolation
from imagebuild.errors import ConfigurationError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Platform
from tests.support.images import REPOSITORY, debian_rootfs, entry, make_layer, push_image, push_index, read_image
from tests.support.tools import need

pytestmark = pytest.mark.integration

ASK = """
import importlib.util, json, os, platform, sys, sysconfig
sys.path.insert(0, "/probe")
import packaging.markers, packaging.tags
print(json.dumps({
    "version": platform.python_version(), "magic": importlib.util.MAGIC_NUMBER.hex(), "cache_tag": sys.implementation.cache_tag,
    "prefix": sys.prefix, "base_prefix": sys.base_prefix, "markers": packaging.markers.default_environment(),
    "tags": [str(tag) for tag in packaging.tags.sys_tags()], "libc": os.confstr("CS_GNU_LIBC_VERSION"), "path": sys.path[1:],
}))
"""
ASK_PIP = """
import json, sys
sys.path.insert(0, "/pip")
from pip._internal.locations import get_scheme
from pip._internal.metadata import get_default_environment
scheme = get_scheme("NAME")
print(json.dumps({
    "paths": {**{key: getattr(scheme, key) for key in ("purelib", "platlib", "scripts", "data")}, "include": scheme.headers},
    "distributions": {
        item.canonical_name: [str(item.version), item.installer] for item in get_default_environment().iter_all_distributions()
    },
}))
"""


class Debian:
    """The base in a layout folder, and the same files unpacked for chroot."""

    def __init__(self, folder: Path, tar: Path) -> None:
        self.folder = folder
        self.store = LayoutStore(folder / "layout")
        self.layer = tar.read_bytes()
        self.root = folder / "root"

    def unpack(self) -> Path:
        """The root file system for chroot, with `packaging` in /probe, pip in /pip and a virtual environment in /opt/venv."""
        if os.geteuid() != 0:
            pytest.skip("missing part: root (for chroot)")
        if not self.root.exists():
            self.root.mkdir()
            subprocess.run([need("tar"), "-xf", "-", "-C", str(self.root), "--exclude=./dev/*"], input=self.layer, check=True)
            shutil.copytree(Path(packaging.__file__).parent, self.root / "probe" / "packaging")
            self.chroot("/usr/bin/python3", "-m", "venv", "/opt/venv")
            (self.root / "pip").symlink_to("opt/venv/lib/python3.11/site-packages")
        return self.root

    def chroot(self, *command: str, path: str = "/usr/sbin:/usr/bin") -> str:
        """What a command says inside."""
        environment = {"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([need("chroot"), str(self.root), *command], capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def ask(self, python: str, code: str = ASK) -> Any:
        return json.loads(self.chroot(python, "-c", code))


@pytest.fixture(scope="session")
def debian(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    tar = debian_rootfs(tmp_path_factory.getbasetemp() / "rootfs")
    # Not below pytest's folder, which only its owner may enter: another user has to read this one.
    folder = Path(tempfile.mkdtemp(prefix="imagebuild-test-"))
    folder.chmod(0o755)
    yield Debian(folder, tar)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def base(debian: Debian) -> Base:
    raw = push_image(debian.store, [debian.layer], {"User": "nobody", "Env": ["PATH=/usr/sbin:/usr/bin"]}, compression="zstd")
    return read_image(debian.store, raw, debian.folder / "cache")


def add_folder(root: Path, folder: str) -> bytes:
    """A layer of one folder below ``root``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.add(root / folder, folder)
    return buffer.getvalue()


def check_same(interpreter: Interpreter, said: dict[str, Any]) -> None:
    """What was read without a container is what the Python says inside."""
    said["markers"].update(platform_release="", platform_version="")
    assert (interpreter.version, interpreter.magic, interpreter.cache_tag) == (said["version"], said["magic"], said["cache_tag"])
    assert (interpreter.prefix, interpreter.base_prefix) == (said["prefix"], said["base_prefix"])
    assert interpreter.markers == said["markers"]
    assert list(interpreter.tags) == said["tags"]
    assert interpreter.libc == said["libc"]


def headers(paths: dict[str, str]) -> dict[str, str]:
    return {**paths, "include": f"{paths['include']}/NAME"}


def test_system_python_says_the_same_as_inside(debian: Debian, base: Base) -> None:
    debian.unpack()
    interpreter = require_python(base)
    check_same(interpreter, debian.ask("python3"))
    pip = debian.ask("python3", ASK_PIP)
    assert headers(interpreter.paths) == pip["paths"]
    assert interpreter.paths["purelib"] == "/usr/local/lib/python3.11/dist-packages"
    assert (interpreter.path, interpreter.executable, interpreter.environment) == ("/usr/bin/python3", "/usr/bin/python3.11", "system")
    assert interpreter.externally_managed
    for name in ("pip", "setuptools"):  # those of the folder that pip itself was taken from
        pip["distributions"].pop(name, None)
    assert {item.name: item.version for item in base.inventory.distributions} == {k: v[0] for k, v in pip["distributions"].items()}
    six = base.inventory.distribution("six")
    assert six is not None
    assert (six.installer, six.location, six.has_record) == ("dpkg", "/usr/lib/python3/dist-packages", False)


def test_tree_is_what_is_on_the_disk(debian: Debian, base: Base) -> None:
    root = debian.unpack()
    for path in ("/usr/bin/passwd", "/etc/shadow", "/bin", "/tmp", "/usr/bin/python3", "/var/mail", "/usr/lib/python3.11/os.py"):
        found = base.tree.get(path)
        info = (root / path[1:]).lstat()
        assert found is not None
        assert (found.mode, found.uid, found.gid) == (stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid)
        if found.type == "symlink":
            assert found.link == str((root / path[1:]).readlink())
    assert base.tree.resolve("/lib/new") == "/usr/lib/new"
    assert base.tree.resolve("/lib64/ld-linux-x86-64.so.2").startswith("/usr/lib")


def test_what_was_cut_out_is_plain_files(debian: Debian, base: Base) -> None:
    assert base.runtime is not None
    folder = debian.folder / "cache" / "bases" / base.inventory.digest.removeprefix("sha256:")
    found = list((folder / "rootfs").rglob("*"))
    assert 500 < len(found) < 3000
    for path in found:
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        assert stat.S_IMODE(mode) in (0o644, 0o755)
    assert sum(path.stat().st_size for path in found) < 80e6
    assert not (folder / "spool").exists()


def test_runtime_is_isolated_and_deterministic(base: Base, tmp_path: Path) -> None:
    assert base.runtime is not None
    (tmp_path / "extra.py").write_text("VALUE = 7\n")
    code = (
        "from __future__ import annotations\n"
        "import extra, json, os, sys\n"
        "print(json.dumps([extra.VALUE, sys.argv, sys.path, dict(os.environ), sys.flags.no_user_site, sys.flags.no_site,"
        " sys.dont_write_bytecode, hash('x'), sys.stdin.read()]))"
    )
    done = base.runtime.run(code, "a", "b c", input=b"in", path=[tmp_path], environment={"MORE": "1"})
    assert done.returncode == 0, done.stderr
    value, argv, path, environment, user, site, bytecode, hashed, given = json.loads(done.stdout)
    assert (value, argv, given) == (7, ["-c", "a", "b c"], "in")
    assert path[0] == str(tmp_path)
    assert "" not in path
    assert all("/rootfs/usr/lib/python3" in entry for entry in path[1:])
    assert environment.pop("PYTHONHOME").endswith("/rootfs/usr")
    assert environment == {
        "PATH": "/usr/bin:/bin",
        "HOME": "/nonexistent",
        "LC_ALL": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MORE": "1",
    }
    assert (user, site, bytecode) == (1, 1, True)
    same = base.runtime.run("print(hash('x'))")
    assert int(same.stdout) == hashed
    assert not list(tmp_path.glob("__pycache__"))
    failing = base.runtime.run("import sys; sys.stderr.write('no'); sys.exit(3)")
    assert (failing.returncode, failing.stderr) == (3, b"no")


def test_every_module_of_the_standard_library_that_the_base_can_load(debian: Debian, base: Base) -> None:
    debian.unpack()
    code = (
        "import importlib, pathlib, sysconfig, sys\n"
        "names = sorted(p.name.partition('.')[0] for p in pathlib.Path(sysconfig.__file__).parent.glob('lib-dynload/*.so'))\n"
        "ok = []\n"
        "for name in names + ['json', 'ssl', 'sqlite3', 'ctypes', 'lzma', 'multiprocessing', 'asyncio', 'zoneinfo', 'email.mime.text']:\n"
        "    try:\n        importlib.import_module(name); ok.append(name)\n"
        "    except ImportError as e: ok.append(name + '!' + type(e).__name__)\n"
        "print(','.join(ok))\n"
    )
    assert base.runtime is not None
    done = base.runtime.run(code)
    assert done.stdout.decode() == debian.chroot("python3", "-S", "-c", code), done.stderr


def test_a_started_child_talks_over_pipes_and_its_children_use_the_same_python(base: Base) -> None:
    assert base.runtime is not None
    code = (
        "import subprocess, sys\n"
        "for line in sys.stdin:\n"
        "    ask = 'import os,ssl,sys;print(os.confstr(\"CS_GNU_LIBC_VERSION\"), *sys.argv[1:])'\n"
        "    out = subprocess.run([sys.executable, '-c', ask, line.strip()], capture_output=True, text=True, check=True).stdout\n"
        "    print(out, end='', flush=True)\n"
    )
    with base.runtime.start(code) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"it's\n")
        child.stdin.flush()
        assert child.stdout.readline().decode() == f"{base.interpreter.libc} it's\n"
        child.stdin.close()
        assert child.wait(10) == 0


def test_no_network_unless_asked(base: Base) -> None:
    assert base.runtime is not None
    if not find_network_isolation():
        pytest.skip("missing part: network namespaces")
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); print('through')"
        assert base.runtime.run(code).returncode != 0
        assert base.runtime.run(code, network=True).stdout == b"through\n"


def test_an_ordinary_user_reads_and_runs_it(debian: Debian, base: Base) -> None:
    if os.geteuid() != 0:
        pytest.skip("missing part: root (to become somebody else)")
    cache = debian.folder / "nobody"
    cache.mkdir()
    os.chown(cache, 65534, 65534)
    code = (
        "import os\nfrom pathlib import Path\nfrom imagebuild.base.inventory import encode_inventory\n"
        "from imagebuild.base.reading import BaseNames, read_base\n"
        "from imagebuild.oci.layout import LayoutStore\nfrom imagebuild.oci.model import Digest, Platform\n"
        f"base = read_base(LayoutStore(Path({str(debian.store.folder)!r})), {REPOSITORY!r}, Digest({str(base.pinned)!r}), Platform(),"
        f" BaseNames('t', 'jupyter', 'r', ''), cache=Path({str(cache)!r}), report=lambda line: None)\n"
        "done = base.runtime.run('import os, sys, ssl; print(os.getuid(), sys.version_info[:2])')\n"
        "print(os.getuid(), done.stdout.decode().strip(), done.stderr.decode())\n"
        "print(encode_inventory(base.inventory).decode())\n"
    )
    repository = Path(__file__).parents[2]
    command = [need("setpriv"), "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", code]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(repository), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    first, _, inventory = done.stdout.partition("\n")
    assert first.split("(")[0].split() == ["65534", "65534"]
    assert json.loads(inventory)["fingerprint"] == base.inventory.fingerprint
    # The cache that root made serves him too.
    shared = [*command[:-1], code.replace(str(cache), str(debian.folder / "cache"))]
    done = subprocess.run(shared, capture_output=True, text=True, env=environment, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("\n")[0] == first


def test_without_running_it_the_same_is_said(debian: Debian, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagebuild.base.runtime.runs_here", lambda _: False)
    environment = {"User": "nobody", "Env": ["PATH=/usr/sbin:/usr/bin"]}
    raw = push_image(debian.store, [debian.layer], environment, compression="zstd")
    plain = read_image(debian.store, raw, tmp_path)
    assert plain.runtime is None
    assert plain.inventory == base.inventory
    assert not (tmp_path / "bases" / plain.pinned.hex / "rootfs").exists()
    # A machine that can run it does not make do with that, should it find such a cache.
    monkeypatch.undo()
    assert read_image(debian.store, raw, tmp_path).runtime is not None


@pytest.mark.parametrize("system", [False, True])
def test_virtual_environment(debian: Debian, system: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = debian.unpack()
    config = root / "opt/venv/pyvenv.cfg"
    config.write_text(config.read_text().replace(f"site-packages = {str(not system).lower()}", f"site-packages = {str(system).lower()}"))
    path = "/opt/venv/bin:/usr/bin"
    raw = push_image(debian.store, [debian.layer, add_folder(root, "opt/venv")], {"Env": [f"PATH={path}"]}, compression="zstd", tag="venv")
    base = read_image(debian.store, raw, debian.folder / "cache")
    interpreter = require_python(base)
    assert (interpreter.path, interpreter.executable, interpreter.environment) == ("/opt/venv/bin/python3", "/usr/bin/python3.11", "venv")
    check_same(interpreter, debian.ask(interpreter.path))
    said = json.loads(debian.chroot(interpreter.path, "-c", ASK_PIP.replace('sys.path.insert(0, "/pip")', "pass")))
    assert headers(interpreter.paths) == said["paths"]
    assert {item.name: [item.version, item.installer] for item in base.inventory.distributions if item.name != "six"} == {
        name: value for name, value in said["distributions"].items() if name != "six"
    }
    assert ("six" in said["distributions"]) is system is (base.inventory.distribution("six") is not None)
    with monkeypatch.context() as patch:
        patch.setattr("imagebuild.base.runtime.runs_here", lambda _: False)
        assert read_image(debian.store, raw, tmp_path).inventory == base.inventory
    assert not interpreter.externally_managed
    assert base.inventory.shadowed_interpreters == ("/usr/bin/python3",)
    assert base.tree.resolve("/opt/venv/lib64/python3.11") == "/opt/venv/lib/python3.11"


def test_virtual_environment_of_copies(debian: Debian) -> None:
    root = debian.unpack()
    debian.chroot("/usr/bin/python3", "-m", "venv", "--copies", "--without-pip", "/opt/copies")
    raw = push_image(debian.store, [debian.layer, add_folder(root, "opt/copies")], {"Env": ["PATH=/opt/copies/bin"]}, compression="zstd")
    interpreter = require_python(read_image(debian.store, raw, debian.folder / "cache"))
    assert interpreter.executable.startswith("/opt/copies/bin/")
    check_same(interpreter, debian.ask("/opt/copies/bin/python3"))


def test_conda_prefix_first_on_path_shadows_the_system(debian: Debian) -> None:
    root = debian.unpack()
    conda = root / "opt/conda"
    (conda / "bin").mkdir(parents=True)
    (conda / "conda-meta").mkdir()
    shutil.copy(root / "usr/bin/python3.11", conda / "bin/python3.11")
    (conda / "bin/python3").symlink_to("python3.11")
    (conda / "bin/python").symlink_to("python3.11")
    shutil.copytree(root / "usr/lib/python3.11", conda / "lib/python3.11", ignore=shutil.ignore_patterns("__pycache__"))
    site = "local/lib/python3.11/dist-packages"
    for name, installer in (("alpha", "conda"), ("beta", "pip")):
        folder = conda / site / f"{name}-1.0.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "INSTALLER").write_text(installer)
        (folder / "RECORD").write_text("")
    (conda / site / "alpha-1.0.dist-info/INSTALLER").unlink()
    (conda / "conda-meta/alpha-1.0-0.json").write_text(json.dumps({"name": "alpha", "files": [f"{site}/alpha-1.0.dist-info/METADATA"]}))
    config = {"Env": ["PATH=/opt/conda/bin:/usr/bin"]}
    raw = push_image(debian.store, [debian.layer, add_folder(root, "opt/conda")], config, compression="zstd", tag="conda")
    base = read_image(debian.store, raw, debian.folder / "cache")
    interpreter = require_python(base)
    assert (interpreter.path, interpreter.executable) == ("/opt/conda/bin/python3", "/opt/conda/bin/python3.11")
    assert (interpreter.environment, interpreter.prefix) == ("conda", "/opt/conda")
    check_same(interpreter, debian.ask("/opt/conda/bin/python3"))
    assert headers(interpreter.paths) == json.loads(debian.chroot("/opt/conda/bin/python3", "-c", ASK_PIP))["paths"]
    assert {item.name: item.installer for item in base.inventory.distributions} == {"alpha": "conda", "beta": "pip"}
    assert base.inventory.shadowed_interpreters == ("/usr/bin/python3",)


def test_two_reads_at_once_read_the_layers_once(debian: Debian, base: Base, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom imagebuild.base.reading import BaseNames, read_base\n"
        "from imagebuild.oci.layout import LayoutStore\nfrom imagebuild.oci.model import Digest, Platform\n"
        f"base = read_base(LayoutStore(Path({str(debian.store.folder)!r})), {REPOSITORY!r}, Digest({str(base.pinned)!r}), Platform(),"
        f" BaseNames('t', 'jupyter', 'r', ''), cache=Path({str(tmp_path)!r}), report=print)\n"
        "print(base.inventory.fingerprint)\n"
    )
    repository = Path(__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=repository) for _ in range(2)]
    lines = [line for child in both for line in child.communicate(timeout=60)[0].splitlines()]
    assert [child.returncode for child in both] == [0, 0]
    assert sum("reading layer" in line for line in lines) == 1
    assert lines.count(base.inventory.fingerprint) == 2


def test_python_that_is_a_script_or_incomplete_is_refused_clearly(debian: Debian, tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    script = make_layer([entry("bin/python3", b"#!/bin/sh\nexec other\n", mode=0o755)])
    with pytest.raises(ConfigurationError, match="script"):
        read_image(store, push_image(store, [script]), tmp_path / "cache")
    gone = make_layer([entry("usr/lib/python3.11/.wh.os.py", b"")])
    with pytest.raises(ConfigurationError, match="standard library"):
        read_image(debian.store, push_image(debian.store, [debian.layer, gone], compression="zstd"), tmp_path / "cache")


def test_docker_family_in_an_index_of_two_platforms(debian: Debian, base: Base) -> None:
    image = push_image(debian.store, [debian.layer], {"User": "nobody", "Env": ["PATH=/usr/sbin:/usr/bin"]}, docker=True, tag="docker")
    other = push_image(debian.store, [make_layer([])], docker=True, platform=Platform("linux", "s390x"), tag="other")
    index = push_index(debian.store, [(Platform("linux", "s390x"), other), (Platform(), image)])
    found = read_image(debian.store, index, debian.folder / "cache")
    assert found.pinned == index.digest
    assert found.inventory.digest == image.digest
    assert found.inventory.fingerprint == base.inventory.fingerprint
    assert found.inventory.interpreter == base.inventory.interpreter
    assert isinstance(found.runtime, CutRuntime)


def test_tree_is_what_umoci_unpacks(tmp_path: Path) -> None:
    umoci, skopeo = need("umoci"), need("skopeo")
    if os.geteuid() != 0:
        pytest.skip("missing part: root (for owners)")
    layers = [
        [
            entry("./"),
            entry("./usr/lib/", mode=0o2755, gid=7),
            entry("./usr/lib/x.so", b"1", mode=0o644, uid=4),
            entry("./usr/lib/old.so", b"1"),
            entry("./lib", link="usr/lib"),
            entry("./opt/a/one", b"1"),
            entry("./opt/a/two", b"22"),
            entry("./opt/full/deep/er", b"1"),
            entry("./tmp", mode=0o1777),
            entry("./etc/conf", b"1"),
            entry("./etc/conf2", hard="./etc/conf"),
        ],
        [
            entry("lib/new.so", b"333"),
            entry("lib/.wh.old.so", b""),
            entry("opt/a/three", b"333"),
            entry("opt/a/.wh..wh..opq", b""),
            entry("opt/.wh.full", b""),
            entry("etc/conf", b"four", mode=0o600),
            entry("bin/" + "long" * 40, b"l"),
        ],
        [
            entry("opt/full", mode=0o700),
            entry("opt/full/new", b"1"),
            entry("usr/lib/x.so", mode=0o755),
            entry("usr/lib/x.so/inside", b"1"),
            entry("opt/a", b"now a file"),
            entry("etc/link", link="/etc/conf"),
        ],
    ]
    store = LayoutStore(tmp_path / "layout")
    base = read_image(store, push_image(store, [make_layer(layer) for layer in layers]), tmp_path / "cache")
    subprocess.run([skopeo, "copy", "-q", f"oci:{store.folder}:{REPOSITORY}:1", f"oci:{tmp_path}/copy:one"], check=True)
    subprocess.run([umoci, "unpack", "--image", f"{tmp_path}/copy:one", str(tmp_path / "bundle")], check=True, capture_output=True)
    root = tmp_path / "bundle" / "rootfs"
    unpacked = {}
    for path in root.rglob("*"):
        info = path.lstat()
        kind = "symlink" if path.is_symlink() else "dir" if path.is_dir() else "file"
        link = str(path.readlink()) if kind == "symlink" else ""
        size = info.st_size if kind == "file" else 0
        unpacked["/" + str(path.relative_to(root))] = (kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, size, link)
    ours = {item.path: (item.type, item.mode, item.uid, item.gid, item.size, item.link) for item in base.tree.under("/")}
    assert ours == unpacked
