"""Questions that only a process inside the container can answer. This file's text is what ``python3 -c`` runs there.

It stands alone: the standard library of Python 3.8 or newer, nothing of ours. It has more than 400 lines because it is sent as one text.
``main`` takes a question's name and its argument as JSON, and answers with one JSON document on standard output; what imported packages
print goes to standard error. Every question ends by itself: an alarm kills the process when its time is over.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request

TYPE_CHECKING = False  # typing costs an import
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

# Wheels that ship these by mistake, or on purpose, never mean them to be imported at run time: they need pytest and the like.
NOT_FOR_USE = frozenset(("benchmark", "benchmarks", "conftest", "doc", "docs", "example", "examples", "scripts", "setup", "test", "tests"))
_PAUSE = 0.2  # seconds between two knocks at a server that is not up
_SETTLE = 15.0  # seconds a server that answers at all has until the answers are right


def ask_server(address: str, requests: list[tuple[str, str]], headers: dict[str, str], seconds: float) -> dict[str, Any]:
    """Knock until every path answers 200 (redirects followed, a log-in page is no answer), or the time is over.

    ``requests``: [path, key that the answer's JSON object must have, or ""].
    """
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    started = time.monotonic()
    deadline = started + seconds
    answered = False
    while True:
        answers = [_ask(opener, address + path, key, headers) for path, key in requests]
        if not any(problem for _, problem in answers):
            return {"seconds": time.monotonic() - started, "answers": answers}
        if not answered and any(status for status, _ in answers):
            answered = True
            deadline = min(deadline, time.monotonic() + _SETTLE)
        if time.monotonic() > deadline:
            return {"seconds": time.monotonic() - started, "answers": answers}
        time.sleep(_PAUSE)


def _ask(opener: urllib.request.OpenerDirector, url: str, key: str, headers: dict[str, str]) -> tuple[int, str]:
    """(status or 0, what is wrong or "")."""
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as answer:
            body = answer.read(1 << 20)
            status, landed = answer.status, answer.geturl()
    except urllib.error.HTTPError as error:
        return error.code, "answers " + str(error.code)
    except Exception as error:
        reason = getattr(error, "reason", error)
        return 0, "no answer: " + str(getattr(reason, "strerror", None) or reason)
    if status != 200:
        return status, "answers " + str(status)
    if "login" in landed.rpartition("/")[2].partition("?")[0] or "sign-in" in landed:
        return status, "asks for a log-in"
    if key:
        try:
            found = json.loads(body)[key]
        except (ValueError, KeyError, TypeError):
            found = None
        if not found:
            return status, "answers, but not as this kind of server does"
    return status, ""


def try_home(home: str) -> dict[str, Any]:
    """Whether a notebook's user can work in the volume over the home: folder, file, program, rename, removal."""
    facts = {"home": os.environ.get("HOME", ""), "mounted": os.path.ismount(home), "user": os.getuid(), "group": os.getgid(), "problem": ""}
    folder = os.path.join(home, ".imagebuild-smoke")  # noqa: PTH118 - plain strings, as the modules around do
    try:
        os.makedirs(folder)  # noqa: PTH103
        name = os.path.join(folder, "file")  # noqa: PTH118
        with open(name, "w") as stream:  # noqa: PTH123
            stream.write("x")
        os.rename(name, name + "2")  # noqa: PTH104
        os.unlink(name + "2")  # noqa: PTH108
        os.rmdir(folder)  # noqa: PTH106
    except OSError as error:
        facts["problem"] = str(error)
    return facts


def measure_memory(folder: str) -> dict[str, Any]:
    """Bytes of the file system at ``folder``, and whether a file can be made there."""
    facts = os.statvfs(folder)
    return {"size": facts.f_frsize * facts.f_blocks, "writable": os.access(folder, os.W_OK | os.X_OK)}


def list_modules(files: Iterable[str]) -> list[str]:
    """The importable modules at the top of a distribution, from the paths of its RECORD.

    A folder without ``__init__`` is a namespace that other distributions share: what is below it counts.
    """
    suffixes = sorted(importlib.machinery.all_suffixes(), key=len, reverse=True)
    tree: dict[str, Any] = {}
    for path in files:
        parts = path.split("/")
        suffix = next((item for item in suffixes if parts[-1].endswith(item)), "")
        if not suffix or any(not part.isidentifier() for part in parts[:-1]):
            continue
        stem = parts[-1][: -len(suffix)]
        if stem.isidentifier():
            node = tree
            for part in parts[:-1]:
                node = node.setdefault(part, {})
            node.setdefault(stem, {})

    def walk(node: dict[str, Any], prefix: str) -> list[str]:
        found: list[str] = []
        for name, below in sorted(node.items()):
            if name in NOT_FOR_USE or name in ("__pycache__", "__main__", "__init__"):
                continue
            if not below or "__init__" in below:
                found.append(prefix + name)
            else:
                found += walk(below, prefix + name + ".")
        return found

    return walk(tree, "")


def list_shared_folders(names: list[str]) -> set[str]:
    """Folders that are not of these distributions alone: of ``sys.path``, and what holds files of others, at any depth.

    Whose they are is the base's affair: on a conda base the user often owns ``bin`` and ``share``.
    """
    shared = set(sys.path)
    for distribution in importlib.metadata.distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in names:
            continue
        for folder in {os.path.dirname(str(path)) for path in distribution.files or ()}:  # noqa: PTH120
            above = os.path.normpath(str(distribution.locate_file(folder)))
            while above not in shared:
                shared.add(above)
                above = os.path.dirname(above)  # noqa: PTH120
    return shared


def try_imports(names: list[str], seconds: float) -> dict[str, Any]:
    """Import the top-level modules of the named distributions, and look at their files.

    ``modules``: how many; ``failed``: [distribution, module, why, the module that was not found or ""]; ``versions``: of those that
    are installed; ``loaded`` and ``stale``: modules that came from these distributions' sources, and those of them without bytecode
    Python would use; ``writable``: files this user could change. Where something failed, ``installed`` has every distribution's
    ``modules`` and ``requires`` (Requires-Dist as written), and ``environment`` the markers' variables (PEP 508).
    """
    modules: list[tuple[str, str]] = []
    versions: dict[str, str] = {}
    sources: list[str] = []
    files: list[str] = []
    for name in names:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        versions[name] = distribution.version
        paths = [str(path) for path in distribution.files or ()]
        modules += [(name, module) for module in list_modules(paths)]
        located = [os.path.normpath(str(distribution.locate_file(path))) for path in paths]
        files += located
        sources += [path for path in located if path.endswith(".py")]
    folders = {os.path.dirname(path) for path in files} - list_shared_folders(names)  # noqa: PTH120
    writable = sorted(path for path in (*files, *folders) if os.path.exists(path) and os.access(path, os.W_OK))  # noqa: PTH110
    result = {"modules": len(modules), "versions": versions, "writable": len(writable), "first_writable": writable[:3]}
    result.update(_import_all(modules, frozenset(sources), seconds))
    if result["failed"]:
        result.update(installed=_list_installed(), environment=_read_environment())
    return result


def _list_installed() -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for item in importlib.metadata.distributions():
        name = item.metadata["Name"]
        if name and name not in found:  # the first on sys.path is the one that is used
            found[name] = {"modules": list_modules(str(path) for path in item.files or ()), "requires": list(item.requires or ())}
    return found


def _read_environment() -> dict[str, str]:
    import platform

    version = sys.implementation.version
    kind = "" if version.releaselevel == "final" else version.releaselevel[0] + str(version.serial)
    return {
        "implementation_name": sys.implementation.name,
        "implementation_version": f"{version.major}.{version.minor}.{version.micro}{kind}",
        "os_name": os.name,
        "platform_machine": platform.machine(),
        "platform_python_implementation": platform.python_implementation(),
        "platform_release": platform.release(),
        "platform_system": platform.system(),
        "platform_version": platform.version(),
        "python_full_version": platform.python_version(),
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "sys_platform": sys.platform,
    }


def _import_all(modules: list[tuple[str, str]], sources: frozenset[str], seconds: float) -> dict[str, Any]:
    """In a child process; when one module kills it, another child goes on with the next."""
    failed: list[tuple[str, str, str, str]] = []
    stale: list[str] = []
    loaded = 0
    deadline = time.monotonic() + seconds
    position = 0
    while position < len(modules):
        left = int(deadline - time.monotonic())
        if left < 1:
            failed += [(*modules[position], "not tried: the time was over", "")]
            break
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            try:
                signal.alarm(left)
                _import_from(modules, position, sources, writer)
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "r", encoding="utf-8") as lines:
            for line in lines:
                said = json.loads(line)
                if "at" in said:
                    position = said["at"]
                elif "failed" in said:
                    failed.append((*modules[position], said["failed"], said["missing"]))
                else:
                    loaded, stale = said["loaded"], said["stale"]
                    position = len(modules)
        status = os.waitpid(child, 0)[1]
        if position < len(modules):
            number = status & 127
            why = "took too long" if number == signal.SIGALRM else f"killed Python: signal {number}"
            failed.append((*modules[position], why if number else "ended Python", ""))
            position += 1
    return {"failed": failed, "loaded": loaded, "stale": stale}


