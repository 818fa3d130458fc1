"""The SBOM is CycloneDX 1.6 by its own schema, says of each package where it comes from, and is the same each time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from imagebuild.base.model import Base, Distribution, OperatingSystem, SystemInventory, SystemPackage
from imagebuild.layer.model import Codec
from imagebuild.lock.file.lockfile import lock_digest
from imagebuild.lock.file.model import BuildWheel, Lock, SourceArchive
from imagebuild.oci.model import Digest
from imagebuild.recipe import ImageOptions, Recipe, make_recipe
from imagebuild.supply.licences import Licence
from imagebuild.supply.packages import list_packages
from imagebuild.supply.referrers import BOM_TYPE, LOCK_TYPE, RECIPE_TYPE, STATEMENT_TYPE, make_companions
from imagebuild.supply.systempackages import make_system_purl
from tests.support.builders import make_base, make_lock, make_package
from tests.support.trees import SITE, MemoryTree

METADATA = "Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: {licence}\n{more}\n"


def make_wheel(folder: Path, name: str, version: str, licence: str, *requires: str) -> Path:
    path = folder / f"{name}-{version}-py3-none-any.whl"
    more = "".join(f"Requires-Dist: {item}\n" for item in requires)
    with zipfile.ZipFile(path, "w") as archive:
        text = METADATA.format(name=name, version=version, licence=licence, more=more)
        archive.writestr(f"{name}-{version}.dist-info/METADATA", text)
    return path


@pytest.fixture
def base() -> Base:
    numpy = Distribution("numpy", "1.26.4", SITE, "numpy-1.26.4.dist-info", "pip", True)
    jupyterlab = Distribution(
        "jupyterlab", "4.6.0", SITE, "jupyterlab-4.6.0.dist-info", requires=("numpy>=1", "absent", "tomli; python_version < '3.11'")
    )
    made = make_base(numpy, jupyterlab)
    assert isinstance(made.tree, MemoryTree)
    made.tree.texts[f"{SITE}/numpy-1.26.4.dist-info/METADATA"] = b"Name: numpy\nLicense: BSD-3-Clause\n\n"
    return made


@pytest.fixture
def lock(base: Base) -> Lock:
    return make_lock(
        base, make_package("cosml-utils", index="local"), make_package("pandas", "2.2.3"), make_package("pytz", via=("pandas",))
    )


@pytest.fixture
def wheels(tmp_path: Path) -> dict[str, Path]:
    return {
        "cosml-utils": make_wheel(tmp_path, "cosml_utils", "1.0", "LicenseRef-Corp", "pandas"),
        "pandas": make_wheel(
            tmp_path, "pandas", "2.2.3", "BSD-3-Clause", "numpy", "pytz>=1", "matplotlib; extra == 'plot'", "not a requirement!"
        ),
        "pytz": make_wheel(tmp_path, "pytz", "1.0", "MIT"),
    }


def make_image_recipe(base: Base, lock: Lock) -> Recipe:
    return make_recipe(
        base,
        lock,
        lock_digest(lock),
        ImageOptions(
            engine="direct",
            codec=Codec(),
            environment={},
            personal_constraints=True,
            title="",
            description="",
            owners=(),
        ),
    )


def make(base: Base, lock: Lock, wheels: dict[str, Path], **changed: Any) -> dict[str, bytes]:
    arguments = {"repository": "ml/cosml", "digest": Digest.of(b"image"), "wheels": wheels, "system": {}, **changed}
    return {item.artifact_type: item.data for item in make_companions(base, lock, make_image_recipe(base, lock), **arguments)}


def test_packages_have_origin_licence_and_needs(base: Base, lock: Lock, wheels: dict[str, Path]) -> None:
    found = {item.name: item for item in list_packages(base, lock, wheels)}
    assert list(found) == ["cosml-utils", "jupyterlab", "numpy", "pandas", "pytz"]
    assert {name: item.origin for name, item in found.items() if item.origin == "added"} == dict.fromkeys(wheels, "added")
    assert found["numpy"].licence == Licence("BSD-3-Clause")
    assert found["jupyterlab"].requires == ("numpy",)  # absent is not there; tomli is for another Python
    assert found["pandas"].requires == ("numpy", "pytz")
    assert (found["pandas"].direct, found["pytz"].direct, found["cosml-utils"].direct) == (True, False, True)
    # An added package takes the place of the base's.
    newer = msgspec.structs.replace(lock, packages=(*lock.packages, make_package("numpy", "2.0")))
    wheels = {**wheels, "numpy": make_wheel(next(iter(wheels.values())).parent, "numpy", "2.0", "BSD-3-Clause")}
    assert [(item.version, item.origin) for item in list_packages(base, newer, wheels) if item.name == "numpy"] == [("2.0", "added")]


def test_what_the_base_has_besides_python_is_in_the_bom(base: Base, lock: Lock, wheels: dict[str, Path]) -> None:
    """Package URLs as purl-spec's types have them; of a Debian package that was added, the base's older one is not there any more."""
    packages = (
        SystemPackage("deb", "libssl3", "3.0.15-1~deb12u1", "amd64", "openssl"),
        SystemPackage("deb", "graphviz", "2.42.2-6", "amd64"),
        SystemPackage("deb", "login", "1:4.13+dfsg1-1+b1", "amd64", "shadow", "1:4.13+dfsg1-1"),
        SystemPackage("rpm", "openssl-libs", "1:3.2.2-6.el9_5", "x86_64", "openssl"),
        SystemPackage("conda", "numpy", "1.26.4", "linux-64"),
        SystemPackage("cran", "MASS", "7.3-58.2"),
    )
    system = SystemInventory(OperatingSystem("debian", "12"), packages)
    base = msgspec.structs.replace(base, inventory=msgspec.structs.replace(base.inventory, system=system))
    text = make(base, lock, wheels, system={"graphviz": "2.42.2-7+deb12u1"})[BOM_TYPE].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    purls = {item["purl"]: item["properties"] for item in document["components"] if not item["purl"].startswith(("pkg:pypi", "pkg:oci"))}
    below = {
        "pkg:conda/numpy@1.26.4?subdir=linux-64",
        "pkg:cran/MASS@7.3-58.2",
        "pkg:deb/debian/libssl3@3.0.15-1~deb12u1?arch=amd64&distro=debian-12&upstream=openssl",
        "pkg:deb/debian/login@1:4.13%2Bdfsg1-1%2Bb1?arch=amd64&distro=debian-12&upstream=shadow%401:4.13%2Bdfsg1-1",
        "pkg:rpm/debian/openssl-libs@3.2.2-6.el9_5?arch=x86_64&distro=debian-12&epoch=1&upstream=openssl",
    }
    added = "pkg:deb/debian/graphviz@2.42.2-7%2Bdeb12u1?distro=debian-12"
    assert {purl for purl in purls if not purl.startswith("pkg:generic")} == {*below, added}
    assert {purl for purl, notes in purls.items() if notes == [{"name": "dev.imagebuild:origin", "value": "base"}]} == below
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    (base_ref,) = [item["bom-ref"] for item in document["components"] if item["name"] == base.reference]
    assert below <= set(needs[base_ref])
    assert str(make_system_purl(packages[3], OperatingSystem("rhel", "9.5"))).startswith("pkg:rpm/redhat/openssl-libs@")


def test_the_bom_is_valid_by_the_schema_of_cyclonedx(base: Base, lock: Lock, wheels: dict[str, Path]) -> None:
    text = make(base, lock, wheels, system={"graphviz": "2.42.2-7+deb12u1"})[BOM_TYPE].decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    document = json.loads(text)
    components = {item["name"]: item for item in document["components"]}
    assert set(components) == {"cosml-utils", "graphviz", "jupyterlab", "numpy", "pandas", "pytz", base.reference}
    assert components["pandas"]["purl"] == "pkg:pypi/pandas@2.2.3"
    assert components["pandas"]["hashes"] == [{"alg": "SHA-256", "content": lock.packages[1].sha256}]
    assert components["pandas"]["licenses"] == [{"license": {"id": "BSD-3-Clause"}}]
    assert components["cosml-utils"]["purl"] == "pkg:generic/cosml-utils@1.0"  # not a name to look up in public
    assert components["cosml-utils"]["licenses"] == [{"expression": "LicenseRef-Corp"}]
    assert components["graphviz"]["purl"] == "pkg:deb/debian/graphviz@2.42.2-7%2Bdeb12u1"
    origins = {
        name: item["value"]
        for name, component in components.items()
        for item in component["properties"]
        if item["name"].endswith(":origin")
    }
    assert origins == {
        **dict.fromkeys(("cosml-utils", "graphviz", "pandas", "pytz"), "added"),
        **dict.fromkeys((base.reference, "numpy", "jupyterlab"), "base"),
    }
    needs = {item["ref"]: item.get("dependsOn", []) for item in document["dependencies"]}
    assert needs["pkg:pypi/pandas@2.2.3"] == ["pkg:pypi/numpy@1.26.4", "pkg:pypi/pytz@1.0"]
    image = document["metadata"]["component"]
    assert image["purl"].startswith(f"pkg:oci/cosml@{Digest.of(b'image')}?")
    assert set(needs[image["bom-ref"]]) == {
        components[base.reference]["bom-ref"],
        "pkg:generic/cosml-utils@1.0",
        "pkg:pypi/pandas@2.2.3",
        components["graphviz"]["bom-ref"],
    }
    assert document["metadata"]["timestamp"] == "2026-10-01T00:00:00+00:00"


def test_the_same_image_has_the_same_companions(base: Base, lock: Lock, wheels: dict[str, Path]) -> None:
    first, second = make(base, lock, wheels), make(base, lock, wheels)
    assert first == second
    assert list(first) == [LOCK_TYPE, RECIPE_TYPE, BOM_TYPE, STATEMENT_TYPE]
    other = make(base, lock, wheels, digest=Digest.of(b"another"))
    assert json.loads(other[BOM_TYPE])["serialNumber"] != json.loads(first[BOM_TYPE])["serialNumber"]


@pytest.mark.slow
def test_the_order_of_hashes_changes_nothing(tmp_path: Path) -> None:
    """Sets are behind the library's lists: two processes with other hash seeds write the same bytes."""
    code = """
import sys
from imagebuild.oci.model import Digest
from imagebuild.supply.bom import BomSubject, render_bom
from imagebuild.supply.licences import Licence
from imagebuild.supply.packages import Package
needs = [tuple(f"p{m}" for m in range(n)) for n in range(9)]
packages = [Package(f"p{n}", "1", "base", Licence("MIT"), needs[n], "ab" * 32, index="i", direct=True) for n in range(9)]
subject = BomSubject("cosml", "t", Digest.of(b"i"), "2026-10-01T00:00:00Z", "reg.example/base:1", Digest.of(b"b"), "linux/amd64")
sys.stdout.buffer.write(render_bom(subject, packages, {"graphviz": "1"}))
"""
    found = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        found.add(subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, check=True).stdout)
    assert len(found) == 1


