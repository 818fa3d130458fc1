"""What must hold of a file before something is merged into it: the parts that are read, and nothing else of it."""

from __future__ import annotations

from typing import Any

import msgspec

from imagebuild.decoding import Converter
from imagebuild.emit.manifest.merging import strip_types
from imagebuild.errors import ConfigurationError

_Map = dict[str, Any] | None


class Metadata(msgspec.Struct):
    """Of any object."""

    name: str = ""
    namespace: str | None = None
    labels: _Map = None
    annotations: _Map = None


class _Label(msgspec.Struct):
    key: str
    value: str


class _ValueSpawner(msgspec.Struct):
    labels: list[_Label] | None = None
    hidden: bool | None = None


class _Value(msgspec.Struct):
    id: str
    spawner: _ValueSpawner
    spec: dict[str, Any]
    redirect: _Map = None


class _Choice(msgspec.Struct):
    values: list[_Value] | None = None
    spawner: _Map = None


class _Options(msgspec.Struct, rename="camel"):
    image_config: _Choice | None = None
    pod_config: _Choice | None = None


class _Template(msgspec.Struct, rename="camel"):
    ports: list[dict[str, Any]] | None = None
    extra_env: list[dict[str, Any]] | None = None
    options: _Options | None = None


class _KindSpec(msgspec.Struct, rename="camel"):
    pod_template: _Template | None = None
    filter_rules: list[dict[str, Any]] | None = None


class WorkspaceKind(msgspec.Struct):
    """kubeflow.org/v1beta1."""

    metadata: Metadata
    spec: _KindSpec


class _Tag(msgspec.Struct):
    name: str
    annotations: _Map = None


class _StreamSpec(msgspec.Struct):
    tags: list[_Tag] | None = None


class ImageStream(msgspec.Struct):
    """image.openshift.io/v1."""

    metadata: Metadata
    spec: _StreamSpec | None = None


class Profile(msgspec.Struct):
    """KubeSpawner's."""

    slug: str | None = None


class _Group(msgspec.Struct):
    value: str | None = None
    options: list[str] | None = None


class _Toleration(msgspec.Struct, rename="camel"):
    group_key: str


class _Affinity(msgspec.Struct, rename="camel"):
    config_key: str


class _Tolerations(msgspec.Struct):
    options: list[_Toleration] | None = None


class _Affinities(msgspec.Struct):
    options: list[_Affinity] | None = None


class SpawnerDefaults(msgspec.Struct, rename="camel"):
    """``spawnerFormDefaults`` of Kubeflow's form."""

    image: _Group | None = None
    image_group_one: _Group | None = None
    image_group_two: _Group | None = None
    toleration_group: _Tolerations | None = None
    affinity_config: _Affinities | None = None


IMAGE_STREAM = Converter(ImageStream)
PROFILES = Converter(list[Profile])
SPAWNER_DEFAULTS = Converter(SpawnerDefaults)
WORKSPACE_KIND = Converter(WorkspaceKind)


def check_shape(value: Any, shape: Converter[Any], where: str) -> None:
    """ConfigurationError that names the place where ``value`` is something else than ``shape``."""
    try:
        shape.convert(strip_types(value))
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"{where}: {error}", "correct it so that kubectl or the form's own program accepts it") from None
