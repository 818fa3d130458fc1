"""Running a resolver against the policy index: pip-tools under the base's own interpreter, or uv.

Both see one index, the base's pins as constraints, and nothing of this machine's configuration. What comes back is
``name==version`` with who asked for it; what goes wrong comes back as one sentence.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from imagebuild.base.model import Base, Distribution, Interpreter, Runtime
from imagebuild.errors import ConfigurationError, ImagebuildError, LockError
from imagebuild.lock.policy import Offer, describe_tags
from imagebuild.lock.stubs import parse_version

REQUIREMENTS = "requirements.in"
LOCAL = "local-packages.in"
VIA_LOCAL = "local package"  # who asked, for the team's own source trees
_CONSTRAINTS = "constraints.txt"
_OUTPUT = "requirements.txt"
_RESOLVE_SECONDS = 900
_ROOT_TOOL = "pip-tools"
# pip-compile reads sys.argv and looks for its files in the working folder.
_CODE = """
import os, sys
os.chdir(sys.argv[1])
sys.argv = ["pip-compile", *sys.argv[2:]]
from piptools.scripts.compile import cli
cli()
"""
_UNSUPPORTED = {
    "-e": "editable installs have no place in an image",
    "--editable": "editable installs have no place in an image",
    "-r": "put all lines into this file",
    "--requirement": "put all lines into this file",
    "-c": "the base's packages already are the constraints; put limits into this file",
    "--constraint": "the base's packages already are the constraints; put limits into this file",
    "-i": "indexes are configured in team.toml, by name",
    "--index-url": "indexes are configured in team.toml, by name",
    "--extra-index-url": "indexes are configured in team.toml, each with the names it serves",
    "-f": "indexes are configured in team.toml, by name",
    "--find-links": "indexes are configured in team.toml, by name",
    "--pre": "name the pre-release: name==2.0.0rc1",
    "--hash": "hashes are in the lock",
}


class DirectRequirement(msgspec.Struct, frozen=True):
    """One line of requirements.in."""

    line: int
    text: str  # as written
    requirement: Requirement

    @property
    def name(self) -> str:
        """Normalised (PEP 503)."""
        return canonicalize_name(self.requirement.name)


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


def read_requirements(path: Path) -> tuple[DirectRequirement, ...]:
    """Parse requirements.in (PEP 508 lines, comments, continuations); ConfigurationError gives file and line."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing", "write one requirement a line, such as: pandas==2.2.*") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8", "save it as UTF-8") from None
    found: list[DirectRequirement] = []
    pending, first = "", 0
    lines = text.splitlines()
    for number, raw in enumerate(lines, 1):
        if raw.endswith("\\") and not raw.lstrip().startswith("#") and number < len(lines):
            pending, first = pending + raw[:-1], first or number
            continue
        joined, start = pending + raw.removesuffix("\\"), first or number
        pending, first = "", 0
        content = re.sub(r"(^|\s)#.*$", "", joined).strip()
        if content:
            found.append(_parse_line(path, start, content))
    return tuple(found)


def _parse_line(path: Path, number: int, content: str) -> DirectRequirement:
    where = f"{path.name} line {number}"
    if content.startswith("-"):
        option = re.split(r"[\s=]", content, maxsplit=1)[0]
        raise ConfigurationError(
            f"{where}: {option} is not supported here", _UNSUPPORTED.get(option, "write requirements only, one a line")
        )
    address = re.match(r"(?:[A-Za-z0-9._-]+(?:\[[^\]]*\])?\s*@\s*)?((?:[a-z]+\+)?[a-z]+)://", content)
    if address:
        raise ConfigurationError(
            f"{where}: a requirement by address ({address[1]}) cannot be locked",
            "publish it as a wheel on an index, or put its source tree under packages/",
        )
    if content.startswith((".", "/")):
        raise ConfigurationError(f"{where}: a path is not a requirement", "put source trees under packages/: they are found there")
    if "--hash" in content:
        raise ConfigurationError(f"{where}: --hash is not supported here", _UNSUPPORTED["--hash"])
    try:
        requirement = Requirement(content)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{where} is not a requirement: {content!r}: {reason}", "write it as: name, name==1.2.*, or name[extra]>=1"
        ) from None
    if requirement.url:
        raise ConfigurationError(
            f"{where}: a requirement by address cannot be locked",
            "publish it as a wheel on an index, or put its source tree under packages/",
        )
    return DirectRequirement(number, content, requirement)


