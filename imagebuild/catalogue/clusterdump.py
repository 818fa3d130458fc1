"""Which objects of a cluster may use an image, the command that gathers them, and reading what was gathered.

A dump is what kubectl prints, between two lines of our own that say when it was begun, which kinds the cluster was asked for, and that
kubectl came to its end. A plain ``kubectl get -o json`` is read as well: of it nobody knows what was asked for, so each kind that it has no
object of has to be answered for.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from imagebuild.errors import ConfigurationError
from imagebuild.toml import suggest

BEGIN, END = "ImagebuildDump", "ImagebuildDumpEnd"  # kinds of the two lines
MAX_AGE = timedelta(days=1)

# What kubectl calls them (``kubectl api-resources -o name``) -> the kind of the objects. Every one may name an image.
KINDS = {
    "pods": "Pod",
    "podtemplates": "PodTemplate",
    "replicationcontrollers": "ReplicationController",
    "daemonsets.apps": "DaemonSet",
    "deployments.apps": "Deployment",
    "replicasets.apps": "ReplicaSet",
    "statefulsets.apps": "StatefulSet",
    "cronjobs.batch": "CronJob",
    "jobs.batch": "Job",
    "notebooks.kubeflow.org": "Notebook",
    "workspaces.kubeflow.org": "Workspace",
    "workspacekinds.kubeflow.org": "WorkspaceKind",
    "scheduledworkflows.kubeflow.org": "ScheduledWorkflow",
    "pipelines.pipelines.kubeflow.org": "Pipeline",
    "pipelineversions.pipelines.kubeflow.org": "PipelineVersion",
    "inferenceservices.serving.kserve.io": "InferenceService",
    "servingruntimes.serving.kserve.io": "ServingRuntime",
    "clusterservingruntimes.serving.kserve.io": "ClusterServingRuntime",
    "services.serving.knative.dev": "Service",
    "workflows.argoproj.io": "Workflow",
    "workflowtemplates.argoproj.io": "WorkflowTemplate",
    "clusterworkflowtemplates.argoproj.io": "ClusterWorkflowTemplate",
    "cronworkflows.argoproj.io": "CronWorkflow",
    "tasks.tekton.dev": "Task",
    "clustertasks.tekton.dev": "ClusterTask",
    "taskruns.tekton.dev": "TaskRun",
    "pipelines.tekton.dev": "Pipeline",
    "pipelineruns.tekton.dev": "PipelineRun",
    "imagestreams.image.openshift.io": "ImageStream",
    "deploymentconfigs.apps.openshift.io": "DeploymentConfig",
    "rayclusters.ray.io": "RayCluster",
    "rayjobs.ray.io": "RayJob",
    "rayservices.ray.io": "RayService",
}
# Every cluster has these. Whole groups are asked for besides: a training job's kind is not known here, and names an image all the same.
_BUILT_IN = ("pods", "daemonsets.apps", "deployments.apps", "replicasets.apps", "statefulsets.apps", "cronjobs.batch", "jobs.batch")
_GROUPS = (
    "apps", "batch", r"kubeflow\.org", r"pipelines\.kubeflow\.org", r"trainer\.kubeflow\.org", r"serving\.kserve\.io", r"argoproj\.io",
    r"serving\.knative\.dev", r"tekton\.dev", r"apps\.openshift\.io", r"ray\.io", r"batch\.volcano\.sh",
)  # fmt: skip
_NAMES = ("pods", "podtemplates", "replicationcontrollers", r"imagestreams\.image\.openshift\.io")
_HISTORY = r"controllerrevisions\.apps"  # what a DaemonSet was before: it would hold ten quarters
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_COMMAND = f"""\
names=$(kubectl api-resources --verbs=list -o name) &&
  kinds=$(printf '%s\\n' "$names" | grep -E '^({"|".join(_NAMES)}|[^.]+[.]({"|".join(_GROUPS)}))$' |
    grep -vE '^{_HISTORY}$' | paste -sd, -) &&
  {{ printf '{{"kind":"{BEGIN}","taken":"%s","asked":"%s"}}\\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$kinds" &&
    kubectl get "$kinds" -A -o json &&
    printf '{{"kind":"{END}"}}\\n'; }} > cluster.json
"""
HINT = "make it anew with the command that imagebuild retire --print-kubectl prints, and see that it ended well"


class ClusterDump(msgspec.Struct, frozen=True):
    """What one file says. ``whole``: it is of a cluster, not a list of references or a hub's users, which add to one."""

    objects: tuple[dict[str, Any], ...]
    kinds: dict[str, int]
    whole: bool


def render_command() -> str:
    """The shell command (POSIX) that writes ``cluster.json``: all kinds this cluster has that may use an image."""
    return _COMMAND


