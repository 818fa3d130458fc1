"""An image run as Kubernetes runs a notebook, and what was found, fact by fact.

:data:`~imagebuild.check.smoke.pod.RUNS` says how the image is started, :data:`IMAGE_CHECKS` and :data:`RUN_CHECKS` what is looked at:
one function a fact, each given the image, or the running container as well, and each answering with a :class:`Finding`.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagebuild.check.finding import Finding, Status
from imagebuild.check.smoke.addons import check_extensions, check_r_packages, has_extensions, has_r_packages
from imagebuild.check.smoke.optional import ImportFailure, InstalledPackage, judge_failures
from imagebuild.check.smoke.pod import Pod, Run, start_pod
from imagebuild.check.smoke.subject import SmokeSubject
from imagebuild.errors import BuildError
from imagebuild.servers import SERVERS, Kind
from imagebuild.table import format_table
from imagebuild.text import first_lines

if TYPE_CHECKING:
    from docker import DockerClient

    from imagebuild.lock.file.model import Lock

_MIB = 1 << 20
_SHOWN = 5  # of a list of culprits


# --- what is looked at --------------------------------------------------------------------------------------------------


def check_user(subject: SmokeSubject) -> Finding:
    """The kubelet refuses a root user, and a name it cannot look up, where the pod says runAsNonRoot."""
    user = subject.config.user.partition(":")[0]
    if user.isdecimal() and int(user) != 0:
        return Finding("passed", f"{subject.config.user}: numeric, not root")
    if user in ("", "0", "root") or user.isdecimal():
        return Finding("failed", f"{subject.config.user or '(none)'}: runs as root, which runAsNonRoot refuses")
    return Finding("failed", f"{subject.config.user}: a name, which runAsNonRoot refuses; the kubelet can only tell a number from root")


def check_start_command(subject: SmokeSubject) -> Finding:
    """ENTRYPOINT, CMD and USER are the base's."""
    if subject.base is None:
        return Finding("skipped", subject.base_problem)
    changed = []
    for name in ("entrypoint", "cmd", "user"):
        before, now = getattr(subject.base, name) or "", getattr(subject.config, name) or ""
        if before != now:
            changed.append(f"{name.upper()} is {_show(now)}, the base has {_show(before)}")
    if changed:
        return Finding("failed", "; ".join(changed))
    return Finding("passed", "ENTRYPOINT, CMD and USER are the base's")


def _show(value: object) -> str:
    return json.dumps(list(value)) if isinstance(value, tuple) else str(value or "(none)")


def check_home_layer(subject: SmokeSubject) -> Finding:
    """Nothing of what was added to the base lies where the volume will hide it."""
    if not subject.home:
        return Finding("skipped", "the image names no home")
    if subject.at_home:
        count = len(subject.at_home)
        text = f"{count} path{'s' * (count != 1)} under {subject.home}, which the volume hides"
        return Finding("failed", text, first_lines(subject.at_home, _SHOWN))
    return Finding("passed", f"nothing under {subject.home}")


def check_server(subject: SmokeSubject, pod: Pod) -> Finding:
    """The server answers, under the prefix, on the container's own address."""
    server = SERVERS[subject.kind]
    before = pod.prefix if server.prefixed else ""
    answer = pod.ask(
        "server",
        int(pod.timeout) + 60,
        address=f"http://{pod.address}:{subject.port}",
        requests=[(before + item.path, item.key) for item in server.probes],
        headers={server.root_header: f"{pod.prefix}/"} if server.root_header else {},
        seconds=pod.timeout,
    )
    problems = [f"{before}{item.path} {problem}" for item, (_, problem) in zip(server.probes, answer["answers"], strict=True) if problem]
    if problems:
        where = f"port {subject.port}, after {answer['seconds']:.0f} s"
        return Finding("failed", f"{'; '.join(problems)} ({where})", pod.log())
    paths = " and ".join(item.path for item in server.probes)
    return Finding("passed", f"200 on {paths}{' under the prefix' if before else ''}, port {subject.port}, after {answer['seconds']:.1f} s")