def test_the_provenance_names_every_input(base: Base, lock: Lock, wheels: dict[str, Path]) -> None:
    statement = json.loads(make(base, lock, wheels)[STATEMENT_TYPE])
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [{"name": "ml/cosml", "digest": {"sha256": Digest.of(b"image").hex}}]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    build = BuildWheel("setuptools", "80", "setuptools-80-py3-none-any.whl", "ab" * 32, 1, "default")
    made = msgspec.structs.replace(lock.packages[1], source=SourceArchive("pandas-2.2.3.tar.gz", "cd" * 32, 1, (build,)))
    from_source = msgspec.structs.replace(lock, packages=(lock.packages[0], made, lock.packages[2]))
    text = make(base, from_source, wheels)[STATEMENT_TYPE].decode()
    assert "ab" * 32 in text
    assert "cd" * 32 in text
    definition = statement["predicate"]["buildDefinition"]
    found = {item["digest"]["sha256"] for item in definition["resolvedDependencies"]}
    wanted = {Digest(base.inventory.digest).hex, Digest(lock_digest(lock)).hex, *lock.inputs.values()}
    assert found == wanted | {item.sha256 for item in lock.packages}
    assert definition["internalParameters"]["key"] == make_image_recipe(base, lock).key
    assert statement["predicate"]["runDetails"]["builder"]["id"] == "urn:imagebuild:direct"
