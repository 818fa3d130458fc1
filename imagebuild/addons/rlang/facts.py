"""What a lock of R packages may rely on in its base."""

from __future__ import annotations

from imagebuild.base.model import Base, RFacts
from imagebuild.errors import ConfigurationError

VERSION, PLATFORM, LIBRARIES = "R", "R platform", "R libraries"


def require_r(base: Base) -> RFacts:
    """The base's R; ConfigurationError where it has none."""
    if not base.inventory.r:
        raise ConfigurationError(
            f"the base {base.name!r} has no R: no start script R on its PATH ({':'.join(base.inventory.path)})",
            "choose a base with R, such as rstudio-tidyverse; `imagebuild base inspect` shows what a base has",
        )
    return base.inventory.r


def describe_r(base: Base) -> dict[str, str]:
    """All facts by name, for :func:`imagebuild.addons.model.find_changes`; those of a package are ``R package NAME``."""
    facts = require_r(base)
    return {
        VERSION: facts.version,
        PLATFORM: facts.platform,
        LIBRARIES: ":".join(facts.libraries),
        **{name_fact(item.name): item.version for item in facts.packages},
    }


def name_fact(package: str) -> str:
    """What the version of a package of the base is called among the facts."""
    return f"R package {package}"
