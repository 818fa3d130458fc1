"""``imagebuild doctor``: what this machine and configuration can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import common_options, json_option, print_data
from imagebuild.errors import ConfigurationError
from imagebuild.table import format_table

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@json_option()
@common_options
def doctor(workspace: Workspace, as_json: bool) -> None:
    """Check all that a build needs; exit 3 names the parts that the teams here need and that are missing."""
    import msgspec

    from imagebuild.diagnosis import diagnose

    findings = diagnose(workspace)
    if as_json:
        print_data(json.dumps(msgspec.to_builtins(findings), indent=2))
    else:
        rows = [(item.subject, item.status, item.text + (f" ({item.hint})" if item.hint else "")) for item in findings]
        print_data("\n".join(format_table(rows, least=(0, 7))))
    problems = [item.subject for item in findings if item.status == "problem"]
    if problems:
        raise ConfigurationError(f"{len(problems)} of {len(findings)} checks found a problem: {', '.join(problems)}", "see the lines above")
