"""What must hold of some bases beyond the round: a framework is kept, Debian's packages stay, a base's own constraints still count."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from packaging.version import Version

from bench.bases.rounds import TEAM, Round
from bench.bases.standins import NGC_CONSTRAINTS, StandIn
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.file.replacement import PROTECTED, match_protected
from tests.support.servers.index import FakeIndex
from tests.support.tools import need_docker
from tests.support.workspaces import run_tool

RESOLVERS = ("uv", "pip-tools")
FRAMEWORK_USERS = ("timm", "lightning", "sentence-transformers")
SERVING = "serving-engine"  # asks for one exact torch, as vllm does


@contextlib.contextmanager
def serve_house() -> Iterator[str]:
    """A package index with what no public one has: its URL."""
    index = FakeIndex()
    index.metadata = True
    index.add(SERVING, "1.0", ["torch==2.13.0", "torchvision", "numpy", "filelock", 'nvidia-serving-kernels; extra == "kernels"'])
    index.add("gadget", "1.0")
    index.add("gadget", "2.0")
    with index.serve() as url:
        yield url


def _house_table(url: str, *names: str) -> str:
    return f'[[index]]\nname = "serving"\nurl = "{url}"\nnames = [{", ".join(map(repr, names))}]\n'


def keep_torch(one: Round) -> None:
    """Neither resolver locks a framework, or a library of CUDA, beside the one that the base has."""
    torch = one.item.versions["torch"]
    for number, name in enumerate(FRAMEWORK_USERS):
        one.write_team(f"{name}\n", f"torch{number}")
        for resolver in RESOLVERS:
            one.checkout.run("lock", f"torch{number}", "--resolver", resolver, "--upgrade").succeeded()
            lock = read_lock(one.lockfile(f"torch{number}"))
            more = [package.name for package in lock.packages if match_protected(package.name, PROTECTED) or package.name == "torchvision"]
            assert not more, (name, resolver, more)
            assert f"torch=={torch}" in lock.satisfied, (name, resolver, lock.satisfied)


def pin_torch(one: Round) -> None:
    """What asks for one exact torch is locked where the base's is that one, and else refused in one sentence that names both."""
    torch = one.item.versions["torch"]
    with serve_house() as url:
        one.write_team(f"{SERVING}\n", "serving", _house_table(url, SERVING))
        for resolver in RESOLVERS:
            done = one.checkout.run("lock", "serving", "--resolver", resolver, "--upgrade")
            if Version(torch).is_prerelease:
                done.failed(4, rf"{SERVING} (1\.0 )?needs torch==2\.13\.0; the base {one.item.name} has torch {torch.replace('+', '.')}")
            else:
                done.succeeded()
                assert [package.name for package in read_lock(one.lockfile("serving")).packages] == [SERVING]


def keep_debian(one: Round) -> None:
    """A newer pandas than Debian's is refused in one sentence; so is the wish to replace Debian's."""
    held = one.item.versions["pandas"]
    one.write_team("pandas>=2.2\n", "tables")
    for resolver in RESOLVERS:
        said = rf"requirements\.in line 1 asks for pandas>=2\.2; the base {one.item.name} has pandas {held}"
        one.checkout.run("lock", "tables", "--resolver", resolver).failed(4, said, hint=".")
    one.write_team("pandas>=2.2\n", "tables", 'replace = ["pandas"]\n')
    one.checkout.run("lock", "tables").failed(
        4, f"pandas {held} of the base {one.item.name} cannot be replaced: it was installed by Debian's dpkg"
    )


def keep_constraints(one: Round) -> None:
    """``pip install --user`` in a notebook holds to the constraints of base and image; a lock against the base's is warned of."""
    docker = need_docker()
    locked = read_lock(one.lockfile(TEAM)).packages[0].name
    tag = one.checkout.image(TEAM, "--registry", one.target)["tag"]
    image = f"{one.target}/{TEAM}:{tag}"
    with serve_house() as url:
        one.write_team("gadget==2.0\n", "gadgets", _house_table(url, "gadget"))
        done = one.checkout.run("lock", "gadgets").succeeded()
        assert f"constraints for pip ({NGC_CONSTRAINTS}) that do not allow gadget 2.0" in done.err, done.err
        pip = f"python3 -m pip install --user --quiet --index-url {url}"
        script = (
            f"test -r {NGC_CONSTRAINTS}; {pip} gadget && python3 -c 'import importlib.metadata as m; print(m.version(\"gadget\"))'; "
            f"{pip} gadget==2.0 2>&1 || echo refused; {pip} {locked}==0.0.1 2>&1 || echo refused"
        )
        try:
            out = run_tool(docker, "run", "--rm", "--network=host", "--entrypoint", "sh", image, "-c", script).decode()
        finally:
            run_tool(docker, "rmi", "--force", image)
    assert out.startswith("1.0\n"), out
    assert out.count("refused\n") == 2, out
    assert out.count("conflicting dependencies") == 2, out


def choose_claims(item: StandIn) -> Mapping[str, Callable[[Round], None]]:
    """The claims that are about such a base."""
    found: dict[str, Callable[[Round], None]] = {}
    if "torch" in item.versions:
        found |= {"keeps torch": keep_torch, "pins torch": pin_torch}
    if "pandas" in item.versions:
        found |= {"keeps Debian's": keep_debian, "constraints": keep_constraints}
    return found
