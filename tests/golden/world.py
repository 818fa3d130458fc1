"""One tiny base and lock and their images, as the pipeline makes them: everything in here is fixed, so every byte of them is.

The base has no Python that could run, so the layers hold no bytecode, but for the one that is compiled by this machine's Python.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from platform import machine
from typing import Any

import pytest

from imagebuild.base.model import INVENTORY_FORMAT, Base, Distribution, Interpreter, Inventory, User, compute_fingerprint
from imagebuild.lock.file.lockfile import format_lock, lock_digest, write_lock
from imagebuild.lock.file.model import Lock, LockedPackage
from imagebuild.lock.inputs.freshness import hash_inputs
from imagebuild.oci.model import (
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Digest,
    ImageConfig,
    Manifest,
    Platform,
)
from imagebuild.pipeline import planning
from imagebuild.pipeline.building import build_direct_layers
from imagebuild.pipeline.planning import Plan, plan_image, write_recipe
from imagebuild.pipeline.pushing import derive_team_image
from imagebuild.wheel.slim import RULES, find_slim_kind
from imagebuild.workspace import Workspace
from tests.support.builders import make_wheel
from tests.support.runtimes import HostRuntime
from tests.support.trees import MemoryTree, file, folder, link

FOLDER = Path(__file__).parent
SITE = "/usr/local/lib/python3.11/dist-packages"
CUTOFF = "2026-10-01T00:00:00Z"
COMPRESSORS = ("zstandard", "isal")  # their versions decide compressed bytes
COMPRESSED = ("members", "layer", "manifest")  # values that hold compressed bytes; all others do not depend on a library
PYTHON = (3, 11)  # whose bytecode is known here

# team.toml of each image. The defaults are in the values too: another default level is another tag.
TEAMS = {
    "zstd": "",
    "gzip": '[layer]\ncompression = "gzip"\n',
    "zstd-single": "[layer]\nsingle-stream = true\n",
    "gzip-single": '[layer]\ncompression = "gzip"\nsingle-stream = true\n',
    "replace": 'replace = ["oldlib"]\n',
    "split": "[layer]\nsplit = true\n",
    "chunked": '[layer]\nformat = "zstd:chunked"\n',
    "slim": 'slim = ["tests", "pyi", "headers", "static-libs"]\n',
    "env": 'personal-constraints = false\n[env]\nB = "two words"\nA = "$HOME \\"x\\" \\\\"\n',
    "system": '[system]\npackages = ["graphviz", "a2ps=1:4.14-7"]\n',
    "docker": 'engine = "docker"\nreplace = ["oldlib"]\nslim = ["tests", "headers"]\n[layer]\ncompression = "gzip"\n',
}
BYTECODE = "bytecode"  # the image of TEAMS["zstd"] where the base's Python is this machine's

# What slim says of each: whole names as RECORD has them.
SLIM_NAMES = (
    "demo/__init__.py", "demo/__init__.pyi", "demo/py.typed", "demo/tests/__init__.py", "demo/tests/data/x.bin", "tests/test_x.py",
    "demo/test/x.py", "demo/tests.py", "demo/testing/x.py", "demo/Tests/x.py", "demo/conftest.py", "demo/test_x.py", "demo/x.h",
    "demo/x.hh", "demo/x.hpp", "demo/x.hxx", "demo/x.cuh", "demo/x.pxd", "demo/x.pyx", "demo/x.c", "demo/x.cu", "demo/x.H",
    "demo/x.a", "demo/x.la", "demo/x.lib", "demo/x.o", "demo/x.so", "demo/x.so.1", "demo/x.dll", "demo/docs/x.rst",
    "demo/examples/x.py", "demo/include/x.inc", "../../../include/python3.11/demo/x.h", "../../../share/tests/x.json",
    "../../../bin/demo", "demo-1.0.dist-info/tests/x.py", "demo-1.0.dist-info/licenses/x.h", "demo-1.0.dist-info/RECORD",
    "demo.data/x.h",
)  # fmt: skip

_RECORD = "oldlib/__init__.py,,\noldlib/gone.py,,\noldlib-1.0.dist-info/METADATA,,\noldlib-1.0.dist-info/RECORD,,\n"


class _Tree(MemoryTree):
    """With the RECORD of what the base has."""

    def read_text(self, path: str) -> bytes | None:
        return _RECORD.encode() if path == f"{SITE}/oldlib-1.0.dist-info/RECORD" else None


def _make_tree() -> _Tree:
    entries = (
        folder("/usr"), folder("/usr/bin"), folder("/usr/lib"), folder("/usr/local"), folder("/usr/local/bin", 0o2775, 0, 50),
        folder("/usr/local/lib"), folder("/usr/local/lib/python3.11", 0o2775, 0, 50), folder(SITE, 0o2775, 1000660000, 50),
        folder("/etc"), folder("/home"), folder("/home/jovyan", 0o755, 1000, 100), folder("/tmp", 0o1777), link("/bin", "usr/bin"),
        file("/usr/bin/python3", b"\x7fELF", 0o755), file("/usr/bin/apt-get", b"\x7fELF", 0o755),
        folder(f"{SITE}/oldlib"), file(f"{SITE}/oldlib/__init__.py", b"old = 1\n"), file(f"{SITE}/oldlib/gone.py", b"gone = 1\n"),
        folder(f"{SITE}/oldlib/__pycache__"), file(f"{SITE}/oldlib/__pycache__/gone.cpython-311.pyc", b"pyc"),
        folder(f"{SITE}/oldlib-1.0.dist-info"), file(f"{SITE}/oldlib-1.0.dist-info/METADATA", b"Name: oldlib\n"),
        file(f"{SITE}/oldlib-1.0.dist-info/RECORD", _RECORD.encode()), folder(f"{SITE}/common"), file(f"{SITE}/common/__init__.py"),
    )  # fmt: skip
    return _Tree(entries)


def make_base(runtime: HostRuntime | None = None) -> Base:
    """The base. Its blobs are nowhere: nothing that is made here reads them."""
    interpreter = Interpreter(
        path="/usr/bin/python3", executable="/usr/bin/python3.11", version="3.11.2", implementation="cpython", cache_tag="cpython-311",
        magic="a70d0d0a", environment="system", prefix="/usr", base_prefix="/usr",
        paths={"purelib": SITE, "platlib": SITE, "scripts": "/usr/local/bin", "data": "/usr/local", "include": "/usr/include/python3.11"},
        markers={"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux", "platform_release": "6.1"},
        tags=("cp311-cp311-manylinux_2_36_x86_64", "py3-none-any"), libc="glibc 2.36", externally_managed=True,
    )  # fmt: skip
    oldlib = Distribution("oldlib", "1.0", SITE, "oldlib-1.0.dist-info", "pip", has_record=True)
    layer = Descriptor(OCI_LAYER_GZIP, Digest.of(b"stored layer"), 1000)
    config = json.dumps(
        {
            "architecture": "amd64", "os": "linux", "created": "2026-09-01T00:00:00Z",
            "config": {
                "User": "1000", "Env": ["PATH=/usr/local/bin:/usr/bin", "A=base"], "Entrypoint": ["tini", "--"], "Labels": {"of": "base"},
            },
            "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"layer"))]},
            "history": [{"created_by": "ADD"}, {"created_by": "ENV", "empty_layer": True}],
        }
    ).encode()  # fmt: skip
    digest = Digest.of(b"golden base")
    return Base(
        name="tiny", kind="jupyter", reference="registry.example/bases/tiny:1", registry="registry.example", repository="bases/tiny",
        pinned=Digest.of(b"golden index"),
        manifest=Manifest(OCI_MANIFEST, Descriptor(OCI_CONFIG, Digest.of(config), len(config)), (layer,), {}),
        config=ImageConfig.parse(config), config_data=config,
        inventory=Inventory(
            format=INVENTORY_FORMAT, digest=str(digest), platform=Platform(), fingerprint=str(compute_fingerprint(interpreter, (oldlib,))),
            user=User("1000", 1000, 100, "jovyan", "/home/jovyan"), path=("/usr/local/bin", "/usr/bin"), interpreter=interpreter,
            distributions=(oldlib,), layers=(),
        ),
        tree=_make_tree(), runtime=runtime,
    )  # fmt: skip


def make_wheels(target: Path) -> dict[str, Path]:
    """The wheels by package. Stored, not compressed: their own bytes depend on no library."""
    stub = b"import lazy_loader\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)\n"
    long = "/".join(["demo", *(f"{'long' * 15}{number}" for number in range(5)), "end.txt"])
    demo = {
        "demo/__init__.py": b"x = 1\n\n\ndef main():\n    return x\n", "demo/__init__.pyi": b"x: int\n", "demo/lazy.py": stub,
        "demo/lazy.pyi": b"", "demo/tests/__init__.py": b"", "demo/x.h": b"int x;\n", "demo/libx.a": b"!<arch>\n",
        "demo/x.cpython-311-x86_64-linux-gnu.so": b"\x7fELF",
        "demo/caf\N{LATIN SMALL LETTER E WITH ACUTE}.txt": b"name\n", long: b"far\n", "demo/big.bin": bytes(range(256)) * 2048,
        "common/__init__.py": b"", "both/__init__.py": b"# shared\n",
        "demo-1.0.data/scripts/greet": b"#!python\nprint('hello')\n", "demo-1.0.data/data/etc/demo.conf": b"a=1\n",
        "demo-1.0.data/headers/demo.h": b"int y;\n",
    }  # fmt: skip
    modes = {"demo/x.cpython-311-x86_64-linux-gnu.so": 0o100755, "demo-1.0.data/scripts/greet": 0o100755}
    made = {
        "demo": make_wheel(target, "demo", "1.0", demo, modes=modes, entry_points="[console_scripts]\ndemo = demo:main\n", stored=True),
        "other": make_wheel(target, "other", "2.5", {"other.py": b"y = 2\n", "both/__init__.py": b"# shared\n"}, stored=True),
        "oldlib": make_wheel(target, "oldlib", "2.0", {"oldlib/__init__.py": b"old = 2\n"}, stored=True),
    }
    for path in made.values():
        with zipfile.ZipFile(path) as archive:
            assert {item.date_time for item in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    return made


def make_lock(base: Base, wheels: Mapping[str, Path], inputs: Mapping[str, str], *, replace: bool) -> Lock:
    """The lock of the wheels; of ``oldlib``, which the base has, only where the team replaces it."""

    def lock_wheel(name: str, version: str, **more: Any) -> LockedPackage:
        data = wheels[name].read_bytes()
        return LockedPackage(name, version, wheels[name].name, hashlib.sha256(data).hexdigest(), len(data), 4096, "default", **more)

    packages = [
        lock_wheel("demo", "1.0", via=("requirements.in",), dependencies=("other",), upload_time="2026-09-01T10:00:00Z"),
        *([lock_wheel("oldlib", "2.0", via=("requirements.in",))] if replace else []),
        lock_wheel("other", "2.5", via=("demo",), requires_python=">=3.8"),
    ]
    return Lock(
        "golden", base.name, str(base.inventory.digest), base.inventory.fingerprint, base.interpreter.version, "linux/amd64", dict(inputs),
        "pip-tools 7.6.2", CUTOFF, tuple(packages), satisfied=() if replace else ("oldlib==1.0",),
    )  # fmt: skip


def make_values(name: str, root: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """One image's values, and its text files by name. ``root``: an empty folder."""
    base = make_base(HostRuntime() if name == BYTECODE else None)
    folder, wheels = root / "images" / "golden", make_wheels(root / "wheels")
    folder.mkdir(parents=True)
    (folder / "requirements.in").write_text("demo\n")
    head = 'base = "tiny"\ndisplay-name = "Golden"\ndescription = "One tiny image"\nowners = ["ml@golden.example"]\n'
    (folder / "team.toml").write_text(head + TEAMS["zstd" if name == BYTECODE else name])
    workspace = Workspace(root, quiet=True)
    inputs = hash_inputs(folder / "requirements.in", (), workspace.root)
    lock = make_lock(base, wheels, inputs, replace="replace" in TEAMS.get(name, ""))
    write_lock(workspace.lockfile("golden"), lock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "open_base", lambda *_, **__: base)
        plan = plan_image(workspace, "golden", cutoff="", locked=True)
    built = write_recipe(workspace, plan)
    files = {path.relative_to(built).as_posix(): path.read_text() for path in sorted(built.rglob("*")) if path.is_file()}
    code = {path: digest_code(files.pop(path)) for path in list(files) if path.endswith(".py")}
    values = {"key": plan.recipe.key, "tag": plan.recipe.tag, "lock": lock_digest(lock), **code}
    files["pylock.toml"] = format_lock(lock)
    kept = {"Dockerfile", "recipe.json", "removal.json"} | ({"pylock.toml", "requirements.txt"} if name in ("zstd", "replace") else set())
    named = {path.rpartition("/")[2]: text for path, text in files.items()}
    texts = {f"{name}.{file_name}": named[file_name] for file_name in sorted(kept & set(named))} if name != BYTECODE else {}
    if plan.recipe.engine == "direct":
        values |= _build(workspace, plan, wheels, root / "layer")
    return values, texts


