"""JupyterHub's own KubeSpawner, without a hub and a cluster: the form it shows, and the pod it makes of what is chosen there."""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest


class Form(HTMLParser):
    """What a browser would send of the rendered form, and the text a person reads in it."""

    def __init__(self) -> None:
        super().__init__()
        self.profiles: list[str] = []
        self.selects: dict[str, list[str]] = {}
        self.text = ""
        self.tags: set[str] = set()
        self._select = ""
        self._hidden = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.tags.add(tag)
        self._hidden = tag in ("script", "style")
        if tag == "input" and known.get("name") == "profile":
            self.profiles.append(known["value"])
        elif tag == "select":
            self._select = known["name"]
            self.selects[self._select] = []
        elif tag == "option":
            self.selects[self._select].append(known["value"])

    def handle_endtag(self, tag: str) -> None:
        self._hidden = self._hidden and tag not in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


class Hub:
    """KubeSpawner with the chart's values: ``singleuser.profileList`` and ``singleuser.storage``, as the chart hands them on."""

    def __init__(self, singleuser: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        self._module: Any = importlib.import_module("kubespawner.spawner")
        # Both are asked for when a spawner is made; no test needs a cluster.
        monkeypatch.setattr(self._module, "load_config", lambda **_: None)
        monkeypatch.setattr(self._module, "shared_client", lambda *_: None)
        storage = singleuser.get("storage", {})
        self._settings = {
            "profile_list": singleuser["profileList"],
            "volumes": storage.get("extraVolumes", []),
            "volume_mounts": storage.get("extraVolumeMounts", []),
        }

    def _make(self) -> Any:
        return self._module.KubeSpawner(_mock=True, **self._settings)

    def read_form(self) -> Form:
        """The form as it is rendered."""
        form = Form()
        form.feed(asyncio.run(self._render()))
        return form

    async def _render(self) -> str:
        return str(await self._make().get_options_form())

    def list_choices(self) -> Iterator[dict[str, str]]:
        """Everything that the form can send: each profile alone, and with each combination of its options."""
        form = self.read_form()
        for profile in form.profiles:
            prefix = f"profile-option-{profile}--"
            options = {name: values for name, values in form.selects.items() if name.startswith(prefix)}
            yield {"profile": profile}
            for chosen in itertools.product(*options.values()):
                yield {"profile": profile, **dict(zip(options, chosen, strict=True))}

    def spawn(self, sent: dict[str, str]) -> dict[str, Any]:
        """The spec of the pod that is made of what a form sends."""
        return asyncio.run(self._spawn(sent))

    async def _spawn(self, sent: dict[str, str]) -> dict[str, Any]:
        client: Any = importlib.import_module("kubernetes_asyncio.client")
        spawner = self._make()
        spawner.user_options = spawner.options_from_form({name: [value] for name, value in sent.items()})
        await spawner.load_user_options()
        pod = await spawner.get_pod_manifest()
        async with client.ApiClient() as api:
            spec: dict[str, Any] = api.sanitize_for_serialization(pod)["spec"]
        return spec
