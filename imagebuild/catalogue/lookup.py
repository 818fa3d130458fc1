"""Which image is meant by a name on the command line: a team's, a quarter's, a tag, a digest, any registry's, a layout folder's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import msgspec

from imagebuild.catalogue.entries import read_catalogue
from imagebuild.catalogue.selection import find_entry
from imagebuild.config import list_teams
from imagebuild.errors import ConfigurationError, RemoteError, UsageError
from imagebuild.oci.layout import LayoutStore
from imagebuild.oci.model import Digest, ImageConfig, Index, Manifest, Platform, RawManifest, Reference
from imagebuild.oci.store import Store
from imagebuild.text import suggest
from imagebuild.workspace import Workspace

PreferTag = Callable[[str], str]  # team -> the tag its image would have now, or empty
_QUARTER = re.compile(r"[0-9]{4}q[1-4]")


class FoundImage(msgspec.Struct, frozen=True):
    """One image of one platform, where it is."""

    name: str  # for people, with tag or digest
    store: Store
    repository: str
    raw: RawManifest
    manifest: Manifest
    config_data: bytes
    team: str = ""  # a team of this checkout

    @property
    def digest(self) -> Digest:
        """The digest of the platform's manifest."""
        return self.raw.digest

    @property
    def config(self) -> ImageConfig:
        """The image's configuration, parsed."""
        return ImageConfig.parse(self.config_data)

    @property
    def annotations(self) -> dict[str, str]:
        """The manifest's annotations, and the labels of the configuration that no annotation repeats."""
        return {**(self.config.container.labels or {}), **self.manifest.annotations}


def read_image(store: Store, repository: str, reference: str, name: str, platform: Platform, team: str = "") -> FoundImage:
    """The image under a tag or digest; through an index the one for ``platform``. UsageError when there is none."""
    raw = store.get_manifest(repository, reference)
    if raw is None:
        raise UsageError(f"there is no image {name}", "see what there is: imagebuild catalogue" if team else "check name and tag")
    manifest = raw.parse()
    if isinstance(manifest, Index):
        raw = store.get_manifest(repository, manifest.select(platform).digest)
        manifest = raw.parse() if raw is not None else manifest
    if raw is None or isinstance(manifest, Index):
        raise RemoteError(f"{name} is an index without its image for {platform}", "push the image again")
    return FoundImage(name, store, repository, raw, manifest, store.read_blob(repository, manifest.config), team)


def find_team_image(workspace: Workspace, team: str, *, quarter: str = "", prefer: PreferTag | None = None) -> FoundImage | None:
    """The team's newest image (of a quarter); None when nothing was pushed.

    Of several with the newest cutoff, which differ in their settings, the one with the tag that ``prefer`` gives for the team.
    """
    repository = workspace.repository(team)
    entries = [item for item in read_catalogue(workspace.target, teams=[repository]).entries if quarter in ("", item.quarter)]
    if not entries:
        return None
    entry = entries[0]
    equals = [item for item in entries if item.moment == entry.moment]
    if len(equals) > 1 and prefer is not None:
        wanted = prefer(team)
        entry = next((item for item in equals if item.tag == wanted), entry)
    return read_image(workspace.target, repository, str(entry.digest), f"{team}:{entry.tag}", Platform.parse("linux/amd64"), team)


def find_named_image(workspace: Workspace, text: str, platform: Platform | None = None, prefer: PreferTag | None = None) -> FoundImage:
    """``TEAM``, ``TEAM:TAG``, ``TEAM@sha256:…``, ``TEAM@2026q3``, ``HOST/REPOSITORY[:TAG][@DIGEST]``, ``oci:FOLDER:REPOSITORY:TAG``.

    Or what the teams' catalogue knows by itself: a name for good, a bare tag, a digest or its first 12 digits.
    """
    wanted = platform or Platform.parse("linux/amd64")
    if text.startswith("oci:"):
        folder, _, rest = text.removeprefix("oci:").partition(":")
        repository, _, tag = rest.partition(":")
        if not tag or not Path(folder, "index.json").is_file():
            raise UsageError(f"there is no image {text}", "write oci:FOLDER:REPOSITORY:TAG, with a folder that holds an index.json")
        return read_image(LayoutStore(Path(folder)), repository, tag, text, wanted)
    teams = _list_teams(workspace)
    match = re.fullmatch(r"([^/:@]+)(?:(:|@)(.+))?", text)
    if match and match[1] in teams:
        team, reference = match[1], match[3] or ""
        if not reference or (match[2] == "@" and _QUARTER.fullmatch(reference)):
            found = find_team_image(workspace, team, quarter=reference, prefer=prefer)
            if found is None:
                where = workspace.target.image_name(workspace.repository(team))
                hint = "see what there is: imagebuild catalogue" if reference else f"build one: imagebuild image {team}"
                raise UsageError(f"{where} has no image{f' of {reference}' if reference else ''}", hint)
            return found
        return read_image(workspace.target, workspace.repository(team), reference, text, wanted, team)
    head, slash, _ = text.partition("/")
    if not slash or not ("." in head or ":" in head or head == "localhost"):
        if teams:
            listing = read_catalogue(workspace.target, teams=[workspace.repository(team) for team in teams])
            with contextlib.suppress(UsageError):
                entry = find_entry(listing, text)
                return read_image(workspace.target, entry.repository, str(entry.digest), f"{entry.team}:{entry.tag}", wanted, entry.team)
        known = suggest(match[1], list(teams)) if match else f"teams: {', '.join(teams) or 'none'}"
        raise UsageError(f"{text!r} is neither a team here nor an image of a registry", f"{known}; or name HOST/REPOSITORY:TAG")
    reference_ = Reference.parse(text)
    if not reference_.tag and reference_.digest is None:
        raise UsageError(f"{text} has no tag", f"name one: {text}:TAG")
    store = workspace.registry_store(reference_.registry)
    return read_image(store, reference_.repository, str(reference_.digest or reference_.tag), text, wanted)


def _list_teams(workspace: Workspace) -> tuple[str, ...]:
    try:
        return list_teams(workspace.images)
    except ConfigurationError:  # outside a checkout: any registry's image can be looked at all the same
        return ()
