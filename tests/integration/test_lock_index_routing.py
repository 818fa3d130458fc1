"""Private, public and hostile indexes side by side, by the whole command line: where packages come from, and proof of it later."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from imagebuild.errors import LockError
from imagebuild.lock.request import RESOLVERS
from imagebuild.lock.wheels.fetching import fetch_wheels
from tests.integration.test_lock_resolving import lock_for, public, versions
from tests.support.builders import encode_wheel
from tests.support.servers.index import FakeIndex, make_index, run_pypiserver
from tests.support.tools import ignore, need_docker
from tests.support.workspaces import Built, Checkout

pytestmark = pytest.mark.integration
PASSWORD = "c0rrect-horse"


@dataclass(frozen=True)
class World:
    """A team ``alpha`` on the starter base, a private index behind a password, and a public one that somebody hostile fills too."""

    checkout: Checkout
    private: Path  # the wheels of the private index
    public: FakeIndex
    addresses: tuple[str, str]

    @property
    def lock(self) -> str:
        return (self.checkout.root / "lockfiles/pylock.alpha.toml").read_text()

    def packages(self) -> dict[str, tuple[str, str]]:
        """name -> (version, index), as any reader of TOML sees it."""
        found = tomllib.loads(self.lock)["packages"]
        return {item["name"]: (item["version"], item["tool"]["imagebuild"]["index"]) for item in found}


def publish(folder: Path, name: str, version: str, *requires: str, extra: bytes = b"x = 1\n") -> Path:
    filename, data = encode_wheel(name, version, requires, extra=extra)
    path = folder / filename
    path.write_bytes(data)
    return path


@pytest.fixture
def world(built: Built, tmp_path: Path) -> Iterator[World]:
    private = tmp_path / "corp"
    private.mkdir()
    publish(private, "cosml-utils", "1.0", "cosml-core", "left")
    publish(private, "cosml-core", "1.0")
    hostile = FakeIndex()
    hostile.add("left", "1.0")
    hostile.add("front", "1.0", ["cosml_core>=1"])
    hostile.add("cosml-utils", "99.0")
    hostile.add("cosml-core", "99.0")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(hostile.serve())
        own = stack.enter_context(run_pypiserver(private, "joe", PASSWORD))
        checkout = built.checkout.fork(tmp_path / "checkout")
        settings = {"PIP_INDEX_URL": url, "PIP_CONFIG_FILE": "/dev/null", "CORP_USER": "joe", "CORP_PASSWORD": PASSWORD}
        checkout = Checkout(checkout.root, tmp_path / "cache", settings)
        checkout.cache.mkdir()
        shutil.copytree(built.checkout.cache / "bases", checkout.cache / "bases", symlinks=True)  # what is known of the base
        checkout.write("images/alpha/team.toml", 'base = "starter"\n')
        checkout.write("images/alpha/requirements.in", "cosml-utils\nfront\n")
        checkout.write(
            "images/indexes.toml",
            f'[[index]]\nname = "corp"\nurl = "{own}"\nnames = ["cosml-*"]\ncredentials = "env:CORP_USER,CORP_PASSWORD"\n',
        )
        yield World(checkout, private, hostile, (url, own))


def test_a_private_index_behind_a_password_and_a_hostile_public_one(world: World) -> None:
    """pypiserver serves PEP 503 HTML only; the public index offers 99.0 of two of its names, one of them transitive."""
    done = world.checkout.run("lock", "alpha").succeeded()
    assert world.packages() == {
        "cosml-core": ("1.0", "corp"),
        "cosml-utils": ("1.0", "corp"),
        "front": ("1.0", "default"),
        "left": ("1.0", "default"),
    }
    assert not any("cosml" in path for path, _ in world.public.requests)
    assert not any(world.public.authorizations)
    for secret in (PASSWORD, "joe", *world.addresses, "127.0.0.1"):
        assert secret not in world.lock + done.out + done.err
    checked = world.checkout.run("lock", "alpha", "--check").succeeded()
    assert "hashes are listed as locked: 2 by corp, 2 by default" in checked.out
    result = world.checkout.image("alpha")
    assert (result["built"], result["packages"]) == (True, 4)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_private_index_that_redirects_what_it_lacks(world: World, resolver: str) -> None:
    """pypiserver as it is installed: what it does not have it redirects to the public index, where a stranger has the name."""
    world.public.add("cosml-gone", "99.0")
    public = world.addresses[0].removesuffix("/simple/")
    with run_pypiserver(world.private, "joe", PASSWORD, fallback=world.addresses[0]) as own:
        world.checkout.edit("images/indexes.toml", world.addresses[1], own)
        world.checkout.run("lock", "alpha", "--resolver", resolver).succeeded()
        assert world.packages()["cosml-core"] == ("1.0", "corp")
        good = world.lock
        looks = {item["subject"]: item for item in json.loads(world.checkout.run("doctor", "--json").out)}
        assert looks["index corp"]["status"] == "note"
        assert looks["index corp"]["text"].startswith(f"redirects the page of cosml-x to {public}: the redirect is not followed")
        assert f'redirects = ["{public.removeprefix("http://")}"]' in looks["index corp"]["hint"]
        assert looks["index default"]["status"] == "ok"
        world.checkout.write("images/alpha/requirements.in", "cosml-gone\nfront\n")
        done = world.checkout.run("lock", "alpha", "--resolver", resolver).refused(
            4,
            f"requirements.in line 1 asks for cosml-gone; package index 'corp' redirects cosml-gone to {public}: ",
            hint="list it in the index's redirects",
        )
        assert done.err.count(f"warning: package index 'corp' redirects cosml-gone to {public}: ") == 1
        assert world.lock == good
        assert not any("cosml" in path for path, _ in world.public.requests)
        # A lock that an earlier version made through the redirect does not pass.
        world.checkout.write("images/alpha/requirements.in", "cosml-utils\nfront\n")
        stranger = next(name for name in world.public.bodies if name.startswith("cosml_core-99"))
        sha256 = hashlib.sha256(world.public.bodies[stranger]).hexdigest()
        old = next(item for item in tomllib.loads(good)["packages"] if item["name"] == "cosml-core")["wheels"][0]
        text = good.replace(old["path"], stranger).replace(old["hashes"]["sha256"], sha256)
        text = text.replace(f"size = {old['size']}", f"size = {len(world.public.bodies[stranger])}")
        text = text.replace('name = "cosml-core"\nversion = "1.0"', 'name = "cosml-core"\nversion = "99.0"')
        world.checkout.write("lockfiles/pylock.alpha.toml", text)
        (world.private / old["path"]).unlink()
        world.checkout.run("lock", "alpha", "--check").refused(
            8,
            rf"cosml_core-99\.0-py3-none-any\.whl \(corp\) is gone: its page redirects to {re.escape(public)}, which",
        )
        world.checkout.run("image", "alpha").refused(4, r"cosml_core-99\.0-py3-none-any\.whl is no longer on package index 'corp'")
        assert not any("cosml" in path for path, _ in world.public.requests)


def test_a_wrong_password_and_none(world: World) -> None:
    world.checkout.settings["CORP_PASSWORD"] = "guess"
    world.checkout.run("lock", "alpha").refused(6, r"package index 'corp' answered 40[13] for the page of cosml-utils", hint="credentials")
    del world.checkout.settings["CORP_PASSWORD"]
    world.checkout.run("lock", "alpha").refused(3, "'corp' takes its credentials from the environment, and CORP_PASSWORD is not set")


def test_a_name_no_index_may_serve(world: World) -> None:
    text = (world.checkout.root / "images/indexes.toml").read_text()
    world.checkout.write("images/indexes.toml", "machine-index = false\n" + text)
    world.checkout.write("images/alpha/requirements.in", "cosml-utils\n")
    world.checkout.run("lock", "alpha").refused(
        4, r"^error: no package index may serve left\ncosml-utils 1\.0 needs left\n", hint="machine-index = true"
    )
    assert world.public.requests == []
    assert not (world.checkout.root / "lockfiles/pylock.alpha.toml").exists()


def test_a_file_that_changes_after_locking(world: World) -> None:
    """Both indexes replace a file: the check says so, a build keeps nothing of it, and the lock stays as it is."""
    world.checkout.run("lock", "alpha").succeeded()
    before = world.lock
    publish(world.private, "cosml-core", "1.0", extra=b"import os\n")
    world.public.add("left", "1.0", extra=b"import os\n")
    world.checkout.run("lock", "alpha", "--check").refused(
        8,
        "the lock of alpha can no longer be fetched: 2 of 4 files are not what their index lists",
        r"cosml_core-1\.0-py3-none-any\.whl \(corp\) is another file: locked sha256 [0-9a-f]{64}, now [0-9a-f]{64}\n",
        r"left-1\.0-py3-none-any\.whl \(default\) is another file",
        hint="images that were built stay",
    )
    offline = world.checkout.run("lock", "alpha", "--check", "--offline").succeeded()
    assert "not checked (--offline): whether the indexes still list the 4 files" in offline.out
    world.checkout.run("image", "alpha").refused(8, "now has another file (cosml_core|left)-1")
    kept = [path.name for path in (world.checkout.cache / "wheels").rglob("*") if path.is_file()]
    assert not [name for name in kept if name.startswith(("cosml_core", "left", ".tmp"))]
    assert world.lock == before
    (world.private / "cosml_core-1.0-py3-none-any.whl").unlink()
    world.checkout.run("lock", "alpha", "--check").refused(8, r"cosml_core-1\.0-py3-none-any\.whl \(corp\) is gone")


def test_a_file_that_is_yanked_after_locking(world: World) -> None:
    world.checkout.run("lock", "alpha").succeeded()
    world.public.add("left", "1.0", yanked="leaks memory")
    done = world.checkout.run("lock", "alpha", "--check", "--quiet").succeeded()
    assert "alpha: warning: left-1.0-py3-none-any.whl (default) was yanked: leaks memory" in done.out
    world.public.add("left", "1.1")
    done = world.checkout.run("lock", "alpha").succeeded()
    assert "left 1.0 was yanked from package index 'default': the lock takes 1.1 instead" in done.err
    assert world.packages()["left"] == ("1.1", "default")
    world.checkout.write("images/alpha/requirements.in", "left==1.0\n")
    done = world.checkout.run("lock", "alpha", "--quiet").succeeded()
    assert done.out == "left==1.0  (default; asked for by requirements.in; YANKED: leaks memory)\n"
    assert 'yanked = "leaks memory"' in world.lock
    world.checkout.run("lock", "alpha", "--check").succeeded()


def test_a_name_that_is_routed_elsewhere_since(world: World) -> None:
    world.checkout.run("lock", "alpha").succeeded()
    world.checkout.edit("images/indexes.toml", '["cosml-*"]', '["cosml-*", "left"]')
    world.checkout.run("lock", "alpha", "--check", "--offline").refused(
        4, "left is locked from package index 'default', and today it may only come from 'corp'"
    )


def test_wheels_by_address_included_files_and_both_engines(world: World) -> None:
    """``name @ https://…#sha256=…`` through lock, check, both engines and the tag; an included file is an input."""
    need_docker()
    filename = world.public.add("direct", "2.0", ["left"], extra=b"y = 2\n")
    digest = hashlib.sha256(world.public.bodies[filename]).hexdigest()
    address = world.addresses[0].replace("/simple/", f"/files/{filename}")
    del world.public.files["direct"]  # on no index
    world.checkout.write("images/alpha/requirements.in", f"direct @ {address}#sha256={digest}\n-r ../common.in\n")
    world.checkout.write("images/common.in", "front\n-c limits.txt\n")
    world.checkout.write("images/limits.txt", "left<2\n")
    world.public.add("left", "2.0")
    world.checkout.run("lock", "alpha").succeeded()
    assert world.packages() == {
        "cosml-core": ("1.0", "corp"),
        "direct": ("2.0", "url"),
        "front": ("1.0", "default"),
        "left": ("1.0", "default"),
    }
    assert f'url = "{address}"' in world.lock
    assert '"images/limits.txt" = ' in world.lock
    shutil.rmtree(world.checkout.cache / "wheels")
    done = world.checkout.run("verify", "--twin", "alpha").succeeded()
    assert "alpha: both engines build the same layer" in done.out
    assert world.checkout.image("alpha")["packages"] == 4
    done = world.checkout.run("lock", "alpha", "--check").succeeded()
    assert f"not proved: {filename} (url) is there" in done.out
    world.checkout.write("images/limits.txt", "left<3\n")
    world.checkout.run("image", "alpha").refused(4, "the lock of alpha is stale: images/limits.txt changed")


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_resolvers_take_addresses_extras_markers_and_constraints(tmp_path: Path, resolver: str) -> None:
    fake = public()
    filename = fake.add("direct", "2.0", ["beta", "six; extra == 'more'"])
    fake.add("direct", "9.0")
    digest = hashlib.sha256(fake.bodies[filename]).hexdigest()
    (tmp_path / "project").mkdir()
    (tmp_path / "project/limits.txt").write_text("beta<2\ned==1.0; python_version < '3'\n")
    with fake.serve() as url:
        address = url.replace("/simple/", f"/files/{filename}")
        text = f"direct[more] @ {address}#sha256={digest} ; python_version > '3'\ned ; sys_platform == 'win32'\n-c limits.txt\n"
        lock = lock_for(tmp_path, text, [make_index(url)], resolver=resolver)
        assert fetch_wheels(lock, lambda: [make_index(url)], tmp_path / "other", {}, ignore)["direct"].read_bytes() == fake.bodies[filename]
        (tmp_path / "project/limits.txt").write_text("beta<1.0\n")
        with pytest.raises(LockError, match=r"direct( 2\.0)? needs beta; limits\.txt line 1 allows beta<1\.0 only"):
            lock_for(tmp_path, text, [make_index(url)], resolver=resolver)
    assert versions(lock) == {"beta": "1.0", "direct": "2.0", "six": "1.0"}
    by_name = {item.name: item for item in lock.packages}
    assert (by_name["direct"].index, by_name["direct"].url, by_name["direct"].via) == ("url", address, ("requirements.in",))
    assert by_name["direct"].dependencies == ("beta", "six")
    assert set(lock.inputs) == {"requirements.in", "limits.txt"}
    assert not any(path.startswith("/simple/direct") for path, _ in fake.requests)


