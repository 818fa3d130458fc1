"""``verify`` on images made by hand: a sound one passes, and every seeded defect is found and named by its own check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from imagebuild import annotations as names
from imagebuild.base.model import Distribution, Entry
from imagebuild.catalogue.lookup import find_named_image
from imagebuild.check.verify.checks import CHECKS, VerifyReport, encode_verify_report, format_verify_report, verify_evidence
from imagebuild.check.verify.evidence import _find_replaced, gather_evidence
from imagebuild.errors import IntegrityError
from imagebuild.oci.model import Digest
from imagebuild.recipe import CONSTRAINTS_PATH
from imagebuild.supply.referrers import BOM_TYPE, STATEMENT_TYPE
from tests.support import builders
from tests.support.handmade import SITE, HandMade, make_distribution
from tests.support.images import entry
from tests.support.trees import MemoryTree

TOKEN = "ghp" + "_" + "a1B2" * 9  # put together here, so that no scanner takes this file for a leak
KEY = "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIE" * 16 + "\n"


def verify(image: HandMade) -> VerifyReport:
    return verify_evidence(gather_evidence(image.workspace, find_named_image(image.workspace, f"oci:{image.store.folder}:cosml:1")))


def outcome(report: VerifyReport) -> dict[str, str]:
    return {row.check: row.status for row in report.rows}


def details(report: VerifyReport, check: str) -> str:
    row = next(row for row in report.rows if row.check == check)
    return "\n".join((row.text, *row.details))


def failed(report: VerifyReport) -> list[str]:
    return [row.check for row in report.rows if row.status == "failed"]


def test_a_sound_image_passes_every_check(tmp_path: Path) -> None:
    image = HandMade(tmp_path)
    image.push()
    report = verify(image)
    assert set(outcome(report).values()) == {"passed"}, format_verify_report(report)
    report.raise_failures(strict=True)
    assert json.loads(encode_verify_report(report))["ok"] is True
    assert "16 passed" in format_verify_report(report)


def add_layer(image: HandMade) -> None:
    image.over = [[entry("opt"), entry("opt/extra", b"1")]]


def test_as_many_layers_as_are_noted(tmp_path: Path) -> None:
    image = HandMade(tmp_path, over=[[entry("opt"), entry("opt/extra", b"1")]], notes={names.LAYERS: "2"})
    image.push()
    report = verify(image)
    assert failed(report) == []
    assert details(report, "one layer over the base").startswith("2 layers over ")
    twice = HandMade(tmp_path / "twice", over=[[entry("etc"), entry("etc/imagebuild"), entry(CONSTRAINTS_PATH[1:], b"other\n")]])
    twice.notes = {names.LAYERS: "2"}
    twice.push()
    assert f"{CONSTRAINTS_PATH}: in a layer below as well" in details(verify(twice), "layer rules")
    alone = HandMade(tmp_path / "alone", notes={names.LAYERS: "2"})
    alone.push()
    assert "1 layers over the base's 1" in details(verify(alone), "one layer over the base")


def change_a_byte(image: HandMade) -> None:
    image.files["demo/data.txt"] = b"some tExt\n"


def add_an_unrecorded_file(image: HandMade) -> None:
    image.files["demo/more.py"] = b"z = 3\n"


def lose_a_file(image: HandMade) -> None:
    del image.files["demo/data.txt"]


def write_into_the_home(image: HandMade) -> None:
    image.further = [entry("home"), entry("home/jovyan", uid=1000), entry("home/jovyan/notes", b"n")]


def leak_a_token(image: HandMade) -> None:
    image.further = [entry("etc/app.ini", f"token = {TOKEN}\n".encode())]


def leak_a_key(image: HandMade) -> None:
    image.further = [entry("etc/app.pem", KEY.encode())]


def leave_a_netrc(image: HandMade) -> None:
    image.further = [entry("etc/.netrc", b"")]


def leave_an_index_password(image: HandMade) -> None:
    image.further = [entry("etc/pip.conf", b"[global]\nindex-url = https://me:" + b"hunter2@pypi.corp.example/simple\n")]


def overwrite_a_base_file(image: HandMade) -> None:
    image.further = [entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]


def delete_a_base_file(image: HandMade) -> None:
    image.further = [entry(f"{SITE}/basekit/.wh.__init__.py", b"")]


def set_the_user_bit(image: HandMade) -> None:
    image.further = [entry("usr/bin"), entry("usr/bin/su", b"#!", mode=0o4755)]


def give_a_capability(image: HandMade) -> None:
    capability = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
    image.further = [entry("usr/bin"), entry("usr/bin/ping", b"#!", mode=0o755, pax=capability)]


def open_a_file(image: HandMade) -> None:
    image.further = [entry("usr/lib/python3/open.txt", b"", mode=0o666)]


def open_a_folder(image: HandMade) -> None:
    image.further = [entry("opt", mode=0o777)]


def change_the_user(image: HandMade) -> None:
    image.config = {"User": "0"}


def change_the_entrypoint(image: HandMade) -> None:
    image.config = {"Entrypoint": ["sh", "-c", "evil"]}


def change_the_path(image: HandMade) -> None:
    image.config = {"Env": ["PATH=/tmp", "HOME=/home/jovyan"]}


def put_a_token_into_the_environment(image: HandMade) -> None:
    image.config = {"Env": ["PATH=/usr/bin", "HOME=/home/jovyan", f"GITHUB_TOKEN={TOKEN}"]}


def run_code_at_start(image: HandMade) -> None:
    image.files = make_distribution("demo", "1.0", {"demo.pth": b"import os; os.system('true')\n"})


def add_a_search_path(image: HandMade) -> None:
    image.files = make_distribution("demo", "1.0", {"demo.pth": b"/home/jovyan/site\n"})


def install_another_version(image: HandMade) -> None:
    image.files = make_distribution("demo", "1.1", {"demo/__init__.py": b"x = 1\n"})


def install_one_more(image: HandMade) -> None:
    image.files |= make_distribution("other", "2", {"other.py": b""})


def add_a_duplicate(image: HandMade) -> None:
    image.further = [entry(f"{SITE}/demo/data.txt", b"some text\n")]


def change_an_annotation(image: HandMade) -> None:
    image.notes = {"dev.imagebuild.team": "risk"}


def lie_about_the_size(image: HandMade) -> None:
    image.notes = {"dev.imagebuild.delta.compressed": "1"}


@pytest.mark.parametrize(
    ("seed", "checks", "named"),
    [
        (add_layer, ["one layer over the base"], "2 layers over"),
        (change_a_byte, ["RECORD"], f"/{SITE}/demo/data.txt: not as in the RECORD of demo-1.0"),
        (add_an_unrecorded_file, ["RECORD"], f"/{SITE}/demo/more.py: in no RECORD"),
        (lose_a_file, ["RECORD"], f"/{SITE}/demo/data.txt: listed in the RECORD of demo-1.0, and missing"),
        (write_into_the_home, ["nothing under the home"], "/home/jovyan/notes"),
        (leak_a_token, ["secrets"], "/etc/app.ini: a GitHub token"),
        (leak_a_key, ["secrets"], "/etc/app.pem: a private key"),
        (leave_a_netrc, ["secrets"], "/etc/.netrc: a file for credentials"),
        (leave_an_index_password, ["secrets"], "/etc/pip.conf: a URL with a password"),
        (overwrite_a_base_file, ["files of the base"], "/etc/passwd: overwrites a file of the base"),
        (delete_a_base_file, ["files of the base"], ".wh.__init__.py: a whiteout that nothing declared"),
        (set_the_user_bit, ["setuid"], "/usr/bin/su: setuid"),
        (give_a_capability, ["setuid"], "/usr/bin/ping: a file capability"),
        (open_a_file, ["world-writable"], "/usr/lib/python3/open.txt: anyone may write it"),
        (open_a_folder, ["world-writable"], "/opt: a new folder with mode 777"),
        (change_the_user, ["user and start command"], 'USER is "0", in the base "1000"'),
        (change_the_entrypoint, ["user and start command"], "ENTRYPOINT"),
        (change_the_path, ["environment"], "PATH: neither as in the base"),
        (put_a_token_into_the_environment, ["environment"], "a GitHub token in the image's config"),
        (run_code_at_start, [".pth"], "demo.pth: runs code: import os"),
        (add_a_search_path, [".pth"], "demo.pth: adds /home/jovyan/site"),
        (install_another_version, ["lock", "SBOM"], "demo: 1.1 in the layer, 1.0 in the lock"),
        (install_one_more, ["lock", "SBOM"], "other 2: in the layer, not in the lock"),
        (add_a_duplicate, ["layer rules"], "demo/data.txt: twice in the layer"),
        (change_an_annotation, ["recipe"], "annotation dev.imagebuild.team is 'risk'"),
        (lie_about_the_size, ["diff_id and sizes"], "annotated are 1"),
    ],
)
def test_every_seeded_defect_is_named_by_its_own_check(
    tmp_path: Path, seed: Callable[[HandMade], None], checks: list[str], named: str
) -> None:
    image = HandMade(tmp_path)
    seed(image)
    image.push()
    report = verify(image)
    allowed = {"layer rules", "RECORD"}  # some defects break the layer's form as well: a missing parent, a file without RECORD
    assert set(checks) <= set(failed(report)) <= {*checks, *allowed}, format_verify_report(report)
    assert named in details(report, checks[0])
    assert TOKEN not in format_verify_report(report)
    with pytest.raises(IntegrityError) as error:
        report.raise_failures()
    assert all(check in error.value.message for check in checks)


def test_a_key_that_an_index_publishes_is_told_and_a_local_one_fails(tmp_path: Path) -> None:
    files = make_distribution("demo", "1.0", {"demo/test/test.key": KEY.encode()})
    image = HandMade(tmp_path / "published", files=files)
    image.push()
    report = verify(image)
    assert failed(report) == []
    assert "test.key: a private key (published in demo)" in details(report, "secrets")
    own = HandMade(tmp_path / "own", files=files, index="local")
    own.push()
    assert failed(verify(own)) == ["secrets"]
    # One that the RECORD does not know was put there afterwards.
    changed = HandMade(tmp_path / "changed", files={**files, "demo/test/test.key": KEY.encode() + b"x"})
    changed.push()
    assert failed(verify(changed)) == ["RECORD", "secrets"]


def test_a_package_that_the_lock_replaces_may_change_the_bases_files(tmp_path: Path) -> None:
    newer = make_distribution("basekit", "2.0", {"basekit/__init__.py": b"y = 3\n"})
    old = [
        entry(f"{SITE}/basekit-1.5.dist-info"),
        *(entry(f"{SITE}/basekit-1.5.dist-info/.wh.{name}", b"") for name in ("METADATA", "INSTALLER", "RECORD")),
    ]
    plain = HandMade(tmp_path / "undeclared")
    plain.files = {**plain.files, **newer}
    plain.further = old
    plain.push()
    assert {"files of the base", "lock", "SBOM"} <= set(failed(verify(plain)))


def test_what_a_declared_replacement_may_change() -> None:
    """A lock has a package of the base only where the team's ``replace`` names it."""
    site = "/usr/local/lib/python3.11/dist-packages"
    numpy = Distribution("numpy", "1.26.4", site, "numpy-1.26.4.dist-info", "pip", True)
    base = builders.make_base(numpy, Distribution("six", "1.0", site, "six-1.0.dist-info", "pip", True))
    assert isinstance(base.tree, MemoryTree)
    base.tree.texts[f"{site}/numpy-1.26.4.dist-info/RECORD"] = (
        b"numpy/__init__.py,sha256=x,1\n../../../bin/f2py,,\nnumpy-1.26.4.dist-info/RECORD,,\n"
    )
    unlisted = [f"{site}/numpy/__pycache__/__init__.cpython-311.pyc", f"{site}/numpy-1.26.4.dist-info/REQUESTED", f"{site}/six.py"]
    listed = ["/usr/local/bin/f2py", f"{site}/numpy/__init__.py", f"{site}/numpy-1.26.4.dist-info/RECORD"]
    for path in (*listed, *unlisted):
        base.tree.entries[path] = Entry(path, "file", 0o644, 0, 0)
        for folder in map(str, Path(path).parents):
            base.tree.entries[folder] = Entry(folder, "dir", 0o755, 0, 0)
    lock = builders.make_lock(base, builders.make_package("numpy", "2.0"), builders.make_package("pandas"))
    assert _find_replaced(base, lock) == {
        "numpy": tuple(
            sorted(
                [
                    "/usr/local/bin/f2py",
                    f"{site}/numpy-1.26.4.dist-info/RECORD",
                    f"{site}/numpy-1.26.4.dist-info/REQUESTED",
                    f"{site}/numpy/__init__.py",
                    f"{site}/numpy/__pycache__/__init__.cpython-311.pyc",
                ]
            )
        )
    }
    assert _find_replaced(base, None) == _find_replaced(None, lock) == {}


