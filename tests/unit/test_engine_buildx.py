"""The Docker engine's pure parts: inputs, Dockerfile with apt, taking the layer out, what failures are told as, bake."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from imagebuild.base.model import Base, Entry
from imagebuild.config import load_team
from imagebuild.dockerfile import render_dockerfile
from imagebuild.engine.aptsources import has_apt_sources, prepare_apt_secrets, rewrite_sources
from imagebuild.engine.bake import BakeTarget, render_bake
from imagebuild.engine.buildx import _find_image, _take_layer, compression_options, explain_failed_build, make_build_inputs
from imagebuild.engine.options import BuildContext
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, IntegrityError, RemoteError
from imagebuild.layer.dpkg import SystemFiles, read_status, read_system_files
from imagebuild.layer.invariants import AddedLayers, find_faults
from imagebuild.layer.model import Codec
from imagebuild.layer.reading import ForeignLayer, read_foreign_layer
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    RootFilesystem,
)
from imagebuild.pipeline.planning import choose_engine
from imagebuild.recipe import ImageOptions, Recipe, make_recipe
from tests.support.builders import make_base, make_lock, make_package
from tests.support.trees import SITE, MemoryTree

APT = Entry("/usr/bin/apt-get", "file", 0o755, 0, 0, 10)


def recipe_of(base: Base, **changes: Any) -> Recipe:
    options: dict[str, Any] = {"engine": "docker", "codec": Codec(), "environment": {}, "personal_constraints": True}
    options |= {"title": "COSML", "description": "", "owners": ()}
    return make_recipe(base, make_lock(base, make_package("pandas")), "sha256:" + "1" * 64, ImageOptions(**{**options, **changes}))


def with_tree(base: Base, *entries: Entry) -> Base:
    return msgspec.structs.replace(base, tree=MemoryTree(entries))


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_a_base_in_the_layout_folder_comes_as_a_build_context() -> None:
    base = make_base(registry="")
    inputs = make_build_inputs(recipe_of(base), base, BuildContext(Path("/c"), Path("/l")))
    assert inputs.contexts == {
        "wheels": "/c/wheels",
        f"localhost/kubeflow/jupyter-scipy@{base.pinned}": f"oci-layout:///l@{base.pinned}",
    }
    assert inputs.arguments == {"SOURCE_DATE_EPOCH": "1790812800"}  # 2026-10-01
    assert inputs.secrets == ()


def test_a_base_in_a_registry_is_left_to_the_builder() -> None:
    base = make_base()
    inputs = make_build_inputs(recipe_of(base), base, BuildContext(Path("/c"), secrets={"b": Path("/y"), "a": Path("/x")}))
    assert inputs.contexts == {"wheels": "/c/wheels"}
    assert inputs.secrets == ("id=a,src=/x", "id=b,src=/y")


@pytest.mark.parametrize(("codec", "level"), [(Codec(), "3"), (Codec("gzip", 2), "2"), (Codec("gzip", 0), "1")])
def test_only_the_new_layer_is_compressed(codec: Codec, level: str) -> None:
    assert compression_options(codec) == {"compression": codec.name, "compression-level": level}  # no force-compression


def test_auto_is_decided_by_the_inputs_only() -> None:
    assert [choose_engine("auto", ()), choose_engine("auto", ("graphviz",))] == ["direct", "docker"]
    assert [choose_engine("docker", ()), choose_engine("direct", ())] == ["docker", "direct"]
    with pytest.raises(ConfigurationError, match="cannot install system packages"):
        choose_engine("direct", ("graphviz",))
    assert choose_engine("auto", (), split=True) == choose_engine("direct", (), split=True) == "direct"
    with pytest.raises(ConfigurationError, match=r"makes one layer, and \[layer\] asks for split = true$"):
        choose_engine("docker", (), split=True)
    with pytest.raises(ConfigurationError, match=r"needed for the system packages \(graphviz\)"):
        choose_engine("auto", ("graphviz",), split=True)


# --- the Dockerfile ---------------------------------------------------------------------------------------------------


def test_without_system_packages_the_run_has_no_network() -> None:
    base = make_base()
    text = render_dockerfile(recipe_of(base), base)
    assert text.count("\nRUN ") == 1
    assert "RUN --network=none " in text
    assert "apt" not in text.partition("RUN")[2].partition("\nENV")[0]


def test_system_packages_are_in_the_same_run_and_in_the_key() -> None:
    base = make_base()
    plain, recipe = recipe_of(base), recipe_of(base, system=("graphviz", "a2ps=1:4.14-7"))
    assert plain.key != recipe.key
    assert b"system" not in plain.encode()  # a team without them keeps its tag
    text = render_dockerfile(recipe, base)
    assert text.count("\nRUN ") == 1
    assert "network" not in text
    assert "--no-install-recommends install a2ps=1:4.14-7 graphviz; " in text.replace("\\\n", "")
    assert text.index("apt-get") < text.index("--no-index")
    for folder in ("/var/lib/apt/lists", "/var/cache/apt", "/var/log/apt", "/var/cache/ldconfig"):
        assert f"--mount=type=tmpfs,target={folder}" in text
    assert text.count("type=secret") == 4


@pytest.mark.parametrize("name", ["Graphviz", "a", "graph viz", "x;reboot", "$(id)", "--yes", "a/b"])
def test_what_is_no_debian_package_is_refused(tmp_path: Path, name: str) -> None:
    team = tmp_path / "cosml"
    team.mkdir()
    (team / "requirements.in").touch()
    (team / "team.toml").write_text(f'base = "starter"\n[system]\npackages = [{json.dumps(name)}]\n')
    with pytest.raises(ConfigurationError, match="not a Debian package"):
        load_team(tmp_path, "cosml")


@pytest.mark.parametrize("name", ["graphviz", "libstdc++6", "gcc:amd64", "g++=4:12.2.0-3", "texlive-base=2022.20230122-3~deb12u1"])
def test_debian_packages_may_be_pinned(tmp_path: Path, name: str) -> None:
    team = tmp_path / "cosml"
    team.mkdir()
    (team / "requirements.in").touch()
    (team / "team.toml").write_text(f'base = "starter"\n[system]\npackages = ["{name}"]\n')
    assert load_team(tmp_path, "cosml").table.system.packages == (name,)


# --- apt's sources ----------------------------------------------------------------------------------------------------


def test_the_machines_sources_become_secrets(tmp_path: Path) -> None:
    base = with_tree(make_base(), APT, Entry("/etc/apt/sources.list", "file", 0o644, 0, 0, 0))
    machine, folder = tmp_path / "machine", tmp_path / "secrets"
    for name, data in {
        "etc/apt/sources.list.d/x.sources": b"Types: deb\nURIs: https://u:p@mirror.example/debian\nSuites: bookworm\nSigned-By: /k/a.gpg\n",
        "etc/apt/auth.conf": b"machine other login me password it",
        "etc/apt/auth.conf.d/1.conf": b"machine mirror.example login you password it\n",
        "etc/ssl/certs/ca-certificates.crt": b"PEM",
        "k/a.gpg": b"\x99key",
    }.items():
        (machine / name).parent.mkdir(parents=True, exist_ok=True)
        (machine / name).write_bytes(data)
    secrets = prepare_apt_secrets(base, folder, machine=machine)
    assert {name: path.read_bytes() for name, path in secrets.items()} == {
        "apt-sources": b"".join(
            b"deb [signed-by=/run/imagebuild-apt/keyring.gpg] https://u:p@mirror.example/debian @SUITE@%s main\n" % end
            for end in (b"", b"-updates")
        ),
        "apt-keyring": b"\x99key",
        "apt-auth": b"machine other login me password it\nmachine mirror.example login you password it\n",
        "apt-ca": b"PEM",
    }
    assert {path.stat().st_mode & 0o777 for path in secrets.values()} == {0o600}


def test_an_armoured_keyring_is_left_to_the_base(tmp_path: Path) -> None:
    (tmp_path / "k.asc").write_text("-----BEGIN PGP PUBLIC KEY BLOCK-----")
    line = "deb [signed-by=/k.asc] http://mirror.example/debian bookworm main"
    assert rewrite_sources([line], tmp_path) == (line.replace("bookworm", "@SUITE@") + "\n", b"")


def test_a_base_with_sources_keeps_them(tmp_path: Path) -> None:
    listed = Entry("/etc/apt/sources.list.d/ubuntu.sources", "file", 0o644, 0, 0, 300)
    assert has_apt_sources(MemoryTree([listed]))
    assert has_apt_sources(MemoryTree([Entry("/etc/apt/sources.list", "file", 0o644, 0, 0, 300)]))
    assert not has_apt_sources(MemoryTree([Entry("/etc/apt/sources.list.d/README", "file", 0o644, 0, 0, 300)]))
    assert prepare_apt_secrets(with_tree(make_base(), APT, listed), tmp_path / "s", machine=tmp_path) == {}
    assert not (tmp_path / "s").exists()


def test_no_sources_anywhere_and_no_apt_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="this machine has no Debian ones"):
        prepare_apt_secrets(with_tree(make_base(), APT), tmp_path, machine=tmp_path)
    with pytest.raises(ConfigurationError, match="has no apt-get"):
        prepare_apt_secrets(make_base(), tmp_path, machine=tmp_path)


# --- what dpkg left ---------------------------------------------------------------------------------------------------

INFO = "/var/lib/dpkg/info"
STATUS = (
    "Package: hello\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.10-3\nDescription: x\n Version: no\n\n"
    "Package: gone\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 1\n\n"
    "Package: libx\nStatus: install ok installed\nArchitecture: i386\nVersion: 1:2\n\n"
    "Package: libx\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:3\n\n"
    "Package: old\nStatus: install ok installed\nArchitecture: all\nVersion: 9\n"
)


def test_the_status_file() -> None:
    assert read_status(STATUS) == {("hello", "amd64"): "2.10-3", ("libx", "i386"): "1:2", ("libx", "amd64"): "1:3", ("old", "all"): "9"}


def test_packages_are_those_that_dpkg_unpacked() -> None:
    lists = {
        f"{INFO}/hello.list": "/.\n/usr\n/usr/bin\n/usr/bin/hello\n/lib/x\n",
        f"{INFO}/libx:amd64.list": "/.\n/usr/lib/libx.so\n",
        f"{INFO}/old.list": "/.\n/usr/bin/python3.11\n",  # rewritten only: of the base
    }
    sizes = {"/usr/bin/hello": 100, "/usr/lib/x": 5, "/usr/lib/libx.so": 7, **dict.fromkeys(lists, 1)}
    sizes |= {f"{INFO}/hello.md5sums": 1, f"{INFO}/libx:amd64.triggers": 1}
    system = read_system_files(lists, STATUS, sizes)
    assert system is not None
    assert system.versions == {"hello": "2.10-3", "libx": "1:3"}
    assert system.sizes == {"hello": 105, "libx": 7}
    assert "/usr/bin/python3.11" not in system.listed
    assert read_system_files({}, STATUS, sizes) is None


SYSTEM = SystemFiles({"hello": "1"}, frozenset({"/usr/bin/hello", "/usr/lib/hello", "/usr/lib/hello/m.py", "/usr/share"}), {"hello": 1})


@pytest.mark.parametrize(
    ("path", "owned"),
    [
        ("/usr/bin/hello", True),
        ("/usr/bin/other", False),
        ("/usr/lib/hello/made-by-postinst", True),
        ("/usr/share/made-by-postinst", False),  # the package lists the folder, but the base has it
        ("/usr/lib/hello/__pycache__/m.cpython-311.pyc", True),
        ("/var/lib/dpkg/status", True),
        ("/var/lib/other", False),
        ("/etc/ld.so.cache", True),
        ("/etc/ld.so.conf", False),
        ("/etc/alternatives/vi", True),
        ("/etc/passwd", True),
        ("/etc/sudoers", False),
        ("/etc/apt/sources.list", False),
        ("/var/lib/apt/lists/x", False),
        (f"{SITE}/pandas/__init__.py", False),
    ],
)
def test_whose_a_path_is(path: str, owned: bool) -> None:
    assert SYSTEM.owns(path, {"/usr/lib/hello"}) is owned


# --- reading a layer that an engine wrote -----------------------------------------------------------------------------


def pack(*entries: tuple[str, bytes | None] | tarfile.TarInfo, mtime: int = 1790812800) -> bytes:
    """A layer as BuildKit writes it: parents first, folders with a slash."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for item in entries:
            if isinstance(item, tarfile.TarInfo):
                archive.addfile(item)
                continue
            name, data = item
            info = tarfile.TarInfo(name)
            info.mtime = mtime
            if data is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            else:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data or b""))
    return buffer.getvalue()


