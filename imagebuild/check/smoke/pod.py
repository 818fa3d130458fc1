"""One container, started as Kubernetes starts a notebook's pod, and questions to a process inside it."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from imagebuild.engine.dockerd import explain_engine_error
from imagebuild.errors import BuildError, UsageError
from imagebuild.text import suggest

if TYPE_CHECKING:
    from docker import DockerClient
    from docker.models.containers import Container

LABEL = "dev.imagebuild.smoke"  # on every container of ours
_MIB, _GIB = 1 << 20, 1 << 30
_SOURCE = Path(__file__).with_name("probe.py")
_END_SECONDS = 5
_STEP_SECONDS = 60  # for a question that takes a moment
_LOG_LINES = 8
_HOME_SIZE = 512 * _MIB
_USERS_GROUP = 100  # fsGroup of Kubeflow's notebook controller


class Run(msgspec.Struct, frozen=True):
    """One way to start the image. ``user`` and ``group`` are empty for the image's own."""

    name: str
    title: str
    shm: int = 64 * _MIB
    user: str = ""
    group: int = _USERS_GROUP  # of the home volume, and supplementary: fsGroup
    read_only: bool = False
    packages: bool = False  # also the checks of the installed packages


OWN = Run("own-user", "the image's own user, /dev/shm of 64 MiB", packages=True)
LARGE_SHM = Run("large-shm", "/dev/shm of 4 GiB, as an emptyDir of medium Memory gives", shm=4 * _GIB)
# OpenShift's restricted-v2: a UID and an fsGroup out of the namespace's range, and GID 0.
RANDOM_UID = Run("random-uid", "an OpenShift-like UID with GID 0", user="1000680000:0", group=1000680000)
READ_ONLY = Run("read-only", "a read-only root, tmpfs on /tmp", read_only=True)
RUNS = (OWN, LARGE_SHM, RANDOM_UID)  # what runs unless asked otherwise; READ_ONLY is on request
ALL_RUNS = (*RUNS, READ_ONLY)


def choose_runs(names: Sequence[str], *, read_only: bool) -> tuple[Run, ...]:
    """The runs of those names, or the usual ones; ``read_only`` adds its own. UsageError for a name there is not."""
    known = {run.name: run for run in ALL_RUNS}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no run {name!r}", suggest(name, list(known)))
    chosen = [known[name] for name in dict.fromkeys(names)] or list(RUNS)
    if read_only and READ_ONLY not in chosen:
        chosen.append(READ_ONLY)
    return tuple(chosen)


