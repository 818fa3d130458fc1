"""A build is carried to a site without a network, and made there: in a network namespace that has not even a loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry
from tests.support.tools import need
from tests.support.workspaces import PROJECT, Built, Checkout, Done, LayoutImage, RequestLog, skopeo_copy

pytestmark = pytest.mark.integration


@dataclass(frozen=True)
class Packed:
    """A team's image built online, and the bundle that was made of it."""

    checkout: Checkout
    bundle: Path
    digest: str  # of the bundle
    result: dict[str, object]  # of the build online


def run_unplugged(site: Path, *arguments: str) -> Done:
    """The command line with an empty cache and no network at all."""
    if os.geteuid() != 0:
        pytest.skip("missing part: root (for a network namespace)")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("IMAGEBUILD_")}
    command = [need("unshare"), "--net", sys.executable, "-m", "tests.support.watched", *arguments, "--root", str(site)]
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": str(PROJECT)}, cwd="/", capture_output=True, text=True, check=False, timeout=300
    )
    return Done(done.returncode, done.stdout, done.stderr)


def make_team(built: Built, folder: Path, base: str = "starter") -> Checkout:
    """Team ``alpha``: a package of an index, a source tree with a symlink, an included file."""
    checkout = built.checkout.fork(folder)
    checkout.write("images/alpha/team.toml", f'base = "{base}"\n')
    checkout.write("images/alpha/requirements.in", "-r ../common.in\n")
    checkout.write("images/common.in", "left\n")
    tree = checkout.root / "images/alpha/packages/tools"
    (tree / "alpha_tools").mkdir(parents=True)
    (tree / "alpha_tools/__init__.py").write_text('"""Tools of the team."""\n\n__version__ = "1.0"\n')
    (tree / "alpha_tools/same.py").symlink_to("__init__.py")
    (tree / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
        '[project]\nname = "alpha_tools"\nversion = "1.0"\ndescription = "Tools"\n'
    )
    return checkout


