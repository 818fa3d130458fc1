"""What each step from a wheel to its member costs, beside other programs on the same bytes: ``python -m bench.cost``.

CPU seconds (this process and all it starts, user and system) for 100 MB of installed files, on one thread: they hold better on a busy
machine than seconds by the clock, and ratios within one run better than either. Every wheel of bench/heavy goes through the steps, with
the functions that :func:`imagebuild.layer.member.make_member` calls; "all of it" is that function: what lies between the steps shows.
BENCH_FOLDER as in :mod:`bench.pipeline`, which prepares the set.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.folder import fresh_folders, hold_folder
from bench.pipeline import prepare
from imagebuild.base.model import Base
from imagebuild.config import load_team
from imagebuild.files import hash_file, replacing
from imagebuild.layer.bytecode import BytecodeCompiler, locate_bytecode
from imagebuild.layer.member import build_member, collect_wheel
from imagebuild.layer.memberstore import MemberRequest, MemberRules
from imagebuild.layer.model import LAYER_MTIME, Codec, Member
from imagebuild.layer.placement import FolderResolver
from imagebuild.layer.tar.frame import FrameWriter
from imagebuild.layer.tar.header import END_OF_ARCHIVE, count_padding, encode_header
from imagebuild.lock.file.lockfile import read_lock
from imagebuild.lock.index.bodies import wheel_cache_path
from imagebuild.oci.compression import open_decompressed
from imagebuild.permissions import FILE_MODE
from imagebuild.pipeline.bases import open_base
from imagebuild.wheel.archive import WheelArchive
from imagebuild.workspace import Workspace

CODEC = Codec()
# In the base's own Python: all .py files of a folder, and nothing else.
COMPILEALL = (
    "import compileall, sys, py_compile\n"
    "mode = py_compile.PycInvalidationMode.UNCHECKED_HASH\n"
    "compileall.compile_dir(sys.argv[1], maxlevels=99, force=True, quiet=2, workers=1, invalidation_mode=mode)"
)
WHOLE = "all of it"
STEPS = (
    "hash the wheel, as the lock has it",
    "open: directory, METADATA, RECORD, places",
    "inflate, with the zip's CRC",
    "SHA-256 of every file",
    "compile, in the base's Python",
    "tar headers",
    "compress, with the SHA-256 of the result",
    "write and flush",
)


class Meter:
    """CPU seconds by step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """The block's, and those of the processes that ended in it."""
        before = _count_cpu()
        yield
        self.seconds[name] = self.seconds.get(name, 0) + _count_cpu() - before


def _count_cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(item.ru_utime + item.ru_stime for item in used)


def take_steps(request: MemberRequest, rules: MemberRules, base: Base, meter: Meter, scratch: Path) -> None:
    """One wheel by the steps, which are kept apart; its content is in memory meanwhile."""
    with meter.measure(STEPS[0]):
        hash_file(request.wheel)
    with meter.measure(STEPS[1]):
        archive = WheelArchive(request.wheel, python=base.interpreter.version, filename=request.filename)
        entries = collect_wheel(archive, request, rules, request.filename).entries
    with archive:
        with meter.measure(STEPS[2]):
            contents = {path: b"".join(entry.open()) for path, entry in entries.items()}
        with meter.measure(STEPS[3]):
            for data in contents.values():
                hashlib.sha256(data).hexdigest()
        with meter.measure(STEPS[4]), start_compiler(base) as compiler:
            sources = [(path, data) for path, data in sorted(contents.items()) if path.endswith(".py")]
            compiled = {path: data for path, data in compiler.compile_wheel(sources) if data is not None}
    files = [(path, entries[path].mode, data) for path, data in contents.items()]
    files += [(locate_bytecode(path, base.interpreter.cache_tag), FILE_MODE, data) for path, data in compiled.items()]
    with meter.measure(STEPS[5]):
        headers = [encode_header(path, size=len(data), mode=mode, mtime=rules.mtime) for path, mode, data in files]
    pieces: list[bytes] = []
    total = sum(len(header) + len(data) + count_padding(len(data)) for header, (_, _, data) in zip(headers, files, strict=True))
    with meter.measure(STEPS[6]):
        frame = FrameWriter(pieces.append, rules.codec, total)
        for header, (_, _, data) in zip(headers, files, strict=True):
            frame.write(header)
            frame.write(data)
            frame.write(bytes(count_padding(len(data))))
        frame.finish()
    with meter.measure(STEPS[7]), replacing(scratch / "member") as output:
        for piece in pieces:
            output.write(piece)


