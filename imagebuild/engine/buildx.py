"""The Docker engine: the rendered Dockerfile, built by any builder that buildx knows, and its one added layer taken out.

The result comes back as an OCI layout folder (image-spec, image-layout.md), or is pushed by the builder under its digest
alone and read back. What the builder made of config and manifest is left behind: they are derived from the base's as with
the direct engine, so that both engines push the same. Registry credentials stay with the docker client; nothing here
reads them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from python_on_whales import DockerClient
from python_on_whales.exceptions import DockerException

from imagebuild.addons.model import PlacedArchive, index_folders
from imagebuild.base.model import Base
from imagebuild.base.sites import find_sites
from imagebuild.dockerfile import docker_reference
from imagebuild.engine.options import BuildContext, DockerOptions
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, IntegrityError, RemoteError
from imagebuild.files import CHUNK
from imagebuild.layer.chunked.packing import pack_chunked
from imagebuild.layer.model import Codec
from imagebuild.layer.reading import ForeignLayer, read_foreign_layer
from imagebuild.layer.tar.frame import MEDIA_TYPES
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Descriptor, Digest, ImageConfig, Index, Manifest
from imagebuild.oci.store import Store
from imagebuild.recipe import Recipe, created_epoch

_SHOWN_LINES = 8
_KEPT_LINES = 400  # of the builder's output, to find the reason of a failure in
_STEP = re.compile(r"#\d+ (?:\d+\.\d+ )?")
_OUTPUT = re.compile(r"#\d+ \d+\.\d+ (.*)")  # of a RUN, under --progress plain
_INSTALL_DOCKER = 'install Docker Engine 23 or newer with buildx, or set engine = "direct" for a team without system packages'


_REFERENCE_TYPE = "vnd.docker.reference.type"  # docs.docker.com, Image attestation storage
_PREDICATE_TYPE = "in-toto.io/predicate-type"


class Statement(msgspec.Struct, frozen=True):
    """An in-toto statement that the builder made of its own image."""

    predicate_type: str
    data: bytes


class DockerBuild(msgspec.Struct, frozen=True):
    """What a build gave."""

    layer: ForeignLayer
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class PushTarget:
    """Where the builder pushes to by itself: under the digest of what it built, never under a tag."""

    store: Store
    repository: str


class BuildInputs(msgspec.Struct, frozen=True):
    """What a builder is given beside the Dockerfile: the same for ``buildx build`` and for ``buildx bake``."""

    contexts: dict[str, str]  # named build contexts: a folder, or oci-layout://FOLDER@DIGEST
    arguments: dict[str, str]  # build arguments: never a secret
    secrets: tuple[str, ...]  # --secret values: id=...,src=...; seen by the RUN only
    output: dict[str, str]  # the exporter's options, without its destination


def make_build_inputs(recipe: Recipe, base: Base, context: BuildContext) -> BuildInputs:
    """The inputs of ``recipe``."""
    contexts = {"wheels": str(context.folder / "wheels")}
    if not base.registry:
        if context.layout is None:
            raise BuildError(f"base {base.name} is in a layout folder, and none was given", "this is a defect; please report it")
        contexts[docker_reference(base)] = f"oci-layout://{context.layout}@{base.pinned}"
    return BuildInputs(
        contexts,
        {"SOURCE_DATE_EPOCH": str(created_epoch(recipe.created))},
        list_secrets(context.secrets),
        {"oci-mediatypes": "true", "rewrite-timestamp": "true", **compression_options(recipe.codec)},
    )


def list_secrets(secrets: Mapping[str, Path]) -> tuple[str, ...]:
    """The values of ``--secret``."""
    return tuple(f"id={name},src={path}" for name, path in sorted(secrets.items()))


def compression_options(codec: Codec) -> dict[str, str]:
    """The exporter's options for ``codec``. Without force-compression only the new layer is compressed, the base's stay."""
    # Levels are the codec's own; gzip's 0 would mean "stored" to BuildKit and "fastest" to us.
    return {"compression": codec.compression, "compression-level": str(max(1, codec.level))}


def connect_docker() -> DockerClient:
    """The docker client's command line, checked: ConfigurationError when client, engine or buildx is missing."""
    client = DockerClient()
    try:
        client.client_config.get_client_call_with_path()
    except Exception as error:
        if type(error).__name__ != "ClientNotFoundError":
            raise
        raise ConfigurationError("the docker engine is asked for, and there is no docker client on PATH", _INSTALL_DOCKER) from None
    try:
        version = client.buildx.version()
    except DockerException as error:
        if error.stderr and "permission denied" in error.stderr.lower():
            raise explain_failed_build(error.stderr.splitlines(), None) from None
        raise ConfigurationError(
            "the docker client has no buildx", "install the docker-buildx plugin (docker-buildx or docker-buildx-plugin)"
        ) from None
    if not version:
        raise ConfigurationError("the docker client's buildx does not answer", "run: docker buildx version")
    return client


