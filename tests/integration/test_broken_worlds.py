"""Bad input and broken worlds, as a user at the command line meets them.

Every failure is one ``error:`` line, one ``hint:`` line and its exit code, leaves nothing half-written, and the command
works when the cause is gone. The base is a real Python of Debian in a real registry, the packages are hand-made.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from imagebuild.oci.model import Digest
from tests.support.servers.faulty import Fault, FaultyRegistry
from tests.support.servers.index import SlowIndex, publish
from tests.support.servers.registry import Registry, registry
from tests.support.tools import as_nobody, find_ordinary_python, give_to_nobody, need, need_no_network, small_disk
from tests.support.workspaces import Done
from tests.support.worlds import NOBODY_LISTENS, SmallBase, World, push_read_base

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")]
__all__ = ["registry"]  # a fixture

ALPHA = "alpha-1.1-py3-none-any.whl"
MANY = 10
MakeWorld = Callable[..., World]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SlowIndex:
    """The packages; a test that breaks it mends it."""
    folder = tmp_path_factory.mktemp("wheels")
    found = SlowIndex()
    publish(found, folder, "alpha", "1.0")
    publish(found, folder, "alpha", "1.1")
    publish(found, folder, "beta", "1.0", ["alpha>=1"])
    publish(found, folder, "wants-newer-base", "1.0", ["basekit>=2"])
    publish(found, folder, "for-apples", "1.0", tag="cp311-cp311-macosx_11_0_arm64")
    found.add_file("only-source", "only_source-1.0.tar.gz", b"no wheel")
    for number in range(MANY):
        noise = random.Random(number).randbytes(200_000)
        publish(found, folder, f"part{number}", "1.0", files={f"part{number}/__init__.py": b"x = 1\n" * 500, f"part{number}/data": noise})
    return found


@pytest.fixture(scope="module")
def index_url(index: SlowIndex) -> Iterator[str]:
    with index.serve() as url:
        yield url


@pytest.fixture(scope="module")
def base(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> SmallBase:
    """The base, pushed, and read once into a cache that the worlds copy."""
    return push_read_base(registry, tmp_path_factory)


@pytest.fixture(scope="module")
def locks(base: SmallBase, index_url: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """The text of the lock for a requirements.in, made once."""
    made: dict[str, str] = {}

    def find(requirements: str) -> str:
        if requirements not in made:
            world = World(tmp_path_factory.mktemp("lock") / "world", base, index_url)
            world.write("images/blue/requirements.in", requirements)
            world.run("lock", "blue").succeeded()
            made[requirements] = world.lockfile.read_text(encoding="utf-8")
        return made[requirements]

    return find


@pytest.fixture
def make_world(base: SmallBase, index_url: str, locks: Callable[[str], str], tmp_path: Path) -> MakeWorld:
    """A new world; ``locked`` gives it a lock, ``warm=False`` a cache that does not know the base."""

    def make(
        *, name: str = "world", requirements: str = "alpha\n", locked: bool = True, warm: bool = True, mirror: str = "", url: str = "",
        root: Path | None = None,
    ) -> World:  # fmt: skip
        world = World(root or tmp_path / name, base, url or index_url, mirror=mirror, warm=warm)
        world.write("images/blue/requirements.in", requirements)
        if locked:
            world.write("lockfiles/pylock.blue.toml", locks(requirements))
        return world

    return make


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that an ordinary user may look into, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="imagebuild-test-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def many() -> str:
    """A requirements.in whose image takes a while."""
    return "".join(f"part{number}\n" for number in range(MANY))


def flip(path: Path, place: float = 0.5) -> None:
    """Change one bit of a file. Not in place: it may have a second name in the layout folder."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.unlink()
    path.write_bytes(data)