def applies(requirement: Requirement, environment: Mapping[str, str]) -> bool:
    """Whether a requirement's marker holds in the base."""
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})


def check_against_base(
    requirements: Sequence[DirectRequirement], distributions: Mapping[str, Distribution], environment: Mapping[str, str], base: str
) -> None:
    """LockError for the first line that what the base has cannot satisfy."""
    for item in requirements:
        held = distributions.get(item.name)
        if held is None or not applies(item.requirement, environment):
            continue
        version = parse_version(held.version)
        if version is None or not item.requirement.specifier.contains(version, prereleases=True):
            shown = str(item.requirement).partition(";")[0].strip()
            raise LockError(
                f"{REQUIREMENTS} line {item.line} asks {shown}; the base {base} has {held.name} {held.version}",
                f"change the line to what the base has, or choose another base than {base}",
            )


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
    """The resolver's files. Line numbers are those of the team's own file, so that its complaints can be used."""
    lines: dict[int, str] = {item.line: str(item.requirement) for item in requirements}
    text = "\n".join(lines.get(number, "") for number in range(1, max(lines, default=0) + 1))
    (folder / REQUIREMENTS).write_text(text + "\n", "utf-8")
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
        "--pip-args", "--only-binary :all: --retries 0 --no-input --disable-pip-version-check --no-color",
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
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder / "home"), "LC_ALL": "C.UTF-8", "UV_HTTP_RETRIES": "0", "NO_PROXY": "*"}
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


def explain_failure(outcome: Outcome, known: Explanation) -> ImagebuildError:
    """One sentence and a hint out of pip's (or uv's) report and of what the policy index left out."""
    log = outcome.log
    details = tuple(_clean(line) for line in _find_conflict(log))
    missing = _find_missing(log)
    for name, wanted in missing:
        error = _explain_missing(name, wanted, known, details)
        if error is not None:
            return error
    for line in details:  # a conflict with something the base holds
        if match := re.match(r"(\S+) (\S+) depends on ([A-Za-z0-9._-]+)(.*)", line):
            name = canonicalize_name(match[3])
            held = known.held.get(name)
            version = parse_version(held.version) if held else None
            if held is not None and version is not None and not _admits(match[4], version):
                return LockError(
                    f"{match[1]} {match[2]} needs {name}{_first_specifier(match[4])}; the base {known.base.name} has {name} {held.version}",
                    f"ask for another version of {match[1]} in {REQUIREMENTS}, or choose another base",
                    details,
                )
    for line in details:
        if match := re.match(r"The user requested \(constraint\) ([A-Za-z0-9._-]+)", line):
            name = canonicalize_name(match[1])
            if name in known.edges:
                return LockError(
                    f"no version of {name} suits both the request and the base {known.base.name}: its {'; '.join(known.edges[name][:3])}",
                    f"ask for other versions in {REQUIREMENTS}, or choose another base",
                    details,
                )
    if details:
        first = _shorten(details)
        return LockError(f"the requirements contradict each other: {first}", f"loosen one of these lines in {REQUIREMENTS}", details)
    tail = tuple(line for line in (_clean(raw) for raw in log.splitlines()) if line)[-12:]
    last = next((line for line in reversed(tail) if "rror" in line), tail[-1] if tail else "no word")
    return LockError(f"the resolver gave up: {last[:300]}", f"look at {REQUIREMENTS}; the resolver's last lines are above", tail)


def _find_conflict(log: str) -> list[str]:
    """The lines under "The conflict is caused by:", or uv's one paragraph."""
    lines = log.splitlines()
    found: list[str] = []
    for number, line in enumerate(lines):
        if "The conflict is caused by" in line:
            for item in lines[number + 1 :]:
                if item.strip().startswith(("Additionally, some packages", "To fix this", "hint:", "Traceback", "ERROR")):
                    break
                if item.strip():
                    found.append(item.strip())
            break
    return list(dict.fromkeys(found))


