"""Running a resolver against the policy index: pip-tools under the base's own interpreter, or uv.

Both see one index, the base's pins as constraints, and nothing of this machine's configuration. What comes back is
``name==version`` with who asked for it; what goes wrong comes back as one sentence.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from imagebuild.base.model import Base, Distribution, Interpreter, Runtime
from imagebuild.errors import ImagebuildError, LockError
from imagebuild.lock.file.replacement import PROTECTED, suggest_replacement
from imagebuild.lock.inputs.requirements import REQUIREMENTS, DirectRequirement, applies
from imagebuild.lock.resolve.candidates import Offer, describe_tags
from imagebuild.lock.resolve.stubs import parse_version

LOCAL = "local-packages.in"
VIA_LOCAL = "local package"  # who asked, for the team's own source trees
_CONSTRAINTS = "constraints.txt"
_OUTPUT = "requirements.txt"
_RESOLVE_SECONDS = 1800  # a package that is built from source on the way counts too
_ROOT_TOOL = "pip-tools"
# pip-compile reads sys.argv and looks for its files in the working folder.
_CODE = """
import os, sys
os.chdir(sys.argv[1])
sys.argv = ["pip-compile", *sys.argv[2:]]
from piptools.scripts.compile import cli
try:
    cli()
except Exception as error:
    import json, traceback
    causes = getattr(error.__cause__, "causes", None)
    if causes is None:
        traceback.print_exc()
    for item in causes or ():
        parent = item.parent
        line = ["", ""] if parent is None else [str(parent.name), str(parent.version)]
        print("imagebuild-cause:", json.dumps([*line, str(item.requirement)]))
    print(f"imagebuild-error: {type(error).__name__}: {error}")
    sys.exit(2)
"""


class Pin(msgspec.Struct, frozen=True):
    """One line of a resolver's answer."""

    name: str
    version: str
    via: tuple[str, ...]


class Outcome(msgspec.Struct, frozen=True):
    """What a resolver's process left behind."""

    succeeded: bool
    output: str
    log: str


class Offers(Protocol):
    """What the policy index remembers."""

    def find_offer(self, name: str) -> Offer | None:
        """What was offered of a project, None if nobody asked."""


def check_against_base(
    requirements: Sequence[DirectRequirement],
    distributions: Mapping[str, Distribution],
    environment: Mapping[str, str],
    base: Base,
    protect: Sequence[str] = PROTECTED,
) -> None:
    """LockError for the first line that what the base has cannot satisfy."""
    for item in requirements:
        held = distributions.get(item.name)
        if held is None or not applies(item.requirement, environment):
            continue
        version = parse_version(held.version)
        if item.requirement.url:
            raise LockError(
                f"{item.where} asks {item.name} from an address; the base {base.name} has {held.name} {held.version}",
                f"remove the line, or choose another base than {base}",
            )
        if version is None or not item.requirement.specifier.contains(version, prereleases=True):
            shown = str(item.requirement).partition(";")[0].strip()
            raise LockError(
                f"{item.where} asks {shown}; the base {base.name} has {held.name} {held.version}",
                _join_ways(
                    f"change {item.where} to what the base has ({held.name}=={held.version})",
                    suggest_replacement(base, held.name, protect),
                    f"choose another base than {base.name}",
                ),
            )


def _join_ways(*ways: str) -> str:
    """``a, or b, or c`` of those that are not empty."""
    return ", or ".join(way.removeprefix("or ") for way in ways if way)


def find_pins(requirements: Sequence[DirectRequirement]) -> dict[str, frozenset[str]]:
    """Versions that a line names with == or ===: these may be yanked ones (PEP 592)."""
    pins: dict[str, set[str]] = {}
    for item in requirements:
        for specifier in item.requirement.specifier:
            if specifier.operator in ("==", "===") and not specifier.version.endswith(".*"):
                version = parse_version(specifier.version)
                pins.setdefault(item.name, set()).add(str(version) if version is not None else specifier.version)
    return {name: frozenset(versions) for name, versions in pins.items()}


