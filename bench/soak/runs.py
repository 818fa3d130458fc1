"""Attacks on whole runs of the command line: registries that fail, kills, crowds, full disks, odd places."""

from __future__ import annotations

import contextlib
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.soak.arena import LONGEST, Arena, age_temporaries, find_processes, forget, read_digest, require, wait_for_processes
from tests.support.servers.faulty import Fault, FaultyRegistry
from tests.support.tools import as_nobody, find_ordinary_python, give_to_nobody, small_disk
from tests.support.worlds import World

_OWN_WORK = 30.0  # seconds, beside the two time-outs that a registry may cost
_REFUSED = b'{"errors":[{"code":"DENIED","message":"a test"}]}'


@contextlib.contextmanager
def _world(arena: Arena, **options: object) -> Iterator[World]:
    world = arena.make_world(**options)  # type: ignore[arg-type]
    try:
        yield world
    finally:
        forget(world)


# --- (a) pushes and pulls through a registry that fails -----------------------------------------------------------------


def _draw_faults(chance: random.Random) -> list[Fault]:
    method = [r"POST .*mount=", r"POST ", r"PUT .*blobs/uploads", r"PUT .*manifests/", r"HEAD ", r"GET .*blobs/", r"GET .*manifests/", r""]
    kinds: list[Callable[[], dict[str, object]]] = [
        lambda: {"status": chance.choice([500, 502, 503, 504])},
        lambda: {"status": 429, "headers": {"Retry-After": "0"}},
        lambda: {"status": chance.choice([400, 403, 404, 405, 501]), "body": _REFUSED},
        lambda: {"cut": True},
        lambda: {"reset": True},
        lambda: {"flip": True},
        lambda: {"stall": chance.uniform(0.1, 2.0)},
        lambda: {"status": 200, "body": b"<html>a proxy's page</html>", "headers": {"Content-Type": "text/html"}},
    ]
    times = [1, 1, 2, 3, -1]
    return [
        Fault(chance.choice(method), times=chance.choice(times), **chance.choice(kinds)())  # type: ignore[arg-type]
        for _ in range(chance.randint(1, 3))
    ]


def attack_registry(arena: Arena, chance: random.Random) -> str:
    """A push, and half of the time a cold base too, through a proxy that breaks answers; then the same without it."""
    with FaultyRegistry(arena.registry).serve() as proxy:
        cold = chance.random() < 0.4
        with _world(arena, mirror=proxy.host, warm=not cold) as world:
            space = f"soak{arena.count}"
            proxy.faults = _draw_faults(chance)
            done = arena.run(world, "image", "blue", "--json", "--registry", f"{proxy.host}/{space}")
            tags = arena.check_registry(f"{space}/blue")
            if done.code:
                require(done.code in {6, 8}, f"exit {done.code} for a registry's failure: {done.err[-600:]}")
            else:
                require(tags, "a push succeeded, and there is no tag")
            proxy.faults = []
            catalogue = world.root / "images" / "catalogue.toml"
            catalogue.write_text(catalogue.read_text("utf-8").partition("[mirrors]")[0], "utf-8")
            digest = arena.build(world, "--registry", f"{arena.registry.host}/{space}")
            require(done.code or read_digest(done) == digest, "a disturbed push gave another digest")
            require(arena.check_registry(f"{space}/blue"), "no tag after the plain run")
            return "refused" if done.code else "right"


# --- (b) kills ----------------------------------------------------------------------------------------------------------

_FORM = "spawnerFormDefaults:\n  image:\n    # ours\n    value: x\n    options: []\n"


