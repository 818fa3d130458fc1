"""A name for good: the tag ``keep-NAME`` beside the image's own, on the same manifest.

It is an ordinary tag, so every registry keeps it and every tool can pull by it, and what it names can never be retired. It is
set once: a name that is another image's is refused. Registries have no compare-and-swap for tags, so it is looked at again
after it was set.
"""

from __future__ import annotations

from imagebuild.catalogue.entries import CatalogueEntry, CatalogueListing
from imagebuild.errors import RemoteError, UsageError
from imagebuild.oci.store import Store
from imagebuild.tagforms import kept_tag


def keep_image(store: Store, listing: CatalogueListing, entry: CatalogueEntry, name: str) -> bool:
    """Give ``entry`` the name; False when it had it already. UsageError for a name that is another image's."""
    tag = kept_tag(name)
    for other in listing.entries:
        if name in other.kept and (other.repository, other.digest) != (entry.repository, entry.digest):
            raise _taken(name, f"{other.repository}:{other.tag}")
        if name == other.team:
            raise UsageError(f"{name!r} is a team's name", "choose one that says what it is for, as in churn-q3")
    found = store.head_manifest(entry.repository, tag)
    if found is not None and found.digest != entry.digest:
        raise _taken(name, f"{entry.repository}@{found.digest}")
    if found is not None:
        return False
    manifest = store.get_manifest(entry.repository, entry.digest)
    if manifest is None:
        raise RemoteError(f"{entry.image}@{entry.digest} was listed and no longer exists", "run the command again")
    store.put_manifest(entry.repository, manifest, tag)
    found = store.head_manifest(entry.repository, tag)
    if found is None or found.digest != entry.digest:
        raise RemoteError(f"{entry.image}:{tag} was changed by another writer", "see what it names now: imagebuild catalogue")
    return True


def _taken(name: str, place: str) -> UsageError:
    return UsageError(f"the name {name!r} belongs to {place}, for good", "choose another name; a kept name never moves")
