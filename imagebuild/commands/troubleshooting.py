"""Where docs/troubleshooting.md describes an error or a warning: under its own heading, or else in the first lines of its part.

An error's part is the area it comes from; all warnings have one part.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from imagebuild.errors import BudgetError, ImagebuildError

PAGE = "docs/troubleshooting.md"

# Headings of the page, in its order: each area with the rooms whose errors it describes, and the messages that have a heading of
# their own. Words in capitals stand for names.
AREAS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "The command line": (("cli", "commands", "scaffold"), ("no such command: COMMAND",)),
    "This machine": (
        ("children", "files", "jobs", "starter", "workspace"),
        (
            "mmdebstrap is not installed",
            "mmdebstrap could not make the root file system",
            "FOLDER has no images/ folder",
            "no space left while DOING",
            "not allowed to write while DOING",
            "its process ENDED",
        ),
    ),
    "Teams and their files": (
        ("config", "toml"),
        ("there is no team TEAM", "FILE: unknown key KEY", "FILE is not valid TOML"),
    ),
    "Bases": (
        ("base",),
        ("the base NAME is not pinned", "the base's Python PATH does not run on this machine", "a layer of the base DOES"),
    ),
    "Registries": (
        ("oci",),
        (
            "WHERE: the certificate is not trusted",
            "WHERE: the proxy refused",
            "WHERE: no answer in time",
            "WHERE: no connection",
            "WHERE: HTTP STATUS",
            "BLOBS would have to be copied through this machine",
            "REGISTRY does not list its repositories",
            "REGISTRY does not delete manifests",
            "its token service is on another host and not encrypted",
            "the credential helper PROGRAM, which is not on PATH",
        ),
    ),
    "Package indexes": (
        ("lock.index", "lock.wheels"),
        (
            "FILE is no longer on package index NAME",
            "package index NAME now has another file FILE than the locked one",
            "this machine does not trust the certificate of package index NAME",
            "package index NAME takes its credentials from the environment",
        ),
    ),
    "Locks": (
        ("addons", "difference", "lock"),
        (
            "the lock of TEAM is stale",
            "FILE is missing",
            "LINE asks for REQUIREMENT; the base NAME has PACKAGE VERSION",
            "PACKAGE would add OTHER to the base NAME, which has STACK",
            "PACKAGE is source only: there is no wheel",
            "PACKAGE would be locked, a pre-release that nobody asked for",
        ),
    ),
    "Wheels and layers": (("layer", "wheel"), ("PACKAGE and OTHER both bring PATH",)),
    "Size and budget": (("size",), ("over budget",)),
    "Building": (("engine", "pipeline"), ("the docker engine is asked for, and there is no docker client",)),
    "Checks": (("check", "supply"), ("IMAGE failed COUNT of ALL checks",)),
    "Catalogue, forms and pre-warm": (
        ("catalogue", "emit", "tagforms"),
        ("there is no team image to offer in a form", "TEXT is neither a team here nor an image of a registry", "FILE is too old"),
    ),
    "Bundles and CI": (("bundle", "ci"), ()),
    "A defect of imagebuild": ((), ("unexpected ERROR",)),
}
# The part of the page about warnings: under the headings below.
WARNINGS = "Warnings"
WARNING_HEADINGS = (
    "package index NAME says that PACKAGE",
    "package index NAME redirects PACKAGE to HOST",
    "PACKAGE VERSION is locked, and NEWER is out",
    "PACKAGE is locked, the newest with a wheel for this base",
    "PACKAGE is a pre-release that nobody asked for",
    "PACKAGE has no extra NAME, which LINE asks for",
    "FILE was yanked",
    "the program NAME, which BASE lacks",
    "which base NAME lacks; [system] packages must bring it",
    "the base NAME has constraints for pip",
    "[files] PATTERN decides nothing",
    "the layer takes SIZE as stored",
    "set single-stream",
    "PLACE gives no members",
    "the member of PACKAGE VERSION in PLACE is refused",
    "the image is done, but PLACE did not take its members",
    "PLACE gives no bases",
    "what PLACE has of the base DIGEST is refused",
    "PLACE did not take what was read of the base",
    "pre-warm pods pull with the secret NAME",
    "notebooks pull with a secret, and [prewarm] names no pull-secret",
    "the notebook pulls with the secret NAME, and pre-warm pods with none",
    "HOST is not the pull-from of images/pools.toml",
    "HOST has a port, and the form cuts references at colons",
    "the form has hideTag: true",
    "gpus is readOnly in the form",
    "JupyterHub starts jupyterhub-singleuser",
    "the chart's pre-pullers NAMES pull all COUNT images",
    "the registry no longer has an image of TEAM",
    "TEAM has two images with the newest cutoff",
    "the budget of TEAM is left out",
    "FILE names no stopped server",
    "FILE holds the objects of one namespace, NAME",
    ".gitignore should have the lines",
)
_BY_CLASS = {BudgetError: "Size and budget", ImagebuildError: "A defect of imagebuild"}
_ROOMS = {room: area for area, (rooms, _) in AREAS.items() for room in rooms}
_WARNING = re.compile(r"(?:[^\s:]+: )?warning: ")  # of several teams with the team's name
_NAME = re.compile(r"\b[A-Z]{2,}\b")


def find_anchor(error: ImagebuildError) -> str:
    """The anchor of the heading that describes this error: of its area's messages the one with the most words in common, or the area."""
    area = find_area(type(error), error.origin)
    return _choose_anchor(error.message, AREAS[area][1], area)


def find_warning_anchor(line: str) -> str:
    """The anchor of the heading that describes this warning, or of all warnings."""
    return _choose_anchor(line, WARNING_HEADINGS, WARNINGS)


def _choose_anchor(message: str, headings: Sequence[str], part: str) -> str:
    found = [heading for heading in headings if make_pattern(heading).search(message)]
    return make_anchor(max(found, key=lambda heading: len(_NAME.sub("", heading)), default=part))


def is_debugging() -> bool:
    """Whether --debug was given: an error may come before the options are parsed."""
    return "--debug" in sys.argv


def add_reference(line: str) -> tuple[str, ...]:
    """The line; with --debug and if it is a warning also where to read on."""
    if _WARNING.match(line) and is_debugging():
        return line, f"see: {PAGE}#{find_warning_anchor(line)}"
    return (line,)


def find_area(kind: type[ImagebuildError], module: str) -> str:
    """The area of the errors of one class that one module (``imagebuild.lock.proving``) makes. KeyError: it has none."""
    if kind in _BY_CLASS:
        return _BY_CLASS[kind]
    parts = module.split(".")[1:]
    for length in range(len(parts), 0, -1):
        if (area := _ROOMS.get(".".join(parts[:length]))) is not None:
            return area
    raise KeyError(module)


def make_pattern(heading: str) -> re.Pattern[str]:
    """What finds a heading's message; a word in capitals may be anything."""
    return re.compile(".+?".join(map(re.escape, _NAME.split(heading))), re.DOTALL)


def make_anchor(heading: str) -> str:
    """A heading's anchor, as GitHub and MkDocs make it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
