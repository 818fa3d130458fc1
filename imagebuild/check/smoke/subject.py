"""What image is meant, brought into the local Docker, and what is known about it there and elsewhere."""

from __future__ import annotations

import contextlib
import secrets
import tarfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from imagebuild import annotations as names
from imagebuild.addons.model import ADDON_KINDS, name_addon
from imagebuild.check.smoke.listing import LayerListing, read_archive
from imagebuild.check.smoke.pod import LABEL, remove_container
from imagebuild.decoding import Converter, make_decoder
from imagebuild.engine.dockerd import explain_engine_error, find_base, find_local_image, load_image
from imagebuild.errors import BuildError, ConfigurationError, ImagebuildError, RemoteError, UsageError
from imagebuild.layer.tar.flow import open_chunks
from imagebuild.lock.file.model import Lock
from imagebuild.oci.model import ContainerConfig, ImageConfig, Index, Platform, Reference
from imagebuild.servers import KINDS, PORT, Kind
from imagebuild.workspace import Workspace

_CONFIG = Converter(ContainerConfig)
_ADDONS = make_decoder(dict[str, str])

if TYPE_CHECKING:
    from docker import DockerClient


class SmokeSubject(msgspec.Struct, frozen=True):
    """The image, as the local Docker has it, and what is known about it from elsewhere."""

    name: str
    id: str  # docker's
    config: ContainerConfig
    notes: dict[str, str]  # labels
    kind: Kind
    port: int
    home: str  # "" when the image names none
    base: ContainerConfig | None  # None: unknown, and base_problem says why
    base_problem: str
    at_home: tuple[str, ...]  # paths the added layers have under the home
    distributions: tuple[str, ...]  # of the added layers
    lock: Lock | None  # the team's, when it is this image's
    addons: dict[str, str] = {}  # r:data.table -> version; "" for one that the team did not ask for itself
    ignore: tuple[str, ...] = ()  # patterns of modules that need not import: the team's [smoke] ignore

    def list_addons(self, kind: str) -> dict[str, str]:
        """Name -> version of the add-ons of one kind; "" where the image does not say the version."""
        prefix = name_addon(kind, "")
        return {name.removeprefix(prefix): version for name, version in sorted(self.addons.items()) if name.startswith(prefix)}


# --- finding out what the image is ---------------------------------------------------------------------------------------


def find_subject(workspace: Workspace, client: DockerClient, asked: str, kind: Kind | None = None, tag: str = "") -> SmokeSubject:
    """What ``asked`` means: a team (its image ``tag`` in the target, or the current one), else an image of the local Docker, else
    a registry's, pulled."""
    team = ""
    with contextlib.suppress(ConfigurationError):
        from imagebuild.config import list_teams

        team = asked if asked in list_teams(workspace.images) else ""
    name = _bring_team(workspace, client, team, tag) if team else _bring_image(client, asked)
    found = find_local_image(client, name)
    if found is None:
        raise BuildError(f"docker no longer has {name}", "something removed it meanwhile; run it again")
    config = _read_config(found.get("Config") or {})
    notes = dict(config.labels or {})
    home = config.environment.get("HOME", "") or _look_up_home(client, str(found["Id"]), config.user)
    base, blobs, problem = _read_base(workspace, notes, Platform.parse(f"{found['Os']}/{found['Architecture']}"))
    diff_ids = tuple((found.get("RootFS") or {}).get("Layers") or ())
    # Of an unknown base: all but those noted as the team's are taken to be it.
    lower = base.rootfs.diff_ids if base else diff_ids[: len(diff_ids) - names.count_team_layers(notes, len(diff_ids))]
    same = _count_common(lower, diff_ids)
    known = frozenset(item.removeprefix("sha256:") for item in (*lower[:same], *(blobs if same == len(lower) else ())))
    layers = _read_layers(client, str(found["Id"]), home, count=len(diff_ids) - same, known=known)
    chosen = kind or notes.get(names.KIND, "jupyter")
    if chosen not in KINDS:
        raise UsageError(f"{name} says it is of kind {chosen!r}", f"give --kind: one of {', '.join(KINDS)}")
    return SmokeSubject(
        name=name,
        id=str(found["Id"]),
        config=config,
        notes=notes,
        kind=chosen,
        port=_find_port(config, notes),
        home=home if home != "/" else "",
        base=base.container if base else None,
        base_problem=problem,
        at_home=tuple(path for layer in layers for path in layer.at_home),
        distributions=tuple(sorted({item for layer in layers for item in layer.distributions})),
        lock=_find_lock(workspace, notes),
        addons=_find_addons(workspace, notes),
        ignore=_read_ignored(workspace, notes.get(names.TEAM, "")),
    )


def _count_common(one: Sequence[str], other: Sequence[str]) -> int:
    """How many items the two begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((index for index, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def _bring_team(workspace: Workspace, client: DockerClient, team: str, tag: str) -> str:
    """The team's image ``tag`` (or its current one) into the local Docker, unless it is there: loaded from the layout folder, or pulled."""
    from imagebuild.catalogue.entries import read_catalogue

    repository = workspace.repository(team)
    entries = read_catalogue(workspace.target, teams=[repository]).entries
    entry = next((item for item in entries if (item.tag == tag if tag else item.current)), None)
    if entry is None:
        raise UsageError(f"{workspace.target.image_name(repository)} has no image of team {team}", f"run: imagebuild image {team}")
    if not workspace.host:
        return load_image(workspace, repository, str(entry.digest), f"{team}:{entry.tag}").name
    name = f"{entry.image}:{entry.tag}"
    by_digest = f"{entry.image}@{entry.digest}"
    for known in (by_digest, str(entry.digest)):
        if find_local_image(client, known) is not None:
            return known
    workspace.report(f"{name}: pulling")
    _pull(client, by_digest)
    return by_digest


