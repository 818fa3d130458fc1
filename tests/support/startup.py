"""What a run of the command line loads, and what a run with nothing to do must not: it is done in a fraction of a second."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence

# Parts of the program and of the standard library -> who needs them.
UNWANTED = {
    "click.shell_completion": "a shell that completes",
    "concurrent.futures": "pools of threads, which build",
    "email": "METADATA of wheels, and HTTP",
    "http": "registries and indexes",
    "imagebuild.base.streaming": "a base that is read",
    "imagebuild.layer.members": "wheels that become members",
    "imagebuild.oci.compression": "layers that are read",
    "imagebuild.pipeline.building": "layers that are made",
    "imagebuild.pipeline.pushing": "an image that is built",
    "imagebuild.wheel.archive": "wheels that are read",
    "importlib.resources": "page templates",
    "ssl": "registries and indexes",
    "tarfile": "bases that are shared",
    "zipfile": "wheels and extensions that are read",
}
LIBRARIES = {"click", "msgspec", "packaging", "typing_extensions"}  # of others; requests alone is a third of a whole run
_HERE = {"sitecustomize", "usercustomize", "_distutils_hack", "_virtualenv"}  # of the environment that the tests run in

_CODE = """
import atexit, sys
atexit.register(lambda: print("\\n" + "\\n".join(sys.modules), file=sys.stderr))
from imagebuild.cli import main
sys.argv[0] = "imagebuild"
main()
"""


def list_loaded(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[str, set[str]]:
    """What ``imagebuild ARGUMENTS`` prints, and the modules it loads; it must succeed."""
    done = subprocess.run([sys.executable, "-c", _CODE, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, set(done.stderr.split("\n"))


def find_unwanted(loaded: set[str], allowed: frozenset[str] = frozenset()) -> list[str]:
    """Those of ``loaded`` that nothing needs which has nothing to do, each with who does."""
    found = [f"{name}: for {why}" for name, why in UNWANTED.items() if name in loaded and name not in allowed]
    known = sys.stdlib_module_names | LIBRARIES | _HERE | {"imagebuild", "__main__", ""}
    tops = {name.partition(".")[0] for name in loaded if not name.startswith("__editable__")}
    return found + sorted(f"{name}: a library" for name in tops - known)
