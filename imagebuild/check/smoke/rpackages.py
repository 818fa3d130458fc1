"""R's packages in a running container: each attached in an R of its own, as the notebook's user, with an empty home."""

from __future__ import annotations

from imagebuild.check.finding import Finding
from imagebuild.check.smoke.pod import Pod
from imagebuild.check.smoke.subject import SmokeSubject
from imagebuild.text import count_things, first_lines

_EACH = 30  # seconds to start R and attach one package
_SHOWN = 5  # of a list of culprits


def has_r_packages(subject: SmokeSubject) -> bool:
    """Whether R packages were added."""
    return bool(subject.list_addons("r"))


def check_r_packages(subject: SmokeSubject, pod: Pod) -> Finding:
    """``library(x)`` works for every R package that was added, in the version that was asked for, and the user cannot change it."""
    wanted = subject.list_addons("r")
    answer = pod.ask("r", 60 + _EACH * len(wanted), names=list(wanted), seconds=_EACH)
    if answer["missing"]:
        return Finding("failed", "the image has no Rscript on its PATH")
    found = answer["versions"]
    faults = [f"{name}: {reason}" for name, reason in sorted(answer["failed"].items())]
    faults += [f"{name} {found[name]}, asked for {wanted[name]}" for name in sorted(found) if wanted[name] not in ("", found[name])]
    faults += [f"{name}: the user may write to it" for name in answer["writable"]]
    if faults:
        return Finding(
            "failed", f"{len(faults)} of {count_things(len(wanted), 'R package')} cannot be used as locked", first_lines(faults, _SHOWN)
        )
    return Finding("passed", f"{count_things(len(found), 'R package')} attached")