LAYER = pack(
    ("site-packages/", None),
    ("site-packages/My_Pkg-1.2.dist-info/", None),
    ("site-packages/My_Pkg-1.2.dist-info/RECORD", b'my/a.py,,\n"my/a,b.py",,\n../opt,,\nMy_Pkg-1.2.dist-info/RECORD,,\n'),
    ("site-packages/my/", None),
    ("site-packages/my/a.py", b"12345"),
    ("site-packages/my/a,b.py", b"123"),
    ("site-packages/my/stray.py", b"1"),
)


def test_sizes_by_record(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(LAYER))
    layer = read_foreign_layer(blob, OCI_LAYER_GZIP)
    record = 63
    assert (layer.digest, layer.diff_id) == (Digest.of(blob.read_bytes()), Digest.of(LAYER))
    assert (layer.size, layer.uncompressed, layer.installed) == (blob.stat().st_size, len(LAYER), 5 + 3 + 1 + record)
    assert [(item.package, item.version, item.installed) for item in layer.packages] == [("my-pkg", "1.2", 5 + 3 + record)]
    assert layer.newest == 1790812800
    assert layer.system is None


@pytest.mark.parametrize("media_type", [OCI_LAYER_GZIP, OCI_LAYER_ZSTD])
def test_a_damaged_layer_is_told(tmp_path: Path, media_type: str) -> None:
    blob = tmp_path / "blob"
    data = gzip.compress(LAYER) if media_type == OCI_LAYER_GZIP else zstandard.compress(LAYER)
    for damaged in (data[: len(data) // 2], data[:30] + bytes(byte ^ 0xFF for byte in data[30:60]) + data[60:]):
        blob.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="cannot be read"):
            read_foreign_layer(blob, media_type)


def faults(tmp_path: Path, data: bytes, *, system: SystemFiles | None, foreign: bool = True) -> list[str]:
    blob = tmp_path / "blob"
    blob.write_bytes(gzip.compress(data))
    folders = (Entry(path, "dir", 0o755, 0, 0) for path in ("/usr", "/usr/bin", "/usr/share", "/etc", "/var"))
    tree = MemoryTree([*folders, Entry("/usr/bin/sh", "file", 0o755, 0, 0, 9)])
    digest, diff_id = Digest.of(blob.read_bytes()), Digest.of(data)
    return list(
        find_faults(
            blob, OCI_LAYER_GZIP, added=AddedLayers(tree), home="/home/j", system=system, foreign=foreign, digest=digest, diff_id=diff_id
        )
    )


def special(name: str, kind: bytes, mode: int = 0o644, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.linkname = kind, mode, link
    return info


def test_folders_of_engines_end_in_a_slash(tmp_path: Path) -> None:
    long = "usr/" + "x" * 120 + "/"
    data = pack(("usr/", None), (long, None), (long + "y", b""))
    assert faults(tmp_path, data, system=None) == []
    assert len(faults(tmp_path, data, system=None, foreign=False)) >= 2


@pytest.mark.parametrize(
    ("entry", "finding"),
    [
        (special("usr/bin/hello", tarfile.REGTYPE, 0o4755), ""),  # a package's own business
        (special("usr/bin/hello", tarfile.LNKTYPE, 0o755, "usr/bin/sh"), ""),
        (special("usr/bin/vi", tarfile.SYMTYPE, 0o777, "/etc/alternatives/vi"), ""),
        (special("usr/bin/new", tarfile.DIRTYPE, 0o2775), ""),
        (special("usr/bin/hello", tarfile.REGTYPE, 0o666), "anyone may write it"),
        (special("usr/bin/hello", tarfile.CHRTYPE), "not a file and not a folder"),
        (special("usr/bin/other", tarfile.REGTYPE, 0o4755), "setuid"),
        (special("usr/bin/sh", tarfile.REGTYPE, 0o755), "overwrites a file of the base"),
        (special("usr/bin/.wh.sh", tarfile.REGTYPE), "a whiteout that nothing declared"),
        (special("usr/bin", tarfile.DIRTYPE, 0o777), "mode 777"),
        (special("usr/bin/open", tarfile.DIRTYPE, 0o777), "a new folder with mode 777"),
        (special("home", tarfile.DIRTYPE, 0o755), ""),
        (special("home/j", tarfile.DIRTYPE, 0o755), "hidden or emptied"),
        (special("tmp", tarfile.DIRTYPE, 0o1777), "hidden or emptied"),
    ],
)
def test_dpkg_may_do_its_work_and_nothing_else(tmp_path: Path, entry: tarfile.TarInfo, finding: str) -> None:
    parents = [("usr/", None)] if entry.name.startswith("usr") else []
    parents += [("usr/bin/", None)] if entry.name.startswith("usr/bin/") else []
    parents += [("home/", None)] if entry.name.startswith("home/") else []
    found = faults(tmp_path, pack(*parents, entry), system=SYSTEM)
    assert [finding in line for line in found] == ([True] if finding else []), found


# --- taking the layer out ---------------------------------------------------------------------------------------------

LOWER = b"lower"


def base_of_one_layer() -> Base:
    lower = Descriptor(OCI_LAYER_GZIP, str(Digest.of(LOWER)), len(LOWER))
    return msgspec.structs.replace(
        make_base(),
        manifest=Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, str(Digest.of(b"")), 0), (lower,), {}),
        config=ImageConfig(rootfs=RootFilesystem("layers", ("sha256:" + "a" * 64,))),
    )


