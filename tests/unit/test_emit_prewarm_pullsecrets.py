"""Pre-warm pods and notebooks that could not use each other's images are told of: since Kubernetes 1.35 a kubelet asks who pulled."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imagebuild.emit.prewarm.pools import PoolNotebook, PrewarmSettings
from imagebuild.emit.prewarm.pullsecrets import warn_of_notebook_secret, warn_of_references, warn_of_secrets
from tests.support.forms import A100, MIG

SECRET = PrewarmSettings(pull_secret="registry")
NONE = PrewarmSettings()


@pytest.mark.parametrize(
    ("settings", "notebooks", "told"),
    [
        (SECRET, ("", ""), ("pools a100, mig: pre-warm pods pull with the secret registry",)),
        (SECRET, ("theirs", ""), ("pool mig: pre-warm pods pull with",)),
        (SECRET, ("theirs", "registry"), ()),
        (NONE, ("", ""), ()),
        (NONE, ("theirs", ""), ("pool a100: notebooks pull with a secret, and [prewarm] names no pull-secret",)),
        (PrewarmSettings(pull_secret="registry", mode="hold"), ("a", ""), ("pool mig:",)),
        (PrewarmSettings(pull_secret="registry", mode="pinned-image-set"), ("", ""), ()),  # no kubelet pulled it: taken as it is
        (PrewarmSettings(pull_secret="registry", mode="image-pull-job"), ("", ""), ()),
    ],
)
def test_pools(settings: PrewarmSettings, notebooks: tuple[str, str], told: tuple[str, ...]) -> None:
    pools = [
        msgspec.structs.replace(pool, notebook=PoolNotebook(pull_secret=name)) for pool, name in zip((A100, MIG), notebooks, strict=True)
    ]
    warnings = warn_of_secrets(settings, pools)
    assert len(warnings) == len(told)
    assert all(warning.startswith(text) for warning, text in zip(warnings, told, strict=True))


@pytest.mark.parametrize(
    ("settings", "secret", "told"),
    [
        (SECRET, "", "this notebook names none"),
        (SECRET, "another", ""),
        (NONE, "", ""),
        (NONE, "registry", "pre-warm pods with none"),
        (PrewarmSettings(pull_secret="registry", mode="image-pull-job"), "", ""),
    ],
)
def test_a_notebook(settings: PrewarmSettings, secret: str, told: str) -> None:
    warnings: Any = warn_of_notebook_secret(settings, secret)
    assert len(warnings) == bool(told)
    assert told in "".join(warnings)


def test_names_to_pull_by() -> None:
    mirror = PrewarmSettings(pull_from="mirror.example/ml")
    assert warn_of_references(mirror, "") == warn_of_references(mirror, "mirror.example/ml/") == warn_of_references(NONE, "a.example") == ()
    (warning,) = warn_of_references(mirror, "mirror.example")
    assert "is not the pull-from of images/pools.toml (mirror.example/ml)" in warning