def write_inputs(
    folder: Path,
    requirements: Sequence[DirectRequirement],
    local: Mapping[str, str],
    constraints: Sequence[str],
    existing: Mapping[str, str],
) -> None:
    """The resolver's files. Lines of the team's own file keep their numbers, so that its complaints can be used; others follow."""
    if addressed := next((item for item in requirements if item.requirement.url), None):
        raise LockError(
            f"{addressed.where}: a resolver would fetch {addressed.name} by itself, past every index", "name it without its address"
        )
    lines = {item.line: str(item.requirement) for item in requirements if item.file == REQUIREMENTS}
    numbered = [lines.get(number, "") for number in range(1, max(lines, default=0) + 1)]
    included = [str(item.requirement) for item in requirements if item.file != REQUIREMENTS]
    (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in (*numbered, *included)), "utf-8")
    (folder / LOCAL).write_text("".join(f"{name}=={local[name]}\n" for name in sorted(local)), "utf-8")
    (folder / _CONSTRAINTS).write_text("".join(f"{line}\n" for line in constraints), "utf-8")
    if existing:
        (folder / _OUTPUT).write_text("".join(f"{name}=={existing[name]}\n" for name in sorted(existing)), "utf-8")


# -- pip-tools


def find_tools(interpreter: Interpreter) -> dict[str, importlib.metadata.Distribution] | None:
    """pip-tools and all it needs under the base's Python, from our own environment; None when something doesn't fit it."""
    found: dict[str, importlib.metadata.Distribution] = {}
    wanted = [_ROOT_TOOL]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return None
        python = (distribution.metadata.get_all("Requires-Python") or [""])[0]
        try:
            if not SpecifierSet(python).contains(interpreter.version, prereleases=True):
                return None
        except InvalidSpecifier:
            return None
        found[name] = distribution
        for line in distribution.requires or ():
            requirement = Requirement(line)
            if applies(requirement, interpreter.markers):
                wanted.append(canonicalize_name(requirement.name))
    return found


def link_tools(tools: Mapping[str, importlib.metadata.Distribution], folder: Path) -> None:
    """A folder for sys.path that holds these distributions and nothing else, by symlinks."""
    folder.mkdir()
    for name, distribution in tools.items():
        parts = {file.parts[0] for file in distribution.files or () if file.parts[0] not in ("..", "__pycache__")}
        if not parts:
            raise LockError(
                f"the installation of {name} beside imagebuild has no list of its files", f"pip install --force-reinstall {name}"
            )
        for part in sorted(parts):
            source = Path(str(distribution.locate_file(part)))
            target = folder / part
            if source.exists() and not target.is_symlink() and not part.endswith(".pth"):
                target.symlink_to(source.resolve())


def run_pip_tools(runtime: Runtime, tools: Mapping[str, importlib.metadata.Distribution], folder: Path, url: str) -> Outcome:
    """pip-compile in ``folder`` (see :func:`write_inputs`), without hashing and without any configuration of this machine."""
    link_tools(tools, folder / "tools")
    (folder / "home").mkdir()
    arguments = [
        str(folder), "--no-config", "--no-header", "--annotate", "--annotation-style", "split", "--no-emit-options", "--no-emit-index-url",
        "--no-emit-trusted-host", "--no-emit-find-links", "--strip-extras", "--allow-unsafe", "--resolver", "backtracking",
        "--cache-dir", str(folder / "cache"), "--index-url", url,
        "--pip-args", f"--only-binary :all: --retries 0 --timeout {_RESOLVE_SECONDS} --no-input --disable-pip-version-check --no-color",
        "--constraint", _CONSTRAINTS, "--output-file", _OUTPUT, REQUIREMENTS, LOCAL,
    ]  # fmt: skip
    done = runtime.run(
        _CODE,
        *arguments,
        path=[folder / "tools"],
        network=True,
        environment={
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "home"),
            "PIP_CONFIG_FILE": os.devnull,
            "COLUMNS": "400",
            "NO_PROXY": "*",
        },
        timeout=_RESOLVE_SECONDS,
    )
    return _read_outcome(folder, done.returncode, done.stdout, done.stderr)


