"""Lines to copy: how one image is pulled, started here, and put into a notebook. The page and ``catalogue show`` share them."""

from __future__ import annotations

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.errors import ConfigurationError
from imagebuild.servers import PORT

_RUN = "docker run --rm -it -p 127.0.0.1:{port}:{port} -e NB_PREFIX=/ "
# (what for, the lines). A reference has no character that a shell would read; the image is always named by digest.
REGISTRY_SNIPPETS = (
    ("Docker", _RUN + "{reference}"),
    ("Notebook", "image: {reference}"),
    (
        "kubectl",
        "kubectl patch notebook NAME -n NAMESPACE --type json -p "
        """'[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"{reference}"}]'""",
    ),
)
# Only a layout folder has no name but its path, which may have any character.
LAYOUT_SNIPPETS = (("Docker", "skopeo copy '{image}:{tag}' docker-daemon:{team}:{tag}\n" + _RUN + "{team}:{tag}"),)


def pin_reference(entry: CatalogueEntry, registry_prefix: str = "") -> str:
    """``host/repository:tag@sha256:...``; empty for an image in a layout folder, which no cluster can pull."""
    try:
        return str(find_reference(entry, registry_prefix))
    except ConfigurationError:
        if registry_prefix:
            raise
        return ""


def list_snippets(entry: CatalogueEntry, registry_prefix: str = "") -> list[tuple[str, str]]:
    """(what for, the lines), filled in."""
    reference = pin_reference(entry, registry_prefix)
    values = {"reference": reference, "image": entry.image, "team": entry.team, "tag": entry.tag, "port": str(entry.port or PORT)}
    return [(purpose, _fill(template, values)) for purpose, template in (REGISTRY_SNIPPETS if reference else LAYOUT_SNIPPETS)]


def _fill(template: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template