def _prepare_commands(arena: Arena, world: World, chance: random.Random) -> tuple[list[str], Callable[[], object]]:
    """A command to kill, and what tells its result apart from half of one."""
    registry = ["--registry", f"{arena.registry.host}/soak{arena.count}"]
    root = world.root
    kind = chance.choice(["image", "image", "warm", "registry", "registry", "lock", "keep", "retire", "prewarm", "merge"])
    if kind == "image":
        return ["image", "blue", "--json"], lambda: arena.build(world)
    if kind == "warm":
        arena.build(world)
        world.forget_image()
        return ["image", "blue", "--json"], lambda: arena.build(world)
    if kind == "registry":
        return ["image", "blue", "--json", *registry], lambda: arena.build(world, *registry)
    if kind == "lock":
        before = world.lockfile.read_bytes()
        world.lockfile.unlink()

        def relock() -> None:
            arena.succeed(world, "lock", "blue")
            require(b"part0" in world.lockfile.read_bytes() and len(before) > 0, "the lock is not whole")

        return ["lock", "blue"], relock
    arena.build(world, *registry)
    if kind == "keep":
        return ["keep", "blue", "good-one", *registry], lambda: arena.succeed(world, "keep", "blue", "good-one", *registry)
    if kind == "retire":
        (root / "nothing.json").write_text('{"kind": "List", "apiVersion": "v1", "items": []}')
        return ["retire", "blue", *registry], lambda: arena.build(world, *registry)
    pause = f'[prewarm]\npause-image = "registry.example/pause@sha256:{"0" * 64}"\n'
    world.write("images/pools.toml", pause + '[pool.gpu]\nlabels = { "a" = "b" }\nteams = ["blue"]\n')
    if kind == "prewarm":
        command = ["prewarm", "--kustomize", str(root / "out"), *registry]

        def render() -> None:
            arena.succeed(world, *command)
            require((root / "out" / "kustomization.yaml").read_text("utf-8").endswith("\n"), "kustomization.yaml is not whole")

        return command, render
    form = root / "form.yaml"
    form.write_text(_FORM)
    command = ["catalogue", "--format", "kubeflow", "--merge", str(form), "--in-place", *registry]

    def merge() -> None:
        text = form.read_text("utf-8")
        require(text == _FORM or "/blue:" in text, "the merged file is half of one")
        arena.succeed(world, *command)
        require("/blue:" in form.read_text("utf-8"), "nothing was merged")

    return command, merge


def attack_with_kill(arena: Arena, chance: random.Random) -> str:
    """SIGKILL to the process group at a random moment; then the plain run finds nothing in its way and leaves nothing behind."""
    with _world(arena) as world:
        command, finish = _prepare_commands(arena, world, chance)
        with arena.start(world, *command) as running:
            time.sleep(chance.uniform(0.05, chance.choice([1.0, 3.0, 6.0])))
            ended = running.process.poll() is not None
            running.kill()
        wait_for_processes(world.root.parent.name)
        arena.check_layout(world.state / "registry")
        arena.check_registry(f"soak{arena.count}/blue")
        for inner in ("home", "tmp"):  # the next run has nothing to do with what a killed one left in TMPDIR
            for path in (world.root.parent / inner).iterdir():
                path.rename(world.root.parent / f"left-{inner}-{path.name}")
        age_temporaries(world.root)
        finish()
        arena.check_layout(world.state / "registry")
        arena.check_registry(f"soak{arena.count}/blue")
        return f"{command[0]} ended" if ended else f"{command[0]} killed"


# --- (c) crowds ---------------------------------------------------------------------------------------------------------


def attack_with_crowd(arena: Arena, chance: random.Random) -> str:
    """Two to eight runs at once on one cache and one layout folder or registry: all succeed, with one digest."""
    with _world(arena) as world:
        target = ["--registry", f"{arena.registry.host}/soak{arena.count}"] if chance.random() < 0.5 else []
        if chance.random() < 0.3:
            world.forget_image(members=True)
        size = chance.randint(2, 8)
        with contextlib.ExitStack() as stack:
            crowd = []
            for _ in range(size):
                crowd.append(stack.enter_context(arena.start(world, "image", "blue", "--json", *target)))
                time.sleep(chance.choice([0.0, 0.0, 0.1, 0.5]))
            done = [running.wait(LONGEST + 20 * size) for running in crowd]
        for each in done:
            arena.judge(each, world)
            require(each.code == 0, f"one of {size} failed: {each.err[-600:]}")
        digest = arena.build(world, *target)
        require({read_digest(each) for each in done} == {digest}, "a crowd gave several digests")
        arena.check_layout(world.state / "registry")
        arena.check_registry(f"soak{arena.count}/blue")
        require(not world.leftovers(), f"left behind: {world.leftovers()[:3]}")
        return f"{size} at once"