def _build(workspace: Workspace, plan: Plan, wheels: dict[str, Path], out: Path) -> dict[str, Any]:
    made = build_direct_layers(workspace, plan, wheels, out)
    image = derive_team_image(plan, made, {})
    members = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in workspace.cache.glob("members/*/member.tar.*"))
    return {
        "members": members,
        "layer": " ".join(layer.digest for layer in made.layers),
        "diff-id": " ".join(layer.diff_id for layer in made.layers),
        "tar-bytes": sum(layer.uncompressed for layer in made.layers),
        "installed-bytes": made.installed,
        "config": str(image.config_descriptor.digest),
        "manifest": str(image.manifest.digest),
    }


def digest_code(source: str) -> str:
    """SHA-256 of what a program does: without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return str(Digest.of(ast.unparse(tree).encode()))


def decide_slim() -> dict[str, str]:
    """What slim says of each of SLIM_NAMES."""
    return {name: find_slim_kind(name) for name in SLIM_NAMES}


def list_compressors() -> dict[str, str]:
    """What made the compressed bytes: the libraries, and the kind of machine, for which isal has code of its own."""
    return {**{name: version(name) for name in COMPRESSORS}, "machine": machine()}


def read_values() -> dict[str, Any]:
    """``values.json``."""
    values: dict[str, Any] = json.loads((FOLDER / "values.json").read_text())
    return values


def record(scratch: Callable[[str], Path]) -> None:
    """Write ``values.json`` and the text files anew. ``scratch`` gives an empty folder by name."""
    if sys.version_info[:2] != PYTHON:
        raise SystemExit(f"the golden bytecode is Python {'.'.join(map(str, PYTHON))}'s: run this with it")
    document: dict[str, Any] = {"made-with": list_compressors(), "slim": {"rules": RULES, "kinds": decide_slim()}, "image": {}}
    for old in FOLDER.glob("*.*"):
        if old.suffix not in (".py", ".pyc"):
            old.unlink()
    for name in (*TEAMS, BYTECODE):
        document["image"][name], texts = make_values(name, scratch(name))
        for file_name, text in texts.items():
            (FOLDER / file_name).write_text(text)
    (FOLDER / "values.json").write_text(json.dumps(document, indent=1) + "\n")