def pack(checkout: Checkout, folder: Path, *options: str) -> Packed:
    """Lock, build and pack team ``alpha`` from an index that is gone afterwards."""
    fake = FakeIndex()
    fake.add("left", "1.0", extra=b"side = 'left'\n" * 100)
    with fake.serve() as url:
        online = Checkout(checkout.root, checkout.cache, {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": "/dev/null"})
        online.run("lock", "alpha").succeeded()
        result = online.image("alpha")
        done = online.run("bundle", "alpha", "-o", str(folder), *options).succeeded()
    digest = next(line.split()[1] for line in done.out.splitlines() if line.strip().startswith("bundle"))
    return Packed(online, folder, digest, result)


@pytest.fixture(scope="module")
def packed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    folder = tmp_path_factory.mktemp("online")
    return pack(make_team(built, folder / "checkout"), folder / "bundle")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An empty folder at the other site."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def test_the_same_image_without_a_network(packed: Packed, site: Path) -> None:
    arguments = ("image", "--offline", "--bundle", str(packed.bundle), "--bundle-digest", packed.digest, "--json")
    result = run_unplugged(site, *arguments).succeeded().result
    assert (result["built"], result["sparse"]) == (True, False)
    assert (result["tag"], result["digest"]) == (packed.result["tag"], packed.result["digest"])
    image = LayoutImage.named(site / ".imagebuild/registry", f"alpha:{result['tag']}")
    assert [image.path(layer["digest"]).is_file() for layer in image.layers] == [True, True, True]
    assert sorted(path.name for path in site.iterdir()) == [".imagebuild"]
    again = run_unplugged(site, *arguments).succeeded().result
    assert (again["built"], again["digest"]) == (False, result["digest"])


def test_by_hand_too(packed: Packed) -> None:
    """The folder is a build context: Dockerfile, and wheels/ with what it installs."""
    text = (packed.bundle / "Dockerfile").read_text()
    assert f"Team alpha, {packed.result['tag']}" in text
    names = sorted(path.name for path in (packed.bundle / "wheels").iterdir())
    assert {"install.py", "requirements.txt", "left-1.0-py3-none-any.whl"} < set(names)


TOUCHED = ("wheels/left-1.0-py3-none-any.whl", "project/images/common.in", "project/lockfiles/pylock.alpha.toml", "base/tree.sqlite")


@pytest.mark.parametrize("name", [*TOUCHED, "python", "layer"])
def test_a_file_that_was_touched_is_never_used(packed: Packed, site: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(packed.bundle, folder, copy_function=os.link)
    listed = json.loads((folder / "bundle.json").read_bytes())["files"]
    if name == "python":
        name = next(item for item in listed if item.startswith("base/rootfs/") and "/bin/python" in item)
    if name == "layer":
        name = max((item for item in listed if item.startswith("layers/")), key=lambda item: int(listed[item]["size"]))
    path = folder / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.unlink()  # the other name of the file stays as it is
    path.write_bytes(data)
    done = run_unplugged(site, "image", "--offline", "--bundle", str(folder)).refused(8, "does not match the bundle's manifest")
    assert name in done.err
    index = site / ".imagebuild/registry/index.json"
    assert not index.exists() or json.loads(index.read_bytes())["manifests"] == []
    same_size = [item for item in (site / ".imagebuild").rglob("*") if item.is_file() and item.stat().st_size == len(data)]
    assert [item for item in same_size if item.read_bytes() == bytes(data)] == []


def test_a_bundle_that_was_made_up(packed: Packed, site: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    text = (packed.bundle / "bundle.json").read_text()
    (folder / "bundle.json").write_text(text.replace('"alpha"', '"omega"'))
    arguments = ("image", "--offline", "--bundle", str(folder))
    run_unplugged(site, *arguments, "--bundle-digest", packed.digest).refused(8, "is not the expected one")
    (folder / "bundle.json").write_text(text.replace('"project/images/common.in"', '"project/../../common.in"'))
    run_unplugged(site, *arguments).refused(8, "names a file outside the bundle")


def test_usage(packed: Packed, site: Path) -> None:
    bundle = str(packed.bundle)
    run_unplugged(site, "image", "--bundle", bundle).refused(2, "--bundle goes with --offline")
    run_unplugged(site, "image", "other", "--offline", "--bundle", bundle).refused(2, "is team alpha's")
    run_unplugged(site, "image", "--offline", "--bundle", str(site)).refused(3, "is not a bundle")
    packed.checkout.run("bundle", "alpha", "-o", bundle).refused(2, "exists already")


def test_offline_without_a_bundle(packed: Packed, tmp_path: Path) -> None:
    """What is on the machine serves; what is not is named, and nobody is asked for it."""
    fork = packed.checkout.fork(tmp_path / "fork")
    shutil.rmtree(fork.layout)
    shutil.copytree(packed.checkout.layout, fork.layout)
    unplugged = Checkout(fork.root, tmp_path / "cache", {"PIP_INDEX_URL": "http://127.0.0.1:9/simple/"})
    shutil.copytree(packed.checkout.cache / "bases", unplugged.cache / "bases", symlinks=True)
    unplugged.edit("images/alpha/team.toml", 'base = "starter"\n', 'base = "starter"\ndisplay-name = "Another"\n')
    unplugged.run("image", "alpha", "--offline").refused(
        6, "--offline: 1 of 2 wheels of alpha are not on this machine", "left-1.0-py3-none-any.whl", hint="imagebuild bundle alpha"
    )
    shutil.copytree(packed.checkout.cache / "wheels", unplugged.cache / "wheels")
    assert unplugged.image("alpha", "--offline")["built"] is True


def test_a_base_in_a_registry_stays_there_or_comes_along(built: Built, hub: Registry, site: Path, tmp_path: Path) -> None:
    """Without its layers: a sparse folder, or the site's own registry has them. With them: a whole image."""
    reference = f"{hub.host}/upstream/starter"
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{reference}:1")
    checkout = make_team(built, tmp_path / "checkout", base="remote")
    checkout.use_base("remote", reference, built.base.digest)
    lean = pack(checkout, tmp_path / "lean")
    assert not (lean.bundle / "layers").exists()
    log = RequestLog(hub)
    result = run_unplugged(site, "image", "--offline", "--bundle", str(lean.bundle), "--json").succeeded().result
    assert (result["sparse"], result["digest"]) == (True, lean.result["digest"])
    whole = lean.checkout.run("bundle", "alpha", "-o", str(tmp_path / "whole"), "--with-base").succeeded()
    assert "with its layers" in whole.out
    other = tmp_path / "other"
    other.mkdir()
    result = run_unplugged(other, "image", "--offline", "--bundle", str(tmp_path / "whole"), "--json").succeeded().result
    assert (result["sparse"], result["digest"]) == (False, lean.result["digest"])
    # A site whose own registry has the base under another name, as its own catalogue says.
    skopeo_copy(f"oci:{built.checkout.layout}:bases/starter:latest", f"docker://{hub.host}/inside/starter:1")
    third = Checkout(tmp_path / "third", tmp_path / "third/cache")
    third.write("images/catalogue.toml", f'[mirrors]\n"{hub.host}/upstream" = "{hub.host}/inside"\n')
    log = RequestLog(hub)
    result = third.image("alpha", "--offline", "--bundle", str(lean.bundle), "--registry", f"{hub.host}/site")
    assert result["digest"] == lean.result["digest"]
    asked = [path for _method, path in log.read()]
    assert not [path for path in asked if path.startswith("/v2/upstream/")]
    assert [path for path in asked if "from=inside%2Fstarter" in path or "from=inside/starter" in path]
