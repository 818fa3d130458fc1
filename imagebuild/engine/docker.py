"""The Docker engine: the rendered Dockerfile, built by any builder that buildx knows, and its one added layer taken out.

The result comes back as an OCI layout folder (image-spec, image-layout.md). What the builder made of config and
manifest is left behind: they are derived from the base's as with the direct engine, so that both engines push the same.
Registry credentials stay with the docker client; nothing here reads them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild.base.model import Base
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, IntegrityError, RemoteError
from imagebuild.layer.frame import MEDIA_TYPES
from imagebuild.layer.model import Codec
from imagebuild.layer.reading import ForeignLayer, read_foreign_layer
from imagebuild.lock.model import Lock
from imagebuild.oci.model import Digest, ImageConfig, Manifest, RawManifest
from imagebuild.recipe import Recipe, created_epoch, docker_reference

if TYPE_CHECKING:
    from python_on_whales import DockerClient

_KEPT_LINES = 400  # of the builder's output, to find the reason of a failure in
_STEP = re.compile(r"#\d+ (?:\d+\.\d+ )?")
_OUTPUT = re.compile(r"#\d+ \d+\.\d+ (.*)")  # of a RUN, under --progress plain
_INSTALL_DOCKER = 'install Docker Engine 23 or newer with buildx, or set engine = "direct" for a team without system packages'


class BuildInputs(msgspec.Struct, frozen=True):
    """What a builder is given beside the Dockerfile: the same for ``buildx build`` and for ``buildx bake``."""

    contexts: dict[str, str]  # named build contexts: a folder, or oci-layout://FOLDER@DIGEST
    arguments: dict[str, str]  # build arguments: never a secret
    secrets: tuple[str, ...]  # --secret values: id=...,src=...; seen by the RUN only
    output: dict[str, str]  # the exporter's options, without its destination


def make_build_inputs(
    recipe: Recipe, base: Base, *, context: Path, layout: Path | None, secrets: Mapping[str, Path] | None = None
) -> BuildInputs:
    """The inputs of ``recipe``. ``layout``: the layout folder that holds the base when no registry does."""
    contexts = {"wheels": str(context / "wheels")}
    if not base.registry:
        if layout is None:
            raise BuildError(f"base {base.name} is in a layout folder, and none was given", "this is a defect; please report it")
        contexts[docker_reference(base)] = f"oci-layout://{layout}@{base.pinned}"
    return BuildInputs(
        contexts,
        {"SOURCE_DATE_EPOCH": str(created_epoch(recipe.created))},
        tuple(f"id={name},src={path}" for name, path in sorted((secrets or {}).items())),
        {"oci-mediatypes": "true", "rewrite-timestamp": "true", **compression_options(recipe.codec)},
    )


def compression_options(codec: Codec) -> dict[str, str]:
    """The exporter's options for ``codec``. Without force-compression only the new layer is compressed, the base's stay."""
    # Levels are the codec's own; gzip's 0 would mean "stored" to BuildKit and "fastest" to us.
    return {"compression": codec.name, "compression-level": str(max(1, codec.level))}


def connect_docker() -> DockerClient:
    """The docker client's command line, checked: ConfigurationError when client, engine or buildx is missing."""
    from python_on_whales import DockerClient
    from python_on_whales.exceptions import DockerException

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
            raise explain_failure(error.stderr.splitlines(), None) from None
        raise ConfigurationError(
            "the docker client has no buildx", "install the docker-buildx plugin (docker-buildx or docker-buildx-plugin)"
        ) from None
    if not version:
        raise ConfigurationError("the docker client's buildx does not answer", "run: docker buildx version")
    return client