def check_home_files(subject: SmokeSubject, pod: Pod) -> Finding:
    """The user can work in the empty volume over the home."""
    if not subject.home:
        return Finding("failed", "the image names no home: neither HOME nor its user's in /etc/passwd")
    facts = pod.ask("home", home=subject.home)
    if facts["problem"]:
        return Finding("failed", f"uid {facts['user']}, gid {facts['group']} cannot write: {facts['problem']}")
    if facts["home"] != subject.home or not facts["mounted"]:
        return Finding("failed", f"HOME is {facts['home'] or '(unset)'}, and the volume is at {subject.home}")
    return Finding("passed", f"{subject.home} by uid {facts['user']}, gid {facts['group']}")


def check_shared_memory(_: SmokeSubject, pod: Pod) -> Finding:
    """/dev/shm is as large as was asked for (PyTorch's data loaders need that), and writable."""
    facts = pod.ask("memory", folder="/dev/shm")
    if facts["size"] != pod.run.shm or not facts["writable"]:
        return Finding("failed", f"{facts['size']} bytes instead of {pod.run.shm}{'' if facts['writable'] else ', not writable'}")
    return Finding("passed", f"{facts['size'] // _MIB} MiB")


def check_pip(subject: SmokeSubject, pod: Pod) -> Finding:
    """``pip check``, as far as it is about what was added: what is broken in the base is reported and does not fail."""
    answer = pod.ask("pip", 180)
    if answer["missing"]:
        return Finding("skipped", "the image has no pip")
    if answer["code"] == 0:
        return Finding("passed", "no broken requirements")
    waived = find_waived(answer["lines"], subject.lock) if subject.lock is not None else []
    ours, theirs = split_complaints([line for line in answer["lines"] if line not in waived], subject.distributions)
    if ours or not (theirs or waived):
        found = ours or ["pip check failed without any output"]
        return Finding("failed", f"{len(found)} broken requirement{'s' * (len(found) != 1)}", first_lines(found, _SHOWN))
    remarks = [f"{len(theirs)} complaints about the base"] if theirs else []
    remarks += [f"{len(waived)} that [resolve] of team.toml asked for"] if waived else []
    return Finding("passed", f"nothing broken by what was added; {', '.join(remarks)}", first_lines([*theirs, *waived], _SHOWN))


def find_waived(lines: Sequence[str], lock: Lock) -> list[str]:
    """pip check's lines about what the team chose: packages that ``exclude`` left out, and versions that ``override`` set."""
    excluded = {canonicalize_name(name) for name in lock.exclude}
    overridden = {canonicalize_name(Requirement(line).name) for line in lock.override}
    found = []
    for line in lines:
        absent = re.search(r" requires ([A-Za-z0-9._-]+), which is not installed", line)
        other = re.search(r", but you have ([A-Za-z0-9._-]+) ", line)
        if (absent and canonicalize_name(absent[1]) in excluded) or (other and canonicalize_name(other[1]) in overridden):
            found.append(line)
    return found


