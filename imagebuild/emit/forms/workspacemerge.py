"""Our values in a WorkspaceKind that is there already: added, hidden, redirected; never removed, and what they start never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from imagebuild.emit.forms.offers import Offer
from imagebuild.emit.forms.workspacekind import (
    ID,
    describe_cpu,
    describe_filters,
    describe_image,
    describe_kind,
    describe_pictures,
    describe_pool,
    describe_proxy,
    list_variables,
    name_image,
)  # fmt: skip
from imagebuild.emit.manifest.merging import (
    EditedFile,
    append_items,
    drop_key,
    get_list,
    get_mapping,
    insert_items,
    keep_items,
    merge_items,
    set_value,
    strip_types,
)  # fmt: skip
from imagebuild.emit.manifest.schemas import WORKSPACE_KIND, check_shape
from imagebuild.emit.prewarm.pools import Pool
from imagebuild.errors import ConfigurationError
from imagebuild.servers import SERVERS, Server


def merge_workspace_kinds(
    file: EditedFile, offers: Sequence[Offer], pools: Sequence[Pool], *, namespace: str, team_label: str
) -> tuple[str, ...]:
    """Documents are found by name (jupyterlab, codeserver, rstudio); a kind that is not there is added behind them.

    Returns warnings: the values of ours whose image is in the registry no more.
    """
    found = {}
    warnings: list[str] = []
    for document in file.documents:
        if document.get("kind") == "WorkspaceKind":
            check_shape(document, WORKSPACE_KIND, file.name)
            found[str(document["metadata"].get("name"))] = document
    if not found:
        raise ConfigurationError(f"{file.name} has no WorkspaceKind", "leave --merge out for new ones")
    missing = []
    for server in SERVERS.values():
        own = [offer for offer in offers if offer.entry.kind == server.kind]
        if server.workspace in found:
            teams = {offer.entry.team for offer in offers}
            if own or _names_teams(found[server.workspace], teams):  # a team may have left for another kind of server
                gone = _merge_kind(found[server.workspace], server, own, teams, pools, team_label, f"{file.name}: {server.workspace}")
                if gone:
                    warnings.append(
                        f"{server.workspace}: the registry no longer has an image of {', '.join(gone)}; a workspace that has one "
                        "cannot start again"
                    )
        elif own:
            missing.append(server)
    if missing:
        from imagebuild.emit.manifest.yaml import convert_value

        _add_pictures(file, missing, namespace)
        for server in missing:
            file.documents.append(convert_value(describe_kind(server, offers, pools, namespace=namespace, team_label=team_label)))
    return tuple(warnings)


def _add_pictures(file: EditedFile, servers: Sequence[Server], namespace: str) -> None:
    from imagebuild.emit.manifest.yaml import convert_value

    pictures = describe_pictures(servers, namespace)
    for document in file.documents:
        metadata = document.get("metadata")
        if document.get("kind") != "ConfigMap" or not isinstance(metadata, dict):
            continue
        if metadata.get("name") == "imagebuild-icons" and metadata.get("namespace") == namespace:
            for name, picture in pictures["data"].items():
                set_value(get_mapping(document, "data", file.name), name, picture)
            return
    file.documents.append(convert_value(pictures))


def _names_teams(document: Any, teams: set[str]) -> bool:
    options = (document["spec"].get("podTemplate") or {}).get("options") or {}
    values = (options.get("imageConfig") or {}).get("values") or []
    return any(_find_team(value) in teams for value in values)


def _merge_kind(
    document: Any, server: Server, offers: Sequence[Offer], teams: set[str], pools: Sequence[Pool], team_label: str, where: str
) -> tuple[str, ...]:
    """``teams``: all that are listed, of other kinds of servers too. Returns the ids of our values that have no image any more."""
    spec = get_mapping(document, "spec", where)
    template = get_mapping(spec, "podTemplate", where)
    ports = get_list(template, "ports", where)
    if not any(isinstance(port, dict) and port.get("id") == server.workspace for port in ports):
        port = {"id": server.workspace, "defaultDisplayName": server.title, "protocol": "HTTP", "httpProxy": describe_proxy(server)}
        append_items(template, "ports", [port])
        if list_variables(server):
            get_list(template, "extraEnv", where)
            known = {variable.get("name") for variable in template["extraEnv"] if isinstance(variable, dict)}
            append_items(template, "extraEnv", [variable for variable in list_variables(server) if variable["name"] not in known])
    if team_label:
        _merge_filters(spec, describe_filters(offers, team_label), where)
    options = get_mapping(template, "options", where)
    images = get_mapping(options, "imageConfig", where)
    get_list(images, "values", where)
    gone = _merge_images(images, offers, teams, server)
    places = get_mapping(options, "podConfig", where)
    get_list(places, "values", where)
    _merge_pools(places, pools)
    return gone


def _merge_filters(spec: Any, rules: Sequence[dict[str, Any]], where: str) -> None:
    """A team's rule of ours is replaced; it is known by what it matches."""
    get_list(spec, "filterRules", where)
    mine = {_find_teams(rule): rule for rule in rules}
    present = {_find_teams(rule): strip_types(rule) for rule in spec["filterRules"]}
    stale = {teams for teams, rule in mine.items() if teams in present and present[teams] != rule}
    append_items(spec, "filterRules", [rule for teams, rule in mine.items() if teams not in present or teams in stale])
    wanted = list(mine.values())
    keep_items(spec, "filterRules", lambda rule: _find_teams(rule) not in stale or strip_types(rule) in wanted)


