"""``imagebuild verify``: proof that an image is what it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import builder_option, common_options, json_option, platform_option, print_data, read_clock
from imagebuild.errors import UsageError

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("image", metavar="[TEAM|REF]", required=False, shell_complete=complete_teams)
@click.option("--rebuild", is_flag=True, help="Also build it again from the lock that travels with it, and compare digests.")
@click.option(
    "--first-frame",
    is_flag=True,
    help="Also read each added layer as readers do that stop at its first zstd frame (Kata's guest pull, older bootc).",
)
@click.option("--strict", is_flag=True, help="Fail for what cannot be checked.")
@platform_option
@click.option("--twin", metavar="TEAM", help="Instead: build TEAM's layer with both engines and compare them path by path.")
@builder_option
@json_option()
@common_options
def verify(
    workspace: Workspace,
    image: str | None,
    rebuild: bool,
    first_frame: bool,
    strict: bool,
    platform: str,
    twin: str | None,
    builder: str | None,
    as_json: bool,
) -> None:
    """Check a pushed image against its base, its lock and the rules for layers; exit 8 names each failed check.

    TEAM is the team's newest image in the target; REF is TEAM:TAG, TEAM@QUARTER, registry/repository:tag or @digest, or
    oci:FOLDER:REPOSITORY:TAG. Nothing is run and nothing unpacked; the image need not be ours.
    """
    if (image is None) == (twin is None):
        raise UsageError("name one image, or give --twin TEAM", "imagebuild verify TEAM, or imagebuild verify REPOSITORY:TAG")
    if twin is not None:
        _compare_twins(workspace, twin, builder, as_json)
        return
    assert image is not None
    from functools import partial

    from imagebuild.catalogue.lookup import find_named_image
    from imagebuild.check.verify.checks import VerifyRow, encode_verify_report, format_verify_report, verify_evidence
    from imagebuild.check.verify.evidence import gather_evidence
    from imagebuild.commands.smoke import find_planned_tag
    from imagebuild.oci.model import Platform
    from imagebuild.pipeline.rebuild import rebuild_image

    found = find_named_image(workspace, image, Platform.parse(platform), partial(find_planned_tag, workspace))
    evidence = gather_evidence(workspace, found)
    further = []
    if first_frame:
        from imagebuild.check.verify.firstframe import judge_first_frame

        seen = judge_first_frame(evidence)
        further.append(VerifyRow("first frame", seen.status, seen.text, seen.details))
    if rebuild:
        again = rebuild_image(workspace, evidence, builder=builder)
        further.append(VerifyRow("rebuild", again.status, again.text, again.details))
    report = verify_evidence(evidence, further)
    print_data(encode_verify_report(report) if as_json else format_verify_report(report), nl=False)
    report.raise_failures(strict=strict)


def _compare_twins(workspace: Workspace, team: str, builder: str | None, as_json: bool) -> None:
    import msgspec

    from imagebuild.check.verify.twin import require_twins
    from imagebuild.engine.options import DockerOptions
    from imagebuild.pipeline.building import build_twins
    from imagebuild.pipeline.planning import plan_twins
    from imagebuild.text import format_size

    workspace.prepare()
    with workspace.building(team):
        plan = plan_twins(workspace, team, cutoff=read_clock())
        found = build_twins(workspace, plan, DockerOptions(builder))
    if as_json:
        print_data(msgspec.json.format(msgspec.json.encode(found), indent=2))
    require_twins(found, team)
    if not as_json:
        print_data(
            f"{team}: both engines build the same layer: {found.files} files ({found.bytecode} of bytecode, {found.records} RECORDs), "
            f"{format_size(found.bytes)}, {found.folders} folders"
        )