@pytest.mark.parametrize(
    ("mode", "capability", "status", "said"),
    [
        (0o4755, False, "failed", "/usr/bin/ping: setuid or setgid (4755)"),  # passes the build, where the team asked for it, and not this
        (0o755, True, "passed", "/usr/bin/ping: a file capability, of the Debian package ping"),
        (0o4755, True, "failed", "/usr/bin/ping: setuid or setgid (4755), a file capability"),
    ],
)
def test_what_apt_installs_with_privileges(tmp_path: Path, mode: int, capability: bool, status: str, said: str) -> None:
    lists = "/.\n/usr\n/usr/bin\n/usr/bin/ping\n"
    info = "var/lib/dpkg/info"
    installed = b"Package: ping\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.2\n"
    pax = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"} if capability else {}
    image = HandMade(tmp_path)
    image.further = [
        entry("usr/bin"), entry("usr/bin/ping", b"#!", mode=mode, pax=pax),
        entry("var"), entry("var/lib"), entry("var/lib/dpkg"), entry(info),
        entry(f"{info}/ping.list", lists.encode()), entry(f"{info}/ping.md5sums", b""), entry("var/lib/dpkg/status", installed),
    ]  # fmt: skip
    image.push()
    report = verify(image)
    assert failed(report) == (["setuid"] if status == "failed" else []), format_verify_report(report)
    assert said in details(report, "setuid")