@pytest.mark.parametrize("resolver", RESOLVERS)
def test_a_package_cannot_send_another_by_address(tmp_path: Path, resolver: str) -> None:
    """A resolver would fetch it itself: it is shown the name only, and a lock that would hold it is refused."""
    fake, elsewhere = public(), FakeIndex()
    evil = elsewhere.add("beta", "99.0")
    with fake.serve() as url, elsewhere.serve() as other:
        address = other.replace("/simple/", f"/files/{evil}")
        fake.add("sender", "1.0", [f"beta @ {address}"])
        fake.add("optional", "1.0", [f"beta @ {address} ; extra == 'more'"])
        with pytest.raises(LockError, match="sender needs beta by URL, which would bypass the indexes"):
            lock_for(tmp_path, "sender\n", [make_index(url)], resolver=resolver)
        assert versions(lock_for(tmp_path, "optional\n", [make_index(url)], resolver=resolver)) == {"optional": "1.0"}
    assert elsewhere.requests == []


def test_a_mirror_that_advertises_metadata_and_lacks_it(tmp_path: Path) -> None:
    fake = public()
    fake.metadata = fake.metadata_missing = True
    with fake.serve() as url:
        lock = lock_for(tmp_path, "alpha\n", [make_index(url)])
    assert versions(lock) == {"alpha": "1.0", "beta": "2.0"}
    assert any(path.endswith(".metadata") for path, _ in fake.requests)
    assert msgspec.structs.asdict(lock.packages[0])["size"] == len(fake.bodies["alpha-1.0-py3-none-any.whl"])