def write_result(
    folder: Path,
    *,
    layers: int = 1,
    lower: str = "a",
    diff_id: str = "",
    media_type: str = OCI_LAYER_GZIP,
    swap: bytes = b"",
    stored: bytes = LOWER,
) -> Path:
    """A layout as BuildKit writes one."""
    blobs = folder / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, Any]:
        digest = Digest.of(data)
        (blobs / digest.hex).write_bytes(data)
        return {"mediaType": kind, "digest": digest, "size": len(data)}

    upper = gzip.compress(LAYER, mtime=0)
    added = [put(upper, media_type)] * layers
    if swap:
        (blobs / Digest.of(upper).hex).write_bytes(swap)
    diff_ids = ["sha256:" + lower * 64, *([diff_id or str(Digest.of(LAYER))] * layers)]
    config = put(json.dumps({"rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode(), OCI_CONFIG)
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": [put(stored, OCI_LAYER_GZIP), *added]}
    (folder / "index.json").write_text(json.dumps({"manifests": [put(json.dumps(document).encode(), OCI_MANIFEST)]}))
    return folder


def take_layer(image: Path, out: Path) -> ForeignLayer:
    digest = json.loads((image / "index.json").read_text())["manifests"][0]["digest"]
    return _take_layer(_find_image(LayoutStore(image), "image", Digest(digest)), base_of_one_layer(), Codec("gzip", 2), out)


def test_the_one_layer_is_taken(tmp_path: Path) -> None:
    layer = take_layer(write_result(tmp_path / "image"), tmp_path / "layer")
    assert layer.diff_id == Digest.of(LAYER)
    assert gzip.decompress((tmp_path / "layer").read_bytes()) == LAYER


def test_the_base_may_come_back_in_another_compression(tmp_path: Path) -> None:
    layer = take_layer(write_result(tmp_path / "image", stored=b"the same, otherwise"), tmp_path / "l")
    assert layer.diff_id == Digest.of(LAYER)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"layers": 0}, BuildError, "added 0 layers, not one"),
        ({"layers": 2}, BuildError, "added 2 layers, not one"),
        ({"lower": "b"}, IntegrityError, "changed the base's layers"),
        ({"diff_id": "sha256:" + "b" * 64}, IntegrityError, "not the one its manifest names"),
        ({"swap": gzip.compress(LAYER, 1, mtime=1)}, IntegrityError, "not the one its manifest names"),
        ({"media_type": "application/vnd.oci.image.layer.v1.tar"}, BuildError, "the team asks for gzip"),
    ],
)
def test_any_other_result_is_refused(tmp_path: Path, changes: dict[str, Any], kind: type[ImagebuildError], message: str) -> None:
    with pytest.raises(kind, match=message):
        take_layer(write_result(tmp_path / "image", **changes), tmp_path / "layer")