def test_lines_that_setuptools_writes_are_told_and_the_policy_may_name_files(tmp_path: Path) -> None:
    shim = (
        b"import os; var = 'SETUPTOOLS_USE_DISTUTILS'; enabled = os.environ.get(var, 'local') == 'local'; "
        b"enabled and __import__('_distutils_hack').add_shim(); \n"
    )
    image = HandMade(tmp_path / "known", files=make_distribution("demo", "1.0", {"distutils-precedence.pth": shim}))
    image.push()
    report = verify(image)
    assert outcome(report)[".pth"] == "passed"
    assert "runs code: import os" in details(report, ".pth")
    added = HandMade(tmp_path / "added", files=make_distribution("demo", "1.0", {"distutils-precedence.pth": shim.rstrip() + b"evil()\n"}))
    added.push()
    assert outcome(verify(added))[".pth"] == "failed"
    (added.root / "images").mkdir()
    (added.root / "images" / "policy.toml").write_text('[verify]\nallow-pth = ["distutils-precedence.pth"]\n')
    assert outcome(verify(added))[".pth"] == "passed"


def test_an_image_of_others_is_checked_as_far_as_it_can_be(tmp_path: Path) -> None:
    image = HandMade(
        tmp_path,
        companions=False,
        notes=dict.fromkeys(
            [
                "org.opencontainers.image.base.name",
                "org.opencontainers.image.base.digest",
                "dev.imagebuild.format",
                "dev.imagebuild.lock",
                "dev.imagebuild.key",
            ]
        ),
    )
    image.config = {"Labels": {}}
    image.further = [entry("usr/bin"), entry("usr/bin/link", link="x"), entry("usr/bin/su", b"", mode=0o4755)]
    image.push()
    report = verify(image)
    found = outcome(report)
    assert found["setuid"] == "failed"
    assert found["RECORD"] == found["secrets"] == found["diff_id and sizes"] == "passed"
    skipped = {name for name, status in found.items() if status == "skipped"}
    assert skipped == {
        "one layer over the base",
        "layer rules",
        "files of the base",
        "user and start command",
        "environment",
        "lock",
        "recipe",
        "SBOM",
        "provenance",
    }
    assert "does not say what its base is" in details(report, "one layer over the base")
    with pytest.raises(IntegrityError, match="failed 10 of 16 checks"):
        report.raise_failures(strict=True)


