"""Kubernetes' quantities: ``500m``, ``16Gi`` (apimachinery, resource.Quantity)."""

from __future__ import annotations

import re
from fractions import Fraction

from imagebuild.errors import ConfigurationError

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|[MGTP]|[KMGTP]i)?")
_FACTORS = {"": Fraction(1), "m": Fraction(1, 1000), "k": Fraction(1000)} | {
    letter + suffix: Fraction(base) ** power
    for power, letter in enumerate("KMGTP", 1)
    for suffix, base in (("", 1000), ("i", 1024))
    if letter + suffix != "K"
}


def parse_quantity(text: str, what: str) -> Fraction:
    """How much it is; ConfigurationError for what is not a quantity, or nothing."""
    match = _QUANTITY.fullmatch(text)
    value = Fraction(match[1]) * _FACTORS[match[2] or ""] if match else Fraction(0)
    if not value:
        raise ConfigurationError(f"{what} is {text!r}", 'write a quantity as Kubernetes takes it: "4", "500m", "16Gi"')
    return value
