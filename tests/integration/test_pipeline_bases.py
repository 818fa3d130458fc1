"""Team images on bases of every shape: each is derived here from Debian's own Python, put into a registry, built on and unpacked."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Platform, RawManifest
from tests.support import images
from tests.support.builders import make_wheel
from tests.support.images import entry, make_layer, push_image, push_index
from tests.support.servers.index import FakeIndex
from tests.support.servers.registry import Registry
from tests.support.workspaces import Built, Checkout, Done, LayoutImage, run_inside, run_tool, skopeo_copy, unpack

pytestmark = pytest.mark.integration

Entries = list[tuple[tarfile.TarInfo, bytes]]

SYSTEM = "usr/local/lib/python3.11/dist-packages"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
# Of the starter's root file system, what its Python needs to run, and every folder and link.
_KEPT = re.compile(
    r"usr/bin/(?:python3[^/]*|sh|dash)|usr/lib/python3(?:\.11)?/.*|usr/lib/x86_64-linux-gnu/[^/]*\.so[^/]*|usr/lib64/.*|etc/[^/]*|etc/ld\.so\.conf\.d/.*"
)
_UNKEPT = re.compile(
    r".*/(?:test|idlelib|lib2to3|pydoc_data|__pycache__)/.*|.*/lib(?:icu|perl|db-5|gnutls|p11-kit|unistring)[^/]*|.*/\.lock"
)


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def debian(built: Built) -> Entries:
    """A small Debian with Python, from the starter base's first layer."""
    kept: Entries = []
    with built.base.open_layer(0) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for item in archive:
            if item.isdir() or item.issym() or (_KEPT.fullmatch(item.name) and not _UNKEPT.fullmatch(item.name)):
                content = archive.extractfile(item) if item.isreg() else None
                kept.append((item, content.read() if content else b""))
    return kept


@dataclass(frozen=True)
class Wheelhouse:
    """A package index on loopback with a few small wheels."""

    url: str
    folder: Path
    index: FakeIndex


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wheelhouse]:
    folder, index = tmp_path_factory.mktemp("wheels"), FakeIndex()
    for name, version, requires in (
        ("pandas", "2.1.4", ()),
        ("pandas", "2.2.3", ()),
        ("pandas", "2.3.1", ()),
        ("tidy", "1.0", ("pandas>=2.1",)),
    ):
        lines = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", *(f"Requires-Dist: {line}\n" for line in requires)]
        path = make_wheel(
            folder,
            name,
            version,
            files={
                f"{name}/__init__.py": f"__version__ = {version!r}\n\ndef main():\n    print(__version__)\n".encode(),
                f"{name}-{version}.data/data/lib64/{name}/native.txt": b"beside the library\n",
                f"{name}-{version}.data/data/share/{name}/notes.txt": b"notes\n",
            },
            entry_points=f"[console_scripts]\n{name}-version = {name}:main\n",
            metadata="".join(lines),
        )
        index.add_file(name, path.name, path.read_bytes())
    with index.serve() as url:
        yield Wheelhouse(url, folder, index)


@dataclass(frozen=True)
class Forge:
    """Makes bases, puts them into the registry, and gives teams to build on them."""

    hub: Registry
    wheelhouse: Wheelhouse
    debian: Entries
    folder: Path

    def make(self, name: str, layers: Sequence[Entries], config: dict[str, Any] | None = None) -> tuple[LayoutStore, RawManifest]:
        """An image of ``layers`` in a layout folder."""
        store = LayoutStore(self.folder / "layouts" / name)
        settings = {"User": "1000", "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan"], "Cmd": ["python3"], **(config or {})}
        return store, push_image(store, [make_layer(layer) for layer in layers], settings)

    def push(self, name: str, tag: str = "1", *, form: str = "") -> tuple[str, str]:
        """Copy an image (or an index with all of its images) to the registry with skopeo: its reference and digest there."""
        reference = f"{self.hub.host}/forge/{name}"
        options = [f"--format={form}"] if form else ["--all", "--preserve-digests"]
        skopeo_copy(f"oci:{self.folder / 'layouts' / name}:{images.REPOSITORY}:{tag}", f"docker://{reference}:1", *options)
        return reference, run_tool("crane", "digest", "--insecure", f"{reference}:1").decode().strip()

    def team(self, name: str, reference: str, digest: str, requirements: str, settings: str = "") -> Checkout:
        """A folder with one team, ``blue``, on a base called ``forged``."""
        checkout = Checkout(self.folder / "teams" / name, self.folder / "cache")
        checkout.use_base("forged", reference, digest)
        index = f'[[index]]\nname = "house"\nurl = "{self.wheelhouse.url}"\ndefault = true\n'
        checkout.write("images/blue/team.toml", f'base = "forged"\n{settings}\n{index}')
        checkout.write("images/blue/requirements.in", requirements)
        return checkout

    def build(self, checkout: Checkout) -> LayoutImage:
        """Build and push to the base's registry; the image there, copied back by skopeo as it is."""
        target = f"{self.hub.host}/{checkout.root.name}"
        result = checkout.image("blue", "--registry", target)
        assert result["built"] is True
        skopeo_copy(f"docker://{target}/blue:{result['tag']}", f"oci:{checkout.root}/pulled:x", "--preserve-digests")
        image = LayoutImage.named(checkout.root / "pulled", "x")
        assert image.digest == result["digest"]
        return image

    def rebuild(self, checkout: Checkout) -> dict[str, Any]:
        """What another run says."""
        return checkout.image("blue", "--registry", f"{self.hub.host}/{checkout.root.name}")

    def unpack(self, checkout: Checkout) -> Path:
        """The image's root file system."""
        return unpack(f"oci:{checkout.root}/pulled:x", checkout.root / "unpacked")