def _read_outcome(folder: Path, code: int, stdout: bytes, stderr: bytes) -> Outcome:
    output = folder / _OUTPUT
    text = output.read_text("utf-8") if code == 0 and output.is_file() else ""
    return Outcome(code == 0, text, (stdout + b"\n" + stderr).decode("utf-8", "replace"))


# -- uv


def find_uv() -> str | None:
    """The uv beside us, or None."""
    if importlib.util.find_spec("uv") is None:
        return None
    from uv import find_uv_bin

    try:
        return str(find_uv_bin())
    except FileNotFoundError:
        return None


def run_uv(program: str, interpreter: Interpreter, platform_machine: str, folder: Path, url: str) -> Outcome:
    """``uv pip compile`` for the base's full Python version; tags have been judged by the policy index already."""
    (folder / "home").mkdir(exist_ok=True)
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform_machine, platform_machine)
    libc = "unknown-linux-musl" if interpreter.libc.startswith("musl") else "manylinux_2_40"
    command = [
        program, "pip", "compile", "--no-config", "--no-header", "--annotation-style", "split", "--no-progress", "--color", "never",
        "--cache-dir", str(folder / "cache"), "--python", sys.executable, "--python-version", interpreter.version, "--no-python-downloads",
        "--python-platform", f"{machine}-{libc}", "--default-index", url, "--no-build", "--strip-extras", "--quiet",
        "--constraint", _CONSTRAINTS, "--output-file", _OUTPUT, REQUIREMENTS, LOCAL,
    ]  # fmt: skip
    environment = {
        "PATH": "/usr/bin:/bin", "HOME": str(folder / "home"), "LC_ALL": "C.UTF-8", "UV_HTTP_RETRIES": "0", "NO_PROXY": "*",
        "UV_HTTP_TIMEOUT": str(_RESOLVE_SECONDS),
    }  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=_RESOLVE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise LockError(f"uv found no answer within {_RESOLVE_SECONDS} s", "narrow the versions in requirements.in") from None
    return _read_outcome(folder, done.returncode, done.stdout, done.stderr)


# -- both


def parse_pins(text: str) -> tuple[Pin, ...]:
    """``name==version`` lines with split annotations -> pins sorted by name. ``via``: requirements.in, or names."""
    pins: list[Pin] = []
    name = version = ""
    via: list[str] = []

    def close() -> None:
        if name:
            pins.append(Pin(name, version, tuple(sorted(set(via)))))

    for line in text.splitlines():
        if match := re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+).*", line):
            close()
            name, version, via = canonicalize_name(match[1]), str(Version(match[2])), []
        elif match := re.fullmatch(r"\s+#(?:\s+via)?\s+(\S.*)", line):
            via.extend(_read_origin(match[1].strip()))
    close()
    return tuple(sorted(pins, key=lambda pin: pin.name))


def _read_origin(text: str) -> list[str]:
    if text == "via":
        return []
    if text.startswith("-c "):
        return []
    if text.startswith("-r "):
        return [VIA_LOCAL if text.endswith(LOCAL) else REQUIREMENTS]
    return [canonicalize_name(text.partition(" ")[0])]


class Explanation(msgspec.Struct, frozen=True):
    """All that is known when a resolver has given up."""

    base: Base
    held: Mapping[str, Distribution]  # the base's distributions that stand
    edges: Mapping[str, tuple[str, ...]]  # names that the base's own distributions limit, and who does
    requirements: Sequence[DirectRequirement]
    offers: Offers
    constraints: Sequence[DirectRequirement] = ()  # lines of -c files
    protect: Sequence[str] = PROTECTED


