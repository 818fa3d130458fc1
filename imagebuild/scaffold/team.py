"""A new team's folder, with what there is to decide and nothing that has to be deleted."""

from __future__ import annotations

from pathlib import Path

import tomlkit

from imagebuild.base.pins import load_catalogue
from imagebuild.config import check_team_name, load_team
from imagebuild.errors import UsageError
from imagebuild.files import explain_os_error, write_atomic

_CATALOGUE = """\
# The bases a team can name. `imagebuild base pin NAME` writes what a tag is now.

[base.starter]
build = "starter"  # made here by `imagebuild base build starter`
kind = "jupyter"
description = "Debian 12 with JupyterLab: small, and it needs no container registry"
"""

_TEAM = """\
base = {base}                      # a name of images/catalogue.toml: imagebuild base list
display-name = {title}             # what the spawner form shows
description = ""
owners = []                        # whom to ask, as in ["{team}@example.com"]

[budget]                           # of the one layer this team adds over its base: imagebuild size {team}
compressed = "300 MiB"
installed = "1 GiB"
"""

_REQUIREMENTS = """\
# What the team asks for, one requirement a line, as loose as it may be: the lock has the exact versions.
# pandas==2.2.*
# scikit-learn>=1.5,<2
"""


def create_team(root: Path, team: str, *, base: str = "", title: str = "") -> list[Path]:
    """Write ``images/<team>/`` and, in an empty place, ``images/catalogue.toml``; the files made.

    The base is the catalogue's first unless named. Nothing is overwritten: a team that is there is a UsageError.
    """
    check_team_name(team)
    images, made = root / "images", []
    folder = images / team
    if folder.exists():
        raise UsageError(f"{folder} exists already", "choose another name, or edit what is there")
    catalogue = images / "catalogue.toml"
    try:
        if not catalogue.exists():
            write_atomic(catalogue, _CATALOGUE.encode())
            made.append(catalogue)
        known = load_catalogue(catalogue)
        chosen = known.get(base) if base else next(iter(known.bases.values()), None)
        if chosen is None:
            raise UsageError(f"{catalogue} has no base", "write one there, or remove the file to begin with the starter base")
        values = {"base": tomlkit.item(chosen.name).as_string(), "title": tomlkit.item(title or team).as_string(), "team": team}
        for name, text in (("requirements.in", _REQUIREMENTS), ("team.toml", _TEAM.format(**values))):  # a team is there with its team.toml
            write_atomic(folder / name, text.encode())
            made.append(folder / name)
    except OSError as error:
        raise explain_os_error(error, "making a team's folder") from None
    load_team(images, team)
    return made