def build_layer_with_docker(
    recipe: Recipe,
    base: Base,
    lock: Lock,
    context: Path,
    *,
    layout: Path | None,
    out: Path,
    builder: str | None = None,
    secrets: Mapping[str, Path] | None = None,
    network: str | None = None,
    cache: bool = True,
    report: Callable[[str], object] = str,
) -> ForeignLayer:
    """Build ``context`` (Dockerfile and wheels/) and move the one layer it adds to ``out``.

    ``builder``: a name of ``docker buildx ls``; ``secrets``: files for the RUN's secret mounts by id; ``network``: ``host``
    where an apt step reaches no mirror through the builder's own (wheels are installed without any); ``cache=False``
    builds again what the builder has kept. BuildError with the failing program's last word; ConfigurationError when
    docker, its engine, buildx or the builder is missing; IntegrityError when the base's layers are not the base's.
    """
    client = connect_docker()
    inputs = make_build_inputs(recipe, base, context=context, layout=layout, secrets=secrets)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".tmp-docker-") as folder:
        result = Path(folder) / "image"
        where = f"builder {builder}" if builder else "docker"
        system = f" and {len(recipe.system)} system packages" if recipe.system else ""
        report(f"{recipe.team}: {where} installs {len(lock.packages)} wheels{system}")
        _run_build(
            client,
            {
                "context_path": context,
                "file": context / "Dockerfile",
                "build_args": inputs.arguments,
                "build_contexts": inputs.contexts,
                "secrets": list(inputs.secrets),
                "platforms": [recipe.platform],
                "builder": builder,
                "network": network,
                "allow": ["network.host"] if network == "host" else [],
                "cache": cache,
                "provenance": False,
                "sbom": False,
                "output": {"type": "oci", "tar": "false", "dest": str(result), **inputs.output},
            },
            builder,
        )
        layer = _take_layer(result, base, recipe.codec, out)
    epoch = created_epoch(recipe.created)
    if layer.newest > epoch:
        report(f"{recipe.team}: {where} cannot rewrite timestamps: another build of this lock will have another diff_id")
    if layer.system is not None and base.interpreter.executable in layer.system.listed:
        raise BuildError("apt would replace the base's Python", "the lock was made for the base's own; take a newer base")
    return layer


def _run_build(client: DockerClient, options: dict[str, Any], builder: str | None) -> None:
    """Run ``docker buildx build``; its failures as ours."""
    from python_on_whales.exceptions import DockerException

    lines: deque[str] = deque(maxlen=_KEPT_LINES)
    try:
        stream = client.buildx.build(**options, progress="plain", stream_logs=True)
        for line in stream if stream is not None else ():  # type: ignore[union-attr]
            lines.extend(str(line).splitlines())
    except DockerException as error:
        raise explain_failure(list(lines) or (error.stderr or "").splitlines(), builder) from None


def explain_failure(lines: list[str], builder: str | None) -> ImagebuildError:
    """The builder's output, told as one line: who is at fault decides the error's type."""
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
        told = next((line for line in output if re.match(r"E: |ERROR: ", line)), (output or ended)[-1])
        hint = "the Dockerfile and its context are kept under .imagebuild/builds; build it by hand to look closer"
        return BuildError(f"the build's RUN failed: {told.removeprefix('ERROR: ').removeprefix('E: ')}", hint, tuple(output[-8:]))
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


def _take_layer(result: Path, base: Base, codec: Codec, out: Path) -> ForeignLayer:
    """Check that the image is the base and exactly one layer more; move that layer's blob."""
    manifest, config = _read_image(result)
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
            f"the builder wrote a layer of type {descriptor.media_type}, the team asks for {codec.name}",
            "use a newer BuildKit, or another [layer] compression in team.toml",
        )
    blob = result / "blobs" / "sha256" / descriptor.id.hex
    shutil.move(blob, out)
    out.chmod(0o644)
    layer = read_foreign_layer(out, descriptor.media_type)
    if (layer.digest, layer.size) != (descriptor.digest, descriptor.size) or layer.diff_id != config.rootfs.diff_ids[-1]:
        raise IntegrityError("the layer the builder wrote is not the one its manifest names", "run again; if it stays, try another builder")
    return layer


def _read_image(layout: Path) -> tuple[Manifest, ImageConfig]:
    """The one image of a layout folder that a builder wrote, its small blobs verified."""

    def read(digest: str) -> bytes:
        data = (layout / "blobs" / "sha256" / Digest(digest).hex).read_bytes()
        if Digest.of(data) != digest:
            raise IntegrityError(f"the builder's {digest} has other bytes", "run again; if it stays, try another builder")
        return data

    index = msgspec.json.decode((layout / "index.json").read_bytes())
    images = index.get("manifests") or []
    if len(images) != 1:
        raise BuildError(f"the builder wrote {len(images)} images, not one", "run again; if it stays, try another builder")
    raw = RawManifest(read(images[0]["digest"]), images[0]["mediaType"])
    manifest = raw.parse()
    if not isinstance(manifest, Manifest):
        raise BuildError("the builder wrote an index of images, not one image", "turn attestations off for this builder")
    return manifest, ImageConfig.parse(read(manifest.config.digest))