def _find_missing(log: str) -> list[tuple[str, str]]:
    """(name, requirement) of what pip or uv says has no candidate."""
    found: list[tuple[str, str]] = []
    patterns = (
        r"Could not find a version that (?:satisfies the requirement|matches) (?P<what>[^\n]+?) \(from",
        r"No matching distribution found for (?P<what>[^\n(]+)",
        r"Because (?P<what>[A-Za-z0-9._-]+) was not found in the package registry",
        r"there (?:is|are) no versions? of (?P<what>[^\s,]+)",
        r"only the following versions of (?P<what>[A-Za-z0-9._-]+)",
    )
    for pattern in patterns:
        for match in re.finditer(pattern, re.sub(r"\n\s+", " ", log) if "│" in log or "╰" in log else log):
            what = match["what"].strip().rstrip(".,")
            name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", what)
            if name and not any(known == canonicalize_name(name[0]) for known, _ in found):
                found.append((canonicalize_name(name[0]), what))
    return found


def _explain_missing(name: str, wanted: str, known: Explanation, details: tuple[str, ...]) -> ImagebuildError | None:
    direct = next((item for item in known.requirements if item.name == name), None)
    asker = (
        f"{REQUIREMENTS} line {direct.line} asks {str(direct.requirement).partition(';')[0].strip()}" if direct else f"{wanted} is needed"
    )
    interpreter = known.base.interpreter
    specifier = direct.requirement.specifier if direct else _specifier_of(wanted)
    if name in known.held:
        return LockError(
            f"{asker}; the base {known.base.name} has {name} {known.held[name].version}",
            f"ask for a version of what needs {name} that works with it, or choose another base",
            details,
        )
    offer = known.offers.find_offer(name)
    if offer is None:
        return None
    if offer.absent:
        close = " (the index answers 404)"
        return LockError(
            f"{asker}; there is no project {name} on package index {offer.index!r}{close}",
            "check the spelling, or which index serves that name (names in team.toml)",
            details,
        )

    def fitting(versions: Sequence[str]) -> list[str]:
        return [text for text in versions if specifier.contains(text, prereleases=True)]

    if python := fitting(list(offer.other_python)):
        newest = python[-1]
        return LockError(
            f"{asker}; {name} {newest} needs Python {offer.other_python[newest]}; the base {known.base.name} has {interpreter.version}",
            "ask for another version, or choose a base with another Python",
            details,
        )
    if tags := fitting(list(offer.other_tags)):
        newest = tags[-1]
        return LockError(
            f"{asker}; the wheels of {name} {newest} are for {describe_tags(offer.other_tags[newest])}; "
            f"the base {known.base.name} is {interpreter.tags[0] if interpreter.tags else interpreter.version}",
            "ask for another version, or choose a base that fits",
            details,
        )
    if sdists := fitting(offer.sdist_only):
        return LockError(
            f"{asker}; {name} {sdists[-1]} on package index {offer.index!r} is source only, there is no wheel",
            'publish a wheel of it on an index, or use engine = "docker" for this team',
            details,
        )
    if late := fitting(offer.too_new):
        return LockError(
            f"{asker}; {name} {late[-1]} is newer than the cutoff", "ask for an older version, or move the cutoff with --as-of", details
        )
    if yanked := fitting(offer.yanked):
        return LockError(
            f"{asker}; {name} {yanked[-1]} was yanked by its authors",
            f"ask for another version, or pin it on purpose: {name}=={yanked[-1]}",
            details,
        )
    if offer.wheels and not details and not fitting(list(offer.wheels)):
        return LockError(
            f"{asker}; the newest {name} for this base on package index {offer.index!r} is {list(offer.wheels)[-1]}",
            "change the line",
            details,
        )
    if not offer.wheels:
        return LockError(f"{asker}; package index {offer.index!r} has no usable file of {name}", "publish a wheel of it", details)
    return None


def _specifier_of(wanted: str) -> SpecifierSet:
    try:
        return Requirement(wanted).specifier
    except InvalidRequirement:
        return SpecifierSet()


def _admits(text: str, version: Version) -> bool:
    try:
        return SpecifierSet(_first_specifier(text)).contains(version, prereleases=True)
    except InvalidSpecifier:
        return True


def _first_specifier(text: str) -> str:
    """The specifier out of pip's ``[extra]<3,>=2; marker``."""
    return re.sub(r"^\[[^\]]*\]", "", text.partition(";")[0].strip()).strip(" ()")


def _shorten(details: Sequence[str]) -> str:
    return " and ".join(dict.fromkeys(details[:2]))


def _clean(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m|https?://127\.0\.0\.1:\d+/\S*", "", line).strip()


def make_scratch(cache: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for one resolution, removed afterwards."""
    folder = cache / "resolve"
    folder.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".tmp-", dir=folder)