def explain_failure(outcome: Outcome, known: Explanation) -> ImagebuildError:
    """One sentence and a hint out of pip's (or uv's) report and of what the policy index left out."""
    causes = find_causes(outcome.log)
    needs = tuple(dict.fromkeys(_describe_cause(cause, known) for cause in causes))
    details = needs if len(needs) > 1 else ()  # a single one is in the message already
    for cause in causes:
        error = _explain_base(cause, known, details) or _explain_limit(cause, known, details) or _explain_missing(cause, known, details)
        if error is not None:
            return error
    for cause in causes:
        if cause.name in known.edges:
            return LockError(
                f"{_describe_cause(cause, known)}; the base {known.base.name} has {' and '.join(known.edges[cause.name][:3])}",
                f"ask for another version in {REQUIREMENTS}, or choose another base",
                details,
            )
    if details:
        return LockError(
            f"the requirements contradict each other: {' and '.join(details[:3])}", f"loosen one line of {REQUIREMENTS}", details
        )
    tail = tuple(line for line in (_clean(raw) for raw in outcome.log.splitlines()) if line)[-12:]
    last = next(
        (line for line in reversed(tail) if re.match(r"(imagebuild-)?error|ERROR|\S*cause:", line)), tail[-1] if tail else "no word"
    )
    return LockError(f"the resolver gave up: {last[:400]}", f"look at {REQUIREMENTS} and at the resolver's last lines", tail)


class Cause(msgspec.Struct, frozen=True):
    """One need that a resolver could not meet: ``parent`` is "" for a line of requirements.in or a constraint."""

    parent: str  # "pandas 2.2.3", or a name alone
    name: str  # what is needed, normalised
    specifier: SpecifierSet


def find_causes(log: str) -> tuple[Cause, ...]:
    """Needs out of what our pip-compile driver prints, pip's own complaints, or uv's sentences; in that order of trust."""
    found: list[Cause] = []

    def add(parent: str, text: str) -> None:
        try:
            requirement = Requirement(text.strip().rstrip(".,"))
        except InvalidRequirement:
            return
        found.append(Cause(parent.strip(), canonicalize_name(requirement.name), requirement.specifier))

    for match in re.finditer(r"^imagebuild-cause: (\[.*\])$", log, re.MULTILINE):
        with contextlib.suppress(msgspec.DecodeError, msgspec.ValidationError):
            parent, version, text = msgspec.json.decode(match[1], type=tuple[str, str, str])
            add(f"{parent} {version}", text)
    if not found:
        for match in re.finditer(
            r"Could not find a version that satisfies the requirement (\S+)(?: \(from ([A-Za-z0-9._-]+)[^)]*\))?", log
        ):
            add("" if (match[2] or "").startswith(("-", "versions")) else match[2] or "", match[1])
        for match in re.finditer(r"No matching distribution found for (\S+)", log):
            add("", match[1])
    if not found:
        text = " ".join(log.split())
        for match in re.finditer(
            r"([A-Za-z0-9._-]+)(?:[=<>!~]=?\S+)? depends? on ([A-Za-z0-9][A-Za-z0-9._-]*(?:[=<>!~]=?[^\s,]+(?:,[=<>!~]=?[^\s,]+)*)?)", text
        ):
            add(match[1], match[2])
        for match in re.finditer(r"you require ([A-Za-z0-9][^\s]*)(?: and ([A-Za-z0-9][^\s]*))?", text):
            add("", match[1])
            add("", match[2] or "")
        for match in re.finditer(r"Because ([A-Za-z0-9._-]+) was not found in the package registry", text):
            add("", match[1])
    return tuple(found)


def _describe_cause(cause: Cause, known: Explanation) -> str:
    wanted = f"{cause.name}{cause.specifier}"
    if cause.parent and canonicalize_name(cause.parent) not in ("your-project", "project"):
        return f"{cause.parent} needs {wanted}"
    lines = [item for item in known.requirements if item.name == cause.name]
    for item in [item for item in lines if item.requirement.specifier == cause.specifier] or lines:
        return f"{item.where} asks {_show(item.requirement)}"
    return f"{wanted} is needed"


def _show(requirement: Requirement) -> str:
    return str(requirement).partition(";")[0].strip()