def _import_from(modules: list[tuple[str, str]], start: int, sources: frozenset[str], writer: int) -> None:
    sys.dont_write_bytecode = True
    with os.fdopen(writer, "w", encoding="utf-8") as out:

        def say(**facts: Any) -> None:
            out.write(json.dumps(facts) + "\n")
            out.flush()

        for position in range(start, len(modules)):
            say(at=position)
            try:
                importlib.import_module(modules[position][1])
            except BaseException as error:
                text = str(error).strip().splitlines()
                say(failed=type(error).__name__ + (": " + text[0][:200] if text else ""), missing=find_missing(error))
        ours = {str(getattr(module, "__file__", "")) for module in list(sys.modules.values())} & sources
        stale = sorted(path for path in ours if not has_bytecode(path))
        say(loaded=len(ours), stale=stale)


def find_missing(error: BaseException | None) -> str:
    """The module that was not found, if that is behind the error: also where a package says so in words of its own."""
    seen: list[int] = []
    while error is not None and id(error) not in seen:
        if isinstance(error, ModuleNotFoundError) and error.name:
            return error.name
        seen.append(id(error))
        error = error.__cause__ or error.__context__  # "from None" hides the context from tracebacks; it is there all the same
    return ""


def has_bytecode(source: str) -> bool:
    """Whether Python would take the source's .pyc (PEP 552: by time and size, by hash, or unchecked)."""
    try:
        with open(importlib.util.cache_from_source(source), "rb") as stream:  # noqa: PTH123
            head = stream.read(16)
        if len(head) < 16 or head[:4] != importlib.util.MAGIC_NUMBER:
            return False
        flags = int.from_bytes(head[4:8], "little")
        if flags == 1:
            return True
        if flags == 3:
            with open(source, "rb") as stream:  # noqa: PTH123
                return importlib.util.source_hash(stream.read()) == head[8:16]
        facts = os.stat(source)  # noqa: PTH116
    except OSError:
        return False
    wanted = (int(facts.st_mtime) & 0xFFFFFFFF).to_bytes(4, "little") + (facts.st_size & 0xFFFFFFFF).to_bytes(4, "little")
    return flags == 0 and head[8:16] == wanted


