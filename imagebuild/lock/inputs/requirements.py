"""requirements.in and what it includes: PEP 508 lines, comments, continuations, ``-r FILE`` and ``-c FILE``.

A requirement by URL must be a wheel with its hash: ``name @ https://host/name-1.0-py3-none-any.whl#sha256=<64 hex digits>``. Any
requirement may end in ``--hash=sha256:<64 hex digits>``, several of them, as in pip's hash-checking mode.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

from imagebuild.errors import ConfigurationError
from imagebuild.files import read_regular

REQUIREMENTS = "requirements.in"
_LARGEST = 4 << 20  # bytes of one file
_DEEPEST, _OFTEN = 30, 100  # how many files may include one another, and how often one of them may be included
_INCLUDE = re.compile(r"(?:(?P<option>-r|-c)\s*|(?P<long>--requirement|--constraint)(?:\s*=\s*|\s+))(?P<file>\S.*)")
_ADDRESS = re.compile(r"(?:[A-Za-z0-9._-]+(?:\[[^\]]*\])?\s*@\s*)?(?P<scheme>(?:[a-z]+\+)?[a-z]+)://")
_HASH = re.compile(r"sha256=(?P<digest>[0-9a-fA-F]{64})")
_OPTION_HASH = re.compile(r"(?P<algorithm>[a-z0-9]+):(?P<digest>[0-9a-fA-F]+)")
_HASH_HINT = "add the wheel's hash: name @ URL#sha256=<64 hex digits>"
_UNSUPPORTED = {
    "-e": "an image cannot hold editable installs",
    "--editable": "an image cannot hold editable installs",
    "-i": "indexes are configured in team.toml, by name",
    "--index-url": "indexes are configured in team.toml, by name",
    "--extra-index-url": "indexes are configured in team.toml, each with the names it serves",
    "-f": "indexes are configured in team.toml, by name",
    "--find-links": "indexes are configured in team.toml, by name",
    "--pre": "name the pre-release: name==2.0.0rc1",
    "--require-hashes": "remove the line: a lock has the hash of every file",
    "--only-binary": "remove the line: only wheels are locked",
    "--prefer-binary": "remove the line: only wheels are locked",
    "--no-binary": "what has no wheel is built by [source] packages in team.toml; a wheel that is there is taken",
    "--no-index": "indexes are configured in team.toml, by name",
    "--trusted-host": "for an index with its own certificate set cert in pip's configuration, or use an http url in team.toml",
    "--config-settings": "publish the intended wheel on an index",
}


class DirectRequirement(msgspec.Struct, frozen=True):
    """One line of requirements.in, or of a file it includes."""

    line: int
    text: str  # as written
    requirement: Requirement
    file: str = REQUIREMENTS  # relative to the folder of requirements.in
    hashes: frozenset[str] = frozenset()  # SHA-256 digests in hex, of --hash; empty: any file may be taken

    @property
    def name(self) -> str:
        """Normalised (PEP 503)."""
        return canonicalize_name(self.requirement.name)

    @property
    def where(self) -> str:
        """For messages: ``requirements.in line 2``."""
        return f"{self.file} line {self.line}"


class Requirements(msgspec.Struct, frozen=True):
    """All lines, in the order in which they are read; ``files`` are the files they are in, requirements.in first."""

    direct: tuple[DirectRequirement, ...]
    constraints: tuple[DirectRequirement, ...]
    files: tuple[Path, ...]


class _Line(msgspec.Struct, frozen=True):
    path: Path
    file: str
    number: int
    content: str
    constraint: bool


def read_requirements(path: Path, root: Path | None = None) -> Requirements:
    """Parse requirements.in and what it includes; ConfigurationError gives file and line. ``root``: no file may lie outside it."""
    files: dict[Path, int] = {}
    direct, constraints = [], []
    for line in _read_lines(path, REQUIREMENTS, (root or path.parent).resolve(), files, (), constraint=False):
        if line.constraint:
            constraints.append(_parse_constraint(line))
        else:
            direct.append(_parse_line(line))
    return Requirements(tuple(direct), tuple(constraints), tuple(files))


def list_files(path: Path, root: Path) -> tuple[Path, ...]:
    """requirements.in and every file it includes, without judging their lines."""
    files: dict[Path, int] = {}
    for _line in _read_lines(path, REQUIREMENTS, root.resolve(), files, (), constraint=False):
        pass
    return tuple(files)


def _read_lines(
    path: Path, shown: str, root: Path, files: dict[Path, int], chain: tuple[Path, ...], *, constraint: bool
) -> Iterator[_Line]:
    real = path.resolve()
    if not chain and not (real.is_relative_to(root) or real.is_relative_to(path.parent.resolve())):
        raise ConfigurationError(f"{path} is a link to a file outside the project", "keep all inputs of a lock in the project")
    if real in chain:
        raise ConfigurationError(f"{shown} includes itself", "remove one of the -r or -c lines")
    key = path if not chain else real
    files[key] = files.get(key, 0) + 1
    if len(chain) > _DEEPEST or files[key] > _OFTEN:
        raise ConfigurationError(f"{shown} is included too deep, or too often", "put what all need into one file, and include it once")
    for number, content in _join_lines(_read_text(path, shown, included=bool(chain))):
        match = _INCLUDE.fullmatch(content)
        if match is None:
            yield _Line(path, shown, number, content, constraint)
            continue
        name, where = match["file"].strip(), f"{shown} line {number}"
        if "://" in name:
            raise ConfigurationError(f"{where}: the inputs of a lock must be local files", "copy it into the project and include that")
        included = path.parent / name
        try:
            inside, there = included.resolve().is_relative_to(root), included.exists()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL in it, links in a circle
            raise ConfigurationError(f"{where}: {name} cannot be a file's name", "name a file in the project") from None
        if not inside:
            raise ConfigurationError(f"{where}: {name} is not in the project's folder", "keep all inputs of a lock in the project")
        constrains = constraint or match["option"] == "-c" or match["long"] == "--constraint"
        further = (Path(shown).parent / name).as_posix()
        if not there:
            raise ConfigurationError(f"{where}: {name} is missing", "write the file, or remove the line")
        yield from _read_lines(included, further, root, files, (*chain, real), constraint=constrains)


def _read_text(path: Path, shown: str, *, included: bool) -> str:
    name = shown if included else str(path)
    try:
        return read_regular(path, _LARGEST, name).decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigurationError(f"{path} is missing", "write one requirement a line, such as: pandas==2.2.*") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is not UTF-8", "save it as UTF-8") from None


def _join_lines(text: str) -> Iterator[tuple[int, str]]:
    """(number of the first line, content) without comments, continuations put together, empty ones left out."""
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
            yield start, content


def _parse_line(line: _Line) -> DirectRequirement:
    where, content = f"{line.file} line {line.number}", line.content
    if content.startswith("-"):
        option = re.split(r"[\s=]", content, maxsplit=1)[0]
        raise ConfigurationError(
            f"{where}: {option} is not supported here", _UNSUPPORTED.get(option, "write requirements only, one a line")
        )
    if content.startswith((".", "/")):
        raise ConfigurationError(f"{where}: a path is not a requirement", "put source trees under packages/: they are found there")
    address = _ADDRESS.match(content)
    if address:
        return _parse_address(line, where, address["scheme"])
    text, hashes = _split_hashes(where, content)
    requirement = _parse_requirement(where, text)
    if requirement.url:
        raise ConfigurationError(f"{where}: not a URL: {requirement.url!r}", "write https://...#sha256=...")
    return DirectRequirement(line.number, content, requirement, line.file, hashes)


def _split_hashes(where: str, content: str) -> tuple[str, frozenset[str]]:
    """(the requirement, the digests of its --hash options), by pip's rule: what begins with a dash after a blank is an option."""
    match = re.search(r"\s-", content)
    if match is None:
        return content, frozenset()
    try:
        words = iter(shlex.split(content[match.start() :]))
    except ValueError as error:
        raise ConfigurationError(f"{where}: the options after the requirement cannot be read: {error}", "check the quotes") from None
    digests = set()
    for word in words:
        option, _, value = word.partition("=")
        if option != "--hash":
            raise ConfigurationError(
                f"{where}: {option} is not supported here", _UNSUPPORTED.get(option, "only --hash may follow a requirement")
            )
        digests.add(_parse_hash(where, value or next(words, "")))
    return content[: match.start()].strip(), frozenset(digests)


