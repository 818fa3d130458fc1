"""``imagebuild explain``: why a team's tag is what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from imagebuild.commands.completion import complete_teams
from imagebuild.commands.options import common_options, engine_option, json_option, print_data, read_clock

if TYPE_CHECKING:
    from imagebuild.workspace import Workspace


@click.command()
@click.argument("team", shell_complete=complete_teams)
@engine_option
@json_option()
@common_options
def explain(workspace: Workspace, team: str, engine: str | None, as_json: bool) -> None:
    """List the inputs that changed since TEAM's last image, which is why its tag differs."""
    import msgspec

    from imagebuild.catalogue.lookup import find_team_image
    from imagebuild.difference.addons import join_addons
    from imagebuild.difference.explanation import explain_recipe, format_explanation
    from imagebuild.pipeline.planning import plan_image
    from imagebuild.pipeline.sizesubject import find_image_lock
    from imagebuild.supply.referrers import read_image_addons, read_image_recipe

    plan = plan_image(workspace, team, cutoff=read_clock(), locked=True, engine=engine)
    last = find_team_image(workspace, team, prefer=lambda _: plan.recipe.tag)
    recipe = read_image_recipe(last.store, last.repository, last.digest) if last else None
    lock = find_image_lock(workspace, last) if last else None
    if last and lock is not None:
        lock = join_addons(lock, read_image_addons(last.store, last.repository, last.digest, recipe))
    found = explain_recipe(plan.recipe, join_addons(plan.lock, plan.addons), last, recipe, lock)
    if as_json:
        print_data(msgspec.json.format(msgspec.json.encode(found, order="sorted"), indent=2))
    else:
        print_data(format_explanation(found), nl=False)
