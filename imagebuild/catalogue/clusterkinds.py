"""Kinds of cluster objects that name images, and the shell command that dumps all of them that a cluster has.

An image is in use when any object names it, running or not: a CronJob between two runs, a stopped notebook, a paused workspace, a
workflow's template. Kinds of whole API groups are gathered, so that a kind which a later release adds is not missed. Secrets, ConfigMaps
and events are not asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from imagebuild.errors import UsageError
from imagebuild.text import suggest


class ClusterKind(msgspec.Struct, frozen=True):
    """A kind as an object names it, and as ``kubectl api-resources -o name`` does."""

    kind: str
    resource: str  # plural[.group]

    @property
    def group(self) -> str:
        """The API group, empty for the core's."""
        return self.resource.partition(".")[2]


BEGIN, END = "ImagebuildDump", "ImagebuildDumpEnd"  # kinds of the two lines around what kubectl prints

# What a plain dump has to hold an object of, unless somebody says that the cluster has none.
KINDS = tuple(
    ClusterKind(kind, resource)
    for kind, resource in (
        ("Pod", "pods"),
        ("ReplicaSet", "replicasets.apps"),
        ("StatefulSet", "statefulsets.apps"),
        ("DaemonSet", "daemonsets.apps"),
        ("Deployment", "deployments.apps"),
        ("Job", "jobs.batch"),
        ("CronJob", "cronjobs.batch"),
        ("Notebook", "notebooks.kubeflow.org"),
        ("Workspace", "workspaces.kubeflow.org"),
        ("WorkspaceKind", "workspacekinds.kubeflow.org"),
        ("ScheduledWorkflow", "scheduledworkflows.kubeflow.org"),
        ("Pipeline", "pipelines.pipelines.kubeflow.org"),
        ("PipelineVersion", "pipelineversions.pipelines.kubeflow.org"),
        ("InferenceService", "inferenceservices.serving.kserve.io"),
        ("Workflow", "workflows.argoproj.io"),
        ("WorkflowTemplate", "workflowtemplates.argoproj.io"),
        ("CronWorkflow", "cronworkflows.argoproj.io"),
        ("ClusterWorkflowTemplate", "clusterworkflowtemplates.argoproj.io"),
        ("Task", "tasks.tekton.dev"),
        ("TaskRun", "taskruns.tekton.dev"),
        ("Pipeline", "pipelines.tekton.dev"),
        ("PipelineRun", "pipelineruns.tekton.dev"),
        ("ImageStream", "imagestreams.image.openshift.io"),
    )
)
_ALSO = (
    "replicationcontrollers",
    "podtemplates",
    "deploymentconfigs.apps.openshift.io",
    "buildconfigs.build.openshift.io",
)
_GROUPS = (
    "kubeflow.org",  # and its subgroups: pipelines, trainer
    "argoproj.io",
    "tekton.dev",
    "serving.kserve.io",
    "serving.knative.dev",
    "ray.io",
    "dask.org",
    "sparkoperator.k8s.io",
    "batch.volcano.sh",
    "jobset.x-k8s.io",
    "leaderworkerset.x-k8s.io",
    "kueue.x-k8s.io",
    "machinelearning.seldon.io",
)
# Kinds that offer images to people: nothing runs by them alone.
OFFERING = frozenset({"WorkspaceKind", "ImageStream"})


def _make_pattern() -> str:
    """An extended regular expression for whole lines, as ``grep -xE`` takes it."""
    exact = [kind.resource for kind in KINDS if not any(_is_under(kind.group, group) for group in _GROUPS)]
    names = "|".join(name.replace(".", "[.]") for name in (*exact, *_ALSO))
    groups = "|".join(group.replace(".", "[.]") for group in _GROUPS)
    return f"{names}|[a-z0-9-]+[.]([a-z0-9.-]+[.])?({groups})"


def _is_under(group: str, parent: str) -> bool:
    return group == parent or group.endswith(f".{parent}")


PATTERN = _make_pattern()
_WANTED = re.compile(PATTERN)
_COMMAND = f"""\
kubectl=${{KUBECTL:-kubectl}}
has=$($kubectl api-resources --verbs=list -o name) &&
  asked=$(printf '%s\\n' "$has" | grep -xE '{PATTERN}' | paste -sd, -) &&
  {{ printf '{{"kind":"{BEGIN}","taken":"%s","has":"%s","asked":"%s"}}\\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" \\
      "$(printf '%s\\n' "$has" | paste -sd, -)" "$asked" &&
    $kubectl get "$asked" --all-namespaces -o json &&
    printf '{{"kind":"{END}"}}\\n'; }} > cluster.json
"""


def render_command() -> str:
    """Lines for a POSIX shell that write ``cluster.json``; ``KUBECTL`` may say how kubectl is called (``kubectl --context prod``, ``oc``).

    An answer in part (an aggregated API that is away, a kind that may not be listed) ends them with an error, and the file without its
    last line.
    """
    return _COMMAND


def is_wanted(resource: str) -> bool:
    """Whether a dump should have the objects of ``resource`` (plural[.group])."""
    return _WANTED.fullmatch(resource) is not None


def parse_kinds(texts: Iterable[str]) -> frozenset[str]:
    """Resources that ``--without`` names: as kubectl does (``cronjobs``, ``cronjobs.batch``), by kind, or all of an API group.

    Several may stand in one text, with commas. UsageError for an unknown one.
    """
    names: dict[str, set[str]] = {}
    for kind in KINDS:
        plural = kind.resource.partition(".")[0]
        for name in (kind.kind, plural, kind.resource, kind.group):
            if name:
                names.setdefault(name.lower(), set()).add(kind.resource)
    found: set[str] = set()
    for word in (word.strip() for text in texts for word in text.split(",")):
        if word and word.lower() not in names and not is_wanted(word.lower()):
            raise UsageError(f"not a kind of objects that name images: {word!r}", suggest(word, sorted(names)))
        found |= names.get(word.lower(), {word.lower()} if word else set())
    return frozenset(found)


def group_resources(names: Sequence[str]) -> list[str]:
    """``names``, with the API group in place of all of its kinds where several are there: what ``--without`` takes, at its shortest."""
    groups = {group: {kind.resource for kind in KINDS if kind.group == group} for group in {kind.group for kind in KINDS}}
    whole = {group for group, members in groups.items() if group and len(members) > 1 and members <= set(names)}
    return list(dict.fromkeys(group if (group := name.partition(".")[2]) in whole else name for name in names))


def find_lacking(present: Sequence[tuple[str, str]], without: frozenset[str]) -> list[ClusterKind]:
    """Kinds of which ``present`` (API version, kind; either may be empty) has none, and ``without`` does not excuse."""
    known = {(version.rpartition("/")[0], kind) for version, kind in present if version}
    loose = {kind for version, kind in present if not version}
    return [kind for kind in KINDS if kind.resource not in without and (kind.group, kind.kind) not in known and kind.kind not in loose]


def find_unasked(has: Sequence[str], asked: Sequence[str], without: frozenset[str]) -> list[str]:
    """Resources that the cluster has and a dump should hold, and that were not asked for."""
    wanted = [name for name in has if is_wanted(name)]
    core = [kind.resource for kind in KINDS if kind.group in ("", "apps", "batch") and kind.resource not in wanted]  # every cluster's
    return [name for name in (*core, *wanted) if name not in asked and name not in without]
