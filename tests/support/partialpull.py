"""A node that pulls by parts: a newer skopeo, with the containers/storage of podman and CRI-O, where .ci/install-parts unpacks it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.tools import need, need_root

READER = Path(os.environ.get("IMAGEBUILD_PARTIAL_READER", "/usr/local/lib/imagebuild-parts/skopeo"))  # a folder to chroot into
_CONFIGURATION = """\
[storage]
driver = "overlay"
runroot = "/storage/run"
graphroot = "/storage/root"
[storage.options.pull_options]
enable_partial_images = "true"
"""
# In a mount namespace of its own: what is mounted goes with it.
_SCRIPT = """
mount --bind "$0" "$0"
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount --bind "$1" "$0/storage"
shift
exec chroot "$0" "$@"
"""


class Node:
    """``folder`` is its storage."""

    def __init__(self, folder: Path) -> None:
        need_root()
        if not (READER / "usr/bin/skopeo").exists():
            pytest.skip("missing part: a skopeo that reads zstd:chunked")
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "storage.conf").write_text(_CONFIGURATION)

    def pull(self, reference: str) -> str:
        """Pull an image of a registry on loopback; what skopeo says of each layer."""
        name = reference.replace("localhost", "127.0.0.1")  # there is no /etc/hosts
        command = [
            need("unshare"), "--mount", "--propagation", "private", "sh", "-ec", _SCRIPT, str(READER), str(self.folder),
            "/usr/bin/skopeo", "--debug", "--insecure-policy", "copy",
            "--src-tls-verify=false", f"docker://{name}", f"containers-storage:{name}",
        ]  # fmt: skip
        configured = {**os.environ, "CONTAINERS_STORAGE_CONF": "/storage/storage.conf"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=configured)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stderr

    def find_layers(self) -> list[Path]:
        """The unpacked layers, the newest last."""
        return sorted(self.folder.glob("root/overlay/*/diff"), key=lambda path: path.parent.stat().st_mtime_ns)
