"""The catalogue as one page: a file to look at, with nothing to fetch and nothing to install.

The data are in it as JSON and go into the page as text, never as markup; a Content-Security-Policy lets run only the script and
the style that are in the template, and forbids every request.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any

import msgspec

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.catalogue.overview import FleetOverview, survey_fleet
from imagebuild.emit.snippets import LAYOUT_SNIPPETS, REGISTRY_SNIPPETS, pin_reference
from imagebuild.errors import UsageError

# "</script>" and "<!--" end or change a script element whatever its type (HTML, 13.2.5.4); JSON has another way to write each.
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
_LEFT_OUT = ("current", "tags", "held_by", "repository")
_ALWAYS = ("delta_compressed", "delta_installed", "size")


class LinkedPages(msgspec.Struct, frozen=True):
    """URLs of pages beside this one, relative to it: of an image's size by its digest, of a difference by "OLDER NEWER"."""

    size: dict[str, str] = {}
    diff: dict[str, str] = {}


def render_catalogue_page(
    listing: CatalogueListing,
    *,
    registry_prefix: str = "",
    as_of: str = "",
    overview: FleetOverview | None = None,
    pages: LinkedPages | None = None,
) -> str:
    """The whole HTML document; an empty listing is a UsageError. The same arguments give the same bytes.

    The overview is of the newest quarter unless given. Where there is no page of a size or a difference the command is there to copy.
    """
    if not listing.entries:
        raise UsageError("there is no team image to show", "run imagebuild image TEAM first")
    data = {
        "entries": [_describe_entry(entry, registry_prefix) for entry in listing.entries],
        "foreign": listing.foreign,
        "overview": msgspec.to_builtins(overview or survey_fleet(listing), enc_hook=str),
        "as_of": as_of,
        "pages": pages or LinkedPages(),
        "snippets": {"registry": REGISTRY_SNIPPETS, "layout": LAYOUT_SNIPPETS},
    }
    template = resources.files("imagebuild.emit").joinpath("page.html").read_text(encoding="utf-8")
    allowed = f"script-src {_hash_of('script', template)}; style-src {_hash_of('style', template)}"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return template.replace("%CSP%", policy).replace("%DATA%", _encode(data))


def _describe_entry(entry: CatalogueEntry, registry_prefix: str) -> dict[str, Any]:
    """What the page reads; empty values are left out. ``pull`` is the name to pull by, without the digest."""
    fields: dict[str, Any] = msgspec.to_builtins(entry, enc_hook=str)
    reference = pin_reference(entry, registry_prefix)
    pull = reference.rpartition("@")[0]
    needed = {key: value for key, value in fields.items() if key not in _LEFT_OUT and (value or key in _ALWAYS)}
    return {**needed, "pull": pull} if pull else needed


def _encode(data: object) -> str:
    text = msgspec.json.encode(data, order="sorted").decode()
    return re.sub("[<>&\u2028\u2029]", lambda match: _ESCAPES[match[0]], text)


def _hash_of(element: str, template: str) -> str:
    """The CSP source of the template's one inline ``element`` without attributes."""
    body = template.split(f"<{element}>", 1)[1].split(f"</{element}>", 1)[0]
    return f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