# --- failures ---------------------------------------------------------------------------------------------------------

RUN = '#7 ERROR: process "/bin/sh -c set -eu; very long" did not complete successfully: exit code: 1'


@pytest.mark.parametrize(
    ("lines", "kind", "message"),
    [
        (["ERROR: Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?"], ConfigurationError, "does not answer"),
        (["permission denied while trying to connect to the Docker daemon socket"], ConfigurationError, "may not talk"),
        (['ERROR: no builder "far" found'], ConfigurationError, "no builder 'far'"),
        (["#7 0.1 exec /bin/sh: exec format error", RUN], BuildError, "cannot run programs of the image's platform"),
        (["#7 0.2 /usr/bin/python3: No module named pip", RUN], BuildError, "has no pip"),
        (
            ["#7 0.6 Processing x.whl", "#7 0.9 ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "#7 1.0     Got abc", "#7 1.0 ", RUN],
            BuildError,
            "RUN failed: THESE PACKAGES DO NOT MATCH THE HASHES$",
        ),
        (
            ["#7 0.6 E: Unable to locate package nope", RUN, "ERROR: failed to build: failed to solve"],
            BuildError,
            "Unable to locate package nope$",
        ),
        (["#7 0.6 E: Failed to fetch http://me:pw@mirror/x  404", RUN], BuildError, "Failed to fetch <address>  404$"),
        (["#7 0.6 Segmentation fault", RUN], BuildError, "RUN failed: Segmentation fault$"),
        ([RUN], BuildError, "RUN failed: exit code: 1$"),
        ([RUN.replace("exit code: 1", "no network device")], BuildError, "could not start the Dockerfile's RUN: no network device"),
        (
            ["ERROR: failed to solve: reg.example/x@sha256:1: failed to resolve source metadata: not found"],
            RemoteError,
            "could not read the base",
        ),
        (
            ["ERROR: failed to solve: failed to resolve source metadata for docker.io/docker/buildkit-syft-scanner:stable-1: no such host"],
            RemoteError,
            "SBOM with an image .* cannot fetch$",
        ),
        (["something", "ERROR: odd"], BuildError, "buildx failed: odd"),
        ([], BuildError, "it said nothing"),
    ],
)
def test_failures_are_one_line(lines: list[str], kind: type[ImagebuildError], message: str) -> None:
    error = explain_failed_build(lines, "far")
    assert type(error) is kind
    with pytest.raises(kind, match=message):
        raise error
    assert error.hint
    assert "very long" not in error.message


# --- bake -------------------------------------------------------------------------------------------------------------


def test_the_bake_file(tmp_path: Path) -> None:
    base = make_base(registry="")
    recipe = recipe_of(base, description="${HOME} %{x}", system=("graphviz",))
    context = tmp_path / ".imagebuild/builds/cosml/t"
    secrets = {"apt-sources": context / "s", "other": Path("/elsewhere")}
    inputs = make_build_inputs(recipe, base, BuildContext(context, tmp_path / "layout", secrets))
    target = BakeTarget(recipe, inputs, context, "reg.example/ml/cosml")
    text = render_bake([target], root=tmp_path, results=tmp_path / "out", push=False)
    assert str(tmp_path) not in text
    document = json.loads(text)
    assert document["group"] == {"default": {"targets": ["cosml"]}}
    (made,) = document["target"].values()
    assert made["context"] == ".imagebuild/builds/cosml/t"
    assert made["contexts"] == {
        "wheels": ".imagebuild/builds/cosml/t/wheels",
        f"localhost/kubeflow/jupyter-scipy@{base.pinned}": f"oci-layout://layout@{base.pinned}",
    }
    assert made["tags"] == [f"reg.example/ml/cosml:{recipe.tag}"]
    assert made["secret"] == ["id=apt-sources,src=.imagebuild/builds/cosml/t/s", "id=other,src=/elsewhere"]
    assert made["labels"] == {**recipe.labels, "org.opencontainers.image.description": "$${HOME} %%{x}"}
    assert made["annotations"] == [f"manifest:{name}={value}" for name, value in made["labels"].items()]
    assert made["output"][0].startswith("type=oci,tar=false,dest=out/cosml,")
    pushed = json.loads(render_bake([target], root=tmp_path, results=tmp_path / "out", push=True))
    assert pushed["target"]["cosml"]["output"] == [
        "type=registry,oci-mediatypes=true,rewrite-timestamp=true,compression=zstd,compression-level=3"
    ]
