"""The Docker on this machine, through docker's SDK: is it there, what does it hold, and giving it an image.

The one module that asks the environment which engine is meant: ``DOCKER_HOST``, else docker's current context, as the docker
client itself does (the SDK alone ignores contexts).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from imagebuild import annotations as names
from imagebuild.base.pins import load_catalogue
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, IntegrityError, RemoteError, UsageError
from imagebuild.oci.archive import stream_archive
from imagebuild.oci.model import Descriptor, Digest, Index, Manifest, RawManifest, Reference
from imagebuild.oci.store import Store
from imagebuild.text import format_size
from imagebuild.workspace import Workspace

if TYPE_CHECKING:
    from docker import DockerClient

_MIB = 1 << 20
_GREETING_TIMEOUT = 20  # seconds for the first answer
_WORK_TIMEOUT = 1800  # seconds without a byte later on: an upload is answered only after the image is unpacked


class Loaded(msgspec.Struct, frozen=True):
    """What the local Docker now has. ``size`` is the bytes that were handed over, 0 when it had the image."""

    name: str  # for `docker run`
    digest: Digest
    size: int


class BaseSource(msgspec.Struct, frozen=True):
    """Where the base of an image is, as its annotations and the catalogue's mirrors say."""

    store: Store
    repository: str
    digest: Digest


def connect_engine() -> DockerClient:
    """A client of the engine that ``docker`` would use, which has answered; ConfigurationError when there is none."""
    import docker
    from docker.context import ContextAPI
    from docker.errors import DockerException

    where = os.environ.get("DOCKER_HOST", "")
    client = None
    try:
        if where:
            _knock(where)
            client = docker.from_env(timeout=_GREETING_TIMEOUT)
        else:
            context = ContextAPI.get_current_context()
            where = str(context.Host)
            _knock(where)
            client = docker.DockerClient(base_url=where, tls=context.TLSConfig or False, timeout=_GREETING_TIMEOUT)
        client.ping()
    except (DockerException, OSError, ValueError) as error:
        if client is not None:
            client.close()
        raise ConfigurationError(
            f"no Docker engine answers at {where or 'its usual address'}: {_innermost(error)}",
            "start it (sudo systemctl start docker) and let this user use it, or point DOCKER_HOST or `docker context use` at one "
            "that runs; building with the direct engine needs none",
        ) from None
    client.api.timeout = _WORK_TIMEOUT
    return client


def _knock(address: str) -> None:
    """Raises the system's own OSError for a socket without a server; the SDK would leave its own end open."""
    if address.startswith("unix://"):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(_GREETING_TIMEOUT)
            probe.connect(address.removeprefix("unix://"))


def _innermost(error: BaseException) -> str:
    """The system's own words, which requests and urllib3 wrap three times."""
    found: BaseException = error
    while True:
        inner = found.__cause__ or found.__context__ or next((item for item in found.args if isinstance(item, BaseException)), None)
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
        if inner is None:
            return str(found).splitlines()[0][:200] if str(found) else type(found).__name__
        found = inner


def find_local_image(client: DockerClient, name: str) -> dict[str, Any] | None:
    """What ``docker image inspect`` says of a name, a digest reference or an ID; None when docker has no such image, whole.

    The containerd store answers without a platform for an image whose config its garbage collection took (seen once): as
    good as none, since loading it again repairs it.
    """
    from docker.errors import APIError, ImageNotFound, NullResource

    try:
        found = dict(client.api.inspect_image(name))  # type: ignore[no-untyped-call]
        return found if found.get("Os") and found.get("Architecture") else None
    except (ImageNotFound, NullResource):
        return None
    except APIError as error:
        if error.status_code == 400:  # not a reference at all
            return None
        raise explain_engine_error(error, f"looking for {name}") from None


def explain_engine_error(error: Exception, doing: str) -> BuildError:
    """An engine's refusal in one line."""
    text = str(getattr(error, "explanation", "") or error)
    return BuildError(f"docker failed while {doing}: {' '.join(text.split())[:300]}", "see the engine's own log")