def _bring_image(client: DockerClient, asked: str) -> str:
    """As ``docker run`` would: what is here, else a pull; but never a pull of a name that has no registry in it."""
    if find_local_image(client, asked) is not None:
        return asked
    head, slash, _ = asked.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        raise UsageError(
            f"{asked!r} is neither a team here nor an image of the local Docker", "name a team, a local image, or registry/repository:tag"
        )
    reference = Reference.parse(asked)
    if not reference.tag and reference.digest is None:
        raise UsageError(f"{asked} has no tag", f"name one: {asked}:TAG")
    _pull(client, asked)
    return asked


def _pull(client: DockerClient, name: str) -> None:
    from docker.errors import APIError

    try:
        plain, at, digest = name.partition("@")
        tag = digest if at else plain.rpartition(":")[2]
        client.images.pull(plain if at else plain.rpartition(":")[0], tag=tag)
    except APIError as error:
        reason = " ".join(str(error.explanation or error).split())[:200]
        raise RemoteError(
            f"docker could not pull {name}: {reason}",
            "log in with docker login, or let imagebuild hand the image over: imagebuild image TEAM --load",
        ) from None


def _read_config(raw: Mapping[str, Any]) -> ContainerConfig:
    """Docker's inspect spells the config as image-spec does."""
    return _CONFIG.convert({key: value for key, value in raw.items() if value is not None})


def _find_port(config: ContainerConfig, notes: Mapping[str, str]) -> int:
    """The annotated one, else the first that the image exposes, else Kubeflow's."""
    exposed = sorted(int(item.partition("/")[0]) for item in config.exposed_ports or {} if item.partition("/")[0].isdecimal())
    noted = notes.get(names.PORT, "")
    return int(noted) if noted.isdecimal() else exposed[0] if exposed else PORT


def _read_base(workspace: Workspace, notes: dict[str, str], platform: Platform) -> tuple[ImageConfig | None, tuple[str, ...], str]:
    """The config and the layers' digests of the base that the labels name, or why they cannot be had."""
    try:
        source = find_base(workspace, notes)
        if source is None:
            return None, (), "the image does not say what its base is"
        raw = source.store.get_manifest(source.repository, str(source.digest))
        manifest = raw.parse() if raw else None
        if isinstance(manifest, Index):
            raw = source.store.get_manifest(source.repository, manifest.select(platform).digest)
            manifest = raw.parse() if raw else None
        if manifest is None or isinstance(manifest, Index):
            return None, (), f"{source.store.label} does not hold the base {notes[names.BASE_NAME]}"
        config = ImageConfig.parse(source.store.read_blob(source.repository, manifest.config))
        return config, tuple(item.digest for item in manifest.layers), ""
    except ImagebuildError as error:
        return None, (), f"the base cannot be read: {error.message}"


def _find_lock(workspace: Workspace, notes: Mapping[str, str]) -> Lock | None:
    """The team's lock file, when it is the one the image was built from."""
    from imagebuild.lock.file.lockfile import lock_digest, read_lock

    team = notes.get(names.TEAM, "")
    if not team or "/" in team or not workspace.lockfile(team).is_file():
        return None
    lock = read_lock(workspace.lockfile(team))
    return lock if lock_digest(lock) == notes.get(names.LOCK) else None


def _find_addons(workspace: Workspace, notes: Mapping[str, str]) -> dict[str, str]:
    """Those that the image says it was asked for; with all others of the team's locks where these have the same versions of them."""
    from imagebuild.addons.lockfile import read_addon_lock

    try:
        asked = _ADDONS.decode(notes.get(names.ADDONS, "{}"))
    except msgspec.DecodeError:
        return {}
    team, locked = notes.get(names.TEAM, ""), dict[str, str]()
    for kind in ADDON_KINDS:
        path = workspace.addon_lockfile(kind, team)
        if asked and "/" not in team and path.is_file():
            locked |= {name_addon(kind, item.name): item.version for item in read_addon_lock(path).addons}
    return {**dict.fromkeys(locked, ""), **asked} if asked.items() <= locked.items() else asked


def _read_ignored(workspace: Workspace, team: str) -> tuple[str, ...]:
    """The team's [smoke] ignore; nothing where the team the image names has no folder here."""
    from imagebuild.config import list_teams, load_team

    return load_team(workspace.images, team).table.smoke.ignore if team in list_teams(workspace.images) else ()


def _look_up_home(client: DockerClient, image: str, user: str) -> str:
    """The home of /etc/passwd for an image without HOME: what a runtime puts there."""
    from docker.errors import APIError

    name = f"imagebuild-smoke-{secrets.token_hex(6)}"
    try:
        container = client.containers.create(image, command=["-"], name=name, labels={LABEL: name})
        stream, _ = container.get_archive("/etc/passwd")
        with tarfile.open(fileobj=open_chunks(stream), mode="r|") as archive:
            member = archive.next()
            file = archive.extractfile(member) if member else None
            rows = [line.split(":") for line in (file.read().decode(errors="replace") if file else "").splitlines()]
    except APIError:
        return ""
    finally:
        remove_container(client, name)
    wanted = user.partition(":")[0] or "0"
    return next((row[5] for row in rows if len(row) > 6 and wanted in (row[0], row[2])), "")


def _read_layers(client: DockerClient, image: str, home: str, *, count: int, known: frozenset[str]) -> tuple[LayerListing, ...]:
    """The topmost ``count`` layers of a local image, from one ``docker image save``."""
    from docker.errors import APIError

    if not count:
        return ()
    try:
        stream = client.api.get_image(image)
    except APIError as error:
        raise explain_engine_error(error, f"reading {image}") from None
    return read_archive(open_chunks(stream), home, count=count, known=known)
