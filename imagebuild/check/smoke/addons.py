"""The add-ons in a running container: each can be used, in the version that was asked for, and the notebook's user cannot change it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imagebuild.check.finding import Finding
from imagebuild.check.smoke.pod import Pod
from imagebuild.check.smoke.subject import SmokeSubject
from imagebuild.text import count_things, first_lines

_ATTACHED = 30  # seconds to start R and attach one package
_SECONDS = 60
_SHOWN = 5  # of a list of culprits


def has_r_packages(subject: SmokeSubject) -> bool:
    """Whether R packages were added."""
    return bool(subject.list_addons("r"))


def check_r_packages(subject: SmokeSubject, pod: Pod) -> Finding:
    """``library(x)`` works for every R package that was added, in an R of its own with an empty home."""
    wanted = subject.list_addons("r")
    answer = pod.ask("r", _SECONDS + _ATTACHED * len(wanted), names=list(wanted), seconds=_ATTACHED)
    if answer["missing"]:
        return Finding("failed", "the image has no Rscript on its PATH")
    return _judge(wanted, answer, answer["failed"], "R package", "attached")


def has_extensions(subject: SmokeSubject) -> bool:
    """Whether VS Code extensions were added."""
    return bool(subject.list_addons("vscode"))


def check_extensions(subject: SmokeSubject, pod: Pod) -> Finding:
    """Every VS Code extension that was added lies, with its main file, in the folder that the running server scans."""
    wanted = subject.list_addons("vscode")
    answer = pod.ask("vscode", _SECONDS, names=list(wanted))
    folder = answer["folder"]
    if not folder:
        return Finding("failed", "no code-server is running in it: no process was started from a folder with lib/vscode/product.json")
    absent = {name: f"not in {folder}" for name in wanted if name not in answer["versions"]}
    return _judge(wanted, answer, {**absent, **answer["broken"]}, "extension", f"in {folder}, where the running server looks")


def _judge(wanted: Mapping[str, str], answer: Mapping[str, Any], unusable: Mapping[str, str], title: str, usable: str) -> Finding:
    """``wanted``: name -> version, "" where nobody said. ``unusable``: name -> why. ``usable``: what is said of all where all is well."""
    found = answer["versions"]
    faults = [(name, f"{name}: {why}") for name, why in sorted(unusable.items())]
    faults += [(name, f"{name} {found[name]}, asked for {wanted[name]}") for name in sorted(found) if wanted[name] not in ("", found[name])]
    faults += [(name, f"{name}: the user may write to it") for name in answer["writable"]]
    if faults:
        text = f"{len({name for name, _line in faults})} of {count_things(len(wanted), title)} cannot be used as locked"
        return Finding("failed", text, first_lines([line for _name, line in faults], _SHOWN))
    return Finding("passed", f"{count_things(len(found), title)} {usable}")
