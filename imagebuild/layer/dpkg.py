"""What Debian's package manager leaves in a layer: which packages, and which paths are theirs to write.

Read from the layer itself: of every package it unpacks dpkg writes ``info/<package>.list`` and control files beside it, and
always the whole ``status``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from imagebuild.base.systempackages import parse_status

STATUS = "/var/lib/dpkg/status"
_LIST = re.compile(r"/var/lib/dpkg/info/([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\.list")
_CONTROL = re.compile(r"(/var/lib/dpkg/info/[^/]+)\.(?!list$)[a-z0-9]+")

# What dpkg, apt and the triggers of Debian's own packages write without any package listing it.
_STATE = re.compile(
    r"/var/lib/(dpkg|pam|ucf|systemd|update-rc\.d|emacsen-common|python)(/.*)?|/var/lib/apt/extended_states|/var/cache/(debconf|fontconfig|man)(/.*)?"
    r"|/etc/(ld\.so\.cache|mailcap|shells|alternatives(/.*)?|rc[0-6S]\.d(/.*)?|ssl/certs(/.*)?|systemd/.*|(passwd|group|shadow|gshadow|subuid|subgid)-?)"
    r"|/usr/share/(mime|icons|applications|info)(/.*)?|/usr/share/glib-2\.0/schemas/gschemas\.compiled|/usr/lib/[^/]+/gio/modules/giomodule\.cache"
)
# Emptied by the build on purpose: a base that has them loses them.
_CLEANED = re.compile(r"/var/log/.+|/var/cache/debconf/.+-old|/var/lib/dpkg/.+-old")


class SystemFiles(msgspec.Struct, frozen=True):
    """The system packages of one layer. Paths are absolute, without a trailing slash."""

    versions: dict[str, str]  # package -> version, of those that were installed or replaced here
    listed: frozenset[str]  # every path those packages list
    sizes: dict[str, int]  # package -> bytes of its files in the layer
    owners: dict[str, str] = {}  # path -> package

    def owns(self, path: str, new_folders: frozenset[str] | set[str] = frozenset()) -> bool:
        """Whether packages may write ``path``: listed, kept by dpkg or a trigger, bytecode of a listed module, or below a
        folder that they brought (``new_folders``: those of the layer that the base lacks)."""
        if path in self.listed or _STATE.fullmatch(path):
            return True
        folder, cache, file = path.rpartition("/__pycache__/")
        if cache and f"{folder}/{file.partition('.')[0]}.py" in self.listed:
            return True
        if path.endswith("/__pycache__") and any(name.startswith(path.removesuffix("__pycache__")) for name in self.listed):
            return True
        parent = path.rpartition("/")[0]
        while parent:
            if parent in new_folders and parent in self.listed:
                return True
            parent = parent.rpartition("/")[0]
        return False


def is_cleaned(path: str) -> bool:
    """Whether the build removes ``path`` after apt ran: logs and backups."""
    return _CLEANED.fullmatch(path) is not None


def is_dpkg_list(path: str) -> bool:
    """Whether ``path`` is the file list of a package."""
    return _LIST.fullmatch(path) is not None


def read_status(text: str) -> dict[tuple[str, str], str]:
    """(package, architecture) -> version of every installed package of a dpkg status file (deb-control(5) stanzas)."""
    return {(item.name, item.architecture): item.version for item in parse_status(text)}


def read_system_files(lists: Mapping[str, str], status: str, sizes: Mapping[str, int]) -> SystemFiles | None:
    """From the layer's ``.list`` files (path -> text), its status and its files (path -> bytes); None without any list."""
    if not lists:
        return None
    installed = read_status(status)
    # Of a package that lost a folder (man pages, say, that a slim base lacks) dpkg rewrites the list and nothing else.
    unpacked = {match[1] for path in sizes if (match := _CONTROL.fullmatch(path))}
    versions: dict[str, str] = {}
    costs: dict[str, int] = {}
    listed: set[str] = set()
    owners: dict[str, str] = {}
    for path, text in lists.items():
        match = _LIST.fullmatch(path)
        assert match is not None
        if path.rpartition(".")[0] not in unpacked:
            continue
        name, architecture = match[1], match[2] or ""
        version = next((version for (package, built), version in installed.items() if package == name and architecture in ("", built)), "")
        if not version:
            continue
        # usr-merged: dpkg lists /lib/x, the tree has /usr/lib/x.
        paths = {item for line in text.splitlines() if line.startswith("/") for item in (line.rstrip("/"), _merge_usr(line.rstrip("/")))}
        paths.discard("")
        versions[name] = version
        costs[name] = costs.get(name, 0) + sum(sizes.get(item, 0) for item in paths)
        listed |= paths
        owners.update(dict.fromkeys(paths, name))
    return SystemFiles(dict(sorted(versions.items())), frozenset(listed), costs, owners)


def _merge_usr(path: str) -> str:
    return "/usr" + path if re.match(r"/(bin|sbin|lib|lib32|lib64|libx32)(/|$)", path) else path