# --- (d) disks and places -----------------------------------------------------------------------------------------------


def attack_disk(arena: Arena, chance: random.Random) -> str:
    """A disk that is full at some write; then the same with room."""
    with _world(arena) as world:
        kept = world.root.parent / "cache"
        world.state.rename(kept)
        with small_disk(world.state, f"{chance.randint(40, 6000)}k"):
            with contextlib.suppress(OSError):  # the base's inventory, as far as it fits
                _copy_tree(kept, world.state)
            done = arena.run(world, "image", "blue", "--json", "--copy-base" if chance.random() < 0.2 else "--json")
            require(done.code in {0, 3}, f"exit {done.code} on a full disk: {done.err[-600:]}")
            arena.check_layout(world.state / "registry")
            age_temporaries(world.state)
            left = world.leftovers()
        require(not left, f"left behind on a full disk: {left[:3]}")
        world.state.rmdir()
        kept.rename(world.state)
        arena.build(world)
        return "refused" if done.code else "enough"


def _copy_tree(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        place = target / path.relative_to(source)
        if path.is_dir():
            place.mkdir(exist_ok=True)
        else:
            place.write_bytes(path.read_bytes())


def attack_place(arena: Arena, chance: random.Random) -> str:
    """Folders with spaces and other languages, a narrow umask, no right to write, another user."""
    name = chance.choice(["world", "a b", "日本 é", "x'y\"z", "-dash", "a#b", "a%20b", "new\tline"])
    kind = chance.choice(["umask", "plain", "nobody", "read-only"])
    with _world(arena, name=name) as world:
        if kind == "plain":
            arena.build(world)
        elif kind == "umask":
            done = arena.run(world, "image", "blue", "--json", umask=0o077)
            require(done.code == 0, f"umask 077: {done.err[-600:]}")
            require(read_digest(done) == arena.build(world), "umask 077 gave another digest")
        else:
            try:
                python = find_ordinary_python(world.root.parent / "python")
                before = as_nobody()
            except pytest.skip.Exception:
                return "no other user here"
            world.python = python
            if kind == "nobody":
                give_to_nobody(world.root.parent)
            done = arena.run(world, "image", "blue", "--json", before=before)
            require(done.code == (0 if kind == "nobody" else 3), f"{kind}: exit {done.code}: {done.err[-600:]}")
            world.python = sys.executable
            arena.build(world)
        require(not world.leftovers(), f"left behind: {world.leftovers()[:3]}")
        return kind


def attack_hung(arena: Arena, chance: random.Random) -> str:
    """A registry that takes requests and never answers: refused within the limit of a run."""
    with FaultyRegistry(arena.registry).serve() as proxy, _world(arena, mirror=proxy.host) as world:
        proxy.faults = [Fault(chance.choice([r"POST ", r"PUT ", r"HEAD ", r""]), stall=3600.0)]
        target = ["--registry", f"{proxy.host}/soak{arena.count}"]
        done = arena.run(world, "image", "blue", "--json", *target, limit=LONGEST + _OWN_WORK)
        require(done.code == 6, f"exit {done.code} for a registry that never answers: {done.err[-600:]}")
        require(not find_processes(world.root.parent.name), "a process was left")
        require(not arena.check_registry(f"soak{arena.count}/blue"), "a tag of a push that failed")
        return "refused"
