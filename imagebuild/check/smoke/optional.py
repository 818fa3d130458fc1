"""Which modules that do not import are a fault of the image, and which need a package that nobody asked for.

A distribution may ship modules for its extras (``blackd`` of black needs aiohttp, which is behind ``black[d]``), or be of use only
beside another one (``opentelemetry-instrumentation-flask`` beside Flask, behind its extra ``instruments``). pip installs it without
those, and so do we: the module's absence is reported and does not fail.

A module that was not found has no known distribution, so names are compared (:func:`may_provide`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

# Import names that are not part of their distribution's name, of packages that others name in extras.
_IMPORT_NAMES = {
    "bs4": "beautifulsoup4",
    "cv2": "opencv",
    "crypto": "pycryptodome",
    "fitz": "pymupdf",
    "mysqldb": "mysqlclient",
    "osgeo": "gdal",
    "pil": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}


class ImportFailure(msgspec.Struct, frozen=True):
    """A top-level module of a distribution that does not import."""

    distribution: str
    module: str  # dotted
    why: str
    missing: str = ""  # the module that was not found, when that is the reason


class InstalledPackage(msgspec.Struct, frozen=True):
    """A distribution of the image."""

    modules: Sequence[str]  # dotted names at its top
    requires: Sequence[str]  # Requires-Dist as written


class ImportVerdict(msgspec.Struct, frozen=True):
    """Lines for people, but ``ignored``, which has modules."""

    failed: tuple[str, ...]
    optional: tuple[str, ...]
    ignored: tuple[str, ...]


def judge_failures(
    failures: Sequence[ImportFailure],
    installed: Mapping[str, InstalledPackage],
    environment: Mapping[str, str],
    ignore: Sequence[str],
    excluded: Sequence[str] = (),
) -> ImportVerdict:
    """Sort the failures. ``environment`` has the markers' variables inside the image, ``ignore`` patterns of modules, ``excluded`` the
    names that the team's lock leaves out: nobody is taken to require those.

    Optional is a module for which another one was not found that no installed distribution has or requires unconditionally; if it is
    a main module (:func:`is_main`), an extra of its distribution must ask for the one that is missing: without that it is a fault.
    """
    failed: list[str] = []
    optional: list[str] = []
    ignored: list[str] = []
    chosen = {canonicalize_name(name) for name in excluded}
    lacking = [
        (owner, name)
        for owner in installed
        for name, extra in _list_absent(owner, installed, environment)
        if not extra and canonicalize_name(name) not in chosen
    ]
    for item in failures:
        if any(fnmatchcase(item.module, pattern) for pattern in ignore):
            ignored.append(item.module)
            continue
        broken = not item.missing or _is_owned(item.missing, installed)
        name = canonicalize_name(item.distribution)
        broken |= any(canonicalize_name(owner) == name or may_provide(wanted, item.missing) for owner, wanted in lacking)
        mine = next((key for key in installed if canonicalize_name(key) == name), "")
        absent = _list_absent(mine, installed, environment)
        extras = sorted({extra for wanted, extra in absent if extra and may_provide(wanted, item.missing)})
        if broken or (not extras and is_main(item.module, item.distribution, installed[mine].modules if mine else ())):
            failed.append(f"{item.distribution}: import {item.module}: {item.why}")
        else:
            who = f"which is for {item.distribution}[{extras[0]}]" if extras else "which no installed package requires"
            optional.append(f"{item.distribution}: {item.module} needs {item.missing}, {who}")
    return ImportVerdict(tuple(failed), tuple(optional), tuple(ignored))


def is_main(module: str, distribution: str, modules: Sequence[str]) -> bool:
    """Whether ``module`` is what its distribution is for: it bears the distribution's name, or none does and its name is public."""
    wanted = _squeeze(distribution)
    named = [name for name in modules if _squeeze(name) == wanted]
    return module in named if named else not module.rpartition(".")[2].startswith("_")


def may_provide(distribution: str, module: str) -> bool:
    """Whether a distribution of that name may hold a module of that: ``psycopg2-binary`` psycopg2, ``grpc-google-iam-v1`` google.iam."""
    squeezed = _squeeze(module)
    known = _IMPORT_NAMES.get(module.partition(".")[0].lower(), "")
    return len(squeezed) > 1 and (squeezed in _squeeze(distribution) or (known != "" and _squeeze(known) in _squeeze(distribution)))


def _squeeze(name: str) -> str:
    return re.sub(r"[-_.]", "", name).lower()


def _is_owned(module: str, installed: Mapping[str, InstalledPackage]) -> bool:
    """Whether an installed distribution has this module, or a package it would lie in: then it is damaged, not absent."""
    return any(module == top or module.startswith(f"{top}.") for item in installed.values() for top in item.modules)


def _list_absent(owner: str, installed: Mapping[str, InstalledPackage], environment: Mapping[str, str]) -> list[tuple[str, str]]:
    """What ``owner`` requires and is not installed: (name, "" or the extra that asks for it)."""
    present = {canonicalize_name(name) for name in installed}
    found = []
    for line in installed[owner].requires if owner else ():
        try:
            wanted = Requirement(line)
        except InvalidRequirement:  # pip check has its say about it
            continue
        if canonicalize_name(wanted.name) in present:
            continue
        if wanted.marker is None or wanted.marker.evaluate({**environment, "extra": ""}):
            found.append((wanted.name, ""))
            continue
        extras = re.findall(r"""extra\s*==\s*['"]([^'"]+)['"]""", str(wanted.marker))
        found += [(wanted.name, extra) for extra in extras if wanted.marker.evaluate({**environment, "extra": extra})]
    return found