def read_dump(path: Path, without: Collection[str], now: datetime) -> ClusterDump:
    """Read one file: a dump, a plain kubectl list, the users of a JupyterHub (``GET /hub/api/users``), or one reference a line.

    ConfigurationError when it is cut short, a page of several, empty, older than a day, or lacks a kind that ``without`` (kubectl's name or
    the object's kind) does not name.
    """
    try:
        data = path.read_bytes()
        changed = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}", HINT) from None
    _require_recent(path, changed, now, "the file is")
    if data.lstrip()[:1] not in (b"{", b"["):
        return _read_references(path, data)
    documents = _read_documents(path, data)
    if len(documents) == 1 and isinstance(documents[0], list):
        users = [item for item in documents[0] if isinstance(item, dict) and "name" in item]
        if not users or len(users) != len(documents[0]):
            raise ConfigurationError(f"{path} is not a list of objects as kubectl prints it, and no list of a hub's users", HINT)
        return ClusterDump(tuple(users), {"hub user": len(users)}, False)
    begin = documents[0] if isinstance(documents[0], dict) and documents[0].get("kind") == BEGIN else None
    lists = documents[1:-1] if begin is not None else documents
    if begin is not None and (len(documents) < 3 or documents[-1] != {"kind": END}):
        raise ConfigurationError(f"{path} was cut short: kubectl did not come to its end", HINT)
    objects = [item for document in lists for item in _read_items(path, document)]
    kinds = Counter(str(item.get("kind") or "Pod") for item in objects)
    if not kinds["Pod"]:
        raise ConfigurationError(f"{path} has no pod: it is not what runs in a cluster", HINT)
    if begin is not None:
        _require_recent(path, _parse_time(str(begin.get("taken"))), now, "it was taken")
        _require_kinds(path, _BUILT_IN, str(begin.get("asked", "")).split(","), without)
    else:
        _require_recent(path, _find_newest(objects, now), now, "nothing in it is newer than")
        _require_kinds(path, tuple(KINDS), [name for name, kind in KINDS.items() if kinds[kind]], without)
    return ClusterDump(tuple(objects), dict(sorted(kinds.items())), True)


def _read_references(path: Path, data: bytes) -> ClusterDump:
    lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
    references = [line for line in lines if line and not line.startswith("#")]
    if not references or any(" " in line or not re.search(r"[:@]", line) for line in references):
        raise ConfigurationError(f"{path} is not JSON, and no list of references, one a line", HINT)
    return ClusterDump(
        ({"kind": "reference", "metadata": {"name": path.name}, "references": references},), {"reference": len(references)}, False
    )


def _read_documents(path: Path, data: bytes) -> list[Any]:
    """JSON documents, one after the other."""
    decoder = json.JSONDecoder()
    found: list[Any] = []
    try:
        text = data.decode("utf-8")
        place = len(text) - len(text.lstrip())
        while place < len(text):
            document, place = decoder.raw_decode(text, place)
            found.append(document)
            place += len(text[place:]) - len(text[place:].lstrip())
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{path} is not JSON, or was cut short", HINT) from None
    return found


def _read_items(path: Path, document: Any) -> list[dict[str, Any]]:
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list) or not str(document.get("kind", "")).endswith("List"):
        raise ConfigurationError(f"{path} is not a list of objects as kubectl prints it", HINT)
    about = document.get("metadata") or {}
    if not isinstance(about, dict) or about.get("continue") or about.get("remainingItemCount"):
        raise ConfigurationError(f"{path} is one page of several", HINT)
    if not items or not all(isinstance(item, dict) for item in items):
        raise ConfigurationError(f"{path} is empty: nothing can be said about what is in use", HINT)
    return items


def _require_kinds(path: Path, needed: Collection[str], asked: Collection[str], without: Collection[str]) -> None:
    known = {alias.lower(): name for name, kind in KINDS.items() for alias in (name, name.partition(".")[0], kind)}
    for word in without:
        if word.lower() not in known and word.lower() not in {name.lower() for name in asked}:
            raise ConfigurationError(f"no kind is called {word!r}", f"{suggest(word, sorted({*KINDS.values(), *KINDS}))}")
    excused = {KINDS[known[word.lower()]] for word in without if word.lower() in known}
    missing = [name for name in needed if name not in asked and KINDS[name] not in excused]
    if missing:
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise ConfigurationError(
            f"{path} has no {shown}: an image that only those use would be taken for unused",
            f"{HINT}; or say for each kind that this cluster lacks: --without {KINDS[missing[0]]}",
        )


def _require_recent(path: Path, moment: datetime | None, now: datetime, what: str) -> None:
    if moment is None:
        raise ConfigurationError(f"{path} does not say when it was made", HINT)
    if now - moment > MAX_AGE:
        raise ConfigurationError(f"{path} is too old: {what} of {moment:%Y-%m-%d %H:%M} UTC; what came into use since is not in it", HINT)


def _find_newest(objects: Collection[dict[str, Any]], now: datetime) -> datetime | None:
    """The latest time that anything says, but for times to come (certificates, schedules)."""
    times = [found for text in walk_texts(objects) for item in _TIME.findall(text) if (found := _parse_time(item)) is not None]
    return max((item for item in times if item <= now + timedelta(minutes=5)), default=None)


def _parse_time(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def walk_texts(value: Any) -> Iterator[str]:
    """Every string in it, keys as well."""
    pending = [value]
    while pending:
        found = pending.pop()
        if isinstance(found, str):
            yield found
        elif isinstance(found, dict):
            pending += [*found.keys(), *found.values()]
        elif isinstance(found, list | tuple):
            pending += found
