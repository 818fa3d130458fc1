"""Bringing a base's blobs to where the image goes: mounted where possible, copied only when that was allowed.

A base has gigabytes. Within one registry (or one layout folder) nothing of it passes through this machine; between two,
it would, and that is never done without being asked for.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec

from imagebuild.errors import RemoteError
from imagebuild.files import CHUNK, explain_os_error
from imagebuild.oci.model import Descriptor
from imagebuild.oci.store import Store
from imagebuild.progress import step
from imagebuild.text import count_things, format_size

COPY_HINT = "add --copy-base to copy them through this machine, or use a base that is in the same registry"


class CopyPlan(msgspec.Struct, frozen=True):
    """Where each blob stands, before anything was moved. Each digest is in one of the three, once."""

    source: Store
    source_repository: str
    target: Store
    target_repository: str
    present: tuple[Descriptor, ...]
    mountable: tuple[Descriptor, ...]
    to_copy: tuple[Descriptor, ...]

    @property
    def bytes_to_copy(self) -> int:
        """Bytes that would pass through this machine, if no mount is refused."""
        return sum(descriptor.size for descriptor in self.to_copy)


def is_same_store(one: Store, other: Store) -> bool:
    """Whether two stores are one place: the same registry host, or the same folder."""
    return one is other or (one.registry_host, one.label) == (other.registry_host, other.label)


def plan_copy(source: Store, source_repo: str, target: Store, target_repo: str, descriptors: Iterable[Descriptor]) -> CopyPlan:
    """Ask ``target`` for each blob; RemoteError when it cannot say whether it has one."""
    present, mountable, to_copy = [], [], []
    same = is_same_store(source, target)
    for descriptor in {descriptor.digest: descriptor for descriptor in descriptors}.values():
        if target.has_blob(target_repo, descriptor.id):
            present.append(descriptor)
        elif same:
            mountable.append(descriptor)
        else:
            to_copy.append(descriptor)
    return CopyPlan(source, source_repo, target, target_repo, tuple(present), tuple(mountable), tuple(to_copy))


def copy_blobs(plan: CopyPlan, allow_copy: bool, report: Callable[[str], None] | None = None, scratch: Path | None = None) -> None:
    """Carry a plan out.

    Without ``allow_copy``, a blob that would have to be copied, from the plan or because its mount was refused, is a
    RemoteError, and none is copied. A copied blob is streamed to a temporary file in ``scratch`` (default: the system's),
    verified there, and then stored; memory stays bounded. ``report`` gets one line per thing done.
    """
    say = report or (lambda _: None)
    if plan.to_copy and not allow_copy:
        raise _refuse(plan, plan.to_copy, "is not in the same registry")
    refused = []
    reason: RemoteError | None = None  # what a registry said, where it refused in words and not by a 202
    for descriptor in plan.mountable:
        answer = plan.target.mount_blob(plan.target_repository, descriptor.id, plan.source_repository)
        if answer.done:
            say(f"mounted {descriptor.digest} ({format_size(descriptor.size)}) of {plan.source_repository}")
        else:
            refused.append(descriptor)
            reason = answer.refusal or reason
    if refused and not plan.source.registry_host:  # one folder, and it lacks them
        raise RemoteError(
            f"{plan.source.label} does not hold {_count(refused)} of {plan.source_repository}",
            "bring that image into the folder again, or take it from the registry it came from",
        )
    if refused and not allow_copy:
        raise _refuse(plan, refused, "cannot be mounted", reason)
    for descriptor in (*refused, *plan.to_copy):
        with step(f"copying {descriptor.digest} ({format_size(descriptor.size)})", descriptor.size):
            _copy_blob(plan, descriptor, scratch)
        say(f"copied {descriptor.digest} ({format_size(descriptor.size)}) from {plan.source.image_name(plan.source_repository)}")


def _copy_blob(plan: CopyPlan, descriptor: Descriptor, scratch: Path | None) -> None:
    file = plan.source.local_file(descriptor.id)
    if file is not None:
        # The layout checks it when it links or copies it, a registry when it has arrived.
        plan.target.put_blob(plan.target_repository, descriptor, file)
        return
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="imagebuild-", dir=scratch)))
            with plan.source.open_blob(plan.source_repository, descriptor) as stream, (folder / "blob").open("wb") as file_stream:
                while chunk := stream.read(CHUNK):
                    file_stream.write(chunk)
        except OSError as error:
            raise explain_os_error(error, "copying a blob to a temporary file") from error
        with step(f"pushing {descriptor.digest} ({format_size(descriptor.size)})", descriptor.size):
            plan.target.put_blob(plan.target_repository, descriptor, folder / "blob")


def _refuse(plan: CopyPlan, blobs: Sequence[Descriptor], why: str, reason: RemoteError | None = None) -> RemoteError:
    return RemoteError(
        f"{plan.source.image_name(plan.source_repository)} {why} for {plan.target.image_name(plan.target_repository)}: "
        f"{_count(blobs)} would have to be copied through this machine",
        f"{reason.hint}; or {COPY_HINT}" if reason is not None else COPY_HINT,
        (reason.message,) if reason is not None else (),
    )


def _count(blobs: Sequence[Descriptor]) -> str:
    return f"{count_things(len(blobs), 'blob')} ({format_size(sum(item.size for item in blobs))})"