class Pod:
    """A running container: the run, its prefix, and questions to ask inside."""

    def __init__(self, container: Container, run: Run, prefix: str, timeout: float) -> None:
        self.container = container
        self._answers: dict[str, dict[str, Any]] = {}
        self.run = run
        self.prefix = prefix
        self.timeout = timeout  # seconds a server has to come up

    @property
    def address(self) -> str:
        """The container's address in its network: a server that listens on loopback only is out of the cluster's reach."""
        found = self.container.attrs["NetworkSettings"]
        networks = list(found.get("Networks", {}).values())
        address = next((item["IPAddress"] for item in networks if item.get("IPAddress")), found.get("IPAddress", ""))
        return str(address) or "127.0.0.1"

    def ask_once(self, question: str, seconds: int, /, **arguments: object) -> dict[str, Any]:
        """:meth:`ask`, or the answer it gave before: for several checks that look at one thing."""
        if question not in self._answers:
            self._answers[question] = self.ask(question, seconds, **arguments)
        return self._answers[question]

    def ask(self, question: str, seconds: int = _STEP_SECONDS, /, **arguments: object) -> dict[str, Any]:
        """A question of :mod:`imagebuild.check.smoke.probe`; BuildError, with the container's last log lines, when there is no answer."""
        from docker.errors import APIError

        source, argument = _SOURCE.read_text(encoding="utf-8"), json.dumps(arguments)
        said, code = b"", 127
        for python in ("python3", "python"):
            try:
                # Typed for all its forms at once; demux gives the code and two strings of bytes, or None.
                done: Any = self.container.exec_run([python, "-c", source, question, str(seconds), argument], demux=True)
                code, (out, err) = done
            except APIError as error:
                raise self._explain(str(error.explanation or error)) from None
            if code == 0 and out:
                return cast("dict[str, Any]", json.loads(out))
            said = (err or b"") + (out or b"")
            if code not in (126, 127):  # the shell's and runc's "no such program"
                break
        if code in (126, 127):
            raise self._explain("the image has no python3 on its PATH")
        if code == 128 + signal.SIGALRM:
            raise self._explain(f"no end after {seconds} s")
        if code == 128 + signal.SIGKILL:  # as everything in it is when a container ends; the engine knows of its end a little later
            deadline = time.monotonic() + _END_SECONDS
            while not self.state() and time.monotonic() < deadline:
                time.sleep(0.1)
        lines = said.decode(errors="replace").strip().splitlines()
        raise self._explain(lines[-1][:200] if lines else f"the probe ended with exit code {code}")

    def _explain(self, what: str) -> BuildError:
        state = self.state()
        if state:
            what = state
        return BuildError(what, "", self.log())

    def state(self) -> str:
        """How the container ended; empty while it runs."""
        self.container.reload()
        state = self.container.attrs["State"]
        if state.get("Running"):
            return ""
        reason = f": {state['Error']}" if state.get("Error") else ""
        return f"the container ended with exit code {state.get('ExitCode')}{reason}"

    def log(self) -> tuple[str, ...]:
        """Its last lines."""
        text = self.container.logs(tail=_LOG_LINES)
        return tuple(f"log: {line[:200]}" for line in text.decode(errors="replace").splitlines() if line.strip())


@contextlib.contextmanager
def start_pod(client: DockerClient, image: str, home: str, run: Run, prefix: str, timeout: float) -> Iterator[Pod]:
    """A container as a pod of a notebook is set up; it and its volumes are removed on every way out.

    The home is an empty volume with what the kubelet gives under fsGroup: owned by root and that group, 2775, the group
    supplementary to the process's own. No capability, no way to a new privilege.
    """
    from docker.errors import APIError

    name = f"imagebuild-smoke-{secrets.token_hex(6)}"  # chosen here: an answer that is lost on the way must not hide the container
    volumes = {}
    if home:
        volumes[home] = f"rw,exec,mode=2775,uid=0,gid={run.group},size={_HOME_SIZE}"
    if run.read_only:
        volumes["/tmp"] = "rw,exec,mode=1777"
    patience = 0
    try:
        try:
            container = client.containers.create(
                image,
                name=name,
                hostname="nb-0",
                labels={LABEL: name},
                environment={"NB_PREFIX": prefix},
                user=run.user or None,
                group_add=[str(run.group)],
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                shm_size=run.shm,
                tmpfs=volumes,
                read_only=run.read_only,
            )
            container.start()
            container.reload()
        except APIError as error:
            raise explain_engine_error(error, "starting the container") from None
        except BaseException:  # interrupted: the engine may still be making it
            patience = 8
            raise
        yield Pod(container, run, prefix, timeout)
    finally:
        remove_container(client, name, patience)


def remove_container(client: DockerClient, name: str, patience: int = 0) -> None:
    """Gone, with its anonymous volumes, however far it came. A second Ctrl-C waits until it is done.

    ``patience``: how many quarters of a second to wait for a container that is not there (yet).
    """
    from docker.errors import APIError, NotFound

    held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        for attempt in range(40):
            try:
                client.api.remove_container(name, v=True, force=True)
                return
            except NotFound:
                if attempt >= patience:
                    return
            except APIError as error:
                if error.status_code != 409:  # 409: its removal is in progress
                    raise explain_engine_error(error, f"removing {name}") from None
            time.sleep(0.25)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