def _explain_base(cause: Cause, known: Explanation, details: tuple[str, ...]) -> ImagebuildError | None:
    held = known.held.get(cause.name)
    version = parse_version(held.version) if held is not None else None
    if held is None or version is None or cause.specifier.contains(version, prereleases=True):
        return None
    who = cause.parent.partition(" ")[0]
    lines = [item.where for item in known.requirements if item.name == (canonicalize_name(who) if who else cause.name)]
    where = lines[0] if lines else REQUIREMENTS
    return LockError(
        f"{_describe_cause(cause, known)}; the base {known.base.name} has {held.name} {held.version}",
        _join_ways(
            f"ask for another version of {who} ({where})" if who else f"change {where}",
            suggest_replacement(known.base, held.name, known.protect),
            "choose another base",
        ),
        details,
    )


def _explain_limit(cause: Cause, known: Explanation, details: tuple[str, ...]) -> ImagebuildError | None:
    """A line of a constraints file that leaves nothing of what is needed; None when there is none."""
    offer = known.offers.find_offer(cause.name)
    for item in known.constraints:
        limit = item.requirement.specifier
        if offer is None or item.name != cause.name or not applies(item.requirement, known.base.interpreter.markers):
            continue
        merged = limit == cause.specifier  # uv tells a need and its limit as one
        fitting = [text for text in offer.wheels if merged or cause.specifier.contains(text, prereleases=True)]
        if fitting and not any(limit.contains(text, prereleases=True) for text in fitting):
            need = Cause(cause.parent, cause.name, SpecifierSet()) if merged else cause
            return LockError(
                f"{_describe_cause(need, known)}; {item.where} allows {_show(item.requirement)} only",
                f"loosen that line, or ask for another version in {REQUIREMENTS}",
                details,
            )
    return None


def _explain_missing(cause: Cause, known: Explanation, details: tuple[str, ...]) -> ImagebuildError | None:
    """Why an index has nothing for one need; None when it has."""
    offer = known.offers.find_offer(cause.name)
    if offer is None or cause.name in known.held:
        return None
    name, index = cause.name, f"package index {offer.index!r}"
    asker = _describe_cause(cause, known)
    base, interpreter = known.base.name, known.base.interpreter
    if offer.absent:
        hint = "check the spelling, or which index serves that name (names in team.toml)"
        return LockError(f"{asker}; there is no project {name} on {index}", hint, details)

    def fitting(versions: Iterable[str]) -> list[str]:
        return [text for text in versions if cause.specifier.contains(text, prereleases=True)]

    if fitting(offer.wheels):
        return None
    another = "ask for another version"
    if python := fitting(offer.other_python):
        needed = offer.other_python[python[-1]]
        text, hint = (
            f"{name} {python[-1]} needs Python {needed}; the base {base} has {interpreter.version}",
            f"{another}, or choose another base",
        )
    elif tags := fitting(offer.other_tags):
        fits = describe_tags(offer.other_tags[tags[-1]])
        own = f"{interpreter.tags[0]} ({interpreter.libc})" if interpreter.tags else interpreter.version
        text, hint = f"the wheels of {name} {tags[-1]} are for {fits}; the base {base} is {own}", f"{another}, or choose another base"
    elif sdists := fitting(offer.sdist_only):
        text = f"{name} {sdists[-1]} on {index} is source only: there is no wheel"
        hint = f'publish a wheel of it on an index, or have one built inside the base: [source] packages = ["{name}"] in team.toml'
    elif late := fitting(offer.too_new):
        text, hint = f"{name} {late[-1]} is newer than the lock's cutoff", "ask for an older version, or move the cutoff with --as-of"
    elif yanked := fitting(offer.yanked):
        text, hint = f"{name} {yanked[-1]} was yanked by its authors", f"{another}, or pin it on purpose: {name}=={yanked[-1]}"
    elif offer.wheels:
        text, hint = f"the newest {name} for this base on {index} is {list(offer.wheels)[-1]}", "change the line"
    else:
        text, hint = f"{index} has no usable file of {name}", "publish a wheel of it"
    return LockError(f"{asker}; {text}", hint, details)


def _clean(line: str) -> str:
    """A line without colours and without the policy index's address."""
    return re.sub(r"\x1b\[[0-9;]*m|https?://127\.0\.0\.1:\d+/\S*", "", line).strip()


def make_scratch(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for one resolution, removed afterwards."""
    folder = cache / "resolve"
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder)
