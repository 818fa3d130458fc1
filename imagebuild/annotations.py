"""Names of the annotations (and labels) on a team image: the one vocabulary that writers and readers share.

The registry is the catalogue: everything a spawner form or a pre-warm manifest shows is read from these. The
``org.opencontainers.image.*`` names are image-spec's (annotations.md); the others are ours.
"""

from __future__ import annotations

from collections.abc import Mapping

CREATED = "org.opencontainers.image.created"  # RFC 3339; the lock's cutoff, never the clock
TITLE = "org.opencontainers.image.title"  # what a form shows
DESCRIPTION = "org.opencontainers.image.description"
VERSION = "org.opencontainers.image.version"  # the tag
BASE_NAME = "org.opencontainers.image.base.name"  # registry/repository[:tag]
BASE_DIGEST = "org.opencontainers.image.base.digest"  # what base.name names: an index or a manifest
REF_NAME = "org.opencontainers.image.ref.name"  # image layout: repository:tag

PREFIX = "dev.imagebuild."
FORMAT = PREFIX + "format"  # "1"; a manifest without it is foreign
TEAM = PREFIX + "team"
QUARTER = PREFIX + "quarter"  # 2026q4
KEY = PREFIX + "key"  # sha256:... of the recipe
BASE = PREFIX + "base"  # catalogue name
KIND = PREFIX + "kind"  # jupyter | vscode | rstudio
PORT = PREFIX + "port"  # "8888"
PYTHON = PREFIX + "python"  # 3.11.2
PACKAGES = PREFIX + "packages"  # JSON object: directly requested packages -> version
ADDONS = PREFIX + "addons"  # JSON object: directly requested R packages and VS Code extensions, as kind:name -> version
LOCK = PREFIX + "lock"  # sha256:... of the lock's content
DELTA_COMPRESSED = PREFIX + "delta.compressed"  # bytes of the added layer as stored
DELTA_INSTALLED = PREFIX + "delta.installed"  # bytes of its files
OWNERS = PREFIX + "owners"  # JSON list
SYSTEM = PREFIX + "system"  # JSON object: Debian packages that apt put into the layer -> version
LAYERS = PREFIX + "layers"  # "9": how many layers are the team's, where [layer] split divides its packages; absent for one


def count_team_layers(notes: Mapping[str, str], layers: int) -> int:
    """How many of an image's ``layers``, from the topmost down, are the team's: as noted, else one. What is noted is anybody's text."""
    noted = notes.get(LAYERS, "")
    count = int(noted) if noted.isascii() and noted.isdecimal() and len(noted) < 6 else 1
    return min(max(count, 1), layers)
