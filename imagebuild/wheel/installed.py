"""Which ``.dist-info`` folders in a layer are installed packages, and which are files that a package brings along.

Packages vendor others whole, metadata included (setuptools/_vendor, ray/thirdparty_files): only what lies directly in a folder of
``sys.path`` is installed. Where the base's Python is known its folders are given as ``sites`` (:mod:`imagebuild.base.sites`); else a folder
counts by its name, site-packages or dist-packages by every scheme of CPython and Debian (sysconfig).
"""

from __future__ import annotations

import re
from collections.abc import Set

import msgspec

NO_SITES: frozenset[str] = frozenset()  # no Python is known
_SITE = re.compile(r"/(?:site|dist)-packages(?=/|$)")
_INFO = re.compile(r"(?P<site>/.+)/(?P<folder>(?P<name>[^/]+?)-(?P<version>[^/-]+)\.dist-info)/(?P<file>[^/]+)")
_SEPARATORS = re.compile(r"[-_.]+")


class InfoFile(msgspec.Struct, frozen=True):
    """A file directly in the ``.dist-info`` folder of an installed distribution."""

    site: str  # the folder of sys.path, absolute
    name: str  # normalised (PEP 503)
    version: str
    file: str  # RECORD, METADATA, ...


def is_site_folder(folder: str) -> bool:
    """Whether distributions are installed directly in ``folder`` (absolute), and it is not within such a folder itself."""
    found = _SITE.search(folder)
    return found is not None and found.end() == len(folder)


def is_in_site(path: str) -> bool:
    """Whether ``path`` is below such a folder."""
    found = _SITE.search(path)
    return found is not None and found.end() < len(path)


def parse_info_path(path: str, sites: Set[str] = NO_SITES) -> InfoFile | None:
    """The distribution whose metadata an absolute path belongs to; None for every other file, vendored metadata included."""
    match = _INFO.fullmatch(path)
    if match is None or not (match["site"] in sites if sites else is_site_folder(match["site"])):
        return None
    return InfoFile(match["site"], _SEPARATORS.sub("-", match["name"]).lower(), match["version"], match["file"])


def is_record(path: str, sites: Set[str] = NO_SITES) -> bool:
    """Whether ``path`` is the RECORD of an installed distribution."""
    found = parse_info_path(path, sites)
    return found is not None and found.file == "RECORD"


def is_metadata(path: str, sites: Set[str] = NO_SITES) -> bool:
    """Whether ``path`` is the METADATA of an installed distribution."""
    found = parse_info_path(path, sites)
    return found is not None and found.file == "METADATA"
