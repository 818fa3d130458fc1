"""Reading small bases from a layout folder: what is kept, the cache, and images that are not what they promise."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from imagebuild.base.distributions import read_distributions, read_requires_text
from imagebuild.base.inventory import decode_inventory, encode_inventory, require_python
from imagebuild.base.layers import choose_keeping
from imagebuild.base.tree import SqliteTree
from imagebuild.base.users import read_user
from imagebuild.errors import ConfigurationError, IntegrityError, RemoteError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, Platform
from tests.support.images import REPOSITORY, entry, make_layer, push_image, push_index, read_image

PASSWD = b"root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:0::/home/jovyan:/bin/bash\nbroken\n"
GROUP = b"root:x:0:\nusers:x:100:jovyan\n"
PLAIN = [entry("etc/passwd", PASSWD), entry("etc/group", GROUP), entry("bin/sh", b"\x7fELF", mode=0o755)]


class NoStore:
    """A store that nobody may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the cached read asked the store: {name}")


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [
        ("/usr/bin/python3.11", 9, "spool"),
        ("/opt/conda/bin/python3.12", 300 << 20, "spool"),
        ("/usr/bin/python-config.sh", 9, ""),
        ("/usr/lib/python3.11/os.py", 9, "spool"),
        ("/usr/lib64/python3.9/lib-dynload/math.so", 9, "spool"),
        ("/usr/lib/python3.11/test/support.py", 9, ""),
        ("/usr/lib/python3.11/json/__pycache__/x.pyc", 9, ""),
        ("/usr/lib/python3.11/site-packages/numpy/core.so", 9, ""),
        ("/opt/conda/lib/python3.12/site-packages/pandas-2.0.dist-info/METADATA", 9, "text"),
        ("/opt/conda/lib/python3.12/site-packages/pandas-2.0.dist-info/LICENSE", 9, ""),
        ("/usr/lib/python3/dist-packages/six-1.16.0.egg-info", 9, "text"),
        ("/usr/lib/python3/dist-packages/x.egg-info/requires.txt", 9, "text"),
        ("/opt/conda/conda-meta/pandas-2.json", 9, "text"),
        ("/var/lib/dpkg/info/python3-six.list", 9, "owned"),
        ("/lib/x86_64-linux-gnu/libc.so.6", 9, "spool"),
        ("/usr/lib/libz.so", 65 << 20, ""),
        ("/usr/lib/R/library/x/libs/x.so", 9, ""),
        ("/lib64/ld-linux-x86-64.so.2", 9, "spool"),
        ("/lib/ld-musl-x86_64.so.1", 9, "spool"),
        ("/opt/conda/pkgs/zlib-1/lib/libz.so.1", 9, ""),
        ("/opt/app-root/pyvenv.cfg", 9, "text"),
        ("/etc/pip/constraint.txt", 9, "text"),
        ("/etc/pip/constraint.txt", 33 << 20, ""),
        ("/etc/passwd", 9, "text"),
        ("/etc/shadow", 9, ""),
    ],
)
def test_choose_keeping(path: str, size: int, expected: str) -> None:
    assert choose_keeping(path.encode(), size) == expected


