"""A repository of a store, for artifacts that are not images: what machines of one company share."""

from __future__ import annotations

import msgspec

from imagebuild.oci.store import Store


class Place(msgspec.Struct, frozen=True):
    """A repository in a store."""

    store: Store
    repository: str

    @property
    def name(self) -> str:
        """As other tools call it."""
        return self.store.image_name(self.repository)
