"""VS Code's extensions in a running container: each lies where the running server looks for its own, and can be had from it."""

from __future__ import annotations

from imagebuild.check.finding import Finding
from imagebuild.check.smoke.pod import Pod
from imagebuild.check.smoke.subject import SmokeSubject
from imagebuild.text import count_things, first_lines

_SECONDS = 60
_SHOWN = 5  # of a list of culprits


def has_extensions(subject: SmokeSubject) -> bool:
    """Whether VS Code extensions were added."""
    return bool(subject.list_addons("vscode"))


def check_extensions(subject: SmokeSubject, pod: Pod) -> Finding:
    """Every extension that was added is in the folder that the running server scans, in its version, and the user cannot change it."""
    wanted = subject.list_addons("vscode")
    answer = pod.ask("vscode", _SECONDS, names=list(wanted))
    if not answer["folder"]:
        return Finding("failed", "no code-server is running in it: no process was started from a folder with lib/vscode/product.json")
    found = answer["versions"]
    faults = [f"{name}: not in {answer['folder']}" for name in wanted if name not in found]
    faults += [f"{name} {found[name]}, asked for {wanted[name]}" for name in sorted(found) if wanted[name] not in ("", found[name])]
    faults += [f"{name}: the user may write to it" for name in answer["writable"]]
    faults += [f"{name}: {reason}" for name, reason in sorted(answer["broken"].items())]
    if faults:
        text = f"{len(faults)} faults in {count_things(len(wanted), 'extension')}"
        return Finding("failed", text, first_lines(faults, _SHOWN))
    return Finding("passed", f"{count_things(len(found), 'extension')} in {answer['folder']}, where the running server looks")
