"""``[[index]]`` tables as written: those of ``images/indexes.toml`` for every team, and a team's own beside them.

A name means one place: a team's table may not have the name of a shared one, because a lock says by name alone where a wheel came
from. Addresses may be here, passwords never.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from imagebuild.errors import ConfigurationError
from imagebuild.lock.index.credentials import is_reference
from imagebuild.lock.index.routing import DEFAULT_NAME, LOCAL_NAME, URL_NAME, PackageIndex, default_index, validate_indexes
from imagebuild.toml import decode_toml

FILE_NAME = "indexes.toml"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
_RESERVED = (DEFAULT_NAME, LOCAL_NAME, URL_NAME)


class IndexTable(msgspec.Struct, frozen=True, rename="kebab"):
    """One package index, and the names that come from it and from nowhere else."""

    name: str
    url: str
    kind: Literal["pypi", "cran", "openvsx"] = "pypi"  # INDEX_KINDS
    names: tuple[str, ...] = ()
    default: bool = False
    credentials: str = "netrc"  # a reference: netrc, env:USER,PASSWORD, env:TOKEN, keyring:USER
    redirects: tuple[str, ...] = ()  # hosts besides its own that its pages may redirect to: host, or host:port
    local: bool = False  # a source tree of a team may have a name that this index claims


class SharedIndexes(msgspec.Struct, frozen=True, rename="kebab"):
    """``images/indexes.toml``."""

    index: tuple[IndexTable, ...] = ()
    machine_index: bool = True  # names that no table claims come from the index of this machine's pip


def load_shared_indexes(images: Path) -> SharedIndexes:
    """The file of all teams; an absent one is an empty one."""
    path = images / FILE_NAME
    if not path.is_file():
        return SharedIndexes()
    shared = decode_toml(path, SharedIndexes)
    check_tables(path, shared.index)
    return shared


def check_tables(path: Path, tables: Sequence[IndexTable]) -> None:
    """ConfigurationError, with the file, for names that are taken or equal, passwords, and invalid references."""
    names = [item.name for item in tables]
    for reserved in _RESERVED:
        if reserved in names:
            raise ConfigurationError(
                f"{path}: an index cannot be called {reserved!r}", "that name has a meaning of its own; choose another"
            )
    if len(set(names)) != len(names):
        raise ConfigurationError(f"{path}: two indexes have the same name", "give each [[index]] a name of its own")
    for item in tables:
        where = f"{path}: [[index]] {item.name!r}"
        for host in item.redirects:
            if not _HOST.fullmatch(host):
                raise ConfigurationError(f"{where}: not a host: {host!r}", 'write redirects = ["files.corp.example"], or with its port')
        try:
            password = urlsplit(item.url).password
        except ValueError:
            raise ConfigurationError(f"{where}: its url is not a URL", "correct it") from None
        if password is not None:
            raise ConfigurationError(
                f"{where}: its url holds a password",
                'remove it (and change it: it is in the history now); write credentials = "env:USER,PASSWORD", or use netrc',
            )
        if not is_reference(item.credentials):
            raise ConfigurationError(
                f"{where}: credentials must say where they are, not what they are",
                'write "netrc", "env:USER,PASSWORD" (two environment variables), "env:TOKEN" or "keyring:USER"',
            )


def list_indexes(path: Path, own: Sequence[IndexTable], shared: SharedIndexes) -> tuple[PackageIndex, ...]:
    """A team's own indexes and the shared ones, checked together; ConfigurationError names the file. ``path`` is the team's."""
    taken = {item.name for item in shared.index}
    for item in own:
        if item.name in taken:
            raise ConfigurationError(
                f"{path}: images/{FILE_NAME} has an index {item.name!r} too",
                "give the team's own another name: a lock distinguishes indexes by name",
            )
    common = f"{path.parent.parent.name}/{FILE_NAME}"
    tables = (*((item, str(path)) for item in own), *((item, common) for item in shared.index))
    indexes = tuple(
        PackageIndex(
            item.name,
            item.url,
            item.names,
            item.default,
            reference="" if item.credentials == "netrc" else item.credentials,
            redirects=tuple(host.lower() for host in item.redirects),
            local=item.local,
            file=file,
            kind=item.kind,
        )
        for item, file in tables
    )
    try:
        validate_indexes(indexes)
    except ConfigurationError as error:
        files = [str(path)] if own else []
        files += [common] if shared.index else []
        raise ConfigurationError(f"{' and '.join(files)}: {error.message}", error.hint) from None
    return indexes


def combine_indexes(path: Path, own: Sequence[IndexTable], shared: SharedIndexes, machine_index: bool | None) -> tuple[PackageIndex, ...]:
    """A team's indexes of Python packages: its own, the shared ones and, unless one is the default or it is not to be used, the machine's.

    ``path`` is the team's file, for messages. ``machine_index``: the team's word, None leaves it to the shared file.
    """
    indexes = tuple(item for item in list_indexes(path, own, shared) if item.kind == "pypi")
    allowed = shared.machine_index if machine_index is None else machine_index
    return (*indexes, default_index()) if allowed and not any(item.default for item in indexes) else indexes