# --- configuration --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "old", "new", "error", "hint"),
    [
        ("images/blue/team.toml", "base =", "display_name = 'x'\nbase =", r"team\.toml: unknown key display_name$", "'display-name'"),
        ("images/blue/team.toml", "default =", "defualt =", r"team\.toml: unknown key index\.defualt in ", "did you mean 'default'"),
        ("images/blue/team.toml", "base =", "budget = 3\nbase =", r"team\.toml: budget: expected table, got whole number", "formats.md"),
        ("images/blue/team.toml", 'base = "tiny"', 'base = "tiny', r"team\.toml is not valid TOML: .*line 1", "correct that line"),
        ("images/blue/team.toml", '"tiny"', '"tinny"', r"there is no base 'tinny'", "did you mean 'tiny'"),
        ("images/catalogue.toml", "digest =", "digset =", r"catalogue\.toml: unknown key base\.tiny\.digset$", "did you mean 'digest'"),
        ("images/catalogue.toml", "[base.tiny]", "[bases.tiny]", r"catalogue\.toml: unknown key bases$", "did you mean 'base'"),
        ("images/catalogue.toml", "digest =", "# digest =", r"base 'tiny' is not pinned: localhost:\d+/bases/test:1", "base pin tiny"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_named_with_the_key_that_was_meant(
    make_world: MakeWorld, file: str, old: str, new: str, error: str, hint: str
) -> None:
    world = make_world()
    before = (world.root / file).read_text(encoding="utf-8")
    world.edit(file, old, new)
    done = world.run("image", "blue").failed(2 if "tinny" in new else 3, error, hint)
    assert len(done.err.splitlines()) == 2
    world.nothing_made()
    world.write(file, before)
    world.run("lock", "blue", "--check").succeeded()


def test_a_wrong_key_of_a_pool_is_named(make_world: MakeWorld) -> None:
    world = make_world()
    world.run("prewarm").failed(3, r"pools\.toml is missing", "create it")
    world.write("images/pools.toml", '[pool.gpu]\nteam = "*"\n')
    world.run("prewarm").failed(3, r"pools\.toml: unknown key pool\.gpu\.team$", "did you mean 'teams'")


@pytest.mark.parametrize(
    ("arguments", "code", "error", "hint"),
    [
        (["image", "bleu"], 2, "there is no team 'bleu'", "did you mean 'blue'"),
        (["image", "../blue"], 2, "not a team name: '../blue'", "lower-case"),
        (["image"], 2, "name at least one team", "teams here: blue"),
        (["imgae", "blue"], 2, "no such command: 'imgae'; did you mean 'image'", "--help"),
        (["image", "blue", "--coyp-base"], 2, "No such option", "--help"),
        (["image", "blue", "--registry", "https://example.com"], 2, "not a registry", "HOST/NAMESPACE"),
        (["lock", "blue", "--as-of", "yesterday"], 2, "not a date: 'yesterday'", "2026-10-01"),
        (["image", "blue", "--root", "/nonexistent"], 3, "/nonexistent has no images/ folder", "--root"),
        (["image", "blue", "--cache-dir", "/dev/null/x"], 3, "/dev/null", "another place"),
    ],
)
def test_a_wrong_command_line_is_told_what_exists(
    make_world: MakeWorld, arguments: Sequence[str], code: int, error: str, hint: str
) -> None:
    make_world().run(*arguments).failed(code, error, hint)


def test_of_several_teams_the_wrong_one_is_named(make_world: MakeWorld) -> None:
    world = make_world()
    world.add_team("azure", "alpha\n-e .\n")
    done = world.run("image", "--all")
    assert done.code == 3
    first, last = done.lines("error: ")
    assert first == "error: azure: requirements.in line 2: -e is not supported here"
    assert last == "error: 1 of 2 teams failed: azure"
    assert done.lines("hint: ")[-1] == "hint: the others are done; fix what failed and run it again"
    assert "Traceback" not in done.err
    assert len(world.tags()) == 1  # blue's, which came after
    assert done.out.startswith("oci:")
    answers = json.loads(world.run("image", "--all", "--json").out)
    assert [(item["team"], item.get("exit_code")) for item in answers] == [("blue", None), ("azure", 3)]


# --- requirements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "code", "error", "hint"),
    [
        ("alpha =>1", 3, r"requirements\.in line 2 is not a requirement: 'alpha =>1'", "name=="),
        ("alpha[", 3, r"line 2 is not a requirement", "extra"),
        ("alpha @ https://example.com/alpha-1.0-py3-none-any.whl", 3, r"line 2: a URL without a sha256 cannot be locked", "#sha256="),
        ("git+https://example.com/alpha", 3, r"line 2: a requirement from version control \(git\+https\)", "packages/"),
        ("alpha @ git+ssh://git@example.com/alpha", 3, r"line 2: a requirement from version control", "packages/"),
        ("-r other.txt", 3, r"line 2: other\.txt is missing", "remove the line"),
        ("./alpha", 3, r"line 2: a path is not a requirement", "packages/"),
        ("basekit>=2", 4, r"line 2 asks for basekit>=2; the base tiny has basekit 1\.5", "another base"),
        ("wants-newer-base", 4, r"wants-newer-base 1\.0 needs basekit>=2; the base tiny has basekit 1\.5", "wants-newer-base"),
        ("no-such-thing", 4, r"line 2 asks for no-such-thing; there is no project no-such-thing on package index 'fake'", "spelling"),
        ("alpha>=9", 4, r"line 2 asks for alpha>=9; the newest alpha .* is 1\.1", "line"),
        ("only-source", 4, r"line 2 asks for only-source; only-source 1\.0 .* is source only: there is no wheel", r"\[source\] packages"),
        ("for-apples", 4, r"wheels of for-apples 1\.0 are for cp311 on macosx_11_0_arm64; the base tiny is cp311", "another"),
    ],
)  # fmt: skip
def test_a_requirement_that_cannot_be_met_is_named_by_its_line(make_world: MakeWorld, line: str, code: int, error: str, hint: str) -> None:
    world = make_world(requirements=f"# what we need\n{line}\n", locked=False)
    world.run("image", "blue").failed(code, error, hint)
    world.nothing_made()
    assert not world.lockfile.exists()
    assert world.kept_wheels() == []


def test_a_team_without_requirements_is_told_so(make_world: MakeWorld) -> None:
    world = make_world(locked=False)
    (world.root / "images/blue/requirements.in").unlink()
    world.run("image", "blue").failed(3, r"requirements\.in is missing", "one requirement a line")


# --- the lock -------------------------------------------------------------------------------------------------------


def test_a_stale_lock_says_which_input_changed_and_locking_helps(make_world: MakeWorld) -> None:
    world = make_world(locked=False)
    folder = world.add_package()
    hint = "run: imagebuild lock blue$"
    for options in (["image", "blue", "--locked"], ["lock", "blue", "--check"], ["render", "blue"]):
        world.run(*options).failed(4, r"lockfiles/pylock\.blue\.toml is missing", hint)
    world.run("lock", "blue").succeeded()
    world.run("lock", "blue", "--check").succeeded()
    world.add_package(body="x = 2\n")
    world.run("image", "blue").failed(4, "stale: images/blue/packages/own_kit changed$", hint)
    world.run("lock", "blue", "--check").failed(4, "stale", hint)
    world.write("images/blue/requirements.in", "alpha<2\n")
    world.run("image", "blue").failed(4, r"stale: .*own_kit changed; images/blue/requirements\.in changed$", hint)
    world.run("lock", "blue").succeeded()
    world.run("image", "blue").succeeded()
    (folder / "pyproject.toml").unlink()
    world.run("image", "blue").failed(3, r"own_kit has no pyproject\.toml", "PEP 517")
    shutil.rmtree(folder)
    world.run("image", "blue").failed(4, "own_kit is gone$", hint)


def spoil_lock(way: str, text: str) -> str:
    """One way for a lock to be no lock any more."""
    return {
        "empty": "",
        "half": text[: len(text) // 2],
        "merge": f"<<<<<<< HEAD\n{text}",
        "binary": "\x00\x01",
        "short-hash": text.replace('sha256 = "', 'sha256 = "0', 1),
        "path": text.replace('path = "alpha', 'path = "../alpha'),
        "address": text.replace('path = "alpha', 'url = "http://127.0.0.1/x"\npath = "alpha'),
        "newer-format": text.replace("format = 1", "format = 99"),
        "other-team": text.replace('team = "blue"', 'team = "red"'),
    }[way]


@pytest.mark.parametrize("way", ["empty", "half", "merge", "binary", "short-hash", "path", "address", "newer-format", "other-team"])
def test_a_damaged_lock_is_refused_and_can_be_made_anew(make_world: MakeWorld, way: str) -> None:
    world = make_world()
    good = world.lockfile.read_text(encoding="utf-8")
    world.lockfile.write_text(spoil_lock(way, good), encoding="utf-8")
    world.run("image", "blue").failed(4, r"pylock\.blue\.toml", "imagebuild lock blue")
    world.nothing_made()
    if way in ("half", "other-team"):  # what the hint says works
        world.run("lock", "blue").succeeded()
        world.run("image", "blue").succeeded()


def test_a_hash_edited_into_the_lock_is_not_what_the_index_has(make_world: MakeWorld) -> None:
    world = make_world()
    text = world.lockfile.read_text(encoding="utf-8")
    world.lockfile.write_text(re.sub(r'hashes = \{ sha256 = "[0-9a-f]{64}"', f'hashes = {{ sha256 = "{"1" * 64}"', text), encoding="utf-8")
    done = world.run("image", "blue").failed(8, f"another file {ALPHA} than the locked one", "edited the lock")
    assert f"expected sha256 {'1' * 64}" in done.err
    assert world.kept_wheels() == []
    world.nothing_made()


# --- wheels ---------------------------------------------------------------------------------------------------------


def test_other_bytes_than_locked_are_refused_and_not_kept(make_world: MakeWorld, index: SlowIndex) -> None:
    world = make_world()
    good, page = index.bodies[ALPHA], dict(index.files["alpha"][ALPHA])
    bad = good[:-30] + bytes([good[-30] ^ 1]) + good[-29:]
    try:
        for body in (bad, good + b"more"):
            index.bodies[ALPHA] = body
            done = world.run("image", "blue").failed(
                8, rf"alpha 1\.1: {ALPHA} from index 'fake' is not the expected file", "nothing was kept"
            )
            assert f"expected sha256 {page['sha256']}" in done.err
            assert world.kept_wheels() == []
            world.nothing_made()
        index.add_file("alpha", ALPHA, bad)  # and now its page agrees with it
        world.run("image", "blue").failed(8, f"now has another file {ALPHA} than the locked one", "replaced a published file")
        assert world.kept_wheels() == []
        world.nothing_made()
        del index.files["alpha"][ALPHA]
        world.run("image", "blue").failed(4, f"{ALPHA} is no longer on package index 'fake'", "imagebuild lock blue --upgrade")
    finally:
        index.bodies[ALPHA] = good
        index.files["alpha"][ALPHA] = page
    world.run("image", "blue").succeeded()


def test_a_wheel_cut_short_is_asked_for_again_and_then_given_up(make_world: MakeWorld, index: SlowIndex) -> None:
    world = make_world()
    try:
        index.cut = 99
        world.run("image", "blue").failed(6, f"'fake' cut {ALPHA} short 4 times", "nothing was kept")
        assert world.kept_wheels() == []
        world.nothing_made()
        index.cut = 1
        world.run("image", "blue").succeeded()
    finally:
        index.cut = 0


def publish_hostile(index: SlowIndex, folder: Path, way: str) -> None:
    """A wheel named evil that tries one thing."""
    files = {"evil/__init__.py": b"x = 1\n"}
    ways: dict[str, dict[str, Any]] = {
        "climbs": {"files": {**files, "../../etc/passwd": b"x"}},
        "absolute": {"files": {**files, "/etc/passwd": b"x"}},
        "twice": {"files": files, "extra": [("evil/__init__.py", b"x = 2\n")]},
        "whiteout": {"files": {**files, "evil/.wh.x": b""}},
        "setuid": {"files": {**files, "evil/tool": b"x"}, "modes": {"evil/tool": 0o104755}},
        "link": {"files": {**files, "evil/link": b"/etc/passwd"}, "modes": {"evil/link": 0o120777}},
        "unrecorded": {"files": files, "extra": [("evil/more.py", b"x = 2\n")]},
        "other-name": {"files": files, "metadata": "Metadata-Version: 2.1\nName: good\nVersion: 1.0\n"},
    }
    options = ways[way]
    index.files.pop("evil", None)
    if "metadata" in options:
        from tests.support.builders import make_wheel

        path = make_wheel(folder, "evil", "1.0", **options)
        index.add_file("evil", path.name, path.read_bytes())
    else:
        publish(index, folder, "evil", "1.0", **options)


@pytest.mark.parametrize(
    ("way", "code", "error"),
    [
        ("climbs", 7, r"refused entry '\.\./\.\./etc/passwd': its path climbs"),
        ("absolute", 7, r"refused entry '/etc/passwd': its path is absolute"),
        ("twice", 7, r"refused entry 'evil/__init__\.py': the path is in the wheel twice"),
        ("whiteout", 7, r"refused entry 'evil/\.wh\.x': .* would delete a file"),
        ("setuid", 7, r"refused entry 'evil/tool': it has a setuid"),
        ("link", 7, r"refused entry 'evil/link': it is a symbolic link"),
        ("other-name", 7, r"evil"),
    ],
)
def test_a_hostile_wheel_never_becomes_an_image(
    make_world: MakeWorld, base: SmallBase, index: SlowIndex, tmp_path: Path, way: str, code: int, error: str
) -> None:
    publish_hostile(index, tmp_path / "wheels", way)
    world = make_world(requirements="evil\n", locked=False)
    if way == "other-name":  # the resolver reads it too, and says so first
        done = world.run("image", "blue")
        assert done.code in (4, 7, 8)
        done.failed(done.code, error)
    else:
        world.run("image", "blue").failed(code, rf"evil-1\.0-py3-none-any\.whl: {error}", "hostile")
    world.nothing_made()
    if way != "climbs":
        return
    repository = f"hostile/{way}"
    again = world.run("image", "blue", "--registry", f"{base.host}/{repository}")
    again.failed(again.code, error)
    assert not (base.registry.storage / "docker/registry/v2/repositories" / repository / "blue/_manifests").exists()


def test_a_wheel_with_a_wrong_record_is_repaired_or_refused_by_policy(make_world: MakeWorld, index: SlowIndex, tmp_path: Path) -> None:
    """As pip and uv install it: the lock's hash guards the bytes. ``strict-record`` keeps it out."""
    publish_hostile(index, tmp_path / "wheels", "unrecorded")
    world = make_world(requirements="evil\n", locked=False)
    world.write("images/policy.toml", "[policy]\nstrict-record = true\n")
    world.run("image", "blue").failed(8, r"evil-1\.0-py3-none-any\.whl: .*strict-record = true", "pin another version")
    world.nothing_made()
    world.write("images/policy.toml", "")
    done = world.run("image", "blue").succeeded()
    assert re.search(r"note: evil 1\.0: .*RECORD.* true bytes", done.err)


# --- the package index ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "hint"), [(401, "netrc"), (429, "limits requests"), (500, "later")])
def test_an_index_that_refuses_is_named_with_its_answer(make_world: MakeWorld, index: SlowIndex, status: int, hint: str) -> None:
    unlocked, locked = make_world(name="unlocked", locked=False), make_world()
    try:
        for world, command in ((unlocked, "lock"), (locked, "image")):
            index.refuse = [status] * 50
            world.run(command, "blue").failed(6, f"package index 'fake' answered {status} for the page of alpha", hint)
            world.nothing_made()
        index.refuse = [429, 500]  # what passes by itself
        locked.run("image", "blue").succeeded()
    finally:
        index.refuse = []


def test_an_index_nobody_answers_for_is_one_line_and_soon(make_world: MakeWorld) -> None:
    world = make_world(url=NOBODY_LISTENS)
    for command in ("image", "lock"):
        done = world.run(command, "blue").failed(6, r"no network: package index 'fake' .* \(connection refused\)", "network and proxy")
        assert done.seconds < 20
        world.nothing_made()


def test_what_is_cached_needs_no_index(make_world: MakeWorld, index_url: str) -> None:
    world = make_world()
    first = world.run("image", "blue").succeeded()
    world.edit("images/blue/team.toml", index_url, NOBODY_LISTENS)
    world.forget_image(members=True)
    assert world.run("image", "blue").succeeded().digest == first.digest


def test_without_any_network(make_world: MakeWorld) -> None:
    alone = need_no_network()
    world = make_world()
    world.add_package()
    world.run("lock", "blue").succeeded()
    cold = world.run("image", "blue", before=alone).failed(6, r"no network: package index 'fake' .*no route", "network")
    assert cold.seconds < 20
    world.nothing_made()
    world.run("lock", "blue", "--upgrade", before=alone).failed(6, "loopback|no network", "network|interface")
    first = world.run("image", "blue").succeeded()
    assert "there already" in world.run("image", "blue", before=alone).succeeded().out
    world.forget_image(members=True)
    warm = world.run("image", "blue", before=alone).succeeded()
    assert warm.digest == first.digest
    assert "built in" in warm.out
    empty = make_world(name="empty", warm=False).run("image", "blue", before=alone).failed(6, "no connection", "network")
    assert empty.seconds < 20


# --- registries -----------------------------------------------------------------------------------------------------


@pytest.fixture
def faulty(registry: Registry) -> Iterator[FaultyRegistry]:
    with FaultyRegistry(registry).serve() as proxy:
        yield proxy


@pytest.mark.parametrize(
    ("fault", "code", "error", "hint"),
    [
        (Fault("HEAD .*/manifests/", 401), 6, "head manifest .*HTTP 401", "docker login"),
        (Fault("HEAD .*/manifests/", 403), 6, "head manifest .*HTTP 403", "docker login"),
        (Fault("POST .*/uploads/.mount", 403), 6, "cannot be mounted", "as a user who has it; or add --copy-base"),
        (Fault("POST .*/uploads/$", 401), 6, "HTTP 401", "docker login"),
        (Fault("PUT .*/uploads/", 500), 6, "HTTP 500", "run it again later"),  # five attempts, some seconds
        (Fault("PUT .*/manifests/", 429), 6, "put manifest .*HTTP 429", "wait"),
        (Fault("PUT .*/manifests/", 403), 6, "put manifest .*HTTP 403", "ask for access"),
    ],
    ids=lambda value: value.pattern + str(value.status) if isinstance(value, Fault) else None,
)
def test_a_registry_that_refuses_gets_no_half_image(
    make_world: MakeWorld, faulty: FaultyRegistry, tmp_path: Path, fault: Fault, code: int, error: str, hint: str
) -> None:
    world = make_world(mirror=faulty.host)
    target = f"{faulty.host}/refusing{abs(hash(tmp_path)) % 10**9}"
    fault.times = -1
    faulty.faults = [fault]
    world.run("image", "blue", "--registry", target).failed(code, error, hint)
    assert world.leftovers() == []
    faulty.faults = []
    assert "built in" in world.run("image", "blue", "--registry", target).succeeded().out  # so it was not there before
    crane = subprocess.run(
        [need("crane"), "validate", "--insecure", "--fast", "--remote", f"{target}/blue:{find_tag(faulty)}"], check=False
    )
    assert crane.returncode == 0


def find_tag(proxy: FaultyRegistry) -> str:
    """The tag of the last manifest that was put."""
    return next(line.rpartition("/")[2] for line in reversed(proxy.requests) if line.startswith("PUT ") and "/manifests/" in line)


def test_a_registry_that_asks_to_wait_is_waited_for(make_world: MakeWorld, faulty: FaultyRegistry) -> None:
    world = make_world(mirror=faulty.host)
    faulty.faults = [Fault("HEAD .*/manifests/", 429, {"Retry-After": "2"}, times=1)]
    done = world.run("image", "blue", "--registry", f"{faulty.host}/patient").succeeded()
    assert done.seconds > 2
    assert faulty.faults[0].seen == 1


def test_a_registry_out_of_reach_is_one_line_and_soon(make_world: MakeWorld) -> None:
    done = make_world().run("image", "blue", "--registry", "localhost:9/x").failed(6, r"localhost:9: .*Connection refused", "address")
    assert done.seconds < 20
    done = (
        make_world(name="two", warm=False, mirror="localhost:9")
        .run("image", "blue")
        .failed(6, "localhost:9: .*Connection refused", "address")
    )
    assert done.seconds < 20


@pytest.mark.parametrize(
    ("fault", "code", "error", "hint"),
    [
        (Fault("GET .*/manifests/", 401), 6, "get manifest .*HTTP 401", "docker login"),
        (Fault("GET .*/manifests/", 404), 6, "has no bases/test@sha256:", "base pin"),
        (Fault("GET .*/manifests/", flip=True), 8, "get manifest .*the bytes have digest", "wrong content"),
        (Fault("GET .*/manifests/", cut=True), 6, "get manifest .*cut short", "run it again"),
        (Fault("GET .*/blobs/LAYER", 404), 6, "get blob .*HTTP 404", "check"),
        (Fault("GET .*/blobs/LAYER", flip=True), 8, "holds other bytes", "wrong content"),
        (Fault("GET .*/blobs/(?!LAYER)", flip=True), 8, "holds other bytes", "wrong content"),
    ],
    ids=lambda value: f"{value.pattern}-{value.status or 'flip' * value.flip + 'cut' * value.cut}" if isinstance(value, Fault) else None,
)  # fmt: skip
def test_a_base_that_cannot_be_read(
    make_world: MakeWorld, base: SmallBase, faulty: FaultyRegistry, fault: Fault, code: int, error: str, hint: str
) -> None:
    world = make_world(mirror=faulty.host, warm=False)
    fault.pattern, fault.times = fault.pattern.replace("LAYER", str(base.layer)), -1
    faulty.faults = [fault]
    world.run("image", "blue").failed(code, error, hint)
    world.nothing_made()
    assert fault.seen


def test_a_base_cut_short_is_gone_on_from(make_world: MakeWorld, base: SmallBase, faulty: FaultyRegistry) -> None:
    world = make_world(mirror=faulty.host, warm=False)
    faulty.faults = [Fault(f"GET .*/blobs/{base.layer}", flip=True, times=1)]
    world.run("image", "blue").failed(8, "holds other bytes", "run it again")
    faulty.faults = [Fault(f"GET .*/blobs/{base.layer}", cut=True, times=1)]
    world.run("image", "blue").succeeded()
    assert len([line for line in faulty.requests if str(base.layer) in line]) == 3


def test_a_digest_the_registry_does_not_have(make_world: MakeWorld, base: SmallBase) -> None:
    world = make_world(warm=False)
    world.edit("images/catalogue.toml", str(base.digest), f"sha256:{'0' * 64}")
    world.run("image", "blue").failed(6, f"has no bases/test@sha256:{'0' * 64}", "base pin")
    world.run("base", "pin", "tiny").succeeded()  # what the hint says works
    world.run("image", "blue").succeeded()


# --- killed, stopped, twice at once ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(base: SmallBase, index_url: str, locks: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Done:
    """A run of :func:`many` that nothing disturbs."""
    world = World(tmp_path_factory.mktemp("undisturbed") / "world", base, index_url)
    world.write("images/blue/requirements.in", many())
    world.write("lockfiles/pylock.blue.toml", locks(many()))
    return world.run("image", "blue").succeeded()


def check_layout(world: World, expected: str) -> None:
    """skopeo reads the image from the layout folder, and it is the expected one."""
    (tag,) = world.tags()
    raw = subprocess.run(
        [need("skopeo"), "inspect", "--raw", f"oci:{world.state}/registry:blue:{tag}"], capture_output=True, check=True
    ).stdout
    assert str(Digest.of(raw)) == expected
    own = json.loads(raw)["layers"][-1]
    assert Digest.of((world.state / "registry/blobs/sha256" / own["digest"][7:]).read_bytes()) == own["digest"]


def kill_at(world: World, command: str, delay: float, number: int = signal.SIGKILL) -> Done:
    started = time.monotonic()
    process = world.start(command, "blue")
    time.sleep(delay)
    process.send_signal(number)
    return world.finish(process, started)


def test_killed_at_any_moment_and_run_again(make_world: MakeWorld, undisturbed: Done) -> None:
    world = make_world(requirements=many())
    chance, length, killed = random.Random(2), undisturbed.seconds, 0
    for _ in range(24):
        # Each run goes on where the last one fell, so the moments spread over all of the work.
        done = kill_at(world, "image", length * chance.uniform(0.2, 0.9))
        if done.code == -signal.SIGKILL:
            killed += 1
        else:
            done.succeeded()
            world.forget_image(members=True)
        length = done.seconds if done.code == 0 else length
        if killed == 8:
            break
    assert killed == 8
    assert world.run("image", "blue").succeeded().digest == undisturbed.digest
    check_layout(world, undisturbed.digest)
    # What the killed runs left behind goes away in time.
    for path in world.root.rglob(".tmp*"):
        os.utime(path, (1, 1), follow_symlinks=False)
    world.run("image", "blue").succeeded()
    assert not list(world.cache.glob(".tmp*"))


def test_killed_while_locking_and_run_again(make_world: MakeWorld, locks: Callable[[str], str]) -> None:
    expected = locks(many())
    world = make_world(requirements=many(), locked=False)
    for delay in (0.3, 0.6, 0.9, 1.2):
        kill_at(world, "lock", delay)
        assert not world.lockfile.exists() or world.lockfile.read_text(encoding="utf-8").endswith("\n")
    world.run("lock", "blue").succeeded()
    assert without_cutoff(world.lockfile.read_text(encoding="utf-8")) == without_cutoff(expected)


def without_cutoff(text: str) -> str:
    return re.sub(r"(?m)^cutoff = .*$", "", text)


def test_killed_while_a_base_is_read_and_run_again(make_world: MakeWorld, undisturbed: Done) -> None:
    world = make_world(requirements=many(), warm=False)
    for delay in (0.4, 0.8, 1.2):
        kill_at(world, "image", delay)
    assert world.run("image", "blue").succeeded().digest == undisturbed.digest
    check_layout(world, undisturbed.digest)


@pytest.mark.parametrize(
    ("number", "code", "moment"),
    [
        (signal.SIGTERM, 143, "fetching"),
        (signal.SIGTERM, 143, "resolving"),
        (signal.SIGTERM, 143, "reading"),
        (signal.SIGINT, 130, "fetching"),
        (signal.SIGHUP, 129, "resolving"),
    ],
)
def test_stopped_by_a_signal(make_world: MakeWorld, index: SlowIndex, number: int, code: int, moment: str) -> None:
    world = make_world(requirements=many(), locked=moment != "resolving", warm=moment != "reading")
    index.delay = 0.5
    try:
        started = time.monotonic()
        process = world.start("lock" if moment == "resolving" else "image", "blue")
        assert process.stderr is not None
        for line in process.stderr:
            if moment in line:
                break
        time.sleep(0.2)
        process.send_signal(number)
        sent = time.monotonic()
        done = world.finish(process, started)
        assert time.monotonic() - sent < 8
    finally:
        index.delay = 0.0
    assert done.code == code, done.err
    assert re.search(r"(interrupted|stopped by SIG\w+); nothing half-written was kept$", done.err.strip())
    assert "Traceback" not in done.err
    world.nothing_made()
    assert world.lockfile.exists() == (moment != "resolving")
    world.run("image", "blue").succeeded()


@pytest.mark.parametrize("warm", [True, False])
def test_two_runs_of_two_teams_at_once(make_world: MakeWorld, undisturbed: Done, warm: bool) -> None:
    world = make_world(requirements=many(), warm=warm)
    world.add_team("red", many())
    started = time.monotonic()
    processes = [world.start("image", team) for team in ("blue", "red", "blue", "red")]
    done = [world.finish(process, started).succeeded() for process in processes]
    assert done[0].digest == done[2].digest == undisturbed.digest
    assert done[1].digest == done[3].digest != done[0].digest
    assert len(world.tags("blue")) == len(world.tags("red")) == 1
    # Of each team the image, and the list of what refers to it: no writer lost another's entry.
    assert len(json.loads((world.state / "registry/index.json").read_bytes())["manifests"]) == 4
    assert world.leftovers() == []
    check_layout(world, undisturbed.digest)


# --- disks ----------------------------------------------------------------------------------------------------------


def test_a_read_only_cache(make_world: MakeWorld, public_folder: Path) -> None:
    user = as_nobody()
    world = make_world(root=public_folder / "world")
    world.python = find_ordinary_python(public_folder / "python")
    give_to_nobody(world.root)
    cache = public_folder / "cache"
    cache.mkdir(mode=0o555)
    refusal = world.run("image", "blue", "--cache-dir", str(cache), before=user)
    refusal.failed(3, f"not allowed to write .*{cache}", "--cache-dir")
    for name in ("wheels", "members"):
        (world.cache / name).mkdir(exist_ok=True)
        os.chown(world.cache / name, 0, 0)
        world.run("image", "blue", before=user).failed(3, f"not allowed to write .*/cache/{name}", "write access")
        world.nothing_made()
        (world.cache / name).rmdir()
    os.chown(world.root / "lockfiles", 0, 0)
    world.write("images/blue/requirements.in", "beta\n")
    world.run("lock", "blue", before=user).failed(3, "not allowed to write .*/lockfiles", "write access")
    assert world.leftovers() == []
    give_to_nobody(world.root)
    world.run("lock", "blue", before=user).succeeded()
    world.run("image", "blue", before=user).succeeded()


@pytest.mark.parametrize("size", ["1m", "20m"])
def test_a_full_cache(make_world: MakeWorld, tmp_path: Path, size: str) -> None:
    world = make_world(requirements=many(), warm=False)
    with small_disk(tmp_path / "disk", size) as disk:
        world.run("image", "blue", "--cache-dir", str(disk)).failed(3, "no space left", "nothing half-written was kept")
        assert not list(disk.rglob(".tmp*"))
        world.nothing_made()
        subprocess.run([need("mount"), "-o", "remount,size=200m", str(disk)], check=True)
        world.run("image", "blue", "--cache-dir", str(disk)).succeeded()


def test_a_full_state_folder(make_world: MakeWorld, undisturbed: Done, tmp_path: Path) -> None:
    world = make_world(requirements=many())
    cache = tmp_path / "cache"
    world.cache.rename(cache)
    with small_disk(world.state, "1m") as disk:
        world.run("image", "blue", "--cache-dir", str(cache)).failed(3, "no space left", "free some disk")
        assert world.leftovers() == []
        assert not list(cache.rglob(".tmp*"))
        assert world.tags() == []
        subprocess.run([need("mount"), "-o", "remount,size=64m", str(disk)], check=True)
        assert world.run("image", "blue", "--cache-dir", str(cache)).succeeded().digest == undisturbed.digest
        check_layout(world, undisturbed.digest)


def damage(path: Path, how: str) -> None:
    if how == "flipped":
        flip(path)
    else:
        path.unlink()
        path.write_bytes(b"")


@pytest.mark.parametrize("how", ["flipped", "empty"])
def test_a_cache_that_rotted_is_made_anew(make_world: MakeWorld, how: str) -> None:
    world = make_world(requirements="alpha\nbeta\n", locked=False)
    world.add_package()
    first = world.run("image", "blue").succeeded()
    text = world.lockfile.read_text(encoding="utf-8")
    base_files = ("tree.sqlite", "manifest.json", "config.json", "inventory.json", "facts.json") if how == "flipped" else ("tree.sqlite",)
    patterns = [
        "wheels/*/*.whl", "members/*/member.tar.zst", "members/*/index.json", "local/*/*.whl", "local/*/wheel.json",
        *(f"bases/*/{name}" for name in base_files),
    ]  # fmt: skip
    for pattern in patterns:
        world.forget_image()
        found = list(world.cache.glob(pattern))
        assert found, pattern
        for path in found:
            damage(path, how)
        assert world.run("image", "blue").succeeded().digest == first.digest, pattern
    for path in world.cache.glob("metadata/*.json"):
        damage(path, how)
    world.run("lock", "blue", "--upgrade").succeeded()
    assert without_cutoff(world.lockfile.read_text(encoding="utf-8")) == without_cutoff(text)
    assert world.leftovers() == []


def test_a_layout_that_rotted(make_world: MakeWorld) -> None:
    world = make_world()
    first = world.run("image", "blue").succeeded()
    registry = world.state / "registry"
    index_file, blobs = registry / "index.json", registry / "blobs/sha256"
    manifest = blobs / first.digest[7:]
    layer = blobs / json.loads(manifest.read_bytes())["layers"][-1]["digest"][7:]
    whole = {path: path.read_bytes() for path in (index_file, manifest, layer)}
    for path in (index_file, manifest):
        path.write_bytes(whole[path][:-5])
        for command in (["image", "blue"], ["catalogue"]):
            world.run(*command).failed(8, "damaged|bytes", "restore|remove")
        path.write_bytes(whole[path])
    flip(manifest)
    world.run("image", "blue").failed(8, f"{first.digest} holds other bytes", f"remove {manifest} and run again")
    manifest.unlink()  # what the hint says
    assert "built in" in world.run("image", "blue").succeeded().out
    check_layout(world, first.digest)
    layer.unlink()
    assert "built in" in world.run("image", "blue").succeeded().out
    check_layout(world, first.digest)
    # A layer of the right size and with other bytes is found when the image is made again.
    flip(layer)
    manifest.unlink()
    world.run("image", "blue").succeeded()
    check_layout(world, first.digest)


# --- odd places and environments ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(base: SmallBase, index_url: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Done]:
    """A world in a plain folder with an internal package, and its image's run."""
    world = World(tmp_path_factory.mktemp("plain") / "world", base, index_url)
    world.add_package()
    return world, world.run("image", "blue").succeeded()


@pytest.mark.parametrize(
    "environment",
    [
        {"HOME": None, "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "2", "TZ": "Asia/Tokyo", "SOURCE_DATE_EPOCH": "5"},
        {
            "HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent", "TMPDIR": "/nonexistent",
            "PIP_INDEX_URL": NOBODY_LISTENS, "PIP_REQUIRE_HASHES": "1", "PIP_USER": "1", "PIP_TARGET": "/nonexistent", "PIP_NO_INDEX": "1",
            "PIP_CONSTRAINT": "/nonexistent", "PIP_NO_BINARY": ":all:", "PIP_PREFIX": "/x", "PIP_CONFIG_FILE": "/nonexistent",
        },
        {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "de_DE.ISO-8859-1", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["no-home", "pip", "c-locale", "latin-locale"],
)  # fmt: skip
def test_the_environment_changes_nothing(
    make_world: MakeWorld, plain: tuple[World, Done], tmp_path: Path, environment: dict[str, str | None]
) -> None:
    expected, first = plain
    world = make_world(root=tmp_path / 'so wie\'s "hier" heißt, 図', locked=False)
    world.add_package()
    world.run("lock", "blue", environment=environment).succeeded()
    assert without_cutoff(world.lockfile.read_text(encoding="utf-8")) == without_cutoff(expected.lockfile.read_text(encoding="utf-8"))
    shutil.copy(expected.lockfile, world.lockfile)
    assert world.run("image", "blue", environment=environment).succeeded().digest == first.digest
    check_layout(world, first.digest)
    world.write("images/blue/requirements.in", "größe\n")
    world.run("lock", "blue", environment=environment).failed(3, "line 1 is not a requirement")


def run_in_shell(world: World, command: Sequence[str], redirection: str) -> subprocess.CompletedProcess[str]:
    script = f'set -o pipefail; "$@" {redirection}'
    return subprocess.run(
        ["bash", "-c", script, "bash", *world.command(*command)], capture_output=True, text=True, check=False, env=world.environment()
    )


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "2>/dev/full", "| true"])
def test_nobody_reads_the_output(make_world: MakeWorld, redirection: str) -> None:
    world = make_world()
    done = run_in_shell(world, ["image", "blue"], redirection)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert len(world.tags()) == 1
    done = run_in_shell(world, ["image", "nothing"], redirection)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough(make_world: MakeWorld) -> None:
    done = run_in_shell(make_world(), ["base", "inspect", "tiny", "--json"], "| head -c 1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")


def test_a_reader_that_leaves_does_not_stop_the_other_teams(make_world: MakeWorld) -> None:
    world = make_world()
    world.add_team("red", "alpha\n")
    done = run_in_shell(world, ["image", "--all"], "| true")
    assert done.returncode == 0, done.stderr
    assert len(world.tags("blue")) == len(world.tags("red")) == 1


def test_a_full_disk_behind_stdout(make_world: MakeWorld) -> None:
    done = run_in_shell(make_world(), ["base", "list"], ">/dev/full")
    assert done.returncode == 3
    assert re.fullmatch(r"error: no space left .*\nhint: .*\n", done.stderr)


def test_an_ordinary_user_with_a_folder_of_their_own(make_world: MakeWorld, public_folder: Path) -> None:
    user = as_nobody()
    world = make_world(root=public_folder / "world", warm=False, locked=False)
    world.python = find_ordinary_python(public_folder / "python")
    world.add_package()
    give_to_nobody(world.root)
    done = world.run("image", "blue", before=user, environment={"HOME": "/nonexistent"}).succeeded()
    world.run("catalogue", "--format", "json", before=user).succeeded()
    check_layout(world, done.digest)
    owners = {path.lstat().st_uid for path in world.root.rglob("*")}
    assert owners == {65534}
    assert zipfile.is_zipfile(next(world.cache.glob("local/*/*.whl")))