def build_layer_with_docker(
    recipe: Recipe,
    base: Base,
    context: BuildContext,
    out: Path,
    options: DockerOptions,
    *,
    push: PushTarget | None = None,
    report: Callable[[str], object] = str,
) -> DockerBuild:
    """Build ``context`` and put the one layer it adds into ``out``. ``push``: the builder pushes, and the layer is read back from there.

    BuildError with the failing program's last word; ConfigurationError when docker, its engine, buildx or the builder is
    missing; IntegrityError when the base's layers are not the base's.
    """
    client = connect_docker()
    inputs = make_build_inputs(recipe, base, context)
    if push is not None:
        _require_pushing(client, options.builder, recipe.codec)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-docker-") as folder:
        result, metadata = Path(folder) / "image", Path(folder) / "metadata.json"
        store, repository = (push.store, push.repository) if push else (LayoutStore(result), "image")
        system = f" and {len(recipe.system)} system packages" if recipe.system else ""
        report(f"{recipe.team}: {options.where} installs {len(recipe.packages)} wheels{system}")
        arguments = {
            "context_path": context.folder,
            "file": context.folder / "Dockerfile",
            "build_args": inputs.arguments,
            "build_contexts": inputs.contexts,
            "secrets": list(inputs.secrets),
            "platforms": [recipe.platform],
            "metadata_file": metadata,
            "output": {**_choose_output(result, push), **inputs.output},
            **options.arguments(),
        }
        run_build(client, arguments, options.builder)
        image = _find_image(store, repository, _read_digest(metadata))
        layer, statements = _take_layer(image, base, recipe.codec, out, recipe.addons), _read_statements(image)
    if layer.newest > created_epoch(recipe.created):
        report(f"{recipe.team}: {options.where} cannot rewrite timestamps: another build of this lock will have another diff_id")
    if layer.system is not None and base.interpreter.executable in layer.system.listed:
        raise BuildError("apt would replace the base's Python", "the lock was made for the base's own; take a newer base")
    return DockerBuild(layer, statements)


def _choose_output(result: Path, push: PushTarget | None) -> dict[str, str]:
    """The exporter and where it writes to: the folder ``result``, or a registry."""
    if push is None:
        return {"type": "oci", "tar": "false", "dest": str(result)}
    # By digest: nothing has the tag before the budget and the audit have seen the layer.
    return {
        "type": "image",
        "name": push.store.image_name(push.repository),
        "push": "true",
        "push-by-digest": "true",
        "unpack": "false",
        "store": "false",  # nothing of it stays in the builder's own image store
    }


def _require_pushing(client: DockerClient, builder: str | None, codec: Codec) -> None:
    """ConfigurationError for a layer that no builder writes, or a builder (docker's own) that unpacks what it exports."""
    if codec.chunked:
        raise ConfigurationError("a builder cannot push a zstd:chunked layer", "leave --push out: imagebuild packs and pushes it then")
    try:
        driver = client.buildx.inspect(builder).driver
    except DockerException as error:
        raise explain_failed_build((error.stderr or "").splitlines(), builder) from None
    if driver == "docker":
        raise ConfigurationError(
            "the docker engine's own builder cannot push layers with rewritten timestamps",
            "leave --push out (imagebuild pushes then), or name a builder of another driver: --builder NAME (docker buildx ls)",
        )