def _find_teams(rule: Any) -> str:
    """The team whose images a rule of ours hides; for others something that no team is called."""
    try:
        places, images = rule["match"]
        selector = places["matchNamespace"]["selector"]["matchExpressions"]
        team = images["matchImageConfig"]["selector"]["matchLabels"]["team"]
        if rule["scope"] == "IMAGE_CONFIG" and [item["operator"] for item in selector] == ["Exists", "NotIn"]:
            return str(team)
    except (KeyError, TypeError, ValueError):
        pass
    return f"({strip_types(rule)!r})"


def _merge_images(images: Any, offers: Sequence[Offer], teams: set[str], server: Server) -> tuple[str, ...]:
    """New values before those of ours that are there, the newest first. Returns the ids of our values that have no image any more."""
    gone = []
    present = {str(value["id"]): value for value in images["values"] if isinstance(value, dict) and "id" in value}
    wanted = {name_image(offer): describe_image(offer, offers, server) for offer in offers}
    current = {offer.entry.team: name_image(offer) for offer in offers if offer.standing == "current"}
    for name, value in present.items():
        if name in wanted:
            for key, said in wanted[name]["spawner"].items():
                set_value(get_mapping(value, "spawner", name), key, said)
            if "redirect" in wanted[name]:
                _set_redirect(value, wanted[name]["redirect"])
            else:
                drop_key(value, "redirect")
        elif (team := _find_team(value)) in teams:
            _retire_image(value, current.get(team, ""))
            gone.append(name)
    values = list(images["values"])
    first = next((number for number, value in enumerate(values) if isinstance(value, dict) and _find_team(value)), len(values))
    insert_items(images, "values", first, [value for name, value in wanted.items() if name not in present])
    _choose_default(images, current, teams)
    return tuple(gone)


def _retire_image(value: Any, successor: str) -> None:
    """An image of ours that the registry no longer has: also where a redirect to another one was written while it was there.

    ``successor``: empty where the team has no current image of this kind; a message needs a redirect, and that one a value to go to.
    """
    set_value(value["spawner"], "hidden", True)
    held = value.get("redirect")
    to = str(held["to"]) if isinstance(held, dict) and held.get("to") else successor
    if not to:
        return
    text = "This image is no longer in the registry: a workspace that is stopped cannot start again with it."
    _set_redirect(value, {"to": to, "message": {"level": "Danger", "text": text}})


def _set_redirect(value: Any, redirect: dict[str, Any]) -> None:
    if "redirect" in value or list(value)[-1] != "spec":
        set_value(value, "redirect", redirect)
        return
    held = value.pop("spec")  # a redirect stands before it, as upstream writes it
    set_value(value, "redirect", redirect)
    value["spec"] = held


def _find_team(value: Any) -> str:
    """The team of a value of ours: its id and its label say the same."""
    match = ID.fullmatch(str(value.get("id")))
    labels = (value.get("spawner") or {}).get("labels") or []
    said = {str(label.get("key")): str(label.get("value")) for label in labels if isinstance(label, dict)}
    return match["team"] if match and said.get("team") == match["team"] else ""


def _choose_default(images: Any, current: dict[str, str], teams: set[str]) -> None:
    """What is chosen beforehand stays, unless it is an image of ours that is hidden by now: then its team's current one, or any."""
    spawner = get_mapping(images, "spawner", "imageConfig")
    values = {str(value["id"]): value for value in images["values"] if isinstance(value, dict) and "id" in value}
    chosen = values.get(str(spawner.get("default")))
    if chosen is None:
        set_value(spawner, "default", next(iter(current.values()), next(iter(values), "")))
    elif chosen["spawner"].get("hidden") and _find_team(chosen) in teams:
        shown = [name for name, value in values.items() if not value["spawner"].get("hidden")]
        set_value(spawner, "default", next(iter([*filter(None, [current.get(_find_team(chosen))]), *shown]), str(chosen["id"])))


def _merge_pools(places: Any, pools: Sequence[Pool]) -> None:
    """A pool that says something else by now is another value; the one before is hidden and redirects to it."""
    wanted = {value["id"]: value for value in map(describe_pool, pools)}
    names = {pool.name: value_id for pool, value_id in zip(pools, wanted, strict=True)}
    values = [value for value in places["values"] if isinstance(value, dict) and "id" in value]
    for value in values:
        name = str(value["id"])
        match = ID.fullmatch(name)
        if name in wanted:
            drop_key(value, "redirect")
        elif match and match["team"] in names and _labels_pool(value, match["team"]):
            set_value(value["spawner"], "hidden", True)
            after = wanted[names[match["team"]]]
            text = f"The pool has changed: {after['spawner']['description']}"
            _set_redirect(value, {"to": after["id"], "message": {"level": "Info", "text": text[:1024]}})
    present = {str(value["id"]) for value in values}
    merge_items(places, "values", [{"id": name, "spawner": wanted[name]["spawner"]} for name in wanted if name in present], "id")
    fresh = [value for name, value in wanted.items() if name not in present]
    append_items(places, "values", [*([] if present else [describe_cpu()]), *fresh])
    spawner = get_mapping(places, "spawner", "podConfig")
    known = {str(value["id"]): value for value in places["values"] if isinstance(value, dict) and "id" in value}
    chosen = str(spawner.get("default"))
    if chosen not in known:
        set_value(spawner, "default", next(iter(known)))
    elif known[chosen].get("redirect") and (match := ID.fullmatch(chosen)) and match["team"] in names:
        set_value(spawner, "default", names[match["team"]])


def _labels_pool(value: Any, pool: str) -> bool:
    labels = (value.get("spawner") or {}).get("labels") or []
    return any(isinstance(label, dict) and label.get("key") == "pool" and label.get("value") == pool for label in labels)