def split_complaints(lines: Sequence[str], distributions: Sequence[str]) -> tuple[list[str], list[str]]:
    """pip check's lines: those that name one of ``distributions``, and the others."""
    ours: list[str] = []
    theirs: list[str] = []
    for line in lines:
        said = {re.sub(r"[-_.]+", "-", word).lower().rstrip(".,") for word in re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", line)}
        (ours if said & set(distributions) else theirs).append(line)
    return ours, theirs


def check_versions(subject: SmokeSubject, pod: Pod) -> Finding:
    """What the lock pins is what is installed."""
    if subject.lock is None:
        return Finding("skipped", "the lock of the image is not known")
    found = _ask_imports(subject, pod)["versions"]
    wrong = [f"{item.name} {found.get(item.name, 'missing')}, locked {item.version}" for item in subject.lock.packages]
    wrong = [line for line, item in zip(wrong, subject.lock.packages, strict=True) if found.get(item.name) != item.version]
    if wrong:
        return Finding("failed", f"{len(wrong)} of {len(subject.lock.packages)} packages differ from the lock", first_lines(wrong, _SHOWN))
    return Finding("passed", f"{len(found)} packages, as locked")


def check_imports(subject: SmokeSubject, pod: Pod) -> Finding:
    """Every top-level module of every package that was added can be imported, but for what nobody asked for or the team leaves out."""
    answer = _ask_imports(subject, pod)
    if not answer["modules"]:
        return Finding("skipped", "nothing to import")
    found = judge_failures(
        [ImportFailure(*item) for item in answer["failed"]],
        {name: InstalledPackage(**facts) for name, facts in answer.get("installed", {}).items()},
        answer.get("environment", {}),
        subject.ignore,
        subject.lock.exclude if subject.lock is not None else (),
    )
    remarks = [*found.optional, *(f"{module}: left out by [smoke] ignore" for module in found.ignored)]
    if found.failed:
        text = f"{len(found.failed)} of {answer['modules']} modules do not import"
        return Finding("failed", text, (*first_lines(found.failed, _SHOWN), *first_lines(remarks, _SHOWN)))
    text = f"{answer['modules']} modules of {len(answer['versions'])} packages"
    return Finding(
        "passed", f"{text}; {len(remarks)} of them do not import and need not" if remarks else text, first_lines(remarks, _SHOWN)
    )


def check_bytecode(subject: SmokeSubject, pod: Pod) -> Finding:
    """The modules just imported came from bytecode in the layer: no kernel compiles them again."""
    answer = _ask_imports(subject, pod)
    if answer["stale"]:
        text = f"{len(answer['stale'])} of {answer['loaded']} modules were compiled while importing"
        return Finding("failed", text, first_lines(answer["stale"], _SHOWN))
    if not answer["loaded"]:
        return Finding("skipped", "nothing in Python was imported")
    return Finding("passed", f"{answer['loaded']} modules came from it")


def check_writable_folders(subject: SmokeSubject, pod: Pod) -> Finding:
    """The notebook's user cannot change what was locked."""
    answer = _ask_imports(subject, pod)
    if answer["writable"]:
        return Finding(
            "failed", f"the user may write to {answer['writable']} files and folders", first_lines(answer["first_writable"], _SHOWN)
        )
    if not answer["versions"]:
        return Finding("skipped", "no package was added")
    return Finding("passed", "not writable by the user")


def _ask_imports(subject: SmokeSubject, pod: Pod) -> dict[str, Any]:
    """The four checks that look at the packages share one answer."""
    locked = [item.name for item in subject.lock.packages] if subject.lock else []
    wanted = sorted({*locked, *subject.distributions})
    seconds = 120 + 2 * len(wanted)
    return pod.ask_once("imports", seconds + 10, names=wanted, seconds=seconds)


def _to_every_image(_subject: SmokeSubject) -> bool:
    """The usual ``applies``."""
    return True


class ImageCheck(msgspec.Struct, frozen=True):
    """A fact about the image itself."""

    name: str
    find: Callable[[SmokeSubject], Finding]


class RunCheck(msgspec.Struct, frozen=True):
    """A fact about the running container; ``packages``: only where the run looks at those; ``applies``: only to such images."""

    name: str
    find: Callable[[SmokeSubject, Pod], Finding]
    packages: bool = False
    applies: Callable[[SmokeSubject], bool] = _to_every_image


IMAGE_CHECKS = (
    ImageCheck("user", check_user),
    ImageCheck("start command", check_start_command),
    ImageCheck("home in the layer", check_home_layer),
)
RUN_CHECKS = (
    RunCheck("server", check_server),
    RunCheck("home", check_home_files),
    RunCheck("/dev/shm", check_shared_memory),
    RunCheck("pip check", check_pip, packages=True),
    RunCheck("versions", check_versions, packages=True),
    RunCheck("imports", check_imports, packages=True),
    RunCheck("bytecode", check_bytecode, packages=True),
    RunCheck("read-only files", check_writable_folders, packages=True),
    RunCheck("VS Code extensions", check_extensions, packages=True, applies=has_extensions),
    RunCheck("R packages", check_r_packages, packages=True, applies=has_r_packages),
)


# --- running ------------------------------------------------------------------------------------------------------------


class SmokeRow(msgspec.Struct, frozen=True):
    """One line of the table."""

    run: str  # a run's name, or "image"
    check: str
    status: Status
    text: str
    details: tuple[str, ...]
    seconds: float


class SmokeReport(msgspec.Struct, frozen=True):
    """All of it."""

    image: str
    id: str
    kind: Kind
    port: int
    prefix: str
    rows: tuple[SmokeRow, ...]

    def count(self, status: Status) -> int:
        """How many ended so."""
        return sum(row.status == status for row in self.rows)

    def raise_failures(self) -> None:
        """BuildError that names every failed check; nothing when there is none."""
        failed = [f"{row.check} ({row.run})" for row in self.rows if row.status == "failed"]
        if failed:
            raise BuildError(
                f"{self.image} failed {len(failed)} of {len(self.rows)} checks: {', '.join(failed)}",
                "the table says what was found; `imagebuild smoke --run NAME` repeats one run",
            )


def smoke_image(
    client: DockerClient, subject: SmokeSubject, runs: Sequence[Run], *, timeout: float, report: Callable[[str], None], prefix: str = ""
) -> SmokeReport:
    """Do the runs one after another. ``timeout`` is the seconds a server has to come up, in each; ``prefix`` is random unless given."""
    prefix = prefix or f"/notebook/team-{secrets.token_hex(3)}/nb-{secrets.token_hex(3)}"
    rows = [_look("image", item.name, partial(item.find, subject)) for item in IMAGE_CHECKS]
    for run in runs:
        report(f"{subject.name}: run {run.name}: {run.title}")
        started = time.monotonic()
        checks = [item for item in RUN_CHECKS if (run.packages or not item.packages) and item.applies(subject)]
        try:
            with start_pod(client, subject.id, subject.home, run, prefix, timeout) as pod:
                rows.append(_look(run.name, checks[0].name, partial(checks[0].find, subject, pod)))
                for item in checks[1:]:
                    ended = pod.state()
                    find = partial(Finding, "skipped", ended) if ended else partial(item.find, subject, pod)
                    rows.append(_look(run.name, item.name, find))
        except BuildError as error:  # it did not start, so nothing else can be said about it
            rows.append(SmokeRow(run.name, "start", "failed", error.message, error.details, round(time.monotonic() - started, 2)))
    return SmokeReport(subject.name, subject.id, subject.kind, subject.port, prefix, tuple(rows))


def _look(run: str, name: str, find: Callable[[], Finding]) -> SmokeRow:
    started = time.monotonic()
    try:
        found = find()
    except BuildError as error:
        found = Finding("failed", error.message, error.details)
    return SmokeRow(run, name, found.status, found.text, found.details, round(time.monotonic() - started, 2))


def format_smoke_report(report: SmokeReport) -> str:
    """The table, one line a fact, and a line that sums it up."""
    rows = [("run", "check", "result", "")]
    for row in report.rows:
        rows += [(row.run, row.check, row.status, row.text), *(("", "", "", detail) for detail in row.details)]
    lines = [f"{report.image}  ({report.kind}, port {report.port}, under {report.prefix})", *format_table(rows)]
    counts = ", ".join(f"{report.count(status)} {status}" for status in get_args(Status) if report.count(status))
    return "\n".join([*lines, counts]) + "\n"


def encode_smoke_report(report: SmokeReport) -> str:
    """The report as JSON: its fields, and ``ok``."""
    document = {**msgspec.to_builtins(report), "ok": not report.count("failed")}
    return json.dumps(document, indent=2) + "\n"
