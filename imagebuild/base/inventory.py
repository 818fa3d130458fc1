"""The short form of a base as a file (``lockfiles/bases/<base>.json``), and what is asked of it before anything else."""

from __future__ import annotations

import msgspec

from imagebuild.base.model import INVENTORY_FORMAT, Base, Interpreter, Inventory
from imagebuild.decoding import make_decoder
from imagebuild.errors import ConfigurationError
from imagebuild.oci.model import ImageConfig, Platform

_INVENTORY = make_decoder(Inventory)


def encode_inventory(inventory: Inventory) -> bytes:
    """The inventory as committed: indented JSON, keys sorted, a newline at the end; same value, same bytes."""
    return msgspec.json.format(msgspec.json.encode(inventory, enc_hook=str, order="sorted"), indent=2) + b"\n"


def decode_inventory(data: bytes) -> Inventory:
    """Malformed JSON or another format is a :class:`ConfigurationError`."""
    try:
        inventory = _INVENTORY.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ConfigurationError(f"not an inventory of a base: {error}", "remove the file; the next run writes it again") from None
    if inventory.format != INVENTORY_FORMAT:
        raise ConfigurationError(
            f"the inventory has format {inventory.format}, this program reads {INVENTORY_FORMAT}",
            "remove the file; the next run writes it again",
        )
    return inventory


def require_python(base: Base) -> Interpreter:
    """The base's interpreter; a base without one is a :class:`ConfigurationError` that says what was looked for."""
    if base.inventory.interpreter is None:
        raise ConfigurationError(
            f"the base {base.name!r} has no Python: neither python3 nor python on its PATH ({':'.join(base.inventory.path)})",
            "choose a base with Python, such as jupyter-scipy or codeserver-python; `imagebuild base list` shows them",
        )
    return base.inventory.interpreter


def require_platform(config: ImageConfig, platform: Platform, image: str) -> None:
    """ConfigurationError for an image of another platform; ``image`` is what the message calls it."""
    if not platform.matches(config.platform):
        raise ConfigurationError(f"{image} is pinned to an image for {config.platform}, not {platform}", "pin the index of all platforms")