@pytest.fixture(scope="module")
def forge(debian: Entries, wheelhouse: Wheelhouse, hub: Registry, tmp_path_factory: pytest.TempPathFactory) -> Forge:
    return Forge(hub, wheelhouse, debian, tmp_path_factory.mktemp("forge"))


def folders(*paths: str) -> Entries:
    return [entry(path) for path in paths]


def installed(name: str, version: str, library: str = SYSTEM) -> Entries:
    """A distribution as pip leaves it in a base."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"__version__ = {version!r}\n".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/INSTALLER": b"pip\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"]).encode()
    return [*folders(f"{library}/{name}", f"{library}/{info}"), *(entry(f"{library}/{path}", data) for path, data in files.items())]


def added_files(image: LayoutImage) -> set[str]:
    """Files of the added layer."""
    return {name for name, item in image.read_headers().items() if not item.isdir()}


def expected(name: str, version: str, library: str = SYSTEM, prefix: str = "usr/local", lib64: str = "lib64") -> set[str]:
    """What a wheel of the wheelhouse leaves."""
    info = f"{library}/{name}-{version}.dist-info"
    return {
        f"{library}/{name}/__init__.py",
        f"{library}/{name}/__pycache__/__init__.cpython-311.pyc",
        *(f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD", "INSTALLER", "REQUESTED", "entry_points.txt")),
        f"{prefix}/{lib64}/{name}/native.txt",
        f"{prefix}/share/{name}/notes.txt",
        f"{prefix}/bin/{name}-version",
    }


CONSTRAINTS = "etc/imagebuild/constraints.txt"


# --- what the base has ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["2.1.4", "2.3.1"], ids=["older", "newer"])
def test_a_requirement_against_the_base_is_refused(forge: Forge, version: str) -> None:
    name = f"conflict-{version.replace('.', '-')}"
    forge.make(name, [forge.debian, installed("pandas", version)])
    checkout = forge.team(name, *forge.push(name), "# tables\n\npandas==2.2.*\n")
    done = checkout.run("image", "blue", "--registry", f"{forge.hub.host}/{name}")
    done.refused(4, re.escape(version), r"2\.2", r"requirements\.in.*\b3\b|line 3", hint=".")
    assert not (checkout.root / "lockfiles" / "pylock.blue.toml").exists()


@pytest.mark.parametrize("version", ["2.2.3", "2.3.1"], ids=["the-one-on-the-index", "another"])
def test_what_the_base_satisfies_is_left_out(forge: Forge, version: str) -> None:
    name = f"satisfied-{version.replace('.', '-')}"
    forge.make(name, [forge.debian, installed("pandas", version)])
    checkout = forge.team(name, *forge.push(name), "pandas>=2.2\ntidy\n")
    image = forge.build(checkout)
    lock = (checkout.root / "lockfiles" / "pylock.blue.toml").read_text()
    assert re.findall(r'^name = "([^"]+)"$', lock, re.MULTILINE)[0] == "tidy"
    assert "pandas-" not in lock
    assert added_files(image) == expected("tidy", "1.0") | {CONSTRAINTS}
    assert f"pandas=={version}\n" in image.read_layer()[CONSTRAINTS][1].decode()
    rootfs = forge.unpack(checkout)
    script = "import importlib.metadata as m, pandas, tidy; print(pandas.__version__, m.version('pandas'), m.version('tidy'))"
    assert run_inside(rootfs, "/usr/bin/python3", "-c", script).split() == [version, version, "1.0"]


def test_what_the_base_lacks_is_installed(forge: Forge) -> None:
    _store, raw = forge.make("bare", [forge.debian])
    checkout = forge.team("bare", *forge.push("bare"), "pandas==2.2.*\ntidy\n")
    image = forge.build(checkout)
    assert added_files(image) == expected("pandas", "2.2.3") | expected("tidy", "1.0") | {CONSTRAINTS}
    assert image.manifest["annotations"]["org.opencontainers.image.base.digest"] == str(raw.digest)
    rootfs = forge.unpack(checkout)
    for link, target in (("lib", "usr/lib"), ("lib64", "usr/lib64"), ("bin", "usr/bin")):
        assert str((rootfs / link).readlink()) == target
    assert run_inside(rootfs, "/usr/local/bin/pandas-version") == "2.2.3\n"
    script = "import pandas; print(pandas.__version__, pandas.__cached__)"
    out = run_inside(rootfs, "/usr/bin/python3", "-c", script).split()
    assert out == ["2.2.3", f"/{SYSTEM}/pandas/__pycache__/__init__.cpython-311.pyc"]


def old_pandas(version: str = "2.1.4", library: str = SYSTEM) -> Entries:
    """As pip leaves it: a module and a folder that later versions lack, bytecode (of one more than RECORD lists), data, a script."""
    info = f"{library}/pandas-{version}.dist-info"
    files = {
        f"{library}/pandas/__init__.py": f"__version__ = {version!r}\n".encode(),
        f"{library}/pandas/gone.py": b"x = 1\n",
        f"{library}/pandas/old/__init__.py": b"",
        f"{library}/pandas/old/deep/part.py": b"",
        f"{library}/pandas/__pycache__/__init__.cpython-311.pyc": b"stale",
        f"{library}/pandas/__pycache__/gone.cpython-311.pyc": b"stale",
        "usr/local/share/pandas/notes.txt": b"old notes\n",
        "usr/local/share/pandas-old/notes.txt": b"old notes\n",
        "usr/local/bin/pandas-version": b"#!/usr/bin/python3\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: pandas\nVersion: {version}\n".encode(),
        f"{info}/INSTALLER": b"pip\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\n",
    }
    listed = [path.removeprefix(f"{library}/").replace("usr/local/", "../../../") for path in files if "gone.cpython" not in path]
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*listed, f"pandas-{version}.dist-info/RECORD"]).encode()
    unlisted = f"{library}/pandas/__pycache__/gone.cpython-311.opt-1.pyc"
    parents = {str(parent) for path in files for parent in Path(path).parents if str(parent) not in (".", "usr", "usr/local")}
    made = [entry(path) for path in sorted(parents) if path != library and not library.startswith(f"{path}/")]
    return [*made, *(entry(path, data) for path, data in files.items()), entry(unlisted, b"stale")]


def test_what_the_base_has_is_replaced(forge: Forge) -> None:
    """Old files are deleted one by one, folders that would be left empty as a whole; two distributions are never seen."""
    forge.make("replaced", [forge.debian, [*old_pandas(), *installed("seaborn", "0.13")]])
    checkout = forge.team("replaced", *forge.push("replaced"), "pandas==2.2.*\n", 'replace = ["Pandas"]')
    image = forge.build(checkout)
    deleted = {
        f"{SYSTEM}/pandas/.wh.gone.py",
        f"{SYSTEM}/pandas/.wh.old",
        f"{SYSTEM}/pandas/__pycache__/.wh.gone.cpython-311.pyc",
        f"{SYSTEM}/pandas/__pycache__/.wh.gone.cpython-311.opt-1.pyc",
        f"{SYSTEM}/.wh.pandas-2.1.4.dist-info",
        "usr/local/share/.wh.pandas-old",
    }
    assert added_files(image) == expected("pandas", "2.2.3") | {CONSTRAINTS} | deleted
    names = list(image.read_headers())
    first_file = min(names.index(name) for name in added_files(image) - deleted)
    assert max(names.index(name) for name in deleted) < first_file  # before their siblings
    rootfs = forge.unpack(checkout)
    script = (
        "import importlib.metadata as m, pandas; print(pandas.__version__, m.version('pandas'), pandas.__cached__,"
        "sum(d.name == 'pandas' for d in m.distributions()), m.version('seaborn'))"
    )
    cached = f"/{SYSTEM}/pandas/__pycache__/__init__.cpython-311.pyc"
    assert run_inside(rootfs, "/usr/bin/python3", "-c", script).split() == ["2.2.3", "2.2.3", cached, "1", "0.13"]
    assert not (rootfs / SYSTEM / "pandas" / "old").exists()
    assert (rootfs / "usr/local/share/pandas/notes.txt").read_text() == "notes\n"
    assert "pandas==2.2.3\n" in image.read_layer()[CONSTRAINTS][1].decode()
    assert forge.rebuild(checkout)["built"] is False
    verified = checkout.run("verify", "blue", "--rebuild", "--registry", f"{forge.hub.host}/replaced").succeeded()
    assert re.search(r"files of the base +passed +replaced as declared: pandas\n", verified.out), verified.out
    assert re.search(r"rebuild +passed +the same, bit for bit", verified.out), verified.out
    checkout.edit("images/blue/team.toml", 'replace = ["Pandas"]', "")
    checkout.run("image", "blue", "--registry", f"{forge.hub.host}/replaced").refused(4, r"stale: replace changed \(pandas\)")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("conda", "it was installed by conda"), ("dpkg", "it was installed by Debian's dpkg"), ("bare", "it has no RECORD")],
)
def test_what_cannot_be_replaced_is_refused_by_name(forge: Forge, kind: str, reason: str) -> None:
    layer = old_pandas()
    if kind == "bare":
        layer = [(info, data) for info, data in layer if not info.name.endswith("/RECORD")]
    elif kind == "dpkg":
        listed = "".join(f"/{info.name}\n" for info, _ in layer if info.isreg()).encode()
        layer += [*folders("var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/info"), entry("var/lib/dpkg/info/python3-pandas.list", listed)]
    else:
        files = [f"local/lib/python3.11/dist-packages/pandas-2.1.4.dist-info/{name}" for name in ("METADATA", "RECORD")]
        meta = json.dumps({"name": "pandas", "files": files}).encode()
        layer += [*folders("usr/conda-meta"), entry("usr/conda-meta/pandas-2.1.4-0.json", meta)]  # Debian's prefix as conda's
    forge.make(f"fixed-{kind}", [forge.debian, layer])
    checkout = forge.team(f"fixed-{kind}", *forge.push(f"fixed-{kind}"), "pandas==2.2.*\n", 'replace = ["pandas"]')
    checkout.run("lock", "blue").refused(4, rf"pandas 2\.1\.4 of the base forged cannot be replaced: {reason}", hint="pandas==2.1.4")


# --- where its Python is ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "real"), [("/opt/venv", "opt/venv"), ("/lib/venv", "usr/lib/venv")], ids=["opt", "through-a-link"])
def test_a_virtual_environment_keeps_its_links(forge: Forge, prefix: str, real: str) -> None:
    """``lib64 -> lib`` in it, and ``/lib -> usr/lib`` above it: files go to where the links lead, the links stay."""
    name = f"venv-{real.partition('/')[0]}"
    library = f"{real}/lib/python3.11/site-packages"
    venv = [
        *folders(real, f"{real}/bin", f"{real}/lib", f"{real}/lib/python3.11"),
        entry(library, mode=0o2775, uid=1000),
        entry(f"{real}/lib64", link="lib"),
        entry(f"{real}/bin/python3", link="/usr/bin/python3"),
        entry(f"{real}/bin/python", link="python3"),
        entry(f"{real}/pyvenv.cfg", b"home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n"),
    ]
    forge.make(name, [forge.debian, venv], {"Env": [f"PATH={prefix}/bin:/usr/local/bin:/usr/bin:/bin", "HOME=/home/jovyan"]})
    checkout = forge.team(name, *forge.push(name), "pandas==2.2.*\n")
    image = forge.build(checkout)
    assert added_files(image) == expected("pandas", "2.2.3", library, real, "lib") | {CONSTRAINTS}
    headers = image.read_headers()
    assert not {"lib", "lib64", f"{real}/lib64"} & set(headers)
    assert (headers[library].mode, headers[library].uid) == (0o2775, 1000)  # the base's own, not ours
    rootfs = forge.unpack(checkout)
    assert str((rootfs / real / "lib64").readlink()) == "lib"
    assert str((rootfs / "lib").readlink()) == "usr/lib"
    assert (rootfs / real / "lib64" / "pandas" / "native.txt").is_file()
    script = (rootfs / real / "bin" / "pandas-version").read_text()
    assert script.startswith((f"#!{prefix}/bin/python\n", f"#!{prefix}/bin/python3\n"))
    code = "import sys, pandas; print(sys.prefix, pandas.__version__, pandas.__cached__)"
    assert run_inside(rootfs, f"{prefix}/bin/python3", "-c", code).split() == [
        prefix,
        "2.2.3",
        f"{prefix}/lib/python3.11/site-packages/pandas/__pycache__/__init__.cpython-311.pyc",
    ]


def test_a_base_without_python_is_refused(forge: Forge) -> None:
    kept = [(info, data) for info, data in forge.debian if "python" not in info.name]
    forge.make("no-python", [kept])
    checkout = forge.team("no-python", *forge.push("no-python"), "pandas==2.2.*\n")
    checkout.run("image", "blue", "--registry", f"{forge.hub.host}/no-python").refused(3, "forged", "(?i)no python", hint=".")


# --- what it is stored as ---------------------------------------------------------------------------------------------


def test_a_docker_schema2_base_becomes_an_oci_image(forge: Forge) -> None:
    forge.make("schema2", [forge.debian])
    reference, digest = forge.push("schema2", form="v2s2")
    base = json.loads(run_tool("crane", "manifest", "--insecure", f"{reference}@{digest}"))
    assert base["mediaType"] == DOCKER_MANIFEST
    checkout = forge.team("schema2", reference, digest, "pandas==2.2.*\n", '[layer]\ncompression = "gzip"')
    image = forge.build(checkout)
    assert "docker" not in image.raw.decode().lower().replace("docker.io", "")
    assert image.manifest["mediaType"] == OCI_MANIFEST
    assert image.manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert {layer["mediaType"] for layer in image.layers} == {"application/vnd.oci.image.layer.v1.tar+gzip"}
    assert [layer["digest"] for layer in image.layers[:-1]] == [layer["digest"] for layer in base["layers"]]
    assert image.manifest["annotations"]["org.opencontainers.image.base.digest"] == digest
    run_tool("crane", "validate", "--insecure", "--remote", f"{forge.hub.host}/schema2/blue@{image.digest}")
    assert (forge.unpack(checkout) / SYSTEM / "pandas" / "__init__.py").is_file()


def test_an_index_gives_the_image_of_the_platform(forge: Forge) -> None:
    store, amd64 = forge.make("index", [forge.debian])
    arm = push_image(
        store, [make_layer([entry("etc"), entry("etc/arm", b"arm\n")])], {"User": "1000"}, tag="arm", platform=Platform("linux", "arm64")
    )
    index = push_index(store, [(Platform("linux", "arm64"), arm), (Platform("linux", "amd64"), amd64)])
    reference, digest = forge.push("index", "index")
    assert digest == str(index.digest)
    assert json.loads(run_tool("crane", "manifest", "--insecure", f"{reference}:1"))["mediaType"] == OCI_INDEX
    checkout = forge.team("index", reference, digest, "pandas==2.2.*\n")
    image = forge.build(checkout)
    assert image.manifest["annotations"]["org.opencontainers.image.base.digest"] == digest  # of what the name names
    assert image.config["architecture"] == "amd64"
    amd64_layers = json.loads(amd64.data)["layers"]
    assert [layer["digest"] for layer in image.layers[:-1]] == [layer["digest"] for layer in amd64_layers]
    rootfs = forge.unpack(checkout)
    assert not (rootfs / "etc" / "arm").exists()
    assert run_inside(rootfs, "/usr/bin/python3", "-c", "import pandas; print(pandas.__version__)") == "2.2.3\n"


def test_an_unpinned_base_is_refused_until_it_is_pinned(forge: Forge) -> None:
    forge.make("unpinned", [forge.debian])
    reference, digest = forge.push("unpinned")
    checkout = forge.team("unpinned", reference, "", "tidy\npandas==2.2.*\n")
    target = ("--registry", f"{forge.hub.host}/unpinned")
    refused: Done = checkout.run("image", "blue", *target)
    refused.refused(3, "forged", "not pinned", hint="imagebuild base pin forged")
    assert digest in checkout.run("base", "pin", "forged", *target).succeeded().out
    assert f'digest = "{digest}"' in (checkout.root / "images" / "catalogue.toml").read_text()
    assert {"pandas/__init__.py", "tidy/__init__.py"} <= {name.removeprefix(f"{SYSTEM}/") for name in added_files(forge.build(checkout))}