def test_base_without_python_is_read_and_refused_later(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    raw = push_image(store, [make_layer(PLAIN)], {"User": "1000", "Env": ["PATH=/usr/bin:/bin/", "HOME=/work"]})
    base = read_image(store, raw, tmp_path / "cache")
    assert base.inventory.interpreter is None
    assert base.runtime is None
    assert base.inventory.path == ("/usr/bin", "/bin")
    assert (base.inventory.user.uid, base.inventory.user.gid, base.inventory.user.name, base.inventory.user.home) == (
        1000,
        0,
        "jovyan",
        "/work",
    )
    assert base.pinned == raw.digest == base.inventory.digest
    layer = base.inventory.layers[0]
    assert (layer.diff_id, layer.uncompressed) == (Digest.of(make_layer(PLAIN)), len(make_layer(PLAIN)))
    with pytest.raises(ConfigurationError, match="has no Python") as caught:
        require_python(base)
    assert "jupyter-scipy" in caught.value.hint


@pytest.mark.parametrize("compression", ["gzip", "zstd", "none"])
def test_layers_of_every_compression_and_the_docker_family(tmp_path: Path, compression: str) -> None:
    store = LayoutStore(tmp_path / "layout")
    layers = [make_layer([entry("a/x", b"1"), entry("a/y", b"22")]), make_layer([entry("a/.wh.x", b"")])]
    plain = read_image(store, push_image(store, layers, compression=compression), tmp_path / "cache")
    assert [item.path for item in plain.tree.under("/")] == ["/a", "/a/y"]
    if compression == "gzip":
        docker = read_image(store, push_image(store, layers, docker=True), tmp_path / "cache")
        assert docker.manifest.media_type.startswith("application/vnd.docker")
        assert list(docker.tree.under("/")) == list(plain.tree.under("/"))


def test_an_opaque_whiteout_hides_what_lower_layers_have_in_the_folder(tmp_path: Path) -> None:
    """image-spec, layer.md (Opaque Whiteout): also where the entry comes after the layer's own files."""
    store = LayoutStore(tmp_path / "layout")
    lower = make_layer([entry("a/old", b"1"), entry("a/sub/older", b"1"), entry("b/stays", b"1")])
    upper = make_layer([entry("a/new", b"2"), entry("a/.wh..wh..opq", b""), entry(".wh..wh.plnk", b"")])
    tree = read_image(store, push_image(store, [lower, upper]), tmp_path / "cache").tree
    assert [item.path for item in tree.under("/")] == ["/a", "/a/new", "/b", "/b/stays"]


def test_second_read_asks_nobody_and_is_fast(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    here = push_image(store, [make_layer(PLAIN)], tag="amd")
    there = push_image(store, [make_layer([])], tag="arm", platform=Platform("linux", "arm64"))
    index = push_index(store, [(Platform("linux", "arm64"), there), (Platform(), here)])
    cache = tmp_path / "cache"
    first = read_image(store, index, cache)
    assert (first.pinned, first.inventory.digest) == (index.digest, here.digest)
    start = time.perf_counter()
    again = read_image(NoStore(), index, cache)
    assert time.perf_counter() - start < 0.05
    assert (again.inventory, again.manifest, again.config_data) == (first.inventory, first.manifest, first.config_data)
    other = read_image(store, index, cache, Platform("linux", "arm64"))
    assert other.inventory.digest == there.digest
    assert not list(cache.glob("bases/.tmp-*"))
    with pytest.raises(ConfigurationError, match="no linux/s390x"):
        read_image(store, index, cache, Platform("linux", "s390x"))
    with pytest.raises(ConfigurationError, match="linux/amd64, not linux/arm64"):
        read_image(store, here, cache, Platform("linux", "arm64"))


def test_cached_read_imports_nothing_heavy(tmp_path: Path) -> None:
    raw = push_image(LayoutStore(tmp_path / "layout"), [make_layer(PLAIN)])
    read_image(LayoutStore(tmp_path / "layout"), raw, tmp_path / "cache")
    code = (
        "import sys; from pathlib import Path; from imagebuild.base.reading import BaseNames, read_base\n"
        "from imagebuild.oci.model import *\n"
        f"read_base(None, 'x', Digest({str(raw.digest)!r}), Platform(), BaseNames('', '', '', ''),"
        f" cache=Path({str(tmp_path / 'cache')!r}), report=print)\n"
        "print([name for name in ('requests', 'elftools', 'packaging', 'email') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]"


def test_damaged_cache_is_read_again(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    raw = push_image(store, [make_layer(PLAIN)])
    first = read_image(store, raw, tmp_path / "cache")
    folder = tmp_path / "cache" / "bases" / raw.digest.hex
    for name in ("facts.json", "inventory.json", "config.json", "manifest.json"):
        (folder / name).write_bytes(b"{}")
        assert read_image(store, raw, tmp_path / "cache").inventory == first.inventory
    (folder / "tree.sqlite").unlink()
    assert read_image(store, raw, tmp_path / "cache").tree.get("/etc/passwd") is not None


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    raw = push_image(store, [make_layer(PLAIN)])
    stale = tmp_path / "cache" / "bases" / f".tmp-{raw.digest.hex}"
    (stale / "spool").mkdir(parents=True)
    (stale / "tree.sqlite").write_bytes(b"half")
    assert read_image(store, raw, tmp_path / "cache").tree.get("/bin/sh") is not None
    assert not stale.exists()


def test_wrong_diff_id_damaged_blob_and_counts_are_refused_and_leave_nothing(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    cache = tmp_path / "cache"
    layer = make_layer(PLAIN)
    with pytest.raises(IntegrityError, match="unpacks to"):
        read_image(store, push_image(store, [layer], diff_ids=[str(Digest.of(b"other"))]), cache)
    with pytest.raises(IntegrityError, match="1 layers, but 2 diff_ids"):
        read_image(store, push_image(store, [layer], diff_ids=[str(Digest.of(layer))] * 2), cache)
    hostile = make_layer([entry("ok", b""), entry("../evil", b"x")])
    with pytest.raises(IntegrityError, match="evil"):
        read_image(store, push_image(store, [hostile]), cache)
    good = push_image(store, [layer], {"Labels": {"x": "y"}})
    described = json.loads(good.data)["layers"][0]
    blob = store.local_file(Digest(described["digest"]))
    assert blob is not None
    content = bytearray(blob.read_bytes())
    content[-9] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)
    with pytest.raises(IntegrityError):
        read_image(store, good, cache)
    blob.write_bytes(content[:-20])
    with pytest.raises(IntegrityError):
        read_image(store, good, cache)
    assert not [path for path in cache.glob("bases/*") if path.is_dir()]


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh."])
def test_whiteout_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    store = LayoutStore(tmp_path / "layout")
    with pytest.raises(IntegrityError, match="whiteout without a name"):
        read_image(store, push_image(store, [make_layer([entry(name, b"")])]), tmp_path / "cache")


def test_missing_pin_says_what_to_do(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    other = push_image(LayoutStore(tmp_path / "other"), [make_layer([])])
    with pytest.raises(RemoteError, match="has no bases/test@sha256") as caught:
        read_image(store, other, tmp_path / "cache")
    assert "imagebuild base" in caught.value.hint
    assert REPOSITORY in caught.value.message


@pytest.mark.parametrize(
    ("config", "uid", "gid", "name", "home"),
    [
        ("", 0, 0, "root", "/root"),
        ("jovyan", 1000, 0, "jovyan", "/home/jovyan"),
        ("1000", 1000, 0, "jovyan", "/home/jovyan"),
        ("1000:100", 1000, 100, "jovyan", "/home/jovyan"),
        ("jovyan:users", 1000, 100, "jovyan", "/home/jovyan"),
        ("4242", 4242, 0, "", "/"),
    ],
)
def test_users(tmp_path: Path, config: str, uid: int, gid: int, name: str, home: str) -> None:
    store = LayoutStore(tmp_path / "layout")
    user = read_image(store, push_image(store, [make_layer(PLAIN)], {"User": config}), tmp_path / "cache").inventory.user
    assert (user.config, user.uid, user.gid, user.name, user.home) == (config, uid, gid, name, home)


@pytest.mark.parametrize("config", ["ghost", "1000:ghosts"])
def test_unknown_user_is_refused(tmp_path: Path, config: str) -> None:
    store = LayoutStore(tmp_path / "layout")
    tree = read_image(store, push_image(store, [make_layer(PLAIN)]), tmp_path / "cache").tree
    assert isinstance(tree, SqliteTree)
    with pytest.raises(ConfigurationError, match="ghost"):
        read_user(tree, config, "")


SITE = "opt/py/lib/python3.12/site-packages"
EXTRA = "extra"


def test_distributions(tmp_path: Path) -> None:
    metadata = b"Metadata-Version: 2.1\nName: %s\nVersion: %s\nRequires-Dist: numpy>=1\nProvides-Extra: all\n\nbody: Requires-Dist: x\n"
    meta = {"name": "pandas", "files": ["lib/python3.12/site-packages/pandas-2.2.dist-info/METADATA"]}
    layer = make_layer(
        [
            entry(f"{SITE}/pandas-2.2.dist-info/METADATA", metadata % (b"Pandas", b"2.2")),
            entry(f"{SITE}/pandas-2.2.dist-info/RECORD", b""),
            entry(f"{SITE}/pandas-2.2.dist-info/INSTALLER", b"conda\n"),
            entry(f"{SITE}/Zope.Interface-1.dist-info/METADATA", metadata % (b"Zope.Interface", b"1")),
            entry(f"{SITE}/Zope.Interface-1.dist-info/INSTALLER", b"pip\n"),
            entry(f"{SITE}/nested/vendor-9.dist-info/METADATA", metadata % (b"vendor", b"9")),
            entry(f"{SITE}/empty-9.dist-info/METADATA", b""),
            entry(f"{SITE}/old.egg-info/PKG-INFO", b"Name: old\nVersion: 3\n"),
            entry(f"{SITE}/old.egg-info/requires.txt", b"a>1\n\n[fast:python_version<'4']\nb\n[:os_name=='nt']\nc\n"),
            entry(f"{EXTRA}/pandas-1.0.dist-info/METADATA", metadata % (b"pandas", b"1.0")),
            entry(f"{EXTRA}/six.egg-info", b"Name: six\nVersion: 1.16\n"),
            entry("opt/py/conda-meta/pandas-2.2-0.json", json.dumps(meta).encode()),
            entry("var/lib/dpkg/info/python3-six.list", b"/.\n/extra\n/extra/six.egg-info\n"),
        ]
    )
    store = LayoutStore(tmp_path / "layout")
    tree = read_image(store, push_image(store, [layer]), tmp_path / "cache").tree
    assert isinstance(tree, SqliteTree)
    found = {item.name: item for item in read_distributions(tree, ["/missing", f"/{SITE}", "/extra"], "/opt/py")}
    # A plain .egg-info file counts in packages folders only, as six here is not in one.
    assert sorted(found) == ["old", "pandas", "zope-interface"]
    pandas = found["pandas"]
    assert (pandas.version, pandas.location, pandas.metadata) == ("2.2", f"/{SITE}", "pandas-2.2.dist-info")
    assert (pandas.installer, pandas.has_record, pandas.requires, pandas.extras) == ("conda", True, ("numpy>=1",), ("all",))
    assert (found["zope-interface"].installer, found["zope-interface"].has_record) == ("pip", False)
    assert found["old"].requires == ("a>1", "b ; (python_version<'4') and extra == \"fast\"", "c ; (os_name=='nt')")
    assert read_distributions(tree, ["/extra", f"/{SITE}"])[1].version == "1.0"
    assert tree.get(f"/{SITE}/pandas-2.2.dist-info/INSTALLER").sha256  # type: ignore[union-attr]
    assert tree.read_text(f"/{SITE}/pandas-2.2.dist-info/RECORD") == b""


def test_requires_text_without_sections() -> None:
    assert list(read_requires_text(b"# no\na\n\nb[x]>=2\n")) == ["a", "b[x]>=2"]


def test_inventory_round_trip_and_bad_files(tmp_path: Path) -> None:
    store = LayoutStore(tmp_path / "layout")
    inventory = read_image(store, push_image(store, [make_layer(PLAIN)]), tmp_path / "cache").inventory
    data = encode_inventory(inventory)
    assert decode_inventory(data) == inventory
    assert data == encode_inventory(decode_inventory(data))
    assert data.endswith(b"}\n")
    assert json.dumps(json.loads(data), sort_keys=True, indent=2) + "\n" == data.decode()
    for broken in (b"", b"[]", data.replace(b'"format": 1', b'"format": 99')):
        with pytest.raises(ConfigurationError):
            decode_inventory(broken)