def run_pip_check() -> dict[str, Any]:
    """``pip check`` of the interpreter that runs this; ``lines`` are its complaints."""
    if importlib.util.find_spec("pip") is None:
        return {"missing": True, "code": 0, "lines": []}
    import io
    import runpy

    said, code = io.StringIO(), 0
    sys.argv = ["pip", "--disable-pip-version-check", "--no-color", "check"]
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module("pip", run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(bool(error.code))
    return {"missing": False, "code": code, "lines": [line for line in said.getvalue().splitlines() if line.strip()]}


# Rscript's arguments after the script are read by commandArgs(TRUE): no name becomes code.
_ATTACH = """
name <- commandArgs(TRUE)[[1]]
suppressPackageStartupMessages(library(name, character.only = TRUE))
cat("\\n@", as.character(packageVersion(name)), "@", find.package(name), "\\n", sep = "")
"""


def attach_r_packages(names: list[str], seconds: float) -> dict[str, Any]:
    """``library(x)`` of each, in an R of its own that has ``seconds``."""
    import shutil
    import subprocess

    program = shutil.which("Rscript")
    answer: dict[str, Any] = {"missing": program is None, "failed": {}, "versions": {}, "writable": []}
    for name in names if program else ():
        try:
            done = subprocess.run(
                [str(program), "-e", _ATTACH, name], capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, check=False
            )
        except subprocess.TimeoutExpired:
            answer["failed"][name] = f"no end after {seconds} s"
            continue
        told = [line[1:].split("@", 1) for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith("@")]
        if done.returncode or not told:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            lines = [line for line in lines if not line.startswith(("Calls:", "Execution halted"))]
            answer["failed"][name] = " ".join(" ".join(lines[-4:]).split())[-300:] or f"exit code {done.returncode}"
            continue
        answer["versions"][name] = told[-1][0]
        if os.access(told[-1][1], os.W_OK):
            answer["writable"].append(name)
    return answer


def find_extensions(names: list[str]) -> dict[str, Any]:
    """VS Code extensions in the folder that the running code-server scans; ``broken``: those whose main file is not there."""
    answer: dict[str, Any] = {"folder": "", "versions": {}, "writable": [], "broken": {}}
    root = _find_code_server()
    if not root:
        return answer
    answer["folder"] = root + "/lib/vscode/extensions"
    for entry in os.scandir(answer["folder"]):
        try:
            with open(entry.path + "/package.json", encoding="utf-8-sig") as stream:  # noqa: PTH123
                package = json.load(stream)
            name = (package["publisher"] + "." + package["name"]).lower()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if name not in names:
            continue
        answer["versions"][name] = str(package.get("version"))
        if os.access(entry.path, os.W_OK) or os.access(entry.path + "/package.json", os.W_OK):
            answer["writable"].append(name)
        main = package.get("main")
        files = [entry.path + "/" + main + end for end in ("", ".js", ".cjs", "/index.js")] if isinstance(main, str) else []
        if files and not any(map(os.path.exists, files)):
            answer["broken"][name] = "its main file " + str(main) + " is not there"
    return answer


def _find_code_server() -> str:
    """The folder of the code-server that runs here, by what its processes were started with."""
    for number in os.listdir("/proc"):  # noqa: PTH208
        try:
            with open("/proc/" + number + "/cmdline", "rb") as stream:  # noqa: PTH123
                words = [os.fsdecode(word) for word in stream.read().split(b"\0")[:3]]
            place = os.readlink("/proc/" + number + "/cwd")  # noqa: PTH115
        except (OSError, ValueError):
            continue
        for word in words:
            folder = os.path.realpath(os.path.join(place, word)) if word and not word.startswith("-") else ""  # noqa: PTH118
            while len(folder) > 1:
                if os.path.exists(folder + "/lib/vscode/product.json"):  # noqa: PTH110
                    return folder
                folder = os.path.dirname(folder)  # noqa: PTH120
    return ""


QUESTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "server": ask_server,
    "home": try_home,
    "memory": measure_memory,
    "imports": try_imports,
    "pip": run_pip_check,
    "r": attach_r_packages,
    "vscode": find_extensions,
}


def main() -> None:
    """``python3 -c SOURCE QUESTION SECONDS JSON``."""
    question, seconds, arguments = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    signal.alarm(seconds)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    answer = QUESTIONS[question](**arguments)
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__" and len(sys.argv) == 4:
    main()