def _parse_hash(where: str, value: str) -> str:
    """The digest of ``sha256:<64 hex digits>``."""
    match = _OPTION_HASH.fullmatch(value)
    if match is not None and match["algorithm"] in ("sha384", "sha512"):
        raise ConfigurationError(
            f"{where}: a --hash by {match['algorithm']} cannot be checked: package indexes and locks hold sha256",
            "write --hash=sha256:... (pip hash FILE prints it)",
        )
    if match is None or match["algorithm"] != "sha256" or len(match["digest"]) != 64:
        raise ConfigurationError(f"{where}: {value[:80]!r} is not a hash", "write --hash=sha256: and 64 hex digits")
    return match["digest"].lower()


def _parse_requirement(where: str, content: str) -> Requirement:
    try:
        return Requirement(content)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"{where} is not a requirement: {content!r}: {reason}", "write it as: name, name==1.2.*, or name[extra]>=1"
        ) from None


def _parse_constraint(line: _Line) -> DirectRequirement:
    found = _parse_line(line)
    if found.requirement.url:
        raise ConfigurationError(f"{found.where}: a URL is not a constraint", f"put it into {REQUIREMENTS}, or limit the version here")
    if found.requirement.extras:
        raise ConfigurationError(f"{found.where}: a constraint has no extras", f"ask for the extras in {REQUIREMENTS}")
    return found


