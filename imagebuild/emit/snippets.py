"""Lines to copy: how one image is pulled, started here, and put into a notebook. The page and ``catalogue show`` share them."""

from __future__ import annotations

import shlex

from imagebuild.catalogue.entries import CatalogueEntry, find_reference
from imagebuild.errors import ConfigurationError

_PORT = 8888  # where Kubeflow serves every kind of notebook, for images that do not say


def pin_reference(entry: CatalogueEntry, registry_prefix: str = "") -> str:
    """``host/repository:tag@sha256:...``; empty for an image in a layout folder, which no cluster can pull."""
    try:
        return str(find_reference(entry, registry_prefix))
    except ConfigurationError:
        if registry_prefix:
            raise
        return ""


def list_snippets(entry: CatalogueEntry, registry_prefix: str = "") -> list[tuple[str, str]]:
    """(what for, the lines). The image is always named by digest; only a layout folder has no name but its path."""
    port = entry.port or _PORT
    reference = pin_reference(entry, registry_prefix)
    if not reference:
        local = f"{entry.team}:{entry.tag}"
        copy = shlex.join(["skopeo", "copy", f"{entry.image}:{entry.tag}", f"docker-daemon:{local}"])
        return [("Docker", f"{copy}\n{_run(local, port)}")]
    patch = f'[{{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"{reference}"}}]'
    return [
        ("Docker", _run(reference, port)),
        ("Notebook", f"image: {reference}"),
        ("kubectl", f"kubectl patch notebook NAME -n NAMESPACE --type json -p {shlex.quote(patch)}"),
    ]


def _run(reference: str, port: int) -> str:
    return f"docker run --rm -it -p 127.0.0.1:{port}:{port} -e NB_PREFIX=/ {shlex.quote(reference)}"