def find_base(workspace: Workspace, annotations: dict[str, str]) -> BaseSource | None:
    """Where the base named by annotations (or labels) is; None when they name none.

    The catalogue's entry of that name decides the place, so that a mirror serves here as it does for a build.
    """
    digest = annotations.get(names.BASE_DIGEST, "")
    name = annotations.get(names.BASE_NAME, "")
    if not digest or not name:
        return None
    if name.startswith("layout:"):
        repository = name.removeprefix("layout:").rpartition(":")[0]
        return BaseSource(workspace.layout, repository, Digest(digest))
    place = Reference.parse(name)
    try:
        catalogue = load_catalogue(workspace.images / "catalogue.toml")
    except ConfigurationError:  # smoke runs outside a checkout, too
        return BaseSource(workspace.registry_store(place.registry), place.repository, Digest(digest))
    entry = catalogue.bases.get(annotations.get(names.BASE, ""))
    if entry is not None and not entry.build and entry.annotation_name == name:
        place = entry.located(catalogue.mirrors)
    return BaseSource(workspace.registry_store(place.registry), place.repository, Digest(digest))


def _read_image(store: Store, repository: str, reference: str) -> tuple[RawManifest, Manifest]:
    raw = store.get_manifest(repository, reference)
    if raw is None:
        raise UsageError(f"{store.image_name(repository)} has no {reference}", "build it first: imagebuild image TEAM")
    manifest = raw.parse()
    if isinstance(manifest, Index):
        raise UsageError(f"{store.image_name(repository)}:{reference} is an index of several images", "name one image by its digest")
    return raw, manifest


def _blob_opener(workspace: Workspace, repository: str, manifest: Manifest) -> Callable[[Descriptor], AbstractContextManager[BinaryIO]]:
    """Opens a blob where it is: in the target, or, of a sparse layout folder, where the base is."""
    base = find_base(workspace, manifest.annotations)

    def open_blob(item: Descriptor) -> AbstractContextManager[BinaryIO]:
        target = workspace.target
        if target.has_blob(repository, item.id) or base is None:
            return target.open_blob(repository, item)
        return base.store.open_blob(base.repository, item)

    return open_blob


def load_image(workspace: Workspace, repository: str, reference: str, name: str, client: DockerClient | None = None) -> Loaded:
    """Put an image of the target into the local Docker as ``name`` (``team:tag``).

    One that Docker has under the same digest is only given the name. Otherwise all of it is handed over, base layers too: an engine
    takes no list of what it may leave out. Memory stays bounded, and a blob that fails its check ends the upload unfinished.
    """
    engine = client or connect_engine()
    try:
        raw, manifest = _read_image(workspace.target, repository, reference)
        # The containerd store knows an image by its manifest's digest, the classic one by its config's.
        for known in (raw.digest, manifest.config.digest):
            found = find_local_image(engine, str(known))
            if found is not None:
                plain, _, tag = name.rpartition(":")
                engine.api.tag(str(found["Id"]), plain, tag)
                workspace.report(f"{name}: docker has it already")
                return Loaded(name, raw.digest, 0)
        blobs = {item.digest: item.size for item in (manifest.config, *manifest.layers)}
        size = sum(blobs.values())
        count = len(manifest.layers)
        own = sum(item.size for item in manifest.layers[count - names.count_team_layers(manifest.annotations, count) :])
        shares = f"{count} layers, {format_size(size - own)} of it the base's"
        workspace.report(f"{name}: loading {format_size(size)} into docker ({shares})")
        for _ in range(2):  # the second time for what went missing while the first came in
            archive = stream_archive(raw, manifest, name, _blob_opener(workspace, repository, manifest))
            _send_archive(engine, archive, name)
            found = find_local_image(engine, name)
            if found is not None:
                break
        if found is None or str(found["Id"]) not in (str(raw.digest), manifest.config.digest):
            raise IntegrityError(
                f"docker loaded {name} as {found['Id'] if found else 'nothing'}, not as {raw.digest}",
                f"another image of that name may have been loaded meanwhile; run: docker image inspect {name}",
            )
        return Loaded(name, raw.digest, size)
    finally:
        if client is None:
            engine.close()


def _send_archive(engine: DockerClient, archive: Iterator[bytes], name: str) -> None:
    """``docker load``; our own errors inside the archive come out as they are."""
    from docker.errors import APIError
    from requests.exceptions import RequestException

    failure: list[ImagebuildError] = []

    def watched() -> Iterator[bytes]:
        try:
            yield from archive
        except ImagebuildError as error:
            failure.append(error)
            raise

    try:
        for line in engine.api.load_image(watched(), quiet=True):  # type: ignore[no-untyped-call]  # requests streams an iterator
            if "error" in line:
                raise RemoteError(
                    f"docker did not take {name}: {line['error']}", "zstd layers need docker 23 or newer; see the engine's log"
                )
    except (APIError, RequestException, OSError) as error:
        if failure:
            raise failure[0] from None
        raise explain_engine_error(error, f"loading {name}") from None