def start_compiler(base: Base) -> BytecodeCompiler:
    """One of the base's; a base whose Python does not run here has no costs to measure."""
    if base.runtime is None:
        sys.exit("the base's Python does not run here")
    return BytecodeCompiler(base.runtime, base.interpreter)


def make_whole(request: MemberRequest, base: Base, cache: Path, meter: Meter) -> Member:
    """The real thing."""
    with meter.measure(WHOLE), start_compiler(base) as compiler:
        return build_member(
            request.wheel,
            package=request.package,
            version=request.version,
            interpreter=base.interpreter,
            tree=base.tree,
            codec=CODEC,
            compiler=compiler,
            cache=cache,
            home=base.inventory.user.home,
            sha256=request.sha256,
            filename=request.filename,
        )


def run_peers(request: MemberRequest, member: Member, base: Base, folder: Path, meter: Meter) -> int:
    """Other programs on the same bytes: the wheel, the member as a tar, the sources in a folder. Bytes of the tar."""
    tar, sources = folder / "member.tar", folder / "sources"
    with tar.open("wb") as target, member.blob.open("rb") as stream:
        shutil.copyfileobj(open_decompressed(stream, CODEC.name), target)
        target.write(END_OF_ARCHIVE)
    with tarfile.open(tar) as archive:
        archive.extractall(sources, [item for item in archive if item.name.endswith(".py")], filter="data")
    assert base.runtime is not None
    with meter.measure("unzip -tq"):
        subprocess.run(["unzip", "-tqq", str(request.wheel)], check=True)
    with meter.measure("sha256sum"):
        subprocess.run(["sha256sum", str(tar)], check=True, stdout=subprocess.DEVNULL)
    with meter.measure("zstd -3"):
        subprocess.run(["zstd", "-3", "-q", "-T1", "-c", str(tar)], check=True, stdout=subprocess.DEVNULL)
    with meter.measure("python -m compileall"):
        base.runtime.run(COMPILEALL, str(sources), timeout=1800)
    size = tar.stat().st_size
    if any(sources.rglob("*.py")) and not any(sources.rglob("*.pyc")):
        sys.exit("compileall compiled nothing")
    shutil.rmtree(sources, ignore_errors=True)
    return size


def print_table(ours: Meter, peers: Meter, members: Sequence[Member], tar: int) -> None:
    """Seconds for 100 MB of files; of other programs the same, on the bytes that they were given."""
    installed = sum(fact.size for member in members for fact in member.files)
    total = ours.seconds[WHOLE]
    between = total - sum(ours.seconds[step] for step in STEPS)
    beside = dict(zip((STEPS[2], STEPS[3], STEPS[6], STEPS[4]), peers.seconds.items(), strict=True))
    print(
        f"{len(members)} wheels, {installed / 1e6:.0f} MB of files, {tar / 1e6:.0f} MB of tar, "
        f"{sum(member.compressed for member in members) / 1e6:.0f} MB stored; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
    )
    print(f"{'CPU seconds for 100 MB of files':<44} {'':>7} {'share':>6}   beside")
    rows = [*((step, ours.seconds[step]) for step in STEPS), ("between the steps", between), (WHOLE, total)]
    for name, seconds in rows:
        peer, theirs = beside.get(name, ("", 0.0))
        compared = f"{peer}: {theirs / installed * 1e8:.2f}, so {seconds / theirs:.2f} of it" if peer else ""
        print(f"{name:<44} {seconds / installed * 1e8:7.2f} {seconds / total:6.0%}   {compared}".rstrip())


def measure_all(root: Path) -> None:
    """Measure each step, and print."""
    prepare(root)
    workspace = Workspace(root, quiet=True)
    team = load_team(workspace.images, "heavy")
    base = open_base(workspace, team.table.base, team.platform)
    requests = [
        MemberRequest(wheel_cache_path(workspace.cache, item.sha256, item.filename), item.name, item.version, item.sha256, item.filename)
        for item in read_lock(workspace.lockfile("heavy")).packages
    ]
    scratch = root / ".imagebuild" / "cost"
    with fresh_folders(scratch):
        scratch.mkdir()
        rules = MemberRules(base.interpreter, FolderResolver(base.tree), CODEC, scratch, base.inventory.user.home, LAYER_MTIME, True)
        ours, peers = Meter(), Meter()
        members: list[Member] = []
        tar = 0
        for request in requests:  # a busy machine is as busy for each of the three
            take_steps(request, rules, base, ours, scratch)
            members.append(make_whole(request, base, scratch, ours))
            tar += run_peers(request, members[-1], base, scratch, peers)
        print_table(ours, peers, members, tar)


def main() -> None:
    """Measure and print."""
    with hold_folder() as root:
        measure_all(root)


if __name__ == "__main__":
    main()
