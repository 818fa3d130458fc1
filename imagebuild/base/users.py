"""The user that a base's image runs as, by its own ``/etc/passwd`` and ``/etc/group``."""

from __future__ import annotations

from imagebuild.base.model import User
from imagebuild.base.tree import SqliteTree
from imagebuild.errors import ConfigurationError


def read_user(tree: SqliteTree, config: str, home: str) -> User:
    """Who ``config.User`` (``name``, ``uid``, either with ``:group``) is; ``home`` is ``HOME`` of the image's Env."""

    def rows(path: str, columns: int) -> list[list[str]]:
        entry = tree.follow(path)
        data = (tree.read_text(entry.path) if entry else None) or b""
        lines = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
        return [line for line in lines if len(line) >= columns and line[2].isdigit()]

    name, _, group = config.partition(":")
    name = name or "0"
    people = rows("/etc/passwd", 7)
    found = next((row for row in people if row[0] == name), None)
    if found is None and name.isdigit():
        found = next((row for row in people if row[2].lstrip("0") == name.lstrip("0")), None)
    elif found is None:
        raise ConfigurationError(f"the base runs as user {name!r}, whom its /etc/passwd does not have", "use a base that starts")
    uid = int(found[2]) if found else int(name)
    gid = int(found[3]) if found and found[3].isdigit() else 0
    if group:
        match = next((row[2] for row in rows("/etc/group", 3) if row[0] == group), group)
        if not match.isdigit():
            raise ConfigurationError(f"the base runs with group {group!r}, which its /etc/group does not have", "use a base that starts")
        gid = int(match)
    return User(config, uid, gid, found[0] if found else "", home or (found[5] if found and found[5] else "/"))