def test_a_bom_or_a_statement_about_another_image_is_seen(tmp_path: Path) -> None:
    image = HandMade(tmp_path)
    pushed = image.push()
    other = HandMade(tmp_path / "other", companions=False)
    other.push()
    report = verify(other)
    assert outcome(report)["SBOM"] == outcome(report)["lock"] == "skipped"
    raw = other.store.get_manifest("cosml", "1")
    assert raw is not None
    other.attach(raw, BOM_TYPE, {"metadata": {"component": {"hashes": [{"content": Digest.of(b"x").hex}]}}, "components": []})
    other.attach(raw, STATEMENT_TYPE, {"subject": [{"digest": {"sha256": Digest.of(b"x").hex}}], "predicateType": "x"})
    report = verify(other)
    assert failed(report) == ["SBOM", "provenance"]
    assert "about another image" in details(report, "SBOM")
    for wrong in ("text", [1], {"components": 7}, {"subject": "x"}, {"subject": [1]}):
        other.attach(raw, BOM_TYPE, wrong)
        other.attach(raw, STATEMENT_TYPE, wrong)
    assert failed(verify(other)) == ["SBOM", "provenance"]
    assert pushed.digest != Digest.of(b"x")


def test_layers_that_are_not_what_the_manifest_says(tmp_path: Path) -> None:
    image = HandMade(tmp_path)
    pushed = image.push()
    layer = json.loads(pushed.data)["layers"][-1]["digest"]
    path = image.store.folder / "blobs" / "sha256" / layer.removeprefix("sha256:")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=layer):
        verify(image)


def test_a_layer_of_nothing_but_metadata_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagebuild.check.verify.layerscan.TEXTS_LIMIT", 1000)
    image = HandMade(tmp_path)
    image.files = {f"d{number}-1.dist-info/RECORD": b"x" * 200 for number in range(9)}
    image.push()
    with pytest.raises(IntegrityError, match="more metadata than is allowed"):
        verify(image)


def test_the_table_has_every_check_once() -> None:
    assert len({item.name for item in CHECKS}) == len(CHECKS) == 16