def _read_digest(metadata: Path) -> Digest:
    """The digest of the image or index that the builder says it made (buildx build --metadata-file)."""
    try:
        return Digest(str(msgspec.json.decode(metadata.read_bytes()).get("containerimage.digest")))
    except (OSError, msgspec.DecodeError, ImagebuildError):
        raise BuildError(
            "the builder did not say what it built", "use buildx 0.8 or newer; docker buildx version says which it is"
        ) from None


def run_build(client: DockerClient, options: dict[str, Any], builder: str | None, shown: int = _SHOWN_LINES) -> None:
    """Run ``docker buildx build``; its failures as ours, with the last ``shown`` lines of a RUN that failed."""
    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        stream = client.buildx.build(**options, progress="plain", stream_logs=True)
        for line in stream if stream is not None else ():  # type: ignore[union-attr]
            lines.extend(str(line).splitlines())
    except DockerException as error:
        raise explain_failed_build(list(lines) or (error.stderr or "").splitlines(), builder, shown) from None


def explain_failed_build(lines: list[str], builder: str | None, shown: int = _SHOWN_LINES) -> ImagebuildError:
    """The builder's output as one error of one line; the cause decides its type."""
    text = "\n".join(lines)
    low = text.lower()
    if "cannot connect to the docker daemon" in low or "failed to connect to the docker api" in low:
        return ConfigurationError("the docker engine does not answer", "start it (systemctl start docker), or set DOCKER_HOST")
    if "permission denied while trying to connect" in low:
        return ConfigurationError(
            "this user may not talk to the docker engine", "add the user to the docker group, or use a rootless engine"
        )
    if builder and (f'no builder "{builder.lower()}" found' in low or f"failed to find builder {builder.lower()}" in low):
        return ConfigurationError(
            f"there is no builder {builder!r}", "see: docker buildx ls; make one: docker buildx create --name NAME ..."
        )
    if "exec format error" in low:
        return BuildError(
            "the builder cannot run programs of the image's platform", "use a builder of that platform, or install qemu's binfmt there"
        )
    said = [_shorten(_STEP.sub("", line, count=1)) for line in lines]
    ended = [match[1] for line in lines if (match := re.search(r"did not complete successfully: (.*)", line))]
    if ended and not ended[-1].startswith("exit code"):
        hint = (
            "use --build-network host where the builder's own network is broken" if "network" in ended[-1] else "look at the builder's log"
        )
        return BuildError(f"the builder could not start the Dockerfile's RUN: {ended[-1]}", hint)
    if ended:
        if "No module named pip" in text:
            return BuildError("the base has no pip, which the Dockerfile installs with", 'use engine = "direct", or a base with pip')
        output = [_shorten(match[1]) for line in lines if (match := _OUTPUT.fullmatch(line)) and match[1].strip()]
        reason = next((line for line in output if re.match(r"E: |ERROR: ", line)), (output or ended)[-1])
        hint = "the Dockerfile and its context are kept under .imagebuild/builds; build it by hand to look closer"
        return BuildError(f"the build's RUN failed: {reason.removeprefix('ERROR: ').removeprefix('E: ')}", hint, tuple(output[-shown:]))
    if "buildkit-syft-scanner" in low:
        return RemoteError(
            "docker makes its SBOM with an image (docker/buildkit-syft-scanner) that the builder cannot fetch",
            "leave --attest sbom out: imagebuild attaches an SBOM of its own to every image; or let the builder reach it through a mirror",
        )
    if re.search(
        r"failed to (resolve|do request|authorize|fetch|load)|unauthorized|not found|no such host|i/o timeout|connection refused", low
    ):
        return RemoteError(f"docker could not read the base: {_last_word(said)}", "check the registry, and the docker client's login to it")
    return BuildError(f"docker buildx failed: {_last_word(said)}", "run the command on the second line of the Dockerfile by hand")


def _last_word(said: list[str]) -> str:
    errors = [line for line in said if line.startswith(("ERROR:", "error:"))]
    return (errors or [line for line in said if line] or ["it said nothing"])[-1].removeprefix("ERROR: ")


def _shorten(line: str) -> str:
    """A line of the builder's without addresses, which are the machine's business, and without the whole RUN in it."""
    line = re.sub(r'process "/bin/sh -c .*" did not', "RUN did not", line.strip())
    return re.sub(r"https?://\S+", "<address>", line)[:500]


