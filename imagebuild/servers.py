"""The kinds of servers that an image starts, and all that differs between them: one row a kind."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Kind = Literal["jupyter", "vscode", "rstudio"]
KINDS: tuple[Kind, ...] = get_args(Kind)

PORT = 8888  # where Kubeflow serves every kind, and what an image is taken to serve on that does not say


class Probe(msgspec.Struct, frozen=True):
    """A path that answers 200 once the server is up; with ``key``, in JSON that has it."""

    path: str
    key: str = ""


class Server(msgspec.Struct, frozen=True):
    """One kind. ``prefixed``: it serves under NB_PREFIX itself; of another the gateway takes the prefix away."""

    kind: Kind
    title: str
    prefixed: bool
    probes: tuple[Probe, ...]
    form_key: str  # of Kubeflow's spawner_ui_config.yaml
    group: str  # notebooks.kubeflow.org/server-type
    workspace: str  # a WorkspaceKind's object, its port and its page, as upstream's samples name them
    root_header: str = ""  # the header that tells the server its own path


SERVERS: dict[Kind, Server] = {
    "jupyter": Server("jupyter", "JupyterLab", True, (Probe("/api", "version"), Probe("/lab")), "image", "jupyter", "jupyterlab"),
    "vscode": Server("vscode", "VS Code", False, (Probe("/healthz", "status"), Probe("/")), "imageGroupOne", "group-one", "codeserver"),
    "rstudio": Server("rstudio", "RStudio", False, (Probe("/"),), "imageGroupTwo", "group-two", "rstudio", "X-RStudio-Root-Path"),
}
