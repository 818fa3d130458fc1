"""``imagebuild verify``: proof that an image is what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.options import builder_option, common_options, print_data, read_clock

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.option("--twin", metavar="TEAM", required=True, help="Build TEAM's layer with both engines and compare them path by path.")
@builder_option
@click.option("--json", "as_json", is_flag=True, help="The figures and the first 50 differences as JSON.")
@common_options
def verify(workspace: Workspace, twin: str, builder: str | None, as_json: bool) -> None:
    """Prove that both engines build the same layer; exit 8 with the differences when they do not."""
    import msgspec

    from imagebuild import pipeline
    from imagebuild.check.twin import require_twins
    from imagebuild.config import format_size
    from imagebuild.files import exclusive

    workspace.prepare()
    with exclusive(workspace.state / f"image-{twin}.lock"):
        plan = pipeline.plan_image(workspace, twin, cutoff=read_clock(), engine="docker")
        report = pipeline.build_twins(workspace, plan, builder=builder)
    if as_json:
        print_data(msgspec.json.format(msgspec.json.encode(report), indent=2))
    require_twins(report, twin)
    if not as_json:
        print_data(
            f"{twin}: both engines build the same layer: {report.files} files ({report.bytecode} of bytecode, {report.records} RECORDs), "
            f"{format_size(report.bytes)}, {report.folders} folders"
        )