@dataclass(frozen=True)
class _BuiltImage:
    """What the builder made, where it lies, every small part verified."""

    store: Store
    repository: str
    manifest: Manifest
    attestations: tuple[Manifest, ...] = ()

    @property
    def config(self) -> ImageConfig:
        return ImageConfig.parse(self.store.read_blob(self.repository, self.manifest.config))

    def fetch(self, descriptor: Descriptor, out: Path) -> None:
        """The blob as the file ``out``: moved out of a folder, read from a registry."""
        file = self.store.local_file(descriptor.id)
        if file is not None:
            shutil.move(file, out)
            out.chmod(0o644)
            return
        with self.store.open_blob(self.repository, descriptor) as stream, out.open("wb") as copy:
            while chunk := stream.read(CHUNK):
                copy.write(chunk)


def _find_image(store: Store, repository: str, digest: Digest) -> _BuiltImage:
    """The one image under ``digest``; with attestations that is an index of both."""

    def read(name: Digest) -> Manifest | Index:
        raw = store.get_manifest(repository, name)
        if raw is None:
            raise BuildError(
                f"the builder's image {name} is not in the folder it was written to", "run it again; if it fails again, try another builder"
            )
        return raw.parse()

    found = read(digest)
    if isinstance(found, Manifest):
        return _BuiltImage(store, repository, found)
    parts = [(item, read(item.id)) for item in found.manifests]
    images = [part for item, part in parts if _REFERENCE_TYPE not in item.annotations and isinstance(part, Manifest)]
    notes = [part for item, part in parts if _REFERENCE_TYPE in item.annotations and isinstance(part, Manifest)]
    if len(images) != 1:
        raise BuildError(f"the builder wrote {len(images)} images, not one", "run it again; if it fails again, try another builder")
    return _BuiltImage(store, repository, images[0], tuple(notes))


def _read_statements(image: _BuiltImage) -> tuple[Statement, ...]:
    return tuple(
        Statement(layer.annotations[_PREDICATE_TYPE], image.store.read_blob(image.repository, layer))
        for manifest in image.attestations
        for layer in manifest.layers
        if _PREDICATE_TYPE in layer.annotations
    )


def _take_layer(image: _BuiltImage, base: Base, codec: Codec, out: Path, addons: Sequence[PlacedArchive] = ()) -> ForeignLayer:
    """Check that the image is the base and exactly one layer more; fetch that layer's blob."""
    manifest, config = image.manifest, image.config
    count = len(base.manifest.layers)
    # By content: a builder that has met the same layer in another compression (a mirror's, say) writes out that one. Ours
    # to push are the base's own blobs in any case.
    if len(manifest.layers) < count or config.rootfs.diff_ids[:count] != base.config.rootfs.diff_ids:
        raise IntegrityError("the builder changed the base's layers", "nothing was pushed; try another builder, or the direct engine")
    added = manifest.layers[count:]
    if len(added) != 1 or len(config.rootfs.diff_ids) != count + 1:
        raise BuildError(
            f"the builder added {len(added)} layers, not one", "the Dockerfile was changed; remove .imagebuild/builds and run again"
        )
    descriptor = added[0]
    if descriptor.media_type != MEDIA_TYPES[codec.name]:
        raise BuildError(
            f"the builder wrote a layer of type {descriptor.media_type}, the team asks for {codec.compression}",
            "use a newer BuildKit, or another [layer] compression in team.toml",
        )
    image.fetch(descriptor, out)
    sites = find_sites(base.inventory, base.tree, base.config.container.environment)
    layer = read_foreign_layer(out, descriptor.media_type, sites, index_folders(addons))
    if (layer.digest, layer.size) != (descriptor.digest, descriptor.size) or layer.diff_id != config.rootfs.diff_ids[-1]:
        raise IntegrityError(
            "the layer the builder wrote is not the one its manifest names", "run it again; if it fails again, try another builder"
        )
    if not codec.chunked:
        return layer
    annotations = pack_chunked(out, codec)
    return msgspec.structs.replace(read_foreign_layer(out, descriptor.media_type, sites, index_folders(addons)), annotations=annotations)