def _parse_address(line: _Line, where: str, scheme: str) -> DirectRequirement:
    """``name[extras] @ https://…/name-1.0-py3-none-any.whl#sha256=… ; marker``; each refusal says why."""
    if "+" in scheme:
        raise ConfigurationError(
            f"{where}: a requirement from version control ({scheme}) cannot be locked: a commit is not a hash of what gets installed, "
            "and building it runs its code here",
            "publish it as a wheel on an index, or put its source tree under packages/",
        )
    if scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{where}: a requirement by URL ({scheme}) cannot be locked: another machine may find other content there",
            "publish it as a wheel on an index, or put its source tree under packages/",
        )
    text, hashes = _split_hashes(where, line.content)
    requirement = _parse_requirement(where, text)
    url = requirement.url or ""
    try:
        parts = urlsplit(url)
        credentials = parts.username or parts.password
    except ValueError:
        raise ConfigurationError(f"{where}: the URL is invalid", "correct it") from None
    if credentials is not None:
        raise ConfigurationError(
            f"{where}: the URL holds credentials", "remove them (and change them: they are in the history now); put them in netrc"
        )
    if hashes and not parts.fragment:
        if len(hashes) > 1:
            raise ConfigurationError(f"{where}: a URL names one file, and there are {len(hashes)} hashes", "keep that file's own")
        parts = parts._replace(fragment=f"sha256={min(hashes)}")
        requirement.url = parts.geturl()
    digest = _HASH.fullmatch(parts.fragment)
    if digest is None:
        raise ConfigurationError(f"{where}: a URL without a sha256 cannot be locked: its content may change", _HASH_HINT)
    filename = unquote(parts.path.rpartition("/")[2])
    try:
        wheel = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        raise ConfigurationError(
            f"{where}: {filename or url} is not a wheel: the hash of a source archive does not fix what is built from it",
            "publish a wheel, or put its source tree under packages/",
        ) from None
    if wheel[0] != canonicalize_name(requirement.name):
        raise ConfigurationError(f"{where}: {filename} is a wheel of {wheel[0]}, not of {requirement.name}", "correct the name")
    return DirectRequirement(line.number, line.content, requirement, line.file, hashes)


def split_address(requirement: Requirement) -> tuple[str, str, str]:
    """(URL without the hash, wheel's file name, sha256) of a requirement by URL that was read here."""
    parts = urlsplit(requirement.url or "")
    return parts._replace(fragment="").geturl(), unquote(parts.path.rpartition("/")[2]), parts.fragment.partition("=")[2].lower()


def applies(requirement: Requirement, environment: Mapping[str, str]) -> bool:
    """Whether a requirement's marker holds in the base."""
    return requirement.marker is None or requirement.marker.evaluate({**environment, "extra": ""})
