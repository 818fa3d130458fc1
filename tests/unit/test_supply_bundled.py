"""What packages bundle, by the SBOMs they carry (PEP 770): the shapes are those of cryptography 50, pillow 13 and SPDX 2.3."""

from __future__ import annotations

import datetime
import json
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imagebuild.base.layers import choose_keeping
from imagebuild.base.model import Distribution, Entry
from imagebuild.oci.model import Digest
from imagebuild.supply.audit import audit_packages, list_wanted
from imagebuild.supply.bom import BomSubject, render_bom
from imagebuild.supply.bundled import Bundled, BundledComponent, is_bundled_sbom, read_bundled, read_wheel_bundled
from imagebuild.supply.osvdata import read_dataset
from imagebuild.supply.packages import Package, describe_distribution
from imagebuild.supply.policy import Policy
from imagebuild.supply.systempackages import CRATES, ImageSystem
from imagebuild.supply.versions import make_semver_key
from tests.support.builders import make_base
from tests.support.trees import SITE, MemoryTree
from tests.unit.test_supply_systempackages import make_record, write_bucket

CYCLONE = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "components": [
        {"type": "library", "name": "openssl", "version": "4.0.3", "purl": "pkg:generic/openssl@4.0.3?download_url=https://example.org/x.tar.gz"},
        {"type": "library", "name": "ring", "version": "0.17.8", "purl": "pkg:cargo/ring@0.17.8"},
        {"type": "library", "name": "cryptography-cffi", "version": "0.50.2", "purl": "pkg:cargo/cryptography-cffi@0.50.2?download_url=file://."},
        {"type": "library", "name": "Cryptography", "version": "50.0.2", "purl": "pkg:pypi/cryptography@50.0.2?file_name=x.whl"},
        {"type": "library", "name": "FreeType", "version": "2.14.3"},
        {"type": "library", "name": "odd", "purl": "no package URL"},
    ],
}  # fmt: skip
SPDX = {
    "spdxVersion": "SPDX-2.3",
    "packages": [
        {"name": "six", "versionInfo": "1.16.0", "externalRefs": [{"referenceType": "purl", "referenceLocator": "pkg:pypi/six@1.16.0"}]},
        {"name": "cryptography", "versionInfo": "50.0.2"},
    ],
}
PARTS = (
    BundledComponent("FreeType", "2.14.3"),
    BundledComponent("odd", ""),
    BundledComponent("openssl", "4.0.3", "pkg:generic/openssl@4.0.3"),
    BundledComponent("ring", "0.17.8", "pkg:cargo/ring@0.17.8"),
    BundledComponent("six", "1.16.0", "pkg:pypi/six@1.16.0"),
)
PACKAGE = Package("cryptography", "50.0.2", "added", bundled=Bundled(PARTS))


def encode(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_both_formats_without_the_package_itself() -> None:
    found = read_bundled([("a.json", encode(CYCLONE)), ("b.json", encode(SPDX)), ("c.json", encode(CYCLONE))], "cryptography")
    assert found == Bundled(PARTS)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b"\xff", encode({"bomFormat": "CycloneDX", "components": [{"version": "1"}]}), b"[" * 100_000]
)
def test_what_is_no_sbom_is_named(data: bytes) -> None:
    assert read_bundled([("a.json", data)], "demo") == Bundled((), ("a.json",))


def test_of_a_wheel_and_of_a_base(tmp_path: Path) -> None:
    wheel = tmp_path / "cryptography-50.0.2-py3-none-any.whl"
    info = "cryptography-50.0.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{info}/sboms/cryptography-rust.cyclonedx.json", encode(CYCLONE))
        archive.writestr(f"{info}/sboms/notes.txt", b"")
        archive.writestr(f"vendored/{info}/sboms/other.json", b"{")
    with zipfile.ZipFile(wheel) as archive:
        assert read_wheel_bundled(archive, "cryptography").components == PARTS[:4]
    path = f"{SITE}/{info}/sboms/sbom.json"
    assert is_bundled_sbom(path)
    assert choose_keeping(path.encode(), 9) == "text"
    tree = MemoryTree([Entry(path, "file", 0o644, 0, 0)])
    tree.texts[path] = encode(SPDX)
    item = Distribution("cryptography", "50.0.2", SITE, info)
    base = msgspec.structs.replace(make_base(item), tree=tree)
    assert describe_distribution(base, item, (), {}).bundled.components == PARTS[4:]


def test_it_is_nested_in_the_package_s_component() -> None:
    twin = msgspec.structs.replace(PACKAGE, name="twin")  # the same parts, in another package
    subject = BomSubject("ml/x", "t", Digest.of(b"i"), "2026-10-01T00:00:00Z", "reg.example/b:1", Digest.of(b"b"), "linux/amd64")
    document = json.loads(render_bom(subject, (PACKAGE, twin)))
    (component,) = [item for item in document["components"] if item["name"] == "cryptography"]
    assert {(item["name"], item.get("version"), item.get("purl")) for item in component["components"]} == {
        (part.name, part.version or None, part.purl or None) for part in PARTS
    }


def test_crates_and_python_packages_are_looked_up(tmp_path: Path) -> None:
    six = make_record("PYSEC-1", "PyPI", "six", {"introduced": "0"}, {"fixed": "1.17"})
    ring = make_record("RUSTSEC-1", "crates.io", "ring", {"introduced": "0.0.0-0"}, {"fixed": "0.17.12"})
    wanted = list_wanted((PACKAGE,), ImageSystem())
    assert wanted == {CRATES: frozenset({"ring"})}
    folder = write_bucket(tmp_path, **{"PyPI": [six], "crates.io": [ring]})
    report = audit_packages("x", (PACKAGE,), read_dataset(folder, wanted), Policy(), today=datetime.date(2026, 11, 26))
    assert [(item.package, item.version, item.id, item.note) for item in report.vulnerabilities] == [
        ("ring", "0.17.8", "RUSTSEC-1", "bundled in cryptography 50.0.2"),
        ("six", "1.16.0", "PYSEC-1", "bundled in cryptography 50.0.2"),
    ]
    assert (report.unchecked, report.uncovered) == ((), ("3 libraries that packages bundle: not looked up",))
    spoiled = msgspec.structs.replace(PACKAGE, bundled=Bundled(PARTS, ("a.json",)))
    report = audit_packages("x", (spoiled,), read_dataset(folder), Policy(), today=datetime.date(2026, 11, 26))
    assert report.unchecked == (
        "cryptography: a.json in its .dist-info is not a readable SBOM",
        "1 crate that packages bundle: the OSV data has none of crates.io",
    )


def test_semver() -> None:
    ordered = [
        "0.0.0-0",
        "1.0.0-alpha",
        "1.0.0-alpha.1",
        "1.0.0-alpha.beta",
        "1.0.0-beta.2",
        "1.0.0-beta.11",
        "1.0.0-rc.1",
        "1.0.0",
        "1.10.0",
    ]
    assert sorted(ordered, key=make_semver_key) == ordered  # type: ignore[arg-type]
    assert make_semver_key("1.0.0+build") == make_semver_key("1.0.0")
    assert make_semver_key("1.0") is None
